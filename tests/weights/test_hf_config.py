from __future__ import annotations

from typing import Any

import pytest

from daemon.weights.errors import WeightsError
from daemon.weights.facts import Layer
from daemon.weights.hf_config import (
    kind_of,
    language_config,
    network,
    parameters,
    quantisation_of,
)

QWEN3 = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 40960,
    "sliding_window": None,
    "use_sliding_window": False,
}
PLAIN = Layer(kv_heads=2, key_length=32, value_length=32)


def layers(**change: Any) -> tuple[Layer, ...]:
    return network(QWEN3 | change).layers


def test_an_ordinary_model() -> None:
    shape = network(QWEN3)
    assert shape.layers == (PLAIN,) * 4
    assert (shape.n_ctx_train, shape.n_embd, shape.n_ff) == (40960, 64, 128)
    assert shape.width == 3 * 128 + 5 * 64
    assert shape.exact


def test_head_length_and_kv_heads_have_defaults() -> None:
    config = {k: v for k, v in QWEN3.items() if k not in ("head_dim", "num_key_value_heads")}
    assert network(config).layers[0] == Layer(4, 16, 16)


def test_a_vision_model_nests_its_text() -> None:
    nested = {"model_type": "qwen3_vl", "text_config": QWEN3, "vision_config": {"hidden_size": 9}}
    assert network(nested).layers == (PLAIN,) * 4
    omni = {"thinker_config": {"text_config": QWEN3}}
    assert network(omni).n_ctx_train == 40960


def test_what_the_nested_part_leaves_out_stands_outside() -> None:
    config = language_config({"num_attention_heads": 7, "text_config": {"head_dim": 3}})
    assert (config.number("num_attention_heads"), config.number("head_dim")) == (7, 3)


def test_listed_windows() -> None:
    kinds = ["sliding_attention", "full_attention"] * 2
    found = layers(model_type="gpt_oss", sliding_window=128, layer_types=kinds)
    assert [layer.window for layer in found] == [128, None, 128, None]


def test_windows_by_period() -> None:
    gemma = layers(model_type="gemma3_text", sliding_window=512, num_hidden_layers=7)
    assert [layer.window for layer in gemma] == [512] * 5 + [None, 512]
    every = layers(model_type="x", sliding_window=512, sliding_window_pattern=2)
    assert [layer.window for layer in every] == [512, None, 512, None]


def test_a_window_without_a_pattern_counts_in_full() -> None:
    assert layers(sliding_window=512) == (PLAIN,) * 4


def test_gemma_4_has_other_heads_where_it_sees_everything() -> None:
    found = layers(
        sliding_window=512,
        layer_types=["sliding_attention", "full_attention"] * 2,
        global_head_dim=64,
        num_global_key_value_heads=1,
        num_kv_shared_layers=2,
    )
    assert found == (Layer(2, 32, 32, window=512), Layer(1, 64, 64), Layer(), Layer())


def test_compressed_attention() -> None:
    found = layers(kv_lora_rank=512, qk_rope_head_dim=64)
    assert found[0] == Layer(1, 576, 0, mla=True)


def test_gated_delta_nets() -> None:
    found = layers(
        model_type="qwen3_next",
        linear_num_value_heads=32,
        linear_value_head_dim=128,
        linear_num_key_heads=16,
        linear_key_head_dim=128,
        linear_conv_kernel_dim=4,
    )
    state = 4 * 32 * 128 * 128 + 2 * 3 * (32 * 128 + 2 * 16 * 128)
    assert found == (Layer(state_bytes=state),) * 3 + (PLAIN,)


def test_nemotron_names_its_layers_by_letters() -> None:
    found = layers(
        hybrid_override_pattern="M-*E",
        mamba_num_heads=8,
        mamba_head_dim=16,
        ssm_state_size=32,
        n_groups=2,
        conv_kernel=4,
    )
    state = 4 * 8 * 16 * 32 + 2 * 3 * (8 * 16 + 2 * 2 * 32)
    assert found == (Layer(state_bytes=state), Layer(), PLAIN, Layer())


def test_convolutions_and_pure_mamba() -> None:
    found = layers(layer_types=["conv", "full_attention"] * 2, conv_L_cache=3)
    assert found[:2] == (Layer(state_bytes=2 * 64 * 2), PLAIN)
    mamba = layers(model_type="mamba", state_size=16, conv_kernel=4)
    assert mamba[0].state_bytes == 4 * 128 * 16 + 2 * 3 * 128


def test_encoders_hold_nothing() -> None:
    assert layers(model_type="bert") == (Layer(),) * 4


def test_indexers_are_marked() -> None:
    assert not network(QWEN3 | {"index_topk": 2048}).exact


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 0},
        {"num_hidden_layers": 1 << 31},
        {"num_hidden_layers": "four"},
        {"num_hidden_layers": None},
        {"hidden_size": -4},
        {"intermediate_size": 1.5},
        {"num_key_value_heads": 1 << 60},
    ],
)
def test_nonsense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match=r"config\.json: "):
        network(QWEN3 | change)


@pytest.mark.parametrize(
    "change",
    [
        {"layer_types": 7},
        {"layer_types": ["a"]},
        {"hybrid_override_pattern": ["M"]},
        {"text_config": 7},
        {"model_type": ["x"]},
        {"sliding_window": "big"},
        {"intermediate_size": [128, 64]},
        {"head_dim": 32.0},
    ],
)
def test_oddities_that_do_not_matter_are_passed_over(change: dict[str, Any]) -> None:
    assert network(QWEN3 | change).layers == (PLAIN,) * 4


@pytest.mark.parametrize(
    ("architecture", "template", "sentence", "expected"),
    [
        ("Qwen3ForCausalLM", True, False, "chat"),
        ("Qwen3ForCausalLM", False, False, "completion"),
        ("Qwen3ForCausalLM", True, True, "embedding"),
        ("XLMRobertaForSequenceClassification", False, False, "rerank"),
    ],
)
def test_what_a_model_is_for(
    architecture: str, template: bool, sentence: bool, expected: str
) -> None:
    config = {"architectures": [architecture]}
    assert kind_of(config, template=template, sentence=sentence) == expected


def test_an_encoder_embeds() -> None:
    assert kind_of({"model_type": "bert"}, template=False, sentence=False) == "embedding"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"quantization": {"bits": 4, "group_size": 64}}, "4bit"),
        ({"quantization": {"bits": 4, "mode": "mxfp4"}}, "MXFP4"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "AWQ 4bit"),
        ({"quantization_config": {"quant_method": "fp8"}}, "FP8"),
        ({"quantization_config": {"quant_method": 4}}, "BF16"),
        ({}, "BF16"),
    ],
)
def test_labels(config: dict[str, Any], expected: str) -> None:
    assert quantisation_of(config, {"F32": 1, "BF16": 5}) == expected


def test_a_label_of_nothing() -> None:
    assert quantisation_of({}, {}) == "unknown"


def test_parameters() -> None:
    """Of plain tensors, of MLX's packed ones, and of what does not tell."""
    plain = {"BF16": 2000, "F32": 40}
    assert parameters({}, plain) == 1010
    packed = {"U32": 512, "F16": 2 * (2 * 1024 // 64 + 7)}
    mlx = {"quantization": {"bits": 4, "group_size": 64}}
    assert parameters(mlx, packed) == 1024 + 7
    mixed = {"quantization": {"bits": 4, "group_size": 64, "lm_head": {"bits": 8}}}
    assert parameters(mixed, packed) == 0
    assert parameters({"quantization_config": {"quant_method": "awq"}}, packed) == 0
