from __future__ import annotations

from typing import Any

import pytest

from daemon.weights.errors import WeightsError
from daemon.weights.facts import Layer
from daemon.weights.gguf_layers import MAX_LAYERS, Network, network
from tests.weights.files import LLAMA


def shape_of(architecture: str, **keys: Any) -> Network:
    values = LLAMA | {name.replace("__", "."): value for name, value in keys.items()}
    return network({f"{architecture}.{k}": v for k, v in values.items()}, architecture)


def windows(architecture: str, **keys: Any) -> str:
    """One letter a layer: w for a window, f for everything."""
    layers = shape_of(architecture, **keys).layers
    return "".join("f" if layer.window is None else "w" for layer in layers)


def test_an_ordinary_model() -> None:
    shape = shape_of("llama")
    assert shape.layers == (Layer(kv_heads=2, key_length=16, value_length=16),) * 2
    assert (shape.n_ctx_train, shape.n_embd, shape.n_ff) == (8192, 64, 128)
    assert shape.exact


def test_key_length_wins_over_the_quotient() -> None:
    layers = shape_of("qwen3", attention__key_length=128, attention__value_length=64).layers
    assert layers[0] == Layer(kv_heads=2, key_length=128, value_length=64)


def test_heads_per_layer_with_gaps() -> None:
    layers = shape_of("deci", block_count=4, attention__head_count_kv=(2, 0, 4)).layers
    assert [layer.kv_heads for layer in layers] == [2, 0, 4, 0]


def test_without_kv_heads_every_head_has_its_own() -> None:
    values = {k: v for k, v in LLAMA.items() if k != "attention.head_count_kv"}
    shape = network({f"llama.{k}": v for k, v in values.items()}, "llama")
    assert shape.layers[0].kv_heads == 4


@pytest.mark.parametrize(
    ("architecture", "count", "expected"),
    [
        ("gemma3", 12, "wwwwwfwwwwwf"),
        ("gemma2", 4, "wfwf"),
        ("gpt-oss", 4, "wfwf"),
        ("cohere2", 8, "wwwfwwwf"),
        ("smallthinker", 8, "fwwwfwww"),
        ("llama", 4, "ffff"),  # a key that the engine does not read
        ("qwen2", 4, "ffff"),
        ("exaone4", 4, "ffff"),  # only the model of 64 layers has windows
        ("gemma4", 4, "ffff"),  # says itself which; without that, the safe side
    ],
)
def test_which_layers_have_windows(architecture: str, count: int, expected: str) -> None:
    assert windows(architecture, block_count=count, attention__sliding_window=512) == expected


def test_a_pattern_in_the_file_wins() -> None:
    flags = (True, False, False, True)
    assert (
        windows(
            "gemma4",
            block_count=4,
            attention__sliding_window=512,
            attention__sliding_window_pattern=flags,
        )
        == "wffw"
    )
    assert (
        windows(
            "gemma3",
            block_count=4,
            attention__sliding_window=8,
            attention__sliding_window_pattern=2,
        )
        == "wfwf"
    )
    assert (
        windows(
            "a-new-one",
            block_count=4,
            attention__sliding_window=8,
            attention__sliding_window_pattern=flags,
        )
        == "wffw"
    )


def test_windows_without_a_size_are_none() -> None:
    assert windows("gemma3", block_count=6) == "ffffff"
    assert windows("llama4", block_count=4, attention__sliding_window=0) == "ffff"
    assert shape_of("llama4", block_count=4).layers[0].window == 8192
    assert shape_of("gemma2").layers[0].window == 4096


def test_window_layers_may_have_other_heads() -> None:
    layers = shape_of(
        "gemma4",
        attention__sliding_window=512,
        attention__sliding_window_pattern=(True, False),
        attention__key_length=512,
        attention__value_length=512,
        attention__key_length_swa=256,
        attention__value_length_swa=256,
    ).layers
    assert [layer.key_length for layer in layers] == [256, 512]


def test_shared_caches_are_counted_once() -> None:
    layers = shape_of("gemma4", block_count=6, attention__shared_kv_layers=4).layers
    assert [layer.kv_heads for layer in layers] == [2, 2, 0, 0, 0, 0]


