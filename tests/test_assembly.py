"""The daemon put together: what is opened in which order, and what is left when it ends."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from control_api.app import _WORLD_KEY
from control_api.operation import Limits as ControlLimits
from daemon import assembly
from daemon.assembly import Daemon
from daemon.bounds import relay_limits
from daemon.config import presets
from daemon.config.load import load
from daemon.config.paths import Paths
from daemon.config.settings import Settings
from daemon.core.budget import NOTHING
from daemon.core.messages import Bytes
from daemon.core.problems import Code, Problem, ProblemError
from daemon.logs.files import RotatingHandler
from daemon.private import control_limits, no_authorities
from daemon.reading import Reader, Reading
from daemon.relay.limits import Limits
from tests.rooms import engine, model

SECONDS = 10.0
BODY = b'{"model":"nobody","messages":[]}'
ASK = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(BODY), BODY)
)


class House:
    """A daemon in this very process, on a port of its own."""

    def __init__(self, folder: Path, config: str) -> None:
        self.paths = Paths(
            config_file=folder / "config.toml",
            state_dir=folder / "state",
            log_dir=folder / "logs",
            cache_dir=folder / "cache",
            runtime_dir=folder / "run",
            config_named=True,
        )
        self.paths.ensure()
        self.write(config)
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.port: int = self.sock.getsockname()[1]
        settings = load(self.paths.config_file, environ={}, flags={})
        self.daemon = Daemon(
            settings,
            self.paths,
            self.sock,
            environ={"PATH": "/bin", "HOME": str(folder)},
            flags={},
            mode="foreground",
            version="0.0",
        )
        self.task: asyncio.Task[None] | None = None

    def write(self, config: str) -> None:
        self.paths.config_file.write_text(config)

    def start(self) -> None:
        self.task = asyncio.create_task(self.daemon.run())

    async def opened(self) -> None:
        await self.until(self.paths.daemon_json.exists)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():
                assert self.task is None or not self.task.done(), self.task
                await asyncio.sleep(0.005)

    async def ended(self) -> None:
        assert self.task is not None
        await asyncio.wait_for(self.task, SECONDS)

    async def ask(self) -> bytes:
        """The whole answer to a request for a model that is not there."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(ASK)
            return await asyncio.wait_for(reader.read(), SECONDS)
        finally:
            writer.close()
            await writer.wait_closed()

    def kinds(self) -> list[str]:
        return [event.kind for event in self.daemon.bus.history(0)]

    @property
    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


# A few files are made and removed at the start and at the end.
pytestmark = pytest.mark.usefixtures("blocking_allowed")


@pytest.fixture(autouse=True)
def memory_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freezing what the test session has in memory is not for a test."""
    monkeypatch.setattr(assembly, "tidy_memory", lambda: None)
    monkeypatch.setattr(presets, "packaged_file", lambda package, file: None)


@pytest.fixture
async def house(short_dir: Path) -> AsyncIterator[House]:
    house = House(short_dir, engine() + model("a", ctx=512))
    yield house
    if house.task is not None and not house.task.done():
        house.daemon.stop()
        house.daemon.stop()
        await house.ended()
    house.sock.close()


class Slow:
    """Readings that wait until they may, or raise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: ProblemError | None = None) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        read = Reader.read

        def slow(reader: Reader, settings: Settings, held: Bytes = NOTHING) -> Reading:
            self.begun.set()
            assert self.go.wait(SECONDS)
            if error is not None:
                raise error
            return read(reader, settings, held)

        monkeypatch.setattr(Reader, "read", slow)


# ---------------------------------------------------------------- a whole life


