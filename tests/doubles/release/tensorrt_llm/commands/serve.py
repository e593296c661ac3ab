"""``trtllm-serve``: the routes of its OpenAI-compatible server that the workshop calls, over the double's ``LLM``.

Refusals and routes follow commands/serve.py, serve/openai_server.py and openai_protocol.py (facts 5).
"""

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import double

from tensorrt_llm import SamplingParams
from tensorrt_llm.executor import RequestError
from tensorrt_llm.llmapi import KvCacheConfig

KNOWN = {"model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "seed", "stream", "stream_options"}
KNOWN |= {"ignore_eos", "n", "stop", "user", "min_tokens", "add_special_tokens"}


def check(options):
    """Refuse a folder that is not what the backend takes it for, and a tokenizer without the model's settings."""
    folder = Path(options["model"])
    settings = json.loads((folder / "config.json").read_text())
    if options["backend"] not in ("tensorrt", "trt"):
        if "build_config" in settings:
            raise ValueError(f"Unrecognized model in {folder}. Should have a `model_type` key in its config.json")
        raise NotImplementedError("the double has no PyTorch backend")
    model = Path(options["tokenizer"] or folder) / "config.json"
    if not model.is_file() or "model_type" not in json.loads(model.read_text()):
        # OpenAIServer reads the tokenizer's folder as a model's, and keeps None where that fails.
        raise AttributeError("'NoneType' object has no attribute 'model_type'")


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    llm, name = None, ""

    def log_message(self, *what):
        """Nothing a request: the real server's log is quiet too."""

    def answer(self, content=None, status=200):
        data = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, why, status=400):
        self.answer({"object": "error", "message": str(why), "type": "BadRequestError", "code": status}, status)

    def do_GET(self):
        answers = {
            "/health": lambda: None,
            "/version": lambda: {"version": double.VERSION},
            "/v1/models": lambda: {"object": "list", "data": [{"id": self.name, "object": "model"}]},
            "/metrics": lambda: self.llm.get_stats(2),
        }
        if self.path not in answers:
            return self.refuse("Not Found", 404)
        return self.answer(answers[self.path]())

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/completions":
            return self.refuse("Not Found", 404)
        if asked.keys() - KNOWN:
            return self.refuse(f"Extra inputs are not permitted: {sorted(asked.keys() - KNOWN)}")
        if "stream_options" in asked and not asked.get("stream"):
            return self.refuse("Stream options can only be defined when stream is true.")
        # Not greedy unless asked to be: the protocol's own defaults are 1.0.
        greedy = asked.get("temperature", 1.0) == 0
        parameters = SamplingParams(
            max_tokens=asked.get("max_tokens") or 16,
            top_p=None if greedy else asked.get("top_p", 1.0),
            temperature=asked.get("temperature", 1.0),
            seed=asked.get("seed"),
            ignore_eos=asked.get("ignore_eos", False),
        )
        try:
            output = self.llm.generate_async(asked["prompt"], parameters, streaming=True)
            return self.stream(output, asked) if asked.get("stream") else self.whole(output)
        except (ValueError, RequestError) as problem:
            return self.refuse(problem)

    def chunk(self, output, text, reason, usage=False):
        answer = output.outputs[0]
        made = {"id": f"cmpl-{output.request_id}", "object": "text_completion", "created": int(time.time())}
        made |= {"model": self.name, "choices": [{"index": 0, "text": text, "finish_reason": reason}]}
        if usage:
            sizes = len(output.prompt_token_ids), len(answer.token_ids)
            made["usage"] = {"prompt_tokens": sizes[0], "completion_tokens": sizes[1], "total_tokens": sum(sizes)}
        return made

    def whole(self, output):
        answer = output.result().outputs[0]
        self.answer(self.chunk(output, answer.text, answer.finish_reason, usage=True))

    def stream(self, output, asked):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        shown = ""
        for _ in output:
            text = output.outputs[0].text
            self.event(json.dumps(self.chunk(output, text[len(shown) :], output.outputs[0].finish_reason)))
            shown = text
        if (asked.get("stream_options") or {}).get("include_usage"):
            self.event(json.dumps({**self.chunk(output, "", None, usage=True), "choices": []}))
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, data):
        line = f"data: {data}\n\n".encode()
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()


def main():
    options = double.arguments("trtllm-serve")
    check(options)
    cache = KvCacheConfig(free_gpu_memory_fraction=options["kv_cache_free_gpu_memory_fraction"])
    engine, tokenizer = options["model"], options["tokenizer"]
    size = options.get("tp_size") or 1
    from tensorrt_llm._tensorrt_engine import LLM

    with LLM(model=engine, tokenizer=tokenizer, tensor_parallel_size=size, kv_cache_config=cache) as llm:
        Server.llm, Server.name = llm, Path(engine).name  # there is no --served_model_name
        with ThreadingHTTPServer((options["host"], options["port"]), Server) as server:
            print(f"INFO:     Uvicorn running on http://{options['host']}:{options['port']}", flush=True)
            server.serve_forever()
