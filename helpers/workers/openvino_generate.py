"""Worker: continue one prompt with an engine, printing each piece of text as a line of JSON as soon as it exists."""

import argparse
import json
import time
from pathlib import Path


def main() -> None:
    """Load the engine, generate, and tell how long both took."""
    started = time.perf_counter()
    import openvino_genai as genai
    from openvino_pipeline import add_kv_option, open_pipeline

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", type=Path, help="the engine's folder")
    parser.add_argument("request", type=json.loads, help="JSON: prompt, max_tokens, ignore_eos")
    add_kv_option(parser)
    arguments = parser.parse_args()
    request = arguments.request
    pipeline = open_pipeline(arguments.engine, kv_cache=arguments.kv_cache)
    loaded = time.perf_counter()

    settings = genai.GenerationConfig()
    settings.max_new_tokens = request["max_tokens"]
    settings.ignore_eos = request["ignore_eos"]
    settings.do_sample = False
    settings.set_eos_token_id(pipeline.get_tokenizer().get_eos_token_id())
    handle = pipeline.add_request(0, request["prompt"], settings)
    tokenizer, ids, shown, first = pipeline.get_tokenizer(), [], "", 0.0
    while pipeline.has_non_finished_requests():
        pipeline.step()
        while handle.can_read():
            for output in handle.read().values():
                ids.extend(output.generated_ids)
        first = first or (time.perf_counter() if ids else 0.0)
        # A token can end in the middle of a character: show text only up to the last whole one.
        text = tokenizer.decode(ids) if ids else ""
        if len(text) > len(shown) and not text.endswith("�"):
            print(json.dumps({"piece": text[len(shown) :]}), flush=True)
            shown = text
    ended = time.perf_counter()
    print(
        json.dumps(
            {
                "tokens": len(ids),
                "finished": len(ids) < request["max_tokens"],
                "load_seconds": loaded - started,
                "first_token_seconds": first - loaded,
                "seconds": ended - loaded,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
