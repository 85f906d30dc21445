from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daemon.weights.describe import describe
from daemon.weights.errors import WeightsError
from daemon.weights.facts import Layer
from tests.models import make_embedding_gguf, make_gguf, make_hf
from tests.weights.files import LLAMA, TENSORS, smollm2, write_gguf, write_safetensors

TEMPLATE = {"tokenizer.chat_template": "{{ messages }}"}


def test_the_real_model_in_its_wheel() -> None:
    path = smollm2()
    found = describe(path)
    assert (found.format, found.kind, found.architecture) == ("gguf", "chat", "llama")
    assert found.quantisation == "Q4_1"
    assert found.name == "Smollm2 135M 8k Lc100K Mix1 Ep2"
    assert found.n_ctx_train == 8192
    assert found.layers == (Layer(kv_heads=3, key_length=64, value_length=64),) * 30
    assert found.template is not None
    assert "im_start" in found.template
    assert found.disk_bytes == path.stat().st_size
    assert found.files == (path,)
    assert found.extra_bytes == 0


def test_a_split_model_is_one(tmp_path: Path) -> None:
    for number in (1, 2):
        write_gguf(
            tmp_path / f"m-0000{number}-of-00002.gguf",
            keys=LLAMA if number == 1 else {},
            tensors={f"t{number}": (32, 8)},
        )
    for start in (tmp_path / "m-00001-of-00002.gguf", tmp_path / "m-00002-of-00002.gguf", tmp_path):
        found = describe(start)
        assert found.tensor_bytes == 2 * 32 * 8 * 2
        assert [file.name[2:7] for file in found.files] == ["00001", "00002"]
        assert found.disk_bytes == sum(file.stat().st_size for file in found.files)


@pytest.mark.parametrize(
    ("architecture", "keys", "plain", "tensors", "expected"),
    [
        ("llama", {}, TEMPLATE, TENSORS, "chat"),
        ("llama", {}, {}, TENSORS, "completion"),
        ("qwen3", {"pooling_type": 3}, TEMPLATE, TENSORS, "embedding"),
        ("qwen3", {"pooling_type": 4}, TEMPLATE, TENSORS, "rerank"),
        ("qwen3", {"pooling_type": 0}, TEMPLATE, TENSORS, "chat"),
        ("qwen2", {"attention.causal": False}, {}, TENSORS, "embedding"),
        ("dream", {"attention.causal": False}, TEMPLATE, TENSORS, "chat"),
        ("nomic-bert", {"pooling_type": 1}, {}, TENSORS, "embedding"),
        ("bert", {}, {}, TENSORS, "embedding"),
        ("bert", {}, {}, TENSORS | {"cls.weight": (64, 64)}, "rerank"),
        ("bert", {"pooling_type": 4}, {}, TENSORS, "rerank"),
    ],
)
def test_what_a_model_is_for(
    tmp_path: Path,
    architecture: str,
    keys: dict[str, Any],
    plain: dict[str, Any],
    tensors: dict[str, tuple[int, ...]],
    expected: str,
) -> None:
    path = write_gguf(tmp_path / "m.gguf", architecture, LLAMA | keys, plain=plain, tensors=tensors)
    assert describe(path).kind == expected


def test_names_and_labels_have_fallbacks(tmp_path: Path) -> None:
    found = describe(write_gguf(tmp_path / "Some-Model.gguf", plain={"general.file_type": 15}))
    assert (found.name, found.quantisation) == ("Some-Model", "Q4_K_M")
    found = describe(write_gguf(tmp_path / "m.gguf", plain={"general.file_type": 1024}))
    assert found.quantisation == "F16"


CLIP = {
    "vision.image_size": 64,
    "vision.patch_size": 16,
    "vision.embedding_length": 32,
    "vision.feed_forward_length": 64,
    "vision.attention.head_count": 2,
}


def test_a_projector_and_a_draft_count(tmp_path: Path) -> None:
    plain = describe(write_gguf(tmp_path / "m.gguf"))
    projector = write_gguf(tmp_path / "mmproj.gguf", "clip", CLIP, tensors={"v": (32, 3)})
    draft = write_gguf(tmp_path / "draft.gguf", tensors={"d": (32, 5)})
    found = describe(tmp_path / "m.gguf", mmproj=projector, draft=draft)
    assert found.extra_bytes == 32 * 3 * 2 + 32 * 5 * 2
    assert found.vision
    assert found.draft is not None
    assert found.draft.tensor_bytes == 32 * 5 * 2
    assert found.tensor_bytes == plain.tensor_bytes
    assert found.extra_compute == 4 * 16 * (3 * 64 + 5 * 32) + 2 * 16 * 16
    assert found.disk_bytes == plain.disk_bytes + sum(
        path.stat().st_size for path in (projector, draft)
    )


