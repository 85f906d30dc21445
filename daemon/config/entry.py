"""``[models.NAME]`` and ``[engines.NAME]``: what can be served, and with what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import (
    BeforeValidator,
    Field,
    JsonValue,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from daemon.config.base import Part
from daemon.config.types import (
    Alias,
    Bytes,
    Companion,
    Dialect,
    EnvName,
    Fit,
    Flag,
    HfRef,
    KeepAlive,
    Kind,
    Line,
    Name,
    Pool,
    Ready,
    RepoFile,
    Switch,
    Template,
    Tokens,
    Url,
    Whole,
    matching,
    parse_switch,
    refuse,
)

ENGINES: Final = (
    "llama-server",
    "xllamacpp",
    "mlx-lm",
    "vllm-mlx",
    "vllm",
    "command",
    "ollama",
    "lmstudio",
    "remote",
)
"""Kinds of inference server. ``command`` has one entry per template: ``command.NAME``."""

ATTACHED: Final = frozenset({"ollama", "lmstudio", "remote"})
"""Engines that run elsewhere: their models need no weights of ours."""

PLACEHOLDERS: Final = frozenset(
    {
        "host",
        "port",
        "path",
        "name",
        "model",
        "ctx",
        "slots",
        "mmproj",
        "draft",
        "template",
        "key_file",
        "socket",
    }
)
"""What may stand in braces in ``argv`` and ``env`` of a command engine."""

_PLACES: Final = "{" + "}, {".join(sorted(PLACEHOLDERS)) + "}"
_BRACES: Final = re.compile(r"\{([^{}]*)\}")


def _read_rescue(value: Any) -> Any:
    value = parse_switch(value)
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Rescue = Annotated[
    Literal["auto", "on", "off"],
    BeforeValidator(_read_rescue),
    WithJsonSchema({"enum": ["auto", "on", "off", True, False]}),
]
EnvTable = Mapping[EnvName, Line]
if TYPE_CHECKING:
    Arg = str
else:
    Arg = matching(r"[^\x00]{0,65536}", "text without a NUL character")


class Params(Part):
    """Sampling and other fields of a request body."""

    default: Mapping[str, JsonValue] = Field(
        default={}, description="Used where a request says nothing."
    )
    force: Mapping[str, JsonValue] = Field(default={}, description="Used whatever a request says.")
    with_tools: Mapping[str, JsonValue] = Field(
        default={}, description="Used over default where the request offers tools."
    )
    strip: tuple[Line, ...] = Field(
        default=(), description="Taken out of a request: what its engine refuses."
    )


class ModelEntry(Part):
    """One model. Weights are a ``path``, an ``hf`` repository, or those of a ``preset``."""

    preset: Name | None = Field(default=None, description="The preset that this entry builds on.")
    engine: Line | None = Field(default=None, description="Which engine runs it; unset: chosen.")
    path: Line | None = Field(
        default=None,
        description="Weights on the disk; relative to the folder of the configuration.",
    )
    hf: HfRef | None = Field(default=None, description='Weights on the hub: "owner/repo:QUANT".')
    file: RepoFile | None = Field(
        default=None, description="The file to take of the hf repository."
    )
    mmproj: Companion | None = Field(
        default=None,
        description="Vision projector: a path, hf:OWNER/REPO/FILE, or a file beside the weights.",
    )
    draft: Companion | None = Field(
        default=None,
        description="Draft model: a path, hf:OWNER/REPO/FILE, or a file beside the weights.",
    )
    template: Template | None = Field(
        default=None, description='Chat template: "embedded", a path, or hf:OWNER/REPO/FILE.'
    )
    kind: Kind | None = Field(
        default=None, description="What it answers; unset: read from the weights."
    )
    ctx: Tokens | None = Field(
        default=None,
        description="Tokens of one conversation (a slot); unset: the largest that fits.",
    )
    min_ctx: Tokens | None = Field(default=None, description="The context may shrink down to this.")
    slots: Annotated[Whole, Field(ge=1, le=256)] | None = Field(
        default=None, description="Requests that it serves at once."
    )
    args: tuple[Arg, ...] = Field(default=(), description="More arguments for the engine.")
    env: EnvTable = Field(default={}, description="More environment for the engine.")
    aliases: tuple[Alias, ...] = Field(
        default=(), description='Other names; patterns as "claude-*".'
    )
    keep_alive: KeepAlive | None = Field(
        default=None, description="Idle time before unloading; -1 never."
    )
    pin: Flag = Field(default=False, description="Started at boot and never evicted.")
    priority: Annotated[int, Field(strict=True, ge=-100, le=100)] = Field(
        default=0, description="Higher is served earlier; nobody starves."
    )
    pool: Pool | None = Field(
        default=None, description="The memory it must use: unified, ram, gpu0, …"
    )
    fit: Fit | None = Field(
        default=None, description="Where it does not fit: shrink, refuse or ask."
    )
    params: Params = Field(default=Params(), description="Fields of request bodies.")
    thinking: Switch | None = Field(
        default=None, description="Thinking on or off; unset: its own way."
    )
    tools: Switch | None = Field(
        default=None, description="Whether it can call tools; unset: found out."
    )
    dialects: tuple[Dialect, ...] | None = Field(
        default=None, description="API shapes that its engine speaks itself; unset: the engine's."
    )
    rescue_tools: Rescue = Field(
        default="auto", description="Make calls of tool calls written as text."
    )
    loading_text: Flag = Field(
        default=False, description="Show loading as reasoning text in a stream."
    )
    allow_tools: tuple[Line, ...] | None = Field(
        default=None, description="Only these tools reach the model, * as wildcard; unset: all."
    )
    tell_cut_calls: Flag = Field(
        default=False, description="Tell in words of a tool call that the output limit has cut."
    )
    min_output: Tokens | None = Field(
        default=None,
        description="A lower output limit of a request with tools is lifted to this; unset: 8192.",
    )
    max_output: Tokens | None = Field(
        default=None, description="No answer may be longer than this; unset: as it is asked for."
    )
    auto_pull: Flag | None = Field(
        default=None, description="A request downloads it where it is not here; unset: as set."
    )
    conversations: Flag | None = Field(
        default=None, description="Keep its conversations; unset: as set."
    )


class EngineEntry(Part):
    """An engine: where it is and what it always gets."""

    path: Line | None = Field(default=None, description="Its program or environment; unset: found.")
    version: Line | None = Field(
        default=None, description="The version to install and to insist on."
    )
    url: Url | None = Field(
        default=None, description="Where it already runs: ollama, lmstudio, remote."
    )
    args: tuple[Arg, ...] = Field(default=(), description="Arguments for all its models.")
    env: EnvTable = Field(default={}, description="Environment for all its models.")


class CommandEntry(Part):
    """An inference server of the user's own, started by a template of arguments."""

    argv: tuple[Arg, ...] = Field(
        min_length=1,
        description="The command, with {port} or {socket}, {path}, {name}, {ctx}, … in it.",
    )
    env: EnvTable = Field(default={}, description="More environment; placeholders as in argv.")
    cwd: Line | None = Field(
        default=None, description="Working directory; unset: the state directory."
    )
    ready: Ready = Field(
        default="/health",
        description='A path that answers 200 once it is up; "request": ask a real request only.',
    )
    kind: Kind = Field(default="chat", description="What it answers.")
    dialects: tuple[Dialect, ...] = Field(
        default=("chat",), description="API shapes that it speaks."
    )
    footprint: Bytes | None = Field(
        default=None,
        description="Memory it takes; unset: the size of the weights, then as measured.",
    )
    elsewhere: bool = Field(
        default=False,
        description="Its server is none of its processes (a container): do not check whose it is.",
    )

    @field_validator("argv", "env", mode="after")
    @classmethod
    def _known_placeholders(cls, value: Any) -> Any:
        texts = value.items() if isinstance(value, Mapping) else (("", text) for text in value)
        for name, text in texts:
            unknown = {word for word in _BRACES.findall(text) if word.isidentifier()} - PLACEHOLDERS
            if unknown:
                where = f" ({name})" if name else ""
                raise refuse(_PLACES, f"There is no {{{min(unknown)}}}{where}.")
        return value

    @model_validator(mode="after")
    def _a_place(self) -> CommandEntry:
        texts = (*self.argv, *self.env.values())
        found = [word for word in ("{port}", "{socket}") if any(word in text for text in texts)]
        if not found:
            why = "Without {port} or {socket} the server cannot be reached."
            raise refuse(f"{_PLACES} in argv", why)
        if len(found) > 1:
            raise refuse("{port} or {socket}, not both", "The server listens on one of them.")
        return self


