"""A stand-in for the load generator, for what the real one should never do: it says what the test tells it to.

It speaks the conversation of ``python -m helpers.bench --machine``: one JSON object comes, JSON lines go. What it does
is the load's ``extra["script"]``, so that one program serves every test.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from helpers.bench.load import Load
from helpers.bench.measured import Health, Run
from helpers.bench.rows import MEASURED, USAGE, Row, write

PROGRESS = {
    "run": 1,
    "seconds": 0.5,
    "done": 3,
    "total": 8,
    "failed": 1,
    "in_flight": 4,
    "tokens": 300,
    "tokens_per_second": 1234.5,
    "ttft": 0.0521,
}


def say(**told: object) -> None:
    print(json.dumps(told), flush=True)


def main() -> None:
    asked = json.load(sys.stdin)
    script = asked["load"]["extra"]["script"]
    stopped = []
    if script != "deaf":
        signal.signal(signal.SIGINT, lambda *_: stopped.append(True))
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if pids := asked["load"]["extra"].get("pids"):
        Path(pids).write_text(f"{os.getpid()}\n")
    if script == "crash":
        print("Traceback (most recent call last):\nMemoryError: out of memory while reading", file=sys.stderr)
        sys.exit(3)
    if script == "error":
        say(error="No server answers at http://127.0.0.1:1/v1: start one, and measure it then.")
        sys.exit(1)
    if script == "silent":
        return
    if script == "garbage":
        print("not JSON {", flush=True)
        sys.stdout.buffer.write(b'\xff\xfe\n[1]\n"text"\nnull\n')
        say(progress={"run": 1}, other=2)
        say(progress="half", unknown=1)
        say(run={"number": "x"})
        sys.stdout.flush()
    say(progress={**PROGRESS, "a field of a later release": 1})
    while script in ("waits", "deaf") and not stopped:
        time.sleep(0.02)
    load = Load.from_told(asked["load"])
    # What every load generator does when it is told to: the rows that it has, and an end.
    rows = [row(index) for index in range(2 if stopped else 8)]
    made = Run(1, time.time() - 1, rows, health=Health(seconds=1.0, cpu_seconds=0.1), interrupted=bool(stopped))
    out, target = Path(asked["out"]), {"url": asked["url"], "model": asked["model"] or "found", "stamps": "user"}
    write(rows, out / "requests.csv")
    told = {"format": 1, "load": load.told(), "target": target, "interrupted": bool(stopped), "runs": [made.told()]}
    (out / "measured.json").write_text(json.dumps(told))
    say(run={"number": 1, "requests": len(rows), "failed": 0})
    say(done=True, interrupted=bool(stopped))


def row(index: int) -> Row:
    """A request that was answered: first token after 50 ms, ten tokens 10 ms apart."""
    sent = 0.1 * index
    times = {
        "intended": sent,
        "sent": sent,
        "first_token": sent + 0.05,
        "last_token": sent + 0.14,
        "ended": sent + 0.15,
    }
    return Row(1, index, MEASURED, status=200, prompt_tokens=128, asked_tokens=10, tokens=10, counted=USAGE, **times)


if __name__ == "__main__":
    main()
