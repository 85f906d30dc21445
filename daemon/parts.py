"""Parts of the daemon that take long to import, or that not every daemon has: made once wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.configured import Configured
from daemon.control import Control
from daemon.keys import Keys
from daemon.machine.awake import Awake
from daemon.relay.front import Front
from daemon.service.kept import Kept

if TYPE_CHECKING:
    from daemon.housekeeping import Housekeeper
    from daemon.network import Network
    from daemon.powering import Powering
    from daemon.timetable import Timetable


def housekeeper(configured: Configured, awake: Awake) -> Housekeeper:
    """Memory samples and old logs. Not started yet."""
    from daemon.housekeeping import Housekeeper, Rounds

    return Housekeeper(
        configured.supervisor,
        configured.promised,
        configured.reader.learned,
        configured.learnt,
        configured.reader.paths.log_dir,
        Rounds.of(configured.settings),
        awake.attend,
    )


def powering(configured: Configured) -> Powering:
    """Battery and mains. Not started yet."""
    from daemon.powering import Powering

    return Powering(
        configured.supervisor,
        configured,
        configured.bus,
        configured.settings,
        configured.reader.environ,
    )


def network(front: Front, control: Control, keys: Keys, kept: Kept) -> Network:
    """Other machines. Nothing is opened yet."""
    from daemon.network import Network

    return Network(
        front,
        control.paths.state_dir,
        control.version,
        keys.any_now,
        keyless=keys.insecure,
        kept=kept,
    )


def timetable(control: Control) -> Timetable:
    """The schedule. Nothing is read yet."""
    from apscheduler.schedulers.asyncio import AsyncIOScheduler

    from daemon.timetable import Timetable

    return Timetable(
        AsyncIOScheduler(timezone="UTC"),
        control,
        control.configured.hold,
        control.bus,
        control.paths.state_dir / "schedule.json",
    )
