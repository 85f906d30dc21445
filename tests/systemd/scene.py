"""One life of the login service under a real systemd; prints a line of JSON for each finding.

Run as root below the system manager that ``boot.sh`` boots: ``scene.py CTL GGUF NEWER BROKEN``.
Standard library only. CTL is a console script of a wheel that was installed into a temporary
environment, GGUF a small model; NEWER is a wheel of the same code with another version, and BROKEN
one whose daemon dies at its start. Works as user ``tester`` (uid 4242), by that user's own manager.
"""

from __future__ import annotations

import contextlib
import grp
import http.client
import json
import os
import pwd
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CTL, GGUF, NEWER, BROKEN = sys.argv[1:5]
UID = 4242
HOME = Path("/home/tester")
UNITS = HOME / ".config/systemd/user"
DATA = HOME / ".local/share/modelport"
PORT, ALSO = 8123, 11434
OTHER_HOST = "10.11.12.13"
TEN = "one two three four five six seven eight nine ten"
OTHER = f'{{port = {ALSO}, as = "ollama"}}'
CONFIG = f"""\
[server]
also = [{OTHER}]

[models.a]
path = "{GGUF}"
engine = "xllamacpp"
args = ["-t", "1"]
ctx = 512
"""
# Short, but no busy machine shall be taken for a daemon that hangs.
DROP_IN = "[Service]\nWatchdogSec=8\nTimeoutAbortSec=10\nRestartSec=200ms\n"


def note(name: str, ok: object, detail: object = "") -> None:
    print(json.dumps({"name": name, "ok": bool(ok), "detail": str(detail)[-1500:]}), flush=True)


def sh(*argv: str, seconds: float = 90) -> tuple[int, str]:
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=seconds, check=False, env=env
    )
    return done.returncode, (done.stdout + done.stderr).strip()


def as_tester(*argv: str, seconds: float = 90) -> tuple[int, str]:
    """In tester's own session, below tester's own manager."""
    words = ["systemd-run", "--user", "-M", "tester@", "--quiet", "--pipe", "--wait", "--collect"]
    return sh(*words, "-E", f"PATH={os.environ['PATH']}", "--", *argv, seconds=seconds)


def ctl(*words: str, seconds: float = 90) -> tuple[int, str]:
    return as_tester(CTL, *words, seconds=seconds)


def show(*names: str, unit: str = "modelport.service") -> dict[str, str]:
    command = ["systemctl", "--user", "-M", "tester@", "show", unit, *(f"-p{n}" for n in names)]
    pairs = (line.partition("=") for line in sh(*command)[1].splitlines())
    return {key: value for key, _, value in pairs}


