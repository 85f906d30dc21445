"""Bodies of requests: what is refused, and in which words."""

from __future__ import annotations

import pytest

from control_api.app import OPERATIONS
from control_api.bodies import decode_body
from control_api.schemas import Body, Empty, KeyBody, LoadBody, TestBody, UnloadBody
from daemon.core.problems import Code, Problem, ProblemError

CTX = "a whole number from 256 to 16777216 or null is allowed."


def refused(kind: type[Body], raw: bytes) -> Problem:
    with pytest.raises(ProblemError) as caught:
        decode_body(kind, raw)
    return caught.value.problem


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"ctx": 99999999999}', f"ctx is 99999999999; {CTX}"),
        (b'{"ctx": 0}', f"ctx is 0; {CTX}"),
        (b'{"ctx": 99999999999999999999999}', f"ctx is 99999999999999999999999; {CTX}"),
        (b'{"ctx": 4096.5}', f"ctx is 4096.5; {CTX}"),
        (b'{"ctx": "64k", "wait": true}', f'ctx is "64k"; {CTX}'),
        (b'{"ctx": [{"a": 1}]}', f'ctx is [{{"a":1}}]; {CTX}'),
        (b'{"fit": "ask"}', 'fit is "ask"; "ignore" or "refuse" or "shrink" or null is allowed.'),
        (b'{"wait": "yes"}', 'wait is "yes"; true or false is allowed.'),
        (b'{"wait": null}', "wait is null; true or false is allowed."),
        (b'{"wait": "' + b"x" * 99 + b'"}', f'wait is "{"x" * 39}…; true or false is allowed.'),
    ],
)
def test_field_found_and_allowed(raw: bytes, message: str) -> None:
    problem = refused(LoadBody, raw)
    assert problem.code is Code.INVALID_REQUEST
    assert problem.message == message
    assert problem.hint == ""


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"context": 4096}', "The body has the unknown field 'context'."),
        (b"[4096]", "The body is [4096]; a JSON object is allowed."),
        (b"null", "The body is null; a JSON object is allowed."),
    ],
)
def test_other_than_the_fields_that_there_are(raw: bytes, message: str) -> None:
    problem = refused(LoadBody, raw)
    assert (problem.code, problem.message) == (Code.INVALID_REQUEST, message)
    assert problem.hint == "Allowed fields: ctx, fit, wait."


FOUND = b'{"step": "stream", "outcome": "works", "text": ""'


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"findings": 7}', "findings is 7; a list of up to 64 objects is allowed."),
        (b'{"findings": [7]}', "findings[0] is 7; a JSON object is allowed."),
        (b'{"findings": [{"step": "stream"}]}', "findings[0].outcome is missing."),
        (
            b'{"findings": [' + FOUND + b'}, {"step": 1}]}',
            "findings[1].step is 1; ",
        ),
        (
            b'{"findings": [' + FOUND + b', "seconds": -1}]}',
            "findings[0].seconds is -1; a number from 0 to 1e+06 is allowed.",
        ),
        (b'{"findings": [' + FOUND + b', "x": 1}]}', "findings[0] has the unknown field 'x'."),
        (
            b'{"findings": [' + FOUND + b', "hint": "' + b"x" * 401 + b'"}]}',
            f'findings[0].hint is "{"x" * 39}…; text of up to 400 characters is allowed.',
        ),
    ],
)
def test_lists_of_objects(raw: bytes, message: str) -> None:
    assert refused(TestBody, raw).message.startswith(message)


@pytest.mark.parametrize("raw", [b'{"ctx": "64k", ', b"[" * 20_000, b'{"wait": ' + b"[" * 20_000])
def test_wrong_and_broken_further_on(raw: bytes) -> None:
    problem = refused(LoadBody, raw)
    assert problem.code in (Code.INVALID_REQUEST, Code.INVALID_JSON)
    assert problem.message


def test_no_body_is_an_empty_one() -> None:
    assert decode_body(LoadBody, b"") == LoadBody()
    assert decode_body(LoadBody, b'{"ctx": 4096, "wait": true}') == LoadBody(ctx=4096, wait=True)
    assert decode_body(UnloadBody, b'{"force": true}') == UnloadBody(force=True)
    assert refused(Empty, b'{"a": 1}').hint == "Allowed fields: none."


def test_a_whole_number_is_one_however_it_is_written() -> None:
    for text in (b"4096.0", b"4.096e3"):
        assert decode_body(LoadBody, b'{"ctx": %b}' % text) == LoadBody(ctx=4096)
    listed = b'{"name": "a", "lasts": 60.0, "priority": -1.0, "models": ["m"]}'
    assert decode_body(KeyBody, listed) == KeyBody(name="a", lasts=60, priority=-1, models=["m"])
    assert refused(LoadBody, b'{"ctx": 4096.5}').message.startswith("ctx is 4096.5; a whole number")
    assert refused(LoadBody, b'{"ctx": 1e999}').code in (Code.INVALID_JSON, Code.INVALID_REQUEST)


@pytest.mark.parametrize("kind", {op.body for op in OPERATIONS if op.body is not None}, ids=str)
def test_every_field_of_every_body_is_told_in_words(kind: type[Body]) -> None:
    for name in kind.__struct_fields__:
        message = refused(kind, b'{"%s": {}}' % name.encode()).message
        assert message.startswith(f"{name} is {{}}; ")
