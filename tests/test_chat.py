"""Asking a served engine: what is measured, what is shown, and what is said when it goes wrong."""

import _thread
import queue
import re
import signal
import socket
import threading
from types import SimpleNamespace

import psutil
import pytest
from conftest import until
from streams import says, send, streaming, waits

from helpers import models, serving, toolchains
from helpers.errors import WorkshopError
from helpers.serving import chat, exchange
from helpers.serving.chat import Comparison
from helpers.serving.exchange import Exchange
from helpers.serving.reply import Asked, ChatError, Reply


@pytest.fixture
def quiet(monkeypatch):
    """No key, no organisation and no proxy of this machine."""
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


pytestmark = pytest.mark.usefixtures("quiet")


class Address:
    """An endpoint that is only an address."""

    model = "tiny"

    def __init__(self, url):
        self.url = url


def made(text="one two", tokens=11, ttft=0.05, seconds=0.15, engine="FP16", **more):
    values = {"chunks": tokens, "finish": "length", "ended": f"the limit of {tokens} tokens"} | more
    return Reply("Why?", text, tokens, ttft=ttft, seconds=seconds, engine=engine, **values)


# What is asked and measured


def test_an_answer_has_its_text_the_servers_count_and_why_it_ended(capsys):
    with streaming(says("An ", "engine", ".")) as server:
        reply = chat.ask(server, "What is it?", max_tokens=9, seed=3)
    assert (reply.text, reply.tokens, reply.chunks, reply.finish) == ("An engine.", 4, 3, "stop")
    assert (reply.prompt, reply.prompt_tokens, reply.model, reply.engine) == ("What is it?", 7, "tiny", "FP16")
    assert reply.ended == "its end-of-sequence token" and 0 < reply.ttft <= reply.seconds
    assert server.asked[0]["messages"] == [{"role": "user", "content": "What is it?"}]
    asked = {name: server.asked[0][name] for name in ("model", "max_tokens", "temperature", "seed", "stream")}
    assert asked == {"model": "tiny", "max_tokens": 9, "temperature": 0.0, "seed": 3, "stream": True}
    assert "ignore_eos" not in server.asked[0]
    assert "An engine." in capsys.readouterr().out


def test_a_text_is_continued_without_the_chat_template():
    with streaming(says(" a", " cook", finish="length")) as server:
        reply = chat.ask(server, "Soyer trained as", max_tokens=3, chat=False, ignore_eos=True, show=False)
    assert (server.asked[0]["prompt"], server.asked[0]["ignore_eos"]) == ("Soyer trained as", True)
    assert str(reply).startswith("Soyer trained as a cook\n(FP16: 3 tokens, first after ")
    assert reply.ended == "the limit of 3 tokens"


def test_a_conversation_is_sent_as_it_is():
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Why?"},
    ]
    with streaming(says("So.")) as server:
        assert chat.ask(server, messages, show=False).prompt == "Why?"
    assert server.asked[0]["messages"] == messages


def test_times_run_from_the_requests_last_byte_to_the_first_text_and_the_last_token():
    """A clock that the test moves. Neither a role nor a comment that keeps the connection open is a token."""
    feed, now = queue.Queue(), [100.0]

    def script(stream, _):
        stream.open()
        while (step := feed.get(timeout=10)) is not None:
            step(stream)

    with streaming(script) as server:
        going = Exchange(server, Asked("Why?"), clock=lambda: now[0]).start()
        until(lambda: going._sent is not None)
        now[0] += 2.0  # the server thinks
        feed.put(lambda stream: (stream.role(), stream.write(b": ping\n\n")))
        assert going.reply().ttft is None
        feed.put(lambda stream: (now.__setitem__(0, now[0] + 1.0), stream.piece("a", 1)))
        until(lambda: going.reply().chunks == 1)
        assert going.reply().ttft == pytest.approx(3.0)
        for count in (2, 3, 4, 5):
            now[0] += 0.5
            feed.put(lambda stream, count=count: stream.piece("b", count))
            until(lambda count=count: going.reply().chunks == count)
        assert (going.reply().ended, going.reply().figures()) == (
            "",
            "5 tokens, first after 3,000 ms, then 2 tokens/s so far",
        )
        feed.put(lambda stream: stream.piece("", 5, "stop"))
        until(lambda: going.reply().finish == "stop")
        now[0] += 60.0  # the usage comes late: it is no token
        feed.put(lambda stream: stream.end(5))
        feed.put(None)
        reply = going.result()
    assert reply.ttft == pytest.approx(3.0) and reply.seconds == pytest.approx(5.0)
    assert reply.tokens_per_second == pytest.approx(2.0)  # 4 tokens after the first in 2 s


