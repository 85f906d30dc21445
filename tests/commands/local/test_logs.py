from __future__ import annotations

import json
import subprocess
from pathlib import Path

from daemon.config.paths import Paths
from tests.commands.conftest import Ctl, argv_of, process_env
from tests.control_api.fake import FakeControl, FakeDaemon


def write_logs(home: Path) -> Paths:
    paths = Paths.find({f"MODELPORT_{k}_DIR": str(home / k.lower()) for k in ("STATE", "LOG")})
    paths.model_logs_dir.mkdir()
    paths.daemon_log.write_text("up\nAuthorization: Bearer abcdefgh\n", "utf-8")
    paths.model_log("org/repo:Q4").write_text("".join(f"{n}\n" for n in range(200)), "utf-8")
    return paths


def test_from_files(ctl: Ctl, home: Path) -> None:
    write_logs(home)
    assert ctl("logs", "daemon").out == "up\nAuthorization: Bearer ***\n"
    assert ctl("logs", "org/repo:Q4", "-n", "2").out == "198\n199\n"
    assert ctl("logs", "org/repo:Q4").out.count("\n") == 100
    told = ctl("logs", "daemon", "--json").out.splitlines()
    assert json.loads(told[0]) == {"line": "up"}
    result = ctl("logs", "nobody")
    assert result.code == 1
    assert "There are logs of: daemon, org_repo_q4" in result.err


def test_through_the_daemon(
    ctl: Ctl, home: Path, daemon: FakeDaemon, fake: FakeControl, tmp_path: Path
) -> None:
    log = tmp_path / "elsewhere.log"
    log.write_text("one\ntwo\n", "utf-8")
    fake.logs = {"gemma": str(log), None: str(log)}
    result = ctl("logs", "g", "-n1")
    assert (result.code, result.out, result.err) == (0, "two\n", "")
    assert ctl("logs", "daemon").out == "one\ntwo\n"
    assert ctl("logs", "nobody").code == 1
    daemon.when(lambda: fake.log_paths_asked > 3, daemon.stop)
    result = ctl("logs", "gemma", "-f")
    assert result.code == 0
    assert "The daemon has stopped." in result.err


def test_follow_a_file(home: Path) -> None:
    paths = write_logs(home)
    process = subprocess.Popen(
        argv_of("logs", "daemon", "-f", "-n", "1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=process_env(),
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "Authorization: Bearer ***\n"
        with paths.daemon_log.open("a", encoding="utf-8") as file:
            file.write("more\n")
        assert process.stdout.readline() == "more\n"
        process.send_signal(2)
        _, err = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (130, "")


def test_bad_counts(ctl: Ctl) -> None:
    for count in ("-1", "x", "9999999"):
        assert ctl("logs", "daemon", f"--lines={count}").code == 2
