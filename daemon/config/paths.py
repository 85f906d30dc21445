"""Where everything of ours lies: configuration, state, logs, cache, sockets."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import platformdirs

from daemon.core.problems import Code, Problem, ProblemError

APP: Final = "modelport"
GROUP: Final = "modelport"
"""Whose members may control the daemon of the whole machine."""

SYSTEM_CONFIG: Final = Path(f"/etc/{APP}/config.toml")
SYSTEM_RUNTIME: Final = Path(f"/run/{APP}")
MAX_SOCKET_PATH: Final = 100
"""Bytes. A unix socket's address holds 104 (macOS) or 108 (Linux), with a NUL at the end."""

ENGINE_SOCKET: Final = ".engine.sock"
"""How the sockets of engines end; those of their keepers end in ``.sock`` alone."""

_PLAIN_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
_HASHED_NAME: Final = re.compile(r".*-[0-9a-f]{10}")
_DIR_MODE: Final = 0o700


def expanded(path: str | Path) -> Path:
    """With the home in the place of ``~`` or ``~user``; that of nobody known stays as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib's raises for nobody known


@dataclass(frozen=True, slots=True)
class Paths:
    """All places, as absolute paths. Nothing is created or looked at before :meth:`ensure`."""

    config_file: Path
    state_dir: Path
    log_dir: Path
    cache_dir: Path
    runtime_dir: Path
    config_named: bool = False
    """Whether a flag or ``MODELPORT_CONFIG`` named the file: then it has to exist."""
    shared: bool = False
    """For the whole machine: members of the group :data:`GROUP` may control the daemon."""

    @classmethod
    def for_system(cls, environ: Mapping[str, str], *, config: Path | None = None) -> Paths:
        """The places of a service for the whole machine (``modelportd --system``, on Linux).

        The same variables as for :meth:`find` move them.
        """
        usual = {
            "MODELPORT_STATE_DIR": f"/var/lib/{APP}",
            "MODELPORT_LOG_DIR": f"/var/log/{APP}",
            "MODELPORT_CACHE_DIR": f"/var/cache/{APP}",
            "MODELPORT_RUNTIME_DIR": str(SYSTEM_RUNTIME),
            "MODELPORT_CONFIG": str(SYSTEM_CONFIG),
        }
        return replace(cls.find({**usual, **environ}, config=config), shared=True)

    @classmethod
    def find(cls, environ: Mapping[str, str], *, config: Path | None = None) -> Paths:
        """The places for this user and machine.

        ``config`` (``--config``) goes before ``MODELPORT_CONFIG``; ``MODELPORT_STATE_DIR``,
        ``_LOG_DIR``, ``_CACHE_DIR`` and ``_RUNTIME_DIR`` move the rest. Without them it is what
        platformdirs says, except for sockets: those are in ``XDG_RUNTIME_DIR``, else below the
        state directory, never in a folder of /tmp.
        """
        named = config if config is not None else _named(environ, "MODELPORT_CONFIG")
        state = _named(environ, "MODELPORT_STATE_DIR") or platformdirs.user_state_path(APP, False)
        runtime = _named(environ, "MODELPORT_RUNTIME_DIR")
        if runtime is None:
            session = environ.get("XDG_RUNTIME_DIR", "")
            runtime = Path(session) / APP if session.startswith("/") else state / "run"
        logs = _named(environ, "MODELPORT_LOG_DIR") or platformdirs.user_log_path(APP, False)
        cache = _named(environ, "MODELPORT_CACHE_DIR") or platformdirs.user_cache_path(APP, False)
        default = platformdirs.user_config_path(APP, False) / "config.toml"
        return cls(
            config_file=expanded(named if named is not None else default).absolute(),
            state_dir=state.absolute(),
            log_dir=logs.absolute(),
            cache_dir=cache.absolute(),
            runtime_dir=runtime.absolute(),
            config_named=named is not None,
        )

    @property
    def config_dir(self) -> Path:
        """The folder of the configuration file."""
        return self.config_file.parent

    @property
    def control_socket(self) -> Path:
        """Where ``ctl`` talks to the daemon."""
        return self.runtime_dir / "control.sock"

    @property
    def public_json(self) -> Path:
        """Where a shared daemon says to everybody where it serves and who may control it."""
        return self.runtime_dir / "public.json"

    @property
    def front_socket(self) -> Path:
        """Where the front hands checked requests to the control API."""
        return self.runtime_dir / "front.sock"

    @property
    def daemon_json(self) -> Path:
        """Where the daemon writes the address of its socket, for a ``ctl`` without a session."""
        return self.state_dir / "daemon.json"

    @property
    def keys_file(self) -> Path:
        """The keys of clients, hashed."""
        return self.state_dir / "keys.json"

    @property
    def engines_dir(self) -> Path:
        """What ``ctl engine install`` has put here, and which of it is in use."""
        return self.state_dir / "engines"

    @property
    def lock(self) -> Path:
        """Held by the one daemon that uses this runtime directory."""
        return self.runtime_dir / "lock"

    @property
    def backends_dir(self) -> Path:
        """Records and sockets of keepers. The name is short because sockets lie in it."""
        return self.runtime_dir / "b"

    @property
    def daemon_log(self) -> Path:
        """The daemon's own log."""
        return self.log_dir / "modelportd.log"

    @property
    def model_logs_dir(self) -> Path:
        """The logs of the backends."""
        return self.log_dir / "models"

    def model_log(self, name: str) -> Path:
        """The log of the backend of model ``name``; any name gives a safe file of its own."""
        return self.model_logs_dir / f"{safe_name(name)}.log"

    def backend_stem(self, model: str, generation: int) -> Path:
        """The path, without suffix, of the record and the socket of one backend.

        Short whatever the model is called: add ``.json`` or ``.sock``.
        """
        return self.backends_dir / f"{_digest(model)}-{generation}"

    def engine_socket(self, model: str, generation: int) -> Path | None:
        """Where the engine of one backend listens. None: on a port, since such a path would be too
        long, or has a comma, which to llama.cpp stands between two hosts."""
        path = self.backend_stem(model, generation).with_suffix(ENGINE_SOCKET)
        usable = len(os.fsencode(path)) <= MAX_SOCKET_PATH and "," not in str(path)
        return path if usable else None

    def ensure(self) -> None:
        """Create the directories, 0700, and see that nobody else can write there.

        Raises ProblemError where one is not ours, is open to others, cannot be made, or is too
        deep for a socket.
        """
        self.check_sockets()
        for path in (
            self.state_dir,
            self.log_dir,
            self.model_logs_dir,
            self.cache_dir,
            self.runtime_dir,
            self.backends_dir,
        ):
            ensure_private(path)

    def check_sockets(self) -> None:
        """Raises ProblemError where a socket's path would be longer than the system allows."""
        longest = self.backend_stem("", 10**9).with_suffix(".sock")
        for path in (self.control_socket, self.front_socket, longest):
            length = len(os.fsencode(path))
            if length > MAX_SOCKET_PATH:
                raise _problem(
                    f"The socket path {path} has {length} bytes; a system allows about 104,"
                    f" we use at most {MAX_SOCKET_PATH}.",
                    "Set MODELPORT_RUNTIME_DIR to a shorter directory of your own.",
                )


