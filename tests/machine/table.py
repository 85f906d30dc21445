"""Which model loads on which machine, and with which context: computed as a daemon would.

The header of each model is written to a file (its tensors are a hole) and read back by
``daemon.weights``; contexts, arguments, prices and budgets are those of the daemon.
``render`` makes docs/machines.md; ``scripts/machines.py`` writes it.
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from daemon.backends.ways import Asked, contexts
from daemon.config.presets import Form, Preset, load_presets
from daemon.core.units import GIB, MIB, format_bytes
from daemon.engines import pricing
from daemon.engines.base import Running
from daemon.engines.pricing import Site
from daemon.machine.base import UNIFIED, USER_LIMIT, MachineFacts, PoolFacts
from daemon.machine.budget import budget, main_pools
from daemon.machine.wired_limit import advice, most_mb
from daemon.weights.describe import describe
from daemon.weights.facts import Weights
from tests.machine.published import MODELS, Published
from tests.machine.samples import MACHINES

CTX, MIN_CTX = 131072, 32768  # the defaults of the configuration


@dataclass(frozen=True)
class Outcome:
    """``ctx``: tokens of one conversation that it loads with, None where it is refused; ``need``
    bytes of that, or at the smallest allowed context; ``budget`` bytes; ``command``: the least that
    would make it load; ``raised``: its context once the GPU may take as much as it ever should."""

    ctx: int | None
    need: int
    budget: int
    command: str = ""
    raised: int | None = None


def outcome(model: Published, facts: MachineFacts) -> Outcome:
    """What a daemon does with this model on this machine, nothing else being loaded."""
    ctx, need, room = _fit(model, facts)
    if ctx is not None:
        return Outcome(ctx, need, room)
    found = advice(need, facts)
    if found.megabytes is None:
        return Outcome(None, need, room)
    (pool,) = facts.pools
    assert _fit(model, _raised(facts, pool, found.megabytes))[0] is not None, found.command
    ctx = _fit(model, _raised(facts, pool, most_mb(pool.total)))[0]
    return Outcome(None, need, room, found.command, ctx)


def _raised(facts: MachineFacts, pool: PoolFacts, megabytes: int) -> MachineFacts:
    """The same Mac with a limit that its user has set."""
    limit = PoolFacts(pool.name, pool.total, pool.free, megabytes * MIB, USER_LIMIT)
    return MachineFacts((limit,), facts.ram_total, facts.platform)


def _fit(model: Published, facts: MachineFacts) -> tuple[int | None, int, int]:
    """(context, bytes, budget); bytes of the smallest allowed context where none fits."""
    preset, form = _preset(model)
    weights = weights_of(model)
    amounts = budget(None, "balanced", facts)
    pools = [pool.name for pool in main_pools(facts)]
    room = sum(amounts[pool] for pool in pools)
    asked = Asked(preset.ctx, CTX, MIN_CTX, preset.slots or 1, shrink=True)
    found = contexts(asked, weights.n_ctx_train or None, preset.kind)
    need = 0
    for ctx in found:
        running = Running(str(ctx), ctx, asked.slots)
        need = price(model, running, form, preset.kind, pools)
        if need <= room:
            return ctx, need, room
    return None, need, room


def price(model: Published, running: Running, form: Form, kind: str, pools: Sequence[str]) -> int:
    """Bytes in the given pools: unified memory, or all cards together."""
    unified = UNIFIED in pools
    site = Site(
        engine="mlx-lm" if model.form == "mlx" else "xllamacpp",
        kind=kind,
        args=form.args,
        devices=() if unified else tuple(pools),
        host=UNIFIED if unified else "ram",
        unified_gpu=unified,
    )
    found = pricing.price(weights_of(model), running, site)
    return sum(found[pool].total for pool in pools if pool in found)


def _preset(model: Published) -> tuple[Preset, Form]:
    preset = load_presets()[model.preset]
    form = preset.gguf if model.form == "gguf" else preset.mlx
    assert form is not None, f"{model.preset} has no form {model.form}"
    return preset, form


@cache
def weights_of(model: Published) -> Weights:
    """What ``daemon.weights`` reads from files with these headers."""
    _, form = _preset(model)
    size = model.tensors or form.quants.get(model.quant) or form.size
    assert size is not None, f"{model.name} has no size"
    with _files(model, int(size)) as path:
        return describe(path)


@contextmanager
def _files(model: Published, size: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="modelport-") as name:
        folder = Path(name)
        if model.form == "gguf":
            path = folder / "model.gguf"
            head = gguf_header(model.architecture, model.keys, size)
            head += bytes(-len(head) % 32)
        else:
            path = folder / "model.safetensors"
            (folder / "config.json").write_text(json.dumps(model.keys), "utf-8")
            table = {"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
            text = json.dumps(table).encode()
            head = struct.pack("<Q", len(text)) + text
        path.write_bytes(head)
        with path.open("r+b") as file:
            file.truncate(len(head) + size)  # a hole: it takes no room on the disk
        yield path if model.form == "gguf" else folder


def gguf_header(architecture: str, keys: Mapping[str, Any], size: int) -> bytes:
    """A GGUF head with these metadata and one tensor of ``size`` bytes."""
    values = {"general.architecture": architecture}
    values |= {f"{architecture}.{key}": value for key, value in keys.items()}
    body = b"".join(_text(key) + _value(value) for key, value in values.items())
    tensor = _text("token_embd.weight") + struct.pack("<IQIQ", 1, size, 24, 0)  # 24: bytes
    return b"GGUF" + struct.pack("<IQQ", 3, 1, len(values)) + body + tensor


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _value(value: str | int | tuple[int, ...]) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    return struct.pack(f"<IIQ{len(value)}I", 9, 4, len(value), *value)


HEAD = """\
# Which model runs on which machine

