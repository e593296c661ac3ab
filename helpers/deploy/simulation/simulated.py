"""What a simulation gave: every request, every replica, and what is computed from them (notebook 09). Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from helpers.bench.analysis.points import time_text
from helpers.bench.results.figures import Spread, percentile
from helpers.bench.rows import MEASURED, Row
from helpers.cards import Card, ShownAsCard, counted, seconds_text
from helpers.deploy.observed import ASKED, ENDED, Observed
from helpers.deploy.scaling import Scaling
from helpers.deploy.simulation.cold_start import ColdStart
from helpers.deploy.simulation.replica import Going
from helpers.deploy.simulation.service import Service


@dataclass(frozen=True, slots=True)
class Request:
    """One request, answered whole; times are seconds since the simulation began.

    Attributes:
        arrival: when it came.
        tokens: of its answer.
        replica: that served it.
        started: when that one took it; until then it waited in front.
        first_token, ended: when they were.
    """

    arrival: float
    tokens: float
    replica: str
    started: float
    first_token: float
    ended: float

    @classmethod
    def of(cls, going: Going) -> "Request":
        """From a request that has ended.

        Raises:
            ValueError: it has not: the simulation has lost it.
        """
        if going.started is None or going.first_token is None or going.ended is None:
            raise ValueError(f"request {going.number} was never answered")
        return cls(going.arrival, going.tokens, going.replica, going.started, going.first_token, going.ended)

    @property
    def waited(self) -> float:
        """Seconds in front of the replicas."""
        return self.started - self.arrival

    @property
    def ttft(self) -> float:
        """Time to first token, in seconds, with the wait."""
        return self.first_token - self.arrival

    @property
    def rate(self) -> float | None:
        """Tokens a second that its user saw after the first; None below two."""
        written = self.ended - self.first_token
        return (self.tokens - 1) / written if self.tokens >= 2 and written > 0 else None


@dataclass(frozen=True, repr=False)
class Simulated(ShownAsCard):
    """One simulated run.

    Attributes:
        requests: in the order in which they came; every one was answered whole.
        observed: replicas and the steps of their lives, as of a real deployment; times since the simulation began.
        service, scaling, cold_start, seed: what was simulated.
        seconds: that it lasted.
        already: replicas that were there when it began.
    """

    requests: Sequence[Request]
    observed: Observed
    service: Service
    scaling: Scaling
    cold_start: ColdStart
    seed: int
    seconds: float
    already: int = 0

    @property
    def ttft(self) -> Spread:
        """Times to the first token, in seconds."""
        return Spread.of(one.ttft for one in self.requests)

    @property
    def per_user(self) -> Spread:
        """Tokens a second of each user."""
        return Spread.of(one.rate for one in self.requests)

    def ttft_at(self, share: float) -> float:
        """The time to the first token that ``share`` percent of the requests did not exceed, in seconds."""
        return percentile([one.ttft for one in self.requests], share)

    @property
    def most_replicas(self) -> int:
        """That took requests at once."""
        return most_running(self.observed)

    @property
    def replica_seconds(self) -> float:
        """Seconds that replicas were there, from asked for to ended, all together: what they cost, a GPU each."""
        return replica_seconds(self.observed, 0.0, self.seconds)

    @property
    def cold(self) -> int:
        """Replicas that were started during the run."""
        return sum(mark.step == ASKED for mark in self.observed.marks) - self.already

    def rows(self) -> list[Row]:
        """The requests as a benchmark's rows, for what is drawn and computed from those."""
        return [
            Row(
                1,
                number,
                MEASURED,
                slot=number,
                intended=one.arrival,
                sent=one.arrival,
                first_token=one.first_token,
                last_token=one.ended,
                ended=one.ended,
                tokens=round(one.tokens),
                asked_tokens=round(one.tokens),
            )
            for number, one in enumerate(self.requests)
        ]

    @property
    def assumptions(self) -> str:
        """What the figures rest on, in a sentence."""
        most = self.scaling.max_ongoing or self.service.batch
        taken = "any number of requests" if most is None else counted(most, "request")
        return (
            f"Simulated: replicas that take {taken} at once and give {self.service.text}; {self.cold_start.text}; "
            f"{self.scaling.min_replicas} to {self.scaling.max_replicas} replicas, "
            f"{self.scaling.target_ongoing:g} ongoing requests aimed at; seed {self.seed}."
        )

    def card(self) -> Card:
        """The figures that one looks for first."""
        wait = self.ttft
        facts = {
            "requests": f"{len(self.requests):,}, all answered, over {seconds_text(self.seconds)}",
            "TTFT": f"p50 {time_text(wait.p50)}, p95 {time_text(wait.p95)}, p99 {time_text(wait.p99)}, "
            f"at most {time_text(wait.most)}",
            "replicas": f"at most {self.most_replicas} took requests; {counted(self.cold, 'cold start')}",
            "replica-seconds": f"{self.replica_seconds:,.0f}",
        }
        return Card(f"Simulated: {counted(len(self.requests), 'request')}", facts, self.assumptions)


def most_running(observed: Observed) -> int:
    """The most replicas that took requests at once."""
    return max((moment.running for moment in observed.moments), default=0)


def replica_seconds(observed: Observed, start: float, end: float) -> float:
    """Seconds between two times that replicas were there, from asked for to ended, all together."""
    lives = [(life.get(ASKED, start), life.get(ENDED, end)) for life in observed.replicas().values()]
    return sum(max(0.0, min(last, end) - max(first, start)) for first, last in lives)
