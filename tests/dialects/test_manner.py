"""The one place that decides how a request reaches a model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from daemon.config.model import Model
from daemon.dialects.fields import encode
from daemon.dialects.manner import Manner, Way, counting_way, reachable, way
from daemon.dialects.norms import Norms, Schemas
from daemon.dialects.quirks import manner_of
from daemon.dialects.roles import Systems
from daemon.dialects.shapes import SHAPES, Shape
from tests.dialects.streams import fixtures, recorded

EVERY = frozenset({"chat", "completions", "messages", "count_tokens", "responses"})
PLAIN = Norms(rescue=False)
USER = {"role": "user", "content": "hi"}
SYSTEM = {"role": "system", "content": "be terse"}
SAID = {"role": "assistant", "content": "yes"}


def body(*messages: dict[str, Any], **more: Any) -> bytes:
    return encode({"model": "m", "messages": list(messages) or [USER], **more})


@pytest.mark.parametrize("shape", Shape)
def test_what_an_engine_does_not_speak_goes_as_what_it_speaks(shape: Shape) -> None:
    assert way(shape, Manner(frozenset({"chat"})), body()) in (Way.CHAT, Way.NATIVE)
    expected = Way.NATIVE if shape is Shape.MESSAGES else Way.MESSAGES
    assert way(shape, Manner(frozenset({"messages"})), body()) is expected
    native = way(shape, Manner(EVERY), body()) is Way.NATIVE
    assert native == (shape not in (Shape.OLLAMA_CHAT, Shape.OLLAMA_GENERATE))


def test_what_can_be_reached() -> None:
    assert reachable(frozenset({"chat", "upstream"})) == EVERY | {"upstream"}
    assert reachable(frozenset({"messages"})) == EVERY
    for alone in ({"embeddings"}, {"completions", "infill"}, {"responses"}):
        assert reachable(frozenset(alone)) == alone


@pytest.mark.parametrize(
    "messages",
    [[USER], [SYSTEM, USER], [SYSTEM, USER, SAID, USER], [{"content": '"role":"system"', **USER}]],
)
def test_most_chats_are_left_alone(messages: list[dict[str, Any]]) -> None:
    manner = Manner(EVERY, PLAIN)
    assert way(Shape.CHAT, manner, body(*messages)) is Way.NATIVE
    assert way(Shape.CHAT, manner, body(*messages, tools=[])) is Way.NATIVE


@pytest.mark.parametrize(
    ("messages", "shape"),
    [
        ([USER, SYSTEM], Shape.CHAT),
        ([SYSTEM, SYSTEM, USER], Shape.CHAT),
        ([USER, USER], Shape.CHAT),
        ([{"role": "developer", "content": "x"}, USER], Shape.CHAT),
        ([USER, SAID], Shape.CHAT),  # begun for it
        ([SYSTEM, USER], Shape.MESSAGES),
        ([USER, USER], Shape.MESSAGES),
    ],
)
def test_roles_that_templates_lose_are_put_right(
    messages: list[dict[str, Any]], shape: Shape
) -> None:
    assert way(shape, Manner(EVERY, PLAIN), body(*messages)) is Way.CHAT


@pytest.mark.parametrize(
    "odd",
    [b"{}", b"[]", b'{"messages":1}', b'{"messages":[{"role":1}]}', b'{"tools":null}', b"\xff"],
)
def test_what_is_odd_is_the_engines_to_judge(odd: bytes) -> None:
    for shape in (Shape.CHAT, Shape.MESSAGES, Shape.RESPONSES):
        assert way(shape, Manner(EVERY), odd) is Way.NATIVE


def test_codexs_input_is_looked_at_too() -> None:
    developer = {"role": "developer", "content": "x"}
    manner = Manner(EVERY, PLAIN)
    assert way(Shape.RESPONSES, manner, encode({"input": [developer, USER]})) is Way.CHAT
    assert way(Shape.RESPONSES, manner, encode({"input": "hi"})) is Way.NATIVE
    assert way(Shape.RESPONSES, manner, encode({"input": [USER]})) is Way.NATIVE


def test_what_a_template_knows_is_left_alone() -> None:
    knows = replace(PLAIN, developer=True, systems=Systems.ANYWHERE, merge_turns=False)
    developer = {"role": "developer", "content": "x"}
    for messages in ([USER, SYSTEM, USER], [developer, USER], [USER, USER]):
        assert way(Shape.CHAT, Manner(EVERY, knows), body(*messages)) is Way.NATIVE


@pytest.mark.parametrize(
    ("norms", "tools"),
    [
        (replace(PLAIN, thinking=False), False),
        (replace(PLAIN, output_cap=100), False),
        (replace(PLAIN, bare_thinking=True), False),
        (replace(PLAIN, starts_thinking=True), False),
        (replace(PLAIN, rescue=True), True),
        (replace(PLAIN, allow_tools=("x",)), True),
        (replace(PLAIN, loud=True), True),
        (replace(PLAIN, schemas=Schemas.PLAIN), True),
        (replace(PLAIN, output_floor=9), True),
    ],
)
def test_settings_of_a_model_act(norms: Norms, tools: bool) -> None:
    manner = Manner(EVERY, norms)
    assert way(Shape.CHAT, manner, body(tools=[{}])) is Way.CHAT
    assert (way(Shape.CHAT, manner, body()) is Way.CHAT) != tools
    # A raw prompt is nobody's to change.
    assert way(Shape.COMPLETIONS, manner, b'{"prompt":"a"}') is Way.NATIVE


def test_an_answer_that_we_began_is_written_by_us() -> None:
    assert way(Shape.MESSAGES, Manner(EVERY, PLAIN), body(), begun=True) is Way.CHAT
    assert way(Shape.RESPONSES, Manner(frozenset({"responses"})), body(), begun=True) is Way.NATIVE


def test_counting() -> None:
    assert counting_way(Manner(EVERY, tokenizes=True), body()) is Way.NATIVE
    # Templates raise at what the conversation itself is spared.
    assert counting_way(Manner(EVERY, tokenizes=True), body(USER, SYSTEM)) is Way.TOKENIZE
    assert counting_way(Manner(EVERY), body(USER, SYSTEM)) is Way.NATIVE
    assert counting_way(Manner(frozenset({"chat"}), tokenizes=True), body()) is Way.TOKENIZE
    assert counting_way(Manner(frozenset({"chat"})), body()) is Way.ASIDE


@pytest.mark.parametrize("name", fixtures("claude_0", "codex_0", "opencode_02"))
def test_recorded_agents_need_it(name: str) -> None:
    """Each has something that one template or another would lose."""
    manner = manner_of(Model("m"), "llama-server", EVERY)
    path = "/v1/responses" if name.startswith("codex") else "/v1/messages"
    path = "/v1/chat/completions" if name.startswith("opencode") else path
    assert way(SHAPES[path], manner, encode(recorded(name))) is Way.CHAT


def test_an_image_for_one_that_cannot_see() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ=="}}
    turns = [{"role": "user", "content": [image]}, {"role": "assistant", "content": "no"}]
    body = encode({"messages": [*turns, {"role": "user", "content": "hi"}]})
    for blind, found in ((True, Way.CHAT), (False, Way.NATIVE)):
        manner = manner_of(Model("m"), "llama-server", EVERY, blind=blind)
        assert way(Shape.CHAT, manner, body) is found
    plain = encode({"messages": [{"role": "user", "content": "hi"}]})
    manner = manner_of(Model("m"), "llama-server", EVERY, blind=True)
    assert way(Shape.CHAT, manner, plain) is Way.NATIVE


def test_the_floor_of_the_output_fits_into_the_context() -> None:
    model = Model("m", max_output=50_000, min_output=6000, tell_cut_calls=True)
    norms = manner_of(model, "vllm", EVERY, 4096).norms
    assert (norms.output_floor, norms.output_cap, norms.loud) == (1024, 50_000, True)
    assert manner_of(model, "vllm", EVERY).norms.output_floor == 6000
    assert manner_of(model, "xllamacpp", EVERY).tokenizes
    assert not manner_of(model, "mlx-lm", EVERY).tokenizes
