"""The chat and the two-engine view: clicks without a browser, messages as a browser sends them, and the page."""

import io
import json
import time

import nbformat
import pytest
from conftest import until
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from streams import says, streaming, waits

from helpers import chat_widget
from helpers.chat_widget import EXAMPLE, Chat, Versus
from helpers.errors import WorkshopError
from helpers.serving.reply import ChatError
from tools import notebook_pages
from tools import run_notebooks as rn

VIEW = "application/vnd.jupyter.widget-view+json"


def asked(widget, question):
    """Type a question, click Send, and wait for the end of the answer."""
    widget.controls["prompt"].value = question
    widget.buttons["send"].click()
    assert widget.wait(10)
    return widget


def echo(stream, body):
    """Answer with the last question, and with how many messages came."""
    says(f"{body['messages'][-1]['content']}? ", f"{len(body['messages'])} messages.")(stream, body)


def test_a_question_is_answered_below_it_and_the_next_one_sends_both_along():
    with streaming(echo) as server:
        talk = asked(Chat(server, 64, 0.0), "Why")
        assert "Why? 1 messages." in talk.output.value and "3 tokens, first after" in talk.output.value
        assert "FP16 has answered." in talk.status.value
        asked(talk, "And then")
        assert "And then? 3 messages." in talk.output.value
    assert server.asked[1]["messages"][:2] == [
        {"role": "user", "content": "Why"},
        {"role": "assistant", "content": "Why? 1 messages."},
    ]
    assert talk.controls["prompt"].value == ""


def test_the_controls_are_what_the_server_is_asked():
    with streaming(echo) as server:
        talk = Chat(server, 64, 0.0)
        talk.controls["max_tokens"].value, talk.controls["temperature"].value = 9, 0.7
        asked(talk, "Why")
    assert (server.asked[0]["max_tokens"], server.asked[0]["temperature"]) == (9, 0.7)


def test_the_enter_key_sends_and_other_messages_do_not():
    with streaming(echo) as server:
        talk = Chat(server, 64, 0.0)
        talk.controls["prompt"].value = "Why"
        talk.controls["prompt"]._handle_msg(custom({"event": "blur"}))
        assert not talk.busy
        talk.controls["prompt"]._handle_msg(custom({"event": "submit"}))
        assert talk.wait(10)
    assert len(server.asked) == 1


def custom(content):
    """A widget's own message, as a browser sends it."""
    return {"content": {"data": {"method": "custom", "content": content}}, "buffers": []}


def test_while_an_answer_comes_it_is_shown_and_clicks_do_nothing_but_stop():
    with streaming(waits("one ", "two ")) as server:
        talk = Chat(server, 64, 0.0)
        talk.controls["prompt"].value = "Why"
        talk.buttons["send"].click()
        until(lambda: "one two" in talk.output.value)
        assert "▌" in talk.output.value and "so far" in talk.output.value  # live figures
        assert (talk.buttons["send"].disabled, talk.buttons["stop"].disabled) == (True, False)
        for click in (talk.send, talk.clear, talk.send):
            click()
        talk.send("Another")
        assert len(talk.turns) == 1
        talk.buttons["stop"].click()
        assert talk.wait(5) and server.hung_up.wait(5)
    assert len(server.asked) == 1
    assert "FP16 was stopped." in talk.status.value
    assert "one two" in talk.output.value and "interrupted" in talk.output.value
    assert (talk.buttons["send"].disabled, talk.buttons["stop"].disabled) == (False, True)
    assert talk.messages()[1]["content"] == "one two "


def test_clearing_begins_anew():
    with streaming(echo) as server:
        talk = asked(Chat(server, 64, 0.0), "Why")
        talk.buttons["clear"].click()
        assert "Why" not in talk.output.value
        assert "1 messages." in asked(talk, "Anew").output.value


def test_an_empty_question_is_not_sent():
    with streaming(echo) as server:
        assert "Type a question first." in asked(Chat(server, 64, 0.0), "  ").status.value
    assert not server.asked


def test_what_goes_wrong_is_a_sentence_in_the_chat_and_is_not_sent_along():
    with streaming(lambda stream, _: stream.refuse(429, "<full>")) as server:
        talk = asked(Chat(server, 64, 0.0), "Why")
        assert "FP16 refused the request (429): &lt;full&gt;." in talk.output.value
        assert "FP16 refused the request (429)" in talk.status.value
        server.script = echo
        assert "1 messages." in asked(talk, "Again").output.value
    assert "refused" in str(talk)


