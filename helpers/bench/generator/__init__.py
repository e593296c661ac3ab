"""The load generator: a program of its own, which starts in a moment and imports nothing heavy (notebook 08).

From the outside in: :mod:`measuring` (one load from its first request to its files), :mod:`client` (the loop),
:mod:`exchange` (one request), :mod:`connection` (bytes and when they came), :mod:`wire` (what they say).
"""
