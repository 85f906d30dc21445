"""Real keepers, real engines: every row of the table of what a keeper promises."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import stat
import time

import psutil
import pytest
import uvloop

from daemon.backends import keeper as program
from daemon.backends import keeping
from daemon.backends.keeping import (
    ExecFailed,
    Exited,
    Gone,
    Keeper,
    KeeperError,
    Lines,
    LogTrouble,
    OrderFile,
    records,
)
from tests.backends.keeper_house import (
    CHILD,
    DEADLINE,
    DEAF_WAIT,
    WAIT,
    Events,
    House,
    begin,
    gone,
    is_up,
    until,
)
from tests.backends.keeper_house import house as _house

pytestmark = pytest.mark.processes

house = pytest.fixture(_house)

# --- start ---------------------------------------------------------------------------------------


async def test_a_whole_life(house: House) -> None:
    key = house.root / "run" / "key"
    order = house.order(
        house.engine(WAIT), files=(OrderFile(key, "s3cret\n"),), facts={"port": 9, "key": "k"}
    )
    keeper, events = await begin(order)
    hello = keeper.hello
    assert (hello.backend, hello.generation, hello.argv) == (house.tag, 7, order.argv)
    assert hello.facts == {"port": 9, "key": "k"}
    assert keeper.pid is not None
    assert hello.start == program.start_token(keeper.pid)
    assert (hello.exit, hello.error, hello.gone) == (None, None, False)
    for path in (key, order.record, order.socket, order.log):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert key.read_text() == "s3cret\n"
    [record] = records(order.record.parent)
    assert (record.pid, record.start, record.argv) == (keeper.pid, hello.start, order.argv)
    assert record.keeper_alive
    await until(lambda: is_up(house))
    assert (await keeper.refresh()).log_bytes == len("up\n")

    keeper.stop(DEADLINE, DEADLINE)
    await gone(keeper, events)
    [exited, _gone] = events
    assert isinstance(exited, Exited)
    assert exited.status == -signal.SIGTERM
    assert 0 <= time.monotonic() - exited.at < DEADLINE
    assert exited.last == "up"
    assert list(order.record.parent.iterdir()) == []
    assert not psutil.pid_exists(hello.keeper_pid), "reaped, not a zombie"


async def test_secrets_are_in_no_command_line_and_in_no_keepers_environment(house: House) -> None:
    secret = "canary-8f3a"
    order = house.order(
        house.engine(WAIT),
        env={"ENGINE_KEY": secret},
        files=(OrderFile(house.root / "key", secret),),
        facts={"key": secret},
    )
    keeper, events = await begin(order)
    assert keeper.pid is not None
    await until(lambda: is_up(house))
    for pid in house.pids():
        assert secret not in " ".join(psutil.Process(pid).cmdline())
    assert secret not in str(psutil.Process(keeper.hello.keeper_pid).environ())
    engines = psutil.Process(keeper.pid).environ()
    assert engines == {"ENGINE_KEY": secret}, "the order's environment and no other"
    assert secret not in repr(order)
    keeper.kill()
    await gone(keeper, events)


async def test_the_engine_starts_with_clean_signals_and_a_session_of_its_own(house: House) -> None:
    script = f"grep -E '^Sig(Blk|Ign)' /proc/self/status; readlink /proc/self/fd/0; : {house.tag}"
    keeper, events = await begin(house.order(("/bin/sh", "-c", script)))
    await gone(keeper, events)
    blocked, ignored, stdin = house.text().splitlines()
    # 32 and 33 are the C library's own: what our caller does with them, nobody can undo.
    library = 1 << 31 | 1 << 32
    assert int(blocked.removeprefix("SigBlk:"), 16) & ~library == 0
    assert int(ignored.removeprefix("SigIgn:"), 16) & ~library == 0
    assert stdin == "/dev/null"

    other = house.order(house.engine("import os; print(os.getsid(0) == os.getpid())"))
    keeper, events = await begin(other)
    await gone(keeper, events)
    assert house.text() == "True\n"


async def test_an_engine_that_cannot_be_run_is_told_at_once_with_errno(house: House) -> None:
    plain = house.root / "plain"
    plain.write_text("no program")
    script = house.root / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o700)
    cases: list[tuple[str, dict[str, object], int, str]] = [
        ("/no/such/llama-server", {}, errno.ENOENT, "cannot run /no/such/llama-server: No such"),
        ("no-such-program-at-all", {}, errno.ENOENT, "cannot run no-such-program-at-all"),
        (os.fspath(plain), {}, errno.EACCES, f"cannot run {plain}: Permission denied"),
        (os.fspath(script), {}, errno.ENOENT, "the interpreter in its first line"),
        ("/bin/true", {"cwd": house.root / "no"}, errno.ENOENT, "cannot enter the folder"),
        ("/bin/true\0", {}, errno.EINVAL, "Invalid argument"),
        ("/bin/true", {"files": (OrderFile(house.root / "n" / "k", "x"),)}, errno.ENOENT, "n/k"),
    ]
    for program_name, changes, number, text in cases:
        order = house.order((program_name, house.tag), connect_grace=60.0, **changes)
        keeper, events = await begin(order)
        await gone(keeper, events)
        [failed, _gone] = events
        assert isinstance(failed, ExecFailed)
        assert failed.errno == number
        assert text in failed.text
        assert keeper.pid is None
        assert records(house.root / "run") == []


async def test_a_keeper_that_dies_early_is_reported_with_its_text(house: House) -> None:
    python = house.root / "python"
    python.write_text("#!/bin/sh\necho 'no module named re' >&2\nexit 3\n")
    python.chmod(0o700)
    with pytest.raises(KeeperError, match="did not start: no module named re"):
        await Keeper.start(
            house.order(("x",)), on_event=Events(), patience=DEADLINE, python=os.fspath(python)
        )
    with pytest.raises(KeeperError, match="cannot start a keeper"):
        await Keeper.start(
            house.order(("x",)), on_event=Events(), patience=DEADLINE, python="/no/python"
        )
    with pytest.raises(KeeperError, match="argv: at least the program"):
        await Keeper.start(house.order(()), on_event=Events(), patience=DEADLINE)


async def test_a_keeper_that_never_says_hello_is_ended(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "CLOSE_DEADLINE", 0.1)
    python = house.root / "python"
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o700)
    with pytest.raises(KeeperError, match=r"no hello within 0\.1 s"):
        await Keeper.start(
            house.order(("x",)), on_event=Events(), patience=0.1, python=os.fspath(python)
        )


async def test_a_cancelled_start_leaves_nothing(house: House) -> None:
    before = psutil.Process().children()
    for delay in (0.0, 0.001, 0.01, 0.02, 0.03):
        starting = asyncio.create_task(begin(house.order(house.engine(CHILD + DEAF_WAIT))))
        await asyncio.wait({starting}, timeout=delay)
        starting.cancel()
        try:
            keeper, events = await starting
        except asyncio.CancelledError:
            assert psutil.Process().children() == before
        else:
            keeper.kill()  # it was quicker
            await gone(keeper, events)
        assert house.pids() == {}


def test_everything_works_under_uvloop(house: House) -> None:
    async def life() -> None:
        keeper, events = await begin(house.order(house.engine(WAIT), mode="service", grace=30))
        await keeper.detach(30.0)
        again = Events()
        keeper = await Keeper.adopt(
            house.root / "run" / "b7.sock", on_event=again, patience=DEADLINE
        )
        keeper.stop(DEADLINE, DEADLINE)
        await gone(keeper, again)
        assert events == []

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(life())


# --- output --------------------------------------------------------------------------------------


async def test_matching_lines_come_at_once_and_the_last_before_the_exit(house: House) -> None:
    code = """
