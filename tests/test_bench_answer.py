"""What the load generator reads in an answer, with times that the test gives: no clock runs here."""

import json
from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from bad_servers import CHUNKED, DONE, LAST, OK_HEAD, UNTIL_CLOSE, chat, chunk, completion, event, usage, whole
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.bench.generator.answer import Looks, Reader
from helpers.bench.generator.exchange import Exchange, gaps_of
from helpers.bench.generator.framing import Head, Malformed, message_of, said
from helpers.bench.load import CHAT, Load
from helpers.bench.rows import NOT_COUNTED, TOKENIZER, USAGE, Row

MS = 1_000_000
EXACT = Load(output_tokens=4)


class NoLooks(Looks):
    """Learns nothing, so that every byte is taken apart."""

    def learn(self, raw: bytes) -> None:
        """Pass it over."""


def head_of(raw: bytes) -> Head:
    head = Head.of(raw)
    assert head is not None
    return head


def read(pieces: Sequence[bytes], head: bytes = CHUNKED, looks: Looks | None = None) -> Reader:
    """An answer whose reads came 10 ms apart, the first one at 50 ms."""
    reader = Reader(head_of(head), looks)
    reader.feed([(50 + 10 * i) * MS for i in range(len(pieces))], pieces)
    reader.close()
    return reader


def row(pieces: Sequence[bytes], head: bytes = CHUNKED, load: Load = EXACT, asked: int = 4) -> Row:
    """The row of a request that was sent at 0, from reads as above; the head came with the first."""
    exchange = Exchange(0, 0, True, 0, b"", asked)
    exchange.sent = 1
    for i, piece in enumerate(pieces):
        exchange.stamps.append((50 + 10 * i) * MS + 1)
        exchange.pieces.append(piece if i else head + piece)
        if exchange.head is None:
            assert exchange.begins()
    exchange.ended = exchange.stamps[-1] if exchange.stamps else 1
    return exchange.row(1, 1, load)[0]


# --- Times ------------------------------------------------------------------------------------------------------------


def test_ttft_tpot_and_itl_follow_from_the_times_of_the_reads() -> None:
    one = row([*map(chunk, whole(4)), LAST])
    assert one.ok and one.ttft == pytest.approx(0.050) and one.last_token == pytest.approx(0.080)
    assert one.tpot == pytest.approx(0.010) and one.rate == pytest.approx(100)
    assert (one.itl_p50, one.itl_max) == (pytest.approx(0.010), pytest.approx(0.010))
    assert (one.events, one.reads, one.tokens, one.counted, one.finish) == (4, 4, 4, USAGE, "length")


def test_neither_a_role_nor_a_comment_nor_an_empty_text_is_the_first_token() -> None:
    early = [b": ping\n\n", event(chat({"role": "assistant"})), event(chat({"role": "assistant", "content": ""}))]
    one = row([*map(chunk, [*early, event(chat({"content": "Hi"})), event(chat({}, "stop")), DONE]), LAST])
    assert one.ttft == pytest.approx(0.080) and one.events == 1
    one = row([*map(chunk, [event(completion("")), *whole(4)]), LAST])
    assert one.ttft == pytest.approx(0.060) and one.events == 4


@pytest.mark.parametrize("key", ["content", "reasoning_content", "reasoning", "tool_calls"])
def test_whatever_was_generated_counts_as_a_token(key: str) -> None:
    value: Any = [{"index": 0, "function": {"arguments": "{"}}] if key == "tool_calls" else "a"
    told = [event(chat({"role": "assistant", "content": ""})), event(chat({key: value})), event(chat({key: value}))]
    one = row([*map(chunk, [*told, event(chat({}, "stop")), event(usage(2)), DONE]), LAST], load=Load(ignore_eos=False))
    assert one.ok and one.events == 2 and one.ttft == pytest.approx(0.060)


def test_several_events_in_a_read_are_one_time_and_several_events() -> None:
    reader = read([b"".join(map(chunk, whole(9)[:3])), *map(chunk, whole(9)[3:]), LAST])
    assert list(reader.counts) == [3, 1, 1, 1, 1, 1, 1] and reader.events == 9
    assert gaps_of(reader.stamps) == [10 * MS] * 6


def test_several_tokens_in_an_event_are_counted_by_the_server_only() -> None:
    told = [event(completion(" a b c d")) for _ in range(4)]
    one = row([*map(chunk, [*told, event(usage(16)), DONE]), LAST], asked=16)
    assert (one.ok, one.tokens, one.events) == (True, 16, 4)
    assert one.tpot == pytest.approx(0.030 / 15)


