"""``ctl key``: with a daemon and without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.access.store import KeyStore
from tests.commands.conftest import Ctl
from tests.control_api.fake import FakeControl, FakeDaemon


def store(home: Path) -> KeyStore:
    return KeyStore(home / "state" / "keys.json")


def test_without_a_daemon_the_file_is_changed(ctl: Ctl, home: Path) -> None:
    made = ctl(
        "key", "add", "guest", "--expires", "30d", "--models", "gemma, qwen*", "--limit", "2"
    )
    assert made.code == 0
    text = made.out.strip()
    assert text.startswith("mp-")
    assert "shown once" in made.err
    assert text not in made.err
    (key,) = store(home).read().keys
    assert key.principal == store(home).read().find(text.encode(), key.created)
    assert (key.models, key.at_once) == (("gemma", "qwen*"), 2)
    assert key.expires is not None
    assert round(key.expires - key.created) == 30 * 86400
    listed = ctl("key", "ls")
    assert "guest" in listed.out
    assert "gemma,qwen*" in listed.out
    assert text not in listed.out
    assert ctl("key", "rm", "guest").code == 0
    assert store(home).read().keys == ()
    gone = ctl("key", "rm", "guest")
    assert (gone.code, "no key named 'guest'" in gone.err) == (1, True)
    assert "Make one: ctl key add" in ctl("key", "ls").out


def test_the_key_alone_is_on_stdout_for_scripts(ctl: Ctl, home: Path) -> None:
    assert len(ctl("key", "add", "a").out.splitlines()) == 1
    made = ctl("key", "add", "b", "--scope", "control", "--json").json
    assert made["about"]["scopes"] == ["control", "use"]
    assert store(home).read().find(made["key"].encode(), 1e12) is not None
    assert [key["name"] for key in ctl("key", "ls", "--json").json["keys"]] == ["a", "b"]


def test_a_running_daemon_is_asked(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    made = ctl("key", "add", "laptop", "--per-minute", "30", "--default-model", "gemma")
    assert made.out.startswith("mp-")
    assert (fake.calls[0][1].per_minute, fake.calls[0][1].default_model) == (30, "gemma")
    assert "30/min" in ctl("key", "ls").out
    twice = ctl("key", "add", "laptop")
    assert (twice.code, "key named laptop" in twice.err) == (1, True)
    assert "opens nothing" in ctl("key", "rm", "laptop").out
    assert fake.ring == {}


@pytest.mark.parametrize(
    "words",
    [
        ("add",),
        ("add", "a", "--scope", "all"),
        ("add", "a", "--expires", "soon"),
        ("add", "a", "--expires", "0d"),
        ("add", "a", "--limit", "0"),
        ("add", "a", "--per-minute", "-1"),
        ("rm",),
    ],
)
def test_what_is_written_wrongly_is_a_usage_error(words: tuple[str, ...], ctl: Ctl) -> None:
    assert ctl("key", *words).code == 2


def test_bad_names_are_refused_with_what_is_allowed(ctl: Ctl, home: Path) -> None:
    for name in ("a b", "owner", "../x"):
        result = ctl("key", "add", name)
        assert result.code == 1
        assert "name of a key: found" in result.err
    assert store(home).read().keys == ()


def test_completion_knows_the_names(ctl: Ctl, home: Path) -> None:
    ctl("key", "add", "laptop")
    assert "laptop" in ctl("__complete", "zsh", "key", "rm", "").out.split()
    assert "add" in ctl("__complete", "zsh", "key", "").out.split()


def test_serve_passes_the_word_on_that_opens_it_to_everyone() -> None:
    from argparse import Namespace

    from control_api.commands.local.serve import daemon_argv

    args = Namespace(config=None, host="::", port=None, service=False, verbose=0, insecure=True)
    assert "--insecure-no-auth" in daemon_argv(args)
