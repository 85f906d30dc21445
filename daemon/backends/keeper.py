"""Owns one engine process: its start, its output, its end. A program of its own, run as
``python -I -S keeper.py``: it imports the standard library and nothing of ours, knows no engine,
and lives on when the daemon dies, so that a new daemon can take the engine over.

Start
    One JSON line on stdin, the order (secrets come this way: never in argv or the environment);
    ``ORDER`` below lists its fields. If stdin is a socket, it is the first connection as well, so
    nobody waits for a path to appear. If stdout is a listening socket, it is the one for later
    connections; else the keeper binds ``socket`` itself, mode 0600. Afterwards stdin is /dev/null.

Protocol 1: JSON lines, an object with ``type`` each; unknown types and fields are ignored.
    keeper -> daemon
    hello   first on each connection, and on request: protocol, backend, generation, mark and facts
            (the order's, as given), keeper_pid, pid (null: could not be run), start (kernel start
            time, a token to compare), argv, log_bytes, log_dropped (bytes), log_errno (why the last
            write failed, or null), lines (matching lines kept), error {errno, text} (the engine
            could not be run), exit (as below, or null), gone, stopping (true or false)
    lines   lines: output lines that match the pattern; of a flood the newest, a few times a second
    log     dropped, errno: as in hello, when writing begins to fail or goes again
    exit    status (negative: killed by that signal), at (monotonic seconds), time (Unix seconds),
            stopped (true: by us, as we were told), lines (all kept), last (the line said last)
    gone    the engine and everything that it started are dead and reaped: the memory is free
    refused text: the line received was no message
    daemon -> keeper
    hello   say hello again
    stop    grace, kill_grace: TERM to the engine, after grace TERM to all that is left, after
            kill_grace (left out: as grace) KILL
    kill    KILL to all, again until nothing is left
    detach  grace: I am leaving and another daemon will come; holds in any mode
    bye     I know all I want: leave as soon as everything is gone

Being alone
    A connection is the daemon's sign of life. Without one, a foreground keeper stops the engine at
    once; a service keeper after ``grace``, and an exit status is kept for that long too. On TERM or
    INT the keeper stops the engine and leaves. It removes record, socket and files at the end; but
    the record of an engine that ended by itself, where no daemon has said bye since, stays and gets
    the field ``exit``, for the next daemon to read and to remove.

It is one file, long as that is: it is run by its path and without a package around it.
"""

# pathlib, typing, subprocess and socket take 3 to 8 ms each to load: the start needs none of them
# ruff: noqa: PTH101, PTH105, PTH108, PTH110, PTH116, PTH123, PTH208
from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import select
import signal
import stat
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

PROTOCOL = 1
LINE_CAP = 8192  # bytes of a line that are looked at and kept
CHUNK = 1 << 18  # bytes per read of output, and what its pipe shall hold
PIECE = 65536  # bytes per read of messages
OVERLAP = 512  # bytes that two looks at a line without end share
BEFORE, AFTER = 128, 896  # bytes that are kept around what was found in such a line
DULL = 1 << 20  # bytes of lines that are remembered as dull
WORDS = bytes(48 if 48 <= c < 58 else c + 32 if 65 <= c < 91 else c for c in range(256))
RECENT = 1024  # bytes of output in which the last line is looked for
TELL = 0.1  # seconds between two messages of lines
TELL_LOG = 1.0  # seconds between two messages on the log itself
OUT_CAP = 1 << 20  # bytes unread by a peer above which it gets no more lines
LINUX = sys.platform.startswith("linux")
SUBREAPER = LINUX  # elsewhere orphans go to init, and must be found while their parent lives
LONGEST = 7 * 86400.0  # seconds; poll takes no more than 2**31 ms
KILL_AGAIN = 0.05  # seconds between two rounds of KILL
LOOK = 5.0  # seconds between looks at the family, where orphans do not come to us
LAST_WORDS = 0.5  # seconds that a slow peer may hold up the end of a keeper
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
F_SETPIPE_SZ = 1031  # fcntl(2)

