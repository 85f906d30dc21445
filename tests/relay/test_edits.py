"""Fields of a body are changed where that is configured, and nothing else of it."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.messages import Outcome
from daemon.core.problems import Code, ProblemError
from daemon.ports import Edits
from daemon.relay.edits import edited
from tests.relay.peers import both_loops, post, world


def done(body: bytes, model: str | None = None, **edits: Any) -> bytes:
    strip = frozenset(edits.pop("strip", ()))
    layers = {
        layer: {name: json.dumps(value).encode() for name, value in values.items()}
        for layer, values in edits.items()
    }
    return b"".join(edited(body, Edits(**layers, strip=strip), model))


@pytest.mark.parametrize(
    ("body", "edits", "changed"),
    [
        (b'{"model":"m"}', {"default": {"top_k": 20}}, b'{"top_k":20,"model":"m"}'),
        (b'{"top_k":1}', {"default": {"top_k": 20}}, b'{"top_k":1}'),
        (b'{"top_k": null}', {"default": {"top_k": 20}}, b'{"top_k":20}'),
        (b'{"top_k":1}', {"force": {"top_k": 20}}, b'{"top_k":20}'),
        (b'{"a":1, "b" : 2.50}', {"strip": ["a"]}, b'{"b":2.50}'),
        (b'{"a":1}', {"strip": ["a"], "default": {"a": 3}}, b'{"a":3}'),
        (b"{}", {"default": {}}, b"{}"),
        (b'{"tools":[1]}', {"with_tools": {"t": 0}, "default": {"t": 1}}, b'{"tools":[1],"t":0}'),
        (b'{"tools":[]}', {"with_tools": {"t": 0}, "default": {"t": 1}}, b'{"tools":[],"t":1}'),
        (b'{"t":2,"tools":[1]}', {"with_tools": {"t": 0}}, b'{"t":2,"tools":[1]}'),
        # The name is the lease's alone.
        (b'{"model":"m"}', {"force": {"model": "x"}}, b'{"model":"m"}'),
        (b'{"model":"m"}', {"strip": ["model"]}, b'{"model":"m"}'),
        (b"{}", {"default": {"model": "x"}}, b"{}"),
        # Twice the same: once, and as most would read it.
        (b'{"a":1,"a":2,"\\u0061":3}', {"force": {"b": 4}}, b'{"a":3,"b":4}'),
    ],
)
def test_edits(body: bytes, edits: dict[str, Any], changed: bytes) -> None:
    assert done(body, **edits) == changed


def test_the_name_is_replaced_in_the_same_go() -> None:
    assert done(b'{"model":"m","a":1}', "x/y", force={"b": 2}) == b'{"a":1,"b":2,"model":"x/y"}'
    assert done(b'{"a":1}', "x/y") == b'{"a":1}'


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
objects = st.dictionaries(st.text(), values, max_size=6)


@given(objects, objects, objects, st.sets(st.text(), max_size=3), st.booleans())
def test_it_means_the_same_as_an_edit_of_the_object(
    body: dict[str, Any],
    default: dict[str, Any],
    force: dict[str, Any],
    strip: set[str],
    escaped: bool,
) -> None:
    raw = json.dumps(body, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    expected = {key: value for key, value in body.items() if key not in strip - {"model"}}
    for key, value in default.items():
        if expected.get(key) in (None, []) and key != "model":
            expected[key] = value
    expected.update({key: value for key, value in force.items() if key != "model"})
    changed = done(raw, default=default, force=force, strip=strip)
    assert json.loads(changed) == expected


def test_large_values_are_views_of_the_body() -> None:
    body = b'{"model":"m","image":"' + b"A" * 1_000_000 + b'","x":1}'
    tracemalloc.start()
    parts = edited(body, Edits(force={"x": b"2"}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    views = [part for part in parts if isinstance(part, memoryview)]
    assert [len(view) for view in views] == [1_000_002]
    assert json.loads(b"".join(parts))["x"] == 2


@pytest.mark.parametrize("body", [b"[1]", b'{"a":}', b"", b'{"\xff":1}', b"[" * 5000])
def test_what_cannot_be_edited_is_refused(body: bytes) -> None:
    with pytest.raises(ProblemError) as caught:
        done(body, force={"a": 1})
    assert caught.value.problem.code is Code.INVALID_JSON


@both_loops
async def test_a_lease_says_what_is_edited() -> None:
    async with world() as here:
        here.leases.edits = Edits(default={"top_k": b"20"}, strip=frozenset({"user"}))
        here.leases.rename = {"m": "other"}
        body = b'{"model":"m","user":"me","messages":[]}'
        assert (await here.once(post(body=body))).status == 200
        assert json.loads(here.backend.seen[-1].body) == {
            "messages": [],
            "model": "other",
            "top_k": 20,
        }
        embed = b'{"model":"m","user":"me"}'
        assert (await here.once(post("/v1/embeddings", embed))).status == 200
        assert here.backend.seen[-1].body == b'{"model":"other","user":"me"}'
        # Valid enough to be routed, and not to be taken apart: told, and the lease is given back.
        bad = await here.once(post(body=b'{"model":"m","\xff":1}'))
        assert bad.status == 400
        assert here.leases.outcomes == [Outcome.OK] * len(here.leases.leases)
