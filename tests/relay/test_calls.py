"""Which requests are small: the recorded ones of real clients, and what only looks like them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.ports import Route
from daemon.relay.calls import ORDINARY, Kind, Small, small_call

FIXTURES = Path(__file__).parents[1] / "dialects" / "fixtures"
ROUTES = {
    "/v1/messages": Route.MESSAGES,
    "/v1/responses": Route.RESPONSES,
    "/v1/chat/completions": Route.CHAT,
}
SMALL = {
    "claude_10_messages_tty_title": Kind.TITLE,
    "claude_11_classifier_stage1": Kind.CLASSIFIER,
    "claude_12_classifier_stage2": Kind.CLASSIFIER,
    "codex_08_responses_tui_title": Kind.TITLE,
    "opencode_01_chat_title": Kind.TITLE,
}


def recorded() -> list[tuple[str, Route, bytes]]:
    found = []
    for file in sorted(FIXTURES.glob("*.json")):
        request = json.loads(file.read_text("utf-8"))
        path = request.get("path", "").partition("?")[0]
        if path in ROUTES:
            found.append((file.stem, ROUTES[path], json.dumps(request["body"]).encode()))
    return found


def test_of_what_the_real_clients_send_the_small_ones_are_known() -> None:
    known = {name: small_call(route, body).kind for name, route, body in recorded()}
    assert len(known) > 20
    assert {name: kind for name, kind in known.items() if kind is not None} == SMALL


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Generate a concise, 3-5 word title with an emoji summarizing the chat.", Kind.TITLE),
        ("Generate a concise title summarizing the chat history.", Kind.TITLE),
        ("Generate 1-3 broad tags categorizing the main themes of the chat.", Kind.TAGS),
        (
            "Analyze the chat history to determine the necessity of generating search queries.",
            Kind.QUERY,
        ),
        ("You are an autocompletion system. Continue the text in `<text>`.", Kind.COMPLETION),
        ("Suggest 3-5 relevant follow-up questions or prompts.", Kind.FOLLOW_UP),
        ("Predict 3-5 useful messages this user might naturally send next.", Kind.FOLLOW_UP),
        ("Generate a detailed prompt for am image generation task.", Kind.IMAGE),
    ],
)
def test_open_webuis_tasks(text: str, kind: Kind) -> None:
    asked = chat([{"role": "user", "content": f"### Task:\n{text}\n\n### Guidelines:\n- x"}])
    assert small_call(Route.CHAT, asked) == Small(kind)


def chat(messages: list[dict[str, Any]], **more: Any) -> bytes:
    return json.dumps({"model": "m", "messages": messages, **more}).encode()


TITLE = "You are a title generator. You output ONLY a thread title."


@pytest.mark.parametrize(
    "body",
    [
        chat([{"role": "user", "content": f"What does this prompt do? {TITLE}"}]),
        chat([{"role": "system", "content": TITLE}], tools=[{"type": "function"}]),
        chat([{"role": "user", "content": "x"}, {"role": "tool", "content": TITLE}, {"a": 1}]),
        chat([{"role": "system", "content": "plain"}, {"role": "user", "content": "hi"}]),
        b'{"messages": "You are a title generator. You output ONLY a thread title',
        b"[" * 100_000 + TITLE.encode(),
        chat([]),
        json.dumps({"messages": 7, "x": TITLE}).encode(),
    ],
)
def test_what_only_quotes_them_is_ordinary(body: bytes) -> None:
    assert small_call(Route.CHAT, body) is ORDINARY


def test_a_large_body_is_not_looked_at() -> None:
    body = chat([{"role": "system", "content": TITLE + "x" * (1 << 20)}])
    assert small_call(Route.CHAT, body) is ORDINARY


def test_a_prompt_in_a_models_own_marks_is_for_that_model_alone() -> None:
    prompt = json.dumps({"prompt": "<|fim_prefix|>def f(<|fim_suffix|>)<|fim_middle|>"}).encode()
    assert small_call(Route.COMPLETIONS, prompt) == Small(Kind.COMPLETION, movable=False)
    assert small_call(Route.COMPLETIONS, b'{"prompt": "x"}') is ORDINARY
    assert small_call(Route.EMBEDDINGS, prompt) is ORDINARY
    raw = prompt.replace(b'"prompt"', b'"raw": true, "prompt"')
    assert small_call(Route.CHAT, raw, generate=True) == Small(Kind.COMPLETION, movable=False)
    assert small_call(Route.CHAT, raw) is ORDINARY
    assert small_call(Route.CHAT, prompt, generate=True) is ORDINARY


@given(st.recursive(st.none() | st.text() | st.integers(), st.lists))
def test_any_content_gets_an_answer(content: Any) -> None:
    asked: dict[str, Any] = {"messages": [{"content": content}], "system": content}
    body = json.dumps({**asked, "input": content, "x": TITLE}).encode()
    for route in ROUTES.values():
        assert small_call(route, body).kind in (None, Kind.TITLE)


def test_a_long_first_message_hides_no_title_call() -> None:
    """Claude Code writes the instructions behind the messages."""
    asked = {
        "messages": [{"role": "user", "content": "x" * 50_000}],
        "system": [{"type": "text", "text": "You are naming a coding session. Answer shortly."}],
    }
    assert small_call(Route.MESSAGES, json.dumps(asked).encode()).kind is Kind.TITLE
