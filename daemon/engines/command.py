"""A server of the user's own: an argv template under ``[engines.command.NAME]``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from daemon.config.paths import expanded
from daemon.core.problems import Code, Problem, ProblemError
from daemon.engines import llama, signatures
from daemon.engines.base import Installed, Launch, LaunchPlan, Probe, Verdict
from daemon.engines.binaries import look_up, missing, runnable
from daemon.engines.environment import child_environment

PLACEHOLDERS: Final = frozenset(
    {
        "host", "port", "path", "name", "model", "ctx", "slots", "mmproj", "draft", "template",
        "key_file", "socket",
    }
)  # fmt: skip

# Only a word in braces is a placeholder, so that JSON can stand in an argument.
_BRACES: Final = re.compile(r"\{([A-Za-z_]\w*)\}")

REQUEST: Final = "request"  # as ``ready``: no health path, only a real request

ROUTES: Final[Mapping[str, frozenset[str]]] = {
    "chat": frozenset({"chat", "completions"}),
    "messages": frozenset({"messages", "count_tokens"}),
    "responses": frozenset({"responses"}),
    "ollama": frozenset(),  # its paths are none of a backend's routes: /upstream/ reaches them
}
_HI: Final = [{"role": "user", "content": "a"}]
ASKED: Final[Mapping[str, tuple[str, Mapping[str, object]]]] = {
    "chat": ("/v1/chat/completions", {"messages": _HI, "max_tokens": 1}),
    "messages": ("/v1/messages", {"messages": _HI, "max_tokens": 1}),
    "responses": ("/v1/responses", {"input": "a", "max_output_tokens": 1}),
}
KINDS: Final[Mapping[str, frozenset[str]]] = {
    "embedding": frozenset({"embeddings"}),
    "rerank": frozenset({"rerank"}),
    "audio": frozenset({"audio"}),
    "image": frozenset({"images"}),
    "completion": frozenset({"completions"}),
}


@dataclass(frozen=True, slots=True)
class Template:
    """A checked template. ``memory``: bytes that it takes, as the user says; None: not said.

    ``ready``: a path that answers 200 once it serves, or ``request`` where there is none. Then one
    real request of what it says it serves is asked. ``elsewhere``: the server is none of its
    processes, so who listens on its port is not checked.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    ready: str = "/health"
    dialects: tuple[str, ...] = ("chat",)
    memory: int | None = None
    cwd: str | None = None
    elsewhere: bool = False

    def __post_init__(self) -> None:
        where = f"[engines.command.{self.name}]"
        if not self.argv:
            raise _mistake(f"{where} argv is empty.", "Write the program and its arguments.")
        used = {word for text in (*self.argv, *self.env.values()) for word in _BRACES.findall(text)}
        allowed = ", ".join(f"{{{word}}}" for word in sorted(PLACEHOLDERS))
        for word in sorted(used - PLACEHOLDERS):
            raise _mistake(f"{where} argv has an unknown {{{word}}}.", f"There are: {allowed}.")
        if not used & {"port", "socket"}:
            raise _mistake(
                f"{where} argv has neither {{port}} nor {{socket}}.",
                "Without one of them nobody can reach the server.",
            )
        if {"port", "socket"} <= used:
            raise _mistake(
                f"{where} argv has both {{port}} and {{socket}}.",
                "Write one of them: where the server is to listen.",
            )
        if self.ready != REQUEST and not self.ready.startswith("/"):
            allowed = f'A path such as "/health", or "{REQUEST}".'
            raise _mistake(f"{where} ready is {self.ready!r}.", allowed)
        for dialect in self.dialects:
            if dialect not in ROUTES:
                names = ", ".join(ROUTES)
                raise _mistake(f"{where} dialects has {dialect!r}.", f"There are: {names}.")

    @property
    def keyed(self) -> bool:
        """It reads the key of each start."""
        return self._says("{key_file}")

    @property
    def sockets(self) -> bool:
        """It listens on a unix socket, and on no port."""
        return self._says("{socket}")

    def _says(self, placeholder: str) -> bool:
        return any(placeholder in text for text in (*self.argv, *self.env.values()))


def _mistake(message: str, hint: str) -> ProblemError:
    return ProblemError(Problem(Code.CONFIG_INVALID, message, hint))


