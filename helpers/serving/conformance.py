"""Does a server answer as ``trtllm-serve`` does? One suite for the CPU server and for a pod's (notebook 07).

``python -m helpers conformance URL`` runs it. Each check says whose promise it looks at: the surface of
``trtllm-serve`` 1.2, or what the CPU server adds (``ours``).
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from helpers.cards import ShownAsTable, Table, seconds_text
from helpers.errors import WorkshopError
from helpers.toolchains.generation import shared_beginning

if TYPE_CHECKING:
    import httpx

TRTLLM, OURS = "trtllm-serve", "ours"
PASSED, FAILED, OPEN = "passed", "FAILED", "not seen"

PROMPTS = (
    "The weather today",
    "Born in north-east France, the painter",
    "A bridge of stone",
    "In the year 1900 the railway",
    "My grandmother used to bake",
    "The museum opens at nine",
    "Water boils when",
    "Two ships left the harbour",
)
"""Different enough that their answers differ."""

_TOKENS = 24  # in an answer: any engine has room for a prompt and so many
_OVER_LONG = 150_000  # words in the prompt that no engine takes
_MOST_STREAMS = 700  # opened to fill a queue; a server that takes all of them has none
_LOCAL = ("127.0.0.1", "localhost", "::1")


def cut(text: str, most: int = 120) -> str:
    """A text in at most so many characters, on one line; what is too long ends at a word, with an ellipsis."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    whole = line[:most].rpartition(" ")[0]  # the last word may be cut: it goes
    return f"{(whole if len(whole) > most // 2 else line[: most - 1]).rstrip(' ,.;:')}…"


def duration(seconds: float) -> str:
    """A time as a person reads it, such as ``34 ms`` or ``2.6 s``."""
    return f"{seconds * 1000:,.0f} ms" if seconds < 0.9995 else seconds_text(seconds)


class Failure(Exception):
    """What a check found that is not as it should be."""


class NotSeen(Exception):
    """What kept a check from seeing anything."""


@dataclass(frozen=True)
class Result:
    """What one check found.

    Attributes:
        check: what must hold.
        surface: whose promise it is: :data:`TRTLLM` or :data:`OURS`.
        outcome: :data:`PASSED`, :data:`FAILED` or :data:`OPEN`.
        found: what was found.
    """

    check: str
    surface: str
    outcome: str
    found: str


@dataclass(frozen=True, repr=False)
class Report(ShownAsTable):
    """What every check found; shows itself as a table.

    Attributes:
        url: of the server.
        results: in the order of the checks.
        seconds: that all of them took.
        asked: which server it was, as that says of itself.
        real: True if that is ``trtllm-serve``.
    """

    url: str
    results: tuple[Result, ...]
    seconds: float = 0.0
    asked: str = "a server that does not say what it is"
    real: bool = False

    @property
    def failed(self) -> tuple[Result, ...]:
        """Those that did not hold."""
        return tuple(one for one in self.results if one.outcome == FAILED)

    @property
    def ok(self) -> bool:
        """True if nothing failed."""
        return not self.failed

    @property
    def sentence(self) -> str:
        """The outcome, counted, and who was asked."""
        counts = {outcome: sum(one.outcome == outcome for one in self.results) for outcome in (PASSED, FAILED, OPEN)}
        text = f"{counts[PASSED]} of {len(self.results)} checks passed in {duration(self.seconds)}"
        text += f", {counts[FAILED]} failed" if counts[FAILED] else ", none failed"
        text += f", {counts[OPEN]} could not be seen." if counts[OPEN] else "."
        return f"{text} Asked: {self.asked}.{'' if self.real else ' No trtllm-serve was asked.'}"

    def table(self) -> Table:
        """One row a check."""
        rows = [(one.check, one.surface, one.outcome, one.found) for one in self.results]
        return Table(("check", "rule of", "result", "found"), rows, f"Conformance of {self.url}", self.sentence)


