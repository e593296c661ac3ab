"""An answer that is an error, in the shape that ``trtllm-serve`` gives errors. Light to import: start-up needs it."""

from typing import Any

KINDS = {
    400: "BadRequestError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    413: "RequestTooLargeError",
    429: "TooManyRequestsError",
    503: "ServiceUnavailableError",
}
"""The errors' ``type`` by status; the first is ``trtllm-serve``'s own, the others are named after it."""


class Refusal(Exception):
    """An answer that is an error.

    Args:
        message: for the person who reads it.
        status: of the HTTP answer.
        headers: further ones.
    """

    def __init__(self, message: str, status: int = 400, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.headers = message, status, headers or {}

    @property
    def content(self) -> dict[str, Any]:
        """The error as ``trtllm-serve`` writes it: flat, not inside ``error`` as OpenAI's own."""
        kind = KINDS.get(self.status, "InternalServerError")
        return {"object": "error", "message": self.message, "type": kind, "param": None, "code": self.status}