async def test_what_is_there_while_it_runs_and_what_is_left(house: House) -> None:
    house.start()
    await house.opened()
    paths = house.paths
    facts = json.loads(paths.daemon_json.read_text())
    assert facts["pid"] == os.getpid()
    assert (facts["port"], facts["mode"]) == (house.port, "foreground")
    assert facts["url"] == f"http://127.0.0.1:{house.port}" == house.daemon.control.url
    assert facts["socket"] == str(paths.control_socket)
    for path in (paths.daemon_json, paths.control_socket):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b" 404 " in await house.ask()
    assert house.daemon.control.models()[0].name == "a"
    house.daemon.control.shutdown()
    await house.ended()
    assert not paths.daemon_json.exists()
    assert not paths.control_socket.exists()
    assert not house.listens
    assert house.daemon.supervisor.draining
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert left == set(), "every task had an owner"


async def test_a_stale_control_socket_is_replaced(house: House) -> None:
    house.paths.control_socket.touch()
    house.start()
    await house.opened()
    assert stat.S_ISSOCK(house.paths.control_socket.stat().st_mode)


async def test_its_end_is_the_same_when_somebody_removed_its_files(house: House) -> None:
    house.start()
    await house.opened()
    house.paths.daemon_json.unlink()
    house.daemon.stop()
    await house.ended()
    assert not house.paths.control_socket.exists()


