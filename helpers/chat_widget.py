"""A chat with a served engine, and a question to two engines at once (notebook 07).

Each is a thin view over :mod:`helpers.serving.exchange`: the answer is read in a daemon thread, so the kernel stays
free for other cells, and nothing outlives it. Where no browser can draw a widget, one question is asked for real, and
the exchange is shown as it would be in JupyterLab.
"""

import html
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from helpers.cards import Shown
from helpers.errors import WorkshopError
from helpers.serving import chat as chats
from helpers.serving.chat import DRAWN_EVERY, Comparison
from helpers.serving.exchange import Endpoint, Exchange, title
from helpers.serving.reply import INTERRUPTED, Asked, ChatError, Reply
from helpers.widgets import button, has_front_end, wide

EXAMPLE = "What is TensorRT-LLM?"
"""What is asked where nobody can type a question."""

_VIEW = "application/vnd.jupyter.widget-view+json"
_REFUSED = 400
_LONGEST = 4096  # tokens at the end of the answer's control
_TURNS = ("one after the other", "both at once")


def chat(endpoint: Endpoint, max_tokens: int = 256, temperature: float = 0.0) -> "Chat":
    """A chat with a served engine; where no browser draws it, one question and its answer.

    Args:
        endpoint: what answers; see :class:`helpers.serving.exchange.Endpoint`.
        max_tokens: tokens of an answer, at most, to begin with.
        temperature: to begin with; 0 always takes the likeliest token.

    Raises:
        WorkshopError: a number that no server takes.
        ChatError: there is no browser, and the question failed; see :func:`helpers.serving.chat.ask`.
    """
    made = Chat(endpoint, max_tokens, temperature)
    if not has_front_end():
        made.turns.append(Turn(EXAMPLE, chats.ask(endpoint, EXAMPLE, max_tokens, temperature, show=False)))
        made.draw()
    return made


def versus(left: Endpoint, right: Endpoint, max_tokens: int = 128, temperature: float = 0.0) -> "Versus":
    """One question to two served engines, such as FP16 and FP8, with their answers beside each other.

    Args:
        left, right: what answers.
        max_tokens, temperature: as for :func:`chat`.

    Raises:
        WorkshopError: a number that no server takes.
        ChatError: as :func:`chat`.
    """
    made = Versus(left, right, max_tokens, temperature)
    if not has_front_end():
        made.compared = chats.side_by_side(
            EXAMPLE, left, right, max_tokens=max_tokens, temperature=temperature, show=False
        )
        made.replies = list(made.compared.replies)
        made.draw()
    return made


