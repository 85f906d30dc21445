from __future__ import annotations

import json
import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.problems import Code, Problem, ProblemError
from daemon.dialects.manner import needed
from daemon.dialects.norms import Norms
from daemon.dialects.roles import Systems
from daemon.dialects.shapes import Shape
from daemon.ports import Edits
from daemon.relay.body import BodyReader, Peek, check_body_head, outlined, peek, with_model
from daemon.relay.edits import edited
from daemon.relay.heads import parse_head
from daemon.relay.limits import Limits

LIMITS = Limits(body_bytes=1000, body_chunks=50)
KEYS = st.sampled_from(["model", "stream", "messages", "input", "tools", "role", "content"])


def refusal(body: bytes, *, required: bool = True) -> tuple[Code, str]:
    with pytest.raises(ProblemError) as caught:
        peek(body, required=required)
    return caught.value.problem.code, caught.value.problem.text


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"model":"m"}', Peek("m", None)),
        (b'{"stream":true,"model":"m"}', Peek("m", True)),
        (b'{"stream":false,"model":"m"}', Peek("m", False)),
        (b'{"stream":"yes","model":"m"}', Peek("m", None)),
        (b' \n{"a":{"model":"x"},"model" : "m" }', Peek("m", None)),
        (b'{"mod\\u0065l":"m"}', Peek("m", None)),
        ('{"model":"größe"}'.encode(), Peek("größe", None)),
        (b'{"tools":[{"model":1},{"model":2}],"model":"m","x":"model"}', Peek("m", None)),
        (b'{"x":"\\"model\\":1","model":"m"}', Peek("m", None)),
        (bytearray(b'{"model":"m"}'), Peek("m", None)),
    ],
)
def test_finds_the_model(body: bytes, found: Peek) -> None:
    assert peek(body) == found


@pytest.mark.parametrize("body", [b"{}", b'{"model":null}', b'{"a":{"model":"x"}}'])
def test_a_missing_model_is_said_unless_it_may_be_missing(body: bytes) -> None:
    assert refusal(body)[0] is Code.MODEL_MISSING
    assert peek(body, required=False) == Peek("", None)


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"", Code.INVALID_JSON, "empty"),
        (b"{", Code.INVALID_JSON, "truncated"),
        (b'{"model":"m"', Code.INVALID_JSON, "truncated"),
        (b'{"model":"m"}x', Code.INVALID_JSON, "trailing"),
        (b'{"model":"m",}', Code.INVALID_JSON, "not valid JSON"),
        (b"{'model':'m'}", Code.INVALID_JSON, "not valid JSON"),
        (b"\xef\xbb\xbf{}", Code.INVALID_JSON, "not valid JSON"),
        (b'{"model":"\xff"}', Code.INVALID_JSON, "UTF-8"),
        (b'{"a":NaN,"model":"m"}', Code.INVALID_JSON, "not valid JSON"),
        (b'["m"]', Code.INVALID_JSON, "found an array"),
        (b'"m"', Code.INVALID_JSON, "found a string"),
        (b" null", Code.INVALID_JSON, "found null"),
        (b"5", Code.INVALID_JSON, "found a bare value"),
        (b'{"model":5}', Code.INVALID_REQUEST, "found a number"),
        (b'{"model":1e999}', Code.INVALID_REQUEST, "a number"),
        (b'{"model":true}', Code.INVALID_REQUEST, "found a boolean"),
        (b'{"model":["m"]}', Code.INVALID_REQUEST, "found an array"),
        (b'{"model":{"m":1}}', Code.INVALID_REQUEST, "found an object"),
        (b'{"model":""}', Code.INVALID_REQUEST, "an empty one"),
        (b'{"model":"a\\nb"}', Code.INVALID_REQUEST, "control characters"),
        (b'{"model":"a\\u202eb"}', Code.INVALID_REQUEST, "control characters"),
        (b'{"model":"' + b"m" * 300 + b'"}', Code.INVALID_REQUEST, "300 characters"),
        (b'{"a":' + b"[" * 1000 + b"]" * 1000 + b"}", Code.INVALID_JSON, "too deeply"),
        (b'{"model":' + b"[" * 5000 + b"]" * 5000 + b"}", Code.INVALID_JSON, "too deeply"),
        (b"[" * 100_000, Code.INVALID_JSON, ""),
    ],
)
def test_says_what_is_wrong(body: bytes, code: Code, words: str) -> None:
    found, text = refusal(body)
    assert found is code
    assert words in text


