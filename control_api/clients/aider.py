"""aider: flags, and a file of metadata that tells it the context. From its documentation; litellm
inside takes ``openai/NAME`` for any OpenAI-compatible address."""

from __future__ import annotations

import json
import re
from typing import Any

from control_api.clients import jsonc
from control_api.clients.values import Edit, File, Plan, Wish, unset_for


def metadata(wish: Wish) -> dict[str, Any]:
    """Contexts and output limits, in litellm's words."""
    return {
        f"openai/{served.name}": {
            "max_tokens": wish.capped(served),
            "max_input_tokens": served.window,
            "max_output_tokens": wish.capped(served),
            "input_cost_per_token": 0,
            "output_cost_per_token": 0,
            "litellm_provider": "openai",
            "mode": "chat",
        }
        for served in wish.all_models
    }


def options(wish: Wish) -> dict[str, Any]:
    """aider's options, as its configuration file names them."""
    return {
        "model": f"openai/{wish.model.name}",
        "weak-model": f"openai/{wish.light}",
        "openai-api-base": wish.v1,
        "openai-api-key": wish.secret,
        "show-model-warnings": False,
        "check-update": False,
        "show-release-notes": False,
        "analytics": False,
    }


def plan(wish: Wish) -> Plan:
    """How it is started."""
    env = {"OPENAI_API_BASE": wish.v1, "OPENAI_API_KEY": wish.secret}
    argv: list[str] = []
    for name, value in options(wish).items():
        if name.startswith("openai-api"):
            continue  # in the environment: the words of a command line can be read by all
        argv += [f"--no-{name}"] if value is False else [f"--{name}", str(value)]
    files: tuple[File, ...] = ()
    if wish.folder is not None:
        argv += ["--model-metadata-file", f"{wish.folder}/aider/metadata.json"]
        files = (File("aider/metadata.json", json.dumps(metadata(wish), indent=2) + "\n"),)
    return Plan(env=env, unset=unset_for(env), argv=tuple(argv), files=files)


def own(wish: Wish, home: str, environ: dict[str, str]) -> tuple[Edit, ...]:
    """``.aider.conf.yml`` and ``.aider.model.metadata.json`` in the home folder."""

    def change(text: str | None) -> str:
        found = metadata(wish)
        return jsonc.changed(text, {(name,): value for name, value in found.items()})

    return (
        Edit(f"{home}/.aider.conf.yml", lambda text: yaml_set(text or "", options(wish))),
        Edit(f"{home}/.aider.model.metadata.json", change),
    )


def yaml_set(text: str, values: dict[str, Any]) -> str:
    """The YAML with these plain values at its top; all other lines stay.

    Raises ``ValueError`` where one of them is no plain value there, so that no line is misread.
    """
    for name, value in values.items():
        line = f"{name}: {json.dumps(value)}"  # JSON's scalars are YAML's
        found = re.search(rf"^{re.escape(name)}[ \t]*:(.*)$", text, re.MULTILINE)
        if found is None:
            text += ("" if not text or text.endswith("\n") else "\n") + line + "\n"
            continue
        after = text[found.end() + 1 :].partition("\n")[0]
        held = found[1].split(" #")[0].strip()
        if held[:1] in {"|", ">", "[", "{", "&", "*"} or (not held and after[:1] in {" ", "-"}):
            raise ValueError(f"{name} is no plain value there")
        comment = found[1][found[1].find(" #") :] if " #" in found[1] else ""
        text = text[: found.start()] + line + comment + text[found.end() :]
    return text
