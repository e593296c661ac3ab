"""One streamed answer of a served engine, read in a thread of its own: its text, and how fast it comes (notebook 07).

The request goes through the official ``openai`` client. Times follow the definitions of notebook 08: TTFT counts from
the last byte of the request to the first chunk that carries text, so neither an empty chunk with a role nor a comment
line that keeps the connection open is taken for a token. Tokens are counted by the server (``usage``), not by chunks.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from helpers.errors import WorkshopError
from helpers.serving.reply import COUNTS, INTERRUPTED, Asked, ChatError, Reply


class Endpoint(Protocol):
    """A server to ask. What else it has is used where it is there: ``title``, ``engine``, ``status()``."""

    @property
    def url(self) -> str:
        """Where the server's routes begin, such as ``http://127.0.0.1:8000/v1``."""

    @property
    def model(self) -> str:
        """The name that the server gives its model."""


def title(endpoint: Endpoint) -> str:
    """What a person calls the endpoint: its own title, its engine's, or the model's name."""
    own = getattr(endpoint, "title", "") or getattr(getattr(endpoint, "engine", None), "title", "")
    return str(own or endpoint.model)


def _of_engine(endpoint: Endpoint, name: str) -> str:
    """What an endpoint's engine says of itself; empty for an endpoint that is only an address."""
    return str(getattr(getattr(endpoint, "engine", None), name, ""))


class _EventError(Exception):
    """The server told of an error inside a stream, in its own words."""


class _CutOffError(Exception):
    """The stream ended before the server said that the answer has."""