@pytest.mark.parametrize(
    "body",
    [
        b'{"Model":"a"}',
        b'{"model":"a","MODEL":"b"}',
        b'{"mOdEl":5,"model":"a"}',
        b'{"model":"a","\\u004dodel":"b"}',
        b'{"Model":"a","Model":"a"}',
    ],
)
def test_another_case_is_refused_as_some_readers_ignore_it(body: bytes) -> None:
    code, text = refusal(body)
    assert code is Code.INVALID_REQUEST
    assert "`Model`" in text
    with pytest.raises(ProblemError, match="in other letters"):
        outlined(body)
    with pytest.raises(ProblemError, match="in other letters"):
        edited(body, Edits(), "a", given=True)


def test_below_the_top_and_as_a_value_any_case_is_fine() -> None:
    body = b'{"model":"a","metadata":{"Model":"b"},"x":["MODEL"],"Models":1,"tools":[{"MODEL":1}]}'
    assert peek(body) == outlined(body)[0] == Peek("a", None)
    assert b"".join(edited(body, Edits(), "a")).count(b"odel") == 3


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","x":[{"model":1}],"model":"a"}',
        b'{"model":"a","mod\\u0065l":"b"}',
        b'{"\\u006dodel":"a","\\u006Dodel":"b"}',
        b'{"model":null,"model":"b"}',
    ],
)
def test_two_models_are_refused(body: bytes) -> None:
    code, text = refusal(body)
    assert code is Code.INVALID_REQUEST
    assert "2 times" in text


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b'{"model":"m","a":1}', b'{"model":"new","a":1}'),
        (b' {\n "model" : "m" , "a":1}', b' {\n "model" : "new" , "a":1}'),
        (b'{"a":1.50,"model":"m"}', b'{"a":1.50,"model":"new"}'),
        (b'{"a":{"model":"x"},"model":"m"}', b'{"a":{"model":"x"},"model":"new"}'),
        (b'{"a":["model","model"],"model":"m"}', b'{"a":["model","model"],"model":"new"}'),
        (b'{"a":"}\\"{","b":"model","model":"m"}', b'{"a":"}\\"{","b":"model","model":"new"}'),
        (b'{"m\\u006fdel":"m"}', b'{"m\\u006fdel":"new"}'),
        (b'{"x\\u006f":"model","model":"q\\"u"}', b'{"x\\u006f":"model","model":"new"}'),
    ],
)
def test_a_name_is_replaced_and_nothing_else(body: bytes, changed: bytes) -> None:
    assert b"".join(with_model(body, "new")) == changed


