"""``vllm serve``: NVIDIA and AMD servers. Its key comes by environment, never by argument.

Not run by this project's own tests: the flags are those of its documentation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from daemon.engines import llama, mlx_lm
from daemon.engines.adapter import Adapter
from daemon.engines.base import Installed, Launch, LaunchPlan, Probe
from daemon.engines.binaries import (
    INSTALL,
    Facts,
    Inspector,
    look_up,
    missing,
    named_path,
    python_beside,
    runnable,
    stamp_of,
)
from daemon.engines.environment import child_environment
from daemon.engines.llama_server import gpu_warning

_GPUS: Final[Mapping[str, str]] = {"nvidia": "cuda", "amd": "rocm"}
_DEVICES: Final = """
import torch
kind = "rocm" if torch.version.hip else "cuda"
print("\\n" + (kind if torch.cuda.is_available() else "none"))
"""
_VERSION: Final = re.compile(r"\b(\d+\.\d+\S*)")

RESERVED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("--host", "--port", "--uds", "--root-path"), "modelport chooses it"),
    "--model": "set `path` or `hf` of the model",
    "--served-model-name": "modelport tells it the model's name",
    "--api-key": "a backend's key is made anew at each start",
}

KV_TYPES: Final[Mapping[str, str]] = {"q8_0": "fp8"}  # the nearest that vLLM has


class Vllm(Adapter):
    """vLLM as the program ``vllm``."""

    name = "vllm"
    weights = "safetensors"

    def find(self, settings: Mapping[str, object], environ: Mapping[str, str]) -> Installed:
        """See ``Engine.find``: ``path`` (the program, or the folder of its environment), or PATH.

        The version comes from its environment's metadata, since ``vllm --version`` takes seconds.
        """
        path = named_path(self.name, settings)
        if path is not None and path.is_dir():
            path = path / "bin" / "vllm"
        path = path or look_up("vllm", environ)
        if path is None:
            raise missing(self.name, "it is not on the PATH")
        program = runnable(self.name, path)
        inspector, python = self._inspector, python_beside(program)
        facts = inspector.facts(program, lambda: _ask(program, environ, inspector))
        runs_on = tuple(_GPUS[gpu] for gpu in self._platform.gpus)
        warning = ""
        stamp = stamp_of(python, settings) if python is not None else None
        if runs_on and python is not None and stamp is not None:
            # An import of seconds, so only where there is a GPU to be asked about.
            asked = inspector.facts(stamp, lambda: _devices(python, environ, inspector), of="torch")
            if asked is not None:
                runs_on = asked.accelerators
                mends = INSTALL[self.name]
                warning = gpu_warning(self.name, runs_on, self._platform, mends)
        return Installed(
            engine=self.name,
            program=(str(program),),
            version=facts.version if facts else "unknown",
            accelerators=runs_on,
            warning=warning,
        )

    def launch(self, plan: LaunchPlan, installed: Installed) -> Launch:
        """See ``Engine.launch``. vLLM takes nine tenths of a GPU unless told otherwise: it is told
        what it was priced at."""
        for what, file in (("mmproj", plan.mmproj), ("draft", plan.draft)):
            if file is not None:
                raise llama.refuse(f"{plan.model}: vllm takes no {what}.", f"Leave `{what}` out.")
        mlx_lm.check_args(plan, RESERVED)
        running = plan.running
        argv = [
            *installed.program,
            *("serve", mlx_lm.folder_of(plan), "--host", "127.0.0.1", "--port", str(plan.port)),
            *("--served-model-name", plan.model),
            *("--max-model-len", str(running.ctx)),
            *("--max-num-seqs", str(running.slots)),
            *_kv(plan),
        ]
        if running.ubatch is not None:
            argv += ["--max-num-batched-tokens", str(running.ubatch)]
        if plan.kind in ("embedding", "rerank"):
            argv += ["--runner", "pooling"]
        if plan.template is not None:
            argv += ["--chat-template", str(plan.template)]
        if plan.memory_share is not None:
            argv += ["--gpu-memory-utilization", f"{plan.memory_share:.3f}"]
        own = {"PYTHONUNBUFFERED": "1"}
        return Launch(
            argv=(*argv, *llama.counting(plan.args, plan.running)),
            env=child_environment(self._environ, own, plan.env, {"VLLM_API_KEY": plan.secret}),
            headers=llama.headers(plan),
            upstream_model=plan.model,
        )

    def probe(self, plan: LaunchPlan) -> Probe:
        return Probe("/health", *llama.real_request(plan.kind, plan.model))

    def routes(self, kind: str) -> frozenset[str]:
        spoken = {"chat", "completions", "messages", "count_tokens", "responses", "upstream"}
        return frozenset(
            {
                "chat": spoken,
                "completion": {"completions", "upstream"},
                "embedding": {"embeddings", "upstream"},
                "rerank": {"rerank", "upstream"},
                "audio": {"audio", "upstream"},
            }.get(kind, {"upstream"})
        )


def _kv(plan: LaunchPlan) -> tuple[str, ...]:
    types = {plan.running.type_k, plan.running.type_v}
    if types <= {"f16"}:
        return ()
    kind = next(iter(types))
    if len(types) > 1 or kind not in KV_TYPES:
        hint = f"Both must be the same, one of f16, {', '.join(KV_TYPES)}."
        raise llama.refuse(f"{plan.model}: vllm cannot keep its context in that type.", hint)
    return ("--kv-cache-dtype", KV_TYPES[kind])


def _ask(program: Path, environ: Mapping[str, str], inspector: Inspector) -> Facts | None:
    question = "import importlib.metadata as m; print(m.version('vllm'))"
    python = python_beside(program)
    argv = (str(python), "-P", "-c", question) if python else (str(program), "--version")
    found = _VERSION.search(inspector.output(argv, environ) or "")
    return Facts(found[1]) if found else None


def _devices(python: Path, environ: Mapping[str, str], inspector: Inspector) -> Facts | None:
    """What its torch can use, which is what it can; None where it does not say."""
    text = inspector.output((str(python), "-P", "-c", _DEVICES), environ) or ""
    said = text.rstrip().rpartition("\n")[2]
    if said not in ("none", "rocm", "cuda"):
        return None
    return Facts("torch", (), () if said == "none" else (said,))