async def test_requests_that_come_before_the_models_are_known_wait(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    house.start()
    asking = asyncio.create_task(house.ask())
    await house.until(slow.begun.is_set)
    await house.until(lambda: house.daemon.supervisor._early)
    assert not asking.done()
    assert not house.paths.control_socket.exists(), "ctl is answered once there is an answer"
    slow.go.set()
    assert b" 404 " in await asking


async def test_told_to_stop_before_the_models_are_known(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    house.start()
    await house.until(slow.begun.is_set)
    house.daemon.stop()
    slow.go.set()
    await house.ended()
    assert not house.listens
    assert not house.paths.daemon_json.exists()


async def test_what_has_not_begun_when_it_ends_is_let_go(house: House) -> None:
    """Not left as work that was never awaited, which Python would tell of much later."""

    async def never() -> None:
        raise AssertionError("it was cancelled before")

    work = never()
    house.daemon._later(work, "work")
    for task in house.daemon._reloads:
        task.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert inspect.getcoroutinestate(work) == inspect.CORO_CLOSED


async def test_a_reading_that_fails_ends_it_and_answers_who_waited(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = ProblemError(Problem(Code.CONFIG_INVALID, "There is no such pool."))
    slow = Slow(monkeypatch, error)
    house.start()
    asking = asyncio.create_task(house.ask())
    await house.until(lambda: house.daemon.supervisor._early)
    slow.go.set()
    with pytest.raises(ProblemError, match="no such pool"):
        await house.ended()
    assert b" 503 " in await asking
    assert not house.listens


# ---------------------------------------------------------------- a reload


@pytest.fixture
def own_log(short_dir: Path) -> Iterator[RotatingHandler]:
    """The daemon's own log, as ``__main__`` opens it."""
    root = logging.getLogger()
    level, handler = root.level, RotatingHandler(short_dir / "own.log", 1 << 20, 5)
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)
    handler.close()


async def test_what_is_read_again_counts_without_a_restart(
    house: House, own_log: RotatingHandler
) -> None:
    house.start()
    await house.opened()
    assert b" 404 " in await house.ask()
    house.write(
        '[server]\nbody_limit = 10\n[logs]\nlevel = "error"\nmax_size = "2 MiB"\nkeep = 9\n'
        'format = "json"\n[timing]\ndrain_grace = 0.5\nmachine_sample = 7\n'
        "shutdown_retry = 3\nevent_keepalive = 4\nretry_after_max = 5\n" + engine()
    )
    view = await house.daemon.control.reload()
    assert (view.ok, view.needs_restart) == (True, [])
    assert b" 413 " in await house.ask()
    assert logging.getLogger().level == logging.ERROR
    assert (own_log.max_bytes, own_log.keep, own_log.form) == (2 << 20, 9, "json")
    assert house.daemon.supervisor.stopping.retry_after == 3
    apps = house.daemon.private.apps
    assert len(apps) == 2  # the private socket's, and the front's
    for app in apps:
        limits = app[_WORLD_KEY].limits
        assert (limits.heartbeat_seconds, limits.retry_after_max) == (4, 5)
    assert house.daemon.settings.timing.drain_grace == 0.5


async def test_a_reload_leaves_the_log_level_of_others_alone(house: House) -> None:
    """Unless [logs] was changed: it is the whole program's."""
    before = logging.getLogger().level
    house.start()
    await house.opened()
    house.write("[timing]\nsettle = 1\n" + engine())
    assert (await house.daemon.control.reload()).ok
    assert logging.getLogger().level == before


# ---------------------------------------------------------------- SIGHUP


async def test_a_hangup_reads_the_file_again(house: House) -> None:
    house.start()
    await house.opened()
    house.write(engine() + model("b"))
    house.daemon._hangup()
    await house.until(lambda: "reload" in house.kinds())
    assert [view.name for view in house.daemon.control.models()] == ["b"]


async def test_a_hangup_while_it_starts_waits_its_turn(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    house.start()
    await house.until(slow.begun.is_set)
    house.write(engine() + model("b"))
    house.daemon._hangup()
    house.daemon._hangup()
    slow.go.set()
    await house.until(lambda: house.kinds().count("reload") == 2)
    assert [view.name for view in house.daemon.control.models()] == ["b"]


async def test_a_hangup_with_a_bug_in_it_is_logged(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    house.start()
    await house.opened()

    def bug(reader: Reader, held: object) -> Reading:
        raise ValueError("what nobody thought of")

    monkeypatch.setattr(Reader, "again", bug)
    house.daemon._hangup()
    await house.until(lambda: "what nobody thought of" in caplog.text)
    assert b" 404 " in await house.ask()


async def test_a_hangup_while_it_ends_changes_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.start()
    await house.opened()
    slow = Slow(monkeypatch)
    house.write(engine() + model("p", pin="true"))
    house.daemon._hangup()
    await house.until(slow.begun.is_set)
    house.daemon.stop()
    slow.go.set()
    await house.ended()
    assert house.kinds() == []
    assert house.daemon.supervisor.backends == {}


# ---------------------------------------------------------------- the parts


def test_limits_and_guard_are_as_configured() -> None:
    settings = Settings.from_layers(
        {
            "server": {"body_limit": "1 MiB", "hosts": ["box"], "cors_origins": ["http://a.b"]},
            "timing": {"header_timeout": 1, "client_idle": 2, "body_stall": 3, "write_stall": 4}
            | {"connect_timeout": 5, "upstream_idle": 6, "shutdown_retry": 7}
            | {"close_linger": 8, "sweep": 9, "lost_retry": 10, "retry_after_max": 11}
            | {"event_keepalive": 12},
        }
    )
    limits = relay_limits(settings)
    assert limits.body_bytes == 1 << 20
    assert (limits.head_timeout, limits.idle_timeout, limits.body_silence) == (1, 2, 3)
    assert (limits.write_stall, limits.connect_timeout, limits.pool_idle) == (4, 5, 6)
    assert (limits.retry_after_drain, limits.retry_after_lost) == (7, 10)
    assert (limits.linger, limits.tick) == (8, 9)
    assert limits.retry_after_max == 11
    assert relay_limits(Settings.from_layers({})) == Limits()
    assert control_limits(settings) == ControlLimits(heartbeat_seconds=12, retry_after_max=11)
    assert control_limits(Settings.from_layers({})) == ControlLimits()


def test_tidying_memory_harms_nobody() -> None:
    code = "from daemon.memory import tidy_memory; import gc; tidy_memory()\n"
    code += "assert gc.get_freeze_count() > 0; print('well')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "well"), done.stderr


@pytest.mark.parametrize("before", [None, "/mine.pem"])
def test_authorities_are_out_of_sight_for_an_import_only(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    if before is not None:
        monkeypatch.setenv("SSL_CERT_FILE", before)
    with no_authorities():
        assert ssl.create_default_context().get_ca_certs() == []
    assert os.environ.get("SSL_CERT_FILE") == before
