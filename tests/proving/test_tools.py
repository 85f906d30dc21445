"""The tool round in each dialect: plumbing that is broken, and models that are too weak."""

from __future__ import annotations

from functools import partial

import pytest

from daemon.proving.chat import CHAT
from daemon.proving.messages import MESSAGES
from daemon.proving.responses import RESPONSES
from daemon.proving.tools import NUMBER, QUESTION, RESULT, tool_round
from daemon.proving.turns import Dialect
from daemon.proving.values import Finding, Heard, Outcome, Subject
from tests.proving.answers import (
    CUT,
    PAUSED,
    SUBJECT,
    call_item,
    chat,
    chat_call,
    heard,
    item,
    message,
    play,
    refused,
    response,
    sse,
    text_block,
    tool_block,
)

SAID = f"There are {NUMBER} crates."
ROUNDS: dict[str, tuple[Dialect, Heard, Heard]] = {
    "chat": (CHAT, chat_call(), chat(SAID)),
    "messages": (
        MESSAGES,
        message(*tool_block(), stop="tool_use"),
        message(*text_block(SAID)),
    ),
    "responses": (RESPONSES, response(call_item()), response(item(SAID))),
}
in_chat = partial(tool_round, CHAT)


def told(*answers: Heard) -> Finding:
    found, _ = play(in_chat(SUBJECT), *answers)
    assert isinstance(found, Finding)
    return found


@pytest.mark.parametrize("name", ROUNDS)
def test_a_whole_round(name: str) -> None:
    dialect, called, said = ROUNDS[name]
    found, sent = play(tool_round(dialect, SUBJECT), called, said)
    assert (found.step, found.outcome) == (f"tools-{name}", "works"), found
    assert len(sent) == 2
    assert sent[0].path == dialect.path
    assert QUESTION in str(sent[0].body)
    assert NUMBER in str(sent[1].body)
    assert NUMBER not in str(sent[0].body)


@pytest.mark.parametrize("text", [f"{NUMBER[0]},{NUMBER[1:]}", f"{NUMBER[0]} {NUMBER[1:]}", NUMBER])
def test_a_number_may_be_written_as_people_do(text: str) -> None:
    assert told(chat_call(), chat(f"It is {text}.")).outcome is Outcome.WORKS


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "count_crates", "arguments": {}}</tool_call>',
        "<function=count_crates><parameter=thing>salt</parameter></function>",
        '[TOOL_CALLS][{"name": "count_crates"}]',
        '{"name": "count_crates", "arguments": {"thing": "Salt", "warehouse": "north"}}',
        '<|python_tag|>{"name": "count_crates"}',
        '<count_crates thing="salt" warehouse="north"/>',
        'count_crates(thing="salt", warehouse="north")',
        '```json\n{"function": "count_crates", "parameters": ["salt", "north"]}\n```',
        "<tool_call>count_crates<arg_key>thing</arg_key></tool_call>",
        "<|channel|>commentary to=functions.count_crates",
    ],
)
def test_a_call_that_is_written_as_text(text: str) -> None:
    found = told(chat(text))
    assert (found.outcome, found.fault) == ("broken", "plumbing"), found
    assert "arrives as text" in found.text
    assert "template" in found.hint
    assert "rescue_tools" in found.hint


@pytest.mark.parametrize(
    "text",
    [
        "You can call count_crates() to find out.",
        "def count_crates(thing): return 7",
        '{"name": "count_crates", "description": "Counts the crates"}',
        "In the north there is salt.",
    ],
)
def test_talk_of_a_tool_is_no_call(text: str) -> None:
    assert told(chat(text), chat()).outcome is Outcome.BUT


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (chat_call(finish="stop"), "ended with 'stop': clients stop there"),
        (chat_call("{oops"), "no JSON object"),
        (chat_call('["salt"]'), "no JSON object"),
        (chat_call(call_id=""), "no id"),
        (chat("Sure", finish="tool_calls"), "no call came"),
        (heard(sse({"error": {"message": "Failed to parse"}})), "Failed to parse"),
        (refused(500, "tools param requires --jinja flag"), "--jinja"),
        (CUT, "broke off"),
    ],
)
def test_broken_plumbing(answer: Heard, said: str) -> None:
    found = told(answer)
    assert (found.outcome, found.fault) == ("broken", "plumbing"), found
    assert said in found.text
    assert found.hint