def test_without_usage_nothing_is_taken_for_a_count() -> None:
    one = row([*map(chunk, [*whole(4)[:4], DONE]), LAST])
    assert one.ok and one.tokens is None and one.counted == NOT_COUNTED and one.tpot is None and one.events == 4


def test_an_event_in_two_reads_came_with_its_text() -> None:
    told = [chunk(one) for one in whole(4)]
    text = told[1].index(b'"text":"') + len(b'"text":"')
    for cut, when in ((text, 70), (text + 1, 60)):
        reader = read([told[0], told[1][:cut], told[1][cut:] + b"".join(told[2:]) + LAST])
        assert reader.stamps[1] == when * MS


def test_reads_that_lay_long_with_several_events_are_told() -> None:
    exchange = Exchange(0, 0, True, 0, b"", 4)
    exchange.stamps, exchange.pieces, exchange.sent = [50, 60, 70], [], 1
    told = [chunk(one) for one in whole(4)]
    exchange.pieces = [CHUNKED + told[0], told[1] + told[2], b"".join(told[3:]) + LAST]
    first, exchange.pieces, exchange.stamps = exchange.pieces, exchange.pieces[:1], [50]
    assert exchange.begins()
    exchange.pieces += first[1:]
    exchange.stamps += [60, 70]
    exchange.late = [60, 70]
    assert exchange.row(1, 0, EXACT)[0].merged == 1


# --- What can be wrong ------------------------------------------------------------------------------------------------

TEXTS = whole(4)[:4]
ENDS = {
    "short": ([*TEXTS[:2], event(completion(" c", "length")), event(usage(3)), DONE], "3 of 4 tokens"),
    "miscounted": ([*TEXTS, event(usage(800)), DONE], "800 tokens, and 4 were the most"),
    "error event": ([TEXTS[0], event({"error": {"message": "out of memory", "code": 500}}), DONE], "out of memory"),
    "no tokens": ([event(completion("", "length")), DONE], "without any text"),
    "cut": (TEXTS[:2], "stopped without its end"),
    "malformed": ([TEXTS[0], b"data: {nope\n\n", *TEXTS[1:], DONE], "no JSON: '{nope'"),
}


@pytest.mark.parametrize("outcome", ENDS)
def test_an_answer_that_went_wrong_says_how(outcome: str) -> None:
    events, message = ENDS[outcome]
    one = row([*map(chunk, events), LAST])
    assert one.outcome == outcome and message in one.message


def test_a_count_far_below_the_texts_that_came_is_no_count() -> None:
    one = row([*map(chunk, [*whole(20)[:20], event(usage(4)), DONE]), LAST], load=Load(ignore_eos=False), asked=20)
    assert one.outcome == "miscounted" and "4 tokens, and 20 events" in one.message


@pytest.mark.parametrize("odd", ["4", -3, 4.5, True, None, 10**400, [4]])
def test_a_count_that_is_no_number_of_tokens_is_none(odd: Any) -> None:
    assert row([*map(chunk, [*TEXTS, event(usage(odd, odd)), DONE]), LAST]).tokens is None


@pytest.mark.parametrize("at", range(5))
def test_bad_events_among_good_ones_that_look_alike_are_not_passed_over(at: int) -> None:
    for bad, outcome in (
        (b"data: {nope\n\n", "malformed"),
        (event({"object": "error", "message": "x"}), "error event"),
    ):
        told = [event(completion("a")) for _ in range(30)]
        told.insert(10 + at, bad)
        assert row([b"".join(map(chunk, [*told, DONE])), LAST]).outcome == outcome


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b"7", b"[]", b'{"a":', b"\xff\xfe", b'{"n":' + b"1" * 5000 + b"}"], ids=range(6)
)
def test_an_event_that_is_no_object_is_malformed(data: bytes) -> None:
    assert row([chunk(b"data: " + data + b"\n\n"), LAST]).outcome == "malformed"


@pytest.mark.parametrize("framed", [b"zz\r\nab", b"\r\n", b"-5\r\nab", b"2\r\nabc\r\n", b"1" * 70_000])
def test_chunks_that_are_none_are_malformed(framed: bytes) -> None:
    one = row([chunk(TEXTS[0]), framed])
    assert one.outcome == "malformed" and "chunk" in one.message


