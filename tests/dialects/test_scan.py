"""Tool calls and reasoning that stand in text become what they are, and nothing else does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.dialects.chat_answer import Ids
from daemon.dialects.events import (
    CallPiece,
    CallStart,
    Event,
    Finish,
    Stop,
    Text,
    Thought,
    Whole,
    collect,
)
from daemon.dialects.loud import Loud
from daemon.dialects.offered import Offered
from daemon.dialects.scan import Scan
from tests.dialects import streams


def tool(name: str, required: tuple[str, ...] = (), **properties: str) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in properties.items()},
        "required": list(required),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "parameters": schema}}


WRITE = tool("Write", ("file_path", "content"), file_path="string", content="string")
READ = tool("Read", ("file_path",), file_path="string", limit="integer", all="boolean")
PING = tool("ping")
OFFERED = [WRITE, READ, PING]
BODY = 'print("</tool_call>", \'<function=x>\')\n```\n{"name": "ping"}\n<think>\n'
WROTE = {"file_path": "/a.py", "content": BODY}


def scanned(
    pieces: list[str], tools: list[Any] | None = None, stop: Stop = Stop.END, **more: Any
) -> tuple[Whole, Scan]:
    scan = Scan(Ids("r"), Offered(OFFERED if tools is None else tools), **more)
    events: list[Event] = []
    for piece in pieces:
        events += scan.take([Text(piece)] if piece else [])
    events += scan.take([Finish(stop)])
    events += scan.end()
    return collect(events), scan


def calls(whole: Whole) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in whole.calls]


def gemma(values: dict[str, str]) -> str:
    return "{" + ",".join([f'{key}:<|"|>{text}<|"|>' for key, text in values.items()]) + "}"


def xml(values: dict[str, str]) -> str:
    return "".join([f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in values.items()])


def pairs(values: dict[str, str]) -> str:
    return "\n".join(
        [f"<arg_key>{k}</arg_key>\n<arg_value>{v}</arg_value>" for k, v in values.items()]
    )


OBJECT = json.dumps({"name": "Write", "arguments": WROTE})
FORMS = {
    "hermes": f"<tool_call>\n{OBJECT}\n</tool_call>",
    "qwen coder": f"<tool_call>\n<function=Write>\n{xml(WROTE)}</function>\n</tool_call>",
    "bare function": f"<function=Write>\n{xml(WROTE)}</function>",
    "half a wrapper": f"<function=Write>\n{xml(WROTE)}</function>\n</tool_call>",
    "llama function": f"<function=Write>{json.dumps(WROTE)}</function>",
    "llama python tag": '<|python_tag|>{"type": "function", "name": "Write", "parameters": '
    + json.dumps(WROTE)
    + "}",
    "llama bare": json.dumps({"name": "Write", "parameters": WROTE}),
    "array": f"[{OBJECT}]",
    "string arguments": json.dumps({"name": "Write", "arguments": json.dumps(WROTE)}),
    "nested": json.dumps({"type": "function", "function": {"name": "Write", "arguments": WROTE}}),
    "gemma": f"<|tool_call>call:Write{gemma(WROTE)}<tool_call|>",
    "glm": f"<tool_call>Write\n{pairs(WROTE)}\n</tool_call>",
    "nemotron": f"<TOOLCALL>[{OBJECT}]</TOOLCALL>",
    "tools": f"<tools>\n{OBJECT}\n</tools>",
    "function_call": f"<function_call>{OBJECT}</function_call>",
    "mistral": f"[TOOL_CALLS][{OBJECT}]",
    "mistral args": f"[TOOL_CALLS]Write[ARGS]{json.dumps(WROTE)}",
    "invoke": '<invoke name="Write">'
    + "".join([f'<parameter name="{k}">{v}</parameter>\n' for k, v in WROTE.items()])
    + "</invoke>",
    "fenced": f"```json\n{OBJECT}\n```",
    "fenced hermes": f"```xml\n<tool_call>\n{OBJECT}\n</tool_call>\n```",
}
ALONE = {"llama bare", "array", "string arguments", "nested"}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_rescued(form: str) -> None:
    whole, scan = scanned([FORMS[form]])
    assert calls(whole) == [("Write", WROTE)]
    assert whole.text == ""
    assert whole.finish.stop is Stop.CALLS
    assert scan.rescued.calls == 1


@pytest.mark.parametrize("form", FORMS.keys() - ALONE)
def test_text_around_it_stays(form: str) -> None:
    whole, _ = scanned([f"I write it.\n{FORMS[form]}\n\nDone, a < b."])
    assert calls(whole) == [("Write", WROTE)]
    assert whole.text == "I write it.\nDone, a < b."


@given(st.sampled_from(sorted(FORMS)), st.data())
def test_cuts_never_matter(form: str, data: st.DataObject) -> None:
    text = FORMS[form] if form in ALONE else f"Now:\n{FORMS[form]}\n  And `this`."
    pieces = [piece.decode("latin-1") for piece in data.draw(streams.cuts(text.encode("latin-1")))]
    one, _ = scanned([text])
    many, _ = scanned(pieces)
    assert (many.text, calls(many), many.finish) == (one.text, calls(one), one.finish)


@pytest.mark.parametrize("form", FORMS)
def test_a_character_at_a_time(form: str) -> None:
    whole, _ = scanned(list(FORMS[form]))
    assert calls(whole) == [("Write", WROTE)]
    assert whole.text == ""


@pytest.mark.parametrize(
    ("form", "cut"),
    [
        ("hermes", "\n</tool_call>"),
        ("qwen coder", "</function>\n</tool_call>"),
        ("glm", "\n</tool_call>"),
        ("gemma", "<tool_call|>"),
        ("nemotron", "</TOOLCALL>"),
        ("fenced", "\n```"),
        ("fenced hermes", "\n```"),
    ],
)
def test_a_last_marker_may_be_forgotten(form: str, cut: str) -> None:
    text = FORMS[form].removesuffix(cut)
    assert text != FORMS[form]
    for pieces in ([text], list(text)):
        whole, _ = scanned(pieces)
        assert calls(whole) == [("Write", WROTE)]
        assert scanned(pieces, stop=Stop.LENGTH)[0].text == text, "but not where it was cut"


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>Write\n<arg_key>content</arg_key>\n<arg_value>x</arg_value>\n</tool_call>",
        "<tool_call>Write\n<arg_key>a</arg_key></tool_call>",
        "<function=Write>\n<parameter=content>\nx\n</parameter>\n</function>",
        "<function=Write>not json</function>",
        '<|tool_call>call:Write{content:<|"|>x<|"|>}<tool_call|>',
        "<|tool_call>call:Write{content<tool_call|>",
        "<|tool_call>speak<tool_call|>",
        "[TOOL_CALLS]Write[ARGS]{}",
        "[TOOL_CALLS]Write[ARGS]{",
        "[TOOL_CALLS]rm[ARGS]{}",
        "[TOOL_CALLS] are made so",
        '<Write content="x"/>',
        '<Write nothing="x"/>',
        '[{"name":"ping","arguments":{}},{"name":"rm","arguments":{}}]',
        '{"name":"ping","arguments":{},"parameters":{}}',
        '{"name":"ping"}',
        '<invoke name="Write',
    ],
)
def test_calls_that_do_not_fit_stay_text(text: str) -> None:
    for pieces in ([text], list(text)):
        whole, scan = scanned(pieces)
        assert (whole.text, whole.calls) == (text, [])
        assert scan.rescued.refused


def test_two_in_a_row_are_two() -> None:
    ping = '<tool_call>{"name":"ping","arguments":{}}</tool_call>'
    for text in (
        f"{FORMS['hermes']}\n{ping}",
        f"{FORMS['qwen coder']}\n{ping}",
        json.dumps({"name": "Write", "parameters": WROTE}) + '; {"name":"ping","parameters":{}}',
        f'[TOOL_CALLS][{OBJECT}, {{"name":"ping","arguments":{{}}}}]',
    ):
        whole, scan = scanned([text])
        assert [name for name, _ in calls(whole)] == ["Write", "ping"]
        assert len({call.id for call in whole.calls}) == scan.rescued.calls == 2


def test_an_element_named_as_the_tool() -> None:
    body = '<img src="a"/>\n<a href="b">x</a>'
    text = f'Here:\n\n<Write path="/a.html" content="{body}"/>\nDone.'
    whole, _ = scanned([text])
    assert calls(whole) == [("Write", {"file_path": "/a.html", "content": body})]
    assert whole.text == "Here:\n\nDone."
    two = f'<Write path="/a" content="{body}"/>\n<Write path="/b" content="x\\ny" />'
    whole, _ = scanned(list(two))
    assert [found["file_path"] for _, found in calls(whole)] == ["/a", "/b"]
    assert calls(whole)[1][1]["content"] == "x\ny"


def test_texts_become_what_the_schema_wants() -> None:
    text = (
        f"<tool_call>Read\n{pairs({'file_path': '12', 'limit': '30', 'all': 'True'})}</tool_call>"
    )
    whole, _ = scanned([text])
    assert calls(whole) == [("Read", {"file_path": "12", "limit": 30, "all": True})]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('<tool_call>{"name": "rm", "arguments": {}}</tool_call>', "unknown tool"),
        ('<tool_call>{"name": "Write", "arguments": {}}</tool_call>', "arguments do not fit"),
        ('<tool_call>{"name": "Read", "arguments": {"file_path": 3}}</tool_call>', "not fit"),
        ("<tool_call>the marker of a call</tool_call>", "un"),
        ("<function=rm>\n</function>", "unknown tool"),
        ("<|tool_call>call:rm{}<tool_call|>", "unknown tool"),
        ('<Write path="x">', "unreadable"),
        ('{"name": "Ada", "age": 36}', "un"),
        ('```json\n{"title": "x"}\n```', "unreadable"),
        ("[1, 2, 3]", "unreadable"),
        ("<tool_call>", "unreadable"),
        ("{", "unreadable"),
    ],
)
def test_what_is_no_call_stays_text_and_is_counted(text: str, why: str) -> None:
    for pieces in ([text], list(text)):
        whole, scan = scanned(pieces)
        assert whole.text == text
        assert not whole.calls
        assert whole.finish.stop is Stop.END
        assert sum([count for name, count in scan.rescued.refused.items() if why in name]) >= 1


def test_a_marker_inside_a_fenced_block_is_never_touched() -> None:
    text = f"Qwen writes calls so:\n\n```text\nFor instance:\n{FORMS['hermes']}\n```\nThat is all."
    whole, scan = scanned([text])
    assert whole.text == text
    assert not whole.calls
    assert scan.rescued.calls == 0


def test_without_tools_nothing_is_touched() -> None:
    for text in FORMS.values():
        whole, _ = scanned([text], [])
        assert whole.text == text


def test_json_that_the_client_asked_for_is_its_answer() -> None:
    whole, _ = scanned([FORMS["llama bare"]], objects=False)
    assert whole.text == FORMS["llama bare"]


def test_a_call_that_was_cut_is_text() -> None:
    text = FORMS["hermes"][:40]
    whole, scan = scanned([text], stop=Stop.LENGTH)
    assert whole.text == text
    assert scan.rescued.refused["cut"] == 1


def test_text_is_held_back_only_from_a_possible_marker_on() -> None:
    scan = Scan(Ids("r"), Offered(OFFERED))
    assert scan.take([Text("a < b and ")]) == [Text("a < b and ")]
    assert scan.take([Text("then <tool")]) == [Text("then ")]
    assert scan.take([Text("box> is")]) == [Text("<toolbox> is")]
    assert scan.take([Text(" `code` and [x] {y}")]) == [Text(" `code` and [x] {y}")]
    assert scan.take([Text("\n``")]) == [Text("\n")]


def test_calls_of_the_engine_and_of_the_text_are_counted_together() -> None:
    scan = Scan(Ids("r"), Offered(OFFERED))
    events = scan.take([Text(FORMS["hermes"])])
    events += scan.take([CallStart(0, "x", "ping"), CallPiece(0, "{}")])
    assert [event.index for event in events if isinstance(event, CallStart)] == [0, 1]
    assert events[-1] == CallPiece(1, "{}")


# ---------------------------------------------------------------- thinking


@pytest.mark.parametrize(
    ("text", "thought", "said"),
    [
        ("<think>\nhm <b>\n</think>\n\nYes.", "hm <b>\n", "Yes."),
        ("\n<think>hm</think>Yes.", "hm", "Yes."),
        ("<|channel>thought\nhm\n<channel|>Yes.", "hm\n", "Yes."),
        ("</think>\n\nYes.", "", "Yes."),
        ("Say <think> here.", "", "Say <think> here."),
        ("```\n<|channel>thought\n```", "", "```\n<|channel>thought\n```"),
        ("<think>never ends", "never ends", ""),
    ],
)
def test_thinking_in_text(text: str, thought: str, said: str) -> None:
    for pieces in ([text], list(text)):
        whole, _ = scanned(pieces)
        assert (whole.thought, whole.text) == (thought, said)


def test_thinking_and_then_a_call() -> None:
    text = f"<think>\nI could <tool_call> now.\n</think>\n\n{FORMS['hermes']}"
    for pieces in ([text], list(text)):
        whole, _ = scanned(pieces)
        assert whole.thought == "I could <tool_call> now.\n"
        assert calls(whole) == [("Write", WROTE)]
        assert whole.text == ""


def test_gemmas_channel_inside_a_call_is_a_file_body() -> None:
    values = {"file_path": "/a", "content": "<|channel>thought\nx<channel|> </think>"}
    text = f"<|channel>thought\nhm<channel|><|tool_call>call:Write{gemma(values)}<tool_call|>"
    for pieces in ([text], list(text)):
        whole, _ = scanned(pieces)
        assert whole.thought == "hm"
        assert calls(whole) == [("Write", values)]


def test_an_answer_that_begins_in_thought() -> None:
    whole, _ = scanned(["\nhm", "</thi", "nk>\nYes."], starts_thinking=True)
    assert (whole.thought, whole.text) == ("hm", "Yes.")
    scan = Scan(Ids("r"), starts_thinking=True)
    events = scan.take([Thought("hm"), Text("Yes.")])  # this engine reads it itself
    assert events == [Thought("hm"), Text("Yes.")]


def test_bare_thinking() -> None:
    text = "Thinking Process:\n\n1. hm\n</think>\n\nYes."
    for pieces in ([text], list(text)):
        whole, _ = scanned(pieces, bare_thinking=True)
        assert whole.thought == "Thinking Process:\n\n1. hm\n"
        assert whole.text == "Yes."
        whole, _ = scanned(pieces)
        assert whole.text.startswith("Thinking Process")
    text = f"Thinking Process:\n\n1. hm\n{FORMS['hermes']}"
    whole, _ = scanned([text], bare_thinking=True)
    assert whole.thought == "Thinking Process:\n\n1. hm\n"
    assert calls(whole) == [("Write", WROTE)]


def test_bare_thinking_without_an_end_is_said_after_all() -> None:
    whole, _ = scanned(["Thinking Process: the answer is 4."], bare_thinking=True)
    assert whole.thought == whole.text == "Thinking Process: the answer is 4."


def test_blanks_before_a_call_are_no_text() -> None:
    scan = Scan(Ids("r"), Offered(OFFERED))
    events = scan.take([Text("\n\n"), CallStart(0, "x", "ping")])
    assert events == [CallStart(0, "x", "ping")]


# ---------------------------------------------------------------- loud


def test_a_cut_call_is_told() -> None:
    loud = Loud()
    data = [
        streams.called(0, '{"file_path":"/a","content":"xx', "Write"),
        streams.chunk("length"),
        streams.DONE,
    ]
    content = streams.check_messages(streams.fed(streams.messages(loud), data))
    text = [value["delta"]["text"] for value in content if "text" in value.get("delta", {})]
    assert "Write was cut off" in text[0]
    assert loud.take([Text("x"), Finish(Stop.LENGTH)]) == [Text("x"), Finish(Stop.LENGTH)]


# ---------------------------------------------------------------- anything at all

_tokens = st.sampled_from(
    [
        *FORMS.values(),
        "<tool_call>",
        "</tool_call>",
        "<function=",
        "Write",
        ">",
        "<parameter=content>",
        "</parameter>",
        "</function>",
        "<|tool_call>call:",
        '<|"|>',
        "<tool_call|>",
        "<arg_key>",
        "</arg_value>",
        "```",
        "json",
        "\n",
        "{",
        "}",
        '"',
        '"name":',
        '"Write"',
        "[TOOL_CALLS]",
        "<Write ",
        'path="',
        "/>",
        "<think>",
        "</think>",
        "<|channel>thought",
        "Thinking Process:",
        " ",
        "x",
    ]
)


@given(st.lists(_tokens, max_size=14), st.data())
@example(["```", "\n", "```"], None)
@example([" ", "{"], None)
@example(["x```", FORMS["hermes"]], None)
@example(["```", "<tool_call>", "\n"], None)
def test_whatever_a_model_says(tokens: list[str], data: st.DataObject | None) -> None:
    """Nothing raises, cuts never matter; what is no call and no thought is said word for word."""
    text = "".join(tokens)
    one, scan = scanned([text], bare_thinking=True)
    pieces = list(text)
    if data is not None:
        cut = data.draw(streams.cuts(text.encode("latin-1")))
        pieces = [piece.decode("latin-1") for piece in cut]
    many, _ = scanned(pieces, bare_thinking=True)
    assert (many.text, many.thought, calls(many)) == (one.text, one.thought, calls(one))
    if not one.calls and not scan.rescued.thoughts and "</think>" not in text:
        assert one.text == text