class _Asking(Shown):
    """A field for a question, its controls, and a thread that works on one question at a time.

    Attributes:
        controls: ``prompt``, ``max_tokens`` and ``temperature``.
        buttons: ``send``, ``stop`` and ``clear``.
        output: shows what was said.
        status: shows one sentence, which a screen reader reads out when it changes.
        box: all of them.
        busy: True while an answer comes.
    """

    what = "chat"

    def __init__(self, max_tokens: int, temperature: float) -> None:
        import ipywidgets

        Asked(EXAMPLE, max_tokens, temperature)  # raises what no server takes
        self.controls: dict[str, Any] = {
            "prompt": ipywidgets.Text(
                description="Question", placeholder="Type a question, then press Enter", **wide("40em")
            ),
            "max_tokens": ipywidgets.BoundedIntText(
                max_tokens, min=1, max=max(_LONGEST, max_tokens), description="Max tokens", **wide("14em")
            ),
            "temperature": ipywidgets.FloatSlider(
                temperature, min=0, max=2, step=0.1, description="Temperature", continuous_update=False, **wide("24em")
            ),
        }
        self.buttons = {
            "send": button("Send", "Ask this question", self.send, "primary"),
            "stop": button("Stop", "Break the answer off", self.stop),
            "clear": button("Clear", "Forget what was said", self.clear),
        }
        self.buttons["stop"].disabled = True
        self.controls["prompt"].on_msg(self._typed)
        self.output, self.status = ipywidgets.HTML(), ipywidgets.HTML()
        asked = ipywidgets.HBox([self.controls["prompt"], *self.buttons.values()], layout={"flex_flow": "row wrap"})
        self._settings = [self.controls["max_tokens"], self.controls["temperature"]]
        self.box = ipywidgets.VBox([self.output, self.status, asked])
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.busy = False
        self._stopping = threading.Event()
        self._exchanges: list[Exchange] = []

    def _lay_out(self, *more: Any) -> None:
        """Put the settings below the question."""
        import ipywidgets

        row = ipywidgets.HBox([*self._settings, *more], layout={"flex_flow": "row wrap"})
        self.box.children = (*self.box.children, row)

    def send(self, question: str | None = None) -> None:
        """Ask what stands in the field (or a question given here); does nothing while an answer comes."""
        # Messages of a browser may arrive in several threads: only one of them may start an answer.
        with self._lock:
            if self.busy:
                return
            text = (self.controls["prompt"].value if question is None else question).strip()
            if not text:
                self._say("Type a question first.")
                return
            self._stopping.clear()
            self._thread = threading.Thread(target=self._work, args=(text,), name="workshop-widget", daemon=True)
            self._set_busy(True)
            self.controls["prompt"].value = ""
            self._thread.start()

    def stop(self) -> None:
        """Break the answer off; closing its connection frees the server's slot."""
        self._stopping.set()
        for exchange in self._exchanges:
            exchange.stop()

    def clear(self) -> None:
        """Forget what was said; does nothing while an answer comes."""
        with self._lock:
            if not self.busy:
                self._forget()
                self._say("")
                self.draw()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the answer has ended, for at most some seconds; True if it has."""
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.busy

    def close(self) -> None:
        """Stop, and take the widget off the page."""
        self.stop()
        self.box.close()

    def draw(self) -> None:
        """Show what was said."""
        self.output.value = self.shown_html()

    def shown_html(self) -> str:
        """What was said, as HTML."""
        raise NotImplementedError

    def _answer(self, question: str) -> str:
        """Ask, draw while the answer comes, and return the sentence to end with."""
        raise NotImplementedError

    def _forget(self) -> None:
        raise NotImplementedError

    def _work(self, question: str) -> None:
        """The thread: one question. Whatever goes wrong becomes a sentence, since nobody sees a thread's traceback."""
        try:
            said = self._answer(question)
        except WorkshopError as problem:
            said = str(problem)
        except Exception as problem:
            said = f"The question could not be asked: {type(problem).__name__}: {problem}"
        try:
            self.draw()
            self._say(said)
        finally:
            self._exchanges = []
            self._set_busy(False)

    def _asked(self, prompt: Any) -> Asked:
        """The question with the controls' values."""
        return Asked(prompt, self.controls["max_tokens"].value, round(self.controls["temperature"].value, 2))

    def _run(self, exchanges: Sequence[Exchange], draw: Callable[[], None]) -> None:
        """Start exchanges and draw until all have ended; they stop with the button and with the widget."""
        self._exchanges = list(exchanges)
        for exchange in exchanges:
            exchange.start()
        for exchange in exchanges:
            while not exchange.wait(DRAWN_EVERY):
                if self._stopping.is_set() or self.box.comm is None:
                    self.stop()
                draw()

    def _typed(self, _: Any, content: Any, __: Any) -> None:
        """Ask when Enter is pressed in the field."""
        if isinstance(content, dict) and content.get("event") == "submit":
            self.send()

    def _set_busy(self, busy: bool) -> None:
        self.busy = busy
        self.buttons["send"].disabled = self.buttons["clear"].disabled = busy
        self.buttons["stop"].disabled = not busy

    def _say(self, sentence: str) -> None:
        self.status.value = (
            f"<div role='status' aria-live='polite' style='line-height:1.4'>{html.escape(sentence)}</div>"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Text and HTML always; the live view only where something can draw it, since a page would prefer it too."""
        bundle: dict[str, Any] = {"text/plain": str(self), "text/html": self._repr_html_()}
        if has_front_end():
            bundle[_VIEW] = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        return bundle

    @property
    def _note(self) -> str:
        return f"In JupyterLab this is a live {self.what}: type a question, and the answer streams in."

    def _repr_html_(self) -> str:
        return f"{self.shown_html()}<p style='margin:0.4em 0'>{html.escape(self._note)}</p>"


@dataclass
class Turn:
    """A question of the chat, and what became of it.

    Attributes:
        question: what was asked.
        reply: what was answered, so far or in whole; None before anything came.
        problem: why there is no whole answer; empty where there is one.
        sent: False once it is no longer sent along with new questions.
    """

    question: str
    reply: Reply | None = None
    problem: str = ""
    sent: bool = True

    def messages(self) -> list[dict[str, str]]:
        """The turn as messages; none where it got no answer, since a model expects the speakers to alternate."""
        if not self.sent or self.problem or self.reply is None or not self.reply.text:
            return []
        return [
            {"role": "user", "content": self.question},
            {"role": "assistant", "content": self.reply.text},
        ]

    def __str__(self) -> str:
        said = [f"You: {self.question}"]
        if self.reply and self.reply.text:
            said.append(f"{self.reply.engine}: {self.reply.text.strip()}")
        if self.reply and not self.problem:
            said.append(f"({self.reply.figures()})")
        return "\n".join([*said, *([self.problem] if self.problem else [])])

    def to_html(self) -> str:
        """The turn for a browser."""
        parts = [f"<p style='margin:0.6em 0 0.2em'><strong>You:</strong> {html.escape(self.question)}</p>"]
        if self.reply and (self.reply.text or not self.problem):
            parts.append(
                f"<p style='margin:0.2em 0;white-space:pre-wrap'><strong>{html.escape(self.reply.engine)}:</strong> "
                f"{html.escape(self.reply.text.strip())}{self.reply.cursor}</p>"
            )
        if self.reply and not self.problem:
            parts.append(f"<small>{html.escape(self.reply.figures())}</small>")
        if self.problem:
            parts.append(f"<p style='margin:0.2em 0'>⚠ {html.escape(self.problem)}</p>")
        return "".join(parts)


class Chat(_Asking):
    """A conversation with one served engine.

    Attributes:
        endpoint: what answers.
        turns: what was said, oldest first.
    """

    def __init__(self, endpoint: Endpoint, max_tokens: int, temperature: float) -> None:
        super().__init__(max_tokens, temperature)
        self._lay_out()
        self.endpoint = endpoint
        self.turns: list[Turn] = []
        self.draw()

    def messages(self) -> list[dict[str, str]]:
        """The conversation so far, as it is sent along with the next question."""
        return [message for turn in self.turns for message in turn.messages()]

    def _answer(self, question: str) -> str:
        earlier = [turn for turn in self.turns if turn.messages()]
        turn = Turn(question)
        self.turns.append(turn)
        self._say(f"{title(self.endpoint)} is answering.")
        dropped: list[Turn] = []
        while True:
            exchange = self._ask(turn, [message for one in earlier for message in one.messages()])
            failure = exchange.failure
            if not (isinstance(failure, ChatError) and failure.code == _REFUSED and earlier):
                break
            # Only the server can count the conversation's tokens: what it refuses is asked again with less before it.
            dropped.append(earlier.pop(0))
        turn.reply = exchange.reply()
        if failure is not None:
            turn.problem = self._advice(failure)
            return turn.problem
        for one in dropped:
            one.sent = False
        shortened = f" The {_count(len(dropped))} no longer fit and are not sent any more." if dropped else ""
        return (
            f"{title(self.endpoint)} {'was stopped' if turn.reply.ended == INTERRUPTED else 'has answered'}.{shortened}"
        )

    def _ask(self, turn: Turn, earlier: list[dict[str, str]]) -> Exchange:
        """Ask a question after what was said before it, and draw its answer while it comes."""
        exchange = Exchange(self.endpoint, self._asked([*earlier, {"role": "user", "content": turn.question}]))

        def draw() -> None:
            turn.reply = exchange.reply()
            self.draw()

        self._run([exchange], draw)
        return exchange

    @staticmethod
    def _advice(failure: BaseException) -> str:
        """Why there is no answer, and what to do in a chat."""
        if isinstance(failure, ChatError) and failure.code == _REFUSED:
            return f"{failure} Here: ask something shorter, or set Max tokens lower."
        return str(failure) or type(failure).__name__

    def _forget(self) -> None:
        self.turns = []

    def shown_html(self) -> str:
        """The conversation, as HTML."""
        said = "".join(turn.to_html() for turn in self.turns) or f"<p>Ask {html.escape(title(self.endpoint))}.</p>"
        # The outer box keeps its end in view when text is added, as a chat does: it is laid out from the bottom.
        # Once something is said it keeps its height: a button below must not move away from whoever wants to press it.
        label = html.escape(f"Chat with {title(self.endpoint)}", quote=True)
        height = "height:18em;" if self.turns else ""
        return (
            f"<div style='display:flex;flex-direction:column-reverse;{height}overflow:auto;line-height:1.4' "
            f"tabindex='0' role='log' aria-live='off' aria-label='{label}'>"
            f"<div>{said}</div></div>"
        )

    def __str__(self) -> str:
        return "\n\n".join([f"Chat with {title(self.endpoint)}", *map(str, self.turns), self._note])


class Versus(_Asking):
    """One question to two served engines.

    Attributes:
        endpoints: what answers, left and right.
        replies: their latest answers, so far or in whole.
        problems: why an engine gave no whole answer, a sentence each.
        compared: both answers compared, once both are whole; None before.
    """

    what = "comparison"

    def __init__(self, left: Endpoint, right: Endpoint, max_tokens: int, temperature: float) -> None:
        import ipywidgets

        super().__init__(max_tokens, temperature)
        self.controls["turns"] = ipywidgets.ToggleButtons(
            options=_TURNS,
            value=_TURNS[0],
            description="Ask",
            tooltips=("Each engine has the machine to itself", "The engines share the machine"),
            **wide("28em"),
        )
        self._lay_out(self.controls["turns"])
        self.endpoints = (left, right)
        self.replies: list[Reply] = []
        self.problems: list[str] = []
        self.compared: Comparison | None = None
        self.draw()

    @property
    def together(self) -> bool:
        """True where both are asked at once."""
        return bool(self.controls["turns"].value == _TURNS[1])

    def _answer(self, question: str) -> str:
        self._forget()
        together, asked = self.together, self._asked(question)
        exchanges = [Exchange(endpoint, asked) for endpoint in self.endpoints]
        self._say(f"{' and '.join(self._titles())} are asked, {self.controls['turns'].value}.")

        def draw() -> None:
            self.replies = chats.named_apart([exchange.reply() for exchange in exchanges])
            self.draw()

        for group in [exchanges] if together else [[exchange] for exchange in exchanges]:
            if not self._stopping.is_set():
                self._run(group, draw)
        draw()
        self.problems = [str(exchange.failure) for exchange in exchanges if exchange.failure]
        if self.problems:
            return " ".join(self.problems)
        if not all(reply.ended and reply.ended != INTERRUPTED for reply in self.replies):
            return "Stopped, so nothing is compared."
        self.compared = Comparison(tuple(self.replies), together)
        return self.compared.sentence

    def _titles(self) -> list[str]:
        return [title(endpoint) for endpoint in self.endpoints]

    def _forget(self) -> None:
        self.replies, self.problems, self.compared = [], [], None

    def shown_html(self) -> str:
        """Both answers beside each other, as HTML."""
        if self.compared:
            # The sentence below the table stands in `status` as well, where it is read out.
            figures = replace(self.compared.table(), note="")._repr_html_()
            return chats.columns(self.compared.replies, figures=False) + figures
        if not self.replies:
            return f"<p>Ask {html.escape(' and '.join(self._titles()))} the same.</p>"
        told = "".join(f"<p style='margin:0.2em 0'>⚠ {html.escape(problem)}</p>" for problem in self.problems)
        return f"<div aria-live='off'>{chats.columns(self.replies)}</div>{told}"

    def _repr_html_(self) -> str:
        said = f"<p>{html.escape(self.compared.sentence)}</p>" if self.compared else ""
        return self.shown_html() + said + f"<p style='margin:0.4em 0'>{html.escape(self._note)}</p>"

    def __str__(self) -> str:
        said = [str(self.compared)] if self.compared else [*map(str, self.replies), *self.problems]
        return "\n\n".join([" | ".join(self._titles()), *said, self._note])


def _count(exchanges: int) -> str:
    return "oldest question and its answer" if exchanges == 1 else f"{exchanges} oldest questions and their answers"