# field -> type, or (type, default); times in seconds, sizes in bytes
ORDER: dict[str, Any] = {
    "protocol": int,
    "backend": str,
    "generation": int,
    "argv": list,
    "env": dict,  # the engine's whole environment
    "cwd": (str, None),
    "socket": str,
    "record": str,
    "log": str,
    "log_max_bytes": int,
    "log_keep": int,
    "pattern": (str, None),  # one regular expression, whatever the case
    "needles": (list, []),  # small letters: each matching line has one of them (empty: not known)
    "pattern_keep": (int, 8192),
    "mode": str,  # foreground | service
    "grace": float,
    "stop_grace": float,  # from TERM to the second TERM
    "kill_grace": (float, 2.0),  # from there to KILL
    "connect_grace": (float, 10.0),  # until the first connection
    "lost_grace": (float, 1.0),  # from TERM to KILL when nobody is there to wait
    "files": (list, []),  # {path, text}: written 0600 before the start, removed at the end
    "leaves": (list, []),  # paths that the engine makes and does not remove: a socket
    "mark": (str, None),  # by which the daemon finds what the engine started; only kept here
    "facts": (dict, {}),  # anything that a later daemon must know: port, version, ...
}


# --- processes -----------------------------------------------------------------------------------


def start_token(pid: int) -> str | None:
    """When the kernel started ``pid``, as a token: equal tokens and pids are the same process.

    None if there is no such process. Linux: boot id and field 22 of /proc/PID/stat; macOS:
    pbi_start_tvsec and _tvusec of proc_pidinfo(PROC_PIDTBSDINFO).
    """
    if LINUX:
        fields = _stat_fields(pid)
        return f"{_boot_id()}:{fields[19]}" if fields else None
    buffer = ctypes.create_string_buffer(136)  # struct proc_bsdinfo
    if ctypes.CDLL(None).proc_pidinfo(pid, 3, ctypes.c_uint64(0), buffer, 136) != 136:
        return None
    seconds, micros = (int.from_bytes(buffer.raw[at : at + 8], sys.byteorder) for at in (120, 128))
    return f"{seconds}.{micros:06d}"


def descendants(root: int) -> set[int]:
    """Pids of all living children of ``root``, their children, and so on."""
    parents = _parents() if LINUX else None
    found: set[int] = set()
    front = [root]
    while front:
        parent = front.pop()
        children = _mac_children(parent) if parents is None else parents.get(parent, [])
        new = [pid for pid in children if pid not in found]
        found.update(new)
        front += new
    return found


def _stat_fields(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third on: the second may hold any character."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().decode("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().decode("ascii").strip()
    except OSError:
        return ""


def _parents() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat_fields(int(name))):
            children.setdefault(int(fields[1]), []).append(int(name))
    return children


def _mac_children(parent: int) -> list[int]:
    buffer = (ctypes.c_int * 4096)()
    count = ctypes.CDLL(None).proc_listchildpids(parent, buffer, ctypes.sizeof(buffer))
    return [pid for pid in buffer[: max(0, count)] if pid > 0]


