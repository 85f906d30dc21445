from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemon.core.problems import Code, Problem
from daemon.dialects.errors import Dialect, chat_stream_error, render


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("code", Code)
def test_every_code_has_a_look_in_every_shape(code: Code, dialect: Dialect) -> None:
    status, headers, body = render(Problem(code, "What.", "Do."), dialect, "req_1")
    fields = dict(headers)
    assert 400 <= status <= 599
    assert fields["Content-Type"] == "application/json"
    assert fields["x-request-id"] == "req_1"
    assert fields["x-should-retry"] == "false"
    assert "Retry-After" not in fields
    error = json.loads(body)["error"]
    text = error if dialect is Dialect.OLLAMA else error["message"]
    assert text in ("What. Do.", "What.")


@pytest.mark.parametrize(
    ("code", "openai", "anthropic"),
    [
        (Code.QUEUE_FULL, (503, "server_error"), (529, "overloaded_error")),
        (Code.QUEUE_TIMEOUT, (503, "server_error"), (529, "overloaded_error")),
        (Code.BACKOFF, (503, "server_error"), (529, "overloaded_error")),
        (Code.SHUTTING_DOWN, (503, "server_error"), (529, "overloaded_error")),
        (Code.MODEL_UNAVAILABLE, (503, "server_error"), (500, "api_error")),
        (
            Code.MODEL_TOO_LARGE,
            (400, "invalid_request_error"),
            (400, "invalid_request_error"),
        ),
        (Code.MODEL_NOT_FOUND, (404, "invalid_request_error"), (404, "not_found_error")),
        (Code.UPSTREAM_ERROR, (502, "server_error"), (500, "api_error")),
        (Code.BODY_TOO_LARGE, (413, "invalid_request_error"), (413, "request_too_large")),
        (Code.BODY_TIMEOUT, (408, "invalid_request_error"), (408, "timeout_error")),
        (Code.UNAUTHORIZED, (401, "authentication_error"), (401, "authentication_error")),
        (Code.MISDIRECTED, (421, "invalid_request_error"), (421, "invalid_request_error")),
        (Code.FORBIDDEN, (403, "permission_error"), (403, "permission_error")),
    ],
)
def test_the_table(code: Code, openai: tuple[int, str], anthropic: tuple[int, str]) -> None:
    problem = Problem(code, "What.")
    status, _, body = render(problem, "openai", "r")
    error = json.loads(body)["error"]
    assert (status, error["type"]) == openai
    assert error["code"] == code.value
    assert set(error) == {"message", "type", "param", "code"}
    status, headers, body = render(problem, "anthropic", "r")
    assert ("request-id", "r") in headers
    shape = json.loads(body)
    assert (status, shape["error"]["type"]) == anthropic
    assert (shape["type"], shape["request_id"]) == ("error", "r")


@pytest.mark.parametrize(
    ("wait", "header"),
    [(0.0, "1"), (0.2, "1"), (5.0, "5"), (5.1, "6"), (30.0, "30"), (900.0, "30")],
)
def test_retry_after_is_short_and_whole(wait: float, header: str) -> None:
    for dialect in Dialect:
        problem = Problem(Code.QUEUE_FULL, "Full.", retry_after=wait)
        fields = dict(render(problem, dialect, "r")[1])
        assert fields["Retry-After"] == header
        assert fields["x-should-retry"] == "true"


@pytest.mark.parametrize(("longest", "header"), [(120.0, "90"), (12.9, "12"), (0.0, "1")])
def test_the_longest_retry_after_can_be_chosen(longest: float, header: str) -> None:
    problem = Problem(Code.QUEUE_FULL, "Full.", retry_after=90.0)
    assert dict(render(problem, "openai", "r", longest)[1])["Retry-After"] == header


def test_model_errors_name_the_field() -> None:
    body = render(Problem(Code.MODEL_NOT_FOUND, "No."), "openai", "r")[2]
    assert json.loads(body)["error"]["param"] == "model"


def test_control_errors_keep_the_facts() -> None:
    facts = {"needed_bytes": 5, "path": Path("/x")}
    problem = Problem(Code.MODEL_TOO_LARGE, "Too big.", "Shrink it.", facts=facts)
    status, _, body = render(problem, Dialect.CONTROL, "r")
    assert status == 409
    assert json.loads(body)["error"] == {
        "code": "model_too_large",
        "message": "Too big.",
        "hint": "Shrink it.",
        "retry_after": None,
        "facts": {"needed_bytes": 5, "path": "/x"},
        "request_id": "r",
    }


def test_a_chat_stream_ends_in_one_event() -> None:
    event = chat_stream_error(Problem(Code.UPSTREAM_ERROR, "It\nbroke.\u2028"))
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 2
    assert json.loads(event[6:])["error"]["code"] == "upstream_error"


def test_text_that_is_no_unicode_is_still_told() -> None:
    body = render(Problem(Code.MODEL_NOT_FOUND, "No \udc80."), "openai", "r")[2]
    assert "No" in json.loads(body)["error"]["message"]
