"""``service uninstall``: all that the installation did is undone, and nothing else."""

from __future__ import annotations

import getpass
import shutil
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from control_api.client import Client, RefusedError, UnreachableError
from control_api.commands.local.service import empty
from control_api.commands.local.service_install import paths_of
from control_api.commands.local.serviced import Serviced, find
from control_api.commands.output import Out
from daemon.core.problems import ProblemError
from daemon.service import record as records
from daemon.service.systemd import Systemd

if TYPE_CHECKING:
    from daemon.config.paths import Paths


def uninstall(args: Namespace, out: Out) -> int:
    service = find(args.scope)
    record = service.record()
    files = files_of(service, record)
    if not files and record is None and not service.places.root.exists():
        if out.json:
            out.value({"removed": []})
        else:
            out.line("The service is not installed.")
        return 0
    files, troubles = take_away(service, out, force=args.force)
    if out.json:
        out.value({"removed": [str(path) for path in files], "troubles": troubles})
        return 0
    for path in files:
        out.line(f"removed  {path}")
    for trouble in troubles:
        out.note(f"! {trouble}")
    kept = record.config if record is not None else "the configuration"
    out.line(f"The service is gone. {kept}, models and logs are as they were.")
    return 0


def take_away(service: Serviced, out: Out, *, force: bool) -> tuple[list[Path], list[str]]:
    """Undo the installation: its files that were removed, and what could not be done, in words.

    Raises ``RefusedError`` for who may not, ProblemError where the service does not stop.
    """
    record = service.record()
    files = files_of(service, record)
    try:
        service.may_change()
    except ProblemError as error:
        out.note(f"! {error.problem.text} Its files are removed all the same.")
    else:
        if service.manager.state().pid is not None:
            empty(out, force=force)
        _take_down(service, files)
    for path in files:
        path.unlink(missing_ok=True)
    if isinstance(service.manager, Systemd):
        with suppress(ProblemError):
            service.manager.forget([path.name for path in files])
    troubles = _undo(service, record)
    _clear(paths_of(service, record.config if record is not None else None))
    return files, troubles


def files_of(service: Serviced, record: records.Record | None) -> list[Path]:
    """Its files that are there: those written down, and those of our names."""
    units = service.places.units
    found = {service.places.service}
    if service.places.manager == "systemd":
        found |= {units / "modelport.socket", *units.glob("modelport-*.socket")}
    for name in record.files if record is not None else ():
        if Path(name).parent == units:
            found.add(Path(name))
    return sorted(path for path in found if path.is_symlink() or path.exists())


def _take_down(service: Serviced, files: list[Path]) -> None:
    service.manager.stop()
    if isinstance(service.manager, Systemd):
        service.manager.disable([path.name for path in files])


def _undo(service: Serviced, record: records.Record | None) -> list[str]:
    """What the installation did beside writing units; what could not be undone, in words."""
    troubles = []
    if record is not None:
        if record.linger and isinstance(service.manager, Systemd):
            trouble = service.manager.linger(getpass.getuser(), wanted=False)
            troubles += [f"lingering stays: {trouble}"] if trouble else []
        if record.user or record.group:
            from daemon.service.account import remove

            troubles += remove(record.user, record.group)
    try:
        if service.places.root.exists():
            shutil.rmtree(service.places.root)
    except OSError as error:
        troubles.append(f"{service.places.root} stays: {error}")
    with suppress(OSError):
        service.places.root.parent.rmdir()  # our folder of data, if nothing else is in it
    return troubles


def _clear(paths: Paths) -> None:
    """The runtime directory, unless somebody still works there."""
    with suppress(UnreachableError, RefusedError):
        Client(paths.control_socket).get("/version", seconds=2)
        return
    for path in (paths.lock, paths.public_json, paths.daemon_json):
        with suppress(OSError):
            path.unlink()
    for folder in (paths.backends_dir, paths.runtime_dir):
        with suppress(OSError):
            folder.rmdir()