@dataclass
class Server:
    """The server that is looked at, and what was found out about it.

    Attributes:
        url: without ``/v1``.
        client: has the time limit.
        model: the name that it gives its model.
        greedy: prompt to its answer at temperature 0.
    """

    url: str
    client: "httpx.Client"
    model: str = ""
    greedy: dict[str, str] = field(default_factory=dict)

    def body(self, prompt: str = PROMPTS[0], **more: Any) -> dict[str, Any]:
        """A request for a greedy completion of a known length."""
        asked = {"model": self.model, "prompt": prompt, "max_tokens": _TOKENS, "temperature": 0, "ignore_eos": True}
        return {name: value for name, value in {**asked, **more}.items() if value is not ...}

    def chat_body(self, prompt: str = PROMPTS[0], **more: Any) -> dict[str, Any]:
        """The same as a conversation of one message."""
        return self.body(prompt=..., messages=[{"role": "user", "content": prompt}], **more)  # type: ignore[arg-type]

    def post(self, body: Any, path: str = "/v1/completions") -> "httpx.Response":
        """Ask, whatever comes."""
        return self.client.post(f"{self.url}{path}", json=body)

    def whole(self, body: Any, path: str = "/v1/completions") -> dict[str, Any]:
        """Ask for an answer in one piece.

        Raises:
            Failure: it is none.
        """
        return as_object(require_status(self.post(body, path), 200))

    def completion(self, prompt: str = PROMPTS[0], **more: Any) -> tuple[str, str, int]:
        """Text, finish reason and tokens of a completion."""
        answer = self.whole(self.body(prompt, **more))
        choice = only_choice(answer)
        return str(choice["text"]), str(choice["finish_reason"]), int(usage_of(answer)["completion_tokens"])

    def greedy_text(self, prompt: str) -> str:
        """The answer to a prompt alone, at temperature 0; asked once."""
        if prompt not in self.greedy:
            self.greedy[prompt] = self.completion(prompt)[0]
        return self.greedy[prompt]

    def events(self, body: Any, path: str = "/v1/completions") -> list[dict[str, Any]]:
        """Ask for a stream, and give the objects of its events.

        Raises:
            Failure: it is not framed as server-sent events, or does not end with ``[DONE]``.
        """
        with self.client.stream("POST", f"{self.url}{path}", json={**body, "stream": True}) as answer:
            data = b"".join(answer.iter_raw())
            require_status(answer, 200, data)
            return unframed(data, answer.headers.get("content-type", ""))

    def healthy(self) -> None:
        """Raises Failure unless ``/health`` says 200 and a completion comes."""
        require_status(self.client.get(f"{self.url}/health"), 200)
        self.whole(self.body(max_tokens=1))


def unframed(data: bytes, content_type: str) -> list[dict[str, Any]]:
    """The objects in a stream of server-sent events.

    Raises:
        Failure: wrong type, a line that is neither data nor a comment, no blank line after an event, no ``[DONE]``.
    """
    if not content_type.lower().startswith("text/event-stream"):
        raise Failure(f"the stream's content type is {content_type!r}")
    text = data.decode()
    if not text.replace("\r\n", "\n").endswith("\n\n"):
        raise Failure("the stream does not end with a blank line")
    told = []
    for event in text.replace("\r\n", "\n")[:-2].split("\n\n"):
        lines = [line for line in event.split("\n") if not line.startswith(":")]
        if len(lines) > 1 or any(not line.startswith("data: ") for line in lines):
            raise Failure(f"not one line of data and a blank line: {cut(event, 80)!r}")
        told += [line.removeprefix("data: ") for line in lines]
    if not told or told[-1] != "[DONE]" or told.count("[DONE]") != 1:
        raise Failure("the stream does not end with exactly one [DONE]")
    try:
        return [json.loads(one) for one in told[:-1]]
    except ValueError:
        raise Failure("an event is no JSON") from None


def require_status(answer: "httpx.Response", wanted: int, data: bytes | None = None) -> "httpx.Response":
    """Raises Failure for another status, with what the answer says."""
    if answer.status_code != wanted:
        said = cut((answer.content if data is None else data).decode(errors="replace"), 160)
        raise Failure(f"{answer.status_code}, not {wanted}: {said}")
    return answer