def _send(how: Callable[[int, int], None], target: int, number: int) -> bool:
    """Send a signal; False if nobody was there, or only the dead (macOS says EPERM for those)."""
    try:
        how(target, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


class Family:
    """The engine and everything that it started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None
        self.ended_at: float | None = None
        self.group = True  # the process group is still certainly ours
        self.known: dict[int, str | None] = {}

    def reap(self) -> bool:
        """Collect the dead. True once neither the engine nor anything that it started is left."""
        while True:
            try:
                pid, raw = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                return False
            if pid == self.pid:
                self.status = os.waitstatus_to_exitcode(raw)
                self.ended_at = time.monotonic()
                self.group = not SUBREAPER  # its number may be free again; its members are ours
        # an empty group's number may be used again: once empty, never ask it anything more
        self.group = self.group and _send(os.killpg, self.pid, 0)
        return not self.group and (SUBREAPER or not self._strays())

    def look(self) -> None:
        """Remember who belongs to the family, for when their parent is dead."""
        for pid in descendants(self.pid) - self.known.keys():
            self.known[pid] = start_token(pid)

    def signal_engine(self, number: int) -> None:
        if self.status is None:
            _send(os.kill, self.pid, number)

    def signal_all(self, number: int) -> None:
        """Once to each: a second TERM means something else than the first."""
        members = descendants(os.getpid()) if SUBREAPER else self._strays()
        if self.group and _send(os.killpg, self.pid, number):
            members = {pid for pid in members if _group_of(pid) != self.pid}
        for pid in members:
            _send(os.kill, pid, number)

    def _strays(self) -> set[int]:
        if self.status is None:
            self.look()
        self.known = {p: s for p, s in self.known.items() if s and start_token(p) == s}
        return set(self.known)


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return -1


def spawn(argv: list[str], env: dict[str, str], cwd: str | None, output: int, umask: int) -> int:
    """Start the engine in a session of its own, its output into ``output``; return its pid.

    OSError with a text for people if it could not be run.
    """
    report, report_child = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become_engine(argv, env, cwd, output, umask, report_child, parent)
    os.close(report_child)
    try:
        said = os.read(report, 256).decode()
    finally:
        os.close(report)
    if not said:
        return pid
    os.waitpid(pid, 0)
    step, _, number = said.partition(":")
    what = {"cwd": f"cannot enter the folder {cwd}", "exec": f"cannot run {argv[0]}"}
    reason = os.strerror(int(number))
    if int(number) == errno.ENOENT and step == "exec" and os.path.exists(argv[0]):
        reason = "the interpreter in its first line, or its loader, does not exist"
    raise OSError(int(number), f"{what.get(step, f'cannot start {argv[0]} ({step})')}: {reason}")


def _become_engine(
    argv: list[str],
    env: dict[str, str],
    cwd: str | None,
    output: int,
    umask: int,
    report: int,
    parent: int,
) -> NoReturn:
    """The child's side of :func:`spawn`: never returns."""
    step = "session"
    try:
        os.setsid()
        if LINUX:  # our own kill -9 must not leave an engine that nobody owns
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(127)
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():  # what is ignored stays ignored through exec
            if signal.getsignal(number) not in (signal.SIG_DFL, None):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.umask(umask)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if cwd is not None:
            step = "cwd"
            os.chdir(cwd)
        step = "exec"
        os.execvpe(argv[0], argv, env)  # noqa: S606
    except (OSError, ValueError, TypeError) as error:  # the latter two: NUL in a string, no string
        os.write(report, f"{step}:{getattr(error, 'errno', errno.EINVAL)}".encode())
    finally:
        os._exit(127)


# --- output --------------------------------------------------------------------------------------


class Log:
    """A file of raw bytes, rotated at the start and by size. Never raises: losses are counted.

    No file grows beyond ``max_bytes``; they are cut at the end of a line where it can be.
    """

    def __init__(self, path: str, max_bytes: int, keep: int) -> None:
        self.path, self.max_bytes, self.keep = path, max_bytes, keep
        self.bytes = 0
        self.dropped = 0
        self.errno: int | None = None  # why the last write failed
        self._size = 0
        self._fd = -1
        self._ended = True
        self._rotate()
        self.write(b"")  # the file is there from the start, for those who follow it

    def write(self, data: bytes) -> None:
        done, self.errno = 0, None
        try:
            if self._fd < 0:
                self._open()
            while True:
                end = self._cut(data, done)
                while done < end:
                    wrote = os.write(self._fd, memoryview(data)[done:end])
                    done += wrote
                    self._size += wrote
                if done == len(data):
                    break
                self._rotate()
                self._open(fresh=True)
        except OSError as error:
            self.dropped += len(data) - done
            self.errno = error.errno
        self.bytes += done
        self._ended = data[done - 1 : done] == b"\n" if done else self._ended

    def _cut(self, data: bytes, start: int) -> int:
        """Up to where ``data`` goes into this file."""
        last = start + max(0, self.max_bytes - self._size)
        if len(data) <= last:
            return len(data)
        line_end = data.rfind(b"\n", start, last) + 1
        if line_end > start:
            return line_end
        at_line_end = data[start - 1 : start] == b"\n" if start else self._ended
        if self._size and (at_line_end or len(data) - start <= self.max_bytes):
            return start  # all of it goes into the next file
        return max(last, start + (self._size == 0))

    def finish(self) -> None:
        """End the last line: the next life must not go on in it."""
        if not self._ended:
            self.write(b"\n")
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size = -1, 0

    def _rotate(self) -> None:
        self.close()
        try:
            if stat.S_ISREG((found := os.lstat(self.path)).st_mode) and found.st_size == 0:
                return
            for number in range(self.keep, 0, -1):
                newer = f"{self.path}.{number - 1}" if number > 1 else self.path
                if os.path.lexists(newer):
                    os.replace(newer, f"{self.path}.{number}")
            if self.keep < 1:
                os.unlink(self.path)
        except OSError:
            pass

    def _open(self, fresh: bool = False) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        self._fd = os.open(self.path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size
        if self._size >= (1 if fresh else self.max_bytes):
            self.close()  # it could not be moved away: better lost than endless
            raise OSError(errno.EFBIG, "the log cannot be rotated")


class Matcher:
    """Finds the lines that matter in a stream of chunks, and keeps the last of them.

    A flood must neither be slowed down nor hide them. So needles are looked for first, and only in
    what is new: a flood says the same again and again, but for its numbers. And a line without end
    is looked at in pieces.
    """

    def __init__(self, pattern: str | None, keep: int, needles: list[str] | None = None) -> None:
        source = None if pattern is None else pattern.encode("utf-8", "surrogateescape")
        self._pattern = None if source is None else re.compile(source, re.IGNORECASE)
        self._needles = [text.encode() for text in needles or [""]]
        self._keep = keep
        self._partial = b""
        self._long = False  # its beginning has been looked at already
        self._dull: set[bytes] = set()  # lines without a needle, by their words
        self._dull_bytes = 0
        self.kept: list[str] = []

    def feed(self, chunk: bytes) -> list[str]:
        """New matching lines. A carriage return ends a line too: progress bars use it alone."""
        if self._pattern is None:
            return []
        data = self._partial + chunk.replace(b"\r", b"\n")
        text = data.translate(WORDS)
        *lines, tail = text.split(b"\n")
        start = 0
        if len(tail) > LINE_CAP:
            step = LINE_CAP - OVERLAP
            start = -(-(len(tail) - LINE_CAP) // step) * step
            lines += [piece for piece, _ in _pieces(tail)[:-1]]
        first_long, tail = self._long, data[len(data) - len(tail) :]
        self._long = start > 0 or (first_long and len(tail) == len(data))
        self._partial = tail[start:]
        needles = self._in_new(lines)
        if not needles:
            return []
        whole = data[: len(data) - len(tail)].split(b"\n")[:-1]
        found = self._search(needles, whole, first_long, _pieces(tail)[:-1] if start else [])
        self.kept = self.last(self.kept + found) if found else self.kept
        return found

    def _in_new(self, lines: list[bytes]) -> list[bytes]:
        """The needles that are in those of these lines that were not found dull before."""
        new = set(lines) - self._dull
        text = b"\n".join(new)
        needles = [needle for needle in self._needles if needle in text]
        if new and not needles:
            self._dull_bytes += len(text)
            if self._dull_bytes > DULL:
                self._dull, self._dull_bytes = set(), len(text)
            self._dull |= new
        return needles

    def flush(self) -> list[str]:
        """The last line, which nobody ended."""
        return self.feed(b"\n") if self._partial else []

    def _search(
        self,
        needles: list[bytes],
        lines: list[bytes],
        first_long: bool,
        pieces: list[tuple[bytes, int]],
    ) -> list[str]:
        """The last of what matches in these lines, and then in pieces of an unfinished one."""
        found = self._in_pieces(needles, pieces)[::-1]
        room = self._keep - sum(map(len, found))
        for index in range(len(lines) - 1, -1, -1):
            if room < 0:
                break
            line = lines[index]
            if len(line) > LINE_CAP or (first_long and index == 0):
                new = self._in_pieces(needles, _pieces(line))
            else:
                new = [line] if self._matches(needles, line) else []
            found += reversed(new)
            room -= sum(len(one) + 1 for one in new)
        return self.last([one.decode("utf-8", "replace") for one in reversed(found)])

    def _matches(self, needles: list[bytes], line: bytes) -> bool:
        assert self._pattern is not None
        text = line.lower()
        return any(n in text for n in needles) and self._pattern.search(line) is not None

    def _in_pieces(self, needles: list[bytes], pieces: list[tuple[bytes, int]]) -> list[bytes]:
        """What is around each match: the line itself has no end that could be kept."""
        assert self._pattern is not None
        found = []
        for piece, limit in pieces:
            text = piece.lower()
            at = 0 if any(n in text for n in needles) else limit
            while at < limit and (match := self._pattern.search(piece, at)):
                if match.start() >= limit:
                    break
                found.append(piece[max(0, match.start() - BEFORE) : match.start() + AFTER])
                at = match.start() + AFTER
        return found

    def last(self, lines: list[str]) -> list[str]:
        """The last of them, as many as are kept."""
        room, first = self._keep, len(lines)
        while first and room >= len(lines[first - 1]):
            first -= 1
            room -= len(lines[first]) + 1
        return lines[first:]


def _pieces(line: bytes) -> list[tuple[bytes, int]]:
    """A long line as pieces, each with the number of bytes in which its matches begin: a match
    behind them is found in the next piece, with what follows it."""
    step = LINE_CAP - OVERLAP
    count = max(0, -(-(len(line) - LINE_CAP) // step))
    pieces = [(line[i * step : i * step + LINE_CAP], step) for i in range(count)]
    rest = line[count * step :]
    return [*pieces, (rest, len(rest))]


# --- the keeper ----------------------------------------------------------------------------------


class Peer:
    """One connection: bytes in, bytes out, neither ever blocking."""

    def __init__(self, fd: int, received: bytes = b"") -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.received = received
        self.unsent = b""

    def send(self, message: dict[str, Any]) -> None:
        self.unsent += json.dumps(message, separators=(",", ":")).encode() + b"\n"

    def flush(self) -> bool:
        """Write what goes; False if the other side is gone."""
        try:
            while self.unsent:
                self.unsent = self.unsent[os.write(self.fd, self.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True

    def receive(self) -> list[bytes] | None:
        """Whole lines that have come; None if the other side is gone or sends without end."""
        try:
            data = os.read(self.fd, PIECE)
        except BlockingIOError:
            return []
        except OSError:
            return None
        self.received += data
        return self.lines() if data and len(self.received) <= OUT_CAP else None

    def lines(self) -> list[bytes]:
        """Whole lines among what was received."""
        *lines, self.received = self.received.split(b"\n")
        return lines


class Keeper:
    """One order, from start to end: a single loop over output, signals and connections."""

    def __init__(self, order: dict[str, Any], umask: int) -> None:
        self.order, self.umask = order, umask
        self.foreground = order["mode"] == "foreground"
        self.log = Log(order["log"], order["log_max_bytes"], order["log_keep"])
        self.matcher = Matcher(order["pattern"], order["pattern_keep"], order["needles"])
        self.untold: list[str] = []  # matching lines that wait for their time
        self.recent = b""  # the end of its output
        self.told_at = self.told_log_at = 0.0
        self.told_errno: int | None = None
        self.family: Family | None = None
        self.record: dict[str, Any] = {}
        self.error: dict[str, Any] | None = None
        self.exit: dict[str, Any] | None = None
        self.heard = False  # of all, by a daemon that said bye: what is sent may reach nobody
        self.gone = False
        self.leaving = False  # told to: by bye, or by a signal
        self.detached: float | None = None  # grace that the last daemon asked for
        self.plan: list[tuple[Callable[[int], None], int, float]] = []  # what, signal, then wait
        self.plan_at = 0.0
        self.peers: dict[int, Peer] = {}
        self.listener = self.output = -1
        self.owned: list[tuple[str, int]] = []  # path, inode: what to remove at the end
        self.alone_until: float | None = None
        self._be_alone(order["connect_grace"])
        self.poll = select.poll()
        self.wake, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        # handlers, not SIG_IGN: what is ignored stays ignored through exec
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda _number, _frame: None)
        self.poll.register(self.wake, select.POLLIN)

    def run(self, first: Peer | None, listener: int) -> None:
        """Start the engine, serve connections, return when all is over."""
        self._listen(listener)
        self._start()
        if first is not None:
            self._greet(first)
        # loaded now: an upgrade may take the standard library from under us while we run
        import socket  # noqa: F401

        while not self._tick(time.monotonic()):
            timeout = self._wait(time.monotonic())
            for fd, mask in self.poll.poll(None if timeout is None else timeout * 1000 + 1):
                self._handle(fd, mask)
        self._leave()

    def _listen(self, listener: int) -> None:
        path = self.order["socket"]
        if listener < 0:
            import socket

            server = socket.socket(socket.AF_UNIX)
            server.bind(path)  # umask 077: nobody else can connect, not even at first
            os.chmod(path, 0o600)
            server.listen(8)
            listener = server.detach()
        self.listener = listener
        self.owned.append((path, os.stat(path).st_ino))
        os.set_blocking(listener, False)
        self.poll.register(listener, select.POLLIN)

    def _start(self) -> None:
        order = self.order
        if SUBREAPER:
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.output, output = os.pipe()
        os.set_blocking(self.output, False)
        if LINUX:
            _widen(output)
        self.poll.register(self.output, select.POLLIN)
        self._clear()
        try:
            for file in order["files"]:
                self._own(file["path"], file["text"])
            pid = spawn(order["argv"], order["env"], order["cwd"], output, self.umask)
            self.family = Family(pid)
        except OSError as error:
            text = str(error) if error.filename else error.strerror
            self.error = {"errno": error.errno, "text": text}
            self.gone = True
        os.close(output)
        names = ("backend", "generation", "argv", "socket", "log", "mode", "mark", "facts")
        self.record = {
            "protocol": PROTOCOL,
            "pid": self.family.pid if self.family else None,
            "start": start_token(self.family.pid) if self.family else None,
            "keeper_pid": os.getpid(),
            "keeper_start": start_token(os.getpid()),
            **{name: order[name] for name in names},
        }
        if self.family is not None:
            try:
                self._own(order["record"], json.dumps(self.record))
            except OSError as error:  # a full disk must not stop the engine
                print(f"cannot write the record: {error}", file=sys.stderr)

    def _clear(self) -> None:
        """Remove what an engine leaves; a socket that is there would be in the way of its start."""
        for path in self.order["leaves"]:
            try:  # noqa: SIM105 (contextlib is not loaded here)
                os.unlink(path)
            except OSError:
                pass

    def _own(self, path: str, text: str) -> None:
        """Write a private file whole or not at all, and remember to remove it."""
        temporary = f"{path}.{os.getpid()}.tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            data = text.encode("utf-8", "surrogateescape")
            while data:
                data = data[os.write(fd, data) :]
            os.fsync(fd)
            os.replace(temporary, path)
            self.owned.append((path, os.fstat(fd).st_ino))
        except OSError:
            os.unlink(temporary)
            raise
        finally:
            os.close(fd)

    # connections

    def _greet(self, peer: Peer) -> None:
        self.peers[peer.fd] = peer
        self.poll.register(peer.fd, select.POLLIN)
        self.alone_until = self.detached = None
        self._tell_lines()  # to the others: the hello has them
        peer.send(self._hello())
        self._serve(peer, peer.lines())

    def _hello(self) -> dict[str, Any]:
        return {
            "type": "hello",
            **self.record,
            "log_bytes": self.log.bytes,
            "log_dropped": self.log.dropped,
            "log_errno": self.log.errno,
            "lines": self.matcher.kept,
            "error": self.error,
            "exit": self.exit,
            "gone": self.gone,
            "stopping": bool(self.plan),
        }

    def _tell(self, message: dict[str, Any]) -> None:
        for peer in list(self.peers.values()):
            if message["type"] != "lines" or len(peer.unsent) < OUT_CAP:
                peer.send(message)
                self._serve(peer, [])

    def _serve(self, peer: Peer, lines: list[bytes] | None) -> None:
        for line in lines or []:
            self._obey(peer, line)
        if lines is not None and peer.flush():
            self.poll.modify(peer.fd, select.POLLIN | (select.POLLOUT if peer.unsent else 0))
            return
        self.poll.unregister(peer.fd)
        os.close(peer.fd)
        del self.peers[peer.fd]
        if not self.peers:
            self._be_alone(0.0)

    def _be_alone(self, wait: float) -> None:
        grace = 0.0 if self.foreground else self.order["grace"]
        grace = grace if self.detached is None else self.detached
        self.alone_until = time.monotonic() + wait + grace

    def _obey(self, peer: Peer, line: bytes) -> None:
        try:
            message = json.loads(line)
            kind = message.get("type")
            usual = self.order["grace" if kind == "detach" else "stop_grace"]
            grace = _grace(message.get("grace", usual))
            kill_grace = _grace(message.get("kill_grace", grace))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            peer.send({"type": "refused", "text": f"not a message: {error}"})
            return
        if kind == "hello":
            self._tell_lines()
            peer.send(self._hello())
        elif kind == "stop":
            self._stop(grace, kill_grace)
        elif kind == "kill" and self.family is not None and not self.gone:
            self.plan = [(self.family.signal_all, signal.SIGKILL, KILL_AGAIN)]
            self.plan_at = time.monotonic()
        elif kind == "detach":
            self.detached = grace
        elif kind == "bye":
            self.leaving = self.heard = True

    # the engine's output and end

    def _pump(self) -> bool:
        """One read of output; False if there is nothing more now."""
        try:
            data = os.read(self.output, CHUNK) if self.output >= 0 else None
        except BlockingIOError:
            return False
        if data:
            self.log.write(data)
            self._tell_log()
            self.recent = (self.recent + data[-RECENT:])[-RECENT:]
            self.untold = self.matcher.last(self.untold + self.matcher.feed(data))
            if time.monotonic() >= self.told_at + TELL:
                self._tell_lines()
        elif data is not None:
            self.poll.unregister(self.output)
            os.close(self.output)
            self.output = -1
        return bool(data)

    def _drain(self) -> None:
        """What was written before the end: no more than a pipe holds, orphans may write on."""
        for _ in range(OUT_CAP // CHUNK):
            if not self._pump():
                break
        self.untold = self.matcher.last(self.untold + self.matcher.flush())
        self._tell_lines()

    def _last_line(self) -> str:
        """For an end that no pattern knows: mostly it says why."""
        lines = [line.strip() for line in re.split(rb"[\r\n]", self.recent)]
        return next((line.decode("utf-8", "replace") for line in reversed(lines) if line), "")

    def _tell_lines(self) -> None:
        if self.untold:
            lines, self.untold, self.told_at = self.untold, [], time.monotonic()
            self._tell({"type": "lines", "lines": lines})

    def _tell_log(self) -> None:
        """That the disk takes nothing more, or does again."""
        now, log = time.monotonic(), self.log
        if log.errno != self.told_errno and now >= self.told_log_at + TELL_LOG:
            self.told_errno, self.told_log_at = log.errno, now
            self._tell({"type": "log", "dropped": log.dropped, "errno": log.errno})

    def _stop(self, grace: float, kill_grace: float | None) -> None:
        """TERM, again after ``grace``, KILL after ``kill_grace`` (None: no second TERM). A later,
        shorter grace hastens what is left."""
        family, now = self.family, time.monotonic()
        if family is None or self.gone:
            return
        if self.plan:
            self.plan = [(what, number, min(wait, grace)) for what, number, wait in self.plan]
            self.plan_at = min(self.plan_at, now + grace)
            return
        first = family.signal_engine if family.status is None else family.signal_all
        again = [] if kill_grace is None else [(family.signal_all, signal.SIGTERM, kill_grace)]
        last = (family.signal_all, signal.SIGKILL, KILL_AGAIN)
        self.plan = [(first, signal.SIGTERM, grace), *again, last]
        self.plan_at = now

    def _reap(self) -> None:
        family = self.family
        if family is None or self.gone:
            return
        everything = family.reap()
        if family.status is not None and self.exit is None:
            self._drain()
            self.exit = {
                "type": "exit",
                "status": family.status,
                "at": family.ended_at,
                "time": time.time(),
                "stopped": bool(self.plan),
                "lines": self.matcher.kept,
                "last": self._last_line(),
            }
            self._tell(self.exit)
            if not everything and self.plan:  # the orphans have had no TERM yet
                family.signal_all(signal.SIGTERM)
            elif not everything:
                self._stop(self.order["lost_grace"], None)
        if everything:
            self.gone, self.plan = True, []
            self._drain()
            self._clear()  # before it is told: then a successor may make them anew
            self._tell({"type": "gone"})

    def _leave_word(self) -> None:
        """Of an end that no daemon was told of: in the record, which then stays."""
        if self.exit is None or self.heard or self.exit["stopped"]:
            return
        path = self.order["record"]
        self.record["exit"] = self.exit
        try:
            self._own(path, json.dumps(self.record))
        except OSError:
            return
        self.owned = [(owned, inode) for owned, inode in self.owned if owned != path]

    # the loop

    def _handle(self, fd: int, mask: int) -> None:
        if fd == self.output:
            self._pump()
        elif fd == self.wake:
            numbers = os.read(self.wake, PIECE)
            self._reap()
            if signal.SIGTERM in numbers or signal.SIGINT in numbers:
                self.leaving = True
                self._stop(self.order["stop_grace"], self.order["kill_grace"])
        elif fd == self.listener:
            self._accept()
        elif peer := self.peers.get(fd):  # it may have been dropped in this very round
            self._serve(peer, peer.receive() if mask & ~select.POLLOUT else [])

    def _accept(self) -> None:
        import socket

        with socket.socket(fileno=os.dup(self.listener)) as server:
            try:
                connection, _ = server.accept()
            except OSError:
                return
        self._greet(Peer(connection.detach()))

    def _wait(self, now: float) -> float | None:
        """Seconds until something is due; None if nothing is."""
        due = [self.plan_at] if self.plan else []
        if self.alone_until is not None and now < self.alone_until:
            due.append(self.alone_until)
        if self.untold:
            due.append(self.told_at + TELL)
        if not SUBREAPER and not self.gone:
            due.append(now + (KILL_AGAIN if self.plan else LOOK))
        return min(max(0.0, min(due) - now), LONGEST) if due else None

    def _tick(self, now: float) -> bool:
        """Do what is due; True if nothing remains to be done."""
        if now >= self.told_at + TELL:
            self._tell_lines()
        alone = self.alone_until is not None and now >= self.alone_until
        if alone and not self.plan:
            if self.foreground:
                self._stop(self.order["lost_grace"], None)
            else:
                self._stop(self.order["stop_grace"], self.order["kill_grace"])
        if self.plan and now >= self.plan_at:
            what, number, wait = self.plan[0]
            what(number)
            self.plan = self.plan[1:] or self.plan  # the last step, KILL, until nothing is left
            self.plan_at = now + wait
            self._reap()
        elif not SUBREAPER and self.family is not None and not self.gone:
            self._reap()
            self.family.look()
        if alone and self.foreground and self.plan:  # whoever asked for more patience is dead
            *earlier, last = self.plan
            due = self.plan_at + sum(wait for _, _, wait in earlier)
            self.plan, self.plan_at = [last], min(due, now + self.order["lost_grace"])
        return self.gone and (alone or self.leaving)

    def _leave(self) -> None:
        for peer in self.peers.values():
            last = select.poll()
            last.register(peer.fd, select.POLLOUT)
            if peer.unsent and last.poll(LAST_WORDS * 1000):
                peer.flush()
        self.log.finish()
        self._leave_word()
        for path, inode in self.owned:
            try:
                if os.lstat(path).st_ino == inode:  # not a successor's
                    os.unlink(path)
            except OSError:
                pass


def _widen(pipe: int) -> None:
    """Let a pipe hold a whole read; the system may refuse, and then it holds less."""
    import fcntl

    try:
        fcntl.fcntl(pipe, F_SETPIPE_SZ, CHUNK)
    except OSError:
        return


def _grace(value: Any) -> float:
    """Seconds as a message says them. TypeError, ValueError for what is no number."""
    return min(max(0.0, float(value)), LONGEST)  # NaN becomes 0


# --- the program ---------------------------------------------------------------------------------


def read_order(fd: int) -> tuple[dict[str, Any], bytes]:
    """The order, checked, and whatever came after its line. ValueError says what is wrong."""
    data = b""
    while b"\n" not in data:
        more = os.read(fd, PIECE)
        if not more:
            raise ValueError("stdin ended before the order did: one line of JSON is expected")
        data += more
    line, _, rest = data.partition(b"\n")
    order = json.loads(line)
    if not isinstance(order, dict):
        raise ValueError("the order must be a JSON object")
    for name, want in ORDER.items():
        kind, *default = want if isinstance(want, tuple) else (want,)
        if default and order.get(name) is None:
            order[name] = default[0]
        elif name not in order:
            raise ValueError(f"the order lacks {name!r}")
        elif kind is float and type(order[name]) is int:
            order[name] = float(order[name])
        elif type(order[name]) is not kind:
            raise ValueError(f"{name}: {kind.__name__} is expected, not {order[name]!r:.80}")
    if order["protocol"] != PROTOCOL:
        raise ValueError(f"protocol {order['protocol']}: this keeper speaks {PROTOCOL}")
    if not order["argv"]:
        raise ValueError("argv: at least the program is needed")
    if order["mode"] not in ("foreground", "service"):
        raise ValueError(f"mode: foreground or service is expected, not {order['mode']!r}")
    return order, rest


def main() -> int:
    """Read the order from stdin, carry it out."""
    os.closerange(3, 256)  # a port that the daemon inherited must not stay open through us
    umask = os.umask(0o077)
    try:
        order, rest = read_order(0)
        keeper = Keeper(order, umask)
    except (ValueError, OSError, re.error) as error:
        print(f"keeper: {error}", file=sys.stderr)
        return 2
    is_socket = [stat.S_ISSOCK(os.fstat(fd).st_mode) for fd in (0, 1)]
    first = Peer(os.dup(0), rest) if is_socket[0] else None
    listener = os.dup(1) if is_socket[1] else -1
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    try:
        keeper.run(first, listener)
    except BaseException:
        if keeper.family is not None:
            keeper.family.signal_all(signal.SIGKILL)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
