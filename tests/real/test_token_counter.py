"""The counter of tokens in a real engine's Python, beside what ``transformers`` makes of a chat."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from daemon.dialects import counting, translator
from daemon.dialects.norms import Norms
from daemon.engines.tokens import Recipe

pytestmark = [pytest.mark.real, pytest.mark.mlx, pytest.mark.timeout(300)]

FIXTURES = Path(__file__).parent.parent / "dialects" / "fixtures"
REFERENCE = """
import json, sys
from transformers import PreTrainedTokenizerFast
tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[1])
for line in sys.stdin:
    chat = json.loads(line)
    for message in chat["messages"]:
        if isinstance(message.get("content"), list):
            message["content"] = "".join(part["text"] for part in message["content"])
        message["content"] = message.get("content") or ""
        for call in message.get("tool_calls") or ():
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    ids = tokenizer.apply_chat_template(
        chat["messages"], tools=chat.get("tools"), add_generation_prompt=True, return_dict=False,
        **chat.get("chat_template_kwargs", {}),
    )
    print(len(ids))
"""
TEMPLATE = """{{ bos_token }}{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}
{%- for message in messages %}
<|{{ message.role }}|>{{ message.content }}
{%- for call in message.tool_calls or [] %}{{ call.function.arguments | tojson }}{% endfor %}
{%- if message.role == "assistant" %}{% generation %}x{% endgeneration %}{% endif %}
{%- if message.content == "stop" %}{% break %}{% endif %}
{%- endfor %}
{%- if strftime_now("%Y") | length == 4 and think %}think{% endif %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
HI = {"messages": [{"role": "user", "content": "hi there"}]}


def count(python: Path, folder: Path, *chats: Any, template: str = "") -> list[dict[str, Any]]:
    argv = Recipe(str(python), str(folder), template).argv
    lines = "".join(f"{chat if isinstance(chat, str) else json.dumps(chat)}\n" for chat in chats)
    done = subprocess.run(argv, input=lines, capture_output=True, text=True, timeout=100)
    return [json.loads(line) for line in done.stdout.splitlines()]


def recorded() -> list[str]:
    chats = []
    for file in sorted(FIXTURES.glob("claude_*.json")):
        body = json.dumps(json.loads(file.read_text())["body"]).encode()
        chats.append(counting.template_body(translator.counted(body, Norms())).decode())
    return chats


def test_recorded_requests_are_counted_as_transformers_counts_them(
    mlx_python: Path, tiny_hf: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    shutil.copytree(tiny_hf, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    extra = {"role": "user", "content": [{"type": "text", "text": "stop"}]}
    more = [{**HI, "chat_template_kwargs": {"think": True}}, {"messages": [extra, extra]}]
    chats = [*recorded(), *map(json.dumps, more)]
    for one in (tiny_hf, folder):
        said = count(mlx_python, one, *chats)
        assert said[0] == {"template": True}
        assert all(answer["exact"] for answer in said[1:])
        argv = [str(mlx_python), "-P", "-c", REFERENCE, str(one)]
        text = "".join(f"{chat}\n" for chat in chats)
        told = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=100)
        assert [answer["tokens"] for answer in said[1:]] == [int(n) for n in told.stdout.split()]


def test_what_cannot_be_templated_is_said_to_be_inexact(
    mlx_python: Path, tiny_hf: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.jinja"
    own.write_text('{{ raise_exception("no") if messages | length > 1 }}{{ messages[0].content }}')
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    seen = {"messages": [{"role": "user", "content": [image]}]}
    twice = {"messages": HI["messages"] * 2}
    said = count(mlx_python, tiny_hf, HI, twice, seen, "[", "{}", HI, template=str(own))
    first, refused, shown, *bad, again = said[1:]
    assert first == again == {"tokens": first["tokens"], "exact": True}
    assert refused["exact"] is False
    assert refused["tokens"] > 2 * first["tokens"]
    assert shown == {"tokens": 1000, "exact": False}
    assert all("error" in answer for answer in bad)


def test_a_template_reaches_nothing_outside(
    mlx_python: Path, tiny_hf: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.jinja"
    own.write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    said = count(mlx_python, tiny_hf, HI, template=str(own))
    assert said[1]["exact"] is False


def test_what_is_no_tokenizer_is_told_and_ends_it(mlx_python: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (said,) = count(mlx_python, tmp_path, HI)
    assert said["error"]
