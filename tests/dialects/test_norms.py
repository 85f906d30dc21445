"""What a model needs of requests: roles, tools, thinking, fields."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.model import Fields, Model
from daemon.dialects import messages_request, responses_request, roles, schemas
from daemon.dialects.chat_request import Chat, Thinking
from daemon.dialects.norms import EMPTY_THOUGHT, Norms, Off, Schemas, apply
from daemon.dialects.quirks import norms_of
from daemon.dialects.roles import Systems, normal, text_of
from tests.dialects.streams import FIXTURES, check_chat, fixtures, recorded

TEXT = {"type": "string"}
TOOL = {"type": "function", "function": {"name": "t", "parameters": {"type": "object"}}}


HI = {"role": "user", "content": "hi"}


def shaped(norms: Norms, wish: Thinking | None = None, **body: Any) -> dict[str, Any]:
    body.setdefault("messages", [{"role": "user", "content": "hi"}])
    chat = Chat(body, wish or Thinking())
    apply(chat, norms)
    return chat.body


# ---------------------------------------------------------------- roles


def said(*turns: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": text} for role, text in turns]


@pytest.mark.parametrize("name", fixtures("claude", "codex", "opencode", "pi"))
def test_recorded_requests_become_what_every_template_takes(name: str) -> None:
    """One system message at the start, then turns that alternate."""
    body = recorded(name)
    if "messages" in body and name.startswith("claude"):
        chat = messages_request.to_chat(body, counting="max_tokens" not in body)
    elif "input" in body:
        chat, _ = responses_request.to_chat(body)
    elif "messages" in body:
        chat = Chat(body)
    else:
        chat = Chat({"messages": [{"role": "user", "content": body["model"]}]})  # a pull
    texts = [text_of(message.get("content")) for message in chat.messages]
    apply(chat, Norms())
    check_chat(chat.body)
    kinds = [message["role"] for message in chat.messages]
    assert kinds.count("system") <= 1
    assert "system" not in kinds[1:]
    assert "developer" not in kinds
    alternating = [kind for kind in kinds if kind not in ("system", "tool")]
    doubles = [pair for pair in itertools.pairwise(alternating) if len({*pair}) == 1]
    assert all(role == "assistant" for role, _ in doubles), kinds  # with results in between
    after = "\n".join([text_of(message.get("content")) for message in chat.messages])
    assert all(text in after for text in texts), "no text is lost"


def test_the_default_suits_every_template() -> None:
    """Where the shapes of real clients fail, the shape that they become here does not."""
    templates = json.loads((FIXTURES / "template_roles.json").read_text())["templates"]
    usable = [cases for cases in templates.values() if cases.get("base") == "ok"]
    assert len(usable) == 61
    broken = [cases for cases in usable if cases["cc_midsys"] != "ok"]
    assert len(broken) == 12
    claude = said(("system", "a"), ("user", "b"), ("system", "c"))
    codex = said(("developer", "a"), ("developer", "b"), ("user", "c"), ("user", "d"))
    for messages in (claude, codex):
        assert [message["role"] for message in normal(messages, Systems.FIRST)] == [
            "system",
            "user",
        ]


def test_system_messages_stay_at_their_place() -> None:
    turns = said(("system", "a"), ("user", "b"), ("assistant", "c"), ("system", "d"), ("user", "e"))
    reminder = "<system-reminder>\nd\n</system-reminder>"
    first = normal(turns, Systems.FIRST)
    assert first == said(
        ("system", "a"), ("user", "b"), ("assistant", "c"), ("user", f"{reminder}\n\ne")
    )
    assert normal(turns, Systems.ANYWHERE) == turns
    none = normal(turns, Systems.NONE)
    assert none[0] == {"role": "user", "content": "a\n\nb"}


def test_developer_stays_where_it_is_known() -> None:
    turns = said(("developer", "a"), ("user", "b"))
    assert normal(turns, Systems.FIRST, developer=True)[0]["role"] == "developer"
    assert normal(turns, Systems.FIRST)[0]["role"] == "system"


def test_parts_are_joined_as_parts() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    turns = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [image]},
        {"role": "system", "content": [{"type": "text", "text": "b"}]},
    ]
    (one,) = normal(turns, Systems.FIRST)
    assert [part["type"] for part in one["content"]] == ["text", "image_url", "text"]


_turns = st.lists(
    st.tuples(
        st.sampled_from(["system", "developer", "user", "assistant"]), st.text("abc", min_size=1)
    ),
    min_size=1,
    max_size=8,
)


@given(_turns, _turns, st.sampled_from(Systems))
def test_what_was_read_stays_a_beginning(
    before: list[tuple[str, str]], more: list[tuple[str, str]], systems: Systems
) -> None:
    """A longer conversation's prompt begins with the shorter one's: nothing is read anew."""

    def prompt(turns: list[tuple[str, str]]) -> str:
        messages = normal(said(*turns), systems)
        return "".join([f"<{message['role']}>{message['content']}" for message in messages])

    if systems is Systems.NONE and all(role in ("system", "developer") for role, _ in before):
        return  # without a user's turn there is no prompt yet
    assert prompt(before + more).startswith(prompt(before))


def test_given_messages_are_left_as_they_are() -> None:
    turns = said(("developer", "a"), ("user", "b"), ("system", "c"), ("user", "d"))
    before = json.dumps(turns)
    normal(turns, Systems.FIRST)
    roles.with_text(turns[0], "x")
    assert json.dumps(turns) == before


# ---------------------------------------------------------------- tools


def test_only_functions_and_only_allowed_ones() -> None:
    other = {"type": "function", "function": {"name": "mcp__x"}}
    body = shaped(
        Norms(allow_tools=("t", "W*")),
        tools=[TOOL, other, {"type": "web_search"}],
        tool_choice={"type": "function", "function": {"name": "mcp__x"}},
    )
    assert [tool["function"]["name"] for tool in body["tools"]] == ["t"]
    assert "tool_choice" not in body
    body = shaped(Norms(allow_tools=()), tools=[TOOL], tool_choice="auto", parallel_tool_calls=True)
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & body.keys()


def test_plain_schemas() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "string", "pattern": "^x"}}},
            {"required": ["a"], "properties": {"b": {"$ref": "#/$defs/b"}}},
        ],
        "$defs": {"b": {"type": "integer", "exclusiveMinimum": 0, "description": "Many."}},
        "patternProperties": {"x": True},
        "additionalProperties": False,
    }
    plain = schemas.parameters({"parameters": schema})
    assert plain["required"] == ["a"]
    assert plain["properties"]["a"] == {"type": "string", "description": "(pattern ^x)"}
    assert plain["$defs"]["b"]["description"] == "Many. (exclusiveMinimum 0)"
    assert "patternProperties" not in plain
    assert schemas.parameters({}) == {"type": "object", "properties": {}}


@pytest.mark.parametrize("name", fixtures("claude", "opencode"))
def test_recorded_tools_have_nothing_left_that_grammars_choke_on(name: str) -> None:
    def keys(value: Any) -> set[str]:
        if isinstance(value, dict):
            inner = {key for item in value.values() for key in keys(item)}
            return inner | (value.keys() - {"properties"} if "properties" not in value else set())
        return {key for item in value for key in keys(item)} if isinstance(value, list) else set()

    body = recorded(name)
    tools = body.get("tools") or []
    if tools and "input_schema" in tools[0]:
        tools = messages_request.to_chat(body, counting="max_tokens" not in body).tools
    done = shaped(Norms(schemas=Schemas.PLAIN), tools=tools)
    for tool in done.get("tools", []):
        parameters = tool["function"]["parameters"]
        assert parameters["type"] == "object"
        text = json.dumps(parameters)
        for word in ("exclusiveMinimum", "$schema", "allOf", "maxItems", "minLength"):
            assert f'"{word}":' not in text


@pytest.mark.parametrize(
    ("value", "schema", "fits"),
    [
        ({"a": 1}, {"type": "object", "properties": {"a": {"type": "integer"}}}, True),
        ({"a": True}, {"type": "object", "properties": {"a": {"type": "integer"}}}, False),
        ({"a": "1"}, {"type": "object", "properties": {"a": {"type": "integer"}}}, False),
        ({}, {"type": "object", "required": ["a"]}, False),
        ({"b": 1}, {"type": "object", "additionalProperties": False}, False),
        ({"b": 1}, {"type": "object", "additionalProperties": {"type": "string"}}, False),
        (["x"], {"type": "array", "items": {"enum": ["x", "y"]}}, True),
        (["z"], {"type": "array", "items": {"enum": ["x", "y"]}}, False),
        (None, {"type": ["string", "null"]}, True),
        (2.0, {"type": "integer"}, True),
        (
            {"a": {"b": 1}},
            {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "string"}}},
            False,
        ),
        (1, {"anyOf": [{"type": "string"}, {"type": "number"}]}, True),
        (1, {"const": 2}, False),
        (1, {"allOf": [{"type": "string"}]}, False),
        ("anything", {}, True),
        ("anything", False, False),
    ],
)
def test_arguments_that_fit(value: Any, schema: Any, fits: bool) -> None:
    assert schemas.fits(value, schema) is fits


def test_a_schema_that_refers_to_itself_ends() -> None:
    assert schemas.fits(1, {"$ref": "#"})
    schemas.plain({"properties": {"a": {"$ref": "#"}}})


# ---------------------------------------------------------------- thinking


def test_thinking_is_the_models_setting_first() -> None:
    kwargs = "chat_template_kwargs"
    assert kwargs not in shaped(Norms())
    assert shaped(Norms(), Thinking(on=True))[kwargs] == {"enable_thinking": True}
    assert shaped(Norms(thinking=True))[kwargs] == {"enable_thinking": True}
    assert shaped(Norms(thinking=True), Thinking(on=False))[kwargs] == {"enable_thinking": False}
    assert shaped(Norms(thinking=False), Thinking(on=True))[kwargs] == {"enable_thinking": False}
    body = shaped(Norms(thinking=True), chat_template_kwargs={"enable_thinking": False, "x": 1})
    assert body[kwargs] == {"enable_thinking": False, "x": 1}


def test_budget_and_effort() -> None:
    norms = Norms(budget_field="thinking_budget_tokens", effort=True)
    body = shaped(norms, Thinking(True, 999, "xhigh"))
    assert body["thinking_budget_tokens"] == 999
    assert body["chat_template_kwargs"]["reasoning_effort"] == "high"
    assert "thinking_budget_tokens" not in shaped(norms, Thinking(False, 999))


def test_a_begun_answer_switches_thinking_off() -> None:
    turns = said(("user", "a"), ("assistant", "b"))
    body = shaped(Norms(), messages=turns)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["messages"] == turns
    called = [*said(("user", "a")), {"role": "assistant", "content": None, "tool_calls": [{}]}]
    assert "chat_template_kwargs" not in shaped(Norms(), messages=called)


def test_ways_to_switch_thinking_off() -> None:
    off = Thinking(on=False)
    block = shaped(Norms(off=Off.BLOCK), off)["messages"]
    assert block[-1] == {"role": "assistant", "content": EMPTY_THOUGHT}
    begun = said(("user", "a"), ("assistant", "b"))
    assert shaped(Norms(off=Off.BLOCK), off, messages=begun)["messages"][-1]["content"] == (
        f"{EMPTY_THOUGHT}b"
    )
    word = shaped(Norms(off=Off.WORD), off)["messages"]
    assert word == said(("user", "hi\n\n/no_think"))


# ---------------------------------------------------------------- fields


def test_fields_by_default_with_tools_and_always() -> None:
    norms = Norms(
        default={"min_p": 0.01, "temperature": 1.0},
        with_tools={"temperature": 0.6},
        force={"top_k": 0, "chat_template_kwargs": {"x": 1}},
    )
    body = shaped(norms, top_k=5)
    assert (body["min_p"], body["temperature"], body["top_k"]) == (0.01, 1.0, 0)
    assert shaped(norms, tools=[TOOL])["temperature"] == 0.6
    assert shaped(norms, tools=[TOOL], temperature=0.1)["temperature"] == 0.1
    body = shaped(norms, Thinking(on=True))
    assert body["chat_template_kwargs"] == {"enable_thinking": True, "x": 1}


def test_a_template_setting_by_default_stands_beside_thinking() -> None:
    norms = Norms(default={"chat_template_kwargs": {"x": 1, "enable_thinking": False}})
    body = shaped(norms, Thinking(on=True))
    assert body["chat_template_kwargs"] == {"enable_thinking": True, "x": 1}
    given = {"type": "json_object"}
    other = Norms(default={"response_format": {"type": "json_schema", "json_schema": {}}})
    assert shaped(other, response_format=given)["response_format"] == given


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ('{"file_path": "/a", "content": "half', None),  # cut by the output limit
        ("", "{}"),
        ("null", "{}"),
        (None, "{}"),
        ({"a": 1}, '{"a":1}'),
        ("[1]", None),
    ],
)
def test_an_earlier_call_that_is_no_json_stops_no_conversation(
    arguments: object, sent: str | None
) -> None:
    """llama-server refuses a whole conversation for one (recorded)."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    chat = Chat({"messages": [{"role": "user", "content": "x"}, turn]})
    apply(chat, Norms())
    found = chat.messages[1]["tool_calls"][0]
    if sent is None:
        assert json.loads(found["function"]["arguments"]) == {"invalid_arguments": arguments}
    else:
        assert found["function"]["arguments"] == sent
    assert (found["id"], found["function"]["name"]) == ("c", "f")
    assert call["function"]["arguments"] == arguments, "the client's own is left as it is"  # type: ignore[index]