def test_events_split_anywhere_and_comments_between_them_change_nothing():
    events = b'data: {"choices":[{"index":0,"delta":{"content":"\xc3\xa9t\xc3\xa9"}}]}\n\n: ping\n\n'
    events += b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\r\n\r\n'

    def script(stream, _):
        stream.open()
        for place in range(len(events)):
            stream.write(events[place : place + 1])
        stream.end(2)

    with streaming(script) as server:
        reply = chat.ask(server, "When?", show=False)
    assert (reply.text, reply.tokens) == ("été", 2)


def test_without_the_servers_count_chunks_are_called_chunks():
    def script(stream, _):
        stream.open()
        stream.piece("four tokens in one")
        stream.piece(" and more", finish="stop")
        stream.end()

    with streaming(script) as server:
        reply = chat.ask(server, "Why?", show=False)
    assert (reply.tokens, reply.counted) == (2, False)
    assert reply.figures().startswith("2 chunks, first after ")
    assert made(counted=False, finish="stop", ended="x").figures() == (
        "11 chunks, first after 50 ms, then 100 chunks/s; ended by x"
    )


def test_tokens_that_were_read_at_once_are_not_timed():
    """A busy machine reads late: the first token was there before, and the others say nothing about the server."""

    def script(stream, _):
        stream.open()
        pieces = [stream.framed(f"word{place} ", place) for place in range(1, 21)]
        stream.wfile.write(b"".join(pieces[:15]))
        threading.Event().wait(0.1)
        stream.wfile.write(b"".join(pieces[15:]))
        stream.piece("", 20, "stop")
        stream.end(20)

    with streaming(script) as server:
        reply = chat.ask(server, "Why?", show=False)
    assert (reply.tokens, reply.first_tokens, reply.rate) == (20, 15, "–")
    assert (
        "first after at most " in reply.figures()
        and ": 15 at once, which leaves too few to tell a speed" in reply.figures()
    )
    assert "The speeds cannot be compared" in Comparison((reply, made(engine="FP8"))).sentence


def test_a_few_tokens_read_with_the_first_are_left_out_of_the_speed():
    reply = made(tokens=102, first_tokens=2)
    assert reply.tokens_per_second == pytest.approx(1000)  # 100 tokens in 0.1 s
    assert "first after 50 ms, then 1,000 tokens/s" in reply.figures()  # the other took 1 ms: no matter beside 50
    late = made(tokens=102, first_tokens=9, seconds=0.98)  # 100 tokens a second: the others took 80 ms
    assert "first after at most 50 ms, then 100 tokens/s" in late.figures()


def test_a_server_that_does_not_count_in_every_chunk_is_asked_without_that():
    def script(stream, body):
        if "continuous_usage_stats" in body["stream_options"]:
            return stream.refuse(400, "stream_options.continuous_usage_stats: extra fields not permitted")
        return says("Yes.")(stream, body)

    with streaming(script) as server:
        assert chat.ask(server, "Why?", show=False).text == "Yes."
    assert [asked["stream_options"] for asked in server.asked][1] == {"include_usage": True}


def test_an_answer_shorter_than_its_limit_met_the_engines_own():
    with streaming(says("a", "b", finish="length")) as server:
        assert chat.ask(server, "Why?", max_tokens=50, show=False).ended == "the engine's longest sequence"


def test_an_empty_answer_has_no_speed():
    with streaming(says()) as server:
        reply = chat.ask(server, "Why?", show=False)
    assert (reply.ttft, reply.tokens_per_second, reply.ttft_text, reply.rate) == (None, 0.0, "–", "–")
    assert "no text in" in reply.figures() and "end-of-sequence" in reply.figures()


