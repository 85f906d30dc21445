"""``doctor``: look for what is wrong, and say what mends it."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from control_api.client import Client
from control_api.commands.command import Command
from control_api.commands.local import checks
from control_api.commands.local.checks import Check
from control_api.commands.local.settings import add_config_flag, find_paths, load_settings
from control_api.commands.output import Out

_COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(args: Namespace, out: Out) -> int:
    found: list[Check] = []
    for check in examine(args.config):
        found.append(check)
        if not out.json:
            _print(check, out)
    verdicts = Counter(check.verdict for check in found)
    healthy = not verdicts["fail"]
    if out.json:
        out.value({"ok": healthy, "checks": [asdict(check) for check in found]})
    else:
        words = ((verdicts["fail"], "to mend"), (verdicts["warn"], "to look at"))
        counts = [f"{count} {word}" for count, word in words if count]
        out.line(f"\n{', '.join(counts) if counts else 'All is well.'}")
    return 0 if healthy else 1


def examine(config: str | None) -> Iterator[Check]:
    """All checks, in the order in which one mends things."""
    from importlib.metadata import packages_distributions

    yield checks.check_python()
    yield from checks.check_distributions(packages_distributions())
    yield from checks.check_folders(find_paths(config))
    yield checks.check_descriptors()
    daemon, status = checks.check_daemon(Client())
    yield daemon
    yield from checks.check_troubles(status)
    yield from _configured(config, status)


def _configured(config: str | None, status: dict[str, Any] | None) -> Iterator[Check]:
    """What can be looked at only with settings that are right."""
    from daemon.config.mistakes import ConfigError
    from daemon.machine import observe

    path = find_paths(config).config_file
    try:
        loaded = load_settings(config)
    except ConfigError as error:
        for mistake in error.mistakes:
            place = f"line {mistake.line}, " if mistake.line else ""
            text = f"{place}{mistake.where}: found {mistake.found}; allowed: {mistake.allowed}"
            yield Check("config", "fail", text, mistake.hint or f"Correct it in {path}.")
        return
    settings = loaded.settings
    count = len(settings.models)
    there = f"{path}, {count} models" if path.exists() else f"{path} is not there: all defaults"
    yield Check("config", "ok", there)
    for warning in loaded.warnings():
        text = f"{warning.where}: {warning.found}; {warning.allowed}"
        yield Check("config", "warn", text, warning.hint)
    yield checks.check_port(settings.server.host, settings.server.port, status)
    yield from checks.check_budget(settings, observe.facts())
    yield checks.check_pressure()
    yield from checks.check_learned(find_paths(config).state_dir)
    yield from _engines(config)


def _engines(config: str | None) -> Iterator[Check]:
    from control_api.commands.local.engine import look, registry_of

    models = load_settings(config).settings.models
    named = {entry.engine: name for name, entry in models.items() if entry.engine}
    yield from checks.check_engines(look(registry_of(config)), named)


def _print(check: Check, out: Out) -> None:
    mark = out.paint(check.verdict.ljust(4), _COLOURS[check.verdict])
    out.line(f"{mark}  {check.name.ljust(11)}  {check.text}")
    if check.fix and check.verdict != "ok":
        out.line(f"{'':17}  -> {check.fix}")


COMMANDS: Final = {
    "doctor": Command(
        summary="look for what is wrong: configuration, port, engines, memory, folders",
        text="It changes nothing. The exit code is 1 if something has to be mended.",
        examples=(("ctl doctor", ""), ("ctl doctor --json", "for a report")),
        run=doctor,
        arguments=add_config_flag,
    ),
}
