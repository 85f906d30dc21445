"""The private side: the sockets on which the control API answers, and the files that say where.

Beside the composition root the one module here that knows the control API.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.access.principals import Principal
from daemon.config.paths import GROUP, Paths
from daemon.config.settings import Settings
from daemon.control import Control
from daemon.files import DISK
from daemon.ports import Hold, Target

if TYPE_CHECKING:
    from aiohttp import web

    from control_api.auth import Auth
    from control_api.operation import Limits as ControlLimits

CONTROL_CLOSE = 2.0  # seconds for open answers of the control socket: they are told to end first


class Private:
    """See the module."""

    def __init__(self, control: Control, paths: Paths) -> None:
        self.control, self.paths = control, paths
        self.apps: list[web.Application] = []
        self._runners: list[web.AppRunner] = []

    async def open(self, settings: Settings) -> Callable[[Principal], Hold]:
        """The private socket, whose file permissions are the password; and the front's own, on
        which it states who asks, under a secret of this start. Returns how the front asks there."""
        with no_authorities():
            from control_api.auth import FrontAuth, MembersAuth, OwnerAuth, front_headers

        private = self.paths.control_socket
        auth = MembersAuth(GROUP) if self.paths.shared else OwnerAuth()
        await self._serve(private, auth, settings)
        if self.paths.shared:  # its group is the daemon's own
            private.chmod(0o660)
        secret = secrets.token_urlsafe(32)
        await self._serve(self.paths.front_socket, FrontAuth(secret), settings)
        target = Target("localhost", 0, str(self.paths.front_socket))

        def hold(who: Principal) -> Hold:
            return Hold(target, "", front_headers(secret, who), keep_query=True)

        return hold

    async def _serve(self, path: Path, auth: Auth, settings: Settings) -> None:
        from aiohttp import web

        from control_api.app import make_app

        path.unlink(missing_ok=True)  # noqa: ASYNC240 - a socket's name, in memory
        limits, hidden = control_limits(settings), self.control.configured.reader.hidden
        app = make_app(self.control, auth=auth, limits=limits, redact=hidden)
        runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,  # a watcher that left is noticed
            shutdown_timeout=CONTROL_CLOSE,
        )
        await runner.setup()
        self.apps.append(app)
        before = os.umask(0o177)
        try:
            await web.UnixSite(runner, str(path)).start()
        finally:
            os.umask(before)
        self._runners.append(runner)

    def follow(self, settings: Settings) -> None:
        """What was read again counts for the next request."""
        if self.apps:
            from control_api.app import set_limits

            for app in self.apps:
                set_limits(app, control_limits(settings))

    def write_facts(self, port: int) -> None:
        """For a ``ctl`` that does not know our runtime directory (cron, su)."""
        facts = {
            "pid": os.getpid(),
            "socket": str(self.paths.control_socket),
            "url": self.control.url,
            "port": port,
            "mode": self.control.mode,
            "started_at": time.time(),
        }
        DISK.write(self.paths.daemon_json, (json.dumps(facts) + "\n").encode())
        if self.paths.shared:
            told = {"url": self.control.url, "group": GROUP}
            DISK.write(self.paths.public_json, (json.dumps(told) + "\n").encode())
            with suppress(OSError):
                self.paths.public_json.chmod(0o644)

    async def close(self) -> None:
        """No socket is open and no file says where one was."""
        for runner in self._runners:
            await runner.cleanup()
        told = (self.paths.daemon_json, self.paths.public_json)
        for path in told:
            DISK.forget(path)
        await asyncio.to_thread(DISK.again)
        for path in (*told, self.paths.control_socket, self.paths.front_socket):
            with suppress(OSError):
                path.unlink()


@contextmanager
def no_authorities() -> Iterator[None]:
    """While aiohttp is imported for the first time: it reads the system's certificate authorities
    then, for requests of its own over TLS, and holds 2 MB of them. This process makes none, it only
    answers on sockets of its own; such a request would be refused.

    ``SSL_CERT_FILE`` is where OpenSSL looks for them (``SSL_CTX_set_default_verify_paths(3)``).
    """
    name, before = "SSL_CERT_FILE", os.environ.get("SSL_CERT_FILE")
    os.environ[name] = os.devnull
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def control_limits(settings: Settings) -> ControlLimits:
    """The control API's limits as configured."""
    from control_api.operation import Limits as ControlLimits

    timing = settings.timing
    return ControlLimits(
        heartbeat_seconds=timing.event_keepalive, retry_after_max=timing.retry_after_max
    )
