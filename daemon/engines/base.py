"""What the supervisor may ask of an engine: a kind of inference server.

An engine is stateless knowledge: it turns a resolved model and a way to run it into a command
line, says how to ask whether it is ready, what it speaks, and what its dying words mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from daemon.core.messages import ExitClass
from daemon.ports import Target


@dataclass(frozen=True, slots=True)
class Installed:
    """An engine as found on this machine. ``accelerators``: what it can really use."""

    engine: str
    program: tuple[str, ...]  # argv prefix: absolute path, or interpreter and module
    version: str
    flags: frozenset[str] = frozenset()  # flags that it knows, where it could be asked
    accelerators: tuple[str, ...] = ()
    warning: str = ""  # e.g. cannot use the GPU that is there, with the command that mends it
    sockets: bool = False  # it can listen on a unix socket


@dataclass(frozen=True, slots=True)
class Running:
    """One way to run a model: the engine's side of a core ``Variant`` of the same id.

    ``ubatch``: tokens that are read at once (None: the engine's own). ``gpu_layers``: None: all.
    ``dropped``: flags of ``args`` that do not count here, each with its value: what is given up
    after running out of memory.
    """

    id: str
    ctx: int
    slots: int
    prompt_cache: int = 0  # bytes
    checkpoints: int = 4  # kept per slot to go back in models with windows or recurrent layers
    ubatch: int | None = None
    type_k: str = "f16"
    type_v: str = "f16"
    gpus: tuple[str, ...] = ()  # pools; none: whatever the engine takes by itself
    visible: tuple[str, ...] = ()  # the same as the driver knows them (``PoolFacts.device``)
    projector_on_cpu: bool = False
    gpu_layers: int | None = None
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """All that an engine needs for one start. It listens on ``socket``, or (None) on ``port``."""

    model: str  # the name that clients use
    path: Path | None  # weights on the disk (file, or folder for safetensors)
    running: Running
    kind: str  # chat | completion | embedding | rerank
    port: int
    secret: str  # the key of this start
    secret_file: Path  # where to keep it, 0600, if the engine can check one
    mmproj: Path | None = None
    draft: Path | None = None
    template: Path | None = None
    args: tuple[str, ...] = ()  # the user's, last: they win
    env: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)  # engine-specific
    memory_share: float | None = None  # of its pool, 0 to 1: what this way to run was priced at
    socket: Path | None = None  # only where ``Installed.sockets``; then ``port`` means nothing

    @property
    def target(self) -> Target:
        """Where it is reached."""
        if self.socket is not None:
            return Target("", 0, str(self.socket))
        return Target("127.0.0.1", self.port)


@dataclass(frozen=True, slots=True)
class Launch:
    """A start written out: nothing here needs a shell."""

    argv: tuple[str, ...]
    env: Mapping[str, str]  # complete: nothing is inherited beside it
    files: Mapping[str, str] = field(default_factory=dict)  # path -> text, written 0600 first
    headers: Mapping[str, str] = field(default_factory=dict)  # on each request to it
    upstream_model: str = ""  # what the body's ``model`` must say
    keep_query: bool = True
    cwd: str | None = None  # None: the state directory


@dataclass(frozen=True, slots=True)
class Probe:
    """How readiness is asked: a cheap path polled until it answers 200 (None: none), then one real
    request of the model's kind."""

    health: str | None
    method: str
    path: str
    body: bytes
    healthy_text: bytes = b""  # the health body must contain this, where 200 alone means nothing
    loads: bool = False  # the weights may be read only now, for the real request
    slots: str | None = None  # a path whose answer changes while requests go on
    elsewhere: bool = False  # its server is none of its processes: a container's


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an exit or a failed start means. ``lines``: the evidence; ``advice``: the next step."""

    exit_class: ExitClass
    detail: str
    advice: str = ""
    lines: tuple[str, ...] = ()


class Engine(Protocol):
    """One kind of inference server."""

    name: str
    weights: str  # "gguf" | "safetensors" | "any"

    def find(self, settings: Mapping[str, object], environ: Mapping[str, str]) -> Installed:
        """Locate it, reading its version and flags once per binary.

        Raises:
            ProblemError: ENGINE_MISSING, with the line that installs it.
        """
        ...

    def launch(self, plan: LaunchPlan, installed: Installed) -> Launch:
        """Write out one start.

        Raises:
            ProblemError: MODEL_UNAVAILABLE for a setting that this engine cannot honour.
        """
        ...

    def probe(self, plan: LaunchPlan) -> Probe: ...

    def routes(self, kind: str) -> frozenset[str]:
        """Values of ``daemon.ports.Route`` that it serves itself for a model of this kind."""
        ...

    @property
    def pattern(self) -> str:
        """One regular expression (of bytes, used without flags) for lines worth keeping."""
        ...

    @property
    def needles(self) -> tuple[str, ...]:
        """Small letters: every line that ``pattern`` finds holds one of them, in any case."""
        ...

    def classify(
        self,
        status: int | None,
        lines: Sequence[str],
        *,
        ready: bool,
        asked: bool,
        near_budget: bool = False,
    ) -> Verdict:
        """What an exit means. ``status`` as in subprocess (negative: signal; None: it lives, but
        will not serve), ``lines`` the kept matches, ``ready`` whether it had been ready, ``asked``
        whether we stopped it, ``near_budget`` whether it last took about all that there is."""
        ...
