"""Which model to take on this machine for a task. Pure.

What a model is worth for a task is a number in the units of ``daemon.planning``'s losses: a rule of
thumb, of which the order counts. What a quantisation and a short context lose is taken off. The
worth never looks at the memory, so that more memory can only make the first pick better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from daemon.config.model import Model
from daemon.core.messages import Bytes
from daemon.planning import BEST_BITS, PULL_LOSS, Option, Plan, Wanted, loss, plan
from daemon.weights.quants import bits

ENGINE_LOSS: Final = 3.0
"""For a model whose engine must be installed first: less than a class of models differs."""

MORE_CONTEXT: Final = 0.05  # a doubling beyond what the task wants: nice to have
MOST_CONTEXT: Final = 1 << 24  # tokens: more than any
SMALL_BYTES: Final = 3 * 10**9  # weights of a model for small calls beside a large one


@dataclass(frozen=True, slots=True)
class Task:
    """What a model is wanted for. ``context``: tokens below which something is lost; ``worth``: by
    preset, from what the guides recommend for what; others are ranked by their size."""

    name: str
    kinds: tuple[str, ...]
    context: int
    worth: Mapping[str, float]
    tools: bool = False  # one without tool calls is not taken first
    sees: bool = False
    most_bytes: int | None = None


_TINY: Final = {"qwen3-0.6b": 0.0, "smollm2-135m": -20.0}  # they answer; little more


def _ranks(best: float, step: float, *names: str) -> Mapping[str, float]:
    """The first is worth ``best``, each other ``step`` less than the one before."""
    return MappingProxyType(_TINY | {name: best - step * i for i, name in enumerate(names)})


_CODE: Final = _ranks(
    *(44.0, 2.0),
    *("qwen3-coder", "qwen3-coder-q8", "qwen3.6-27b", "glm-4.7-flash", "qwen3-next"),
    *("gpt-oss-20b", "nemotron-3-nano", "gemma-4-26b", "qwen3-30b", "qwen3-vl"),
    *("qwen2.5-coder-32b", "gemma-4-e4b", "llama3.1-70b", "qwen3.5-9b", "qwen2.5-coder-7b"),
    "llama3.1-8b",
)
_CHAT: Final = _ranks(
    *(44.0, 2.0),
    *("qwen3.6-27b", "qwen3-next", "glm-4.7-flash", "gpt-oss-20b", "qwen3-30b", "gemma-4-26b"),
    *("nemotron-3-nano", "llama3.1-70b", "qwen3-vl", "qwen3-coder", "qwen3-coder-q8"),
    *("gemma-4-e4b", "qwen2.5-coder-32b", "qwen3.5-9b", "llama3.1-8b", "qwen2.5-coder-7b"),
)
_TALK: Final = ("chat",)

TASKS: Final[Mapping[str, Task]] = MappingProxyType(
    {
        task.name: task
        for task in (
            Task("code", _TALK, 131072, _CODE, tools=True),
            Task("chat", _TALK, 32768, _CHAT),
            Task("vision", _TALK, 32768, {"qwen3-vl": 44.0}, sees=True),
            Task("embed", ("embedding",), 2048, {"nomic-embed-text-v1.5": 44.0}),
            Task("rerank", ("rerank",), 2048, {"bge-reranker-v2-m3": 44.0}),
            Task(
                "small",
                _TALK,
                8192,
                {"qwen3-0.6b": 44.0, "smollm2-135m": 30.0},
                most_bytes=SMALL_BYTES,
            ),
        )
    }
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that could be taken. ``ready``: an engine that runs it is installed, and not too
    old. ``tools``: it calls tools, as far as is known."""

    model: str
    worth: float
    options: tuple[Option, ...]
    ready: bool = True
    tools: bool = True


@dataclass(frozen=True, slots=True)
class Pick:
    """A candidate with the way to run it. ``score``: what it is worth so; ``beside``: how the
    models that were to stay loaded run then."""

    candidate: Candidate
    option: Option
    score: float
    beside: Mapping[str, Option]

    @property
    def need(self) -> Bytes:
        return self.option.need


def suits(task: Task, model: Model) -> bool:
    """Whether a model does what the task is about at all. By what its preset says."""
    if (model.kind or "chat") not in task.kinds:
        return False
    if task.sees and model.mmproj is None:
        return False
    return task.most_bytes is None or (model.size or 0) <= task.most_bytes


def worth(task: Task, model: Model) -> float:
    """What a model is worth for the task, at its best. One that nobody has ranked is worth what its
    size says, and less for each warning."""
    known = task.worth.get(model.preset or model.name)
    if known is not None:
        return known
    size = max(1.0, (model.size or 1) / 10**9)
    return min(36.0, 8.0 + 5.0 * math.log2(size)) - 4.0 * len(model.warnings)


def weighed(option: Option, task: Task, *, fetched: bool = False) -> Option:
    """The option with what it loses for this task: all models are measured by one context.
    ``fetched``: it must be pulled, where another way of the model is here."""
    native = "mxfp4" in option.quant.casefold()  # it was trained so: nothing is lost
    quality = BEST_BITS if native else bits(option.quant) or BEST_BITS
    lost = loss(quality, option.context, task.context, option.cache)
    lost += PULL_LOSS if fetched else 0.0
    if option.context:
        lost += MORE_CONTEXT * math.log2(MOST_CONTEXT / min(option.context, MOST_CONTEXT))
    return replace(option, loss=lost)


def recommend(
    task: Task, candidates: Sequence[Candidate], beside: Sequence[Wanted], budget: Bytes
) -> list[Pick]:
    """Those that fit, best first. ``beside``: models that stay loaded at the same time; where they
    do not fit by themselves nothing does.

    For a task with tools a model without them comes after all others, and never first.
    """
    found = [pick for one in candidates if (pick := _pick(one, task, beside, budget)) is not None]
    found.sort(key=lambda p: (task.tools and not p.candidate.tools, -p.score, p.candidate.model))
    if found and task.tools and not found[0].candidate.tools:
        return []
    return found


def _pick(candidate: Candidate, task: Task, beside: Sequence[Wanted], budget: Bytes) -> Pick | None:
    some_here = any(one.here for one in candidate.options)
    options = (weighed(o, task, fetched=some_here and not o.here) for o in candidate.options)
    own = Wanted(candidate.model, tuple(options))
    others = [one for one in beside if one.model != candidate.model]
    if not own.options:
        return None
    made: Plan = plan([own, *others], budget)
    if made.left_out:
        return None
    option = made.chosen[candidate.model]
    lost = sum(each.loss for each in made.chosen.values())
    score = candidate.worth - lost - (0.0 if candidate.ready else ENGINE_LOSS)
    rest = {name: each for name, each in made.chosen.items() if name != candidate.model}
    return Pick(candidate, option, round(score, 6), rest)


def least(candidates: Sequence[Candidate]) -> tuple[str, Bytes] | None:
    """The candidate that takes the fewest bytes, for a machine on which nothing fits."""
    sizes = [
        (sum(option.need.values()), one.model, option.need)
        for one in candidates
        for option in one.options
    ]
    if not sizes:
        return None
    _, model, need = min(sizes, key=lambda each: each[:2])
    return model, need