def test_a_proxy_for_the_world_outside_is_not_asked_for_this_machine(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with streaming(says("Yes.")) as server:
        assert chat.ask(server, "Why?", show=False).text == "Yes."


def test_a_reply_shows_itself_alike_in_a_browser_and_in_a_terminal():
    reply = made("<b>bold</b>\n& more")
    assert "&lt;b&gt;bold&lt;/b&gt;\n&amp; more" in reply._repr_html_() and "<b>" not in reply._repr_html_()
    for face in (str(reply), reply._repr_html_()):
        assert "FP16: 11 tokens, first after 50 ms, then 100 tokens/s; ended by the limit of 11 tokens" in face


def test_a_notebook_sees_the_text_grow_in_one_place(kernel):
    code = """
from helpers.serving import chat
from tests import streams
import time
def script(stream, _):
    stream.open()
    for made in range(1, 5):
        stream.piece(f"word{made} ", made)
        time.sleep(0.15)
    stream.piece("", 4, "stop")
    stream.end(4)
with streams.streaming(script) as server:
    reply = chat.ask(server, "Why?")
"""
    kernel.run("sys.path.insert(0, '..')")
    cell = kernel.run(code)
    assert cell.error is None
    growing = [update["data"]["text/html"] for update in cell.updates]
    assert any("word1" in face and "word4" not in face and "▌" in face for face in growing), growing
    assert "word1 word2 word3 word4" in cell.shown["text/html"] and "▌" not in cell.shown["text/html"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"prompt": "  "}, "The prompt is empty"),
        ({"prompt": 3}, "The prompt is 3"),
        ({"prompt": []}, "a list of messages"),
        ({"prompt": [{"role": "robot", "content": "x"}]}, "has to be one of system, user, assistant"),
        ({"prompt": [{"role": "user"}]}, "content has to be a text"),
        ({"prompt": ["x"]}, "'x' is no message"),
        ({"prompt": [{"role": "user", "content": "x"}], "chat": False}, "chat=True for messages"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": True}, "max_tokens is True"),
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"seed": 0.5}, r"seed is 0\.5"),
        ({"time_limit": 0}, "time_limit is 0"),
    ],
)
def test_what_no_server_takes_is_refused_before_it_is_sent(arguments, told):
    with pytest.raises(WorkshopError, match=told):
        chat.ask(Address("http://127.0.0.1:9/v1"), **{"prompt": "Why?"} | arguments)


# What goes wrong


def problem(script, prompt="Why?", **more):
    """The error of asking a server that answers by this script."""
    with streaming(script) as server, pytest.raises(ChatError) as caught:
        chat.ask(server, prompt, show=False, **more)
    return caught.value


def test_no_server_is_told_with_the_address_and_what_to_do():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but it does not listen: nobody answers there
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(ChatError) as caught:
            chat.ask(Address(url), "Why?", show=False)
    assert str(caught.value) == f"No server answers at {url}. See that the server runs."
    assert caught.value.reply.text == ""


def test_what_the_endpoint_says_of_itself_stands_in_the_error():
    class Dead(Address):
        def status(self):
            return type("Status", (), {"state": "died: killed by SIGKILL"})()

        def restart(self):
            raise AssertionError("nobody asked for it")

    def script(stream, _):
        stream.open()
        send(stream, ["one", "two", "three"])
        stream.cut()

    with streaming(script) as server, pytest.raises(ChatError) as caught:
        chat.ask(Dead(server.url), "Why?", show=False)
    assert str(caught.value) == (
        "The stream of tiny broke off after 3 tokens: the server closed it before the answer's end. "
        "Its status: died: killed by SIGKILL. Start it again with endpoint.restart(). "
        "What had come is in the error's `reply`."
    )
    assert (caught.value.reply.text, caught.value.reply.ended) == ("onetwothree", "a broken stream")


def test_a_stream_that_ends_politely_but_early_is_broken_too():
    def script(stream, _):
        stream.open()
        stream.piece("one", 1)
        stream.end()

    assert "broke off after 1 token:" in str(problem(script))


def test_a_server_that_hangs_up_before_it_answers_is_told():
    assert "broke off before its first token" in str(problem(lambda stream, _: stream.cut()))


@pytest.mark.parametrize(
    "event",
    [
        {"object": "error", "message": "The engine's process died.", "type": "InternalServerError", "code": 500},
        {"error": {"message": "The engine's process died.", "code": 500}},
    ],
)
def test_an_error_event_inside_a_stream_is_told(event):
    def script(stream, _):
        stream.open()
        send(stream, ["one", "two"])
        stream.event(event)
        stream.end()

    caught = problem(script)
    assert "told of an error after 2 tokens: The engine's process died. See that" in str(caught)
    assert caught.reply.text == "onetwo"