class Command:
    """One template as an engine. Its weights may be anything, or nothing of ours."""

    weights = "any"

    def __init__(self, template: Template, environ: Mapping[str, str] = os.environ) -> None:
        self.name = f"command.{template.name}"
        self.template = template
        self._environ = environ

    def find(self, settings: Mapping[str, object], environ: Mapping[str, str]) -> Installed:
        """See ``Engine.find``: the template's first word, by its path or on the PATH."""
        word = self.template.argv[0]
        if _BRACES.search(word):
            return Installed(self.name, (word,), version="", sockets=self.template.sockets)
        if "/" in word:
            program = runnable(self.name, expanded(word))
        else:
            found = look_up(word, environ)
            if found is None:
                raise missing(self.name, f"{word} is not on the PATH")
            program = found
        return Installed(self.name, (str(program),), version="", sockets=self.template.sockets)

    def launch(self, plan: LaunchPlan, installed: Installed) -> Launch:
        """See ``Engine.launch``. Raises MODEL_UNAVAILABLE where the template wants what the model
        does not have."""
        values = _values(plan)

        def filled(text: str) -> str:
            return _BRACES.sub(lambda match: _value(plan, values, match[1]), text)

        program = installed.program or self.template.argv[:1]
        env = {name: filled(text) for name, text in self.template.env.items()}
        keyed = self.template.keyed
        return Launch(
            argv=(*map(filled, (*program, *self.template.argv[1:])), *plan.args),
            env=child_environment(self._environ, env, plan.env),
            files={str(plan.secret_file): f"{plan.secret}\n"} if keyed else {},
            headers=llama.headers(plan) if keyed else {},
            upstream_model=plan.model,
            cwd=self.template.cwd,
        )

    def probe(self, plan: LaunchPlan) -> Probe:
        health = None if self.template.ready == REQUEST else self.template.ready
        asked = self._real_request(plan)
        return Probe(
            health,
            *asked,
            loads=True,  # for all that we know
            elsewhere=self.template.elsewhere,
        )

    def _real_request(self, plan: LaunchPlan) -> tuple[str, str, bytes]:
        """The smallest request of the kind and the dialect that it serves."""
        if plan.kind in ("completion", "embedding", "rerank"):
            return llama.real_request(plan.kind, plan.model)
        spoken = next((d for d in self.template.dialects if d in ASKED), None)
        if plan.kind != "chat" or spoken is None:  # nothing is known of what it answers
            return "GET", self.template.ready, b""
        path, body = ASKED[spoken]
        return "POST", path, json.dumps({"model": plan.model, **body}).encode()

    def routes(self, kind: str) -> frozenset[str]:
        if kind in KINDS:
            return KINDS[kind] | {"upstream"}
        spoken = (ROUTES[dialect] for dialect in self.template.dialects)
        return frozenset({"upstream"}).union(*spoken) if kind == "chat" else frozenset({"upstream"})

    @property
    def pattern(self) -> str:
        return signatures.PATTERN

    @property
    def needles(self) -> tuple[str, ...]:
        return signatures.NEEDLES

    def classify(
        self,
        status: int | None,
        lines: Sequence[str],
        *,
        ready: bool,
        asked: bool,
        near_budget: bool = False,
    ) -> Verdict:
        return signatures.classify(status, lines, ready=ready, asked=asked, near_budget=near_budget)


def _values(plan: LaunchPlan) -> dict[str, str | None]:
    def text(path: Path | None) -> str | None:
        return None if path is None else str(path)

    return {
        "host": "127.0.0.1",
        "port": str(plan.port),
        "path": text(plan.path),
        "name": plan.model,
        "model": plan.model,
        "ctx": str(plan.running.ctx),
        "slots": str(plan.running.slots),
        "mmproj": text(plan.mmproj),
        "draft": text(plan.draft),
        "template": text(plan.template),
        "key_file": str(plan.secret_file),
        "socket": text(plan.socket),
    }


def _value(plan: LaunchPlan, values: Mapping[str, str | None], word: str) -> str:
    value = values[word]
    if word == "socket" and value is None:
        message = f"{plan.model}: a socket's path would be too long, or has a comma."
        hint = "Name another runtime directory with MODELPORT_RUNTIME_DIR, or write {port}."
        raise llama.refuse(message, hint)
    if value is None:
        hint = f"Set `{word}` of the model, or leave {{{word}}} out of the template."
        raise llama.refuse(f"{plan.model} has no {word}, which its engine's argv wants.", hint)
    return value