def test_a_server_that_is_gone_is_a_sentence_in_the_chat():
    with streaming(echo) as server:
        talk = Chat(server, 64, 0.0)
    assert f"No server answers at {server.url}" in asked(talk, "Why").output.value
    assert not talk.busy and not talk.buttons["send"].disabled


def test_what_nobody_foresaw_is_a_sentence_too():
    with streaming(echo) as server:
        talk = Chat(server, 64, 0.0)
        talk._answer = lambda question: 1 / 0
        asked(talk, "Why")
    assert "ZeroDivisionError" in talk.status.value and not talk.buttons["send"].disabled


def short(stream, body):
    """A server whose engine reads no more than three messages."""
    if len(body["messages"]) > 3 or len(body["messages"][-1]["content"]) > 20:
        return stream.refuse(400, "The prompt is longer than the engine's max_input_len")
    return echo(stream, body)


def test_a_conversation_that_grows_too_long_loses_its_oldest_questions():
    with streaming(short) as server:
        talk = Chat(server, 64, 0.0)
        for question in ("one", "two", "three"):
            asked(talk, question)
        assert "The oldest question and its answer no longer fit and are not sent any more." in talk.status.value
        assert "three? 3 messages." in talk.output.value
        assert [turn.sent for turn in talk.turns] == [False, True, True]
        assert "one? 1 messages." in talk.output.value  # still shown
        asked(talk, "four")
        assert [turn.sent for turn in talk.turns] == [False, False, True, True]


def test_a_question_too_long_by_itself_is_told_and_costs_the_conversation_nothing():
    with streaming(short) as server:
        talk = asked(Chat(server, 64, 0.0), "one")
        asked(talk, "x" * 30)
        assert "longer than the engine&#x27;s max_input_len" in talk.output.value
        assert "ask something shorter, or set Max tokens lower" in talk.output.value
        assert len(talk.messages()) == 2


def test_what_people_and_models_write_is_no_markup():
    with streaming(says("<img src=x onerror=alert(1)>")) as server:
        talk = asked(Chat(server, 64, 0.0), "<script>alert(1)</script>")
    assert "<script>" not in talk.output.value and "<img" not in talk.output.value
    assert "&lt;script&gt;" in talk.output.value and "&lt;img" in talk._repr_html_()


def test_everything_has_a_name_and_the_end_is_read_out():
    with streaming(echo) as server:
        for widget in (Chat(server, 64, 0.0), Versus(server, server, 64, 0.0)):
            assert all(control.description for control in widget.controls.values())
            assert all(button.description and button.tooltip for button in widget.buttons.values())
            assert "aria-live='polite'" in asked(widget, "Why").status.value
        assert "aria-label='Chat with FP16'" in Chat(server, 64, 0.0).output.value


def test_closing_the_widget_ends_its_answer():
    with streaming(waits("one")) as server:
        talk = Chat(server, 64, 0.0)
        talk.send("Why")
        until(lambda: server.asked)
        assert talk._thread.daemon
        talk.close()
        assert talk.wait(5) and server.hung_up.wait(5)
        closed = Chat(server, 64, 0.0)
        closed.send("Why")
        until(lambda: len(server.asked) == 2)
        closed.box.close()  # by hand, or by `Widget.close_all()`
        assert closed.wait(5)


@pytest.mark.parametrize(
    ("values", "told"), [({"max_tokens": 0}, "max_tokens is 0"), ({"temperature": 3}, "temperature is 3")]
)
def test_what_no_control_can_show_is_refused(values, told):
    with streaming(echo) as server, pytest.raises(WorkshopError, match=told):
        chat_widget.chat(server, **values)


# Two engines


def test_two_engines_answer_beside_each_other_and_are_compared():
    with streaming(says("the ", "same ", "text")) as one, streaming(says("the ", "same ", "tune"), "FP8") as other:
        view = asked(Versus(one, other, 64, 0.0), "Why")
        for face in (view.output.value, str(view)):
            assert all(name in face for name in ("FP16", "FP8", "TTFT", "parts after 10 characters"))
        assert "The text of FP8 parts from that of FP16 after 10 characters." in view.status.value
        assert "one after the other" in view.status.value
        view.controls["turns"].value = "both at once"
        assert "at once" in asked(view, "Why").status.value
        view.buttons["clear"].click()
        assert view.compared is None and "TTFT" not in view.output.value