def as_object(answer: "httpx.Response") -> dict[str, Any]:
    """Raises Failure for an answer that is no JSON object."""
    try:
        told = answer.json()
    except ValueError:
        raise Failure(f"no JSON: {cut(answer.text, 80)!r}") from None
    require(isinstance(told, dict), f"no JSON object: {cut(str(told), 80)}")
    return dict(told)


def require(holds: bool, otherwise: str) -> None:
    """Raises Failure where something does not hold."""
    if not holds:
        raise Failure(otherwise)


def only_choice(answer: dict[str, Any]) -> dict[str, Any]:
    """The one choice of an answer."""
    choices = answer.get("choices")
    require(isinstance(choices, list) and len(choices) == 1, f"choices: {cut(str(choices), 80)}")
    return dict(answer["choices"][0])


def usage_of(answer: dict[str, Any]) -> dict[str, int]:
    """The usage of an answer, which must add up."""
    usage = answer.get("usage")
    require(isinstance(usage, dict), f"usage: {usage}")
    assert isinstance(usage, dict)
    parts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    numbers = [part for part in parts if isinstance(part, int)]
    require(len(numbers) == 3 and numbers[0] + numbers[1] == numbers[2], f"usage: {usage}")
    return usage


def require_flat_error(answer: "httpx.Response", status: int) -> str:
    """Raises Failure unless an answer is an error in ``trtllm-serve``'s flat shape; gives its message."""
    told = as_object(require_status(answer, status))
    if set(told) == {"error"} and isinstance(told["error"], str):
        # Of two copies of openai_server.py, both without a tag, one writes this for a body that fails its checks.
        return f"{told['error']} (in the shape {{'error': text}})"
    missing = {"object", "message", "type", "code"} - told.keys()
    require(not missing, f"the error lacks {', '.join(sorted(missing))}: {cut(str(told))}")
    require(told["object"] == "error" and told["code"] == status, f"object {told['object']!r}, code {told['code']!r}")
    return str(told["message"])


# --- The checks -------------------------------------------------------------------

Check = Callable[[Server], str]
CHECKS: list[tuple[str, str, Check]] = []


def check(text: str, surface: str = TRTLLM) -> Callable[[Check], Check]:
    """Add a function to the suite: it gives what it found, or raises Failure or NotSeen."""

    def add(function: Check) -> Check:
        CHECKS.append((text, surface, function))
        return function

    return add


@check("GET /health is 200 and empty")
def _health(server: Server) -> str:
    answer = require_status(server.client.get(f"{server.url}/health"), 200)
    require(answer.content == b"", f"a body of {len(answer.content):,} bytes")
    return "200, no body"


@check("GET /version names a version")
def _version(server: Server) -> str:
    told = as_object(require_status(server.client.get(f"{server.url}/version"), 200))
    require(bool(told.get("version")), f"{told}")
    return str(told["version"])


@check("GET /v1/models lists the model")
def _models(server: Server) -> str:
    told = as_object(require_status(server.client.get(f"{server.url}/v1/models"), 200))
    require(told.get("object") == "list" and bool(told.get("data")), f"{cut(str(told), 80)}")
    require(all(one.get("object") == "model" and one.get("id") for one in told["data"]), f"{cut(str(told))}")
    return ", ".join(str(one["id"]) for one in told["data"])


@check("a completion has text, a reason and usage")
def _completion(server: Server) -> str:
    answer = server.whole(server.body())
    choice = only_choice(answer)
    require(answer.get("object") == "text_completion", f"object: {answer.get('object')!r}")
    require(bool(answer.get("id")) and answer.get("model") == server.model, f"model: {answer.get('model')!r}")
    require(isinstance(choice.get("text"), str) and choice["text"] != "", f"text: {choice.get('text')!r}")
    return f"{usage_of(answer)['completion_tokens']} tokens, {choice['finish_reason']}"


@check("a streamed completion is the same text, framed as server-sent events, with [DONE] at its end")
def _completion_stream(server: Server) -> str:
    events = server.events(server.body())
    require(len({one.get("id") for one in events}) == 1, "the id changes within a stream")
    text = "".join(one["choices"][0]["text"] for one in events if one.get("choices"))
    require(text == server.greedy_text(PROMPTS[0]), f"another text: {cut(text, 60)!r}")
    reasons = [one["choices"][0].get("finish_reason") for one in events if one.get("choices")]
    require(reasons[-1] == "length" and not any(reasons[:-1]), f"reasons: {reasons[-3:]}")
    return f"{len(events)} events"


