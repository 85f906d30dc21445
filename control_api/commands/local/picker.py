"""Choosing a model on a terminal: what is loaded, on the disk, its size, and whether it fits."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

from control_api.client import Client, RefusedError, segment, view
from control_api.commands.output import Out, size
from daemon.views import ModelView

_FITS: Final = {
    "fits": "fits",
    "evicts": "others leave",
    "shrinks": "with a smaller context",
    "refused": "too big",
}
_TALKING: Final = ("chat", "vision")


class NobodyChoseError(RefusedError):
    """The user wants none of them."""

    def __init__(self) -> None:
        super().__init__("cancelled", "Nothing was started.")


def pick(client: Client, out: Out) -> str:
    """The name of the model that the user has chosen. Raises ``RefusedError``."""
    models = [view(ModelView, one) for one in client.get("/models", presets=True)["models"]]
    talking = ordered([one for one in models if one.kind in _TALKING])
    if not talking:
        raise RefusedError(
            "model_missing", "There are no models yet.", "`ctl add PATH` or `ctl add hf:REPO`."
        )
    running = {one["model"]: one for one in client.get("/backends")["backends"]}
    rows = [
        (str(number), one.name, *_row(client, one, running))
        for number, one in enumerate(talking, 1)
    ]
    Out(out=out.err, err=out.err).table(("", "MODEL", "WHERE", "SIZE", "CTX", "FITS"), rows)
    return talking[_number(len(talking), out) - 1].name


def ordered(models: list[ModelView]) -> list[ModelView]:
    """Loaded ones first, then those on the disk, then those to be pulled; each by name. Pure."""
    return sorted(models, key=lambda m: (m.state != "ready", not m.pulled, m.name))


def _row(client: Client, model: ModelView, running: Mapping[str, Any]) -> tuple[str, ...]:
    where = "on disk" if model.pulled else "to pull"
    if model.name in running:
        return (
            "loaded",
            size(model.size) or "-",
            str(running[model.name]["context"] or "-"),
            "yes",
        )
    return (where, size(model.size) or "-", str(model.context or "-"), _fits(client, model))


def _fits(client: Client, model: ModelView) -> str:
    if model.problem and model.pulled:
        return model.problem
    try:
        verdict = str(client.get(f"/models/{segment(model.name)}/fit", ctx=0)["verdict"])
    except RefusedError:
        return "?"
    return _FITS.get(verdict, verdict)


def _number(most: int, out: Out) -> int:
    while True:
        print("Choose [1]: ", end="", file=out.err, flush=True)
        text = sys.stdin.readline()
        if not text:  # the end of the input
            raise NobodyChoseError
        text = text.strip() or "1"
        if text in {"q", "0"}:
            raise NobodyChoseError
        if text.isascii() and text.isdecimal() and 1 <= int(text) <= most:
            return int(text)
        out.note(f"{text!r} is not a number from 1 to {most} (q: none of them).")
