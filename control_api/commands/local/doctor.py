"""``doctor``: look for what is wrong, and say what mends it.

The checks are made side by side in threads, each group on its own: one that hangs or fails is told
as such, and takes nothing from the others.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from control_api.client import Client
from control_api.commands.command import Command
from control_api.commands.local import (
    check_machine,
    check_names,
    check_reach,
    check_service,
    checks,
    report,
)
from control_api.commands.local.checks import Check, Verdict
from control_api.commands.local.settings import add_config_flag, find_paths, load_settings
from control_api.commands.output import Out
from control_api.commands.progress import Notice

if TYPE_CHECKING:
    from daemon.config.paths import Paths
    from daemon.config.settings import Settings

_COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}
SECONDS: Final = 9.0  # for all of it: no wait of a person's is longer than ten
CONFIG_LIMIT: Final = 1 << 20  # bytes of the file that are looked at for paths
NOTICE: Final = 0.4  # seconds of silence after which it is told what is looked at

Work = Callable[[], Iterable[Check]]


def doctor(args: Namespace, out: Out) -> int:
    visit = Visit(args.config)
    who = report.this_person(_model_paths(visit)) if args.redact else None
    found: list[Check] = []
    for check in visit.examine(Notice(out)):
        shown = check if who is None else report.redacted(check, who)
        found.append(shown)
        if not out.json:
            _print(shown, out)
    verdicts = Counter(check.verdict for check in found)
    healthy = not verdicts["fail"]
    if out.json:
        out.value({"ok": healthy, "checks": [asdict(check) for check in found]})
    else:
        words = ((verdicts["fail"], "to mend"), (verdicts["warn"], "to look at"))
        counts = [f"{count} {word}" for count, word in words if count]
        out.line(f"\n{', '.join(counts) if counts else 'All is well.'}")
    return 0 if healthy else 1


@dataclass
class Visit:
    """One round of all checks. What several of them need is found once, by whoever comes first."""

    config: str | None
    seconds: float = SECONDS
    paths: Paths = field(init=False)
    status: Future[dict[str, Any] | None] = field(default_factory=Future)
    settings: Future[Settings | None] = field(default_factory=Future)  # None: not valid

    def __post_init__(self) -> None:
        self.paths = find_paths(self.config)

    def groups(self) -> tuple[tuple[str, Work], ...]:
        """All checks, in the order in which one mends things."""
        return (
            ("python", self._python),
            ("commands", check_names.check_programs),
            ("service", check_service.check_service),
            ("folders", self._folders),
            ("files", self._limits),
            ("clock", self._clock),
            ("proxy", lambda: [check_machine.check_proxies(os.environ)]),
            ("daemon", self._daemon),
            ("config", self._config),
            ("port", self._port),
            ("keys", lambda: check_reach.check_keys(self.paths.state_dir / "keys.json")),
            ("lan", self._lan),
            ("memory", self._memory),
            ("models disk", self._disk),
            ("sleep", self._sleep),
            ("engine", self._engines),
        )

    def examine(self, notice: Notice) -> Iterator[Check]:
        """Every check's lines; done within ``seconds``, whatever hangs."""
        end = time.monotonic() + self.seconds
        before = _children()
        running = [(name, _begin(name, work)) for name, work in self.groups()]
        late = False
        for name, answer in running:
            try:
                yield from self._wait(name, answer, end, notice)
            except LateError:
                late = True
                text = f"no answer within {self.seconds:g} s"
                yield Check(name, "warn", text, "Something there hangs: see the lines around it.")
            except Exception as error:  # noqa: BLE001 (it becomes a line of the report)
                text = f"could not be looked at: {type(error).__name__}: {error}"
                yield Check(name, "fail", text, "Please report it: ctl doctor --redact")
        if late:  # what was started to be asked for its version has no owner after us
            _end(_children() - before)

    def _wait(
        self, name: str, answer: Future[list[Check]], end: float, notice: Notice
    ) -> list[Check]:
        try:
            return answer.result(min(NOTICE, max(0.0, end - time.monotonic())))
        except LateError:
            if answer.done():
                raise
        notice.show(name)
        try:
            return answer.result(max(0.0, end - time.monotonic()))
        finally:
            notice.clear()

    # ------------------------------------------------------------ the groups

    def _python(self) -> Iterator[Check]:
        from importlib.metadata import packages_distributions

        yield checks.check_python()
        yield from checks.check_distributions(packages_distributions())

    def _folders(self) -> Iterator[Check]:
        paths = self.paths
        yield from checks.check_folders(paths)
        kept = (paths.state_dir, paths.cache_dir, paths.config_dir, paths.backends_dir)
        yield from check_names.check_leftovers(dict.fromkeys(kept))

    def _limits(self) -> Iterator[Check]:
        status = self.status.result(self.seconds)
        limits = check_machine.limits_of(status.get("pid") if status else None)
        yield checks.check_descriptors(limits["RLIMIT_NOFILE"])
        settings = self.settings.result(self.seconds)
        mlock = check_machine.locking(settings) if settings is not None else ()
        yield from check_machine.check_limits(limits, mlock)

    def _clock(self) -> Iterator[Check]:
        state = check_machine.state_files(self.paths.state_dir)
        yield from check_machine.check_clock(check_machine.own_files(), state)

    def _daemon(self) -> Iterator[Check]:
        with _promise(self.status, None) as keep:
            check, status = checks.check_daemon(Client())
            keep(status)
        yield check
        yield from checks.check_troubles(status)

    def _config(self) -> Iterator[Check]:
        from daemon.config.mistakes import ConfigError

        path = self.paths.config_file
        with _promise(self.settings, None) as keep:
            try:
                loaded = load_settings(self.config)
            except ConfigError as error:
                yield from checks.check_mistakes(error, path)
                return
            except OSError as error:
                text = f"{path} cannot be read: {error.strerror}"
                yield Check("config", "fail", text, f"Mend its rights: chmod 600 {path}")
                return
            keep(loaded.settings)
        count = len(loaded.settings.models)
        there = f"{path}, {count} models" if path.exists() else f"{path} is not there: all defaults"
        yield Check("config", "ok", there)
        for warning in loaded.warnings():
            text = f"{warning.where}: {warning.found}; {warning.allowed}"
            yield Check("config", "warn", text, warning.hint)

    def _port(self) -> Iterator[Check]:
        settings, status = self._known()
        if settings is not None:
            yield checks.check_port(settings.server.host, settings.server.port, status)

    def _lan(self) -> Iterator[Check]:
        settings, status = self._known()
        if settings is not None:
            keys = check_reach.read_keys(self.paths.state_dir / "keys.json")
            yield from check_reach.check_lan(settings, status, keys)

    def _memory(self) -> Iterator[Check]:
        from daemon.machine import observe

        settings = self.settings.result(self.seconds)
        if settings is not None:
            facts = observe.facts()
            yield from checks.check_budget(settings, facts)
            yield from check_machine.check_bounds(facts)
            yield checks.check_pressure()
            yield from checks.check_learned(self.paths.state_dir)

    def _disk(self) -> Iterator[Check]:
        from daemon.downloads.locate import default_cache

        yield from check_machine.check_models_disk(default_cache())

    def _sleep(self) -> Iterator[Check]:
        settings = self.settings.result(self.seconds)
        if settings is not None:
            yield from check_machine.check_sleep(settings)

    def _engines(self) -> Iterator[Check]:
        from control_api.commands.local import engine
        from daemon.engines.install.shelf import Shelf

        settings = self.settings.result(self.seconds)
        if settings is not None:
            models = settings.models
            named = {entry.engine: name for name, entry in models.items() if entry.engine}
            yield from checks.check_engines(engine.look(engine.registry_of(self.config)), named)
        yield from checks.check_given_up(Shelf(self.paths.engines_dir))

    def _known(self) -> tuple[Settings | None, dict[str, Any] | None]:
        return self.settings.result(self.seconds), self.status.result(self.seconds)


