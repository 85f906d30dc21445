"""What one way to run a model costs, by engine: the same figures for `ctl estimate`, `ctl show` and
the scheduler. Pure.

For llama.cpp the command line decides, the user's ``args`` included: context, slots, cache types,
which layers lie on which GPU (``-ngl``, ``-ts``, ``-ncmoe``, ``-ot``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from daemon.core.units import GIB, MIB
from daemon.engines import llama
from daemon.engines.base import Running
from daemon.weights.facts import Weights
from daemon.weights.footprint import MLX_PREFILL, Breakdown, Shape, estimate_mlx, kv_bytes
from daemon.weights.placement import ALL, Placement, expert_layers, place

LLAMA: Final = ("llama-server", "xllamacpp")
OWN_BYTES: Final = {"xllamacpp": 24 * MIB, "vllm-mlx": 672 * MIB, "vllm": 2048 * MIB}
"""What a process of this engine takes beside what the footprint formulas count (a Python
interpreter, libraries); resident sizes as measured, vllm's from its documentation."""
# The first build that reserves one row of logits a slot (llama.cpp #23861, June 2026), or a little
# later: too high is the safer mistake.
LOGITS_PER_SLOT: Final = 9500

MAX_PROMPT_CACHE: Final = 8 * GIB  # llama.cpp's own default
MIN_PROMPT_CACHE: Final = 256 * MIB  # less holds too little to be worth a variant
_CACHE_STEP: Final = 64 * MIB

# By these the user places layers himself.
_PLACED: Final = frozenset(
    {
        *("-ts", "--tensor-split", "-sm", "--split-mode", "-mg", "--main-gpu"),
        *("-dev", "--device", "-ot", "--override-tensor"),
    }
)


@dataclass(frozen=True, slots=True)
class Site:
    """Where and by what a model is run. ``devices``: the pools of its GPUs, none for the processor
    and for unified memory; ``host``: the pool of all else. ``unified_gpu``: a GPU works in it."""

    engine: str
    version: str = ""
    kind: str = "chat"
    args: Sequence[str] = ()
    devices: tuple[str, ...] = ()
    host: str = "ram"
    gpu_layers: int = ALL
    unified_gpu: bool = False

    @property
    def main(self) -> str:
        """The pool of its weights, the first of several."""
        return self.pools[0]

    @property
    def pools(self) -> tuple[str, ...]:
        """All those of its weights."""
        return self.devices or (self.host,)


def site(
    engine: str,
    kind: str,
    args: Sequence[str],
    pools: Sequence[str],
    *,
    version: str = "",
    accelerated: bool = False,
    pool: str | None = None,
) -> Site:
    """Where a model runs, of this machine's ``pools``: in the ``pool`` that is written for it, else
    in the memory of the accelerator that its engine can use (``accelerated``)."""
    main = pool or _main_pool(pools, accelerated=accelerated)
    gpu = main.startswith("gpu")
    host = "ram" if gpu and "ram" in pools else main
    devices: tuple[str, ...] = (main,) if host != main else ()
    if gpu and devices and pool is None and spreads(args):
        devices = tuple(name for name in pools if name.startswith("gpu"))
    shared = accelerated and host == "unified"
    return Site(engine, version, kind, args, devices, host, unified_gpu=shared)


def placements(site: Site, pools: Sequence[str], pool: str | None) -> tuple[tuple[str, ...], ...]:
    """The GPUs that a model may be put on, best first: each alone, then all together, layers in
    equal shares. None to choose: one card, no card, or the user has chosen (``pool``, ``args``)."""
    gpus = tuple(name for name in pools if name.startswith("gpu"))
    if site.engine not in LLAMA or len(gpus) < 2 or not site.devices:
        return ((),)
    if _PLACED.intersection(site.args):
        return ((),)
    return ((pool,),) if pool is not None else (*((gpu,) for gpu in gpus), gpus)


def on(site: Site, gpus: tuple[str, ...]) -> Site:
    """The same on these GPUs."""
    if not gpus:
        return site
    args = (*site.args, *llama.split_evenly(len(gpus)))
    return replace(site, devices=gpus, args=args)


