"""Loads on one server, one at a time and in a thread, so that a kernel stays free for other cells (notebook 08).

This is the dashboard without its widgets: what it does and what there is to see, as values.
"""

import base64
import html
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helpers.bench.child import PROGRAM, GivenUp
from helpers.bench.running import Measuring, Subject, load_of
from helpers.cards import Shown, Table
from helpers.errors import WorkshopError
from helpers.looks import COLOURS
from helpers.progress import Bar

if TYPE_CHECKING:
    from helpers.bench.measured import Progress
    from helpers.bench.results.result import Result, Sweep
    from helpers.serving.poller import Record

_MOST_SAMPLES = 600  # a longer load keeps every second one of what there was, again and again
_WIDTH, _HEIGHT = 180, 30  # of a line over time, in CSS pixels


@dataclass(frozen=True)
class Sample:
    """What a load looked like at one moment; None for what nobody told.

    Attributes:
        seconds: since the load generator was started.
        run: 0 in the warm-up.
        tokens_per_second: over about the last second, chunks counted.
        ttft: median of the latest answers, in seconds.
        in_flight: requests that the load generator waits for.
        active, queued, kv_used, kv_blocks: as the engine told last.
    """

    seconds: float
    run: int
    tokens_per_second: float
    ttft: float | None
    in_flight: int
    active: int | None = None
    queued: int | None = None
    kv_used: int | None = None
    kv_blocks: int | None = None

    @classmethod
    def of(cls, seconds: float, progress: "Progress", record: "Record | None") -> "Sample":
        """From what the load generator and the engine told last."""
        told = (None,) * 4 if record is None else (record.active, record.queued, record.kv_used, record.kv_blocks)
        return cls(seconds, progress.run, progress.tokens_per_second, progress.ttft, progress.in_flight, *told)


@dataclass(frozen=True)
class _Line:
    """A figure over time: its name with the unit, its value at a moment, and how that is written."""

    name: str
    value: Callable[[Sample], float | None]
    text: Callable[[float], str] = lambda value: f"{value:,.0f}"


_LINES = (
    _Line("tokens/s (chunks counted)", lambda one: one.tokens_per_second),
    _Line("TTFT, latest answers (ms)", lambda one: None if one.ttft is None else 1000 * one.ttft),
    _Line("requests in flight", lambda one: one.in_flight),
    _Line("requests active in the engine", lambda one: one.active),
    _Line("requests queued in the engine", lambda one: one.queued),
    _Line("KV blocks used", lambda one: one.kv_used),
)


@dataclass(frozen=True, repr=False)
class Panel(Shown):
    """A load's figures over time: each its own line, and the same in numbers.

    The lines are drawn here and not by matplotlib, which would take much of a core, again and again, beside the server
    that is measured.

    Attributes:
        samples: oldest first.
    """

    samples: Sequence[Sample]

    def table(self) -> Table:
        """Each figure's last, least and greatest value."""
        rows = []
        for line, values in self._told():
            kept = [value for value in values if value is not None]
            rows.append([line.name, *(line.text(value) for value in (kept[-1], min(kept), max(kept)))])
        return Table(("figure", "now", "least", "most"), rows, self._caption)

    @property
    def _caption(self) -> str:
        seconds = self.samples[-1].seconds - self.samples[0].seconds if self.samples else 0.0
        blocks = next((one.kv_blocks for one in reversed(self.samples) if one.kv_blocks), None)
        cache = f"; the cache has {blocks:,} KV blocks" if blocks else ""
        return f"measured: the last load over {seconds:.0f} s, warm-up included{cache}"

    def _told(self) -> list[tuple[_Line, list[float | None]]]:
        """The lines that somebody told anything of."""
        found = [(line, [line.value(one) for one in self.samples]) for line in _LINES]
        return [(line, values) for line, values in found if any(value is not None for value in values)]

    def __str__(self) -> str:
        return str(self.table()) if self.samples else "No figure has come yet."

    def _repr_html_(self) -> str:
        if not self.samples:
            return "<p>No figure has come yet.</p>"
        cell = "padding:0.1em 0.8em;text-align:{}"
        head = "".join(
            f"<th scope='col' style='{cell.format('left' if name in ('figure', 'over time') else 'right')}'>{name}</th>"
            for name in ("figure", "now", "least", "most", "over time")
        )
        rows = ""
        for row, (line, values) in zip(self.table().rows, self._told(), strict=True):
            name, *numbers = (html.escape(str(one)) for one in row)
            alt = f"{line.name} over time: now {row[1]}, between {row[2]} and {row[3]}"
            rows += f"<tr><th scope='row' style='{cell.format('left')};font-weight:500'>{name}</th>"
            rows += "".join(f"<td style='{cell.format('right')}'>{number}</td>" for number in numbers)
            rows += (
                f"<td style='{cell.format('left')}'>{_drawn([one.seconds for one in self.samples], values, alt)}</td>"
            )
        style = "border-collapse:collapse;margin:0.3em 0;font-variant-numeric:tabular-nums"
        caption = f"<caption style='text-align:left;caption-side:top'>{html.escape(self._caption)}</caption>"
        return f"<table style='{style}'>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _drawn(times: Sequence[float], values: Sequence[float | None], alt: str) -> str:
    """A line over time as an image; from 0 to the greatest value."""
    begin, length = times[0], max(times[-1] - times[0], 0.001)
    most = max([value for value in values if value is not None] + [1e-9])
    points = " ".join(
        f"{2 + (_WIDTH - 4) * (when - begin) / length:.1f},{_HEIGHT - 2 - (_HEIGHT - 4) * value / most:.1f}"
        for when, value in zip(times, values, strict=True)
        if value is not None
    )
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{_HEIGHT}'>"
        f"<path d='M2 {_HEIGHT - 1.5}H{_WIDTH - 2}' stroke='#7f7f7f' stroke-width='1'/>"
        f"<polyline points='{points}' fill='none' stroke='{COLOURS[0]}' stroke-width='2'/></svg>"
    )
    # Middle tones without a ground: as an image it is right on light and on dark.
    data = base64.b64encode(svg.encode()).decode()
    return f"<img alt='{html.escape(alt, quote=True)}' src='data:image/svg+xml;base64,{data}'>"


