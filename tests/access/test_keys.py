from __future__ import annotations

import math

import pytest

from daemon.access.keys import NO_KEYS, RESERVED, Ring, Wanted, digest, make, sent_in
from daemon.access.principals import CONTROL, USE, Principal
from daemon.core.problems import Code, ProblemError
from daemon.logs.redact import MARK, redact

NOW = 1_800_000_000.0


def test_a_key_is_long_and_random_and_only_its_hash_is_kept() -> None:
    texts = set()
    for _ in range(50):
        key, text = make(Wanted(name="laptop"), NOW)
        assert text.startswith("mp-")
        assert text[3:].isalnum()
        assert len(text) == 46
        assert key.digest == digest(text.encode())
        assert len(key.digest) == 32
        assert text not in repr(key)
        texts.add(text)
    assert len(texts) == 50


def test_what_the_log_would_show_of_one_is_a_mark() -> None:
    _, text = make(Wanted(name="laptop"), NOW)
    for line in (f"said {text}.", f"x-api-key: {text}", f'{{"key": "{text}"}}', f"?key={text}&a=1"):
        assert text[3:] not in redact(line)
        assert MARK in redact(line)
    assert redact("the model mp-qwen3-coder-30b-instruct") == (
        "the model mp-qwen3-coder-30b-instruct"
    )


def test_the_ring_knows_its_keys_and_no_other() -> None:
    one, first = make(Wanted(name="one", priority=3), NOW)
    two, second = make(Wanted(name="two", scope="control"), NOW)
    ring = Ring([one, two])
    assert ring.find(first.encode(), NOW) == Principal("one", frozenset({USE}), 3, keyed=True)
    found = ring.find(second.encode(), NOW)
    assert found is not None
    assert found.scopes == {USE, CONTROL}
    _, other = make(Wanted(name="one"), NOW)
    assert ring.find(other.encode(), NOW) is None
    assert NO_KEYS.find(first.encode(), NOW) is None


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"mp-",
        b"local",
        b"sk-" + b"a" * 43,
        b"mp-" + b"a" * 42,
        b"mp-" + b"a" * 44,
        b"mp-" + b"\xe9" * 43,
        b"mp-" + b"a" * 43 + b"\n",
        b"mp-" + b"a" * (1 << 20),
    ],
)
def test_what_is_not_shaped_like_one_is_none(given: bytes) -> None:
    key, text = make(Wanted(name="one"), NOW)
    assert Ring([key]).find(given, NOW) is None
    assert Ring([key]).find(text.encode() + given, NOW) is None or not given


def test_one_that_is_over_opens_nothing() -> None:
    key, text = make(Wanted(name="one", lasts=60), NOW)
    ring = Ring([key])
    found = ring.find(text.encode(), NOW + 59.9)
    assert found is not None
    assert found.until == NOW + 60
    assert ring.find(text.encode(), NOW + 60) is None
    assert ring.live(NOW) == [key]
    assert ring.live(NOW + 60) == []
    assert (key.view(NOW).expired, key.view(NOW + 60).expired) == (False, True)


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (Wanted(name=""), "name"),
        (Wanted(name="-x"), "name"),
        (Wanted(name="a b"), "name"),
        (Wanted(name="caf\xe9"), "name"),
        (Wanted(name="x\r\nX-Modelport-Scopes: control"), "name"),
        (Wanted(name="x" * 65), "name"),
        *((Wanted(name=name), "name") for name in sorted(RESERVED)),
        (Wanted(name="a", scope="all"), "scope"),
        (Wanted(name="a", lasts=0), "expires"),
        (Wanted(name="a", lasts=math.inf), "expires"),
        (Wanted(name="a", models=("x y",)), "models"),
        (Wanted(name="a", models=("m",) * 65), "models"),
        (Wanted(name="a", default_model="qwen*"), "default_model"),
        (Wanted(name="a", priority=101), "priority"),
        (Wanted(name="a", at_once=-1), "at_once"),
        (Wanted(name="a", per_minute=10**7), "per_minute"),
    ],
)
def test_a_field_that_will_not_do_is_named(wanted: Wanted, field: str) -> None:
    with pytest.raises(ProblemError) as caught:
        make(wanted, NOW)
    assert caught.value.problem.code is Code.INVALID_REQUEST
    assert caught.value.problem.message.startswith(f"{field} of a key: found ")
    assert "allowed: " in caught.value.problem.message


def test_where_clients_send_keys() -> None:
    assert sent_in({b"authorization": b"Bearer k"}) == [b"k"]
    assert sent_in({b"authorization": b"bEARER  k "}) == [b"k"]
    assert sent_in({b"authorization": b"Basic k"}) == []
    assert sent_in({b"authorization": b"Bearer"}) == [b""]
    both = {b"x-api-key": b"a", b"api-key": b"b", b"authorization": b"Bearer c"}
    assert sent_in(both) == [b"a", b"b", b"c"]
    assert sent_in({}) == []