def until(true: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            if found := true():
                return found
        time.sleep(0.05)
    return None


def ask(
    path: str,
    body: Any = None,
    port: int = PORT,
    seconds: float = 60,
    host: str = "127.0.0.1",
    key: str = "",
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(host, port, timeout=seconds)
    try:
        raw = None if body is None else json.dumps(body).encode()
        fields = {"Content-Type": "application/json", "x-api-key": key or "none"}
        connection.request("POST" if raw else "GET", path, raw, fields)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    finally:
        connection.close()


def chat(model: str = "a") -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 32}
    status, answer = ask("/v1/chat/completions", body)
    return str(answer["choices"][0]["message"]["content"]) if status == 200 else str(answer)


def engine() -> int:
    """The process of model a's engine."""
    facts = json.loads(ctl("ps", "--json")[1])
    rows = facts["backends"] if isinstance(facts, dict) else facts
    return next((int(row["pid"]) for row in rows if row["model"] == "a"), 0)


@contextlib.contextmanager
def clients(host: str = "127.0.0.1", key: str = "") -> Iterator[dict[str, int]]:
    """Clients that connect all the time: what became of them."""
    seen = {"served": 0, "refused": 0, "broken": 0}
    over = threading.Event()

    def one() -> None:
        while not over.is_set():
            try:
                seen["served"] += ask("/health", seconds=30, host=host, key=key)[0] == 200
            except ConnectionRefusedError:
                seen["refused"] += 1
            except (OSError, http.client.HTTPException):
                seen["broken"] += 1
            time.sleep(0.005)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join(40)


def processes(*words: str) -> list[str]:
    """Command lines of processes that have one of these words in them, but for our own."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if any(word in line for word in words) and "scene.py" not in line:
                    found.append(f"{entry.name} {line}")
    return found


# ---------------------------------------------------------------- a user's service


def install() -> None:
    config = HOME / ".config/modelport/config.toml"
    as_tester("mkdir", "-p", "-m", "700", str(config.parent), str(UNITS / "modelport.service.d"))
    config.write_text(CONFIG)
    (UNITS / "modelport.service.d/quick.conf").write_text(DROP_IN)
    os.chown(config, UID, UID)
    code, said = ctl("service", "install", "--no-linger")
    about = show("ActiveState", "StatusText", "MainPID", "UnitFileState", "ExecStart")
    note("installed from a wheel", code == 0 and about["ActiveState"] == "active", (said, about))
    note("an environment of its own", f"{DATA}/service/current/bin" in about["ExecStart"], about)
    told = "no model loaded; serving on http://127.0.0.1:8123"
    note("status text", about["StatusText"] == told, about["StatusText"])
    code, said = ctl("service", "install", "--no-linger")
    same = show("MainPID")["MainPID"] == about["MainPID"]
    note(
        "a second time changes nothing", code == 0 and "nothing has changed" in said and same, said
    )
    code, said = ctl("service", "status", "--json")
    facts = json.loads(said)
    note("ctl service status", code == 0 and facts["active"] == "running" and facts["pid"], facts)
    sockets = {"modelport.socket": "active", f"modelport-{ALSO}.socket": "active"}
    note("both sockets are systemd's", facts["sockets"] == sockets, facts["sockets"])
    note("a port beside it", ask("/api/version", port=ALSO)[0] == 200)


def serve() -> int:
    text = chat()
    told = until(lambda: "1 model loaded" in show("StatusText")["StatusText"])
    note("a model answers", text == TEN, text)
    note("status text with a model", told, show("StatusText"))
    return engine()


def restarted(before: int) -> None:
    daemon = show("MainPID")["MainPID"]
    with clients() as seen:
        code, said = ctl("service", "restart")
        after = until(lambda: ask("/health")[0] == 200)
    note("restart refuses nobody", after and not seen["refused"] and seen["served"] > 20, seen)
    note("restart is a new daemon", code == 0 and show("MainPID")["MainPID"] != daemon, said)
    note("restart keeps the model", engine() == before and chat() == TEN, (before, engine()))


def stalled(before: int) -> None:
    """Stopped by SIGSTOP it gives no sign of life: systemd ends it and starts another."""
    daemon = show("MainPID")["MainPID"]
    with clients() as seen:
        os.kill(int(daemon), 19)
        new = until(lambda: show("MainPID", "ActiveState")["MainPID"] not in (daemon, "0"), 60)
        until(lambda: show("ActiveState")["ActiveState"] == "active")
    about = show("NRestarts", "ActiveState")
    note("watchdog kills and restarts", new and about["NRestarts"] == "1", about)
    note("watchdog: nobody is refused", not seen["refused"], seen)
    note("watchdog: the model is adopted", engine() == before and chat() == TEN, engine())
    code, said = ctl("service", "logs", "-n", "400")
    note("logs tell of the watchdog", code == 0 and "atchdog" in said, said)
    note("logs have the stack", "Fatal Python error: Aborted" in said, said[:800])


def journal() -> None:
    command = ["journalctl", f"_UID={UID}", "_SYSTEMD_USER_UNIT=modelport.service", "-o", "json"]
    rows = [json.loads(line) for line in sh(*command)[1].splitlines() if line.startswith("{")]
    ours = [row for row in rows if "listening on" in str(row.get("MESSAGE"))]
    plain = all(str(row["MESSAGE"]).startswith("listening on") for row in ours)
    levels = {row["PRIORITY"] for row in ours}
    note("journal: priorities, no stamps", ours and plain and levels == {"6"}, ours[:1])


def reload(before: int) -> None:
    config = HOME / ".config/modelport/config.toml"
    config.write_text(CONFIG + 'aliases = ["first"]\n')
    code, said = sh("systemctl", "--user", "-M", "tester@", "reload", "modelport.service")
    told = until(lambda: "first" in json.dumps(ask("/v1/models")[1]))
    state = until(lambda: show("ActiveState")["ActiveState"] == "active")
    note("reload", code == 0 and told and state, said)
    note("reload keeps the model", chat("first") == TEN and engine() == before)


def stopped(before: int) -> None:
    code, said = ctl("service", "stop")
    note("stop unloads the model", code == 0 and not Path(f"/proc/{before}").exists(), said)
    refused = 0
    for port in (PORT, ALSO):
        try:
            ask("/health", port=port)
        except ConnectionRefusedError:
            refused += 1
    note("stop frees the ports", refused == 2, refused)
    code, said = ctl("service", "status")
    note("status says what to do", code == 1 and "ctl service start" in said, said)
    code, said = ctl("service", "start")
    note("start", code == 0 and chat() == TEN, said)


def refuses(host: str, port: int = PORT) -> bool:
    try:
        ask("/health", host=host, port=port)
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    return False


def lan() -> None:
    """An address of no unit: systemd keeps its socket for the next daemon, and no longer."""
    sh("ip", "link", "set", "lo", "up")
    sh("ip", "address", "add", f"{OTHER_HOST}/32", "dev", "lo")
    code, said = ctl("lan", "on", "--no-mdns", "--json")
    note("lan on", code == 0 and OTHER_HOST in said, said)
    key = json.loads(said)["key"]

    def there() -> bool:
        return ask("/health", host=OTHER_HOST, key=key)[0] == 200

    opened = until(there)
    stored = until(lambda: show("NFileDescriptorStore")["NFileDescriptorStore"] != "0", 20)
    note("systemd keeps the sockets of the LAN", opened and stored, show("NFileDescriptorStore"))
    daemon = show("MainPID")["MainPID"]
    with clients(OTHER_HOST, key) as seen:
        code, said = ctl("service", "restart")
        until(lambda: ask("/health")[0] == 200)
        os.kill(int(show("MainPID")["MainPID"]), 9)
        until(
            lambda: show("NRestarts", "ActiveState") == {"NRestarts": "1", "ActiveState": "active"}
        )
        answers = until(there)
    after = show("MainPID")["MainPID"]
    good = answers and not seen["refused"] and seen["served"] > 20 and after != daemon
    note("restart refuses nobody on the LAN", good, (seen, said))
    code, said = ctl("service", "stop")
    note("stop frees the LAN's port", code == 0 and refuses(OTHER_HOST), said)
    code, said = ctl("service", "start")
    opened = until(there)
    note("start opens the LAN again", code == 0 and opened, said)
    code, said = ctl("lan", "off")
    gone = until(lambda: refuses(OTHER_HOST), 20)
    empty = until(lambda: show("NFileDescriptorStore")["NFileDescriptorStore"] == "0", 20)
    note("lan off takes them back", gone and empty and not refuses("127.0.0.1"), said)


def wrong() -> None:
    """With a wrong configuration it is not started again and again, also not by who knocks."""
    config = HOME / ".config/modelport/config.toml"
    good = config.read_text()
    config.write_text(good + '\n[defaults]\nslots = "many"\n')
    before = show("MainPID")["MainPID"]
    code, said = ctl("service", "restart")
    kept = show("MainPID")["MainPID"] == before
    note(
        "restart looks at the configuration", code == 1 and "defaults.slots" in said and kept, said
    )
    with clients() as seen:
        os.kill(int(before), 9)
        over = until(
            lambda: show("ActiveState", unit="modelport.socket")["ActiveState"] == "failed"
        )
    about = show("ActiveState", "Result", "ExecMainStatus", "StatusText")
    told = about["ExecMainStatus"] == "78" and "defaults.slots" in about["StatusText"]
    note("a wrong configuration: it stays down, and says why", over and told, (about, seen))
    command = ["journalctl", f"_UID={UID}", "USER_UNIT=modelport.service", "-o", "cat"]
    starts = sh(*command)[1].count("status=78")
    note("a wrong configuration: a few starts", 1 <= starts <= 6, starts)
    code, said = ctl("service", "status")
    note("a wrong configuration: status", code == 1 and "defaults.slots" in said, said)
    code, said = ctl("doctor", "--json")
    note("a wrong configuration: doctor", code == 1 and "defaults.slots" in said, said)
    config.write_text(good)
    with clients() as seen:
        code, said = ctl("service", "start")
        fine = until(lambda: ask("/health")[0] == 200, 20)
    note("mended, it starts at once", code == 0 and fine and seen["served"], (said, seen))


def loosened() -> None:
    """The README's drop-in for engines that need a set-uid program (rootless Podman)."""
    drop_in = UNITS / "modelport.service.d/loose.conf"

    def no_new_rights() -> str:
        status = Path(f"/proc/{show('MainPID')['MainPID']}/status").read_text()
        return next(line.split()[1] for line in status.splitlines() if "NoNewPrivs" in line)

    before = no_new_rights()
    lines = (
        "NoNewPrivileges=no\nLockPersonality=no\nRestrictSUIDSGID=no\nSystemCallArchitectures=\n"
    )
    drop_in.write_text(f"[Service]\n{lines}")
    sh("systemctl", "--user", "-M", "tester@", "daemon-reload")
    code, said = ctl("service", "restart")
    after = no_new_rights()
    note("a drop-in lets set-uid programs work", (before, after, code) == ("1", "0", 0), said)
    drop_in.unlink()
    sh("systemctl", "--user", "-M", "tester@", "daemon-reload")


def login() -> None:
    """The user's manager anew, as at a login. The backends of before end with its session."""
    sh("systemctl", "stop", f"user@{UID}.service")
    gone = until(lambda: not processes("modelport"), 20)
    sh("systemctl", "start", f"user@{UID}.service")
    about = until(lambda: (s := show("ActiveState", "StatusText"))["ActiveState"] == "active" and s)
    note("starts at login", gone and about and chat() == TEN, (about, processes("modelport")))


def edited() -> None:
    config = HOME / ".config/modelport/config.toml"
    unit = UNITS / "modelport.service"
    text = unit.read_text()
    unit.write_text(text.replace("RestartSec=2", "RestartSec=9"))
    code, said = ctl("service", "install", "--no-linger")
    note("changes by hand are kept", code == 1 and "--force" in said, said)
    unit.write_text(text)
    config.write_text(CONFIG.replace(f"also = [{OTHER}]", ""))
    code, said = ctl("service", "install", "--no-linger")
    there = (UNITS / f"modelport-{ALSO}.socket").exists()
    note("a port that is gone goes", code == 0 and not there and chat() == TEN, said)


def serving() -> str:
    """The version of the daemon that answers."""
    facts = json.loads(ctl("version", "--json")[1])
    return str((facts["daemon"] or {}).get("version"))


def upgraded() -> None:
    """Another version and back, with one model answering from one process all the time."""
    old, before = serving(), engine()
    code, said = ctl("upgrade", "--check", "--json", "--from", NEWER)
    facts = json.loads(said)
    planned = (facts["current"], facts["target"], facts["does"], facts["restarts_service"])
    note("upgrade --check", code == 0 and planned == (old, "99.1", "environment", True), said)
    code, said = ctl("upgrade", "--check")
    note("upgrade --check without a network", code == 1 and "cannot be reached" in said, said)
    with clients() as seen:
        code, said = ctl("upgrade", "--from", NEWER)
        text = chat()
    note("upgrade", code == 0 and "taken over: a" in said and serving() == "99.1", said)
    note("upgrade refuses nobody", not seen["refused"] and seen["served"] > 20, seen)
    note("upgrade keeps the model", engine() == before and text == TEN, (before, engine()))
    code, said = ctl("service", "install", "--no-linger")
    note("an older ctl leaves the newer service", serving() == "99.1", said)
    with clients() as seen:
        code, said = ctl("upgrade", "--from", BROKEN)
    told = "99.1 is back" in said and "broken on purpose" in said
    note("a broken version is taken back", code == 1 and told and serving() == "99.1", said)
    note("a broken version refuses nobody", not seen["refused"], seen)
    note("a broken version costs no model", engine() == before and chat() == TEN, engine())
    left = [path.name for path in (DATA / "service").glob("env-*")]
    note("nothing of it is left", len(left) == 2, left)
    code, said = ctl("upgrade", "--rollback")
    note("rollback", code == 0 and serving() == old, said)
    note("rollback keeps the model", engine() == before and chat() == TEN, engine())
    code, said = ctl("upgrade", "--rollback")
    note("a second rollback is refused", code == 1 and "no earlier version" in said, said)


def removed() -> None:
    """Everything goes, by the service's own ctl, whose files go, too."""
    code, said = ctl("service", "install", "--no-linger")
    note("installed once more", code == 0 and chat() == TEN, said)
    codex = HOME / ".codex/config.toml"
    code, said = ctl("env", "codex", "--write")
    note("a client's file is written", code == 0 and codex.exists(), said)
    own = str(DATA / "service/current/bin/ctl")
    code, said = as_tester(own, "uninstall", "--purge", "--dry-run", "--json")
    kinds = {step["kind"] for step in json.loads(said)["would"]}
    wanted = {"service", "client", "runtime", "log", "data", "state", "config"}
    note("uninstall --dry-run", code == 0 and wanted <= kinds and codex.exists(), said)
    code, said = as_tester(own, "uninstall", "--purge", "--yes", "--json")
    note("ctl uninstall", code == 0 and json.loads(said)["ok"], said)
    places = (HOME, Path(f"/run/user/{UID}"))
    left = [str(path) for place in places for path in place.rglob("*modelport*")]
    left = [path for path in left if "/.cache/uv/" not in path]
    note(
        "ctl uninstall leaves nothing",
        not left and not codex.parent.exists(),
        (left, list(codex.parent.glob("*"))),
    )
    gone = until(lambda: not processes("modelportd", "keeper.py"), 20)
    note("ctl uninstall leaves no processes", gone, processes("modelport"))


def uninstalled() -> None:
    (UNITS / "modelport.service.d/quick.conf").unlink()
    (UNITS / "modelport.service.d").rmdir()
    code, said = ctl("service", "uninstall")
    left = [str(path) for path in HOME.rglob("*modelport*") if path.name != "modelport"]
    links = [str(p) for p in UNITS.rglob("*") if p.is_symlink() or p.is_file()]
    note("uninstall", code == 0 and not links, (said, links))
    left = [str(path) for path in (DATA, Path(f"/run/user/{UID}/modelport")) if path.exists()]
    note("uninstall leaves no folders", not left, left)
    gone = until(lambda: not processes("modelportd", "keeper.py"), 20)
    note("uninstall leaves no processes", gone, processes("modelport"))
    known = show("LoadState")["LoadState"]
    note("systemd has forgotten it", known == "not-found", known)
    note("the configuration stays", (HOME / ".config/modelport/config.toml").exists())


# ---------------------------------------------------------------- the machine's service


def system() -> None:
    code, said = sh(CTL, "service", "install", "--system")
    about = sh("systemctl", "show", "modelport.service", "-pActiveState,User,StatusText")[1]
    note("system: installed", code == 0 and "ActiveState=active" in about, (said, about))
    socket = Path("/run/modelport/control.sock")
    info = socket.stat() if socket.exists() else None
    modes = info is not None and (info.st_mode & 0o777) == 0o660
    ours = info is not None and grp.getgrgid(info.st_gid).gr_name == "modelport"
    note("system: socket 0660 of its group", modes and ours, info)
    code, said = ctl("status")
    told = "usermod" in said and "http://127.0.0.1:8123" in said and "ctl key add" in said
    note("system: another user is told how", code == 3 and told, said)
    sh("usermod", "-aG", "modelport", "tester")
    sh("systemctl", "restart", f"user@{UID}.service")
    code, said = ctl("status", "--json")
    note("system: a member controls it", code == 0 and '"pid"' in said, said)
    code, said = ctl("service", "status")
    note("system: status for everybody", code == 0 and "starts with the machine" in said, said)
    code, said = ctl("service", "stop")
    note("system: changed by root alone", code == 1 and "sudo" in said, said)
    score = sh("systemd-analyze", "security", "modelport.service", "--no-pager")[1].splitlines()
    note("system: security", score and "modelport.service" in score[-1], score[-1:])
    code, said = sh(CTL, "upgrade", "--system", "--from", NEWER, "--json")
    program = "/usr/local/lib/modelport/current/bin/modelportd"
    runs = as_tester(program, "--version")[1]
    note("system: upgrade", code == 0 and '"to": "99.1"' in said and "99.1" in runs, (said, runs))
    code, said = sh(CTL, "uninstall", "--system", "--purge", "--yes")
    places = ["/usr/local/lib/modelport", "/run/modelport", "/etc/systemd/system/modelport.service",
              "/etc/systemd/system/modelport.socket", "/etc/modelport"]  # fmt: skip
    places += [f"/var/{kind}/modelport" for kind in ("lib", "log", "cache")]
    left = [place for place in places if Path(place).exists()]
    try:
        pwd.getpwnam("modelport")
        left.append("the account")
    except KeyError:
        pass
    note("system: uninstall leaves nothing", code == 0 and not left, (said, left))


def main() -> None:
    sh("loginctl", "enable-linger", "tester")
    sh("systemctl", "start", f"user@{UID}.service")
    install()
    before = serve()
    restarted(before)
    stalled(before)
    journal()
    reload(before)
    stopped(before)
    lan()
    wrong()
    loosened()
    login()
    edited()
    upgraded()
    uninstalled()
    removed()
    system()


main()
