"""``vllm-mlx``: MLX with Anthropic's and OpenAI's newer dialects.

It names itself by ``--served-model-name`` and answers 404 to any other. Its port opens after the
load, and its ``/health`` is 200 even when it says "unhealthy".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from daemon.engines import llama, mlx_lm
from daemon.engines.adapter import Adapter
from daemon.engines.base import Installed, Launch, LaunchPlan, Probe
from daemon.engines.environment import child_environment

RUNNER: Final = Path(__file__).with_name("vllm_mlx_runner.py")

RESERVED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("--host", "--port"), "modelport chooses it"),
    **dict.fromkeys(("--api-key", "--api-key-file"), "a backend's key is made anew at each start"),
    "--served-model-name": "modelport tells it the model's name",
    **dict.fromkeys(
        ("--models-config", "--memory-budget-gb", "--auto-unload-idle-seconds",
         "--lazy-load-model"),
        "modelport loads and unloads",
    ),
}  # fmt: skip


class VllmMlx(Adapter):
    """vllm-mlx in an environment of its own, on the PATH, or in ours."""

    name = "vllm-mlx"
    weights = "safetensors"

    def find(self, settings: Mapping[str, object], environ: Mapping[str, str]) -> Installed:
        """See ``Engine.find`` and ``mlx_lm.locate``. A bare script gets no key: see the runner."""
        place = mlx_lm.locate(self.name, "vllm-mlx", settings, environ, self._inspector)
        return Installed(
            engine=self.name,
            program=(
                (str(place.python), "-P", str(RUNNER)) if place.python else (str(place.script),)
            ),
            version=place.version,
            accelerators=mlx_lm.runs_on(place, self._platform),
            warning=mlx_lm.slow(self.name, place, self._platform),
        )

    def launch(self, plan: LaunchPlan, installed: Installed) -> Launch:
        """See ``Engine.launch``.

        The context is not passed: ``--max-kv-size`` would drop the oldest text in silence. One slot
        means no continuous batching: two long prompts at once end a small machine.
        """
        if plan.kind not in ("chat", "completion"):
            hint = "Use a GGUF of it with llama-server."
            raise llama.refuse(f"{plan.model}: no {plan.kind} models with vllm-mlx yet.", hint)
        for what, file in (("mmproj", plan.mmproj), ("draft", plan.draft)):
            if file is not None:
                raise llama.refuse(
                    f"{plan.model}: vllm-mlx takes no {what}.", f"Leave `{what}` out."
                )
        if plan.template is not None:
            hint = "Put it into the model's folder as chat_template.jinja."
            raise llama.refuse(f"{plan.model}: vllm-mlx takes no template of its own.", hint)
        mlx_lm.check_args(plan, RESERVED)
        slots, cache = plan.running.slots, plan.running.prompt_cache // llama.MIB
        keyed = str(RUNNER) in installed.program
        argv = [
            *installed.program,
            *("serve", mlx_lm.folder_of(plan), "--host", "127.0.0.1", "--port", str(plan.port)),
            *("--served-model-name", plan.model),
            *("--max-num-seqs", str(slots)),
            *_kv(plan),
        ]
        if keyed:
            argv += ["--api-key-file", str(plan.secret_file)]
        if cache:
            argv += ["--cache-memory-mb", str(cache)]
        if slots > 1:
            argv.append("--continuous-batching")
        return Launch(
            argv=(*argv, *llama.counting(plan.args, plan.running)),
            env=child_environment(self._environ, {"PYTHONUNBUFFERED": "1"}, plan.env),
            files={str(plan.secret_file): f"{plan.secret}\n"} if keyed else {},
            headers=llama.headers(plan) if keyed else {},
            upstream_model=plan.model,
        )

    def probe(self, plan: LaunchPlan) -> Probe:
        real = llama.real_request(plan.kind, plan.model)
        return Probe("/health", *real, healthy_text=b'"healthy"')

    def routes(self, kind: str) -> frozenset[str]:
        spoken = {"chat", "completions", "messages", "count_tokens", "responses", "upstream"}
        return frozenset({"chat": spoken, "completion": {"completions", "upstream"}}.get(kind, ()))


def _kv(plan: LaunchPlan) -> tuple[str, ...]:
    bits = mlx_lm.kv_bits(plan)
    return ("--kv-cache-quantization", "--kv-cache-quantization-bits", bits[1]) if bits else ()
