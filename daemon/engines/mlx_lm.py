"""``mlx_lm.server``: Apple's MLX (and, slowly, any Linux).

What it lacks is ours to make up for: it checks no key, limits no context, answers 404 to any query
string and to every failed generation, and loads whatever other model a request names: the body's
``model`` must be the path that it was started with.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon.engines import llama
from daemon.engines.adapter import Adapter
from daemon.engines.base import Installed, Launch, LaunchPlan, Probe, Running
from daemon.engines.binaries import (
    Facts,
    Inspector,
    look_up,
    missing,
    named_path,
    python_beside,
    runnable,
    stamp_of,
)
from daemon.engines.environment import Platform, child_environment
from daemon.engines.llama_server import gpu_warning

# mlx-lm's own limit for an answer whose request names none is 512 tokens: agents need whole files.
MAX_ANSWER: Final = 32768
# Its CORS default is every web page, and it has no key. This origin is nobody's.
NO_ORIGIN: Final = "http://modelport.invalid"

KV_BITS: Final[Mapping[str, str]] = {"q8_0": "8", "q4_0": "4"}  # llama.cpp's names -> --kv-bits

RESERVED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("--host", "--port"), "modelport chooses it"),
    "--model": "set `path` or `hf` of the model",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a Python engine lives: the interpreter of its environment, or, where that cannot be
    told (a wrapper), only its console script."""

    python: Path | None
    script: Path | None
    version: str
    accelerators: tuple[str, ...] | None = None  # None: it could not be asked


def locate(
    engine: str, script: str, settings: Mapping[str, object],
    environ: Mapping[str, str], inspector: Inspector,
) -> Place:  # fmt: skip
    """Find a Python engine: ``path`` of the settings (a Python, the console script, or the folder
    of the environment), else the script on the PATH, else our own environment.

    Raises ProblemError (ENGINE_MISSING).
    """
    named = named_path(engine, settings)
    if named is not None and named.is_dir():
        named = named / "bin" / "python"
    found = named or look_up(script, environ)
    if found is None:
        if importlib.util.find_spec(engine.replace("-", "_")) is None:
            raise missing(engine, "it is neither on the PATH nor in modelport's own environment")
        found = Path(sys.executable)
    runnable(engine, found)
    python = found if found.name.startswith("python") else python_beside(found)
    if python is None:
        return Place(None, found, "")
    # What an environment holds changes without its python changing.
    stamp = stamp_of(python, settings) or (None if python == found else found)

    def asked(of: str, ask: Callable[[], Facts | None]) -> Facts | None:
        return ask() if stamp is None else inspector.facts(stamp, ask, of=of)

    facts = asked(engine, lambda: _version(engine, python, environ, inspector))
    if facts is None:
        if python == found:
            raise missing(engine, f"{found} has no {engine}")
        return Place(None, found, "")
    devices = asked("mlx", lambda: _devices(python, environ, inspector))
    runs_on = devices.accelerators if devices is not None else None
    return Place(python, None if python == found else found, facts.version, runs_on)


def _version(
    package: str, python: Path, environ: Mapping[str, str], inspector: Inspector
) -> Facts | None:
    """From metadata: importing an engine would take seconds."""
    question = f"import importlib.metadata as m; print(m.version({package!r}))"
    text = (inspector.output((str(python), "-P", "-c", question), environ) or "").strip()
    return Facts(text) if re.fullmatch(r"\d[\w.+!-]*", text) else None


# In a process of its own: it loads the driver.
_DEVICES: Final = """
import json, mlx.core as mx
has = [name for name in ("metal", "cuda") if getattr(getattr(mx, name, 0), "is_available", bool)()]
print("\\n" + json.dumps(has))
"""


def _devices(python: Path, environ: Mapping[str, str], inspector: Inspector) -> Facts | None:
    """What MLX can compute on beside the processor; None where it does not say."""
    text = inspector.output((str(python), "-P", "-c", _DEVICES), environ) or ""
    found = re.fullmatch(r"\[(.*)\]", text.rstrip().rpartition("\n")[2])
    return Facts("mlx", (), tuple(re.findall(r'"(\w+)"', found[1]))) if found else None


def check_args(plan: LaunchPlan, reserved: Mapping[str, str]) -> None:
    """Refuse ``args`` that take a decision of ours. Raises ProblemError (MODEL_UNAVAILABLE)."""
    for arg in plan.args:
        name = arg.partition("=")[0]
        if name in reserved:
            raise llama.refuse(f"{plan.model}: {name} cannot be in args: {reserved[name]}.")


