"""The steps of an upgrade: bring it, check it, switch, restart, look; and back if it is no good."""

from __future__ import annotations

import fcntl
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from control_api.client import RefusedError
from control_api.commands.local import handover
from control_api.commands.local.handover import Seen, Verdict
from control_api.commands.local.service_install import settings_of
from control_api.commands.output import Out
from control_api.commands.progress import Steps
from daemon.core.problems import ProblemError
from daemon.service import environment as environments
from daemon.service import record as records
from daemon.service import renewing
from daemon.service.environment import Environment
from daemon.service.installers import INSTALL_SECONDS
from daemon.service.programs import run_program
from daemon.service.render import stop_seconds
from daemon.service.upgrading import Act, Past, Plan, command, pinned, save_past

if TYPE_CHECKING:
    from control_api.commands.local.upgrade import Scene

_ASK: Final = 60.0
_LINES: Final = 40  # of the journal, to find why a daemon did not come up
_SHOWN: Final = 4
STATE_NOTE: Final = (
    "State that the newer version has written in another form is set aside (*.corrupt-*) and begins"
    " anew; models and configuration are as they were."
)


class Failed(Exception):
    """The new version is no good; its text says why."""


@contextmanager
def alone(scene: Scene) -> Iterator[None]:
    """No second upgrade at the same time. Raises ``RefusedError``."""
    place = scene.past_file.with_name("upgrade.lock")
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            text = "Another `ctl upgrade` is at work."
            raise RefusedError("invalid_request", text, "Wait for its end.") from None
        yield
    finally:
        os.close(descriptor)


def carry_out(scene: Scene, plan: Plan, args: Namespace, out: Out) -> dict[str, Any]:
    """Do it; what was done, for people and programs. Raises ``RefusedError``, ProblemError."""
    with Steps(out) as shown:

        def tell(text: str) -> None:
            shown.show({"step": "upgrade", "text": text})

        if plan.act is Act.ENVIRONMENT:
            done = _own_environment(scene, plan, args, tell)
        else:
            done = _other_program(scene, plan, args, tell)
    if args.rollback:
        done["notes"].append(STATE_NOTE)
    return done


# ------------------------------------------------------------ an environment of the service's own


def _own_environment(
    scene: Scene, plan: Plan, args: Namespace, tell: Callable[[str], None]
) -> dict[str, Any]:
    root = scene.service.places.root
    assert scene.record is not None, "an own environment is the service's"
    past = scene.past
    if args.rollback:
        assert past is not None, "planned"
        fresh = Environment(Path(past.environment), past.version)
        if not environments.answers(fresh):
            raise _refuse(f"{past.version} in {past.environment} does not start any more.")
    else:
        assert scene.installer is not None, "else there was no plan"
        shared = scene.service.scope == "system"
        fresh = renewing.renew(
            root, scene.folder, plan.what, scene.installer, shared=shared, tell=tell
        )
    tell("reading the configuration with its code")
    if mistakes := renewing.accepts(fresh, Path(scene.record.config)):
        _drop(root, fresh, keep=args.rollback)
        raise _refuse(f"{fresh.version} does not take the configuration:\n{mistakes}")
    old = Environment(scene.folder, scene.known.current)
    try:
        verdict = _switch(scene, fresh, tell)
    except (Failed, ProblemError, OSError, KeyboardInterrupt) as error:
        why = _why(scene, error)  # before the old one says more
        back = _switch_back(scene, old, tell)
        _drop(root, fresh, keep=args.rollback)
        raise _taken_back(old.version, fresh.version, why, back) from None
    held = Past(old.version, fresh.version, "own", str(old.folder))
    if args.rollback:
        held = replace(held, version=fresh.version, environment=str(fresh.folder), held=True)
    save_past(scene.past_file, held)
    kept = {fresh.folder} if args.rollback else {fresh.folder, old.folder}
    notes = renewing.tidy(root, kept)
    return _done(old.version, fresh.version, verdict, [*notes, *_afterwards(scene, fresh)])


def _switch(scene: Scene, fresh: Environment, tell: Callable[[str], None]) -> Verdict:
    """Let the service be ``fresh``. Raises Failed, ProblemError, OSError."""
    assert scene.record is not None, "planned"
    before = handover.look(scene.client)
    environments.switch(scene.service.places.root, fresh)
    changed = replace(scene.record, environment=str(fresh.folder), installed=fresh.version)
    records.save(scene.service.places.record, changed)
    return _restart(scene, before, fresh.version, tell)


def _restart(
    scene: Scene, before: Seen | None, version: str, tell: Callable[[str], None]
) -> Verdict:
    """Restart the service, if it runs, and wait for it. Raises Failed, ProblemError."""
    manager = scene.service.manager
    if manager.state().active not in ("running", "starting", "failed"):
        return Verdict()  # it is stopped, and the next start takes the other version
    if manager.run is run_program and scene.record is not None:
        # A daemon that hangs at its start is given up while backends still wait for one.
        patience = stop_seconds(settings_of(Path(scene.record.config))) + handover.WAIT
        manager.run = partial(run_program, seconds=patience)
    tell(f"restarting the service with {version}")
    manager.restart()
    tell(f"waiting for {version} to answer")
    was = before if before is not None else Seen(0, "", "")
    verdict = handover.await_daemon(scene.client, was, version, handover.WAIT)
    if verdict.waiting:
        raise Failed(f"After {handover.WAIT:g} s {verdict.waiting}.")
    return verdict


