"""``trtllm-bench ... throughput``: runs a data set through the double's ``LLM`` and writes the real report's keys."""

import json
import time
from pathlib import Path

import double

from tensorrt_llm import SamplingParams


def main():
    options = double.arguments("trtllm-bench")
    if options["backend"] != "tensorrt":
        raise NotImplementedError("the double has no PyTorch backend")
    if options.get("max_seq_len"):
        raise ValueError("max_seq_len must be unset for the tensorrt backend")
    engine = json.loads((Path(options["engine_dir"]) / "config.json").read_text())
    longest = engine["build_config"]["max_seq_len"]
    lines = [json.loads(line) for line in Path(options["dataset"]).read_text().splitlines()]
    from tensorrt_llm._tensorrt_engine import LLM

    with LLM(model=options["engine_dir"], tokenizer=options["model_path"] or options["model"]) as llm:
        began, made, asked = time.monotonic(), 0, 0
        for line in lines[: options["num_requests"] or None]:
            ids = line.get("input_ids") or llm.tokenizer(line["prompt"])["input_ids"]
            if len(ids) + line["output_tokens"] > longest:
                raise RuntimeError(f"Dataset contains sequences longer than the engine's max_seq_len ({longest}).")
            llm.generate([{"prompt_token_ids": ids}], SamplingParams(max_tokens=line["output_tokens"], ignore_eos=True))
            asked, made = asked + len(ids), made + line["output_tokens"]
        took = time.monotonic() - began
    report = {
        "engine": {"model": options["model"], "engine_dir": options["engine_dir"], "version": double.VERSION},
        "request_info": {"num_requests": len(lines)},
        "performance": {
            "total_latency_ms": took * 1000,
            "request_throughput_req_s": len(lines) / took,
            "system_output_throughput_tok_s": made / took,
            "system_total_throughput_tok_s": (made + asked) / took,
        },
    }
    report["engine"]["backend"] = "TRT"
    if options["report_json"]:
        Path(options["report_json"]).write_text(json.dumps(report))