@check("a chat answers as the assistant")
def _chat(server: Server) -> str:
    answer = server.whole(server.chat_body(), "/v1/chat/completions")
    choice = only_choice(answer)
    require(answer.get("object") == "chat.completion", f"object: {answer.get('object')!r}")
    message = choice.get("message") or {}
    require(message.get("role") == "assistant" and bool(message.get("content")), f"message: {message}")
    return f"{usage_of(answer)['completion_tokens']} tokens, {choice['finish_reason']}"


@check("a streamed chat is the same text, its first event names the role")
def _chat_stream(server: Server) -> str:
    events = server.events(server.chat_body(), "/v1/chat/completions")
    parts = [one["choices"][0]["delta"] for one in events if one.get("choices")]
    require(events[0].get("object") == "chat.completion.chunk", f"object: {events[0].get('object')!r}")
    require(parts[0].get("role") == "assistant", f"first event: {parts[0]}")
    text = "".join(part.get("content") or "" for part in parts)
    whole = only_choice(server.whole(server.chat_body(), "/v1/chat/completions"))["message"]["content"]
    require(text == whole, f"{cut(text, 40)!r} streamed, {cut(whole, 40)!r} in one piece")
    return f"{len(events)} events"


@check("stream_options.include_usage: one last event with usage and no choices")
def _usage_event(server: Server) -> str:
    for path, body in (("/v1/completions", server.body()), ("/v1/chat/completions", server.chat_body())):
        events = server.events({**body, "stream_options": {"include_usage": True}}, path)
        require(events[-1].get("choices") == [], f"{path}: the last event has choices")
        count = usage_of(events[-1])["completion_tokens"]
        require(count == _TOKENS, f"{path}: {count} tokens told, {_TOKENS} made")
    return f"{_TOKENS} tokens told, both routes"


@check("stream_options without stream is refused with 400")
def _stream_options_alone(server: Server) -> str:
    return cut(require_flat_error(server.post(server.body(stream_options={"include_usage": True})), 400))


@check("an unknown field is refused with 400, the error flat: object, message, type, code")
def _unknown_field(server: Server) -> str:
    said = require_flat_error(server.post(server.body(best_off=1)), 400)
    chat = require_flat_error(server.post(server.chat_body(best_off=1), "/v1/chat/completions"), 400)
    require("best_off" in said and "best_off" in chat, f"the message does not name the field: {cut(said)}")
    return cut(said)


@check("a value of the wrong type is refused with 400")
def _wrong_type(server: Server) -> str:
    return cut(require_flat_error(server.post(server.body(max_tokens="many")), 400))


@check("ignore_eos and max_tokens give exactly as many tokens, and the reason is 'length'")
def _exact_length(server: Server) -> str:
    for wanted in (1, 7, 40):
        _, reason, count = server.completion(PROMPTS[1], max_tokens=wanted)
        require((count, reason) == (wanted, "length"), f"{count} tokens, {reason}, where {wanted} were asked for")
    return "1, 7 and 40 tokens"


@check("temperature 0 gives the same text again")
def _deterministic(server: Server) -> str:
    texts = {server.completion(PROMPTS[2])[0] for _ in range(3)}
    require(len(texts) == 1, f"{len(texts)} different texts")
    return "three times the same"


@check("one seed gives one text at temperature 1")
def _seed(server: Server) -> str:
    def text(seed: int) -> str:
        return server.completion(PROMPTS[0], temperature=1.0, top_p=1.0, seed=seed)[0]

    require(text(7) == text(7), "the same seed gave two texts")
    others = {text(seed) for seed in (7, 8, 9)}
    return f"the same twice; three seeds gave {len(others)} texts"


