"""What a benchmark's result says, in words: the facts of its card and its sentences (notebook 08).

Every sentence is computed from the figures and says what they say, also where that is that nothing worked.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.bench.load import Load
from helpers.bench.measured import KERNEL, USER
from helpers.bench.results.figures import Failure, fewest
from helpers.bench.results.metrics import METRICS, Summary
from helpers.cards import counted

if TYPE_CHECKING:
    from helpers.bench.results.result import Result, Sweep

_INTERRUPTED = "interrupted"
_STAMPS = {KERNEL: "arrivals stamped by the kernel", USER: "arrivals stamped when read: the kernel gave no stamps"}
_MESSAGES = 5  # ways of failing that are told; the frame has them all
_SLOW = 0.1  # of the rate with all in flight: what a slow begin and end cost before it is said
_PACKED = 1.05  # tokens an event from which they are called packed: an answer's last event may bring none


def lengths(load: Load) -> str:
    """How long prompts and answers are, in words."""
    sent = f"prompts of {Path(load.prompts).name}" if load.prompts else f"{load.input_tokens} tokens in"
    return f"{sent}, {load.output_tokens} out"


def key_facts(result: "Result") -> dict[str, str]:
    """What a result's card shows first: label to text."""
    told = result.summary
    facts: dict[str, str] = {}
    if told.whole:
        ttft = _percentiles(told, "ttft", ("p50", "p90", "p95", "p99"))
        facts["TTFT"] = f"{ttft} ({_number_of([one.ttft.n for one in told.figures])})"
        if told.get("per_user_p50"):
            slowest = f", slowest 5 % {told.text('per_user_p5')}" if told.get("per_user_p5") else ""
            facts["per user"] = f"p50 {told.text('per_user_p50')}{slowest}"
            facts["output"] = told.text("output_rate")
        facts["whole answer"] = _percentiles(told, "e2e", ("p50", "p95", "p99"))
        if few := _too_few(told):
            facts["not shown"] = few
    failed = "; ".join(_failure_lines(result.failures)) or "none"
    facts["failed"] = f"{failed}; {told.whole:,} answered whole" if told.figures else "nothing was measured"
    return facts | _client(result)


def other_facts(result: "Result") -> dict[str, str]:
    """What a result's card shows in its fold: label to text."""
    told = result.summary
    facts = {"load": f"{result.load.kind}; {lengths(result.load)}; {result.load.api}"}
    facts["server"] = " ".join(str(result.target[key]) for key in ("url", "model") if result.target.get(key))
    facts["requests"] = f"{told.whole:,} answered whole, {told.failed:,} not, in {counted(told.runs, 'run')}"
    if not told.whole:
        return facts
    if told.get("ttft_first_wave_p50") and told.get("ttft_steady_p50"):
        facts["TTFT, first wave"] = _percentiles(told, "ttft_first_wave", ("p50",))
        facts["TTFT, later"] = _percentiles(told, "ttft_steady", ("p50", "p99"))
    if told.get("itl_p50"):
        gaps = _percentiles(told, "itl", ("p50", "p95", "p99"))
        facts["ITL"] = f"{gaps} ({_number_of([one.itl.n for one in told.figures])})"
    if told.get("tpot_p50"):
        facts["TPOT"] = _percentiles(told, "tpot", ("p50", "p95", "p99"))
    others = ("total_rate", "full_rate", "request_rate", "in_flight")
    facts |= {METRICS[key].title: told.text(key) for key in others if told.get(key)}
    facts["tokens"] = _tokens(result)
    return facts


def _percentiles(told: Summary, family: str, which: Sequence[str]) -> str:
    """Several percentiles of one figure in a line, those that can be shown."""
    if told.falsified(f"{family}_p50"):
        return told.number(f"{family}_p50")
    return ", ".join(f"{p} {told.text(f'{family}_{p}')}" for p in which if told.get(f"{family}_{p}"))


def _number_of(counts: Sequence[int]) -> str:
    """How many values a percentile is of, which is each run's own: ``n = 40 a run, 3 runs``."""
    least, most = min(counts), max(counts)
    n = f"n = {least:,}" if least == most else f"n = {least:,} to {most:,}"
    return n if len(counts) == 1 else f"{n} a run, {len(counts)} runs"


