"""One prompt continued by an engine: run the worker, show the text as it comes, keep what it wrote and how fast."""

import json
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from helpers import keeper, processes, stage, workspace
from helpers.cards import Shown, Table
from helpers.errors import WorkshopError, in_one_line
from helpers.progress import Bar, Live

if TYPE_CHECKING:
    from helpers.toolchains.base import Engine


@dataclass(frozen=True, repr=False)
class Generation(Shown):
    """What an engine wrote for one prompt, and how fast.

    Attributes:
        prompt: what it was given.
        text: the continuation, without the prompt.
        tokens: number of tokens made.
        load_seconds: from starting the engine's process to being ready.
        first_token_seconds: from sending the prompt to the first token (TTFT).
        seconds: from sending the prompt to the last token.
        engine: its precision, as a person writes it.
        ended: by what.
        ignored_eos: whether it was to write on after the model's end-of-sequence token.
        details: label to value: the command and the log's path.
    """

    prompt: str
    text: str
    tokens: int
    load_seconds: float
    first_token_seconds: float
    seconds: float
    engine: str = ""
    ended: str = ""
    ignored_eos: bool = False
    details: tuple[tuple[str, str], ...] = ()

    @property
    def tokens_per_second(self) -> float:
        """Tokens after the first, per second after the first (the inverse of TPOT); 0 if there is only one."""
        rest = self.seconds - self.first_token_seconds
        return (self.tokens - 1) / rest if self.tokens > 1 and rest > 0 else 0.0

    def figures(self) -> str:
        """One line: how many tokens, how fast, why it ended."""
        return (
            f"{self.tokens} tokens, first after {self.first_token_seconds * 1000:.0f} ms, "
            f"then {self.tokens_per_second:,.0f} tokens/s; engine ready after {self.load_seconds:.2f} s; "
            f"ended by {self.ended}"
        )

    def __str__(self) -> str:
        return f"{self.prompt}{self.text}\n({self.figures()})"

    def _repr_html_(self) -> str:
        import html

        return (
            f"<blockquote style='margin:0.4em 0'><strong>{html.escape(self.prompt)}</strong>"
            f"{html.escape(self.text)}</blockquote><p><small>{html.escape(self.figures())}</small></p>"
            "<details><summary><small>command and log</small></summary><small>"
            + "".join(f"{html.escape(k)}: <code>{html.escape(v)}</code><br>" for k, v in self.details)
            + "</small></details>"
        )


def require_request(prompt: object, max_tokens: object) -> None:
    """Refuse what no engine can continue.

    Raises:
        WorkshopError: the prompt is no text, or the number of tokens is no whole number of at least 1.
    """
    if not isinstance(prompt, str) or not prompt:
        raise WorkshopError(f"The prompt is {prompt!r:.60}. Give some text, in quotation marks.")
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 1:
        raise WorkshopError(f"max_tokens is {max_tokens!r}. Give a whole number of at least 1.")


def converse(
    engine: "Engine",
    command: Sequence[str],
    prompt: str,
    max_tokens: int,
    ignore_eos: bool,
    environment: Mapping[str, str] | None = None,
    time_limit: float | None = None,
) -> Generation:
    """Run a worker that generates, show its text as it comes, and return what it wrote.

    Args:
        engine: what the worker loads.
        command: prints JSON objects, one a line: ``piece`` (of text) as they come, at the end ``tokens``, ``finished``
            and its times. Other lines are a library's, and go to the log.
        prompt, max_tokens, ignore_eos: what it was asked for.
        environment: all of its variables; None for this process's own.
        time_limit: seconds after which it is ended, or None.

    It runs under :mod:`helpers.keeper`: nothing that it starts, such as a process for each rank, outlives it or the
    notebook's kernel.

    Raises:
        WorkshopError: its process failed or took too long; with cause and remedy where they are known.
    """
    log = stage.run_directory(f"generate-{engine.path.name}") / "log.txt"
    details = (("command", workspace.shell_text(list(command))), ("log", str(log)))
    live, text, last = Live(), "", {}
    live.show(Bar("Loading the engine", 0.0, details=details))
    with log.open("wb") as told:
        worker = subprocess.Popen(
            keeper.keeping(command),
            stdin=subprocess.PIPE,  # only this process holds the other end: the keeper sees it end
            stdout=subprocess.PIPE,
            stderr=told,
            cwd=workspace.REPOSITORY,
            env=None if environment is None else dict(environment),
            start_new_session=True,
        )
        assert worker.stdout is not None and worker.stdin is not None
        guard = processes.Guard(worker, time_limit)
        try:
            for line in worker.stdout:
                if not line.startswith(b"{"):
                    told.write(line)
                    continue
                last = json.loads(line)
                text += last.get("piece", "")
                live.show_text(prompt, text)
            worker.wait()
        except KeyboardInterrupt as interrupt:
            in_one_line(interrupt, "stopped; the engine's process has ended. Run the cell again for a whole answer.")
            raise
        finally:
            timed_out = guard.stop()
            if worker.poll() is None:
                processes.end_all(worker)
            worker.stdin.close()
    told_text = processes.redactor(os.environ)(log.read_text(errors="replace"))
    workspace.write_whole(log, told_text)
    if worker.returncode != 0 or "tokens" not in last:
        ending = f"took longer than its limit of {time_limit:g} s" if timed_out else ending_of(worker.returncode)
        raise WorkshopError(
            f"The engine's process {ending}.\n{stage.diagnosis(told_text, ending)}The whole log: {log}\n"
            "Run the cell again; if it fails again, build the engine again."
        )
    made = Generation(
        prompt=prompt,
        text=text,
        tokens=last["tokens"],
        load_seconds=last["load_seconds"],
        first_token_seconds=last["first_token_seconds"],
        seconds=last["seconds"],
        engine=engine.title,
        ended="its end-of-sequence token" if last["finished"] else f"the limit of {max_tokens} tokens",
        ignored_eos=ignore_eos,
        details=details,
    )
    live.finish(made)
    return made


def ending_of(status: int) -> str:
    """How a kept process ended, in words; the keeper tells a signal n as 128 + n."""
    if status > 128 and status - 128 in set(signal.Signals):
        return f"was killed by {signal.Signals(status - 128).name}"
    return f"ended with status {status}"


def shared_beginning(one: Iterable[object], other: Iterable[object]) -> int:
    """How many characters or tokens two answers begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def side_by_side(*written: Generation) -> Table:
    """What several engines wrote for the same prompt, and where the texts part."""
    first, rows = written[0].text, [[written[0].engine, written[0].text.strip(), "–"]]
    for made in written[1:]:
        shared = shared_beginning(first, made.text)
        same = made.text == first
        rows.append([made.engine, made.text.strip(), "the same text" if same else f"parts after {shared} characters"])
    return Table(["engine", "text", f"against {written[0].engine}"], rows, caption=f"Prompt: {written[0].prompt}")
