"""From a Hugging Face ``config.json`` to the memory of each layer. Pure.

Key names are those of the transformers configurations that MLX engines and vLLM read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from daemon.weights.errors import WeightsError
from daemon.weights.facts import NO_RECURRENCE, Kind, Layer, Recurrent, delta_net, graph_width
from daemon.weights.gguf_layers import MAX_LAYERS, MAX_NUMBER, Network
from daemon.weights.safetensors import BITS

# One layer in so many sees everything, where the configuration does not list its layers.
_PERIODS: Final = {
    "cohere2": 4,
    "exaone4": 4,
    "gemma2": 2,
    "gemma3": 6,
    "gemma3_text": 6,
    "gemma3n": 5,
    "gpt_oss": 2,
    "olmo3": 4,
}
_ENCODERS: Final = frozenset(
    {
        "bert",
        "distilbert",
        "modernbert",
        "mpnet",
        "new",  # gte
        "nomic_bert",
        "roberta",
        "xlm-roberta",
        "gemma3_embedding",
    }
)
_TEXT_KEYS: Final = ("text_config", "language_config", "llm_config", "thinker_config")
_RECURRENT_TYPES: Final = frozenset({"linear_attention", "mamba", "recurrent", "conv"})


class Config:
    """Tolerant access to a configuration: the first of several names, checked for sense."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def number(self, *names: str, default: int = 0) -> int:
        """The first of ``names`` that is a number; of a list, its largest."""
        for name in names:
            value = self.values.get(name)
            if isinstance(value, list):
                value = max((item for item in value[:MAX_LAYERS] if _sound(item)), default=None)
            if value is None or isinstance(value, (bool, str, dict)):
                continue
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if not _sound(value):
                raise WeightsError(
                    f"config.json: {name} is {value!r:.40}; a number from 0 to {MAX_NUMBER} is "
                    "possible: fetch the model again"
                )
            return int(value)
        return default

    def text(self, name: str) -> str:
        value = self.values.get(name)
        return value if isinstance(value, str) else ""

    def texts(self, name: str) -> list[str]:
        value = self.values.get(name)
        return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _sound(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_NUMBER


def language_config(config: Mapping[str, Any]) -> Config:
    """The part that describes the language model: the whole, or what is nested for vision."""
    for _ in range(2):  # omni models nest twice
        nested: Mapping[str, Any] = next(
            (config[key] for key in _TEXT_KEYS if isinstance(config.get(key), dict)), {}
        )
        if not nested:
            break
        # What the nested part leaves out stands outside.
        config = {k: v for k, v in config.items() if k not in _TEXT_KEYS} | dict(nested)
    return Config(config)


def network(config: Mapping[str, Any]) -> Network:
    """The shape of the model that ``config`` describes. Raises WeightsError where it has none."""
    text = language_config(config)
    count = text.number("num_hidden_layers", "n_layers", "n_layer", "num_layers")
    if not 1 <= count <= MAX_LAYERS:
        raise WeightsError(
            f"config.json: num_hidden_layers is {count}; 1 to {MAX_LAYERS} layers are possible: "
            "the folder is damaged or holds no language model"
        )
    n_embd = text.number("hidden_size", "n_embd", "d_model")
    n_ff = text.number("intermediate_size", "n_inner", "d_ff")
    heads = text.number("num_attention_heads", "n_head")
    used = text.number("num_experts_per_tok", "experts_per_token", "top_k_experts")
    encoder = text.text("model_type") in _ENCODERS
    return Network(
        layers=(Layer(),) * count if encoder else tuple(_layers(text, count)),
        n_ctx_train=text.number("max_position_embeddings", "n_positions", "max_sequence_length"),
        n_embd=n_embd,
        n_ff=n_ff,
        width=graph_width(
            n_embd=n_embd,
            n_ff=n_ff,
            heads=heads,
            head_length=text.number("head_dim", default=n_embd // heads if heads else 0),
            expert_ff=text.number("moe_intermediate_size", "expert_ffn_hidden_size", default=n_ff),
            experts_used=used,
        ),
        exact="index_topk" not in text.values,
        recurrence=_recurrence(text, n_embd),
    )


def _recurrence(text: Config, n_embd: int) -> Recurrent:
    inner = text.number("linear_num_value_heads") * text.number("linear_value_head_dim")
    if not inner:
        return NO_RECURRENCE
    state = text.number("linear_key_head_dim")
    key = text.number("linear_num_key_heads") * state
    return delta_net(n_embd=n_embd, inner=inner, key=key, state=state)


def _layers(text: Config, count: int) -> list[Layer]:
    heads = text.number("num_attention_heads", "n_head")
    head_length = text.number(
        "head_dim", default=text.number("hidden_size", "n_embd") // heads if heads else 0
    )
    kv_heads = text.number("num_key_value_heads", "n_kv_heads", default=heads)
    if rank := text.number("kv_lora_rank"):
        whole = Layer(1, rank + text.number("qk_rope_head_dim"), 0, mla=True)
    else:
        wide = text.number("global_head_dim", default=head_length)
        whole = Layer(text.number("num_global_key_value_heads", default=kv_heads), wide, wide)
    window = text.number("sliding_window", "attention_chunk_size")
    windowed = Layer(kv_heads, head_length, head_length, window=window) if window else whole
    recurrent = Layer(state_bytes=_state_bytes(text))
    holders = count - min(count, text.number("num_kv_shared_layers"))
    layers = []
    for index, kind in enumerate(_layer_types(text, count)):
        if kind in _RECURRENT_TYPES:
            layers.append(recurrent)
        elif kind == "none" or index >= holders:
            layers.append(Layer())
        else:
            layers.append(windowed if kind in ("sliding_attention", "chunked_attention") else whole)
    return layers


def _layer_types(text: Config, count: int) -> list[str]:
    """One of transformers' layer types for each layer, ``none`` for one without memory."""
    listed = text.texts("layer_types") or text.texts("layers_block_type")
    if len(listed) >= count:
        return listed[:count]
    pattern = text.text("hybrid_override_pattern")
    if len(pattern) >= count:  # Nemotron-H: Mamba, attention, feed-forward
        names = {"M": "mamba", "*": "full_attention"}
        return [names.get(mark, "none") for mark in pattern[:count]]
    if text.number("linear_num_value_heads"):
        interval = text.number("full_attention_interval", default=4) or 1
        return [
            "linear_attention" if (index + 1) % interval else "full_attention"
            for index in range(count)
        ]
    if text.text("model_type") in ("mamba", "mamba2", "falcon_mamba"):
        return ["mamba"] * count
    period = text.number("sliding_window_pattern", default=_PERIODS.get(text.text("model_type"), 0))
    # Without a pattern the window of a configuration is often not used: count the whole context.
    if not period:
        return ["full_attention"] * count
    return [
        "sliding_attention" if (index + 1) % period else "full_attention" for index in range(count)
    ]


def _state_bytes(text: Config) -> int:
    """One recurrent layer's state for one sequence: 32-bit state, 16-bit convolution window."""
    if values := text.number("linear_num_value_heads"):  # gated delta net
        width = text.number("linear_value_head_dim")
        key = text.number("linear_key_head_dim")
        channels = values * width + 2 * text.number("linear_num_key_heads") * key
        kernel = text.number("linear_conv_kernel_dim", default=4)
        return 4 * values * width * key + 2 * max(0, kernel - 1) * channels
    if kept := text.number("conv_L_cache"):  # LFM2
        return 2 * text.number("hidden_size") * max(0, kept - 1)
    heads = text.number("mamba_num_heads", "mamba_n_heads", "num_heads")
    inner = heads * text.number("mamba_head_dim", "mamba_d_head", "head_dim")
    inner = inner or text.number("intermediate_size")
    state = text.number("ssm_state_size", "mamba_d_state", "state_size")
    groups = text.number("n_groups", "mamba_n_groups")
    kernel = text.number("conv_kernel", "mamba_d_conv")
    return 4 * inner * state + 2 * max(0, kernel - 1) * (inner + 2 * groups * state)


def kind_of(config: Mapping[str, Any], *, template: bool, sentence: bool) -> Kind:
    """What a folder's model is for. ``sentence``: it has sentence-transformers' files."""
    names = Config(config).texts("architectures")
    if any(name.endswith("ForSequenceClassification") for name in names):
        return "rerank"
    if sentence or language_config(config).text("model_type") in _ENCODERS:
        return "embedding"
    return "chat" if template else "completion"


def quantisation_of(config: Mapping[str, Any], type_bytes: Mapping[str, int]) -> str:
    """A short label: ``4bit`` (MLX), ``AWQ 4bit``, ``FP8``, else the type of most tensors."""
    mlx = config.get("quantization")
    if isinstance(mlx, dict):
        mode = mlx.get("mode", "affine")
        if isinstance(mode, str) and mode != "affine":
            return mode.upper()[:24]
        return f"{Config(mlx).number('bits', default=4)}bit"
    other = config.get("quantization_config")
    if isinstance(other, dict) and isinstance(other.get("quant_method"), str):
        bits = Config(other).number("bits", "w_bit")
        method = other["quant_method"].upper()[:24]
        return f"{method} {bits}bit" if bits else method
    return max(type_bytes, key=lambda name: type_bytes[name])[:24] if type_bytes else "unknown"


def parameters(config: Mapping[str, Any], type_bytes: Mapping[str, int]) -> int:
    """How many numbers it was trained to; 0 where packed tensors do not tell.

    MLX packs ``bits`` of each into words of 32 bits, with a scale and a bias for every group.
    """
    if isinstance(config.get("quantization_config"), dict) and "quantization" not in config:
        return 0
    count = {name: amount * 8 // BITS.get(name, 8) for name, amount in type_bytes.items()}
    mlx = config.get("quantization")
    if not isinstance(mlx, dict):
        return sum(count.values())
    bits = Config(mlx).number("bits")
    group = Config(mlx).number("group_size")
    alike = mlx.get("mode", "affine") == "affine" and not any(
        isinstance(value, dict) for value in mlx.values()
    )
    if not (alike and bits and group):
        return 0
    packed = type_bytes.get("U32", 0) * 8 // bits
    rest = sum(n for name, n in count.items() if name != "U32")
    return packed + max(0, rest - 2 * (packed // group))
