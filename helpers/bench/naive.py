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
from helpers.bench.results.metrics import CLIENT_BOUND, NONE, number
from helpers.cards import Card, ShownAsCard, ShownAsTable, Table
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.bench.results.result import Result

WORKER = Path(__file__).parents[1] / "workers" / "naive_benchmark.py"

_LIMIT = 600.0  # seconds for all of it
_SAME = 0.02  # of a figure: less than that is no effect


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
class Naive(ShownAsCard):
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

    def beside(self, result: "Result", burst: "Result | None" = None) -> "Beside":
        """Its figures beside those of the load generator, at the same server and the same concurrency.

        Args:
            result: from :func:`helpers.bench.run`.
            burst: the same with ``ramp=0``, so that its requests start all at once too: it separates the effect of that
                from the others.

        Raises:
            WorkshopError: a result is of another concurrency, or has no whole answer.
        """
        for one in (result, burst):
            if one is None:
                continue
            if one.load.concurrency != self.concurrency:
                raise WorkshopError(
                    f"The naive program had {self.concurrency} requests at once, and this result is of "
                    f"another load: {one.load.kind}. Measure concurrency {self.concurrency} and compare with that."
                )
            if not one.summary.whole:
                raise WorkshopError(
                    "This result has no whole answer, so there is nothing to compare with. Measure again."
                )
        return Beside(self, result, burst)

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


@dataclass(frozen=True)
class Effect:
    """What one mistake does to a figure.

    Attributes:
        mistake: in a few words.
        figure: which one it spoils, with its unit.
        naive: the figure of the naive program.
        ours: that of the load generator.
        told: a sentence on it.
        burst: that of the load generator when it starts all at once as well.
    """

    mistake: str
    figure: str
    naive: str
    ours: str
    told: str
    burst: str = NONE


