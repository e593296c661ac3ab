"""Serving an engine behind an HTTP API: start it, see what it does, end it (notebook 07).

On a GPU the server is ``trtllm-serve``; on a CPU it is :mod:`helpers.serving.app`, with the same surface.
"""

from helpers.serving.endpoint import Command, Endpoint, endpoints, start, stop_all
from helpers.serving.status import Activity, Status

__all__ = ["Activity", "Command", "Endpoint", "Status", "endpoints", "start", "stop_all"]