def _main_pool(pools: Sequence[str], *, accelerated: bool) -> str:
    if "unified" in pools:
        return "unified"
    gpus = [pool for pool in pools if pool != "ram"]
    return gpus[0] if gpus and accelerated else "ram"


def price(weights: Weights, running: Running, site: Site) -> dict[str, Breakdown]:
    """Bytes of each pool. Raises ValueError for args that llama.cpp would refuse."""
    own = Breakdown(0, 0, 0, 0, OWN_BYTES.get(site.engine, 0))
    if site.engine not in LLAMA:
        pool = site.devices[0] if site.devices else site.host
        part = estimate_mlx(
            weights,
            running.ctx,
            slots=running.slots,
            prefill=running.ubatch or MLX_PREFILL,
            cache_type=running.type_k,
        )
        return {pool: part + own}
    where = placement(weights, site, running)
    parts = place(weights, shape(weights, running, site), where)
    return parts | {site.host: parts.get(site.host, replace(own, overhead=0)) + own}


def shape(weights: Weights, running: Running, site: Site) -> Shape:
    """How llama.cpp is really asked to run it. Raises ValueError for what cannot be."""
    memory = llama.memory_settings(running, site.kind, site.args)
    return Shape(
        memory.n_ctx or weights.n_ctx_train or running.ctx,  # -c 0: as long as it was trained
        memory.slots,
        memory.ubatch,
        memory.type_k,
        memory.type_v,
        memory.prompt_cache,
        memory.unified,
        swa_full="--swa-full" in site.args,
        checkpoints=memory.checkpoints,
        batch=memory.batch,
        embedding=site.kind in ("embedding", "rerank"),
        all_logits=reserves_all_logits(site.version),
        flash=memory.flash,
        drafting=memory.drafting,
    )


def placement(weights: Weights, site: Site, running: Running) -> Placement:
    """Where llama.cpp puts the layers."""
    asked = llama.placement_settings(llama.counting(site.args, running))
    count = len(weights.layers)
    experts = frozenset(range(min(asked.host_experts, count)))
    for pattern in asked.host_patterns:
        experts |= expert_layers(pattern, count)
    planned = site.gpu_layers if running.gpu_layers is None else running.gpu_layers
    layers = planned if asked.gpu_layers is None else asked.gpu_layers
    shared = site.unified_gpu and not site.devices
    return Placement(
        devices=("the GPU",) if shared else site.devices,
        host=site.host,
        gpu_layers=layers,
        split=asked.split,
        host_experts=experts or None,
        kv_offload=asked.kv_offload,
        shared=shared,
        projector_at_home=running.projector_on_cpu,
    )


def reserves_all_logits(version: str) -> bool:
    """Whether this build reserves a row of logits for every token of a micro-batch. Versions that
    are no build number are taken for new ones."""
    number = llama.build(version)
    return number is not None and number < LOGITS_PER_SLOT


def prompt_cache(weights: Weights, running: Running, site: Site, left: int) -> int:
    """Bytes for ``--cache-ram`` where the budget leaves ``left`` beside this way to run; 0: none.

    A quarter of it, so that other models find room too; no more than eight conversations fill,
    nor than the engine's own default. 0 too where the user has set it.
    """
    if site.engine not in LLAMA or site.kind in ("embedding", "rerank"):
        return 0
    if sets_prompt_cache(site.args):
        return 0
    wanted = shape(weights, running, site)
    conversation = kv_bytes(weights, wanted) // wanted.slots
    most = min(MAX_PROMPT_CACHE, left // 4, 8 * conversation)
    size = most // _CACHE_STEP * _CACHE_STEP
    return size if size >= max(MIN_PROMPT_CACHE, conversation) else 0


def sets_prompt_cache(args: Sequence[str]) -> bool:
    """Whether the user has said how large the prompt cache is."""
    return bool({"--cache-ram", "-cram"}.intersection(args))


def spreads(args: Sequence[str]) -> bool:
    """Whether the user has llama.cpp spread a model over several GPUs."""
    return bool({"-ts", "--tensor-split"}.intersection(args))
