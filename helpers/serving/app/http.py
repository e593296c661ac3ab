"""The routes of the CPU server, as FastAPI serves them.

FastAPI routes and describes (``/openapi.json``); bodies are read and checked here, so that every refusal has the one
flat shape, and answers are written to the connection directly, since a stream writes once a token.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from helpers.errors import WorkshopError
from helpers.serving.app import answers
from helpers.serving.app.engine import Engine, Tokens
from helpers.serving.app.metrics import Records
from helpers.serving.app.protocol import (
    ChatCompletionRequest,
    CompletionRequest,
    Error,
    Message,
    Model,
    parsed,
)
from helpers.serving.app.protocol import Request as Asked
from helpers.serving.app.refusal import Refusal
from helpers.serving.app.text import Text

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

DEFAULT_TOKENS = 16
"""Of a completion that does not say how many: what OpenAI documents. A forgotten field takes no slot for long."""
LARGEST_BODY = 1 << 20
"""Bytes of a request, and :data:`BYTES_A_TOKEN` more for each token of the longest sequence."""
BYTES_A_TOKEN = 32
READ_TO_THE_END = 64 << 20
"""Bytes up to which a body that is too large is read before it is refused: a client that is still sending when the
connection closes sees a reset and never reads the refusal (RFC 9112, section 9.6)."""
LONG = 20_000
"""Characters above which a request's prompts are made into tokens beside the loop, which goes on serving others."""
GREEDY = 1e-4
"""Temperatures below this are taken as 0: the likeliest token has all the probability anyway."""
RAW = "workshop.send"


@dataclass(frozen=True)
class Limits:
    """What the engine was built for, and how many requests the server holds.

    Attributes:
        max_seq_len: tokens of prompt and answer together.
        max_prompt: tokens of a prompt.
        max_queue: requests that may wait beside those that run.
        prompt_bound: which size bounds a prompt.
    """

    max_batch_size: int
    max_num_tokens: int
    max_seq_len: int
    max_prompt: int
    kv_blocks: int
    max_queue: int
    prompt_bound: str = "max_num_tokens"

    def room(self, prompt: int, asked: int | None, default: int | None) -> int:
        """How many tokens an answer may have.

        Args:
            prompt: tokens of the prompt.
            asked: by the request; None if it does not say.
            default: where it does not say; None for all that is left.

        Raises:
            Refusal: 400, prompt or answer is too long.
        """
        left = self.max_seq_len - prompt
        if left < 1 or (asked or 1) > left:
            answer = f" and max_tokens asks for {asked:,}" if asked is not None else ""
            raise Refusal(
                f"The prompt has {prompt:,} tokens{answer}; this server takes {self.max_seq_len:,}, prompt and "
                "answer together (max_seq_len). Ask for less."
            )
        if prompt > self.max_prompt:
            raise Refusal(
                f"The prompt has {prompt:,} tokens; this server takes prompts of {self.max_prompt:,} "
                f"({self.prompt_bound}). Shorten it, or serve with a larger {self.prompt_bound}."
            )
        return asked if asked is not None else min(default, left) if default is not None else left

    @property
    def body(self) -> int:
        """Bytes that a request may have."""
        return LARGEST_BODY + BYTES_A_TOKEN * self.max_seq_len


