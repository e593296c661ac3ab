"""The workshop's helpers: small modules that the notebooks import one at a time.

Importing this package imports nothing else, so that a notebook's first cell answers at once. Heavy
libraries (torch, transformers, openvino, matplotlib) are imported inside the functions that use them.
"""

__version__ = "0.1.0"
