"""From GGUF metadata to the memory of each layer. Pure.

Key names and defaults are those of llama.cpp (``llama-hparams.cpp`` and ``src/models/``, commit
0c1e57098). The cache formulas themselves are in ``footprint``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from daemon.weights.architectures import (
    CACHELESS,
    DELTA_NETS,
    DIVIDED_EXPERTS,
    ENCODERS,
    HEADLESS_RECURRENT,
    INEXACT,
    INTERVAL,
    RECURRENT,
    WINDOWS,
    Window,
)
from daemon.weights.errors import WeightsError
from daemon.weights.facts import NO_RECURRENCE, Layer, Recurrent, delta_net, graph_width, mamba
from daemon.weights.gguf import Value

MAX_LAYERS: Final = 4096
MAX_NUMBER: Final = 1 << 31  # of any length or count; larger is damage


@dataclass(frozen=True, slots=True)
class Network:
    """The shape of a GGUF model: what every layer remembers, and how wide its graph is."""

    layers: tuple[Layer, ...]
    n_ctx_train: int
    n_embd: int
    n_ff: int
    width: int
    exact: bool
    heads: int = 0
    logits: bool = True
    recurrence: Recurrent = NO_RECURRENCE
    predicting: int = 0  # how many layers at the end predict further tokens


class Keys:
    """Typed access to the metadata of one architecture."""

    def __init__(self, metadata: Mapping[str, Value], architecture: str) -> None:
        self._metadata = metadata
        self._architecture = architecture

    def has(self, key: str) -> bool:
        return f"{self._architecture}.{key}" in self._metadata

    def number(self, key: str, default: int = 0) -> int:
        """A non-negative integer; of a list, its largest. Raises WeightsError for nonsense."""
        value = self._metadata.get(f"{self._architecture}.{key}")
        if value is None:
            return default
        numbers = value if isinstance(value, tuple) else (value,)
        return max((self._check(key, number) for number in numbers), default=default)

    def per_layer(self, key: str, layers: int, default: int = 0) -> list[int]:
        """One integer a layer, from a number or from a list."""
        value = self._metadata.get(f"{self._architecture}.{key}")
        if not isinstance(value, tuple):
            return [self.number(key, default)] * layers
        numbers = [self._check(key, number) for number in value[:layers]]
        return numbers + [0] * (layers - len(numbers))

    def flags(self, key: str, layers: int) -> list[bool] | None:
        """One flag a layer, where the file has a list; None where it has not."""
        value = self._metadata.get(f"{self._architecture}.{key}")
        if not isinstance(value, tuple):
            return None
        flags = [bool(flag) for flag in value[:layers]]
        return flags + [False] * (layers - len(flags))

    def _check(self, key: str, value: object) -> int:
        if isinstance(value, int) and 0 <= value < MAX_NUMBER:
            return int(value)
        raise WeightsError(
            f"{self._architecture}.{key} is {value!r:.40}; a number from 0 to {MAX_NUMBER} is "
            "possible: the file is damaged"
        )


def network(metadata: Mapping[str, Value], architecture: str, *, gated: bool = True) -> Network:
    """The shape of the model that ``metadata`` describes. ``gated``: it has tensors of a gate.

    Raises WeightsError where it is impossible or lacks its number of layers.
    """
    keys = Keys(metadata, architecture)
    count = keys.number("block_count")
    if not 1 <= count <= MAX_LAYERS:
        raise WeightsError(
            f"{architecture}.block_count is {count}; 1 to {MAX_LAYERS} layers are possible: the "
            "file is damaged or is not a language model"
        )
    if architecture in CACHELESS:
        layers: tuple[Layer, ...] = (Layer(),) * count
    else:
        layers = tuple(_layers(keys, architecture, count))
    return Network(
        layers=layers,
        n_ctx_train=keys.number("context_length"),
        n_embd=keys.number("embedding_length"),
        n_ff=keys.number("feed_forward_length"),
        width=_width(keys, architecture, gated=gated),
        exact=architecture not in INEXACT,
        heads=keys.number("attention.head_count"),
        logits=architecture not in ENCODERS,
        recurrence=_recurrence(keys, architecture),
        predicting=min(count, keys.number("nextn_predict_layers")),
    )


def _layers(keys: Keys, architecture: str, count: int) -> list[Layer]:
    heads = keys.per_layer("attention.head_count", count)
    kv_heads = (
        keys.per_layer("attention.head_count_kv", count)
        if keys.has("attention.head_count_kv")
        else heads
    )
    # The last ones predict further tokens; only speculative decoding gives them a cache.
    trunk = count - min(count, keys.number("nextn_predict_layers"))
    windows = _windows(keys, architecture, trunk)
    recurrent = _recurrent(keys, architecture, trunk, kv_heads)
    attending = _attending(keys, architecture, trunk, recurrent)
    state = _state_bytes(keys, max(heads, default=0))
    default = keys.number("embedding_length") // heads[0] if heads[0] else 0
    key_length = keys.number("attention.key_length", default)
    value_length = keys.number("attention.value_length", default)
    mla = bool(
        keys.number("attention.key_length_mla") and keys.number("attention.value_length_mla")
    )
    layers = []
    for index in range(trunk):
        windowed = windows[index] is not None
        layers.append(
            Layer(
                kv_heads=kv_heads[index] if attending[index] else 0,
                key_length=keys.number("attention.key_length_swa", key_length)
                if windowed
                else key_length,
                value_length=keys.number("attention.value_length_swa", value_length)
                if windowed
                else value_length,
                window=windows[index],
                state_bytes=state if recurrent[index] else 0,
                mla=mla,
            )
        )
    return layers + [Layer()] * (count - trunk)


def _windows(keys: Keys, architecture: str, count: int) -> list[int | None]:
    """Each layer's window. Architectures that ignore the key see everything."""
    rule = WINDOWS.get(architecture)
    flags = keys.flags("attention.sliding_window_pattern", count)
    if rule is None and flags is None:
        return [None] * count
    rule = rule or Window(None)
    if rule.only_layers not in (None, count):
        return [None] * count
    tokens = keys.number("attention.sliding_window", rule.tokens)
    if tokens and architecture == "llama4":
        tokens = rule.tokens  # chunks of a fixed size, whatever the key says
    if not tokens:
        return [None] * count
    if flags is None:
        period = rule.period
        if keys.has("attention.sliding_window_pattern"):
            period = keys.number("attention.sliding_window_pattern")
        if period is None:
            return [None] * count
        full = 0 if rule.full_first else period - 1
        flags = [period == 0 or index % period != full for index in range(count)]
    return [tokens if flag else None for flag in flags]