@dataclass
class Server:
    """What the routes share."""

    name: str
    text: Text
    engine: Engine
    records: Records
    limits: Limits

    async def tokens_of(self, prompt: str | list[int], special: bool, beside: bool) -> list[int]:
        """The token ids of a prompt.

        Args:
            prompt: text or ids.
            special: with the tokens that the model wants around a text.
            beside: make them in a thread, while the loop goes on serving others.

        Raises:
            Refusal: 400 for an empty prompt or an id that the model does not have.
        """
        if isinstance(prompt, list):
            ids = prompt
            if ids and max(ids) >= self.text.vocabulary:
                raise Refusal(f"Token {max(ids)} is not in the model's vocabulary (0 to {self.text.vocabulary - 1}).")
        elif beside:
            ids = await asyncio.to_thread(self.text.encode, prompt, special)
        else:
            ids = self.text.encode(prompt, special)
        if not ids:
            raise Refusal("The prompt has no tokens. Send at least one.")
        return ids

    def settings(self, request: Asked, most: int, number: int) -> dict[str, Any]:
        """What the engine's process needs to know of a request.

        Args:
            request: as it came.
            most: tokens of the answer.
            number: of the answer among several, which must differ.

        Raises:
            Refusal: 400, numbers that do not go together.
        """
        stops = request.stop_token_ids or []
        if stops and max(stops) >= self.text.vocabulary:
            raise Refusal(f"stop_token_ids: {max(stops)} is not in the vocabulary (0 to {self.text.vocabulary - 1}).")
        if request.min_tokens > most:
            raise Refusal(f"min_tokens ({request.min_tokens}) is more than the {most} tokens that the answer may have.")
        settings: dict[str, Any] = {
            "max_new_tokens": most,
            "min_new_tokens": request.min_tokens,
            "ignore_eos": request.ignore_eos,
            "stop_token_ids": stops,
            "eos_token_ids": self.text.ends,
            "repetition_penalty": request.repetition_penalty,
            "presence_penalty": request.presence_penalty or 0.0,
            "frequency_penalty": request.frequency_penalty or 0.0,
        }
        return {**settings, **self.sampling(request, number)}

    def sampling(self, request: Asked, number: int) -> dict[str, Any]:
        """How the next token is chosen."""
        temperature = 1.0 if request.temperature is None else request.temperature
        top_p = 1.0 if request.top_p is None else request.top_p
        if temperature < GREEDY or top_p == 0 or request.top_k == 1:
            return {"do_sample": False}
        chosen: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_p": top_p}
        if request.top_k:
            chosen["top_k"] = min(request.top_k, self.text.vocabulary)
        if request.min_p:
            chosen["min_p"] = min(request.min_p, 0.999)  # OpenVINO wants it below 1
        # Without a seed every answer is another one; OpenVINO itself would begin each with the same.
        seed = time.perf_counter_ns() if request.seed is None else request.seed
        chosen["rng_seed"] = (seed + number) % 2**32
        return chosen


class Generation(Response):
    """An answer, whole or as a stream, that ends early when its client hangs up.

    Args:
        server: what the routes share.
        answer: what has come so far.
        tokens: where more comes from.
        names: of the requests in the engine, one a choice.
        stream: send every token as it comes.
    """

    def __init__(self, server: Server, answer: answers.Answer, tokens: Tokens, names: list[str], stream: bool) -> None:
        self.engine, self.answer, self.tokens, self.names, self.stream = server.engine, answer, tokens, names, stream
        self.background = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Write the answer while listening for the client's end."""
        send = scope.get(RAW, send)
        writing = asyncio.ensure_future(self._streamed(send) if self.stream else self._whole(send))
        listening = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({writing, listening}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
        finally:
            for name in self.names:  # those that have ended are gone already, and this does nothing
                self.engine.cancel(name)
            for task in (writing, listening):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await writing

    def _texts(self, come: list[tuple[int, list[int], list[Any] | None]]) -> list[tuple[answers.Choice, str]]:
        """New pieces of text, one a token, of the answers that have not ended."""
        pieces = []
        for index, ids, ended in come:
            one = self.answer.choices[index]
            for place, token in enumerate(ids or [None]):
                if one.finish is not None:
                    break
                last = ended if place + 1 >= len(ids) else None
                pieces.append((one, one.text_of([] if token is None else [token], last)))
            if one.finish is not None and ended is None:
                self.engine.cancel(self.names[index])  # a stop string, of which the engine knows nothing
        return pieces

    async def _whole(self, send: Send) -> None:
        texts: list[list[str]] = [[] for _ in self.answer.choices]
        try:
            while not self.answer.finished:
                for one, text in self._texts(await self.tokens.take()):
                    texts[one.index].append(text)
        except Refusal as refusal:
            await _send_response(send, flat(refusal))
            return
        body = self.answer.whole(["".join(pieces) for pieces in texts])
        await _send_response(send, Response(body, media_type="application/json"))

    async def _streamed(self, send: Send) -> None:
        kind = (b"content-type", b"text/event-stream; charset=utf-8")
        await send({"type": "http.response.start", "status": 200, "headers": [kind, (b"cache-control", b"no-cache")]})
        chunk, answer = self.answer.chunk, self.answer
        try:
            if opening := answer.opening():
                await send({"type": "http.response.body", "body": opening.encode(), "more_body": True})
            while not answer.finished:
                written = "".join([chunk(*piece) for piece in self._texts(await self.tokens.take())])
                if written:
                    await send({"type": "http.response.body", "body": written.encode("ascii"), "more_body": True})
            last = answer.closing()
        except Refusal as refusal:
            last = answers.failure(refusal)
        await send({"type": "http.response.body", "body": last, "more_body": False})


async def _gone(receive: Receive) -> None:
    """Returns when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_response(send: Send, response: Response) -> None:
    """Write a response that is complete."""
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": False})


def flat(refusal: Refusal) -> JSONResponse:
    """A refusal as trtllm-serve writes errors."""
    return JSONResponse(refusal.content, refusal.status, refusal.headers)


async def body_of(request: Request, most: int) -> bytes:
    """A request's body.

    Raises:
        Refusal: 413 if it is too large; 400 if it is not said to be JSON.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if not (kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))):
        raise Refusal(f"The content type is {kind[:60]!r}; send JSON with 'Content-Type: application/json'.")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size <= most:
            parts.append(part)
        elif size > READ_TO_THE_END:
            break
    if size > most:
        raise Refusal(f"The body is larger than {most:,} bytes. Send a shorter prompt.", 413, {"Connection": "close"})
    return b"".join(parts)


