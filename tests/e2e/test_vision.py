"""A model with a projector, for real: images reach the engine by each dialect and each client."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from daemon.proving.image import png
from tests.e2e.conftest import MakeHouse
from tests.e2e.house import House
from tests.e2e.programs import CLIENTS, TEN, Desk, make_desk, said
from tests.models import make_gguf
from tests.models.projector import IMAGE_TOKENS, make_mmproj

pytestmark = [pytest.mark.real, pytest.mark.llama_server, pytest.mark.timeout(400)]

# Gemma's marks around an image: our tokenizer spells them by bytes.
MARKS = len("<start_of_image>") + len("<end_of_image>")


def seeing(make_house: MakeHouse, folder: Path, server: Path, reply: str = TEN) -> House:
    """A house whose model ``mine`` has a projector."""
    make_gguf(folder / "model.gguf", reply=reply, context=131072)
    make_mmproj(folder / "eye.gguf")
    return make_house(
        f'[engines.llama-server]\npath = "{server}"\n'
        f'[models.mine]\npath = "{folder / "model.gguf"}"\nmmproj = "eye.gguf"\nctx = 65536\n'
        'args = ["-t", "2", "-b", "2048"]\n'
    )


def images_decoded(house: House, least: int = 1) -> int:
    """How many images the engine has put to the model, by its own log; ``least``: so many are
    waited for, since the keeper writes down a moment later what the engine says."""
    log = Path(house.backends()["mine"]["log"])

    def found() -> int:
        return log.read_text(errors="replace").count(f"n_tokens_batch = {IMAGE_TOKENS}\n")

    deadline = time.monotonic() + 10
    while found() < least and time.monotonic() < deadline:
        time.sleep(0.02)
    return found()


def b64(red: int) -> str:
    """A picture of one colour; each colour is another picture to the engine's cache."""
    return base64.b64encode(png((red, 0, 0))).decode()


def url(red: int) -> str:
    return f"data:image/png;base64,{b64(red)}"


def chat(red: int | None) -> tuple[str, dict[str, Any]]:
    image = {"type": "image_url", "image_url": {"url": url(red or 0)}}
    text = {"type": "text", "text": "see"}
    content = [text, image] if red is not None else [text]
    messages = [{"role": "user", "content": content}]
    return "/v1/chat/completions", {"messages": messages, "max_tokens": 20}


def messages(red: int | None) -> tuple[str, dict[str, Any]]:
    source = {"type": "base64", "media_type": "image/png", "data": b64(red or 0)}
    text = {"type": "text", "text": "see"}
    content = [text, {"type": "image", "source": source}] if red is not None else [text]
    return "/v1/messages", {"messages": [{"role": "user", "content": content}], "max_tokens": 20}


def responses(red: int | None) -> tuple[str, dict[str, Any]]:
    text = {"type": "input_text", "text": "see"}
    image = {"type": "input_image", "image_url": url(red or 0)}
    content = [text, image] if red is not None else [text]
    return "/v1/responses", {"input": [{"role": "user", "content": content}]}


def ollama(red: int | None) -> tuple[str, dict[str, Any]]:
    message: dict[str, Any] = {"role": "user", "content": "see"}
    if red is not None:
        message["images"] = [b64(red)]
    return "/api/chat", {"messages": [message], "stream": False}


def tokens(answer: Any) -> int:
    """Of the prompt, as each dialect counts them."""
    if "prompt_eval_count" in answer:
        return int(answer["prompt_eval_count"])
    usage = answer["usage"]
    cached = usage.get("cache_read_input_tokens", 0)
    return int(usage.get("prompt_tokens", 0) or usage["input_tokens"] + cached)


def test_images_by_every_dialect(
    make_house: MakeHouse, short_dir: Path, llama_server: Path
) -> None:
    with seeing(make_house, short_dir, llama_server) as house:
        assert house.client.get("/models/mine")["sees"] is True
        shown = house.ctl("show", "mine")
        assert ["kind", "vision"] in [line.split() for line in shown.stdout.splitlines()], (
            shown.stdout
        )
        for red, ask in enumerate((chat, messages, responses, ollama), start=1):
            counted = []
            for picture in (None, red):
                path, body = ask(picture)
                answer = house.request("POST", path, {"model": "mine", **body})
                assert answer.status == 200, answer.body
                assert TEN in answer.body.decode(), "it answers"
                counted.append(tokens(answer.json()))
            assert counted[1] - counted[0] == IMAGE_TOKENS + MARKS, path
            assert images_decoded(house, red) == red, path


def test_an_image_that_a_tool_gave(
    make_house: MakeHouse, short_dir: Path, llama_server: Path
) -> None:
    """As Claude Code hands on what it has read."""
    _, body = messages(9)
    image = body["messages"][0]["content"][1]
    call = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"file_path": "/x.png"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [image]}
    body["messages"] = [
        {"role": "user", "content": "Read /x.png"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    with seeing(make_house, short_dir, llama_server) as house:
        answer = house.request("POST", "/v1/messages", {"model": "mine", **body})
        assert answer.status == 200, answer.body
        assert images_decoded(house) == 1


def test_a_model_without_a_projector_says_so(
    make_house: MakeHouse, short_dir: Path, llama_server: Path, tiny_gguf: Path
) -> None:
    config = (
        f'[engines.llama-server]\npath = "{llama_server}"\n'
        f'[models.mine]\npath = "{tiny_gguf}"\nctx = 2048\nargs = ["-t", "1"]\n'
    )
    with make_house(config) as house:
        assert house.client.get("/models/mine")["sees"] is False
        path, body = messages(1)
        answer = house.request("POST", path, {"model": "mine", **body})
        assert answer.status == 400
        assert "image input is not supported" in answer.json()["error"]["message"]
        assert house.chat("mine").status == 200, "words go on"


# ---------------------------------------------------------------- real clients


def desk_of(house: House, bins: Path, folder: Path) -> tuple[Desk, Path]:
    """A desk, and a picture in its project."""
    desk = make_desk(house.start(), bins, folder)
    picture = desk.project / "picture.png"
    picture.write_bytes(png((200, 0, 0)))
    return desk, picture


@pytest.mark.clients
@pytest.mark.timeout(900)
def test_codex_hands_on_an_image(
    make_house: MakeHouse, short_dir: Path, bins: Path, llama_server: Path, alone: None
) -> None:
    """``codex -i FILE``."""
    desk, picture = desk_of(seeing(make_house, short_dir, llama_server), bins, short_dir)
    words = [*CLIENTS[1].words, "What is it?", "-i", str(picture)]
    done = desk.ctl("launch", "codex", "mine", "--", *words)
    assert done.returncode == 0, said(done)
    assert TEN in done.stdout, said(done)
    assert images_decoded(desk.house) == 1


@pytest.mark.clients
@pytest.mark.timeout(900)
def test_claude_code_reads_an_image(
    make_house: MakeHouse, short_dir: Path, bins: Path, llama_server: Path, alone: None
) -> None:
    """Its tool ``Read`` on a picture; the model calls it for ever, so the turns are limited."""
    picture = short_dir / "project" / "picture.png"
    call = json.dumps({"name": "Read", "arguments": {"file_path": str(picture)}})
    reply = f"<tool_call>\n{call}\n</tool_call>"
    desk, _ = desk_of(seeing(make_house, short_dir, llama_server, reply), bins, short_dir)
    words = ["-p", "--max-turns", "2", "Look at the picture"]
    done = desk.ctl("launch", "claude", "mine", "--", *words)
    assert images_decoded(desk.house) >= 1, said(done)