def _recurrent(keys: Keys, architecture: str, count: int, kv_heads: list[int]) -> list[bool]:
    """Which layers keep a state instead of, or beside, a cache."""
    if architecture in RECURRENT or architecture == "falcon-h1":
        return [True] * count
    if architecture in INTERVAL:
        listed = keys.flags("attention.recurrent_layers", count)
        interval = keys.number("full_attention_interval", INTERVAL[architecture]) or 1
        return listed or [(index + 1) % interval != 0 for index in range(count)]
    if architecture.startswith("nemotron_h"):
        widths = keys.per_layer("feed_forward_length", count)
        return [not kv_heads[index] and not widths[index] for index in range(count)]
    if architecture in HEADLESS_RECURRENT:
        return [not kv_heads[index] for index in range(count)]
    return [False] * count


def _attending(keys: Keys, architecture: str, count: int, recurrent: list[bool]) -> list[bool]:
    """Which layers hold an attention cache of their own."""
    if architecture == "falcon-h1":
        return [True] * count
    holders = count
    if architecture == "gemma3n":
        holders = 20  # the others read the caches of these
    elif architecture == "gemma4":
        holders = count - min(count, keys.number("attention.shared_kv_layers"))
    return [index < holders and not recurrent[index] for index in range(count)]


def _state_bytes(keys: Keys, heads: int) -> int:
    """Bytes of one recurrent layer's state for one sequence, held in 32-bit floats."""
    n_embd = keys.number("embedding_length")
    kernel = keys.number("ssm.conv_kernel")
    if size := keys.number("wkv.head_size"):  # RWKV
        return 4 * n_embd * (keys.number("token_shift_count", 2) + size)
    if kept := keys.number("shortconv.l_cache"):  # LFM2
        return 4 * n_embd * (kept - 1)
    if size := keys.number("kda.head_dim"):  # Kimi delta attention
        return 4 * heads * size * (3 * (kernel - 1 if kernel else 3) + size)
    inner, size = keys.number("ssm.inner_size"), keys.number("ssm.state_size")
    if not inner:  # lightning attention
        length = keys.number("attention.key_length")
        return 4 * heads * length * length
    groups = keys.number("ssm.group_count")
    return 4 * (max(0, kernel - 1) * (inner + 2 * groups * size) + size * inner)


def _width(keys: Keys, architecture: str, *, gated: bool) -> int:
    used = keys.number("expert_used_count")
    n_ff = keys.number("feed_forward_length")
    n_embd = keys.number("embedding_length")
    heads = keys.number("attention.head_count")
    divided = used and architecture in DIVIDED_EXPERTS
    return graph_width(
        n_embd=n_embd,
        n_ff=max(n_ff, keys.number("expert_shared_feed_forward_length")),
        heads=heads,
        head_length=keys.number("attention.key_length", n_embd // heads if heads else 0),
        expert_ff=keys.number("expert_feed_forward_length", n_ff // used if divided else n_ff),
        experts_used=used,
        mla_length=keys.number("attention.key_length_mla"),
        gated=gated,
        encoder=architecture in ENCODERS,
    )


def _recurrence(keys: Keys, architecture: str) -> Recurrent:
    inner, state = keys.number("ssm.inner_size"), keys.number("ssm.state_size")
    if not inner:
        return NO_RECURRENCE
    n_embd, groups = keys.number("embedding_length"), keys.number("ssm.group_count")
    if architecture in DELTA_NETS:
        return delta_net(n_embd=n_embd, inner=inner, key=groups * state, state=state)
    heads = keys.number("ssm.time_step_rank")
    return mamba(n_embd=n_embd, inner=inner, state=state, groups=groups, heads=heads)