import os, time
os.write(1, b"out of mem"); os.write(2, b"ory: 1\\nnothing\\r50%\\rOut of memory: 2\\n")
input_ = os.open("go", os.O_RDONLY)
os.read(input_, 1)
os.write(2, b"out of memory: \\xff last"); os.abort()
"""
    os.mkfifo(house.root / "go")
    keeper, events = await begin(
        house.order(house.engine(code), pattern="(?i)^out of memory", cwd=house.root)
    )
    await until(lambda: len(events.lines) == 2)
    assert events.lines == ["out of memory: 1", "Out of memory: 2"]
    assert events.of(Exited) == []
    (house.root / "go").write_text("x")
    await gone(keeper, events)
    lines = ("out of memory: 1", "Out of memory: 2", "out of memory: \ufffd last")
    assert tuple(events.lines) == lines
    [*_, exited, _gone] = events
    assert isinstance(exited, Exited)
    assert (exited.status, exited.lines) == (-signal.SIGABRT, lines)


async def test_a_flood_without_newlines_is_bounded(house: House) -> None:
    code = "import os\nfor _ in range(80): os.write(1, b'x' * 1_000_000)"
    order = house.order(house.engine(code), pattern="(?i)memory", log_max_bytes=1 << 20)
    keeper, events = await begin(order)
    await until(lambda: events.of(Gone))
    hello = await keeper.refresh()
    assert (hello.log_bytes, hello.log_dropped) == (80_000_000, 0)
    assert psutil.Process(hello.keeper_pid).memory_info().rss < 40 << 20
    files = sorted((house.root / "log").iterdir())
    assert [file.name for file in files] == ["model.log", "model.log.1", "model.log.2"]
    assert all(file.stat().st_size <= 1 << 20 for file in files)
    await gone(keeper, events)
    assert events[0].status == 0  # type: ignore[union-attr]


async def test_a_daemon_that_does_not_listen_blocks_nobody(house: House) -> None:
    code = "import os\nfor _ in range(40): os.write(1, b'out of memory\\n' * 70_000)"
    keeper, events = await begin(house.order(house.engine(code), pattern="memory"))
    assert keeper._transport is not None
    keeper._transport.pause_reading()
    await until(lambda: keeper.pid not in house.pids(), "the engine's end")
    assert psutil.Process(keeper.hello.keeper_pid).memory_info().rss < 40 << 20
    keeper._transport.resume_reading()
    await gone(keeper, events)
    [exited] = events.of(Exited)
    assert sum(len(line) + 1 for line in exited.lines) <= 8192 + 1
    assert set(exited.lines) == {"out of memory"}


async def test_a_full_disk_stops_nothing_and_is_counted(house: House) -> None:
    code = WAIT.replace("signal.pause()", "signal.pause") + (
        "\nimport os\nsignal.pthread_sigmask(signal.SIG_BLOCK, [10])\nprint('ready', flush=True)\n"
        "signal.sigwait([10])\nos.write(1, b'y' * 50_000 + b'\\n' + b'out of memory\\n')\n"
        "signal.pause()"
    )
    keeper, events = await begin(house.order(house.engine(code), pattern="memory"))
    await until(lambda: "ready" in house.text())
    # no more than 4096 bytes in any file: the nearest to a full disk without a mount
    psutil.Process(keeper.hello.keeper_pid).rlimit(psutil.RLIMIT_FSIZE, (4096, 4096))
    assert keeper.pid is not None
    os.kill(keeper.pid, signal.SIGUSR1)
    await until(lambda: events.lines == ["out of memory"])
    hello = await keeper.refresh()
    assert hello.log_bytes == 4096
    assert hello.log_errno == errno.EFBIG
    assert [told.errno for told in events.of(LogTrouble)] == [errno.EFBIG]
    assert hello.log_dropped == 50_000 + 15 + len("up\nready\n") - 4096
    keeper.stop(DEADLINE, DEADLINE)
    await gone(keeper, events)


async def test_every_byte_of_a_flood_is_in_the_files(house: House) -> None:
    """Numbered lines over many rotations, within what is kept."""
    code = "import os\nfor n in range(60000): os.write(1, b'%d %s\\n' % (n, b'x' * (n % 97)))"
    order = house.order(house.engine(code), log_max_bytes=100_000, log_keep=60)
    keeper, events = await begin(order)
    await gone(keeper, events)
    files = [order.log.with_name(f"model.log.{n}") for n in range(60, 0, -1)] + [order.log]
    texts = [file.read_bytes() for file in files if file.exists()]
    assert len(texts) > 30
    assert all(len(text) <= 100_000 for text in texts)
    lines = b"".join(texts).splitlines()
    assert lines == [b"%d %s" % (n, b"x" * (n % 97)) for n in range(60000)]


async def test_a_flood_of_matching_lines_is_told_a_few_times_a_second(house: House) -> None:
    """The daemon hears of the newest, and of the last ones before the end in any case."""
    code = "import os\nfor n in range(2000): os.write(1, b'failed %d\\n' % n * 200)"
    order = house.order(house.engine(code), pattern="FAILED", needles=("failed",))
    keeper, events = await begin(order)
    await gone(keeper, events)
    told = events.of(Lines)
    assert all(sum(len(line) + 1 for line in one.lines) <= 8193 for one in told)
    assert len(told) < 200
    assert events.lines[-1] == "failed 1999"
    [exited] = events.of(Exited)
    assert exited.lines[-1] == "failed 1999"


async def test_a_record_that_cannot_be_written_does_not_stop_the_engine(house: House) -> None:
    order = house.order(house.engine(WAIT), record=house.root / "run" / "b7.json")
    order.record.mkdir(parents=True)
    keeper, events = await begin(order)
    await until(lambda: is_up(house))
    keeper.stop(DEADLINE, DEADLINE)
    await gone(keeper, events)


# --- adopting what is not there ------------------------------------------------------------------


async def test_adopting_fails_clearly(house: House) -> None:
    path = house.root / "x.sock"
    with pytest.raises(KeeperError, match="no keeper answers"):
        await Keeper.adopt(path, on_event=Events(), patience=0.1)
    answers = [b"", b"\xff\n", b"[]\n", b'{"type":"hello","protocol":99}\n']
    answers += [b'{"type":"hello","protocol":1}\n', None]  # type: ignore[list-item]
    texts = ["no hello", "no message", "no message", "protocol 99", "lacks something", "hung up"]
    for answer, text in zip(answers, texts, strict=True):
        path.unlink(missing_ok=True)

        async def serve(
            reader: asyncio.StreamReader,
            writer: asyncio.StreamWriter,
            answer: bytes | None = answer,
        ) -> None:
            if answer is not None:
                writer.write(answer)
                await reader.read()
            writer.close()

        server = await asyncio.start_unix_server(serve, path)
        events = Events()
        patience = 0.1 if answer == b"" else DEADLINE  # who says nothing is not waited for
        with pytest.raises(KeeperError, match=text):
            await Keeper.adopt(path, on_event=events, patience=patience)
        assert events == []
        server.close()


async def test_garbage_from_a_daemon_is_refused_and_harmless(house: House) -> None:
    order = house.order(house.engine(WAIT))
    keeper, events = await begin(order)
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(os.fspath(order.socket))
        raw.settimeout(DEADLINE)
        stream = raw.makefile("rb")
        assert json.loads(stream.readline())["type"] == "hello"
        bad = (b"\xff", b"[]", b"7", b'{"type":"stop","grace":[]}', b'{"type":"new","grace":NaN}')
        for line in bad:
            raw.sendall(line + b"\n")
        raw.sendall(b'{"type":"hello"}\n')
        told = [json.loads(stream.readline())["type"] for _ in range(5)]
        assert told == ["refused"] * 4 + ["hello"]
        stream.close()
    assert (await keeper.refresh()).exit is None
    keeper.kill()
    await gone(keeper, events)