def test_in_turn_the_second_waits_for_the_first_and_stop_spares_it():
    with streaming(waits("one")) as one, streaming(echo, "FP8") as other:
        view = Versus(one, other, 64, 0.0)
        view.send("Why")
        until(lambda: "1 token, first after" in view.output.value)
        assert "not sent yet" in view.output.value
        view.buttons["stop"].click()
        assert view.wait(5) and one.hung_up.wait(5)
        assert not other.asked
    assert "nothing is compared" in view.status.value and view.compared is None


def test_one_engine_that_fails_leaves_the_others_answer():
    with streaming(lambda stream, _: stream.refuse(429, "full")) as one, streaming(says("Yes."), "FP8") as other:
        view = asked(Versus(one, other, 64, 0.0), "Why")
    assert "FP16 refused the request (429)" in view.output.value and "Yes." in view.output.value
    assert view.compared is None and "Yes." in str(view) and "refused" in str(view)


# Its three faces


def test_without_a_browser_one_question_is_asked_for_real():
    with streaming(says("It builds ", "engines.")) as server:
        talk = chat_widget.chat(server)
        view = chat_widget.versus(server, server)
        for shown in (talk, view):
            bundle = shown._repr_mimebundle_()
            assert set(bundle) == {"text/plain", "text/html"}
            for face in bundle.values():
                assert EXAMPLE in face and "It builds engines." in face and "In JupyterLab this is a live" in face
    assert [asked["messages"][0]["content"] for asked in server.asked] == [EXAMPLE] * 3


def test_without_a_browser_a_server_that_is_gone_is_an_error():
    with streaming(echo) as server:
        pass
    with pytest.raises(ChatError, match="No server answers"):
        chat_widget.chat(server)


CELL = f"""import sys, time
sys.path.insert(0, {str(rn.ROOT)!r})
from helpers import chat_widget
from tests import streams
opened = streams.streaming(streams.says("It builds ", "engines."))
server = opened.__enter__()
talk = chat_widget.chat(server)
talk"""


def test_a_live_kernel_offers_the_chat_and_asks_nothing_by_itself(kernel):
    shown = kernel.run(CELL).shown
    assert set(shown) == {"text/plain", "text/html", VIEW}
    told = kernel.run("print(talk.box.model_id, len(server.asked))").streams[0].split()
    assert told == [shown[VIEW]["model_id"], "0"]


def test_a_question_from_a_browser_is_answered_while_the_kernel_works(kernel):
    """The messages are a browser's: the text and the click go in; the answer comes back while a cell still runs."""
    kernel.run(f"import openai\n{CELL}")  # so that the first question need not wait for the import
    names = "talk.controls['prompt'].model_id, talk.buttons['send'].model_id, talk.output.model_id"
    prompt, button, output = kernel.run(f"print({names})").streams[0].split()
    send(kernel, prompt, {"method": "update", "state": {"value": "Why?"}, "buffer_paths": []})
    send(kernel, button, {"method": "custom", "content": {"event": "click"}})
    cell = kernel.start("time.sleep(3)")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        message = kernel.client.get_iopub_msg(timeout=20)
        if message["msg_type"] == "comm_msg" and message["content"]["comm_id"] == output:
            drawn = message["content"]["data"]["state"].get("value", "")
            if "It builds engines." in drawn:
                assert kernel.finish(cell).error is None
                return
        idle = message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"
        assert not (idle and message["parent_header"].get("msg_id") == cell), "the answer waited for the cell"
    raise AssertionError("nothing was answered")


def send(kernel, comm, data):
    content = {"comm_id": comm, "data": data}
    kernel.client.shell_channel.send(kernel.client.session.msg("comm_msg", content))


def test_a_page_shows_the_exchange_and_no_widget(tmp_path, monkeypatch):
    for variable, folder in rn.private_folders(tmp_path).items():
        monkeypatch.setenv(variable, folder)
    source = tmp_path / "00_a.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A"), new_code_cell(CELL)]), source)
    done = rn.run_notebook(source, tmp_path / "out", rn.Progress(io.StringIO()), 120)
    assert done.problem == ""
    assert VIEW not in json.dumps(done.notebook)
    page = notebook_pages.body_of(done.notebook, source)
    assert EXAMPLE in page and "It builds engines." in page
    assert "jupyter-widgets" not in page
