"""Where a benchmark's requests go: the server's address, the model's name and the key (notebook 08)."""

import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from helpers.bench.load import CHAT, COMPLETIONS
from helpers.errors import WorkshopError

KEY_VARIABLE = "OPENAI_API_KEY"
_TOLD = 6  # characters of a key's beginning that tell nothing
_PATHS = {COMPLETIONS: "/completions", CHAT: "/chat/completions"}
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Target:
    """A server, as a value; the key is in no text of it.

    Attributes:
        host, port: where it listens.
        tls: True for ``https``.
        base: path of the API without a slash at its end, such as ``/v1``.
        model: what requests ask for; empty until it is known.
        key: sent as a bearer token; empty for none.
        insecure: True takes any certificate.
        key_variable: the variable of the environment that the key was looked for in.
    """

    host: str
    port: int
    tls: bool = False
    base: str = "/v1"
    model: str = ""
    key: str = field(default="", repr=False)
    insecure: bool = False
    key_variable: str = KEY_VARIABLE

    @classmethod
    def of(cls, url: str, model: str = "", key_variable: str = KEY_VARIABLE, insecure: bool = False) -> "Target":
        """A server by its address, with or without ``/v1``; the key comes from the environment only.

        Raises:
            WorkshopError: no such address, or one with a password in it.
        """
        url = url.strip()
        try:
            parts = urlsplit(url if "//" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urlsplit(""), None, None
        if parts.scheme not in _PORTS or not host:
            raise WorkshopError(
                f"{_shown(url)!r} is no address of a server. Give one such as http://127.0.0.1:8000/v1."
            )
        if parts.username or parts.password:
            raise WorkshopError(
                f"The address of {host} has a user name or password in it, which logs and results would keep. Leave it "
                f"out, and put the server's key into the environment variable {key_variable}."
            )
        key = os.environ.get(key_variable, "").strip()
        if not key.isascii() or not key.isprintable():
            raise WorkshopError(f"The key in {key_variable} has characters that no key has. Set it anew.")
        base = parts.path.rstrip("/")
        for path in sorted(_PATHS.values(), key=len, reverse=True):
            base = base.removesuffix(path)
        port, tls = port or _PORTS[parts.scheme], parts.scheme == "https"
        return cls(host, port, tls, base or "/v1", model, key, insecure, key_variable)

    @property
    def url(self) -> str:
        """The address of the API."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS["https" if self.tls else "http"] else f":{self.port}"
        return f"http{'s' if self.tls else ''}://{host}{port}{self.base}"

    def path(self, api: str) -> str:
        """Where requests of ``completions`` or ``chat`` go."""
        return self.base + _PATHS[api]

    def told(self) -> dict[str, Any]:
        """What results keep of it: no key."""
        return {"url": self.url, "model": self.model, "tls": self.tls}

    @property
    def key_advice(self) -> str:
        """What to do where the server refuses the key, or misses one."""
        if not self.key:
            return f"The environment variable {self.key_variable} is empty: put the server's key into it."
        return f"The server does not take the key in the environment variable {self.key_variable}: set it anew."

    def without_key(self, text: str) -> str:
        """A text of the server, which may repeat the key that it was sent, or the beginning of it where it was cut."""
        for size in range(len(self.key), min(_TOLD, len(self.key)) - 1, -1):
            text = text.replace(self.key[:size], "(the key)") if size else text
        return text

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """One HTTP request, head and body."""
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {f'[{self.host}]' if ':' in self.host else self.host}:{self.port}",
            "User-Agent: trtllm-workshop-bench",
            "Accept: text/event-stream, application/json",
        ]
        if self.key:
            lines.append(f"Authorization: Bearer {self.key}")
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def _shown(url: str) -> str:
    """An address that could not be read, without what might be a password in it."""
    return url.rsplit("@", 1)[-1][:200]