def _switch_back(scene: Scene, old: Environment, tell: Callable[[str], None]) -> str:
    """Let it be as it was; "" or what is wrong now."""
    assert scene.record is not None, "planned"
    tell(f"going back to {old.version}")
    try:
        environments.switch(scene.service.places.root, old)
        records.save(scene.service.places.record, scene.record)
        _restart(scene, None, old.version, tell)
    except (Failed, ProblemError, OSError) as error:
        return _words(error)
    return ""


def _drop(root: Path, fresh: Environment, *, keep: bool) -> None:
    if not keep:
        renewing.tidy(root, {path for path in environments.all_of(root) if path != fresh.folder})


def _afterwards(scene: Scene, fresh: Environment) -> list[str]:
    """What is left to say."""
    notes = []
    inside = Path(sys.prefix).resolve() == scene.folder.resolve()
    ctl = fresh.folder / "bin" / "ctl"
    flag = f"--{scene.service.scope}"
    shown = run_program([str(ctl), "service", "status", flag, "--json"], _ASK)
    if '"next": "The configuration or the files have changed' in shown.out:
        line = f"{scene.service.places.current / 'bin' / 'ctl'} service install {flag}"
        notes.append(f"Its service files have changed, too: {line}")
    if not inside:
        more = f": {scene.origin.upgrade}" if scene.origin.upgrade else ""
        notes.append(f"The service was changed; this ctl is an installation of its own{more}.")
    return notes


# ------------------------------------------------------------ what uv, pipx, Homebrew, pip have


def _other_program(
    scene: Scene, plan: Plan, args: Namespace, tell: Callable[[str], None]
) -> dict[str, Any]:
    known, past = scene.known, scene.past
    before = handover.look(scene.client) if scene.serves_this else None
    back = command(known, pinned(known.current, known.extras))
    if args.rollback:
        assert past is not None, "planned"
        fresh = replace(past, held=True)
    else:
        what = pinned(known.current, known.extras)
        fresh = Past(known.current, plan.target, known.kind.value, what=what)
    tell(f"running {plan.line}")
    _run(plan)
    version = _installed(scene) or plan.target
    if version == known.current:
        return _done(version, version, Verdict(), [f"{plan.argv[0]} left {version} as it is."])
    save_past(scene.past_file, fresh)
    if not scene.serves_this:
        return _done(known.current, version, Verdict(), _running_old(version))
    try:
        verdict = _restart(scene, before, version, tell)
    except (Failed, ProblemError) as error:
        why = _why(scene, error)
        if known.kind.value == "homebrew":
            trouble = "Homebrew keeps no older version"
            raise _taken_back(known.current, version, why, trouble) from None
        tell(f"going back to {known.current}: {' '.join(back)}")
        done = run_program(back, INSTALL_SECONDS)
        trouble = "" if done.code == 0 else done.said
        with suppress(Failed, ProblemError):
            _restart(scene, None, known.current, tell)
        raise _taken_back(known.current, version, why, trouble) from None
    return _done(known.current, version, verdict, [])


def _run(plan: Plan) -> None:
    done = run_program(plan.argv, INSTALL_SECONDS)
    if done.code != 0:
        raise RefusedError(
            "invalid_request", f"`{plan.line}` failed: {done.said}", "Run it by hand to see more."
        )


def _installed(scene: Scene) -> str:
    """The version that is here now, as its daemon says."""
    program = scene.origin.program or Path(sys.prefix, "bin", "modelportd")
    done = run_program([str(program), "--version"], _ASK)
    words = done.out.split()
    return words[-1] if done.code == 0 and words else ""


def _running_old(version: str) -> list[str]:
    from control_api.client import Client

    running = handover.look(Client())
    if running is None or running.version == version:
        return []
    text = f"A daemon of {running.version} runs (pid {running.pid}): "
    return [text + "`ctl shutdown`, then start it again."]


# ------------------------------------------------------------ words


def _done(before: str, after: str, verdict: Verdict, notes: list[str]) -> dict[str, Any]:
    return {
        "ok": True,
        "from": before,
        "to": after,
        "kept": list(verdict.kept),
        "lost": list(verdict.lost),
        "notes": notes,
    }


def _why(scene: Scene, error: BaseException) -> str:
    """What is wrong with the new daemon, with the last that it said."""
    lines = [_words(error)]
    with suppress(ProblemError):
        if last := scene.service.manager.state().last_exit:
            lines.append(f"It ended: {last}.")
    if (argv := scene.service.journal(_LINES, follow=False, as_json=False)) is not None:
        said = run_program(argv, _ASK)
        own = [line for line in said.out.splitlines() if " systemd[" not in line and line.strip()]
        lines += own[-_SHOWN:] if said.code == 0 else []
    return "\n".join(lines)


def _words(error: BaseException) -> str:
    if isinstance(error, ProblemError):
        return error.problem.message
    return "It was interrupted." if isinstance(error, KeyboardInterrupt) else str(error)


def _taken_back(old: str, fresh: str, why: str, trouble: str) -> RefusedError:
    text = f"{fresh} does not work here, and {old} is back.\n{why}"
    hint = "`ctl service logs` shows all that it said; models in memory were kept if they could be."
    if trouble:
        text = f"{fresh} does not work here, and going back to {old} failed, too: {trouble}\n{why}"
        hint = "`ctl service logs`, then `ctl service install`."
    return RefusedError(
        "upgrade_failed", text, hint, {"version": fresh, "back_to": old, "restored": not trouble}
    )


def _refuse(text: str) -> RefusedError:
    return RefusedError("invalid_request", text, "Nothing was changed: the version in use goes on.")