@dataclass(frozen=True, repr=False)
class Beside(ShownAsTable):
    """The naive benchmark beside the load generator: one row a mistake.

    Attributes:
        naive: the one.
        result: the other, in its stride.
        burst: the other, started all at once; None if that was not measured.
    """

    naive: Naive
    result: "Result"
    burst: "Result | None" = None

    @property
    def effects(self) -> list[Effect]:
        """One for each mistake; computed from the measurements."""
        return [self._chunks(), self._at_once(), self._mean(), self._prompt()]

    @property
    def sentence(self) -> str:
        """What the mistakes do together, here."""
        return " ".join([*(one.told for one in self.effects), self._client()]).strip()

    def table(self) -> Table:
        """One row a mistake."""
        middle = ["ours, all at once"] if self.burst else []
        rows = [
            (one.mistake, one.figure, one.naive, *([one.burst] if self.burst else []), one.ours) for one in self.effects
        ]
        caption = f"Measured: the naive benchmark and ours, concurrency {self.naive.concurrency}"
        return Table(("mistake", "figure", "naive", *middle, "ours"), rows, caption, self.sentence)

    def _of_burst(self, key: str) -> str:
        """A figure of the burst as it is shown."""
        return self.burst.summary.number(key) if self.burst else NONE

    def _chunks(self) -> Effect:
        naive = self.naive
        told, made = naive.tokens, naive.chunks
        if told is None:
            text = "The server did not count its tokens, so nobody knows how many chunks had."
        elif told == made:
            text = f"Here every chunk is one token ({made:,} of both), so counting chunks does no harm: at this server."
        else:
            way = "too low" if made < told else "too high"
            text = (
                f"It counted {made:,} chunks for {told:,} tokens, so by that alone its tokens/s are "
                f"{abs(made / told - 1):.1%} {way}."
            )
        return Effect(
            "counts chunks as tokens",
            "output tokens/s",
            number(naive.tokens_per_second),
            self.result.summary.number("output_rate"),
            text,
            self._of_burst("output_rate"),
        )

    def _at_once(self) -> Effect:
        """Its TTFT against that of requests that met a server in its stride, mean against mean."""
        wrong, right = self.naive.mean_ttft, _mean_ttft(self.result, steady=True)
        named = ("starts all at once", "TTFT, mean, ms")
        if bound := self.result.summary.client_bound:
            return Effect(*named, _ms(wrong), CLIENT_BOUND, f"Our client could not keep up ({bound}): no comparison.")
        if self.naive.concurrency == 1:
            text = "One request at a time has no queue to wait in"
            text += f", so the mean TTFT stays comparable: {_ms(wrong)} against {_ms(right)} ms."
        elif wrong > (1 + _SAME) * right:
            text = (
                f"Started all at once, its requests had their first token after {_ms(wrong)} ms on average, ours after "
                f"{_ms(right)} ms, since they come one by one ({wrong / right:.1f} times). {self._why(wrong, right)}"
            )
        elif wrong < (1 - _SAME) * right:
            text = (
                f"Started all at once, its requests had their first token after {_ms(wrong)} ms on average, sooner "
                f"than the {_ms(right)} ms of requests that come one by one: those meet a server that is generating."
            )
        else:
            text = f"Starting all at once makes no difference here: {_ms(wrong)} against {_ms(right)} ms."
        burst = self.burst
        shown = NONE if burst is None else CLIENT_BOUND if burst.summary.client_bound else _ms(_mean_ttft(burst))
        return Effect(*named, _ms(wrong), _ms(right), text, shown)

    def _why(self, wrong: float, right: float) -> str:
        """How much of a longer wait is the start all at once, as far as it was measured."""
        longer = self._longer()
        if self.burst is None or self.burst.summary.client_bound:
            if longer:
                return f"The start adds to it, as do prompts {longer:.1f} times as long; here they are not separated."
            return "How much of it is the start is not separated here."
        own = _mean_ttft(self.burst)
        share = (own - right) / (wrong - right)
        rest = f", such as its prompts, which are {longer:.1f} times as long" if longer else ""
        if share <= _SAME:
            return f"Ours started all at once do not wait longer ({_ms(own)} ms), so it is something else{rest}."
        if share >= 1 - _SAME:
            return f"Ours started all at once wait as long as its ({_ms(own)} ms): it is the start."
        return f"Ours started all at once wait {_ms(own)} ms: that is {share:.0%} of it, and the rest is not{rest}."

    def _longer(self) -> float:
        """How many times as long as ours its prompts are; 0 if they are not longer, or nobody counted."""
        own = [one.prompt_tokens for one in self.naive.answered if one.prompt_tokens is not None]
        ours = self.result.value("prompt_tokens")
        times = own[0] / ours if own and ours else 1.0
        return times if times > 1 + 2 * _SAME else 0.0

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
        burst = NONE if self.burst is None else _tails(self.burst)
        return Effect("reports the mean only", "TTFT, ms", _ms(mean), _tails(self.result), text, burst)

    def _prompt(self) -> Effect:
        """How long its prompt really was; it is the same for all."""
        naive = self.naive
        told = [one.prompt_tokens for one in naive.answered if one.prompt_tokens is not None]
        way = "token ids 0, 1, 2, … decoded" if naive.decoded else "the numbers 0, 1, 2, …"
        text = f"Its {len(naive.answered):,} prompts are one text, {way}: a server that reuses KV blocks reads it once"
        text += ", and may answer its second wave from the cache." if len(naive.waves) > 1 else "."
        if told and told[0] != naive.input_tokens:
            text += f" It has {told[0]:,} tokens where {naive.input_tokens:,} were asked for."
        elif told:
            text += f" It has the {naive.input_tokens:,} tokens that were asked for."
        return Effect(
            "one prompt for all, of token ids" if naive.decoded else "one prompt for all, of numbers",
            f"prompt tokens, {naive.input_tokens:,} asked",
            f"{told[0]:,}" if told else NONE,
            self.result.summary.number("prompt_tokens"),
            text,
            self._of_burst("prompt_tokens"),
        )

    def _client(self) -> str:
        """What its own work may have added."""
        busy = self.naive.cpu_seconds / self.naive.seconds
        ours = [run.health.busy for run in self.result.runs]
        text = f"The naive program kept {busy:.0%} of a core busy"
        text += f", ours {fmean(ours):.0%}" if ours else ""
        return f"{text}: what a busy client reads late, it reports as the server's."


def _mean_ttft(result: "Result", steady: bool = False) -> float:
    """Mean TTFT of a result's whole answers, in seconds.

    Args:
        result: with whole answers.
        steady: leave out the first wave, where there is a later one.
    """
    rows = [row for run in result.runs for row in run.rows if row.ok and row.ttft is not None]
    later = [row for row in rows if not row.first_wave] if steady else []
    return fmean(row.ttft for row in later or rows if row.ttft is not None)


def _tails(result: "Result") -> str:
    """The median TTFT and the last percentile that there are enough values for."""
    told = result.summary
    if told.falsified("ttft_p50"):
        return CLIENT_BOUND
    tail = next((p for p in ("p99", "p95", "p90") if told.get(f"ttft_{p}")), None)
    return f"p50 {told.number('ttft_p50')}" + (f", {tail} {told.number(f'ttft_{tail}')}" if tail else "")


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
    """What the program printed, as an object.

    Raises:
        WorkshopError: not one request was answered.
    """
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
    """What the program printed, which ends with this process.

    Raises:
        WorkshopError: it failed, or took longer than ``limit`` seconds.
    """
    try:
        status, output, errors = processes.answer(command, limit)
    except subprocess.TimeoutExpired:
        raise WorkshopError(
            f"The naive program did not end within {limit:.0f} s. Ask for fewer requests or shorter answers."
        ) from None
    if status:
        lines = processes.redactor(os.environ)(errors).strip().splitlines() or ["no message"]
        raise WorkshopError(f"The naive program failed: {lines[-1]}")
    told: dict[str, Any] = json.loads(output)
    return told


def _ms(seconds: float | None) -> str:
    return NONE if seconds is None else number(1000 * seconds)
