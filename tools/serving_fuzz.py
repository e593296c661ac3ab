"""Thousands of requests that nobody would write, from the server's own description; none may be answered with a 5xx.

``python -m tools.serving_fuzz TARGET [--cases 10000]``, with an engine's folder or the address of a running server.
Half of the cases keep to the server's OpenAPI document (schemathesis makes them), a quarter break it on purpose, and a
quarter are no proper JSON at all: cut off, nested a thousand deep, with lone surrogates, numbers without end, or bytes
at random. The same seed gives the same cases. Ends with status 1 if any answer was a 5xx, was lost, or was an error of
another shape than the server's own.
"""

import argparse
import http.client
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tools import serving_local as local

POSTS = ("/v1/completions", "/v1/chat/completions")
_PATIENCE = 60.0  # seconds for one answer
_SHOWN = 5  # failures that are told in full


@dataclass
class Tally:
    """What came back.

    Attributes:
        statuses: of the answers, by kind of case.
        failures: what should not have come.
    """

    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, kind: str, status: int, body: bytes, sent: str) -> None:
        """Count an answer and judge it."""
        self.statuses.setdefault(kind, Counter())[status] += 1
        if status >= 500:
            self.failures.append(f"{status} to {kind} {sent[:300]}: {body[:300]!r}")
        elif status >= 400 and not is_flat_error(status, body):
            self.failures.append(f"{status} in another shape to {kind} {sent[:300]}: {body[:300]!r}")

    @property
    def cases(self) -> int:
        """How many answers came."""
        return sum(counter.total() for counter in self.statuses.values())


def is_flat_error(status: int, body: bytes) -> bool:
    """True if an error has the shape that ``trtllm-serve`` gives errors."""
    try:
        told = json.loads(body)
    except ValueError:
        return False
    return isinstance(told, dict) and told.get("object") == "error" and told.get("code") == status


def from_schema(url: str, cases: int, seed: int, tally: Tally) -> None:
    """Cases from the OpenAPI document: two of three keep to it, the others break it."""
    import hypothesis
    import schemathesis
    from schemathesis import GenerationMode

    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    for path in POSTS:
        operation = next(one for one in operations if one.path == path)
        for mode, share in ((GenerationMode.POSITIVE, 1 / 3), (GenerationMode.NEGATIVE, 1 / 6)):
            attempt = _attempt(tally, f"{mode.value} {path}")
            limits = hypothesis.settings(
                max_examples=max(round(cases * share), 1),
                deadline=None,
                database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
                phases=[hypothesis.Phase.generate],
            )
            strategy = operation.as_strategy(generation_mode=mode)
            hypothesis.seed(seed)(limits(hypothesis.given(case=strategy)(attempt)))()


def _attempt(tally: Tally, kind: str) -> Any:
    """The function that sends one case."""

    def attempt(case: Any) -> None:
        answer = case.call(timeout=_PATIENCE)
        tally.add(kind, answer.status_code, answer.content, repr(case.body))

    return attempt


def broken_body(chance: random.Random) -> bytes:
    """A body that is no request: valid JSON spoiled in one of many ways, or no JSON."""
    valid = {"model": "m", "prompt": "Once", "max_tokens": 3, "temperature": 0.5, "stop": ["x"], "stream": False}
    text = json.dumps(valid)
    number = chance.choice(
        ["1e999", "-1e999", "NaN", "Infinity", "-Infinity", "9" * chance.choice([20, 400, 5000]), "-0.0"]
    )
    name = chance.choice(list(valid))
    deep = chance.choice([10, 1_000, 100_000])
    spoiled = [
        lambda: text[: chance.randrange(len(text))].encode(),
        lambda: text.replace("3", number).encode(),
        lambda: text.replace("0.5", number).encode(),
        lambda: text.replace('"Once"', "[" * deep + "]" * deep).encode(),
        lambda: text.replace('"Once"', '{"a":' * deep + "1" + "}" * deep).encode(),
        lambda: text.replace("Once", chance.choice(["\\ud800", "\\udfff\\ud800", "\\u0000", "\ufffe"])).encode(),
        lambda: text.replace("Once", "\ud800").encode("utf-8", "surrogatepass"),
        lambda: text.encode("utf-16"),
        lambda: b"\xff\xfe" + text.encode(),
        lambda: json.dumps({**valid, name: chance.choice([None, [], {}, True, -1, "", [None], 2**64])}).encode(),
        lambda: json.dumps({**valid, name + chance.choice("abcxyz_"): 1}).encode(),
        lambda: (text[:-1] + f', "{name}": 1' + "}").encode(),  # a field twice
        lambda: chance.randbytes(chance.randrange(200)),
        lambda: chance.choice([b"", b"null", b"[]", b"0", b'"x"', b"{}", b"{", b"}{", b"[" * 50_000]),
        lambda: _flipped(text.encode(), chance),
    ]
    return chance.choice(spoiled)()


def _flipped(body: bytes, chance: random.Random) -> bytes:
    """A few bytes changed."""
    changed = bytearray(body)
    for _ in range(chance.randrange(1, 5)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def broken(server: local.Running, cases: int, seed: int, tally: Tally) -> None:
    """Cases that are no requests, one after the other over one connection as long as it lasts."""
    chance = random.Random(seed)
    connection = http.client.HTTPConnection(*server.address, timeout=_PATIENCE)
    for _ in range(cases):
        body, path = broken_body(chance), chance.choice(POSTS)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            tally.add(f"broken {path}", answer.status, answer.read(), repr(body))
        except (OSError, http.client.HTTPException) as error:
            tally.failures.append(f"no answer ({error}) to broken {path} {body[:300]!r}")
            connection.close()
    connection.close()


def fuzz(server: local.Running, cases: int, seed: int) -> Tally:
    """All cases against a running server."""
    tally = Tally()
    broken(server, cases // 4, seed, tally)
    from_schema(server.url, cases - cases // 4, seed, tally)
    if not local.healthy(server.url):
        tally.failures.append("the server is not healthy afterwards")
    return tally


def main() -> int:
    """Fuzz and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="an engine's folder, or http://host:port")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    begun = time.perf_counter()
    # Short answers, so that the accepted ones do not take most of the time.
    with local.running(arguments.target, local.sizes(batch=16, seq_len=64, queue=512)) as server:
        tally = fuzz(server, arguments.cases, arguments.seed)
    for kind, counter in tally.statuses.items():
        print(f"{kind}: " + ", ".join(f"{status} × {count}" for status, count in sorted(counter.items())))
    print(f"{tally.cases:,} answers in {time.perf_counter() - begun:.0f} s, {len(tally.failures)} of them wrong")
    for failure in tally.failures[:_SHOWN]:
        print(f"  {failure}")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
