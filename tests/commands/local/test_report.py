"""What a bug report does not tell."""

from __future__ import annotations

import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from control_api.commands.local.checks import Check
from control_api.commands.local.report import COMMON, Person, redact_text, redacted, this_person

ANN = Person(
    homes=("/home/ann",),
    users=("ann", "Ann Other"),
    hosts=("studio", "studio.example.org"),
    paths=("/disks/big/secret-model",),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/ann/.local/state/modelport, 2 GiB free", "~/.local/state/modelport, 2 GiB free"),
        ("/home/annabel/x", "/home/<user>/x"),
        ("/Users/bob/x belongs to user 501", "/home/<user>/x belongs to user 501"),
        ("chown ann /srv/ann/x", "chown <user> /srv/<user>/x"),
        ("an annual banner", "an annual banner"),
        ("STUDIO.example.org answers", "<host> answers"),
        ("http://192.168.1.5:8123 answers", "http://<address>:8123 answers"),
        ("http://127.0.0.1:8123, version 1.2.3", "http://127.0.0.1:8123, version 1.2.3"),
        ("http://[fe80::1:2:3:4]:8123", "http://[<address>]:8123"),
        ("path: /disks/big/secret-model is gone", "path: <model> is gone"),
        ("/mnt/My Models/qwen 3.Q4.gguf is gone", "<model> is gone"),
        ("started as: x --api-key sk-1234567890abcdef", "started as: x --api-key ***"),
        ("by Ann Other", "by <user>"),
    ],
)
def test_taken_out(text: str, expected: str) -> None:
    assert redact_text(text, ANN) == expected
    assert redact_text(expected, ANN) == expected


def test_a_line_of_the_report() -> None:
    found = redacted(Check("state", "fail", "/home/ann/x", "chmod 700 /home/ann/x"), ANN)
    assert found == Check("state", "fail", "~/x", "chmod 700 ~/x")


WORD = st.text(string.ascii_lowercase + string.digits, min_size=3, max_size=10)


@given(WORD, WORD, st.lists(WORD, min_size=1, max_size=4), st.sampled_from(" /:,@'\"()="))
def test_no_name_is_left(user: str, host: str, words: list[str], between: str) -> None:
    marks = "home user host model address"
    assume(user not in COMMON and host not in COMMON and user != host)
    assume(not any(name in marks for name in (user, host)))
    person = Person((f"/home/{user}",), (user,), (host,))
    text = between.join(["", user, *words, host, f"/home/{user}/x", f"{host}.local", ""])
    left = redact_text(text, person)
    for name in (user, host):
        for part in ("", "."):
            assert between + name + part + between not in left
    assert f"/home/{user}" not in left
    assert redact_text(left, person) == left


def test_who_runs_this(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/zoe/")
    monkeypatch.setenv("USER", "zoe")
    person = this_person(["/disks/m.gguf"])
    assert "/home/zoe" in person.homes
    assert "zoe" in person.users
    assert person.paths == ("/disks/m.gguf",)
    assert redact_text("zoe at /home/zoe", person) == "<user> at ~"
