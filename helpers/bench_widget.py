"""A dashboard that puts a load on a served engine, and shows what becomes of it (notebook 08).

It is a thin view over :class:`helpers.bench.session.Session`: the load runs in a thread, and its generator in a process
of its own, so the kernel stays free. Where no browser can draw a widget, the results there are stand in its place.
"""

import html
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from helpers.bench.load import Lengths, Load
from helpers.bench.session import Session
from helpers.cards import Shown
from helpers.errors import WorkshopError
from helpers.widgets import button, has_front_end, wide

if TYPE_CHECKING:
    from helpers.bench.results.result import Result

_VIEW = "application/vnd.jupyter.widget-view+json"
_MOST_USERS = 1024  # at the end of the concurrency's slider, unless it starts further out
_BEGIN = "Set a load, then press Start."
_NOTE = (
    "In JupyterLab this is a live dashboard: set a load, press Start, and watch tokens/s, TTFT, the queue and the KV "
    "blocks while it runs."
)


def dashboard(
    endpoint: Any,
    results: "Iterable[Result]" = (),
    *,
    concurrency: int = 8,
    input: int | str = 128,
    output: int | str = 128,
    requests: int | None = None,
) -> "Dashboard":
    """A dashboard of one server; where no browser draws it, the results that there are.

    Args:
        endpoint: from ``serving.start``, or a URL.
        results: to begin with, such as a sweep. Without any, and without a browser, the latest that the workspace has
            of this engine.
        concurrency, input, output, requests: the load that the controls show at first; see
            :class:`helpers.bench.load.Load`.

    Raises:
        WorkshopError: no such load, or nothing that can be measured.
    """
    made = Dashboard(endpoint, results, concurrency, input, output, requests)
    if not made.session.results and not has_front_end():
        made.session.results = latest(made.session)
        made.draw()
    return made


def latest(session: Session) -> "list[Result]":
    """What the workspace has of a session's server: the last result of each load, in the order of their load."""
    from helpers.bench.results import result

    subject, found = session.subject, {}
    for one in result.every():  # oldest first: a later one takes the place of an earlier
        its = (subject.title and one.title == subject.title) or one.target.get("url") == subject.url
        if its and one.load.profile is None:  # which is no point of the curve that is drawn
            found[one.load.kind] = one
    return sorted(found.values(), key=lambda one: (one.load.concurrency or 0, one.load.rate or 0.0))


