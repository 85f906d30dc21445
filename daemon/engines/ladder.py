"""What can be given up after running out of memory, engine by engine. Pure.

What the user wrote himself is never changed, unless ``memory.degrade`` is ``aggressive``; what a
preset brought may be. The order is that of the loss: a smaller batch reads prompts slower, one slot
serves one after the other, an 8-bit cache is nearly as good, a shorter context forgets. (Prompt
caches go before all of that, and the processor comes in last.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from daemon.engines import llama
from daemon.engines.base import Running
from daemon.engines.pricing import LLAMA
from daemon.weights.facts import Weights
from daemon.weights.ggml import CACHE_TYPES

SMALL_CACHE: Final = "q8_0"
LLAMA_UBATCH: Final = 256  # half of its own
OTHER_BATCH: Final = 512  # of mlx-lm (2048 by itself) and of vllm (2048 or more)
LAYER_SHARES: Final = (0.75, 0.5, 0.25)  # of its layers on the GPU, one step after the other

Group = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing given up. ``words``: how people are told. ``changes``: of ``Running``. ``blind``:
    it helps though the prices do not show it."""

    words: str
    changes: Mapping[str, Any]
    flags: Group = ()  # by which the user may have settled it
    blind: bool = False

    def of(self, running: Running, args: Sequence[str]) -> Running:
        """The way to run after this step."""
        dropped = tuple(flag for flag in self.flags if flag in _names(args))
        changed = replace(running, **self.changes)
        return replace(changed, dropped=tuple(dict.fromkeys((*running.dropped, *dropped))))


@dataclass(frozen=True, slots=True)
class Steps:
    """``before`` the context is halved (if ``context``), and ``after`` that."""

    before: tuple[Step, ...] = ()
    context: bool = False
    after: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """What the steps hang on. ``written``: the user's own args of all ``args``. ``offload``: layers
    and projector may go to the processor's memory, of which there is one beside a GPU."""

    engine: str
    kind: str
    weights: Weights | None = None
    args: Sequence[str] = ()
    written: Sequence[str] = ()
    slots_written: bool = False
    aggressive: bool = False
    gpu: bool = False
    projector: bool = False
    offload: bool = False
    takes_ctx: bool = True  # of a command: its template passes the context on

    def free(self, what: str) -> Group | None:
        """The flags of a setting that may be changed; None where it may not be, or is unknown."""
        flags = FLAGS.get(_family(self.engine), {}).get(what)
        if flags is None or (not self.aggressive and _names(self.written).intersection(flags)):
            return None
        return flags

    @property
    def halves(self) -> bool:
        """Whether a shorter context is one for this engine, and not settled by an argument."""
        flags = self.free("context")
        return flags is not None and self.takes_ctx and not _names(self.args).intersection(flags)


FLAGS: Final[Mapping[str, Mapping[str, Group]]] = {
    "llama": {
        "prompts": llama.CACHE_FLAGS,
        "batch": llama.BATCH_FLAGS,
        "slots": llama.SLOT_FLAGS,
        "kv": llama.KV_FLAGS,
        "context": llama.CTX_FLAGS,
        "projector": llama.PROJECTOR_FLAGS,
        "layers": llama.LAYER_FLAGS,
    },
    "mlx-lm": {
        "batch": ("--prefill-step-size",),
        "slots": ("--decode-concurrency", "--prompt-concurrency", "--prompt-cache-size"),
        "kv": ("--kv-bits",),
    },
    "vllm-mlx": {
        "slots": ("--max-num-seqs",),
        "kv": ("--kv-cache-quantization", "--kv-cache-quantization-bits"),
    },
    "vllm": {
        "batch": ("--max-num-batched-tokens",),
        "slots": ("--max-num-seqs",),
        "kv": ("--kv-cache-dtype",),
        "context": ("--max-model-len",),
    },
    "command": {"context": ()},
}
"""What each engine can give up, and by which flags a user settles it. The MLX engines limit no
context; a command has only what its template passes on."""


def _names(args: Sequence[str]) -> set[str]:
    return {arg.partition("=")[0] for arg in args}


def _family(engine: str) -> str:
    if engine in LLAMA:
        return "llama"
    return "command" if engine.startswith("command.") else engine


def steps(case: Case) -> Steps:
    """The steps of this model on this engine, from the smallest loss to the largest."""
    before = (*_prompts(case), *_batch(case), *_slots(case), *_cache(case))
    return Steps(before, case.halves, tuple(_away(case)))


def _prompts(case: Case) -> list[Step]:
    """A prompt cache that stands in ``args``: of ours ``Ways`` knows."""
    flags = case.free("prompts")
    if flags is None or not _names(case.args).intersection(flags):
        return []
    return [Step("no prompt cache", {"prompt_cache": 0}, flags)]


def _batch(case: Case) -> list[Step]:
    flags = case.free("batch")
    # The input of an encoder is one batch: a smaller one would refuse what it served before.
    if flags is None or case.kind in ("embedding", "rerank"):
        return []
    size = LLAMA_UBATCH if case.engine in LLAMA else OTHER_BATCH
    return [Step(f"batch {size}", {"ubatch": size}, flags)]


def _slots(case: Case) -> list[Step]:
    flags = case.free("slots")
    if flags is None or (case.slots_written and not case.aggressive):
        return []
    return [Step("one slot", {"slots": 1}, flags)]


def _cache(case: Case) -> list[Step]:
    flags = case.free("kv")
    if flags is None or case.kind in ("embedding", "rerank") or not divides(case.weights):
        return []
    changes = {"type_k": SMALL_CACHE, "type_v": SMALL_CACHE}
    return [Step(f"KV {SMALL_CACHE}", changes, flags)]


def divides(weights: Weights | None) -> bool:
    """Whether every head can be kept in blocks of the smaller type; engines refuse others."""
    if weights is None:
        return False
    block, _ = CACHE_TYPES[SMALL_CACHE]
    layers = [layer for layer in weights.layers if layer.kv_heads]
    return bool(layers) and all(
        layer.key_length % block == 0 and layer.value_length % block == 0 for layer in layers
    )


def _away(case: Case) -> list[Step]:
    """From the GPU to the processor."""
    found: list[Step] = []
    flags = case.free("projector")
    if flags is not None and case.gpu and case.projector:
        changes = {"projector_on_cpu": True}
        found.append(Step("projector on the CPU", changes, flags, blind=True))
    flags = case.free("layers")
    count = len(case.weights.layers) if case.weights is not None else 0
    if flags is not None and case.gpu and case.offload and count:
        there = llama.placement_settings(case.args).gpu_layers
        most = min(count + 1, llama.EVERY if there is None else there)  # the head counts as one
        for share in LAYER_SHARES:
            layers = int((count + 1) * share)
            if layers < most:
                words = f"{layers} of {count + 1} layers on the GPU"
                found.append(Step(words, {"gpu_layers": layers}, flags, blind=True))
                most = layers
    return found
