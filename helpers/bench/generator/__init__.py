"""The load generator: a program of its own, which starts in a moment and imports nothing heavy (notebook 08).

From the outside in: :mod:`measuring` (one load from its first request to its files), :mod:`client` (its connections
and runs), :mod:`loop` (one run), :mod:`exchange` (one request), :mod:`connection` (bytes and when they came). What
they say is read afterwards: :mod:`framing` (HTTP), :mod:`events` and :mod:`answer`.
"""
