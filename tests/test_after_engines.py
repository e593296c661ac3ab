"""The same model both ways: what is told of two measurements follows from them, whichever is ahead."""

import pytest

from helpers.after_engines import BothWays, removed
from tests.test_bench_analysis import result


def told(engine: float, pytorch: float, build: float = 60.0, starts: tuple[float, float] = (5.0, 40.0)) -> str:
    """The sentence for two servers whose first tokens take so many seconds."""
    return BothWays("FP16", build, starts, (result(ttft=engine), result(ttft=pytorch))).sentence


def test_which_was_ready_first_counts_the_build() -> None:
    assert told(0.05, 0.05).startswith("The PyTorch back end was ready first: 40.0 s from its checkpoint")
    assert told(0.05, 0.05, build=10.0).startswith("The engine was ready first: 15.0 s from its checkpoint")


@pytest.mark.parametrize(
    ("engine", "pytorch", "end"),
    [(0.05, 2.0, "The engine made"), (2.0, 0.05, "The PyTorch back end made"), (0.05, 0.05, "within 2%.")],
)
def test_the_faster_one_is_named_whichever_it_is(engine: float, pytorch: float, end: str) -> None:
    assert end in told(engine, pytorch)


def test_the_table_has_both_columns_and_the_sentence() -> None:
    both = BothWays("FP16", 60.0, (5.0, 40.0), (result(), result(ttft=0.2)))
    assert "nothing to build" in str(both)
    assert both.sentence in str(both)
    assert "PyTorch back end" in both._repr_html_()


def test_what_the_guide_does_not_say_is_published_elsewhere() -> None:
    table = removed()
    assert "removal.md" in table.caption
    assert "INT8 KV cache: published in docs/source/features/quantization.md" in str(table)