@pytest.mark.parametrize(
    ("code", "message", "advice"),
    [
        (400, "The prompt has 3,000 tokens, at most 1,000 fit", "has to be shortened or begun anew"),
        (429, "320 requests are here already", "ask again when some have ended"),
        (503, "The engine's process died", "log says more"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(code, message, advice):
    caught = problem(lambda stream, _: stream.refuse(code, message))
    assert f"FP16 refused the request ({code}): {message}. " in str(caught) and advice in str(caught)
    assert caught.code == code


@pytest.mark.parametrize(
    "event",
    [
        *({"choices": [{"index": 0}]}, {"choices": [{"index": 0, "delta": None}]}, {"choices": "abc"}),
        *({"choices": [], "usage": {"completion_tokens": "many"}}, [1], "x", None, 7),
    ],
    ids=str,
)
def test_an_event_of_another_shape_is_told_and_raises_no_error_of_pythons_own(event):
    def script(stream, _):
        stream.open()
        send(stream, ["one"])
        stream.event(event)
        stream.end()

    caught = problem(script)
    assert isinstance(caught, ChatError) and caught.reply.text.startswith("one")
    assert caught.reply.ended in ("nonsense", "a broken stream", "an error")


def test_an_address_that_cannot_be_is_told():
    with pytest.raises(ChatError, match=r"FP16 cannot be asked|No server answers at"):
        chat.ask(SimpleNamespace(url="http://127.0.0.1:99999/v1", model="m", title="FP16"), "Hello", show=False)


def test_a_page_that_is_no_answer_is_told():
    def script(stream, _):
        stream.open()
        stream.write(b"data: <html>Hello</html>\n\n")

    assert "no event of an OpenAI-compatible server" in str(problem(script))


def test_silence_is_told_after_the_time_limit_and_the_text_is_kept():
    caught = problem(waits("one"), time_limit=0.2)
    assert str(caught).startswith("FP16 sent nothing for 0.2 s, after 1 token.")
    assert "larger time_limit" in str(caught) and caught.reply.text == "one"


def test_an_error_is_shown_without_a_traceback():
    caught = problem(lambda stream, _: stream.refuse(429, "full"))
    assert caught._render_traceback_() == [f"ChatError: {caught}"]


# Breaking off


def test_stopping_closes_the_connection_and_keeps_the_text():
    with streaming(waits("one", "two")) as server:
        going = Exchange(server, Asked("Why?")).start()
        until(lambda: going.reply().chunks == 2)
        going.stop()
        reply = going.result()
        assert server.hung_up.wait(5)
    assert (reply.text, reply.ended) == ("onetwo", "interrupted")
    assert reply.figures().endswith("; interrupted")


def test_a_request_that_waits_for_its_answer_can_be_stopped_too():
    with streaming(lambda stream, _: stream.wait_for_hang_up()) as server:
        going = Exchange(server, Asked("Why?")).start()
        until(lambda: server.asked)
        going.stop()
        assert going.result().ended == "interrupted" and server.hung_up.wait(5)


def test_stopping_before_and_after_does_no_harm():
    with streaming(says("Yes.")) as server:
        early = Exchange(server, Asked("Why?"))
        early.stop()
        assert early.start().result().ended == "interrupted"
        late = Exchange(server, Asked("Why?")).start()
        assert late.result().text == "Yes."
        late.stop()
        assert late.result().ended == "its end-of-sequence token"
    assert len(server.asked) == 1


@pytest.fixture
def interruptible():
    """Ctrl-C reaches Python, also where whoever started the tests has it ignored, as a shell does in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_keeps_what_there_is(interruptible):
    with streaming(waits("one", "two")) as server:

        def interrupt():
            until(lambda: server.asked)
            threading.Event().wait(0.3)  # both pieces are on their way
            _thread.interrupt_main()

        threading.Thread(target=interrupt, daemon=True).start()
        reply = chat.ask(server, "Why?", show=False)
        assert server.hung_up.wait(5)
    assert (reply.text, reply.ended) == ("onetwo", "interrupted")


def test_nothing_is_left_running():
    with streaming(waits("one")) as server:
        going = Exchange(server, Asked("Why?")).start()
        until(lambda: going.reply().chunks)
        thread = next(t for t in threading.enumerate() if t.name == "workshop-chat")
        assert thread.daemon
        going.stop()
        going.wait()
        thread.join(5)
        assert not thread.is_alive()


# Several engines


def test_several_are_asked_one_after_the_other(capsys):
    order = []

    def script(name, *pieces):
        def answer(stream, body):
            order.append(f"{name} begins")
            says(*pieces)(stream, body)
            order.append(f"{name} ends")

        return answer

    with (
        streaming(script("16", "the ", "same ", "text")) as one,
        streaming(script("8", "the ", "same ", "tune"), "FP8") as other,
    ):
        compared = chat.side_by_side("Why?", one, other)
    assert order == ["16 begins", "16 ends", "8 begins", "8 ends"]
    assert "The text of FP8 parts from that of FP16 after 10 characters." in compared.sentence
    assert "one after the other" in compared.sentence
    assert "the same tune" in capsys.readouterr().out


def test_several_are_asked_at_once():
    both = threading.Barrier(2, timeout=10)

    def script(stream, body):
        both.wait()
        says("the same")(stream, body)

    with streaming(script) as one, streaming(script, "FP8") as other:
        compared = chat.side_by_side("Why?", one, other, together=True, show=False)
    assert "All wrote the same text." in compared.sentence and "at once" in compared.sentence


def test_one_that_fails_breaks_the_others_off():
    with (
        streaming(waits("one")) as one,
        streaming(lambda stream, _: stream.refuse(429, "full"), "FP8") as other,
        pytest.raises(ChatError, match="FP8 refused the request"),
    ):
        chat.side_by_side("Why?", one, other, together=True, show=False)
    assert one.hung_up.wait(5)


def test_one_endpoint_is_nothing_to_compare():
    with pytest.raises(WorkshopError, match="nothing to compare with 1 endpoints"):
        chat.side_by_side("Why?", Address("http://127.0.0.1:9/v1"))


def test_the_sentence_says_what_the_figures_say():
    slow, fast = made(seconds=0.25), made(engine="FP8", seconds=0.15)  # 50 and 100 tokens/s
    assert "FP8 was 2.0 times as fast as FP16: 100 tokens/s against 50 tokens/s." in Comparison((slow, fast)).sentence
    turned = Comparison((made(seconds=0.15), made(engine="FP8", seconds=0.25))).sentence
    assert "FP16 was 2.0 times as fast as FP8" in turned
    alike = Comparison((made(seconds=0.150), made(engine="FP8", seconds=0.152))).sentence
    assert "They were about equally fast, 98 tokens/s to 100 tokens/s" in alike
    short = Comparison((made(tokens=1), made(engine="FP8"))).sentence
    assert "The speeds cannot be compared" in short and "times as fast" not in short
    stopped = Comparison((made(ended="interrupted"), made(engine="FP8")))
    assert stopped.sentence == "An answer was interrupted, so nothing is compared."


def test_a_sentence_calls_engines_by_what_they_have():
    sixteen, eight = made(engine="FP16 weights", seconds=0.18), made("one ten", engine="FP8 (E4M3) weights")
    said = Comparison((sixteen, eight)).sentence
    assert "The engine with FP8 (E4M3) weights was 1.3 times as fast as the one with FP16 weights: 100 tokens" in said
    assert "The text of the engine with FP8 (E4M3) weights parts from that of the one with FP16 weights after 5" in said
    caches = Comparison((made(engine="16-bit KV cache", seconds=0.25), made(engine="INT8 KV cache"))).sentence
    assert "The engine with an INT8 KV cache was 2.0 times as fast as the one with a 16-bit KV cache:" in caches


@pytest.mark.parametrize(
    ("precision", "toolchain", "seconds", "told"),
    [
        ("fp8", "openvino", 0.25, True),  # slower
        ("fp8", "openvino", 0.152, True),  # alike
        ("fp8", "openvino", 0.10, False),  # faster: nothing to explain
        ("fp8", "tensorrt_llm", 0.25, False),
        ("int8_wo", "openvino", 0.25, False),
        ("", "", 0.25, False),
    ],
)
def test_why_fp8_is_not_faster_is_told_on_a_cpu_only(precision, toolchain, seconds, told):
    sixteen = made(engine="FP16 weights", toolchain=toolchain, precision="fp16")
    eight = made(engine="8-bit weights", toolchain=toolchain, precision=precision, seconds=seconds)
    for pair in ((sixteen, eight), (eight, sixteen)):
        assert ("A CPU has no FP8 arithmetic" in Comparison(pair).sentence) is told


def test_a_reply_knows_what_its_engine_is():
    with streaming(says("a")) as server:
        server.engine = type("Engine", (), {"title": "FP8", "toolchain": "openvino", "precision": "fp8"})()
        reply = chat.ask(server, "Why?", show=False)
    assert (reply.toolchain, reply.precision) == ("openvino", "fp8")


def test_a_comparison_shows_itself_alike_in_a_browser_and_in_a_terminal():
    compared = Comparison((made("one <two>"), made("one <ten>", engine="FP8", seconds=0.25)))
    for face in (str(compared), compared._repr_html_()):
        assert re.search(r"Why\?", face) and "parts after 6 characters" in face and "50 ms" in face
    assert "one &lt;t<u" in compared._repr_html_() and "<two>" not in compared._repr_html_()
    assert "one <two>" in str(compared)


def test_engines_of_the_same_name_are_numbered():
    with streaming(says("a")) as one, streaming(says("b")) as other:
        compared = chat.side_by_side("Why?", one, other, show=False)
    assert [reply.engine for reply in compared.replies] == ["FP16 (1)", "FP16 (2)"]


def test_long_names_lose_what_all_have_in_common():
    names = ["FP16 weights, 16-bit KV cache", "FP8 weights, 16-bit KV cache"]
    assert [r.engine for r in chat.named_apart([made(engine=name) for name in names])] == [
        "FP16 weights",
        "FP8 weights",
    ]
    names = ["FP8 weights, 16-bit KV cache", "FP8 weights, FP8 KV cache", "FP8 weights, FP8 KV cache"]
    assert [r.engine for r in chat.named_apart([made(engine=name) for name in names])] == [
        "16-bit KV cache",
        "FP8 KV cache (1)",
        "FP8 KV cache (2)",
    ]


def test_a_terminal_sees_the_figures_and_the_latest_words():
    growing = chat._Growing.of([made("x" * 200 + " the end", ended="")])
    assert len(growing.line()) <= 100 and growing.line().endswith(" the end")
    assert "100 tokens/s so far" in growing.line()
    assert str(growing) == "Asking FP16."


def test_an_endpoint_is_called_by_its_title_its_engines_or_its_model():
    address = Address("http://127.0.0.1:9/v1")
    assert exchange.title(address) == "tiny"
    address.engine = type("Engine", (), {"title": "FP8 weights"})()
    assert exchange.title(address) == "FP8 weights"


# A real server


@pytest.mark.slow
def test_a_served_engine_is_asked_refuses_is_stopped_and_its_death_is_told(made_by_notebooks):
    engine = toolchains.best().build(models.find())
    with serving.start(engine) as server:
        first = chat.ask(server, "What is TensorRT-LLM?", show=False)
        assert first.counted and first.tokens > first.chunks / 2 > 5 and first.prompt_tokens > 5
        assert first.finish == "stop" and "engine" in first.text and 0 < first.ttft < first.seconds
        compared = chat.side_by_side("What is TensorRT-LLM?", server, server, together=True, show=False)
        assert "All wrote the same text." in compared.sentence and compared.replies[0].text == first.text
        with pytest.raises(ChatError, match="refused the request") as caught:
            chat.ask(server, "word " * 3000, show=False)
        assert caught.value.code == 400
        long = Asked("Tell me about FP8.", max_tokens=1500, ignore_eos=True)
        stopped = Exchange(server, long).start()
        until(lambda: stopped.reply().chunks > 5)
        until(lambda: server.status().active == 1)
        stopped.stop()
        assert stopped.result().ended == "interrupted"
        until(lambda: server.status().active == 0)  # hanging up freed its slot
        killed = Exchange(server, long).start()
        until(lambda: killed.reply().chunks > 5)
        psutil.Process(server.pid).children()[0].kill()
        with pytest.raises(ChatError, match=r"broke off after \d+ tokens.* died: was killed by SIGKILL") as caught:
            killed.result()
        assert caught.value.reply.text