def test_fields_of_the_wrong_kind_are_no_reason_to_stop() -> None:
    odd = [{"choices": 7}, {"choices": [None]}, {"choices": [{"delta": 3, "finish_reason": ["x"]}]}, {"usage": [1]}]
    one = row([*map(chunk, [*map(event, odd), *whole(4)]), LAST])
    assert one.ok and one.finish == "length"


def test_what_a_server_says_is_one_short_line_that_can_be_written() -> None:
    assert said(b"a\n\tb\x00\x1b[31m") == "a b��[31m" and len(said(b"x" * 5000)) == 300
    assert message_of(b'{"error":{"message":"\\ud800 no"}}').encode("utf-8")
    assert message_of(b"[" * 100_000).startswith("[[[")
    told = {"error": "flat"}, {"message": "of an object"}, {"error": {"message": "nested"}}, {"detail": "of FastAPI"}
    assert [message_of(json.dumps(one).encode()) for one in told] == ["flat", "of an object", "nested", "of FastAPI"]
    odd = b'data: {"choices":[{"text":"a","finish_reason":"\\ud800"}]}\n\n'
    assert (row([chunk(odd), LAST]).finish or "").encode("utf-8")


# --- Heads ------------------------------------------------------------------------------------------------------------


def test_a_head_says_how_the_body_is_framed() -> None:
    head = head_of(CHUNKED)
    assert (head.status, head.size, head.chunked, head.length, head.keep, head.stream) == (
        (200, len(CHUNKED), True, None, True, True)
    )  # fmt: skip
    head = head_of(b"HTTP/1.0 429 No\r\nContent-Length:\t12 \r\n\r\n")
    assert (head.status, head.chunked, head.length, head.keep, head.stream) == (429, False, 12, False, False)
    tight = b"HTTP/1.1 200 OK\r\ntransfer-encoding:chunked\r\ncontent-type:text/event-stream;charset=utf-8\r\n"
    head = head_of(tight + b"CONNECTION:  Close\r\n\r\n")
    assert (head.chunked, head.keep, head.stream) == (True, False, True)
    assert head_of(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n").keep


@pytest.mark.parametrize("n", [1, 3, 5000])
def test_interim_answers_are_passed_over(n: int) -> None:
    first = b"HTTP/1.1 100 Continue\r\n\r\n" * n
    head = head_of(first + CHUNKED)
    assert head.status == 200 and head.size == len(first) + len(CHUNKED)
    assert n > 1000 or Head.of(first) is None


@pytest.mark.parametrize(
    "raw", [b"SSH-2.0-OpenSSH\r\n", b"\x16\x03\x01\x00", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 x\r\n\r\n"]
)
def test_what_is_no_http_is_told_at_once(raw: bytes) -> None:
    with pytest.raises(Malformed, match="no HTTP answer"):
        Head.of(raw)


def test_a_head_without_end_is_given_up() -> None:
    assert Head.of(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 60_000) is None
    with pytest.raises(Malformed):
        Head.of(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000)


ENDINGS = [LAST, b"0;a=b\r\n\r\n", b"000\r\n\r\n", b"0\r\nX-Sum: 1\r\nY: 0\r\n\r\n"]


@pytest.mark.parametrize("end", ENDINGS)
def test_a_chunked_end_is_seen_at_a_glance_and_nothing_else_is(end: bytes) -> None:
    exchange = Exchange(0, 0, True, 0, b"", 4)
    for piece in [CHUNKED, *(chunk(event(completion("0"), b"\r\n")) for _ in range(3))]:
        exchange.pieces.append(piece)
        exchange.stamps.append(1)
        assert exchange.head is not None or exchange.begins()
        assert not exchange.whole
    exchange.pieces.append(chunk(DONE) + end)
    exchange.stamps.append(2)
    assert exchange.whole


# --- Any cut of the bytes ---------------------------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any] | bytes] = {
    "text": completion(" word"),
    "umlaut": completion('ü“ \\ \n data: " 🙂'),
    "later": completion(" word", created=2),
    "other": completion("x", system_fingerprint="fp"),
    "counted": completion(" y", usage={"prompt_tokens": 3, "completion_tokens": 7}),
    "empty": completion(""),
    "chat": chat({"content": " word"}),
    "thinks": chat({"reasoning_content": "hm", "content": None}),
    "role": chat({"role": "assistant", "content": ""}),
    "ping": b": ping",
    "named": b"event: message",
    "ends": completion(" end", "length"),
    "usage": usage(11),
}
WITH_TEXT = {"text", "umlaut", "later", "other", "counted", "chat", "thinks", "ends"}


def framed(kinds: list[str], line_end: bytes, borders: set[int] | None) -> tuple[bytes, list[int]]:
    """The bytes of a stream, and where in them the first byte of each text is.

    Args:
        kinds: of its events.
        line_end: of its lines.
        borders: between chunks, as shares of the body in thousandths; None for a body without chunks.
    """
    body, texts = b"", []
    for kind in [*kinds]:
        told = KINDS[kind]
        raw = (
            told + (line_end if kind == "named" else 2 * line_end) if isinstance(told, bytes) else event(told, line_end)
        )
        if kind in WITH_TEXT:
            key = b'"reasoning_content":"' if kind == "thinks" else b'"content":"' if kind == "chat" else b'"text":"'
            texts.append(len(body) + raw.index(key) + len(key))
        body += raw
    body += b"data: [DONE]" + 2 * line_end
    if borders is None:
        return body, texts
    wire, begin, at = b"", 0, []
    for border in sorted({*(len(body) * one // 1000 for one in borders), len(body)} - {0}):
        lead = len(wire) + len(f"{border - begin:x}\r\n")
        at += [lead + text - begin for text in texts if begin <= text < border]
        wire += chunk(body[begin:border])
        begin = border
    return wire + LAST, at


def by_event(kinds: list[str], line_end: bytes) -> tuple[bytes, list[int]]:
    """As :func:`framed`, each event in a chunk of its own: as servers do it."""
    wire, at = b"", []
    for kind in kinds:
        raw, texts = framed([kind], line_end, None)
        raw = raw.removesuffix(b"data: [DONE]" + 2 * line_end)
        at += [len(wire) + len(f"{len(raw):x}\r\n") + text for text in texts]
        wire += chunk(raw)
    return wire + chunk(b"data: [DONE]" + 2 * line_end) + LAST, at


def cut(wire: bytes, places: set[int]) -> list[bytes]:
    """The reads: cut at the places, which are shares in thousandths."""
    borders = sorted({0, len(wire), *(len(wire) * one // 1000 for one in places)})
    return [wire[a:b] for a, b in pairwise(borders)]


shares = st.sets(st.integers(0, 1000), max_size=12)
streams = st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.integers(1, 8)), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    streams=st.lists(streams, min_size=1, max_size=3),
    line_end=st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\r"]),
    chunks=st.one_of(st.just("events"), st.none(), shares),
    places=shares,
    batches=shares,
)
@example([[("text", 8), ("later", 8), ("text", 8)]], b"\n", "events", {100, 333, 700}, {500})
@example([[("counted", 1)], [("text", 1), ("counted", 8)]], b"\n", "events", set(), set())
@example([[("text", 8), ("empty", 2), ("text", 8), ("ends", 1), ("usage", 1)]] * 2, b"\n", "events", {250, 600}, set())
def test_the_quick_way_reads_what_the_exact_one_does_and_both_read_the_truth(
    streams: list[list[tuple[str, int]]], line_end: bytes, chunks: Any, places: set[int], batches: set[int]
) -> None:
    looks = Looks()
    for stream in streams:  # one client's answers: what one has shown serves the next
        kinds = [kind for kind, times in stream for _ in range(times)]
        wire, texts = by_event(kinds, line_end) if chunks == "events" else framed(kinds, line_end, chunks)
        pieces = cut(wire, places)
        head = CHUNKED if chunks is not None else UNTIL_CLOSE
        quick, exact = Reader(head_of(head), looks), Reader(head_of(head), NoLooks())
        stops = sorted({0, len(pieces), *(len(pieces) * one // 1000 for one in batches)})
        for reader in (quick, exact):
            for a, b in pairwise(stops):
                reader.feed([1000 + i for i in range(a, b)], pieces[a:b])
            reader.close()
        assert exact.quick == 0
        for name in ("events", "tokens", "prompt_tokens", "finish", "done", "error", "stamps", "counts", "whole"):
            assert getattr(quick, name) == getattr(exact, name), name
        assert (list(exact.stamps), list(exact.counts)) == truth(pieces, texts)
        assert exact.done and exact.events == sum(kind in WITH_TEXT for kind in kinds)


def truth(pieces: list[bytes], texts: list[int]) -> tuple[list[int], list[int]]:
    """In which reads the texts begin, and how many in each."""
    found: dict[int, int] = {}
    for text in texts:
        end = 0
        for i, piece in enumerate(pieces):
            end += len(piece)
            if text < end:
                found[1000 + i] = found.get(1000 + i, 0) + 1
                break
    return list(found), list(found.values())


def test_the_quick_way_is_taken_where_events_look_alike() -> None:
    looks = Looks()
    for n in range(3):
        wire, _ = by_event(["text"] * 200 + ["ends", "usage"], b"\n")
        reader = read(cut(wire, {10, 500, 900}), looks=looks)
        assert reader.events == 201 and reader.quick >= (199 if n == 0 else 198)


def test_a_server_whose_events_all_differ_is_read_exactly_after_a_few_tries() -> None:
    looks, told = Looks(), [completion("a", usage={"prompt_tokens": 1, "completion_tokens": i}) for i in range(900)]
    for _ in range(9):
        reader = read([chunk(event(one)) for one in told], looks=looks)
        assert (reader.events, reader.tokens, reader.quick) == (900, 899, 0)
    assert not looks.before
    for _ in range(9):
        assert read([chunk(event(completion("a", step=i))) for i in range(90)], looks=looks).events == 90
    assert looks.attempts == 4 and not looks.before


def test_what_an_event_says_beside_its_text_is_not_passed_over_in_the_next_answer() -> None:
    looks = Looks()
    for kind in ("counted", "ends"):
        for _ in range(3):
            wire, _ = by_event(["text", *[kind] * 5], b"\n")
            reader = read([wire], looks=looks)
            assert (reader.tokens, reader.finish) == ((7, None) if kind == "counted" else (None, "length"))


def test_one_bad_answer_does_not_end_the_quick_way() -> None:
    looks, good = Looks(), b"".join(chunk(event(completion("a"))) for _ in range(50))
    for _ in range(9):
        read([good + chunk(event({"error": "x"})) + good, LAST], looks=looks)
        assert read([good, LAST], looks=looks).quick > 40


@pytest.mark.parametrize("head", [CHUNKED, UNTIL_CLOSE, OK_HEAD + b"Content-Length: %d\r\n\r\n"])
def test_every_framing_gives_the_same_events(head: bytes) -> None:
    body = b"".join(whole(30))
    head = head % len(body) if b"%d" in head else head
    wire = body if b"chunked" not in head else b"".join(map(chunk, whole(30))) + LAST
    for size in (1, 2, 7, 1000):
        reader = read([wire[i : i + size] for i in range(0, len(wire), size)], head)
        assert (reader.events, reader.tokens, reader.finish, reader.done) == (30, 30, "length", True)
        assert reader.whole == (head is not UNTIL_CLOSE)


def test_an_enormous_event_is_read_in_no_time() -> None:
    reader = read([chunk(event(completion("a" * 3_000_000))), *map(chunk, whole(4)), LAST])
    assert reader.events == 5 and isinstance(reader.stamps, array)


# --- Texts, where nobody else counts ----------------------------------------------------------------------------------


def test_an_answer_without_usage_is_counted_by_the_tokenizer_if_there_is_one() -> None:
    events = [event(chat({"role": "assistant", "content": ""})), event(chat({"reasoning_content": "so "}))]
    events += [event(chat({"content": word})) for word in ("one ", "two ", "three")]
    data = b"".join([OK_HEAD, b"\r\n", *events, event(chat({}, "stop")), DONE])
    for keep, tokens, counted in ((True, 4, TOKENIZER), (False, None, NOT_COUNTED)):
        exchange = Exchange(0, 0, True, 0, b"", 4)
        exchange.stamps, exchange.pieces, exchange.sent = [2_000], [data], 1_000
        assert exchange.begins(keep_text=keep)
        exchange.ended = 3_000
        row, _, _ = exchange.row(1, 0, Load(api=CHAT), lambda text: len(text.split()))
        assert (row.outcome, row.tokens, row.counted) == ("ok", tokens, counted)


def test_a_stranger_in_the_middle_of_a_long_answer_is_found_in_one_of_sixteen_stretches() -> None:
    many = [event(completion(f" t{i % 7}")) for i in range(2000)]
    odd = [*many[:1000], b"data: {nope\n\n", *many[1000:]]
    looks, found = Looks(), 0
    for _ in range(32):
        reader = Reader(Head.of(OK_HEAD + b"\r\n"), looks)
        try:
            reader.feed([1], [b"".join([*odd, event(usage(2000)), DONE])])
        except Malformed:
            found += 1
    assert found == 2