def _too_few(told: Summary) -> str:
    """Which percentile has too few requests in every run; empty from 100 requests on."""
    most = max(one.whole for one in told.figures)
    q = next((q for q in (95, 99) if most < fewest(q)), None)
    if q is None:
        return ""
    one = f"{counted(most, 'request')}{' a run' if told.runs > 1 else ''} {'is' if most == 1 else 'are'}"
    return f"{one} too few for a {q}th percentile ({fewest(q)} needed)"


def _tokens(result: "Result") -> str:
    """What was counted, against what was asked for, and how the server packed it."""
    told, load = result.summary, result.load
    prompt, answer = told.number("prompt_tokens"), told.number("answer_tokens")
    asked = "" if load.prompts else f" ({load.input_tokens} asked)"
    packed = f"{told.number('tokens_per_event')} per event, {told.number('events_per_read')} events per read"
    return f"prompt {prompt}{asked}, answer {answer} ({load.output_tokens} asked) on average; {packed}"


def _client(result: "Result") -> dict[str, str]:
    """How the client fared, at its worst."""
    if not result.figures:
        return {}
    health = [one.health for one in result.figures]
    busy, lag, late = (max(getattr(one, name) for one in health) for name in ("busy", "lag_p99", "late_p99"))
    said = f"{busy:.0%} of a core, {_STAMPS.get(health[0].stamps, health[0].stamps)}"
    if lag:
        said += f", reads {_ms(lag)} after their arrival (p99)"
    if result.load.open_loop:
        said += f", requests sent {_ms(late)} late (p99)"
    bound, gaps = result.summary.client_bound, result.summary.gaps_bound
    verdict = f"client-bound: {bound}" if bound else f"ITL is client-bound: {gaps}" if gaps else "kept up"
    return {"client": f"{said}; {verdict}"}


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def _failure_lines(failures: Sequence[Failure]) -> list[str]:
    """The most frequent ways of failing, and how many others there are."""
    lines = [str(one) for one in failures[:_MESSAGES]]
    if rest := sum(one.count for one in failures[_MESSAGES:]):
        lines.append(f"{rest:,} × something else; frame() has each")
    return lines


def sentences(result: "Result") -> Iterator[str]:
    """What a result says, the gravest first."""
    told = result.summary
    if not told.figures:
        yield f"Nothing was measured{': it was interrupted in the warm-up' if result.interrupted else ''}."
        return
    yield from _what_failed(result)
    if told.whole:
        yield from _what_was_found(result)
        yield from _what_to_mind(result)
    if result.interrupted:
        why = next((one.ended for one in told.figures if one.ended), "")
        left = sum(one.failed.get(_INTERRUPTED, 0) for one in told.figures)
        lost = (
            f"; {counted(left, 'request')} under way then {'is' if left == 1 else 'are'} in no figure" if left else ""
        )
        yield f"It was stopped before its end{f' ({why})' if why else ''}: this is what had come until then{lost}."


def _what_failed(result: "Result") -> Iterator[str]:
    """What was not answered whole; what only the benchmark's own end has cut off is no failure of the server."""
    told = result.summary
    all_ = told.whole + told.failed
    failures = [one for one in result.failures if one.outcome != _INTERRUPTED]
    failed = sum(one.count for one in failures)
    if not all_:
        yield "No request was sent."
    elif not told.whole and failures:
        most = failures[0]
        first = f"{most.outcome}: {most.message}" if most.message else most.outcome
        yield (
            f"No request was answered whole: {failed:,} of {all_:,} failed, {most.count:,} of them as "
            f"{_sentence_end(first)}"
        )
    elif not told.whole:
        yield "No request was answered whole before it was stopped."
    elif failed:
        ways: dict[str, int] = {}
        for one in failures:
            ways[one.outcome] = ways.get(one.outcome, 0) + one.count
        listed = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(ways.items(), key=lambda way: -way[1]))
        yield f"{failed:,} of {all_:,} requests failed ({listed}), and are in no figure."