class Engines(Part):
    """``[engines]``: one table per engine."""

    llama_server: EngineEntry = Field(
        default=EngineEntry(), alias="llama-server", description="llama.cpp's own server."
    )
    xllamacpp: EngineEntry = Field(
        default=EngineEntry(), description="The embedded engine: llama.cpp in a wheel."
    )
    mlx_lm: EngineEntry = Field(
        default=EngineEntry(), alias="mlx-lm", description="mlx_lm.server, for Apple Silicon."
    )
    vllm_mlx: EngineEntry = Field(
        default=EngineEntry(), alias="vllm-mlx", description="vllm-mlx, for Apple Silicon."
    )
    vllm: EngineEntry = Field(default=EngineEntry(), description="vLLM, for NVIDIA cards.")
    ollama: EngineEntry = Field(default=EngineEntry(), description="An Ollama that runs already.")
    lmstudio: EngineEntry = Field(
        default=EngineEntry(), description="An LM Studio that runs already."
    )
    remote: EngineEntry = Field(
        default=EngineEntry(), description="A server on another machine that runs already."
    )
    command: Mapping[Name, CommandEntry] = Field(
        default={}, description="Servers of one's own, as argv templates by name."
    )

    def entry(self, engine: str) -> EngineEntry:
        """The settings of ``engine`` by its own name; defaults for one without settings."""
        found = getattr(self, engine.replace("-", "_"), None)
        return found if isinstance(found, EngineEntry) else EngineEntry()
