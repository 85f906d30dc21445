"""The made models: their files, and what real engines make of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import DEFAULT_REPLY, make_embedding_gguf, make_gguf, make_hf, parse_size
from tests.models.vocabulary import build_vocabulary, split_reply

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
ROOT = Path(__file__).parents[2]


def ask(model: Path, mode: str, *questions: tuple[str, object]) -> list[tuple[int, Any]]:
    """Answers of a real llama.cpp: status and body of each."""
    words = [word for path, body in questions for word in (path, json.dumps(body))]
    result = subprocess.run(
        [sys.executable, "-m", "tests.models.ask", str(model), mode, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    return [tuple(answer) for answer in json.loads(result.stdout)]


def field(path: Path, key: str) -> Any:
    """One value of a GGUF file's metadata."""
    found = gguf.GGUFReader(path).get_field(key)
    assert found is not None
    return found.contents()


# Files


def test_the_shape_is_in_the_metadata(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    shape = make_gguf(path, layers=3, kv_heads=1, context=8192, name="mine")
    assert (shape.layers, shape.kv_heads, shape.context) == (3, 1, 8192)
    assert field(path, "general.name") == "mine"
    assert field(path, "llama.block_count") == 3
    assert field(path, "llama.attention.head_count_kv") == 1
    assert field(path, "llama.context_length") == 8192
    assert path.stat().st_size < 400_000


def test_a_window_a_template_and_pooling_are_options(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    make_gguf(path, arch="gemma3", window=128, template=False, embedding=True)
    assert field(path, "gemma3.attention.sliding_window") == 128
    assert field(path, "gemma3.pooling_type") == gguf.PoolingType.MEAN
    assert gguf.GGUFReader(path).get_field("tokenizer.chat_template") is None


@pytest.mark.parametrize("size", [200 << 20, 40 << 30])
def test_sparse_files_have_their_size_and_no_weight(
    sparse_gguf: Callable[[int], Path], size: int
) -> None:
    path = sparse_gguf(size)
    about = path.stat()
    assert about.st_size == pytest.approx(size, rel=0.05)
    assert about.st_blocks * 512 < 16 << 20
    assert sparse_gguf(size) == path


def test_every_type_is_written(tmp_path: Path) -> None:
    sizes = []
    for dtype in ("q8_0", "f16", "f32"):
        make_gguf(tmp_path / dtype, dtype=dtype, fill="zeros")
        sizes.append((tmp_path / dtype).stat().st_size)
    assert sizes == sorted(sizes)


def test_a_folder_for_mlx(tmp_path: Path) -> None:
    make_hf(tmp_path / "m", layers=1, context=2048)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["max_position_embeddings"]) == (1, 2048)
    raw = (tmp_path / "m" / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    end = max(entry["data_offsets"][1] for entry in tensors)
    assert len(raw) == 8 + int.from_bytes(raw[:8], "little") + end
    grown = tmp_path / "grown"
    make_hf(grown, size=2 << 20)
    assert (grown / "model.safetensors").stat().st_size > 1 << 20


def test_replies_that_cannot_be_spelled_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least two bytes"):
        make_gguf(tmp_path / "m.gguf", reply="x")
    with pytest.raises(ValueError, match="take a larger one"):
        make_gguf(tmp_path / "m.gguf", reply=" ".join(f"word{i}" for i in range(200)), dim=8)


@given(st.text(st.characters(codec="utf-8"), min_size=2, max_size=60))
def test_a_reply_is_cut_into_different_pieces_that_make_it_again(text: str) -> None:
    try:
        pieces = split_reply(text)
    except ValueError:
        return  # told so, in words
    assert "".join(pieces) == text
    assert len(set(pieces)) == len(pieces)
    vocab = build_vocabulary(text)
    assert len(vocab.reply) == len(pieces)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1K", 1024), ("1.5G", 3 << 29), ("7", 7), ("2MiB", 2 << 20), ("3gb", 3 << 30)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text + "?")


def test_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    words = ["gguf", str(path), "--layers", "1", "--reply", "good morning"]
    result = subprocess.run(
        [sys.executable, "-m", "tests.models", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert f"{path}: {path.stat().st_size} bytes" in result.stdout
    assert field(path, "llama.block_count") == 1


# In a real llama.cpp


@pytest.mark.real
def test_the_reply_is_said_at_any_temperature(tiny_gguf: Path) -> None:
    questions = [("/v1/chat/completions", {**CHAT, "temperature": t, "seed": 1}) for t in (0, 1, 2)]
    for status, body in ask(tiny_gguf, "chat", *questions):
        assert status == 200
        assert body["choices"][0]["message"]["content"] == DEFAULT_REPLY
        assert body["choices"][0]["finish_reason"] == "stop"
        assert body["usage"]["completion_tokens"] == 11


@pytest.mark.real
def test_the_loop_goes_on_to_the_limit(loop_gguf: Path) -> None:
    body = {**CHAT, "max_tokens": 50}
    [(status, answer)] = ask(loop_gguf, "chat", ("/v1/chat/completions", body))
    assert status == 200
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 50


@pytest.mark.real
def test_the_tool_is_called_in_chat_and_messages(tool_gguf: Path) -> None:
    schema = {"type": "object", "properties": {}}
    chat_tool = {"type": "function", "function": {"name": "ping", "parameters": schema}}
    [(_, chat), (_, message)] = ask(
        tool_gguf,
        "chat",
        ("/v1/chat/completions", {**CHAT, "tools": [chat_tool]}),
        (
            "/v1/messages",
            {**CHAT, "max_tokens": 50, "tools": [{"name": "ping", "input_schema": schema}]},
        ),
    )
    assert chat["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "ping"
    assert message["stop_reason"] == "tool_use"
    assert message["content"][-1]["name"] == "ping"


@pytest.mark.real
def test_the_window_and_the_sparse_one_answer_too(
    tmp_path: Path, sparse_gguf: Callable[[int], Path]
) -> None:
    gemma = tmp_path / "gemma.gguf"
    make_gguf(gemma, arch="gemma3", layers=6)
    for path in (gemma, sparse_gguf(200 << 20)):
        [(status, body)] = ask(path, "chat", ("/v1/chat/completions", CHAT))
        assert status == 200
        assert body["choices"][0]["message"]["content"] == DEFAULT_REPLY


@pytest.mark.real
def test_the_encoder_embeds_and_completes_nothing(embedding_gguf: Path) -> None:
    texts = ["hello world", "hello world", "good bye"]
    [(status, body), (refused, _)] = ask(
        embedding_gguf,
        "embedding",
        ("/v1/embeddings", {"input": texts}),
        ("/v1/chat/completions", CHAT),
    )
    assert (status, refused) == (200, 500)
    first, second, third = (entry["embedding"] for entry in body["data"])
    assert len(first) == 32
    assert first == pytest.approx(second, abs=1e-4)
    assert first != pytest.approx(third, abs=1e-2)


@pytest.mark.real
def test_the_ranker_ranks(rerank_gguf: Path) -> None:
    body = {"query": "hello", "documents": ["hello", "good bye"]}
    [(status, answer)] = ask(rerank_gguf, "rerank", ("/v1/rerank", body))
    assert status == 200
    scores = [result["relevance_score"] for result in answer["results"]]
    assert len(scores) == 2
    assert scores[0] != scores[1]


@pytest.mark.real
def test_a_decoder_embeds_by_mean(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    make_gguf(path, embedding=True)
    [(status, body)] = ask(path, "embedding", ("/v1/embeddings", {"input": "hi"}))
    assert status == 200
    assert len(body["data"][0]["embedding"]) == 64


def test_the_encoders_context_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    assert make_embedding_gguf(path, context=256).context == 256
    assert field(path, "bert.context_length") == 256


# In a real mlx-lm


@pytest.mark.real
@pytest.mark.mlx
def test_mlx_says_the_reply_too(tiny_hf: Path, mlx_python: Path) -> None:
    words = ["--model", str(tiny_hf), "--prompt", "hi", "--temp", "1.0", "--verbose", "False"]
    result = subprocess.run(
        [str(mlx_python), "-m", "mlx_lm", "generate", *words],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert result.stdout.strip() == DEFAULT_REPLY