def _sentence_end(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _what_was_found(result: "Result") -> Iterator[str]:
    told = result.summary
    kind = result.load.kind[0].upper() + result.load.kind[1:]
    said = [f"{told.number('output_rate')} output tokens/s in all"] if told.get("output_rate") else []
    if told.get("per_user_p50"):
        said.append(f"{told.number('per_user_p50')} for the median user")
    if said:
        yield f"{kind}: {'at least ' if told.client_bound else ''}{', '.join(said)}."
    else:
        yield f"{kind}: nobody counted the tokens, so there is no rate of them."
    if told.falsified("ttft_p50"):
        yield f"The run is client-bound, since {told.client_bound}: TTFT and ITL would be the client's own queue."
    elif told.get("ttft_p50"):
        tail = next((key for key in ("ttft_p99", "ttft_p95", "ttft_p90") if told.get(key)), None)
        late = f", and for {tail[6:]} of 100 within {METRICS[tail].text(told.value(tail))}" if tail else ""
        yield f"The first token came after {METRICS['ttft_p50'].text(told.value('ttft_p50'))} (p50){late}."
    if told.gaps_bound and not told.client_bound:
        yield f"ITL is client-bound, since the client was late: {told.gaps_bound}. TTFT and rates are the server's."
    if told.runs > 1 and (rate := told.get("output_rate")):
        metric = METRICS["output_rate"]
        yield f"Medians of {told.runs} runs, which gave {metric.number(rate.low)} to {metric.text(rate.high)}."


def _what_to_mind(result: "Result") -> Iterator[str]:
    """What keeps figures from being what they seem."""
    told, wanted = result.summary, result.load.concurrency
    if told.uncounted and told.get("output_rate"):
        yield (
            f"{counted(told.uncounted, 'whole answer')} came without a count of tokens: the rates of tokens are too "
            "low by theirs."
        )
    if slow := _slow_ends(told):
        yield f"Output is over the whole run, with its slow begin and end: with all in flight it is {slow} higher."
    most = max(one.most_in_flight for one in told.figures)
    if wanted and most < wanted:
        yield f"At most {most:,} requests were ever in flight, not {wanted:,}."
    packed = told.get("tokens_per_event")
    if packed and packed.value > _PACKED:
        yield f"The server packs {packed.value:.1f} tokens into an event, so an ITL is a gap between packs."
    if result.load.profile is not None:
        yield "The load changed over time, and each figure is of all of it together."
    yield from result.notes


def _slow_ends(told: Summary) -> str:
    """By how much the rate with all in flight is above that of the whole run; empty where that is little."""
    full, whole = told.value("full_rate"), told.value("output_rate")
    return f"{full / whole - 1:.0%}" if full and whole and full > (1 + _SLOW) * whole else ""


def sweep_sentences(sweep: "Sweep") -> Iterator[str]:
    """What reading a sweep needs: what failed in it, and how far its figures go."""
    failed = [one for one in sweep if one.summary.failed]
    if failed:
        listed = ", ".join(f"{one.summary.failed:,} at {one.load.kind}" for one in failed)
        yield f"Failed requests, which are in no figure: {listed}."
    bound = [one.load.kind for one in sweep if one.summary.client_bound]
    if bound:
        yield f"Client-bound, so without TTFT and ITL, and with rates that are lower bounds: {'; '.join(bound)}."
    gaps = [one.load.kind for one in sweep if one.summary.gaps_bound and one.load.kind not in bound]
    if gaps:
        yield f"Client-bound in ITL only: {'; '.join(gaps)}."
    if slow := [f"{higher} higher at {one.load.kind}" for one in sweep if (higher := _slow_ends(one.summary))]:
        yield f"Output is over the whole run, with its slow begin and end; with all in flight it is {', '.join(slow)}."
    if stopped := [one.load.kind for one in sweep if one.interrupted]:
        yield f"Stopped before its end: {'; '.join(stopped)}."
    if sweep.results and all(one.summary.runs < 2 for one in sweep):
        yield "One run each: how far the figures would differ from run to run is not known."
