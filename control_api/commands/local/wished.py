"""What ``launch`` and ``env`` share: asking the daemon what a client has to be told."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from control_api.client import Client, RefusedError, segment, state_dir, view
from control_api.clients.kept import Keeper, KeptError
from control_api.clients.registry import CLIENTS, ClientProgram
from control_api.clients.values import OUT_TOKENS, Served, Wish
from control_api.commands.command import whole
from control_api.commands.output import Out
from daemon.views import ModelView

KEY_ENV: Final = "MODELPORT_API_KEY"
_TALKING: Final = ("chat", "vision")


def make_wish(client: Client, model: str, out_tokens: int, **more: Any) -> Wish:
    """The wish for a model, with its context as it is served now (or would be).

    Raises ``RefusedError`` for an unknown model or one that cannot chat.
    """
    found = view(ModelView, client.get(f"/models/{segment(model)}"))
    if found.kind not in _TALKING:
        raise RefusedError(
            "invalid_request", f"{found.name} is no model to talk to (its kind: {found.kind})."
        )
    running = {one["model"]: one for one in client.get("/backends")["backends"]}
    models = [view(ModelView, one) for one in client.get("/models")["models"]]
    chosen = served(found, running)
    status, far = client.get("/status"), client.far
    return Wish(
        url=str(status["url"]) if far is None else far.url,
        model=chosen,
        small=status.get("small_model") or None,
        key=os.environ.get(KEY_ENV) or (far.key if far is not None else None),
        models=tuple(served(one, running) for one in models if one.kind in _TALKING and one.pulled),
        out_tokens=out_tokens,
        platform=sys.platform,
        **more,
    )


def served(model: ModelView, running: dict[str, Any]) -> Served:
    """A model as clients should see it: a running backend knows its context best."""
    backend = running.get(model.name) or {}
    return Served(model.name, backend.get("context") or model.context, model.sees)


def default_model(client: Client) -> str:
    """The model where none is named and nobody can be asked: the one that is loaded, or there is.

    Raises ``RefusedError`` where that is not one.
    """
    models = [view(ModelView, one) for one in client.get("/models")["models"]]
    talking = [one for one in models if one.kind in _TALKING]
    for some in ([m for m in talking if m.state == "ready"], [m for m in talking if m.pulled]):
        if len(some) == 1:
            return some[0].name
    names = ", ".join(one.name for one in talking[:8])
    raise RefusedError(
        "model_missing",
        "Name a model.",
        f"There are: {names}." if names else "`ctl ls --presets` shows what can be pulled.",
    )


def keeper() -> Keeper:
    """The records of what was written into the user's files."""
    return Keeper(state_dir() / "clients")


def write_own(name: str, wish: Wish, out: Out) -> list[str]:
    """Change the user's own configuration of a client, and say so. Raises ``RefusedError``."""
    program = CLIENTS[name]
    if program.own is None:
        raise RefusedError(
            "invalid_request",
            f"{program.title} has no configuration file that could be written.",
            f"`ctl env {name}` shows what to set.",
        )
    edits = program.own(wish, str(Path.home()), dict(os.environ))
    try:
        paths = [str(path) for path in keeper().write(name, edits)]
    except KeptError as error:
        raise RefusedError("client_config", str(error), error.hint) from None
    for path in paths:
        out.note(f"written  {path}")
    if paths:
        out.note(f"`ctl env {name} --undo` puts the old text back.")
    return paths


def add_shared(parser: ArgumentParser, names: Sequence[str]) -> None:
    """The arguments of both."""
    parser.add_argument("client", metavar="CLIENT", choices=names, help=", ".join(names))
    parser.add_argument("model", metavar="MODEL", nargs="?", help="name or alias")
    parser.add_argument(
        "--out-tokens",
        type=whole(256, 1_048_576, "tokens"),
        default=OUT_TOKENS,
        metavar="N",
        help=f"longest answer in tokens (default {OUT_TOKENS}); a whole file must fit",
    )
    parser.add_argument("--yes", "-y", action="store_true", help="ask nothing")


def program_of(name: str) -> ClientProgram:
    """The client by its name, which the parser has checked."""
    return CLIENTS[name]