*Written by `scripts/machines.py`; a test keeps it true. Do not edit.*

What modelport does with the models of its presets when nothing else is loaded, with the default
settings (`tier = "balanced"`, `min_ctx` 32768): computed from published sizes and architectures and
from recorded machines, by the same arithmetic that a daemon uses. No model was loaded for it:
[untested.md](untested.md) says how to check a row on the real machine. The limit of what a Mac's
GPU may take is raised by `ctl memory raise-gpu-limit`, until the Mac restarts.

| cell | meaning |
| --- | --- |
| **128k** | it loads, with this context for each conversation |
| (48k) 19.3 GiB | refused as the Mac comes: it needs 19.3 GiB; 48k once the limit is raised |
| 41.2 GiB | refused: needed for the smallest allowed context, and more than there can be |
"""


def render() -> str:
    """docs/machines.md, whole."""
    parts = [HEAD]
    groups = {
        "Macs": [name for name in MACHINES if name.startswith("Mac")],
        "Cards": [name for name in MACHINES if name.startswith(("RTX", "RX", "2 x"))],
        "One memory for all": [name for name in MACHINES if name.endswith("128 GB")][1:],
    }
    for title, names in groups.items():
        forms = ("gguf", "mlx") if title == "Macs" else ("gguf",)
        parts.append(f"## {title}\n\n{_table(names, forms)}\n")
    parts.append(_notes())
    return "\n".join(parts)


def _table(names: list[str], forms: tuple[str, ...]) -> str:
    facts = {name: MACHINES[name].facts() for name in names}
    rows = [["model", *names], ["---"] * (len(names) + 1), ["*budget*"]]
    for machine in facts.values():
        amounts = budget(None, "balanced", machine)
        pools = [pool.name for pool in main_pools(machine)]
        rows[-1].append(f"*{format_bytes(sum(amounts[pool] for pool in pools))}*")
    for model in MODELS:
        if model.form in forms:
            cells = [_cell(outcome(model, machine)) for machine in facts.values()]
            rows.append([model.name, *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(found: Outcome) -> str:
    if found.ctx is not None:
        return f"**{_tokens(found.ctx)}**"
    if found.raised is not None:
        return f"({_tokens(found.raised)}) {_size(found.need)}"
    return _size(found.need)


def _size(amount: int) -> str:
    """Rounded up to a tenth: a model that needs 16.04 GiB does not fit into 16.0."""
    tenths = -(-amount * 10 // GIB)
    return f"{tenths / 10:.1f} GiB"


def _tokens(ctx: int) -> str:
    return f"{ctx // 1024}k" if ctx % 1024 == 0 else str(ctx)


def _notes() -> str:
    return """\
## Notes

- Macs: older and newer systems let the GPU take different shares of the same memory; where there is
  one column, it is the smaller share. What other programs hold when a model starts counts, too.
- Cards: the weights lie on the card as a whole. Two cards are counted as one memory, with computing
  buffers on each.
- MLX caches are counted with 16 bits; vllm-mlx with `--kv-cache-quantization` needs less, and some
  650 MiB more for itself than mlx-lm.
- Strix Halo: 96 GiB for the GPU (`ttm.pages_limit`), 4 GiB carved out by the firmware.
"""
