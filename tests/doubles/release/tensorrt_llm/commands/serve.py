"""``trtllm-serve``: the routes of its OpenAI-compatible server that the workshop calls, over the double's ``LLM``.

Refusals, routes and the shapes of answers follow commands/serve.py, serve/openai_server.py and openai_protocol.py
(facts 5). A field that the real server knows and this one cannot do is answered 501, so that no test rests on it.
"""

import json
import select
import socket
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import double

from tensorrt_llm import SamplingParams
from tensorrt_llm.executor import RequestError
from tensorrt_llm.llmapi import KvCacheConfig, SchedulerConfig

INT, NUMBER, BOOL, TEXT, ANY = int, (int, float), bool, str, object
BOTH = {"model": TEXT, "temperature": NUMBER, "top_p": NUMBER, "top_k": INT, "seed": INT, "stream": BOOL, "n": INT}
BOTH |= {"stream_options": dict, "ignore_eos": BOOL, "stop": (str, list), "user": TEXT, "min_tokens": INT}
BOTH |= {"add_special_tokens": BOOL, "include_stop_str_in_output": BOOL, "skip_special_tokens": BOOL}
DONE = {
    "/v1/completions": {**BOTH, "prompt": (str, list), "max_tokens": INT},
    "/v1/chat/completions": {**BOTH, "messages": list, "max_tokens": INT, "max_completion_tokens": INT},
}
"""Fields that the double does something with, or may pass over, and their types."""

NOT_DONE = {"best_of", "frequency_penalty", "logit_bias", "logprobs", "presence_penalty", "min_p", "repetition_penalty"}
NOT_DONE |= {"length_penalty", "stop_token_ids", "truncate_prompt_tokens", "response_format", "lora_request"}
MORE_NOT_DONE = {
    "/v1/completions": {"echo", "detokenize"},
    "/v1/chat/completions": {"top_logprobs", "tools", "tool_choice", "add_generation_prompt", "chat_template"},
}
CONFIGS = {"kv_cache_config": KvCacheConfig, "scheduler_config": SchedulerConfig}
"""What the file of ``--extra_llm_api_options`` says as a mapping, and the class that it becomes."""


def check(options):
    """Refuse a folder that is not what the backend takes it for, and a tokenizer without the model's settings."""
    folder = Path(options["model"])
    settings = json.loads((folder / "config.json").read_text())
    if options["backend"] not in ("tensorrt", "trt"):
        if "build_config" in settings:
            raise ValueError(f"Unrecognized model in {folder}. Should have a `model_type` key in its config.json")
        return
    if "build_config" not in settings:
        raise NotImplementedError("the double builds nothing from Hugging Face weights: give it an engine")
    model = Path(options["tokenizer"] or folder) / "config.json"
    if not model.is_file() or "model_type" not in json.loads(model.read_text()):
        # OpenAIServer reads the tokenizer's folder as a model's, and keeps None where that fails.
        raise AttributeError("'NoneType' object has no attribute 'model_type'")


def problem(asked, path):
    """Why a body is refused before anything runs, as the protocol's models (``extra="forbid"``) would; None if not."""
    fields, known = DONE[path], NOT_DONE | MORE_NOT_DONE[path]
    if not isinstance(asked, dict):
        return "Input should be a valid dictionary or object to extract fields from"
    unknown = sorted(asked.keys() - fields.keys() - known)
    if unknown:
        return f"Extra inputs are not permitted: {unknown}"
    required = {"model", "messages" if "chat" in path else "prompt"}
    missing = sorted(name for name in required if asked.get(name) is None)
    if missing:
        return f"Field required: {missing}"
    for name, kind in fields.items():
        value = asked.get(name)
        wrong = not isinstance(value, kind) or (kind in (INT, NUMBER) and isinstance(value, bool))
        if value is not None and wrong:
            return f"{name}: Input should be a valid {kind.__name__ if isinstance(kind, type) else 'value'}"
    if asked.get("stream_options") is not None and not asked.get("stream"):
        return "Value error, Stream options can only be defined when stream is true."
    return None