def test_a_name_is_escaped() -> None:
    assert json.loads(b"".join(with_model(b'{"model":"m"}', 'a"b\\c\n')))["model"] == 'a"b\\c\n'


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["model", '"model":']),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.sampled_from(["model", "stream"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(st.text(), values, max_size=5),
    st.dictionaries(st.text(), values, max_size=5),
    st.booleans(),
)
def test_any_object_keeps_all_but_its_model(
    before: dict[str, object], after: dict[str, object], ascii_only: bool
) -> None:
    before.pop("model", None)
    after = {key: value for key, value in after.items() if key not in (*before, "model")}
    whole = {**before, "model": "m", **after}
    body = json.dumps(whole, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    assert peek(body).model == "m"
    changed = json.loads(b"".join(with_model(body, "new/one")))
    assert changed == {**json.loads(body), "model": "new/one"}


@given(st.binary(max_size=200))
def test_any_bytes_are_named_or_refused(body: bytes) -> None:
    try:
        model = peek(body).model
    except ProblemError as error:
        model = error.problem.text
    assert model


# ---------------------------------------------------------------- reading


def read(pieces: list[bytes], length: int | None = None) -> tuple[bytes, bytes]:
    reader = BodyReader(length, LIMITS)
    for number, piece in enumerate(pieces):
        rest = reader.feed(piece)
        if rest is not None:
            return bytes(reader.data), rest + b"".join(pieces[number + 1 :])
    raise AssertionError("the body has no end")


CHUNKS = b'5;x="y"\r\nhello\r\n0001\r\n \r\n6\r\nworld!\r\n0\r\nX-Sum: 1\r\nB: 2\r\n\r\nGET /'


def test_chunks_whole_and_split_at_every_byte() -> None:
    assert read([CHUNKS]) == (b"hello world!", b"GET /")
    for at in range(1, len(CHUNKS)):
        assert read([CHUNKS[:at], CHUNKS[at:]]) == (b"hello world!", b"GET /")
    assert read([bytes([byte]) for byte in CHUNKS])[0] == b"hello world!"


def test_a_declared_length_whole_and_split_at_every_byte() -> None:
    data = b"hello world!GET /"
    for at in range(len(data) + 1):
        assert read([data[:at], data[at:]], 12) == (b"hello world!", b"GET /")


def test_random_chunks_come_out_as_they_went_in() -> None:
    luck = random.Random(5)
    for _ in range(300):
        body = luck.randbytes(luck.randrange(400))
        wire, at = b"", 0
        while at < len(body):
            size = luck.randrange(1, 60)
            piece = body[at : at + size]
            wire += b"%x\r\n%b\r\n" % (len(piece), piece)
            at += size
        wire += b"0\r\n\r\nrest"
        pieces, at = [], 0
        while at < len(wire):
            size = luck.randrange(1, 50)
            pieces.append(wire[at : at + size])
            at += size
        assert read(pieces) == (body, b"rest")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"3e9\r\n", Code.BODY_TOO_LARGE),
        (b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\n", Code.BODY_TOO_LARGE),
        (b"1\r\nx\r\n" * 51, Code.INVALID_REQUEST),
        (b"zz\r\n", Code.INVALID_REQUEST),
        (b"1\nx", Code.INVALID_REQUEST),
        (b"1\r\nxy\r\n", Code.INVALID_REQUEST),
        (b"0\r\n" + b"x" * 9000, Code.INVALID_REQUEST),
        (b"0\r\nbad\r\n\r\n", Code.INVALID_REQUEST),
        (b";" * 300, Code.INVALID_REQUEST),
    ],
)
def test_chunks_that_are_refused(data: bytes, code: Code) -> None:
    with pytest.raises(ProblemError) as caught:
        BodyReader(None, LIMITS).feed(data)
    assert caught.value.problem.code is code


def test_the_head_alone_may_refuse_a_body() -> None:
    def check(*lines: str) -> None:
        text = "\r\n".join(("POST / HTTP/1.1", "Host: a", *lines, "", ""))
        check_body_head(parse_head(text.encode(), LIMITS), LIMITS)

    check("Content-Length: 1000", "Content-Encoding: identity")
    with pytest.raises(ProblemError) as large:
        check("Content-Length: 1001")
    assert large.value.problem.code is Code.BODY_TOO_LARGE
    with pytest.raises(ProblemError) as packed:
        check("Content-Length: 10", "Content-Encoding: gzip")
    assert packed.value.problem.code is Code.UNSUPPORTED_ENCODING


def answer(asked: Callable[[], object]) -> object:
    try:
        return asked()
    except ProblemError as error:
        return error.problem


@given(st.recursive(st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(KEYS, inner, max_size=4)))  # fmt: skip
def test_the_outline_is_what_a_second_look_would_see(value: object) -> None:
    """And where it cannot be read, the model is found all the same."""
    body = msgspec.json.encode(value)
    expected = answer(lambda: peek(body, required=False))
    if isinstance(expected, Problem):
        assert answer(lambda: outlined(body)) == expected
        return
    found, outline = outlined(body)
    assert found == expected
    for shape in (Shape.CHAT, Shape.MESSAGES, Shape.RESPONSES):
        for norms in (Norms(), Norms(merge_turns=False, systems=Systems.ANYWHERE)):
            assert needed(shape, norms, body, outline) is needed(shape, norms, body)


def test_a_model_that_is_named_twice_is_seen_in_the_same_pass() -> None:
    for body in (
        b'{"model":"a","messages":[],"model":"b"}',
        b'{"model":"a","messages":3,"model":"b"}',
    ):
        with pytest.raises(ProblemError, match="2 times"):
            outlined(body)
    assert outlined(b'{"model":"a","messages":3}') == (Peek("a", None), None)
    _, outline = outlined(b'{"model":"a","messages":[{"role":"user","content":[]}],"tools":[{}]}')
    assert outline is not None
    assert outline.offers_tools
    assert [turn.role for turn in outline.messages] == ["user"]
