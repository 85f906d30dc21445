"""What a new configuration changes, so that nothing else is touched. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, fields
from typing import Any, Final

from daemon.config.catalog import Catalog
from daemon.config.entry import ENGINES
from daemon.config.model import Model
from daemon.config.settings import Settings
from daemon.config.tree import KeyPath, dotted, key_name

_LABELS: Final = frozenset({"aliases", "listed", "description", "preset", "warnings"})
# What is looked at for each request or decision, and never part of a started process.
_POLICY: Final = frozenset(
    {
        "keep_alive",
        "pin",
        "priority",
        "slots_written",
        "own_args",
        "params",
        "tools",
        "dialects",
        "rescue_tools",
        "loading_text",
        "allow_tools",
        "tell_cut_calls",
        "min_output",
        "max_output",
        "conversations",
        "auto_pull",
        "install",
        "size",
        "min_memory",
    }
)
_MODEL_FIELDS: Final = tuple(f.name for f in fields(Model) if f.compare)
# Bound or handed on once, at the start of the daemon.
_RESTART: Final = (
    "server.host",
    "server.port",
    "service",
    "timing.adopt_timeout",
)


@dataclass(frozen=True, slots=True)
class Changes:
    """The difference of two configurations. Names and dotted keys, sorted."""

    added: tuple[str, ...] = ()
    """Models that the file has now. One may have been there before, as a preset."""
    removed: tuple[str, ...] = ()
    """Models that the file has no longer, though there may still be a preset of that name."""
    changed: tuple[str, ...] = ()
    """Models whose backend has to be started anew for the change to count."""
    retuned: tuple[str, ...] = ()
    """Models with another keep-alive, priority, …: counts at once, the backend runs on."""
    relabelled: tuple[str, ...] = ()
    """Models with other names or descriptions only."""
    engines: tuple[str, ...] = ()
    """Engines whose settings changed: backends on them have to be started anew."""
    sections: tuple[str, ...] = ()
    """Other tables with a change."""
    keys: tuple[str, ...] = ()
    """The keys in them."""
    needs_restart: tuple[str, ...] = ()
    """Those of the keys that count only after a restart of the daemon."""

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) for f in fields(self))


def diff(old: Catalog, new: Catalog) -> Changes:
    """What is different in ``new``. ``diff`` of equal configurations is empty."""
    before = {**old.presets, **old.models}
    after = {**new.presets, **new.models}
    kinds = {name: _kind(before[name], after[name]) for name in before.keys() & after.keys()}
    for name in old.undecided ^ new.undecided:
        if kinds.get(name) == "changed":
            del kinds[name]  # one of the two has no weights yet: nothing can run of it
    new_or_gone = old.models.keys() ^ new.models.keys()
    keys = sorted(_changed_keys(old.settings, new.settings))
    sections = sorted({key[0] for key in keys if key[0] != "engines"}, key=str)
    told = [dotted(key) for key in keys if key[0] != "engines"]
    return Changes(
        added=tuple(sorted(new.models.keys() - old.models.keys())),
        removed=tuple(sorted(old.models.keys() - new.models.keys())),
        changed=_of_kind(kinds, "changed"),
        retuned=_of_kind(kinds, "retuned", new_or_gone),
        relabelled=_of_kind(kinds, "relabelled", new_or_gone),
        engines=tuple(_changed_engines(old.settings, new.settings)),
        sections=tuple(str(section) for section in sections),
        keys=tuple(told),
        needs_restart=tuple(key for key in told if _is_restart(key)),
    )


def _kind(old: Model, new: Model) -> str:
    different = {name for name in _MODEL_FIELDS if getattr(old, name) != getattr(new, name)}
    if different - _LABELS - _POLICY:
        return "changed"
    if different - _LABELS:
        return "retuned"
    return "relabelled" if different else ""


def _of_kind(kinds: Mapping[str, str], kind: str, told: Set[str] = frozenset()) -> tuple[str, ...]:
    return tuple(
        sorted(name for name, found in kinds.items() if found == kind and name not in told)
    )


def _changed_engines(old: Settings, new: Settings) -> Iterator[str]:
    for engine in ENGINES:
        if engine != "command" and old.engines.entry(engine) != new.engines.entry(engine):
            yield engine
    before, after = old.engines.command, new.engines.command
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield f"command.{name}"


def _changed_keys(old: Any, new: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """The keys of two tables of the same type that differ, tables by table."""
    for name, field in type(old).model_fields.items():
        if not path and name == "models":
            continue  # told by model, after merging
        one, other = getattr(old, name), getattr(new, name)
        here = (*path, key_name(name, field))
        if one == other:
            continue
        if type(one) is type(other) and hasattr(one, "model_fields_set"):
            yield from _changed_keys(one, other, here)
        else:
            yield here


def _is_restart(key: str) -> bool:
    return any(key == wanted or key.startswith(f"{wanted}.") for wanted in _RESTART)