class Exchange:
    """A question underway, in a daemon thread with an event loop of its own; it neither blocks nor outlives a kernel.

    An event loop, because only a task that waits can be cancelled at any moment: while it connects, while the request
    waits in the server's queue, and between two tokens. Cancelling closes the connection, which frees the server's
    slot.
    """

    def __init__(self, endpoint: Endpoint, asked: Asked, clock: Callable[[], float] = time.perf_counter) -> None:
        self.endpoint, self.asked = endpoint, asked
        self.failure: BaseException | None = None
        self._clock = clock
        self._pieces: list[str] = []
        self._sent = self._first = self._last = None  # type: float | None
        self._tokens: int | None = None
        self._first_tokens = 1
        self._turn = self._first_turn = 0
        self._prompt_tokens = 0
        self._finish = self._ended = ""
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name="workshop-chat", daemon=True)

    def start(self) -> "Exchange":
        """Send the question; returns at once."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Break the answer off and close the connection; what has come is kept. Does nothing once it has ended."""
        self._stopping = True
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):  # the loop has closed in between: it has ended by itself
                self._loop.call_soon_threadsafe(self._task.cancel)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it has ended, for at most some seconds; True if it has."""
        return self._done.wait(seconds)

    def reply(self) -> Reply:
        """What has come so far."""
        asked, now = self.asked, self._clock()
        text, chunks, tokens = "".join(self._pieces), len(self._pieces), self._tokens
        until = (self._last or now) if self._ended else now
        return Reply(
            prompt=asked.question,
            text=text,
            tokens=chunks if tokens is None else tokens,
            chunks=chunks,
            ttft=None if self._first is None or self._sent is None else self._first - self._sent,
            seconds=0.0 if self._sent is None else until - self._sent,
            finish=self._finish,
            ended=self._ended,
            model=self.endpoint.model,
            engine=title(self.endpoint),
            prompt_tokens=self._prompt_tokens,
            counted=tokens is not None or not chunks,
            chat=asked.chat,
            first_tokens=self._first_tokens,
            toolchain=_of_engine(self.endpoint, "toolchain"),
            precision=_of_engine(self.endpoint, "precision"),
        )

    def result(self) -> Reply:
        """The answer, once it has ended.

        Raises:
            ChatError: there is no whole answer, and nobody stopped it.
        """
        self.wait()
        if self.failure is not None:
            raise self.failure
        return self.reply()

    def _work(self) -> None:
        try:
            asyncio.run(self._converse())
        except BaseException as problem:  # whoever waits for the result is told
            self.failure = problem
        finally:
            self._done.set()

    async def _converse(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            if not self._stopping:  # stop() may have come before there was a task to cancel
                await self._stream()
            self._ended = self._ending() if self._finish else INTERRUPTED
        except asyncio.CancelledError:
            self._ended = INTERRUPTED
        except Exception as problem:
            said, self._ended, code = _told(problem, self.reply(), self.endpoint, self.asked.time_limit)
            self.failure = ChatError(said, self.reply(), code)

    def _ending(self) -> str:
        """Why the answer ended, in words."""
        if self._finish != "length":
            return "its end-of-sequence token" if self._finish == "stop" else f"the server's {self._finish!r}"
        if self._tokens is None or self._tokens >= self.asked.max_tokens:
            return f"the limit of {self.asked.max_tokens} tokens"
        return "the engine's longest sequence"

    async def _stream(self) -> None:
        async with _client(self.endpoint.url, self.asked.time_limit, self._note_sent) as client:
            stream = await self._open(client)
            async with stream:
                async for chunk in stream:
                    try:
                        self._take(chunk)
                    except (AttributeError, TypeError) as odd:
                        raise ValueError(f"an event is not as an answer's are ({odd})") from None
        if not self._finish:
            raise _CutOffError

    async def _note_sent(self) -> None:
        self._sent = self._clock()

    async def _open(self, client: Any) -> Any:
        """Send the request and return its stream; without counts in every chunk where the server does not know them."""
        import openai

        route = client.chat.completions if self.asked.chat else client.completions
        request = self.asked.request(self.endpoint.model)
        try:
            return await route.create(**request)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as problem:
            if COUNTS not in str(problem):
                raise
            return await route.create(**request | {"stream_options": {"include_usage": True}})

    def _take(self, chunk: Any) -> None:
        """Keep what one chunk carries."""
        if getattr(chunk, "object", "") == "error":
            raise _EventError(str(getattr(chunk, "message", "") or "no message"))
        usage = getattr(chunk, "usage", None)
        grown = usage is not None and (usage.completion_tokens or 0) > (self._tokens or 0)
        if usage is not None:
            self._tokens, self._prompt_tokens = usage.completion_tokens or 0, usage.prompt_tokens or 0
        for choice in chunk.choices or []:
            piece = (choice.delta.content if self.asked.chat else choice.text) or ""
            if piece:
                self._keep(piece)
            elif grown:
                self._last = self._clock()  # a token without a text, such as the end-of-sequence token
            self._finish = choice.finish_reason or self._finish

    def _keep(self, piece: str) -> None:
        """Keep a piece of the text, its time, and how many tokens came with the first read.

        Pieces that come without a turn of the event loop between them were read at once: the loop turns to wait for
        more bytes, and only then.
        """
        self._last = self._clock()
        self._pieces.append(piece)
        if self._first is None:
            self._first, self._first_turn = self._last, self._turn
        if self._turn == self._first_turn and len(self._pieces) > 1:
            self._first_tokens = self._tokens or len(self._pieces)
        asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._turn += 1


def _client(url: str, time_limit: float, sent: Callable[[], Any]) -> Any:
    """The official client, which calls ``sent`` when a request's last byte is written.

    It asks once only, since a retry would hide in the TTFT, and it goes to this machine's own address directly, even
    where the environment names a proxy for the world outside.
    """
    from urllib.parse import urlsplit

    import openai

    async def trace(event: str, _: Any) -> None:
        if event.endswith("send_request_body.complete"):
            await sent()

    async def hook(request: Any) -> None:
        request.extensions["trace"] = trace

    parts = urlsplit(url)
    local = parts.hostname in ("localhost", "::1") or (parts.hostname or "").startswith("127.")
    http = openai.DefaultAsyncHttpxClient(
        trust_env=not local,
        verify=parts.scheme == "https",  # reading the certificates takes 0.1 s that nothing needs without TLS
        event_hooks={"request": [hook]},
    )
    # A server of this workshop asks for no key; the client insists on one, and would take the environment's.
    return openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=time_limit, http_client=http)


def _told(problem: Exception, reply: Reply, endpoint: Endpoint, time_limit: float) -> tuple[str, str, int | None]:
    """What happened and what to do about it, what ended the answer in a few words, and the HTTP status if any."""
    import openai

    name, come = reply.engine, f"after {reply.amount}" if reply.chunks else "before its first token"
    kept = " What had come is in the error's `reply`." if reply.chunks else ""
    again = "Start it again with endpoint.restart()." if hasattr(endpoint, "restart") else "See that the server runs."
    if isinstance(problem, openai.APITimeoutError):
        said = f"{name} sent nothing for {time_limit:g} s, {come}."
        return f"{said} {_status(endpoint)}Ask again with a larger time_limit.{kept}", "its time limit", None
    if isinstance(problem, openai.APIStatusError):
        return _refusal(problem, name), f"a refusal ({problem.status_code})", problem.status_code
    if isinstance(problem, openai.APIConnectionError) and not reply.seconds:
        return f"No server answers at {endpoint.url}. {_status(endpoint)}{again}", "no server", None
    if isinstance(problem, _CutOffError | openai.APIConnectionError):
        said = f"The stream of {name} broke off {come}: the server closed it before the answer's end."
        return f"{said} {_status(endpoint)}{again}{kept}", "a broken stream", None
    if isinstance(problem, _EventError | openai.APIError):
        words = str(problem).strip().rstrip(".")
        return f"{name} told of an error {come}: {words}. {_status(endpoint)}{again}{kept}", "an error", None
    if isinstance(problem, ValueError):  # JSON or text that cannot be read
        said = f"{name} sent something that is no event of an OpenAI-compatible server, {come}: {problem}."
        return (
            f"{said} See that {endpoint.url} is the address of such a server and ends in /v1.{kept}",
            "nonsense",
            None,
        )
    what = " ".join(str(problem).split()) or type(problem).__name__
    return f"{name} cannot be asked: {what[:200]}. See that {endpoint.url} is right.{kept}", "a failure", None


def _refusal(problem: Any, name: str) -> str:
    """The server's own message, and what to do about it."""
    body = problem.body if isinstance(problem.body, dict) else {}
    message = str(body.get("message") or problem.response.text.strip() or "no message").rstrip(".")
    advice = {
        400: "Change what the message names; a conversation that is too long has to be shortened or begun anew.",
        404: "See that the endpoint's address ends in /v1 and that its model is the one that the server names.",
        413: "Shorten the prompt.",
        429: "It has as many requests as it takes: ask again when some have ended.",
    }
    doing = advice.get(problem.status_code, "The server's log says more; ask again, or start it again.")
    return f"{name} refused the request ({problem.status_code}): {message}. {doing}"


def _status(endpoint: Endpoint) -> str:
    """A sentence with what the endpoint says of itself; empty where it says nothing."""
    ask = getattr(endpoint, "status", None)
    if not callable(ask):
        return ""
    try:
        status = ask()
        for _ in range(5):  # a server that was killed is still being cleared away: its end is known a moment later
            if getattr(status, "state", "") != "not answering":
                break
            time.sleep(0.2)
            status = ask()
    except WorkshopError as problem:
        return f"{problem} "
    said = str(getattr(status, "state", "") or status).strip().splitlines()
    return f"Its status: {said[0].rstrip('.')}. " if said else ""