async def complete(server: Server, request: CompletionRequest) -> Generation:
    """Start the answers to one or several prompts."""
    prompts = request.prompts
    server.engine.require(max(len(prompts), 1) * request.n)
    if not prompts:
        raise Refusal("The prompt is an empty list. Send at least one token.")
    beside = sum(map(len, prompts)) > LONG
    tokened = [await server.tokens_of(prompt, request.add_special_tokens, beside) for prompt in prompts]
    openings = [""] * len(prompts)
    if request.echo:
        openings = [p if isinstance(p, str) else server.text.decode(p, request.skip_special_tokens) for p in prompts]
    return start(server, request, tokened, openings, DEFAULT_TOKENS)


async def chat(server: Server, request: ChatCompletionRequest) -> Generation:
    """Start the answers to a conversation."""
    server.engine.require(request.n)
    messages = [_for_template(message) for message in request.messages]
    try:
        prompt = server.text.chat(messages, request.add_generation_prompt)
    except WorkshopError as error:
        raise Refusal(str(error)) from None
    tokens = await server.tokens_of(prompt, request.add_special_tokens, len(prompt) > LONG)
    return start(server, request, [tokens], [""], None)


def _for_template(message: Message) -> dict[str, Any]:
    """A message as chat templates read it."""
    named = {"name": message.name} if message.name is not None else {}
    return {"role": message.role, "content": message.text, **named}


def start(
    server: Server, request: Asked, prompts: list[list[int]], openings: list[str], default: int | None
) -> Generation:
    """Hand the prompts to the engine, each ``n`` times.

    Args:
        server: what the routes share.
        request: as it came.
        prompts: token ids.
        openings: what each answer repeats first.
        default: tokens of an answer if the request does not say.

    Raises:
        Refusal: nothing has been handed over then.
    """
    most = [server.limits.room(len(prompt), request.asked_tokens, default) for prompt in prompts]
    tokens, choices, orders = Tokens(), [], []
    for number, (prompt, opening, limit) in enumerate(zip(prompts, openings, most, strict=True)):
        for one in range(request.n):
            index = number * request.n + one
            choices.append(answers.choice(server.text, index, prompt, request, opening))
            orders.append((index, prompt, server.settings(request, limit, index)))
    server.engine.require(len(orders))  # once more: making tokens may have let others in
    names = [server.engine.add(tokens, *order) for order in orders]
    is_chat, role = isinstance(request, ChatCompletionRequest), "assistant"
    if isinstance(request, ChatCompletionRequest) and not request.add_generation_prompt:
        role = request.messages[-1].role  # the answer goes on with what was said last
    told = request.stream_options
    usage = told is not None and told.include_usage is not False
    continuous = usage and told is not None and bool(told.continuous_usage_stats)
    counted = sum(map(len, prompts))
    answer = answers.Answer(is_chat, request.model, choices, counted, role, usage, continuous)
    return Generation(server, answer, tokens, names, bool(request.stream))