class Stops:
    """Where a text ends because a stop string has come, and how much of a growing one may be shown."""

    def __init__(self, stop, included):
        self.words, self.included = [stop] if isinstance(stop, str) else list(stop or ()), included

    def cut(self, text):
        """The text up to the first stop string; None if none has come."""
        found = [(text.index(word), word) for word in self.words if word in text]
        if not found:
            return None
        place, word = min(found)
        return text[: place + len(word) * self.included]

    def safe(self, text):
        """The part that cannot become a stop string or another character by what follows."""
        text = text.rstrip("\ufffd")
        held = (n for word in self.words for n in range(1, len(word)) if text.endswith(word[:n]))
        return text[: len(text) - max(held, default=0)]


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    llm, name, slots = None, "", threading.Semaphore(1)

    def log_request(self, code="-", size="-"):
        """The line of uvicorn's access log, which the real server prints for every request."""
        host, port = self.client_address[:2]
        said = f"{int(code)} {HTTPStatus(code).phrase}"
        sys.stdout.write(f'INFO:     {host}:{port} - "{self.requestline}" {said}\n')  # one piece: threads print too
        sys.stdout.flush()

    def log_message(self, *what):
        """Nothing else: uvicorn has no such lines."""

    # --- Answers ----------------------------------------------------------------

    def answer(self, content=None, status=200):
        data = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, why, status=400, kind="BadRequestError"):
        self.answer({"object": "error", "message": str(why), "type": kind, "code": status}, status)

    def not_found(self):
        self.answer({"detail": "Not Found"}, 404)  # the framework's own

    # --- Routes -----------------------------------------------------------------

    def do_GET(self):
        card = {"id": self.name, "object": "model", "created": int(time.time()), "owned_by": "tensorrt_llm"}
        answers = {
            "/health": lambda: None,
            "/health_generate": self.health_generate,
            "/version": lambda: {"version": double.VERSION},
            "/v1/models": lambda: {"object": "list", "data": [card]},
            "/metrics": self.metrics,
        }
        if self.path not in answers:
            return self.not_found()
        return self.answer(answers[self.path]())

    def metrics(self):
        """What has not been told yet; wait up to two seconds for it where there is nothing (``get_stats_async(2)``)."""
        deadline = time.monotonic() + 2
        while not (records := self.llm.get_stats(2)) and time.monotonic() < deadline:
            time.sleep(0.02)
        return records

    def health_generate(self):
        """One token of a chat."""
        ids = self.chat_ids([{"role": "user", "content": "hi"}])
        for _ in self.llm.generate_async(ids, SamplingParams(max_tokens=1, top_p=None), streaming=True):
            pass
        return "Generation health check OK"

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.path not in DONE:
            return self.not_found()
        try:
            asked = json.loads(body)
        except ValueError as error:
            return self.refuse(f"JSON decode error: {error}")
        why = problem(asked, self.path)
        if why:
            return self.refuse(why)
        not_done = {name for name in asked.keys() & (NOT_DONE | MORE_NOT_DONE[self.path]) if asked[name] is not None}
        if not_done:
            return self.refuse(f"the double has no {sorted(not_done)}", 501, "NotImplementedError")
        try:
            return self.serve(asked)
        except (ValueError, RequestError) as error:  # openai_server.py answers every exception so
            return self.refuse(error)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
            return None

    # --- Requests ---------------------------------------------------------------

    def chat_ids(self, messages):
        """The tokens of a conversation, by the tokenizer's own template."""
        plain = []
        for message in messages:
            if not isinstance(message, dict) or "role" not in message:
                raise ValueError("messages: Input should be a valid dictionary with a role")
            content = message.get("content") or ""
            if isinstance(content, list):
                content = "\n".join(part["text"] for part in content if part.get("type") == "text")
            plain.append({"role": message["role"], "content": content})
        if not plain:
            raise ValueError("messages: there is none")
        text = self.llm.tokenizer.apply_chat_template(plain, add_generation_prompt=True, tokenize=False)
        return self.llm.tokenizer(text, add_special_tokens=False)["input_ids"]

    def parameters(self, asked, chat):
        # Not greedy unless asked to be: the protocol's own defaults are 1.0.
        greedy = asked.get("temperature", 1.0) == 0
        limit = asked.get("max_completion_tokens") or asked.get("max_tokens") if chat else asked.get("max_tokens") or 16
        return SamplingParams(
            max_tokens=limit,  # None: all that the engine has room for
            n=asked.get("n") or 1,
            top_p=None if greedy else asked.get("top_p", 1.0),
            temperature=asked.get("temperature", 1.0),
            seed=asked.get("seed"),
            ignore_eos=bool(asked.get("ignore_eos")),
            skip_special_tokens=asked.get("skip_special_tokens", True),
        )

    def serve(self, asked):
        """Check a request as the LLM does, wait for a place in the batch, and answer."""
        chat = "chat" in self.path
        if (asked.get("n") or 1) > 1:
            return self.refuse("the double has no n above 1", 501, "NotImplementedError")
        prompt = self.chat_ids(asked["messages"]) if chat else asked["prompt"]
        if isinstance(prompt, list) and not all(isinstance(one, int) for one in prompt):
            return self.refuse("the double has no lists of prompts", 501, "NotImplementedError")
        output = self.llm.generate_async(prompt, self.parameters(asked, chat), streaming=True)
        with self.slots:
            if asked.get("stream"):
                return self.stream(output, asked, chat)
            return self.whole(output, asked, chat)

    def pieces(self, output, asked):
        """New text and why it ended, a step a piece; nothing more once the client has gone: its place is free then."""
        stops, shown = Stops(asked.get("stop"), bool(asked.get("include_stop_str_in_output"))), ""
        for _ in output:
            if self.gone():
                return
            answer = output.outputs[0]
            cut = stops.cut(answer.text)
            text = cut if cut is not None else answer.text if answer.finish_reason else stops.safe(answer.text)
            reason = "stop" if cut is not None else answer.finish_reason
            yield text[len(shown) :], reason
            shown = max(shown, text, key=len)
            if reason:
                return

    def gone(self):
        """True if the client has hung up."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def usage(self, output):
        sizes = len(output.prompt_token_ids), len(output.outputs[0].token_ids)
        return {"prompt_tokens": sizes[0], "completion_tokens": sizes[1], "total_tokens": sum(sizes)}

    def envelope(self, output, chat, stream):
        kind = ("chat.completion.chunk" if stream else "chat.completion") if chat else "text_completion"
        number = f"{'chatcmpl' if chat else 'cmpl'}-{output.request_id:032x}"
        return {"id": number, "object": kind, "created": int(time.time()), "model": self.name}

    def whole(self, output, asked, chat):
        text, reason = "", None
        for piece, reason in self.pieces(output, asked):  # noqa: B007 - the last reason counts
            text += piece
        if reason is None:
            raise BrokenPipeError
        choice = {"index": 0, "finish_reason": reason}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        made = self.envelope(output, chat, stream=False)
        self.answer({**made, "choices": [choice], "usage": self.usage(output)})

    def stream(self, output, asked, chat):
        pieces = self.pieces(output, asked)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        made, reason = self.envelope(output, chat, stream=True), None
        told = asked.get("stream_options") or {}

        def event(choices, **more):
            self.event(json.dumps({**made, "choices": choices, **more}))

        if chat:
            event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
        try:
            for piece, reason in pieces:
                part = {"delta": {"content": piece}} if chat else {"text": piece}
                more = {"usage": self.usage(output)} if told.get("continuous_usage_stats") else {}
                event([{"index": 0, **part, "finish_reason": reason}], **more)
        except RequestError as error:  # the head has been sent: the connection just ends
            print(f"Exception in ASGI application: {error}", flush=True)
            raise BrokenPipeError from None
        if reason is None:
            raise BrokenPipeError
        if told.get("include_usage", bool(told)):
            event([], usage=self.usage(output))
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, data):
        line = f"data: {data}\n\n".encode()
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()


def arguments(options):
    """The ``LLM``'s arguments: the options', replaced by what the file of ``--extra_llm_api_options`` says."""
    share = options["kv_cache_free_gpu_memory_fraction"]
    made = {"kv_cache_config": KvCacheConfig(free_gpu_memory_fraction=share)}
    if options.get("enable_chunked_prefill"):
        made["enable_chunked_prefill"] = True
    if options.get("extra_llm_api_options"):
        import yaml

        told = yaml.safe_load(Path(options["extra_llm_api_options"]).read_text())
        made |= {name: CONFIGS[name](**value) if name in CONFIGS else value for name, value in told.items()}
    return made


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """A client that has gone is nothing to tell of; anything else is a mistake of the double."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def main():
    options = double.arguments("trtllm-serve")
    check(options)
    made = arguments(options)
    engine, tokenizer = options["model"], options["tokenizer"]
    size = options.get("tp_size") or 1
    if options["backend"] in ("tensorrt", "trt"):
        from tensorrt_llm._tensorrt_engine import LLM

        settings = json.loads((Path(engine) / "config.json").read_text())
        built = settings["build_config"]["max_batch_size"]
    else:
        from tensorrt_llm import LLM

        limits = ("max_batch_size", "max_num_tokens", "max_seq_len")
        made |= {name: options[name] for name in limits if options[name] is not None}
        built = options["max_batch_size"]
    with LLM(model=engine, tokenizer=tokenizer, tensor_parallel_size=size, **made) as llm:
        Server.llm, Server.name = llm, Path(engine).name  # there is no --served_model_name
        Server.slots = threading.Semaphore(min(built, options["max_batch_size"]))
        with Listener((options["host"], options["port"]), Server) as server:
            print(f"INFO:     Uvicorn running on http://{options['host']}:{options['port']}", flush=True)
            server.serve_forever()