def ensure_private(path: Path) -> None:
    """Create ``path`` (0700) and its parents; refuse one that others can write to.

    Raises ProblemError with what is wrong and how to mend it.
    """
    try:
        path.mkdir(mode=_DIR_MODE, parents=True, exist_ok=True)
        info = path.stat()
    except OSError as error:
        reason = error.strerror or str(error)
        raise _problem(f"{path} cannot be used: {reason}.", "Free it, or name another.") from None
    if info.st_uid != os.geteuid():
        raise _problem(
            f"{path} belongs to user {info.st_uid}, not to us ({os.geteuid()}).",
            "Remove it or take it over with chown; modelport never shares its directories.",
        )
    if stat.S_IMODE(info.st_mode) & 0o022:
        mode = f"{stat.S_IMODE(info.st_mode):04o}"
        raise _problem(f"{path} can be written to by others (mode {mode}).", f"chmod 700 {path}")


def safe_name(name: str) -> str:
    """A file name for any text: the text itself where it is plain, else with a digest.

    Different texts give different names, also where the file system ignores case.
    """
    if _PLAIN_NAME.fullmatch(name) and not _HASHED_NAME.fullmatch(name):
        return name
    plain = re.sub(r"[^a-z0-9._-]+", "_", name.lower()).strip("._-")[:60] or "model"
    return f"{plain}-{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:10]


def _named(environ: Mapping[str, str], name: str) -> Path | None:
    value = environ.get(name, "")
    return expanded(value) if value else None


def _problem(message: str, hint: str) -> ProblemError:
    return ProblemError(Problem(Code.CONFIG_INVALID, message, hint))
