"""llama-server's flags, mapped to ``xllamacpp.CommonParams``: what the embedded engine understands.

Loaded by ``xllamacpp_runner.py`` inside the engine's process, where ``daemon`` may not exist:
standard library only, relative imports only, and ``xllamacpp`` itself is handed in.

Flags are compared whole, as llama-server does: argparse would read an unknown ``-ts`` as ``-t s``
and ``-mu`` as ``-m u``, and a flag that does not do what it says must never be taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .table import FLAGS, begin, complete
from .values import ADVICE, Job, UsageError

__all__ = ["ADVICE", "UsageError", "known_flags", "parse"]


def known_flags() -> frozenset[str]:
    """Every flag that this runner understands."""
    return frozenset(name for flag in FLAGS for name in flag.names)


def parse(module: Any, argv: Sequence[str]) -> Any:
    """``CommonParams`` of ``module`` (xllamacpp) for a llama-server command line.

    Raises UsageError: unknown or unmappable flag, bad value, no model.
    """
    job = Job(module, module.CommonParams())
    begin(job)
    by_name = {name: flag for flag in FLAGS for name in flag.names}
    rest = iter(argv)
    seen: set[str] = set()
    for given in rest:
        # llama-server takes --ctx_size for --ctx-size
        flag = by_name.get(given.replace("_", "-") if given.startswith("--") else given)
        if flag is None:
            raise UsageError(f"{given}: {ADVICE}")
        raw = next(rest, None) if flag.takes else ""
        if raw is None:
            raise UsageError(f"{given}: a value must follow")
        try:
            flag.apply(job, raw)
        except (UsageError, TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"{given}: {error}") from None
        seen.add(flag.names[0])
    complete(job, seen)
    return job.params