def test_compressed_attention_keeps_only_keys() -> None:
    layer = shape_of(
        "deepseek2",
        attention__head_count_kv=1,
        attention__key_length=576,
        attention__value_length=512,
        attention__key_length_mla=256,
        attention__value_length_mla=256,
    ).layers[0]
    assert layer == Layer(kv_heads=1, key_length=576, value_length=512, mla=True)


SSM = {
    "ssm__conv_kernel": 4,
    "ssm__inner_size": 4096,
    "ssm__state_size": 128,
    "ssm__group_count": 16,
}
STATE = 4 * (3 * (4096 + 2 * 16 * 128) + 128 * 4096)  # 2.09 MiB, as the engine logs it


def kinds(shape: Network) -> str:
    """One letter a layer: a attention, s state, b both, - neither."""
    letters = {(True, False): "a", (False, True): "s", (True, True): "b", (False, False): "-"}
    return "".join(letters[bool(x.kv_heads), bool(x.state_bytes)] for x in shape.layers)


def test_every_fourth_layer_attends() -> None:
    shape = shape_of("qwen35moe", block_count=8, **SSM)
    assert kinds(shape) == "sssasssa"
    assert shape.layers[0].state_bytes == STATE
    assert kinds(shape_of("qwen3next", block_count=4, full_attention_interval=2, **SSM)) == "sasa"
    listed = shape_of("qwen35", block_count=3, attention__recurrent_layers=(True, False, True))
    assert kinds(listed) == "-a-"  # no state sizes given: nothing to hold


def test_layers_without_heads_are_recurrent_where_the_architecture_says_so() -> None:
    heads = {"block_count": 3, "attention__head_count_kv": (0, 2, 0)}
    assert kinds(shape_of("granitehybrid", **heads, **SSM)) == "sas"
    assert kinds(shape_of("deci", **heads, **SSM)) == "-a-"
    shape = shape_of("lfm2", **heads, shortconv__l_cache=3)
    assert shape.layers[0].state_bytes == 4 * 64 * 2
    assert shape_of("lfm2", **heads, attention__sliding_window=8).layers[1].window == 8


def test_nemotron_has_layers_with_neither() -> None:
    shape = shape_of(
        "nemotron_h_moe",
        block_count=4,
        attention__head_count_kv=(0, 0, 2, 0),
        feed_forward_length=(0, 1856, 0, 1856),
        **SSM,
    )
    assert kinds(shape) == "s-a-"
    assert shape.n_ff == 1856


def test_purely_recurrent_models() -> None:
    assert kinds(shape_of("mamba2", **SSM)) == "ss"
    assert kinds(shape_of("falcon-h1", **SSM)) == "bb"
    assert shape_of("rwkv7", wkv__head_size=64).layers[0].state_bytes == 4 * 64 * (2 + 64)
    layer = shape_of("kimi-linear", attention__head_count_kv=(0, 1), kda__head_dim=8).layers[0]
    assert layer.state_bytes == 4 * 4 * 8 * (3 * 3 + 8)


def test_predicting_layers_hold_no_cache() -> None:
    assert kinds(shape_of("glm4moe", block_count=4, nextn_predict_layers=1)) == "aaa-"


def test_encoders_hold_nothing() -> None:
    assert kinds(shape_of("nomic-bert")) == "--"


def test_caches_of_another_class_are_marked() -> None:
    assert not shape_of("deepseek4").exact


@pytest.mark.parametrize(
    "change",
    [
        {"block_count": 0},
        {"block_count": MAX_LAYERS + 1},
        {"block_count": 1 << 32},
        {"block_count": "many"},
        {"attention__head_count": -1},
        {"attention__head_count_kv": (1 << 40, 1)},
        {"attention__key_length": 1.5},
        {"embedding_length": True, "attention__head_count": "4"},
        {"attention__head_count": ("a", "b")},
    ],
)
def test_nonsense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match="damaged"):
        shape_of("llama", **change)


def test_no_heads_at_all_is_no_cache() -> None:
    assert kinds(shape_of("llama", attention__head_count=0, attention__head_count_kv=0)) == "--"