class Session:
    """A server, the loads that were measured on it, and the one under way.

    Attributes:
        subject: what is measured.
        results: of the loads that have ended, oldest first.
        samples: of the load under way, or of the last one.
        bar: what that one tells now; None before the first.
        busy: True while one is under way.
        sentence: how things stand; empty before the first load.
    """

    def __init__(
        self,
        endpoint: Any,
        results: "Sequence[Result]" = (),
        changed: Callable[[], None] = lambda: None,
        wanted: Callable[[], bool] = lambda: True,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        """Nothing is sent before :meth:`start`.

        Args:
            endpoint: see :func:`helpers.bench.running.run`.
            results: to begin with.
            changed: called after every change, in the thread of the load.
            wanted: False once nobody looks any more: the load under way is then ended.
            program: the load generator.

        Raises:
            WorkshopError: nothing that can be measured.
        """
        self.endpoint, self.subject = endpoint, Subject.of(endpoint)
        self.results: list[Result] = list(results)
        self.samples: list[Sample] = []
        self.bar: Bar | None = None
        self.busy = False
        self.sentence = ""
        self._changed, self._wanted, self._program = changed, wanted, program
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._measuring: Measuring | None = None

    def start(self, **asked: Any) -> bool:
        """Begin a load, and return at once; False, with a sentence, where there is none to begin.

        Args:
            asked: as for :func:`helpers.bench.running.run`.
        """
        with self._lock:  # two clicks may come in two threads
            if self.busy:
                return False
            try:
                measuring = Measuring(Subject.of(self.endpoint), load_of(None, asked), program=self._program)
            except WorkshopError as problem:
                self._say(str(problem))
                return False
            self._measuring, self.samples, self.bar, self.busy = measuring, [], None, True
            self._thread = threading.Thread(target=self._work, args=(measuring,), name="workshop-bench", daemon=True)
        self._say(f"Measuring: {measuring.load.kind}.")
        self._thread.start()
        return True

    def stop(self) -> None:
        """End the load so that what was measured is kept; the second time, give it up."""
        measuring = self._measuring
        if self.busy and measuring is not None:
            measuring.stop()
            self._say("Stopping; what was measured is kept. Stop again to give it up.")

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the load has ended, for at most some seconds; True if it has."""
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.busy

    def clear(self) -> None:
        """Take the results off the list (they stay in the workspace); does nothing while a load is under way."""
        with self._lock:
            if self.busy:
                return
            self.results, self.samples, self.bar = [], [], None
        self._say("The list is empty; the results are still in the workspace.")

    @property
    def sweep(self) -> "Sweep | None":
        """All results in one; None where there is none."""
        from helpers.bench.results.result import Sweep

        return Sweep(self.results) if self.results else None

    def panel(self) -> Panel:
        """The load under way, or the last one, over time."""
        return Panel(tuple(self.samples))

    def show(self, bar: Bar) -> None:
        """Take in a moment of the load under way."""
        self.bar, measuring = bar, self._measuring
        progress = measuring.child.progress if measuring is not None and measuring.child is not None else None
        if measuring is not None and progress is not None:
            self.samples.append(Sample.of(bar.elapsed, progress, measuring.record()))
            if len(self.samples) > _MOST_SAMPLES:
                self.samples = self.samples[::2]
        if measuring is not None and not self._wanted() and not measuring.stopping:
            measuring.stop()  # once: a second time would give up what was measured
        self._changed()

    def run_ended(self, title: str, number: int, requests: int, failed: int) -> None:
        """A run of the load has ended; the bar tells."""

    def _work(self, measuring: Measuring) -> None:
        """The thread: one load. Whatever goes wrong becomes a sentence: nobody sees a thread's traceback."""
        said = ""
        try:
            result = measuring.result(self)
            self.results.append(result)
            ended = "Stopped; what was measured is kept." if result.interrupted else "Done."
            said = f"{ended} {result.sentence}"
        except GivenUp as problem:
            said = str(problem)
        except WorkshopError as problem:
            said = f"⚠ {problem}"
        except Exception as problem:
            said = f"⚠ This load could not be measured: {type(problem).__name__}: {problem}"
        finally:
            self.busy = False
            self._say(said)

    def _say(self, sentence: str) -> None:
        self.sentence = sentence
        self._changed()
