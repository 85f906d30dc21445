"""The installed service, or the one to be: its places, its manager, whether it is up to date."""

from __future__ import annotations

import getpass
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from control_api.client import RefusedError
from control_api.version import version
from daemon.service import record as records
from daemon.service.launchd import Launchd
from daemon.service.places import LABEL, Places, Scope
from daemon.service.programs import Run, run_program
from daemon.service.render import UnitFile
from daemon.service.systemd import Systemd

if TYPE_CHECKING:
    from daemon.config.mistakes import ConfigError
    from daemon.service.record import Record


@dataclass(slots=True)
class Serviced:
    """One service: a user's or the machine's."""

    places: Places
    manager: Systemd | Launchd = field(init=False)

    def __post_init__(self) -> None:
        self.look_again()

    def look_again(self) -> None:
        """The manager as it is now, with the sockets whose files are there."""
        self.manager = manager_of(self.places)

    @property
    def scope(self) -> Scope:
        return self.places.scope

    def record(self) -> Record | None:
        return records.load(self.places.record)

    def start(self) -> list[str]:
        """What could not be had, in words."""
        return self.manager.start() or []

    def may_change(self) -> None:
        """Raises ``RefusedError`` for who may not, and ProblemError where nobody is to be asked."""
        if self.scope == "system" and os.geteuid() != 0:
            text = "The service of the whole machine is changed by root alone."
            program = str(Path(sys.argv[0]).absolute())  # root's PATH may be another
            raise RefusedError("forbidden", text, " ".join(["sudo", program, *sys.argv[1:]]))
        if self.scope == "user" and os.environ.get("SUDO_USER") and os.geteuid() == 0:
            text = "With sudo this would be the service of root."
            raise RefusedError("invalid_request", text, "Say --system, or run it without sudo.")
        self.manager.check()

    def mistakes(self) -> ConfigError | None:
        """What is wrong with its configuration; None: nothing, as far as we know. Of the keys of
        another version, which it may run, we know nothing."""
        from daemon.config.load import load_with_sources
        from daemon.config.mistakes import ConfigError
        from daemon.service.environment import current
        from daemon.service.renewing import version_in

        record = self.record()
        if record is None:
            return None
        made = current(self.places.root) if record.environment else None
        if made is not None and version_in(made) != version():
            return None
        try:
            load_with_sources(Path(record.config), environ={})
        except ConfigError as error:
            return error
        except OSError:  # another user's
            return None
        return None

    def outdated(self) -> bool:
        """Whether an install would write other files than are there."""
        from control_api.commands.local.service_install import wanted
        from daemon.config.mistakes import ConfigError
        from daemon.core.problems import ProblemError

        record = self.record()
        if record is None:
            return False
        with suppress(ConfigError, ProblemError, RefusedError, OSError):
            return bool(
                changes(self, wanted(self, record.config, Path(record.program), record.user))
            )
        return False

    def lingers(self) -> bool | None:
        """Whether a user's service runs without a login; None where that is no question."""
        if self.scope == "user" and isinstance(self.manager, Systemd):
            return self.manager.lingers(getpass.getuser())
        return None

    def journal(self, lines: int, *, follow: bool, as_json: bool) -> list[str] | None:
        """The command that shows what it said; None: there is none but its file."""
        if isinstance(self.manager, Launchd):
            return None
        form = "json" if as_json else "short-iso"
        return self.manager.journal(lines, follow=follow, form=form)


def manager_of(places: Places, run: Run = run_program) -> Systemd | Launchd:
    """Who looks after a service that lies there."""
    if places.manager == "launchd":
        return Launchd(places.scope, places.service, run)
    found = sorted(places.units.glob(f"{LABEL}-*.socket"))
    return Systemd(places.scope, run, also=tuple(path.name for path in found))


def places(scope: Scope, platform: str = sys.platform) -> Places:
    """Where the files of this service lie on this machine."""
    config = os.environ.get("XDG_CONFIG_HOME", "")
    home = Path.home()
    return Places.find(
        platform,
        scope,
        home=home,
        config_home=Path(config) if config.startswith("/") else home / ".config",
    )


def find(scope: Scope | None) -> Serviced:
    """The service that is meant: the one that is named, else the user's if it is installed, else
    that of the machine if it is."""
    session()
    if scope is not None:
        return Serviced(places(scope))
    mine, machines = places("user"), places("system")
    if not mine.service.exists() and machines.service.exists():
        return Serviced(machines)
    return Serviced(mine)


def session() -> None:
    """The user's systemd is found by its runtime directory, which cron and su do not name."""
    usual = Path(f"/run/user/{os.getuid()}")
    if "XDG_RUNTIME_DIR" not in os.environ and usual.is_dir():
        os.environ["XDG_RUNTIME_DIR"] = str(usual)


def changes(service: Serviced, files: tuple[UnitFile, ...]) -> list[UnitFile]:
    """Those that are not there, or say something else."""
    return [one for one in files if read(service.places.units / one.name) != one.text]


def read(path: Path) -> str | None:
    """Its text; None if there is none."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
