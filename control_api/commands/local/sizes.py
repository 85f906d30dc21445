"""What ``estimate`` and ``plan`` share: the memory that models may take here, models by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from control_api.client import Client, RefusedError, UnreachableError
from control_api.commands.local.settings import find_paths, load_settings
from control_api.commands.output import pools, size

if TYPE_CHECKING:
    from daemon.backends.sizing import Sized, Sizer
    from daemon.config.catalog import Catalog
    from daemon.config.settings import Settings
    from daemon.engines.registry import Registry

STATUS_SECONDS: Final = 2.0  # a daemon that takes longer is not asked
PUBLISHED: Final = "from published figures, not from the files"


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes that all models together may take, by pool; ``source``: daemon, machine, or a flag.
    ``main``: the pools that models are loaded into."""

    amounts: Mapping[str, int]
    main: tuple[str, ...]
    source: str

    def shown(self) -> str:
        """For people: ``17.8 GiB unified``."""
        kept = {pool: self.amounts[pool] for pool in self.main if pool in self.amounts}
        return " + ".join(f"{size(amount)} {pool}" for pool, amount in kept.items()) or "0 B"


class Here:
    """The configuration, its models and the machine, read once."""

    def __init__(self, config: str | None, *, settings: Settings | None = None) -> None:
        """``settings``: instead of those of the file. Raises ``ConfigError``."""
        from daemon.config.catalog import Catalog
        from daemon.config.presets import load_presets

        self.paths = find_paths(config)
        self.settings = settings or load_settings(config).settings
        self.presets = load_presets()
        self.catalog: Catalog = Catalog.build(self.settings, self.presets)
        self.budget = _budget(self.settings, self.paths.config_file)

    def registry(self) -> Registry:
        """The engines of this machine."""
        from daemon.engines.install.shelf import Shelf
        from daemon.engines.registry import Registry

        cache, shelf = self.paths.cache_dir / "engines.json", Shelf(self.paths.engines_dir)
        return Registry(self.settings, os.environ, cache, shelf=shelf)

    def sizer(self, registry: Registry | None = None) -> Sizer:
        """What knows the sizes of models, as the daemon would find them."""
        from daemon.backends.sizing import Sizer
        from daemon.reading import Reader

        reader = Reader(self.paths, os.environ, {}, "foreground")
        names = tuple(self.budget.amounts)
        engines = registry or self.registry()
        return Sizer(self.settings, self.presets, engines, names, reader.files_of)

    def unknown(self, name: str) -> RefusedError:
        """No such model, with the nearest names."""
        near = self.catalog.nearest(name)
        there = sorted(self.catalog.models)
        if near:
            hint = f"Did you mean {', '.join(near)}?"
        elif there:
            hint = f"There are: {', '.join(there[:10])}{' …' if len(there) > 10 else ''}"
        else:
            hint = "No model is configured yet: ctl add PATH, or take a preset (ctl ls --presets)."
        return RefusedError(
            "model_not_found", f"There is no model {name[:200]!r}.", hint, facts={"nearest": near}
        )


def _budget(settings: Settings, config_file: Path) -> Budget:
    """As the running daemon has it, which knows what its own backends hold; else of the machine."""
    try:
        data = Client().get("/status", seconds=STATUS_SECONDS)
        if Path(str(data["config"])).absolute() == config_file.absolute():
            amounts = {str(pool["name"]): int(pool["budget"]) for pool in data["pools"]}
            if amounts:
                return Budget(amounts, _main(amounts), "daemon")
    except (UnreachableError, RefusedError, KeyError, TypeError, ValueError):
        pass
    from daemon.machine import observe
    from daemon.machine.budget import budget
    from daemon.translate import budget_text

    amounts = dict(budget(budget_text(settings), settings.memory.tier, observe.facts()))
    return Budget(amounts, _main(amounts), "machine")


def _main(amounts: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(pool for pool in amounts if pool != "ram") or tuple(amounts)


def given_budget(text: str, have: Budget, flag: str = "--budget") -> Budget:
    """``flag``: an amount for the pool of models, or ``gpu0=20GiB,gpu1=8GiB``. More than the
    machine has is allowed: plans are made for others too. Raises ``RefusedError``."""
    if "=" in text:
        pairs = dict(part.partition("=")[::2] for part in text.split(","))
        strange = [pool for pool in pairs if pool.strip() not in have.amounts]
        if strange:
            there = ", ".join(have.amounts)
            message = f"{flag} names {strange[0][:40]!r}; this machine has {there}."
            raise RefusedError("invalid_request", message, "Write it as gpu0=20GiB,gpu1=8GiB.")
        named = {pool.strip(): _amount(amount, flag) for pool, amount in pairs.items()}
        return Budget({**have.amounts, **named}, have.main, flag)
    if len(have.main) > 1:
        example = ",".join(f"{pool}={text}" for pool in have.main)
        message = f"{flag} {text} does not say which of {', '.join(have.main)} it is for."
        raise RefusedError("invalid_request", message, f"For example: {flag} {example}")
    amount = _amount(text, flag)
    return Budget({**have.amounts, **dict.fromkeys(have.main, amount)}, have.main, flag)


def _amount(text: str, flag: str) -> int:
    from daemon.core.units import parse_bytes

    try:
        amount = parse_bytes(text)
    except ValueError as error:
        raise RefusedError("invalid_request", f"{flag}: {error}.") from None
    if amount <= 0:
        raise RefusedError("invalid_request", f"{flag} {text} leaves nothing for models.")
    return amount


def source_of(sized: Sized) -> str:
    """Where its figures are from: ``files`` or ``published``."""
    return "files" if sized.here else "published"


def amounts(need: Mapping[str, int]) -> str:
    """Bytes by pool in one cell, without pools that get nothing."""
    return pools({pool: count for pool, count in need.items() if count} or {"": 0})