@contextlib.contextmanager
def _promise(future: Future[Any], otherwise: Any) -> Iterator[Callable[[Any], None]]:
    """``future`` gets what is kept, or ``otherwise`` if nothing comes of it: others wait for it."""
    try:
        yield future.set_result
    finally:
        if not future.done():
            future.set_result(otherwise)


def _begin(name: str, work: Work) -> Future[list[Check]]:
    """In a thread that nobody waits for at the end: it may hang in the kernel."""
    answer: Future[list[Check]] = Future()

    def run() -> None:
        try:
            found = list(work())
        except Exception as error:  # noqa: BLE001 (raised again where it is waited for)
            answer.set_exception(error)
        else:
            answer.set_result(found)

    threading.Thread(target=run, name=f"doctor: {name}", daemon=True).start()
    return answer


def _children() -> set[Any]:
    import psutil

    with contextlib.suppress(psutil.Error):
        return set(psutil.Process().children(recursive=True))
    return set()


def _end(children: set[Any]) -> None:
    import psutil

    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()


def _model_paths(visit: Visit) -> list[str]:
    """Paths as the file has them, and as they are read: they name their owner's disks. Taken from
    its text, since it may have mistakes."""
    try:
        with visit.paths.config_file.open("rb") as file:
            text = file.read(CONFIG_LIMIT).decode("utf-8", "replace")
    except OSError:
        return []
    written = re.findall(r"""["']([^"'\n]*/[^"'\n]*)["']""", text)
    return [*written, *(os.path.expanduser(path) for path in written)]  # noqa: PTH111 (never raises)


def _print(check: Check, out: Out) -> None:
    verdict: Verdict = check.verdict
    mark = out.paint(verdict.ljust(4), _COLOURS[verdict])
    out.line(f"{mark}  {check.name.ljust(11)}  {check.text}")
    if check.fix and verdict != "ok":
        out.line(f"{'':17}  -> {check.fix}")


def _arguments(parser: ArgumentParser) -> None:
    add_config_flag(parser)
    parser.add_argument(
        "--redact",
        action="store_true",
        help="for a bug report: without names, keys, addresses, your folders and models' paths",
    )


COMMANDS: Final = {
    "doctor": Command(
        summary="look for what is wrong: service, port, configuration, engines, memory, keys, …",
        text="It changes nothing. The exit code is 1 if something has to be mended.",
        examples=(
            ("ctl doctor", ""),
            ("ctl doctor --redact", "for a bug report"),
            ("ctl doctor --json", "for a program"),
        ),
        run=doctor,
        arguments=_arguments,
    ),
}