@check("a stop string ends the text before it, and the reason is 'stop'")
def _stop(server: Server) -> str:
    for prompt in PROMPTS:
        text = server.greedy_text(prompt)
        word = stop_word(text)
        if word:
            break
    else:
        raise NotSeen("no answer has a word to stop at")
    wanted = text[: text.index(f" {word}")].rstrip()
    # Some tokenizers have a word's space in its token and some have not: one of the two is there.
    got, reason, _ = server.completion(prompt, stop=[word, f" {word}"])
    require(reason == "stop", f"reason {reason!r} for the stop string {word!r}: {cut(got, 60)!r}")
    require(got.rstrip() == wanted, f"{cut(got, 60)!r} before {word!r}, not {cut(wanted, 60)!r}")
    return f"ended before {word!r}"


def stop_word(text: str) -> str:
    """A word in the middle of a text that is not part of what comes before it; empty if there is none."""
    words = text.split()
    for word in words[len(words) // 3 : -1]:
        if word.isalpha() and word.isascii() and len(word) > 2 and text.find(word) == text.find(f" {word}") + 1 > 1:
            return word
    return ""


@check("a prompt longer than the engine takes is refused with 400, and the server lives")
def _over_long(server: Server) -> str:
    said = require_flat_error(server.post(server.body("word " * _OVER_LONG, max_tokens=1)), 400)
    server.healthy()
    return cut(said)


@check("GET /metrics is a list of records with kvCacheStats")
def _metrics(server: Server) -> str:
    for _ in range(4):
        server.whole(server.body(max_tokens=8))
        answer = require_status(server.client.get(f"{server.url}/metrics"), 200)
        told = answer.json()
        require(isinstance(told, list), f"{type(told).__name__} and no list")
        records = [json.loads(one) if isinstance(one, str) else one for one in told]
        if records:
            wanted = {"maxNumBlocks", "freeNumBlocks", "usedNumBlocks", "tokensPerBlock"}
            missing = wanted - (records[-1].get("kvCacheStats") or {}).keys()
            require(not missing, f"kvCacheStats lacks {', '.join(sorted(missing))}")
            return f"{len(records):,} records, {records[-1]['kvCacheStats']['maxNumBlocks']:,} KV blocks"
    raise NotSeen("an empty list: another reader takes the records, or the PyTorch backend keeps none")


def _awaited(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine gives; in a thread of its own, since a notebook's kernel has a loop running already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


@check("streams at the same time are not mixed up")
def _together(server: Server) -> str:
    alone = [server.greedy_text(prompt) for prompt in PROMPTS]
    bodies = [server.body(prompt, stream_options={"include_usage": True}) for prompt in PROMPTS]
    streams = _awaited(_all(server, bodies))
    ids = [{event["id"] for event in events} for events in streams]
    require(all(len(one) == 1 for one in ids), "one stream has the ids of several")
    require(len(set.union(*ids)) == len(PROMPTS), "two streams have one id")
    texts = ["".join(one["choices"][0]["text"] for one in events if one["choices"]) for events in streams]
    for number, text in enumerate(texts):
        # Numbers are rounded otherwise in another batch, so a text may part from that of the request alone.
        alike = [shared_beginning(text, other) for other in alone]
        require(alike[number] == max(alike), f"prompt {number} got {cut(text, 40)!r}")
        count = usage_of(streams[number][-1])["completion_tokens"]
        require(count == _TOKENS, f"prompt {number}: {count} tokens")
    same = sum(text == own for text, own in zip(texts, alone, strict=True))
    return f"{len(texts)} at once; {same} wrote what they write alone"


async def _all(server: Server, bodies: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The events of several streams that run at once."""
    import httpx

    async with httpx.AsyncClient(timeout=server.client.timeout, trust_env=server.client.trust_env) as client:

        async def one(body: dict[str, Any]) -> list[dict[str, Any]]:
            url = f"{server.url}/v1/completions"
            async with client.stream("POST", url, json={**body, "stream": True}) as answer:
                data = await answer.aread()
                require_status(answer, 200, data)
                return unframed(data, answer.headers.get("content-type", ""))

        return list(await asyncio.gather(*map(one, bodies)))


@check("the openai package works: models, completion, streamed chat")
def _openai(server: Server) -> str:
    try:
        import openai
    except ImportError:
        raise NotSeen("the openai package is not installed here") from None
    seconds = server.client.timeout.read or 60.0
    http = openai.DefaultHttpxClient(trust_env=server.client.trust_env, timeout=seconds)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, http_client=http) as client:
        model = client.models.list().data[0].id
        made = client.completions.create(model=model, prompt=PROMPTS[0], max_tokens=8, temperature=0)
        messages = [{"role": "user", "content": PROMPTS[0]}]
        chunks = list(
            client.chat.completions.create(model=model, messages=messages, max_tokens=8, temperature=0, stream=True)
        )
    require(bool(made.choices[0].text), "no text")
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    require(bool(text), "no text in the streamed chat")
    return f"openai {openai.__version__}, {len(chunks)} chunks"


@check("a client that hangs up leaves the server healthy")
def _hang_up(server: Server) -> str:
    for number in range(3):
        body = server.body(PROMPTS[number], max_tokens=150, stream=True)
        with server.client.stream("POST", f"{server.url}/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                answer.read()
                require_status(answer, 200)
            line = next(answer.iter_lines())
            require(line.startswith("data: "), f"no stream: {cut(line, 60)!r}")
    began = time.monotonic()
    server.healthy()
    return f"three hung up; the next answer came after {duration(time.monotonic() - began)}"


@check("a body that is no JSON is refused with 400", OURS)
def _no_json(server: Server) -> str:
    headers = {"Content-Type": "application/json"}
    answer = server.client.post(f"{server.url}/v1/completions", content=b'{"model": ', headers=headers)
    return cut(require_flat_error(answer, 400))


@check("a full queue answers 429 with Retry-After, and empties again", OURS)
def _full_queue(server: Server) -> str:
    opened, told = _awaited(_fill(server))
    deadline = time.monotonic() + 5  # all of them have hung up, which the server has to notice
    while server.post(server.body(max_tokens=1)).status_code == 429 and time.monotonic() < deadline:
        time.sleep(0.1)
    server.healthy()
    require(told is not None, f"{opened:,} requests at once were all taken")
    assert told is not None
    said = require_flat_error(told, 429)
    require("retry-after" in told.headers, "no Retry-After")
    return f"after {opened:,} requests: {cut(said, 100)}"


async def _fill(server: Server) -> "tuple[int, httpx.Response | None]":
    """Open streams until one is refused, then hang up on all of them; how many were taken, and the refusal."""
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    timeout = server.client.timeout
    body = server.body(max_tokens=150, stream=True)
    async with httpx.AsyncClient(timeout=timeout, trust_env=server.client.trust_env, limits=limits) as client:
        refused: list[httpx.Response] = []
        taken = 0

        async def one() -> None:
            nonlocal taken
            async with client.stream("POST", f"{server.url}/v1/completions", json=body) as answer:
                if answer.status_code != 200:
                    await answer.aread()
                    refused.append(answer)
                    return
                taken += 1
                async for _ in answer.aiter_raw():
                    pass

        tasks: list[asyncio.Task[None]] = []
        while not refused and len(tasks) < _MOST_STREAMS:
            tasks += [asyncio.create_task(one()) for _ in range(32)]
            await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return taken, next((answer for answer in refused if answer.status_code == 429), refused[0] if refused else None)


# --- Running them -----------------------------------------------------------------


def run(url: str, ours: bool | None = None, timeout: float = 60.0) -> Report:
    """Run every check against a server.

    Args:
        url: with or without ``/v1``.
        ours: also check what the CPU server adds; None to see from the server's own description whether it is that.
        timeout: seconds that an answer may take.

    Raises:
        WorkshopError: nothing answers there.
    """
    import httpx

    base = plain_url(url)
    local = httpx.URL(base).host in _LOCAL
    began = time.monotonic()
    # A proxy of the environment does not know this machine's own addresses.
    with httpx.Client(timeout=timeout, trust_env=not local) as client, _alone_with(base):
        server = Server(base, client)
        server.model = _first_model(server)
        also = _is_ours(server) if ours is None else ours
        asked, real = who(server)
        results = tuple(
            _one(server, text, surface, function) for text, surface, function in CHECKS if surface == TRTLLM or also
        )
    return Report(base, results, time.monotonic() - began, asked, real)


def plain_url(url: str) -> str:
    """An address as a person gives it, with its scheme and without ``/v1``.

    Raises:
        WorkshopError: it is none.
    """
    text = url.strip()
    text = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket without its other, or a port that is no number
        known = False
    if not known:
        raise WorkshopError(f"{url!r} is no address of a server. Write it as http://127.0.0.1:8000.")
    return text.rstrip("/").removesuffix("/v1")


def _first_model(server: Server) -> str:
    """The name of the server's model; one sentence where nothing answers."""
    import httpx

    try:
        answer = server.client.get(f"{server.url}/v1/models")
        return str(answer.json()["data"][0]["id"])
    except (httpx.HTTPError, OSError) as error:
        raise WorkshopError(
            f"Nothing answers at {server.url} ({type(error).__name__}: {error}). Start the server, or mend the address."
        ) from None
    except (ValueError, LookupError, TypeError):
        raise WorkshopError(
            f"What answers at {server.url} is no OpenAI-compatible server: its /v1/models lists no model. "
            "Mend the address."
        ) from None


_NAMES = {"tensorrt_llm": TRTLLM, "openvino": "the CPU server (OpenVINO{})"}
"""What ``owned_by`` in ``/v1/models`` says, and who that is; the braces are for the version."""


def who(server: Server) -> tuple[str, bool]:
    """Which server this is, by its own ``/version`` and ``owned_by``; and whether it is ``trtllm-serve``."""
    owner = _told(server, "/v1/models", lambda told: told["data"][0]["owned_by"])
    number = _told(server, "/version", lambda told: told["version"]).partition("-")[0]  # without the build's name
    number = number.removesuffix(".0") if number.count(".") == 3 else number  # OpenVINO's last part is always 0
    version = f" {number}" if number else ""
    if owner not in _NAMES:
        whose = f" whose models are owned by {cut(owner, 40)!r}" if owner else " that does not say what it is"
        return f"a server{whose}{f', version{version}' if version else ''}", False
    name = _NAMES[owner]
    return (name.format(version) if "{}" in name else f"{name}{version}"), name == TRTLLM


def _told(server: Server, path: str, pick: Callable[[Any], Any]) -> str:
    """One text of an answer; empty where there is none."""
    import httpx

    with contextlib.suppress(httpx.HTTPError, ValueError, LookupError, TypeError):
        told = pick(server.client.get(f"{server.url}{path}").json())
        return told.strip() if isinstance(told, str) else ""
    return ""


def _is_ours(server: Server) -> bool:
    """True if the server's own description promises a 429."""
    import httpx

    with contextlib.suppress(httpx.HTTPError, ValueError, LookupError, TypeError):
        told = server.client.get(f"{server.url}/openapi.json").json()
        return "429" in told["paths"]["/v1/completions"]["post"]["responses"]
    return False


def _one(server: Server, text: str, surface: str, function: Check) -> Result:
    """Run one check; whatever it stumbles over is its result."""
    import httpx

    try:
        return Result(text, surface, PASSED, function(server))
    except NotSeen as why:
        return Result(text, surface, OPEN, str(why))
    except Failure as why:
        return Result(text, surface, FAILED, str(why))
    except (httpx.HTTPError, LookupError, TypeError, ValueError, AttributeError) as error:
        return Result(text, surface, FAILED, cut(f"{type(error).__name__}: {error}", 160))
    except Exception as error:  # the openai package has errors of its own
        if type(error).__module__.partition(".")[0] != "openai":
            raise
        return Result(text, surface, FAILED, cut(f"{type(error).__name__}: {error}", 160))


@contextlib.contextmanager
def _alone_with(base: str) -> Iterator[None]:
    """Keep this process's own poller from taking the records that a check asks for."""
    from helpers import serving

    with contextlib.ExitStack() as stack:
        for endpoint in serving.endpoints():
            if plain_url(endpoint.url) == base:
                stack.enter_context(endpoint.metrics_free())
        yield


def main(url: str, ours: bool | None = None, timeout: float = 60.0) -> int:
    """``python -m helpers conformance URL``: print the table; 0 if nothing failed, else 1."""
    report = run(url, ours, timeout)
    print(report)
    return 0 if report.ok else 1
