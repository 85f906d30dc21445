from __future__ import annotations

import pytest

from daemon.core.problems import Code, ProblemError
from daemon.relay.forms import find_model, is_form, with_model

TYPE = b"multipart/form-data; boundary=XX"


def part(name: bytes, value: bytes, *extra: bytes) -> bytes:
    lines = b"".join(line + b"\r\n" for line in extra)
    head = b'--XX\r\nContent-Disposition: form-data; name="%b"\r\n%b\r\n' % (name, lines)
    return head + value + b"\r\n"


FILE = part(b"file", bytes(range(256)) * 8, b"Content-Type: audio/wav")
END = b"--XX--\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + END


def test_finds_and_replaces_the_model_only() -> None:
    for body in (
        form(part(b"model", b"whisper"), FILE),
        form(FILE, part(b"model", b"whisper"), part(b"language", b"de")),
        b"preamble\r\n" + form(FILE, part(b"model", b"whisper")) + b"epilogue",
    ):
        found = find_model(body, TYPE)
        assert found.model == "whisper"
        changed = b"".join(with_model(body, found, "/models/w.bin"))
        assert changed == body.replace(b"whisper", b"/models/w.bin")
        assert find_model(bytearray(body), TYPE).model == "whisper"


@pytest.mark.parametrize(
    "kind",
    [
        b'multipart/form-data; boundary="XX"',
        b"Multipart/Form-Data;boundary=XX",
        b"multipart/form-data; charset=utf-8; boundary=XX",
        b"multipart/form-data; boundary=XX; charset=utf-8",
    ],
)
def test_spellings_of_the_content_type(kind: bytes) -> None:
    assert is_form(kind)
    assert find_model(form(part(b"model", b"m")), kind).model == "m"


@pytest.mark.parametrize(
    "disposition",
    [
        b"content-disposition: form-data; name=model",
        b'CONTENT-DISPOSITION:form-data;name="model"',
        b'Content-Type: text/plain\r\nContent-Disposition: form-data; name="model"',
    ],
)
def test_spellings_of_the_part(disposition: bytes) -> None:
    body = b"--XX\r\n" + disposition + b"\r\n\r\nm\r\n--XX--"
    assert find_model(body, TYPE).model == "m"


def test_a_file_that_looks_like_a_part_is_none() -> None:
    inner = b'--XY\r\nContent-Disposition: form-data; name="model"\r\n\r\nevil\r\n--XY--'
    assert find_model(form(part(b"file", inner), part(b"model", b"m")), TYPE).model == "m"


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        (form(FILE), TYPE, Code.MODEL_MISSING),
        (form(), TYPE, Code.MODEL_MISSING),
        (form(part(b"model", b"a"), part(b"model", b"b")), TYPE, Code.INVALID_REQUEST),
        (form(part(b"model", b"")), TYPE, Code.INVALID_REQUEST),
        (form(part(b"model", b"a\nb")), TYPE, Code.INVALID_REQUEST),
        (form(part(b"model", b"\xff")), TYPE, Code.INVALID_REQUEST),
        (form(part(b"model", b"m" * 5000)), TYPE, Code.INVALID_REQUEST),
        (b"", TYPE, Code.INVALID_REQUEST),
        (b"no boundary", TYPE, Code.INVALID_REQUEST),
        (part(b"model", b"m"), TYPE, Code.INVALID_REQUEST),
        (b"--XXmodel", TYPE, Code.INVALID_REQUEST),
        (b"--XX\r\nX: y\r\n\r\nm\r\n--XX--", TYPE, Code.INVALID_REQUEST),
        (b"--XX\r\nno end of head\r\n--XX--", TYPE, Code.INVALID_REQUEST),
        (
            b'--XX\r\nContent-Disposition: form-data; name="a"; name="model"\r\n\r\nm\r\n--XX--',
            TYPE,
            Code.INVALID_REQUEST,
        ),
        (form(*[part(b"x", b"y")] * 300), TYPE, Code.INVALID_REQUEST),
        (form(part(b"x", b"y", b"X: " + b"a" * 9000)), TYPE, Code.INVALID_REQUEST),
        (form(part(b"model", b"m")), b"multipart/form-data", Code.INVALID_REQUEST),
        (form(part(b"model", b"m")), b"multipart/form-data; boundary=", Code.INVALID_REQUEST),
        (
            form(part(b"model", b"m")),
            b"multipart/form-data; boundary=" + b"X" * 71,
            Code.INVALID_REQUEST,
        ),
    ],
)
def test_forms_that_are_refused(body: bytes, kind: bytes, code: Code) -> None:
    with pytest.raises(ProblemError) as caught:
        find_model(body, kind)
    assert caught.value.problem.code is code
