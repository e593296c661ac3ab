"""A benchmark's target: its address, its key, and that the key is in no text of it."""

import pytest

from helpers.bench.generator.target import Target
from helpers.errors import WorkshopError

KEY = "sk-very-secret-0123456789"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        (" http://localhost:8000/ ", "http://localhost:8000/v1"),
        ("http://gpu:8000/v1/chat/completions", "http://gpu:8000/v1"),
        ("https://api.example.com/v1/", "https://api.example.com/v1"),
        ("https://api.example.com:8443/serve/v1/completions", "https://api.example.com:8443/serve/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
    ],
)
def test_an_address_may_be_given_as_people_write_it(url: str, told: str):
    assert Target.of(url).url == told


@pytest.mark.parametrize("url", ["", "ftp://x/v1", "http://", "http://x:port", "http://[::1"])
def test_what_is_no_address_is_one_sentence(url: str):
    with pytest.raises(WorkshopError, match="Give one such as"):
        Target.of(url)


def test_a_password_in_the_address_is_refused_and_not_repeated():
    with pytest.raises(WorkshopError, match="user name or password") as refused:
        Target.of("http://me:hunter2@gpu:8000/v1")
    assert "hunter2" not in str(refused.value)


def test_the_key_is_sent_and_is_in_no_text(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_KEY", KEY)
    target = Target.of("http://gpu:8000", "m", "MY_KEY")
    assert f"Authorization: Bearer {KEY}".encode() in target.request("POST", "/v1/completions", b"{}")
    assert KEY not in repr(target) and KEY not in str(target.told())


@pytest.mark.parametrize("cut", range(6, len(KEY) + 1))
def test_a_key_that_a_server_repeats_is_taken_out_even_where_it_was_cut(cut: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_KEY", KEY)
    target = Target.of("http://gpu:8000", "m", "MY_KEY")
    assert target.without_key(f"no such key: {KEY[:cut]}…") == "no such key: (the key)…"
    assert Target.of("http://gpu:8000").without_key("nothing is hidden") == "nothing is hidden"