def test_parts_are_not_taken_for_models(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "m.gguf")
    projector = write_gguf(tmp_path / "p.gguf", "clip", CLIP)
    adapter = write_gguf(tmp_path / "a.gguf", plain={"general.type": "adapter"})
    with pytest.raises(WeightsError, match=r"p\.gguf: is a projector.*mmproj"):
        describe(projector)
    with pytest.raises(WeightsError, match=r"a\.gguf: is an adapter"):
        describe(adapter)
    with pytest.raises(WeightsError, match=r"m\.gguf: is not a projector"):
        describe(model, mmproj=model)


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", keys={"context_length": 1})
    with pytest.raises(WeightsError, match=r"m\.gguf: llama\.block_count is 0"):
        describe(path)


def test_a_folder_of_several_models_is_not_guessed(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a-Q4.gguf")
    write_gguf(tmp_path / "mmproj-a.gguf", "clip", CLIP)
    assert describe(tmp_path).files[0].name == "a-Q4.gguf"
    write_gguf(tmp_path / "a-Q8.gguf")
    with pytest.raises(WeightsError, match=r"several models \(a-Q4\.gguf, a-Q8\.gguf\)"):
        describe(tmp_path)


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="neither"):
        describe(tmp_path)
    with pytest.raises(WeightsError, match="no such file"):
        describe(tmp_path / "gone.gguf")


CONFIG = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "quantization": {"bits": 4, "group_size": 64},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "Qwen3-tiny-4bit"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(path / "model.safetensors", {"a": ("U32", (8, 8)), "b": ("F16", (64,))})
    return path


def test_a_safetensors_folder(folder: Path) -> None:
    for path in (folder, folder / "config.json", folder / "model.safetensors"):
        found = describe(path)
        assert (found.format, found.architecture, found.kind) == (
            "safetensors",
            "qwen3",
            "completion",
        )
        assert found.tensor_bytes == 8 * 8 * 4 + 64 * 2
        assert (found.name, found.quantisation) == ("Qwen3-tiny-4bit", "4bit")
        assert found.layers == (Layer(2, 16, 16),) * 2
        assert not found.vision


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chat_template.jinja", "{{ x }}"),
        ("chat_template.json", '{"chat_template": "{{ x }}"}'),
        ("tokenizer_config.json", '{"chat_template": "{{ x }}"}'),
        (
            "tokenizer_config.json",
            '{"chat_template": [{"name": "rag", "template": "no"},'
            ' {"name": "default", "template": "{{ x }}"}]}',
        ),
    ],
)
def test_templates_are_found_where_engines_look(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    found = describe(folder)
    assert (found.template, found.kind) == ("{{ x }}", "chat")


def test_sentence_transformers_embed(folder: Path) -> None:
    (folder / "modules.json").write_text("[]")
    (folder / "chat_template.jinja").write_text("{{ x }}")
    assert describe(folder).kind == "embedding"


def test_a_vision_folder(folder: Path) -> None:
    nested = {"model_type": "qwen3_vl", "text_config": CONFIG, "vision_config": {}}
    (folder / "config.json").write_text(json.dumps(nested))
    found = describe(folder)
    assert found.vision
    assert found.architecture == "qwen3_vl"


def test_the_models_that_our_tests_make(tmp_path: Path) -> None:
    made = make_gguf(tmp_path / "huge.gguf", size=8 << 30, fill="sparse")
    found = describe(tmp_path / "huge.gguf")
    assert found.tensor_bytes == pytest.approx(8 << 30, rel=0.01)
    assert found.layers == (Layer(made.kv_heads, made.head_dim, made.head_dim),) * made.layers
    assert (found.kind, found.n_ff) == ("chat", made.feed_forward)
    make_embedding_gguf(tmp_path / "embed.gguf")
    assert describe(tmp_path / "embed.gguf").kind == "embedding"
    make_embedding_gguf(tmp_path / "rank.gguf", rerank=True)
    assert describe(tmp_path / "rank.gguf").kind == "rerank"
    hf = make_hf(tmp_path / "hf")
    found = describe(tmp_path / "hf")
    assert (found.format, found.kind) == ("safetensors", "chat")
    assert found.layers == (Layer(hf.kv_heads, hf.head_dim, hf.head_dim),) * hf.layers
