"""Which model loads on which machine, and with which context: computed as a daemon would.

Weights are those of the published figures (``daemon.weights.published``); contexts, arguments,
prices and budgets are those of the daemon.
``render`` makes docs/machines.md; ``scripts/machines.py`` writes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from daemon.backends.ways import Asked, contexts
from daemon.config.presets import Form, Preset, load_presets
from daemon.core.units import GIB, MIB, format_bytes
from daemon.engines import pricing
from daemon.engines.base import Running
from daemon.engines.pricing import Site
from daemon.machine.base import UNIFIED, USER_LIMIT, MachineFacts, PoolFacts
from daemon.machine.budget import budget, main_pools
from daemon.machine.wired_limit import advice, most_mb
from daemon.weights.facts import Weights
from daemon.weights.published import figures
from tests.machine.samples import MACHINES

CTX, MIN_CTX = 131072, 32768  # the defaults of the configuration


@dataclass(frozen=True)
class Row:
    """One form of a preset; ``quant`` names another quantisation of it."""

    preset: str
    form: str
    quant: str = ""

    @property
    def name(self) -> str:
        how = self.quant or {"gguf": "GGUF", "mlx": "MLX"}[self.form]
        return f"{self.preset} ({how})"


# Which further quantisations have a row of their own.
MORE = (Row("qwen3-coder", "gguf", "Q3_K_XL"), Row("glm-4.7-flash", "gguf", "Q8_0"))


def _rows() -> Iterator[Row]:
    for name, preset in load_presets().items():
        if preset.gguf:
            yield Row(name, "gguf")
        yield from (row for row in MORE if row.preset == name)
        if preset.mlx:
            yield Row(name, "mlx")


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


def outcome(model: Row, facts: MachineFacts) -> Outcome:
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


def _fit(model: Row, facts: MachineFacts) -> tuple[int | None, int, int]:
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


def price(model: Row, running: Running, form: Form, kind: str, pools: Sequence[str]) -> int:
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


def _preset(model: Row) -> tuple[Preset, Form]:
    preset = load_presets()[model.preset]
    form = preset.gguf if model.form == "gguf" else preset.mlx
    assert form is not None, f"{model.preset} has no form {model.form}"
    return preset, form


def _small(row: Row) -> bool:
    return int(_preset(row)[1].size or 0) < 1_000_000_000


MODELS = tuple(sorted(_rows(), key=_small))  # what runs everywhere comes last


@cache
def weights_of(model: Row) -> Weights:
    """What ``daemon.weights`` makes of the published figures."""
    preset, form = _preset(model)
    found = figures(model.preset, model.form)
    assert found is not None, f"nothing is published of {model.name}"
    size = form.quants.get(model.quant) or found.tensor_bytes or form.size
    assert size is not None, f"{model.name} has no size"
    return found.weights(model.preset, preset.kind, model.quant, int(size))


HEAD = """\
# Which model runs on which machine

*Written by `scripts/machines.py`; a test keeps it true. Do not edit.*

What modelport does with the models of its presets when nothing else is loaded, with the default
settings (`tier = "balanced"`, `min_ctx` 32768): computed from published sizes and architectures and
from recorded machines, by the same arithmetic that a daemon uses. No model was loaded for it:
[untested.md](untested.md) says how to check a row on the real machine. The limit of what a Mac's
GPU may take is raised by `ctl memory raise-gpu-limit`, until the Mac restarts.

A row is one quantisation: the guides' own, where none is named. `ctl load` takes the one that suits
the machine, so that more loads than is in bold here, or loads in better quality: it says which, and
`ctl show` does beforehand.

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
