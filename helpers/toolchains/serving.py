"""How an engine is put behind an API: what the server is told, and the command that starts it (notebook 07).

Each toolchain turns :class:`ServeOptions` into its own :class:`ServeCommand`; :mod:`helpers.serving` starts it, waits
until it answers, and ends it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from helpers.memory import KV_SHARE
from helpers.toolchains.sizes import Sizes

LOCAL = "127.0.0.1"
PORT = 8000
RUN = "{run}"
"""In a command: the folder that the server's files, such as its settings, are written into before it starts."""


@dataclass(frozen=True)
class ServeOptions:
    """What a server is told beside its engine.

    Attributes:
        sizes: at most those that the engine was built for.
        host: the address to listen on; only this machine reaches the default.
        port: the port to listen on.
        kv_share: of the memory that is free beside the engine, what the KV cache takes (on a GPU).
        kv_tokens: tokens that the KV cache holds (on a CPU); None for a full batch of full-length requests.
        chunked_prefill: read long prompts in chunks, over several steps.
        max_queue: requests that may wait before more are refused (the CPU server only).
    """

    sizes: Sizes
    host: str = LOCAL
    port: int = PORT
    kv_share: float = KV_SHARE
    kv_tokens: int | None = None
    chunked_prefill: bool = False
    max_queue: int = 256


@dataclass(frozen=True)
class ServeCommand:
    """What starts a server.

    Attributes:
        command: program and arguments; :data:`RUN` stands for the folder of :attr:`files`.
        model: the name that the server gives its model: the last part of the engine's path.
        environment: all of its variables; None for this process's own.
        files: name to content, to be written before it starts.
        notes: what a person should know, a sentence each.
    """

    command: list[str]
    model: str
    environment: Mapping[str, str] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
