"""What a reload did, as values and in words. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from daemon.backends.prepare import Prepared
from daemon.config.diff import Changes
from daemon.config.mistakes import ConfigError
from daemon.core.problems import ProblemError
from daemon.views import ReloadView


def refused(error: ConfigError | ProblemError) -> ReloadView:
    """The file was not taken, and why."""
    if isinstance(error, ConfigError):
        problem, mistakes = error.report(), error.to_json()
    else:
        problem, mistakes = error.problem.text, []
    empty: list[str] = []
    return ReloadView(
        ok=False,
        added=empty,
        removed=empty,
        changed=empty,
        relabelled=empty,
        settings=empty,
        needs_restart=empty,
        problem=problem,
        mistakes=mistakes,
    )


def starts_anew(
    changes: Changes,
    was: Mapping[str, Prepared],
    new: Mapping[str, Prepared],
    overridden: Iterable[str],
    running: Callable[[str], bool],
) -> frozenset[str]:
    """Models whose process must start anew: changed, on a changed engine, or with other
    weights, variants or engine than before. Another version of the same engine is taken by
    the next start: what runs is left alone."""
    touched = set(changes.changed) | set(overridden)
    for name, item in new.items():
        old = was.get(name)
        if old is None:
            continue
        if item.engine_name in changes.engines or item.started_as != old.started_as:
            touched.add(name)
        elif item.installed != old.installed and not running(name):
            touched.add(name)  # what it was given up for may be no more
    return frozenset(touched & new.keys())


def view_of(changes: Changes, touched: frozenset[str], troubles: Sequence[str] = ()) -> ReloadView:
    """``touched``: models whose process starts anew."""
    return ReloadView(
        ok=True,
        added=list(changes.added),
        removed=list(changes.removed),
        changed=sorted(touched - {*changes.added, *changes.removed}),
        relabelled=sorted({*changes.relabelled, *changes.retuned} - touched),
        settings=list(changes.keys),
        needs_restart=list(changes.needs_restart),
        troubles=list(troubles),
    )


def summary(view: ReloadView) -> str:
    """The same in one line."""
    parts = [
        f"{what} {', '.join(names)}"
        for what, names in (
            ("added", view.added),
            ("removed", view.removed),
            ("changed", view.changed),
            ("relabelled", view.relabelled),
            ("settings", view.settings),
        )
        if names
    ]
    restart = f"; needs a restart: {', '.join(view.needs_restart)}" if view.needs_restart else ""
    return f"configuration read again: {'; '.join(parts) or 'nothing changed'}{restart}"