def _described(model: type[Model], example: dict[str, Any]) -> dict[str, Any]:
    """What OpenAPI says about a POST route, whose body FastAPI does not read itself."""
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": reference, "example": example}}}
    }


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Error, "description": "What is wrong with the request, in words."},
    413: {"model": Error, "description": "The body is too large."},
    429: {
        "model": Error,
        "description": "The queue is full; `Retry-After` says when to come again. An addition of this CPU server: "
        "trtllm-serve lets its queue grow.",
        "headers": {"Retry-After": {"schema": {"type": "string"}, "description": "Seconds."}},
    },
    500: {"model": Error, "description": "The engine gave the request up."},
    503: {"model": Error, "description": "The engine's process has ended."},
}
STREAMED: dict[str, Any] = {
    "description": "The answer; as server-sent events where `stream` is true.",
    "content": {
        "application/json": {"schema": {"type": "object"}},
        "text/event-stream": {"schema": {"type": "string"}},
    },
}


def make_app(server: Server) -> FastAPI:
    """The application: routes, errors in one shape, and a description of both."""
    about = "The HTTP surface of trtllm-serve 1.2 over OpenVINO's continuous batching, for machines without a GPU."
    app = FastAPI(
        title="CPU server of the TensorRT-LLM workshop", version="1", description=about, docs_url=None, redoc_url=None
    )
    _add_errors(app)
    _add_gets(app, server)
    routes: list[tuple[str, Any, type[Asked], dict[str, Any]]] = [
        ("/v1/completions", complete, CompletionRequest, {"model": server.name, "prompt": "Once upon a time"}),
        (
            "/v1/chat/completions",
            chat,
            ChatCompletionRequest,
            {"model": server.name, "messages": [{"role": "user", "content": "Hello"}]},
        ),
    ]
    for path, answer, kind, example in routes:
        responses = {200: STREAMED, **ERRORS}
        described = _described(kind, example)
        app.post(path, responses=responses, openapi_extra=described, response_model=None)(_route(server, answer, kind))
    _add_schemas(app)
    return app


def _route(server: Server, answer: Any, kind: type[Asked]) -> Callable[[Request], Awaitable[Response]]:
    """The function behind a POST route."""

    async def route(request: Request) -> Response:
        asked = parsed(kind, await body_of(request, server.limits.body))
        started: Response = await answer(server, asked)
        return started

    route.__name__ = answer.__name__
    route.__doc__ = kind.__doc__
    return route


def _add_gets(app: FastAPI, server: Server) -> None:
    """The routes that take nothing."""
    created = int(time.time())

    @app.get("/health", responses={200: {"content": {}}, 503: ERRORS[503]}, response_class=Response)
    async def health() -> Response:
        """200 and nothing else while the engine runs."""
        server.engine.require(0)
        return Response()

    @app.get("/version")
    async def version() -> dict[str, str]:
        """The release of OpenVINO GenAI behind this server."""
        return {"version": str(server.engine.told["version"])}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model, named after the engine's folder as trtllm-serve does."""
        card = {"id": server.name, "object": "model", "created": created, "owned_by": "openvino"}
        return {"object": "list", "data": [card]}

    @app.get("/metrics")
    async def metrics() -> JSONResponse:
        """Statistics of the iterations since the last call; waits up to two seconds for one."""
        return JSONResponse(await server.records.drain())


def _add_errors(app: FastAPI) -> None:
    """One shape for everything that goes wrong."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> JSONResponse:
        return flat(refusal)

    @app.exception_handler(HTTPException)
    async def not_found(request: Request, error: HTTPException) -> JSONResponse:
        what = {404: "There is no such route", 405: f"{request.method} is not what this route takes"}
        words = f"{what.get(error.status_code, error.detail)}: {request.url.path[:120]}."
        return flat(Refusal(words, error.status_code, dict(error.headers or {})))

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it; without it the log would tell of a mistake of ours

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        return flat(Refusal(f"The server made a mistake ({type(error).__name__}); its log says more.", 500))


def _add_schemas(app: FastAPI) -> None:
    """Put the request models into the description, which FastAPI does not know since it does not read the bodies."""
    from pydantic.json_schema import models_json_schema

    described = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            kinds: list[tuple[type[Model], Any]] = [
                (CompletionRequest, "validation"),
                (ChatCompletionRequest, "validation"),
            ]
            _, schemas = models_json_schema(kinds, ref_template="#/components/schemas/{model}")
            described().setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
        return described()

    app.openapi = openapi  # type: ignore[method-assign]


def with_raw_send(app: Any) -> Any:
    """The application, with the connection's own ``send`` in reach: each layer in between costs on every token."""

    async def outermost(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        scope[RAW] = send
        await app(scope, receive, send)

    return outermost
