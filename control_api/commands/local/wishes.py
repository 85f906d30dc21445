"""What ``ctl plan`` is asked for, ``MODEL[@CTX][:QUANT]``: read against the names there are."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from control_api.client import RefusedError
from control_api.commands.load import context_length
from control_api.commands.local.sizes import Here

if TYPE_CHECKING:
    from daemon.config.model import Model

FORM = "MODEL[@CTX][:QUANT], such as qwen3-coder, qwen3-coder@64k or qwen3-coder@64k:Q4_K_M"


@dataclass(frozen=True, slots=True)
class Wish:
    """One model of a plan. ``ctx``: tokens of a slot, ``quant``: None where it is free; ``text``:
    as it was asked."""

    text: str
    model: Model
    ctx: int | None = None
    quant: str | None = None


def read_wishes(texts: Sequence[str], here: Here) -> list[Wish]:
    """All of them, in their order. Raises ``RefusedError``."""
    wishes = [read_wish(text, here) for text in texts]
    seen: dict[str, str] = {}
    for text, wish in zip(texts, wishes, strict=True):
        first = seen.setdefault(wish.model.name, text)
        if first is not text:
            message = f"{first} and {text} are the same model, {wish.model.name}."
            raise RefusedError("invalid_request", message, "Name each model once.")
    return wishes


def read_wish(text: str, here: Here) -> Wish:
    """One of them; names and aliases may have ``:`` and ``@`` in them. Raises ``RefusedError``."""
    known = here.catalog.find
    if (whole := known(text)) is not None:
        return Wish(text, whole)
    rest, at, tail = text.rpartition("@")
    ctx_text, _, late = tail.partition(":") if at else ("", "", "")
    name = rest if at else text
    early = ""
    model = known(name)
    if model is None and ":" in name:
        name, _, early = name.rpartition(":")
        model = known(name)
    model = model or here.catalog.meant(name)
    if model is None:
        raise here.unknown(rest if at else text)
    if early and late:
        message = f"{text}: two quantisations, {early} and {late}."
        raise RefusedError("invalid_request", message, f"Write {FORM}.")
    if text.endswith(":") or (at and not ctx_text):
        message = f"{text}: nothing stands behind its {'@' if at and not ctx_text else ':'}."
        raise RefusedError("invalid_request", message, f"Write {FORM}.")
    return Wish(text, model, _context(text, ctx_text) if at else None, early or late or None)


def _context(text: str, ctx: str) -> int:
    try:
        tokens = context_length(ctx)
    except (ArgumentTypeError, ValueError) as error:
        message = f"{text}: {error}."
        raise RefusedError("invalid_request", message, f"Write {FORM}.") from None
    if tokens > 1 << 30:
        message = f"{text}: no model has a context of {tokens} tokens."
        raise RefusedError("invalid_request", message, f"Write {FORM}.")
    return tokens
