"""The benchmark that one would write first, as the talk's was, and what it gets wrong (notebook 08).

It is run, not argued about: :func:`run` loads the same server with ``helpers/workers/naive_benchmark.py``, and
:meth:`Naive.beside` sets its figures beside those of the load generator, mistake by mistake.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from helpers import processes
from helpers.bench.results.figures import Spread
from helpers.bench.results.metrics import number
from helpers.cards import Card, Shown, ShownAsTable, Table
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.bench.results.result import Result

WORKER = Path(__file__).parents[1] / "workers" / "naive_benchmark.py"

_LIMIT = 600.0  # seconds for all of it
_SAME = 0.02  # of a figure: less than that is no effect
_NONE = "–"


@dataclass(frozen=True)
class Asked:
    """One request as the naive program saw it.

    Attributes:
        ttft: seconds from before the call to its first chunk; None if none came.
        chunks: that carried a choice.
        tokens, prompt_tokens: as the server counted; None if it did not tell.
        error: what went wrong; empty if nothing.
    """

    ttft: float | None
    chunks: int
    tokens: int | None
    prompt_tokens: int | None
    error: str = ""


@dataclass(frozen=True)
class Wave:
    """Requests that were started at once.

    Attributes:
        seconds: until the last of them had ended.
        requests: all of them.
    """

    seconds: float
    requests: Sequence[Asked]


@dataclass(frozen=True, repr=False)
class Naive(Shown):
    """What the naive program measured, and what it could not see.

    Attributes:
        url: of the server.
        concurrency: requests started at once.
        input_tokens, output_tokens: asked for.
        waves: one after the other.
        seconds: of all waves.
        cpu_seconds: that the program itself used in that time.
        prompt: how its one prompt begins.
        decoded: True if the prompt is token ids decoded; False if it is numbers.
    """

    url: str
    concurrency: int
    input_tokens: int
    output_tokens: int
    waves: Sequence[Wave]
    seconds: float
    cpu_seconds: float
    prompt: str = ""
    decoded: bool = True

    @property
    def answered(self) -> list[Asked]:
        """The requests that brought something and no error."""
        return [one for wave in self.waves for one in wave.requests if one.ttft is not None and not one.error]

    @property
    def failed(self) -> int:
        """The others."""
        return sum(len(wave.requests) for wave in self.waves) - len(self.answered)

    @property
    def mean_ttft(self) -> float:
        """The only latency that it reports, in seconds."""
        return fmean(one.ttft for one in self.answered if one.ttft is not None)

    @property
    def ttft(self) -> Spread:
        """What it could have reported, in seconds."""
        return Spread.of(one.ttft for one in self.answered)

    @property
    def chunks(self) -> int:
        """What it takes for tokens."""
        return sum(one.chunks for one in self.answered)

    @property
    def tokens(self) -> int | None:
        """Tokens as the server counted them; None unless it told them of every answer."""
        told = [one.tokens for one in self.answered]
        return None if None in told else sum(filter(None, told))

    @property
    def tokens_per_second(self) -> float:
        """Its throughput: chunks over the time of all waves."""
        return self.chunks / self.seconds

    def beside(self, result: "Result") -> "Beside":
        """Its figures beside those of the load generator, at the same server and the same concurrency.

        Args:
            result: from :func:`helpers.bench.run`.

        Raises:
            WorkshopError: the result is of another concurrency, or has no whole answer.
        """
        if result.load.concurrency != self.concurrency:
            raise WorkshopError(
                f"The naive program had {self.concurrency} requests at once, and this result is of "
                f"another load: {result.load.kind}. Measure concurrency {self.concurrency} and compare with that."
            )
        if not result.summary.whole:
            raise WorkshopError("This result has no whole answer, so there is nothing to compare with. Measure again.")
        return Beside(self, result)

    def card(self) -> Card:
        """What the program prints, and what it does not."""
        ttft = self.ttft
        facts = {
            "mean TTFT": f"{_ms(self.mean_ttft)} ms",
            "tokens/s": f"{number(self.tokens_per_second)} (chunks over time)",
            "requests": f"{len(self.answered):,} in waves of {self.concurrency}, {self.failed:,} failed",
            "its prompt": self.prompt[:40] + "…",
        }
        note = (
            f"The mean hides a range: of {ttft.n:,} requests the fastest had its first token after {_ms(ttft.least)} "
            f"ms, the slowest after {_ms(ttft.most)} ms."
        )
        return Card(f"The naive benchmark: concurrency {self.concurrency}, measured", facts, note)

    def __str__(self) -> str:
        return str(self.card())

    def _repr_html_(self) -> str:
        return self.card()._repr_html_()


@dataclass(frozen=True)
class Effect:
    """What one mistake does to a figure.

    Attributes:
        mistake: in a few words.
        figure: which one it spoils, with its unit.
        naive, right: the figure with and without the mistake.
        told: a sentence on it.
    """

    mistake: str
    figure: str
    naive: str
    right: str
    told: str


@dataclass(frozen=True, repr=False)
class Beside(ShownAsTable):
    """The naive benchmark beside the load generator: one row a mistake."""

    naive: Naive
    result: "Result"

    @property
    def effects(self) -> list[Effect]:
        """One for each mistake; computed from the two measurements."""
        return [self._chunks(), self._at_once(), self._mean(), self._prompt(), self._warm_up()]

    @property
    def sentence(self) -> str:
        """What the mistakes do together, here."""
        return " ".join([*(one.told for one in self.effects), self._client()]).strip()

    def table(self) -> Table:
        """One row a mistake."""
        rows = [(one.mistake, one.figure, one.naive, one.right) for one in self.effects]
        caption = f"Measured: the naive benchmark and ours, concurrency {self.naive.concurrency}"
        return Table(("mistake", "figure", "naive", "without it"), rows, caption, self.sentence)

    def _chunks(self) -> Effect:
        naive = self.naive
        told, made = naive.tokens, naive.chunks
        wrong = number(naive.tokens_per_second)
        named = ("counts chunks as tokens", "output tokens/s")
        if told is None:
            return Effect(
                *named, wrong, _NONE, "The server did not count its tokens, so nobody knows how many chunks had."
            )
        right = number(told / naive.seconds)
        if told == made:
            text = f"Here every chunk is one token ({made:,} of both), so counting chunks does no harm: at this server."
        else:
            way = "too low" if made < told else "too high"
            text = (
                f"It counted {made:,} chunks for {told:,} tokens, so its tokens/s are {abs(made / told - 1):.1%} {way}."
            )
        return Effect(*named, wrong, right, text)

    def _at_once(self) -> Effect:
        """Its TTFT against that of requests that met a server in its stride, mean against mean."""
        figures = self.result.figures
        waits = [row.ttft for run in self.result.runs for row in run.rows if row.ok and row.ttft is not None]
        later = [row for run in self.result.runs for row in run.rows if row.ok and not row.first_wave]
        steady = [row.ttft for row in later if row.ttft is not None] or waits
        wrong, right = self.naive.mean_ttft, fmean(steady)
        named = ("starts all at once", "TTFT, mean, ms")
        if bound := next((one.client_bound for one in figures if one.client_bound), ""):
            return Effect(*named, _ms(wrong), "client-bound", f"Our client could not keep up ({bound}): no comparison.")
        if self.naive.concurrency == 1:
            text = "One request at a time has no queue to wait in"
            text += f", so the mean TTFT stays comparable: {_ms(wrong)} against {_ms(right)} ms."
            return Effect(*named, _ms(wrong), _ms(right), text)
        if wrong > (1 + _SAME) * right:
            text = (
                f"Started all at once, its requests wait for each other: a mean TTFT of {_ms(wrong)} ms, where "
                f"requests that come one by one wait {_ms(right)} ms ({wrong / right:.1f} times){self._longer()}."
            )
        elif wrong < (1 - _SAME) * right:
            text = (
                f"Started all at once, its requests had their first token after {_ms(wrong)} ms on average, sooner "
                f"than the {_ms(right)} ms of requests that come one by one: those meet a server that is generating."
            )
        else:
            text = f"Starting all at once makes no difference here: {_ms(wrong)} against {_ms(right)} ms."
        return Effect(*named, _ms(wrong), _ms(right), text)

    def _longer(self) -> str:
        """What else lengthens its TTFT: prompts that are longer than ours; empty if they are not."""
        own = [one.prompt_tokens for one in self.naive.answered if one.prompt_tokens is not None]
        ours = [figures.prompt.mean for figures in self.result.figures if figures.prompt.mean is not None]
        times = own[0] / fmean(ours) if own and ours else 1.0
        return f"; its prompts are also {times:.1f} times as long" if times > 1 + 2 * _SAME else ""

    def _mean(self) -> Effect:
        """Its own requests: the mean against what it hides."""
        ttft, mean = self.naive.ttft, self.naive.mean_ttft
        worst = ttft.p99 if ttft.p99 is not None else ttft.most
        name = "p99" if ttft.p99 is not None else "slowest"
        assert worst is not None
        if worst > (1 + _SAME) * mean:
            text = (
                f"Its mean of {_ms(mean)} ms hides that the {name} of its {ttft.n:,} requests waited {_ms(worst)} ms."
            )
        else:
            text = f"Its requests waited alike ({name}: {_ms(worst)} ms), so the mean of {_ms(mean)} ms hides nothing."
        return Effect("reports the mean only", "TTFT, ms", _ms(mean), f"p50 {_ms(ttft.p50)}, {name} {_ms(worst)}", text)

    def _prompt(self) -> Effect:
        """How long its prompt really was; it is the same for all."""
        naive = self.naive
        told = [one.prompt_tokens for one in naive.answered if one.prompt_tokens is not None]
        ours = [figures.prompt.mean for figures in self.result.figures if figures.prompt.mean is not None]
        way = "token ids 0, 1, 2, … decoded" if naive.decoded else "the numbers 0, 1, 2, …"
        text = f"Its {len(naive.answered):,} prompts are one text, {way}: a server that reuses KV blocks reads it once."
        if told and told[0] != naive.input_tokens:
            text += f" It has {told[0]:,} tokens where {naive.input_tokens:,} were asked for."
        elif told:
            text += f" It has the {naive.input_tokens:,} tokens that were asked for."
        return Effect(
            "one prompt for all, of token ids" if naive.decoded else "one prompt for all, of numbers",
            f"prompt tokens, {naive.input_tokens:,} asked",
            f"{told[0]:,}" if told else _NONE,
            f"{fmean(ours):,.0f}" if ours else _NONE,
            text,
        )

    def _warm_up(self) -> Effect:
        """Its first wave, which had only one token of warm-up, against its later ones."""
        first, *later = [wave for wave in self.naive.waves if any(one.ttft for one in wave.requests)]
        named = ("warms up with one token", "TTFT, mean, ms")
        mean = fmean(one.ttft for one in first.requests if one.ttft is not None)
        waits = [one.ttft for wave in later for one in wave.requests if one.ttft is not None]
        if not waits:
            return Effect(
                *named, _ms(mean), _NONE, "It made one wave only, so what a longer warm-up changes is not known."
            )
        after = fmean(waits)
        if mean > (1 + _SAME) * after:
            text = (
                f"Its first wave waited {_ms(mean)} ms on average and the later ones {_ms(after)} ms: one token was no "
                "warm-up."
            )
        elif mean < (1 - _SAME) * after:
            text = f"Its first wave was no slower ({_ms(mean)} against {_ms(after)} ms): the short warm-up did no harm."
        else:
            text = f"Its first wave waited as long as the later ones ({_ms(mean)} and {_ms(after)} ms): no harm here."
        return Effect(*named, _ms(mean), _ms(after), text)

    def _client(self) -> str:
        """What its own work may have added."""
        busy = self.naive.cpu_seconds / self.naive.seconds
        ours = [run.health.busy for run in self.result.runs]
        text = f"The naive program kept {busy:.0%} of a core busy"
        text += f", ours {fmean(ours):.0%}" if ours else ""
        return f"{text}: what a busy client reads late, it reports as the server's."


def run(
    endpoint: Any,
    concurrency: int = 32,
    input_tokens: int = 128,
    output_tokens: int = 128,
    requests: int | None = None,
    *,
    model: str = "",
    time_limit: float = _LIMIT,
) -> Naive:
    """Load a server with the naive program.

    Args:
        endpoint: from ``serving.start``, or a URL.
        concurrency: requests started at once.
        input_tokens: of its prompt; the server may count another number.
        output_tokens: of an answer.
        requests: in all; None for two waves.
        model: the name that requests give; empty for the endpoint's own, or the first that the server names.
        time_limit: seconds for all of it.

    Raises:
        WorkshopError: a number below 1, no such server, or every request failed; with what the server said.
    """
    from helpers.bench.running import Subject

    requests = 2 * concurrency if requests is None else requests
    told = {"concurrency": concurrency, "input_tokens": input_tokens, "output_tokens": output_tokens}
    for name, value in {**told, "requests": requests}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise WorkshopError(f"{name} is {value!r}. Give a whole number of at least 1.")
    subject = Subject.of(endpoint, model)
    tokenizer = "" if subject.tokenizer is None else str(subject.tokenizer / "tokenizer.json")
    options = {"url": subject.url, "model": subject.model, "tokenizer": tokenizer, "timeout": time_limit}
    options |= {"concurrency": concurrency, "input": input_tokens, "output": output_tokens, "requests": requests}
    words = [f"--{name}={value}" for name, value in options.items()]
    found = _answer([sys.executable, str(WORKER), *words, f"--key-variable={subject.key_variable}"], time_limit)
    return _naive(found, subject.url, bool(tokenizer), **told)


def _naive(found: dict[str, Any], url: str, decoded: bool, **told: int) -> Naive:
    """What the program printed, as an object."""
    waves = [Wave(wave["seconds"], [Asked(**one) for one in wave["requests"]]) for wave in found["waves"]]
    made = Naive(
        url=url,
        waves=waves,
        seconds=found["seconds"],
        cpu_seconds=found["cpu_seconds"],
        prompt=found["prompt"],
        decoded=decoded,
        **told,
    )
    if not made.answered:
        said = next((one.error for wave in waves for one in wave.requests if one.error), "no token came")
        way = (
            "Token ids decoded and encoded again are not the same ids" if decoded else "Numbers are several tokens each"
        )
        raise WorkshopError(
            f"Not one of the naive program's requests was answered: {said} {way}, so its prompt may be longer than the "
            f"{made.input_tokens:,} tokens that were asked for: ask for fewer."
        )
    return made


def _answer(command: list[str], limit: float) -> dict[str, Any]:
    """What the program printed, which ends with this process."""
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=processes.die_with_parent,
    )
    try:
        output, errors = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        processes.end_all(child)
        raise WorkshopError(
            f"The naive program did not end within {limit:.0f} s. Ask for fewer requests or shorter answers."
        ) from None
    except BaseException:
        processes.end_all(child)
        raise
    if child.returncode:
        lines = processes.redactor(os.environ)(errors.decode(errors="replace")).strip().splitlines() or ["no message"]
        raise WorkshopError(f"The naive program failed: {lines[-1]}")
    told: dict[str, Any] = json.loads(output)
    return told


def _ms(seconds: float | None) -> str:
    return _NONE if seconds is None else number(1000 * seconds)
