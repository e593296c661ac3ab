"""Folders as the load generator writes them, from hand-made rows: for tests of what is read from them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.bench import rows
from helpers.bench.load import Load
from helpers.bench.measured import Gaps, Health, Run, Timeline
from helpers.bench.rows import MEASURED, USAGE, WARM_UP, Row

TARGET = {"url": "http://127.0.0.1:8000/v1", "model": "tiny", "server": "uvicorn", "stamps": "kernel", "tls": False}


def whole(index: int, sent: float, ttft: float = 0.05, gap: float = 0.01, tokens: int = 11, **more: Any) -> Row:
    """An answer of evenly spaced tokens, one an event and a read."""
    first = sent + ttft
    last = first + gap * (tokens - 1)
    made = Row(
        run=1,
        index=index,
        phase=MEASURED,
        intended=sent,
        sent=sent,
        first_token=first,
        last_token=last,
        ended=last,
        status=200,
        prompt_tokens=20,
        asked_tokens=tokens,
        tokens=tokens,
        counted=USAGE,
        events=tokens,
        reads=tokens,
        finish="length",
    )
    return replace(made, **more)


def failed(index: int, sent: float | None, outcome: str, message: str = "", **more: Any) -> Row:
    """A request that was not answered whole."""
    begin = sent or 0.0
    made = Row(1, index, MEASURED, intended=begin, sent=sent, ended=begin + 1, outcome=outcome)
    return replace(made, message=message, **more)


def steady(number: int = 1, count: int = 8, slots: int = 2, gap: float = 0.01, ttft: float = 0.05) -> Run:
    """A closed loop of equal answers, each slot's next request sent when its last one ends."""
    length = ttft + 10 * gap
    made = [
        whole(i, (i // slots) * length, ttft, gap, run=number, slot=i % slots, first_wave=i < slots)
        for i in range(count)
    ]
    gaps = Gaps(n=10 * count, mean=gap, quantiles=[gap] * 101)
    seconds = count // slots * length
    return Run(
        number, 1_700_000_000.0 + number, made, gaps, Timeline(), Health(seconds=seconds, cpu_seconds=0.1 * seconds)
    )


def warm_up(count: int = 2) -> Run:
    """A run before the others, ten times as slow."""
    run = steady(0, count, gap=0.1, ttft=0.5)
    return replace(run, rows=[replace(row, phase=WARM_UP) for row in run.rows])


def write(folder: Path, load: Load, runs: Sequence[Run], interrupted: bool = False, **target: Any) -> Path:
    """Write a folder as the load generator does."""
    folder.mkdir(parents=True, exist_ok=True)
    rows.write([row for run in runs for row in run.rows], folder / "requests.csv")
    told = {
        "format": 1,
        "load": load.told(),
        "target": {**TARGET, **target},
        "interrupted": interrupted,
        "runs": [run.told() for run in runs],
    }
    (folder / "measured.json").write_text(json.dumps(told))
    return folder