def folder_of(plan: LaunchPlan) -> str:
    """The model's folder. Raises ProblemError (MODEL_UNAVAILABLE) where it has none."""
    if plan.path is None:
        raise llama.refuse(f"{plan.model} is not on the disk.", f"Pull it: ctl pull {plan.model}")
    return str(plan.path)


def kv_bits(plan: LaunchPlan) -> tuple[str, ...]:
    """``--kv-bits`` for the way to run. Raises ProblemError for types that MLX does not have."""
    types = {plan.running.type_k, plan.running.type_v}
    if types <= {"f16"}:
        return ()
    kind = next(iter(types))
    if len(types) > 1 or kind not in KV_BITS:
        hint = f"Both must be the same, one of f16, {', '.join(KV_BITS)}."
        raise llama.refuse(f"{plan.model}: MLX cannot keep its context in that type.", hint)
    return ("--kv-bits", KV_BITS[kind])


def runs_on(place: Place, platform: Platform) -> tuple[str, ...]:
    """What it computes on, as it said, else as MLX usually does on such a machine."""
    if place.accelerators is not None:
        return place.accelerators
    return ("metal",) if platform.apple_silicon else ()


def slow(engine: str, place: Place, platform: Platform) -> str:
    """See ``gpu_warning``; only of one that was asked, and where MLX has a form for the GPU."""
    if place.accelerators is None or not (platform.apple_silicon or "nvidia" in platform.gpus):
        return ""
    return gpu_warning(engine, place.accelerators, platform, f"ctl engine install {engine}")


class MlxLm(Adapter):
    """mlx-lm in an environment of its own, on the PATH, or in ours."""

    name = "mlx-lm"
    weights = "safetensors"

    def find(self, settings: Mapping[str, object], environ: Mapping[str, str]) -> Installed:
        """See ``Engine.find`` and :func:`locate`."""
        place = locate(self.name, "mlx_lm.server", settings, environ, self._inspector)
        return Installed(
            engine=self.name,
            program=(
                (str(place.python), "-P", "-m", "mlx_lm", "server")
                if place.python
                else (str(place.script),)
            ),
            version=place.version,
            accelerators=runs_on(place, self._platform),
            warning=slow(self.name, place, self._platform),
        )

    def launch(self, plan: LaunchPlan, installed: Installed) -> Launch:
        """See ``Engine.launch``."""
        if plan.kind not in ("chat", "completion"):
            hint = "Use a GGUF of it with llama-server."
            raise llama.refuse(f"{plan.model}: mlx-lm serves no {plan.kind} models.", hint)
        if plan.mmproj is not None:
            raise llama.refuse(f"{plan.model}: mlx-lm takes no mmproj.", "Leave `mmproj` out.")
        check_args(plan, RESERVED)
        path = folder_of(plan)
        argv = [
            *installed.program,
            *("--model", path, "--host", "127.0.0.1", "--port", str(plan.port)),
            *("--allowed-origins", NO_ORIGIN),
            *("--max-tokens", str(min(plan.running.ctx, MAX_ANSWER))),
            *("--decode-concurrency", str(plan.running.slots)),
            *("--prompt-concurrency", str(plan.running.slots)),
            *_prompt_cache(plan.running),
            *kv_bits(plan),
        ]
        if plan.running.ubatch is not None:
            argv += ["--prefill-step-size", str(plan.running.ubatch)]
        if plan.draft is not None:
            argv += ["--draft-model", str(plan.draft)]
        if plan.template is not None:
            argv += ["--chat-template", _template(plan, plan.template)]
        return Launch(
            argv=(*argv, *llama.counting(plan.args, plan.running)),
            env=child_environment(self._environ, {"PYTHONUNBUFFERED": "1"}, plan.env),
            upstream_model=path,
            keep_query=False,
        )

    def probe(self, plan: LaunchPlan) -> Probe:
        """``/health`` answers before the load: the real request is what waits for it."""
        return Probe("/health", *llama.real_request(plan.kind, folder_of(plan)), loads=True)

    def routes(self, kind: str) -> frozenset[str]:
        return frozenset(
            {
                "chat": {"chat", "completions", "upstream"},
                "completion": {"completions", "upstream"},
            }.get(kind, ())
        )


def _prompt_cache(running: Running) -> tuple[str, ...]:
    """MLX keeps a conversation's context nowhere else: without a budget of its own, as many are
    kept as there are slots, which is what the slots' contexts were priced at."""
    if running.prompt_cache:
        return ("--prompt-cache-bytes", str(running.prompt_cache))
    return ("--prompt-cache-size", str(running.slots))


def _template(plan: LaunchPlan, file: Path) -> str:
    """The template's text: this flag takes no file."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise llama.refuse(f"{plan.model}: its template cannot be read: {error}.") from None