def test_a_model_that_sees_nothing_is_told_of_images() -> None:
    """Of what a tool returned, and of what was refused before; what it is asked about now, the
    engine refuses."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ=="}}
    user = {"role": "user", "content": [{"type": "text", "text": "see"}, image]}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "c", "content": "r"}

    def shown(*messages: Any, blind: bool = True) -> list[bool]:
        body = shaped(Norms(blind=blind), messages=list(messages))
        return ["image_url" in json.dumps(m) for m in body["messages"] if m["role"] == "user"]

    assert shown(user) == [True]
    assert shown(user, {"role": "assistant", "content": "no"}, HI) == [False, False]
    assert shown(HI, turn, result, user) == [False, False]
    assert shown(HI, turn, result, user, blind=False) == [False, True]
    assert user["content"][1] is image, "the given ones are left as they are"
    body = shaped(Norms(blind=True), messages=[HI, turn, result, user])
    assert body["messages"][-1]["content"][1]["text"] == "[An image, which you cannot see.]"


def test_what_an_engine_refuses_is_taken_out_first() -> None:
    norms = Norms(default={"top_k": 3}, strip=frozenset({"top_k"}))
    assert shaped(norms, top_k=5)["top_k"] == 3
    assert "logprobs" not in shaped(Norms(strip=frozenset({"logprobs"})), logprobs=True)


def test_output_limits() -> None:
    norms = Norms(output_floor=8192, output_cap=16384)
    assert shaped(norms, max_tokens=1)["max_tokens"] == 1  # a probe
    assert shaped(norms, max_tokens=-1)["max_tokens"] == 16384  # LM Studio's clients: no limit
    assert "max_tokens" not in shaped(Norms(output_floor=8192), tools=[TOOL], max_tokens=-1)
    assert shaped(norms, tools=[TOOL], max_tokens=1)["max_tokens"] == 8192
    assert shaped(norms, tools=[TOOL], max_tokens=128000)["max_tokens"] == 16384
    assert shaped(norms, max_completion_tokens=32000)["max_tokens"] == 16384
    assert shaped(Norms(output_floor=8192, output_cap=99), tools=[TOOL], max_tokens=1) == {
        **shaped(Norms(), tools=[TOOL]),
        "max_tokens": 99,
    }
    assert shaped(norms)["max_tokens"] == 16384
    assert "max_tokens" not in shaped(Norms(output_floor=8192))


def test_norms_of_configured_models() -> None:
    def norms(name: str, engine: str, **more: Any) -> Norms:
        return norms_of(Model(name=name, **more), engine)

    glm = norms("glm-4.7-flash", "llama-server", thinking=False)
    assert glm.default == {"min_p": 0.01}
    assert glm.thinking is False
    assert glm.schemas is Schemas.PLAIN
    own = norms("glm-4.7-flash", "mlx-lm", params=Fields(default={"min_p": 0.05}))
    assert own.default == {"min_p": 0.05}
    nano = norms("x", "vllm", params=Fields(with_tools={"temperature": 0.6}), rescue_tools="off")
    assert nano.with_tools == {"temperature": 0.6}
    assert nano.rescue is False
    assert norms("qwen3.5-9b", "vllm-mlx").bare_thinking
    assert norms("a", "xllamacpp", hf="ggml-org/gpt-oss-20b-GGUF").effort
    assert norms("a", "command.mine").schemas is Schemas.FULL