class Dashboard(Shown):
    """Controls over a session, and what it shows.

    Attributes:
        session: what does the work.
        controls: ``concurrency``, ``input``, ``output``, ``requests`` and ``runs``.
        buttons: ``start``, ``stop`` and ``clear``.
        status: shows one sentence, which a screen reader reads out when it changes.
        live: shows the load under way.
        output: shows the results.
        box: all of them.
    """

    def __init__(
        self,
        endpoint: Any,
        results: "Iterable[Result]" = (),
        concurrency: int = 8,
        input: int | str = 128,
        output: int | str = 128,
        requests: int | None = None,
        program: Any = None,
    ) -> None:
        """Nothing is sent before Start is pressed.

        Args:
            endpoint, results, concurrency, input, output, requests: see :func:`dashboard`.
            program: the load generator, if it is not the usual one.
        """
        import ipywidgets

        Load(concurrency=concurrency, input_tokens=Lengths.of(input), output_tokens=Lengths.of(output))
        most = max(_MOST_USERS, concurrency)
        self.controls: dict[str, Any] = {
            "concurrency": ipywidgets.IntSlider(
                concurrency, min=1, max=most, description="Concurrency", continuous_update=False, **wide("34em")
            ),
            "input": ipywidgets.Text(str(input), description="Prompt (tokens)", **wide("15em")),
            "output": ipywidgets.Text(str(output), description="Answer (tokens)", **wide("15em")),
            "requests": ipywidgets.BoundedIntText(
                requests or 0, min=0, max=1_000_000, description="Requests (0: four each)", **wide("17em")
            ),
            "runs": ipywidgets.BoundedIntText(1, min=1, max=100, description="Runs", **wide("9em")),
        }
        self.buttons = {
            "start": button("Start", "Put this load on the server", self.start, "primary"),
            "stop": button("Stop", "End the load and keep what was measured; again: give it up", self.stop),
            "clear": button("Clear", "Empty the list; the results stay in the workspace", self.clear),
        }
        self.status, self.live, self.output = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        lengths = [self.controls[name] for name in ("input", "output", "requests", "runs")]
        rows = ([self.controls["concurrency"], *self.buttons.values()], lengths)
        laid = [ipywidgets.HBox(row, layout={"flex_flow": "row wrap"}) for row in rows]
        self.box = ipywidgets.VBox([*laid, self.status, self.live, self.output])
        more = {} if program is None else {"program": program}
        self._drawn: list[Any] = []
        self.session = Session(endpoint, list(results), self.draw, lambda: self.box.comm is not None, **more)
        self.draw()

    def start(self) -> None:
        """Put the load that the controls show on the server; does nothing while one is under way."""
        self.session.start(**self.asked())

    def asked(self) -> dict[str, Any]:
        """The load that the controls show."""
        values = {name: control.value for name, control in self.controls.items()}
        return {**values, "requests": values["requests"] or None}

    def stop(self) -> None:
        """End the load and keep what was measured; the second time, give it up."""
        self.session.stop()

    def clear(self) -> None:
        """Empty the list of results."""
        self.session.clear()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the load has ended, for at most some seconds; True if it has."""
        return self.session.wait(seconds)

    def close(self) -> None:
        """End the load, and take the dashboard off the page."""
        self.box.close()  # the session sees that nobody looks any more

    def draw(self) -> None:
        """Show how things stand; the results only where they have changed, since their picture takes a while."""
        session = self.session
        if self.box.comm is None:
            return  # it was taken off the page
        self.buttons["start"].disabled = self.buttons["clear"].disabled = session.busy
        self.buttons["stop"].disabled = not session.busy
        # Written only where it differs: a screen reader reads out each writing.
        said = (
            f"<div role='status' aria-live='polite' style='line-height:1.4'>{_lines(session.sentence or _BEGIN)}</div>"
        )
        if self.status.value != said:
            self.status.value = said
        bar = session.bar._repr_html_() if session.bar and session.busy else ""
        self.live.value = bar + (session.panel()._repr_html_() if session.samples else "")
        if self._drawn != session.results or not self.output.value:
            self._drawn = list(session.results)
            self.output.value = self._results_html()

    def shown(self) -> "list[Shown]":
        """The results as a curve and a table; the table alone where no load gave a latency to draw."""
        swept = self.session.sweep
        if swept is None:
            return []
        try:
            return [swept.plot(), swept]
        except WorkshopError:
            return [swept]

    def _results_html(self) -> str:
        return "".join(one._repr_html_() for one in self.shown()) or "<p>No result yet.</p>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Mapping[str, Any]:
        """Text and HTML always; the live view only where something can draw it, since a page would prefer it too."""
        bundle: dict[str, Any] = {"text/plain": str(self), "text/html": self._repr_html_()}
        if has_front_end():
            bundle[_VIEW] = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        return bundle

    def _repr_html_(self) -> str:
        said = "".join(f"<p style='margin:0.4em 0'>{_lines(one)}</p>" for one in (self.session.sentence, _NOTE) if one)
        live = self.session.panel()._repr_html_() if self.session.samples else ""
        return live + self._results_html() + said

    def __str__(self) -> str:
        session, shown = self.session, list(map(str, self.shown())) or ["No result yet."]
        live = [str(session.panel())] if session.samples else []
        return "\n\n".join(part for part in (*live, *shown, session.sentence, _NOTE) if part)


def _lines(text: str) -> str:
    """A sentence as HTML; several lines, such as those of a log, stay apart."""
    return html.escape(text).replace("\n", "<br>")
