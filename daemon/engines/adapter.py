"""What every engine adapter has: how programs are asked, and how dying words are read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from daemon.engines import llama, signatures
from daemon.engines.base import Installed, Launch, LaunchPlan, Probe, Verdict
from daemon.engines.binaries import Inspector
from daemon.engines.environment import Platform


class Adapter:
    """Base of the adapters. ``environ`` is what children may inherit from, by allow-list."""

    def __init__(
        self,
        inspector: Inspector | None = None,
        environ: Mapping[str, str] = os.environ,
        platform: Platform | None = None,
    ) -> None:
        self._inspector = inspector or Inspector()
        self._environ = environ
        self._platform = platform or Platform.here()

    @property
    def pattern(self) -> str:
        """See ``Engine.pattern``."""
        return signatures.PATTERN

    @property
    def needles(self) -> tuple[str, ...]:
        """See ``Engine.needles``."""
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
        """See ``Engine.classify``."""
        return signatures.classify(status, lines, ready=ready, asked=asked, near_budget=near_budget)


class LlamaAdapter(Adapter):
    """Both programs of llama.cpp's server: one command line, one readiness, one set of routes."""

    weights = "gguf"

    def launch(self, plan: LaunchPlan, installed: Installed) -> Launch:
        """See ``Engine.launch``."""
        return Launch(
            argv=(*installed.program, *llama.arguments(plan, installed)),
            env=llama.environment(self._environ, plan),
            files={str(plan.secret_file): f"{plan.secret}\n"},
            headers=llama.headers(plan),
            upstream_model=plan.model,
        )

    def probe(self, plan: LaunchPlan) -> Probe:
        """See ``Engine.probe``."""
        return llama.probe(plan)

    def routes(self, kind: str) -> frozenset[str]:
        """See ``Engine.routes``."""
        return llama.routes(kind)
