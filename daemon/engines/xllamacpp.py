"""The embedded engine: llama.cpp's server from the ``xllamacpp`` wheel, run by our runner."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from daemon.engines import llama
from daemon.engines.adapter import LlamaAdapter
from daemon.engines.base import Installed, Launch, LaunchPlan
from daemon.engines.binaries import Facts, Inspector, missing, named_path, runnable, stamp_of
from daemon.engines.llama_server import gpu_warning

RUNNER: Final = Path(__file__).with_name("xllamacpp_runner.py")

# Asked in a process of its own: the wheel starts GPU drivers and must never live in ours.
_QUESTION: Final = """
import json, xllamacpp
kinds = [device["name"].rstrip("0123456789").lower() for device in xllamacpp.get_device_info()]
several = hasattr(xllamacpp.CommonParams(), "hostnames")
print("\\n" + json.dumps([xllamacpp.__version__, kinds, several]))
"""
_NAMES: Final[Mapping[str, str]] = {"mtl": "metal"}


class Xllamacpp(LlamaAdapter):
    """The wheel in our own environment, or in that of the Python which ``path`` names."""

    name = "xllamacpp"

    def find(self, settings: Mapping[str, object], environ: Mapping[str, str]) -> Installed:
        """Locate the wheel.

        Raises ProblemError (ENGINE_MISSING): not installed, or it cannot be imported.
        """
        python = named_path(self.name, settings)
        if python is not None:
            python = runnable(self.name, python)
            facts = self._elsewhere(python, settings, environ)
        else:
            python = Path(sys.executable)
            spec = importlib.util.find_spec("xllamacpp")
            if spec is None or spec.origin is None:
                raise missing(self.name, "it is not installed")
            # The folder changes with each install of the wheel.
            inspector = self._inspector
            facts = inspector.facts(
                Path(spec.origin).parent, lambda: _ask(python, environ, inspector)
            )
        if facts is None:
            raise missing(self.name, f"{python} cannot import it")
        from daemon.engines.xllamacpp_flags import known_flags  # a large table

        return Installed(
            engine=self.name,
            # -P: or the module beside the runner would hide the wheel of the same name
            program=(str(python), "-P", str(RUNNER)),
            version=facts.version,
            flags=known_flags(),
            accelerators=facts.accelerators,
            warning=gpu_warning(self.name, facts.accelerators, self._platform),
            sockets=facts.sockets,
        )

    def _elsewhere(
        self, python: Path, settings: Mapping[str, object], environ: Mapping[str, str]
    ) -> Facts | None:
        """What another environment holds can change without its python changing."""
        inspector, stamp = self._inspector, stamp_of(python, settings)
        if stamp is None:
            return _ask(python, environ, inspector)
        return inspector.facts(stamp, lambda: _ask(python, environ, inspector), of=self.name)

    def launch(self, plan: LaunchPlan, installed: Installed) -> Launch:
        """See ``Engine.launch``."""
        for name in plan.env:
            if name.startswith("LLAMA_ARG_"):
                hint = 'Write it as a flag in args, or use llama-server (engine = "llama-server").'
                raise llama.refuse(f"{plan.model}: the embedded engine cannot obey {name}.", hint)
        return super().launch(plan, installed)


def _ask(python: Path, environ: Mapping[str, str], inspector: Inspector) -> Facts | None:
    text = inspector.output((str(python), "-P", "-c", _QUESTION), environ)
    try:
        # It listens on unix sockets since it takes several hosts.
        version, kinds, several = json.loads((text or "").rstrip().rpartition("\n")[2])
        names = [_NAMES.get(kind, kind) for kind in kinds if kind not in ("cpu", "blas")]
    except (ValueError, TypeError):
        return None
    return Facts(str(version), (), tuple(dict.fromkeys(names)), several is True)
