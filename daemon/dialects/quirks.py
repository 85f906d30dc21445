"""The norms of a configured model on an engine: what the configuration says over what is known of
engines and families of models (each with where it was seen)."""

from __future__ import annotations

from dataclasses import replace

from daemon.config.model import Model
from daemon.dialects.manner import Manner
from daemon.dialects.norms import OUTPUT_FLOOR, Norms, Schemas

_LLAMA = Norms(
    # Its grammar converter refuses whole requests for one pattern ("failed to parse grammar").
    schemas=Schemas.PLAIN,
    budget_field="thinking_budget_tokens",
    output_floor=OUTPUT_FLOOR,
)
ENGINES: dict[str, Norms] = {
    "llama-server": _LLAMA,
    "xllamacpp": _LLAMA,
    "mlx-lm": Norms(output_floor=OUTPUT_FLOOR),
    "vllm-mlx": Norms(output_floor=OUTPUT_FLOOR),
    "vllm": Norms(output_floor=OUTPUT_FLOOR),
}
_TOKENIZES = frozenset({"llama-server", "xllamacpp"})
_MIN_P = {"min_p": 0.01}  # the engines' own 0.05 or 0.1 misleads GLM 4.7


def manner_of(
    model: Model,
    engine: str,
    serves: frozenset[str],
    context: int | None = None,
    *,
    blind: bool = False,
) -> Manner:
    """How ``model`` is spoken to. ``serves``: what the engine serves of it itself; ``context``:
    tokens of one conversation, where known; ``blind``: it is known to see no images."""
    norms = replace(norms_of(model, engine), blind=blind)
    if context is not None:  # an engine may refuse what cannot fit
        norms = replace(norms, output_floor=min(norms.output_floor, context // 4))
    return Manner(serves, norms, engine in _TOKENIZES, model.loading_text)


def norms_of(model: Model, engine: str) -> Norms:
    """How requests for ``model`` on ``engine`` are shaped."""
    norms = ENGINES.get(engine.partition(".")[0], Norms())
    name = f"{model.name} {model.preset} {model.hf} {model.path}".lower().replace("_", ".")
    default = dict(model.params.default)
    if "glm-4" in name:
        default = {**_MIN_P, **default}
    return replace(
        norms,
        allow_tools=model.allow_tools,
        thinking=model.thinking,
        effort="gpt-oss" in name,
        bare_thinking="qwen3.5" in name,
        default=default,
        with_tools=dict(model.params.with_tools),
        force=dict(model.params.force),
        strip=model.params.strip,
        output_floor=norms.output_floor if model.min_output is None else model.min_output,
        output_cap=model.max_output,
        rescue=model.rescue_tools != "off",
        loud=model.tell_cut_calls,
    )