WEAK = [
    (chat("No idea."), "it never calls the tool"),
    (chat_call(name="get_weather"), "calls 'get_weather', which was not offered"),
    (chat_call('{"thing": "salt"}'), "leaves out warehouse"),
    (chat_call('{"thing": "salt", "warehouse": "west"}'), "'west'; north or south was allowed"),
    (chat_call('{"thing": 7, "warehouse": "north"}'), "thing is no text: '7'"),
    (chat_call('{"thing": "a", "warehouse": "north", "x": 1}'), "unknown argument 'x'"),
    (chat_call('{"thing": "sa', finish="length"), "cut by the length"),
    (chat_call(finish="length"), "but by its length"),
    (chat("", "length", reasoning_content="Hm."), "over in thoughts"),
    (chat("Well, let me see", "length"), "over in talk"),
]


@pytest.mark.parametrize(("answer", "said"), WEAK)
def test_models_that_are_too_weak(answer: Heard, said: str) -> None:
    """And then all around them is proven by making them call."""
    found = told(answer, chat_call(), chat(SAID))
    assert (found.outcome, found.fault) == ("but", "model"), found
    assert "the model is too weak" in found.text
    assert said in found.text
    assert "the round itself works" in found.text
    assert found.hint


def test_a_weak_model_is_made_to_call() -> None:
    found, sent = play(in_chat(SUBJECT), chat(), chat_call(), chat(SAID))
    assert [one.body["tool_choice"] for one in sent] == ["auto", "required", "auto"]
    assert found.outcome is Outcome.BUT


@pytest.mark.parametrize(
    "forced", [chat(), refused(400, "not supported"), heard(sse({"error": {"message": "x"}}))]
)
def test_one_that_cannot_be_made_to(forced: Heard) -> None:
    found = told(chat(), forced)
    assert (found.outcome, found.fault) == ("but", "model")
    assert found.text.endswith("it never calls the tool, nor when it is made to")


def test_plumbing_that_is_broken_when_it_is_made_to() -> None:
    assert told(chat(), chat_call(finish="stop")).outcome is Outcome.BROKEN


@pytest.mark.parametrize(
    ("answer", "outcome", "fault", "said"),
    [
        (chat("I do not know."), "but", "model", "did not use it"),
        (chat_call(), "but", "model", "called it again"),
        (chat(""), "but", "model", "says nothing after"),
        (chat("", "length", reasoning_content="Hm."), "but", "model", "took the whole answer"),
        (chat(f"{SAID}<|im_end|>"), "but", "plumbing", "arrives as text"),
        (refused(500, "Template error"), "broken", "plumbing", "after the tool's result: it was"),
        (CUT, "broken", "plumbing", "after the tool's result"),
        (heard(b""), "broken", "plumbing", "no finish_reason came"),
        (PAUSED, "unknown", "", "Paused."),
    ],
)
def test_after_the_result(answer: Heard, outcome: str, fault: str, said: str) -> None:
    found = told(chat_call(), answer)
    assert (found.outcome, found.fault) == (outcome, fault), found
    assert said in found.text


def test_a_dialect_that_the_engine_does_not_speak() -> None:
    lean = Subject("m", routes=frozenset({"chat"}))
    for answer in (refused(400, "does not serve messages"), refused(404, "Not Found")):
        found, _ = play(tool_round(MESSAGES, lean), answer)
        assert (found.outcome, found.fault) == ("skipped", "")
        assert "does not serve messages" in found.text
    found, _ = play(tool_round(MESSAGES, lean), refused(400, "A translator's own mistake."))
    assert found.outcome is Outcome.BROKEN, "it may be served by translation"
    known, _ = play(tool_round(RESPONSES, lean), refused(400, "No.", "unsupported_dialect"))
    assert known.outcome is Outcome.SKIPPED
    found, _ = play(tool_round(MESSAGES, SUBJECT), refused(400, "Bad role."))
    assert found.outcome is Outcome.BROKEN, "one that it says it speaks"


def test_the_result_is_a_secret_until_it_is_given() -> None:
    assert NUMBER in RESULT
    assert NUMBER not in QUESTION
