"""Large strings set aside: what comes out is the same to the byte, or nothing was set aside."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from daemon.core.problems import ProblemError
from daemon.dialects import translator
from daemon.dialects.manner import Manner
from daemon.dialects.norms import Norms
from daemon.relay.bulk import LARGE, light
from daemon.relay.routes import Place, resolve
from daemon.relay.talks import Talk, talk_for

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 400).decode()
OTHER = PNG.swapcase()
ENGINE = Manner(frozenset({"chat"}))


def image(data: str = PNG) -> dict[str, Any]:
    return {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": data},
    }


def messages(*content: dict[str, Any], **more: Any) -> dict[str, Any]:
    text = {"type": "text", "text": 'a "text"\n' * 2_000}
    said = [{"role": "user", "content": [text, *content]}]
    return {"model": "m", "max_tokens": 9, "messages": said, **more}


def responses(url: str, **more: Any) -> dict[str, Any]:
    part = {"type": "input_image", "image_url": url}
    return {"model": "m", "input": [{"role": "user", "content": [part]}], **more}


DATA = "data:image/png;base64,"
RESULT = {"type": "tool_result", "tool_use_id": "t", "content": [image()]}
USE = {"type": "tool_use", "id": "t", "name": "shot", "input": {}}
SET_ASIDE: dict[str, tuple[str, dict[str, Any], int]] = {
    "messages": ("/v1/messages", messages(image(), image(OTHER)), 2),
    "an odd kind": ("/v1/messages", messages(image("R0lGOD" + PNG)), 1),
    "responses": ("/v1/responses", responses(DATA + PNG, instructions="be brief"), 1),
    "ollama": (
        "/api/chat",
        {"model": "m", "messages": [{"role": "user", "content": "x", "images": [PNG]}]},
        1,
    ),
    "a tool's": (
        "/v1/messages",
        {
            "model": "m",
            "max_tokens": 9,
            "messages": [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": [USE]},
                {"role": "user", "content": [RESULT]},
            ],
        },
        1,
    ),
}
TEXT = base64.b64encode(b"a text\n" * 20_000).decode()
TEXT_SOURCE = {"type": "base64", "media_type": "text/plain", "data": TEXT}
WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "small ones": ("/v1/messages", messages(image(PNG[: LARGE // 2]))),
    "what is looked into": ("/v1/messages", messages({"type": "document", "source": TEXT_SOURCE})),
    "what the answer repeats": ("/v1/responses", responses("http://x/y.png", instructions=PNG)),
    "numbers": ("/v1/messages", messages(metadata={"user_id": "u"}, x=list(range(40_000)))),
}


def talk(path: str, asked: dict[str, Any]) -> tuple[Talk, bytes, bytes]:
    """What is made of it, that as bytes, and as it would be with nothing set aside."""
    body = json.dumps(asked).encode()
    place = resolve("POST", path)
    assert isinstance(place, Place)
    assert place.shape is not None
    found = talk_for(place, body, ENGINE, "name", "m", "req_1", begun=False)
    assert found is not None
    about = translator.About("req_1", 0, "m")
    plain = translator.translate(place.shape, body, Norms(), about, model="name").body
    return found, b"".join(found.parts), plain


@pytest.mark.parametrize("name", SET_ASIDE)
def test_images_are_sent_from_the_clients_own_body(name: str) -> None:
    path, asked, images = SET_ASIDE[name]
    found, made, plain = talk(path, asked)
    assert made == plain
    assert len([part for part in found.parts if len(part) > LARGE]) == images


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_more_than_carried_is_there_in_full(name: str) -> None:
    path, asked = WHOLE[name]
    found, made, plain = talk(path, asked)
    assert made == plain
    assert len(found.parts) == 1


def test_mistakes_are_told_of_the_body_as_it_is() -> None:
    asked = messages(image(), {"type": "image", "source": {"type": PNG}})
    with pytest.raises(ProblemError) as caught:
        talk("/v1/messages", asked)
    assert PNG[:300] in caught.value.problem.text


@pytest.mark.parametrize("before", [0, 1, 200, LARGE // 2 - 9, LARGE // 2, LARGE, 3 * LARGE])
@pytest.mark.parametrize("size", [LARGE, LARGE + 1, 5 * LARGE])
def test_they_are_found_wherever_they_stand(before: int, size: int) -> None:
    large = b"A" * size
    body = b'{"x":"' + b"y " * (before // 2) + b'","a":"' + large + b'","b":"' + large + b'"}'
    found = light(body)
    assert found is not None
    assert len(found.aside) == 2
    assert len(found.body) < len(body) - 2 * size + 1000
    parts = found.restored(found.body)
    assert parts is not None
    assert b"".join(parts) == body
    assert found.knows(found.body)
    assert not found.knows(body)
    assert found.restored(found.body + found.body) is None
    assert found.restored(b"") is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"a":"' + b"A" * (LARGE - 1) + b'"}',
        b'{"a":"' + b"A" * LARGE,  # no end
        b"A" * LARGE + b'"',  # no beginning
        b'{"a":"' + b"A" * LARGE + b'\\n"}',
        b'{"a":[' + b"1," * LARGE + b'1],"b":1}',
        b'{"a":' + b" " * LARGE + b'"b"}',
        b'{"a":"' + b"A " * LARGE + b'"}',
    ],
)
def test_nothing_else_is_set_aside(body: bytes) -> None:
    assert light(body) is None
