"""Reload, service mode, two daemons, a taken port: the daemon's own life."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeHouse
from tests.e2e.house import ROOT, House, Watch, process_exists

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

TEN = "one two three four five six seven eight nine ten"


def model(name: str, path: Path, **more: object) -> str:
    keys = "".join(f"{key} = {value}\n" for key, value in more.items())
    return f'[models.{name}]\npath = "{path}"\nengine = "xllamacpp"\nargs = ["-t", "1"]\n{keys}\n'


# ---------------------------------------------------------------- reload


def test_reload_touches_only_what_changed(make_house: MakeHouse, tiny_gguf: Path) -> None:
    config = model("a", tiny_gguf, ctx=512) + model("b", tiny_gguf, ctx=512)
    with make_house(config) as house:
        house.chat("a")
        house.chat("b")
        before = house.backends()
        house.write(
            model("a", tiny_gguf, ctx=512, aliases='["first"]')
            + model("b", tiny_gguf, ctx=1024)
            + model("c", tiny_gguf, ctx=512)
        )
        view = house.client.post("/reload")
        assert view["ok"], view
        assert (view["added"], view["changed"], view["relabelled"]) == (["c"], ["b"], ["a"])
        assert house.chat("first").status == 200
        assert house.chat("c").status == 200
        assert house.chat("b").status == 200
        after = house.backends()
        assert after["a"]["pid"] == before["a"]["pid"], "an alias restarts nothing"
        assert after["b"]["pid"] != before["b"]["pid"]
        assert after["b"]["context"] == 1024


def test_reload_drains_before_it_restarts(make_house: MakeHouse, loop_gguf: Path) -> None:
    with make_house(model("a", loop_gguf, ctx=2048)) as house:
        pieces = []
        for piece in house.stream("a", max_tokens=300):
            pieces.append(piece)
            if len(pieces) == 5:
                house.write(model("a", loop_gguf, ctx=1024))
                assert house.client.post("/reload")["changed"] == ["a"]
        assert len(pieces) >= 300
        assert house.chat("a", max_tokens=2).status == 200
        assert house.backends()["a"]["context"] == 1024


def test_a_broken_file_leaves_the_old_one_running(make_house: MakeHouse, tiny_gguf: Path) -> None:
    with make_house(model("a", tiny_gguf, ctx=512)) as house:
        watch = Watch(house)
        house.chat("a")
        pid = house.backends()["a"]["pid"]
        house.write(model("a", tiny_gguf, ctx='"many"') + "[nonsense]\n")
        assert house.process is not None
        house.process.send_signal(signal.SIGHUP)
        watch.wait("reload_refused", "")
        assert "nonsense" in house.status()["config_problem"]
        refused = house.ctl("reload")
        assert refused.returncode == 1
        assert "models.a.ctx" in refused.stderr + refused.stdout
        assert house.chat("a").status == 200
        assert house.backends()["a"]["pid"] == pid
        house.write(model("a", tiny_gguf, ctx=512))
        assert house.ctl("reload").returncode == 0
        assert house.status()["config_problem"] == ""
        assert house.backends()["a"]["pid"] == pid


# ---------------------------------------------------------------- service mode


def test_a_restarted_service_takes_its_backends_over(
    make_house: MakeHouse, tiny_gguf: Path
) -> None:
    config = model("a", tiny_gguf, ctx=512)
    house = make_house(config, service=True)
    house.start()
    house.chat("a")
    before = house.backends()["a"]
    assert house.stop() == 0
    assert process_exists(before["pid"]), "the keeper holds it for the next daemon"
    house.start()
    after = house.backends()["a"]
    assert (after["pid"], after["generation"]) == (before["pid"], before["generation"])
    assert house.chat("a").json()["choices"][0]["message"]["content"] == TEN
    assert house.kinds("a") == ["adopted"]
    house.ctl("unload", "--all")
    assert not process_exists(before["pid"])


def test_a_killed_service_is_adopted_too(make_house: MakeHouse, tiny_gguf: Path) -> None:
    house = make_house(model("a", tiny_gguf, ctx=512), service=True)
    house.start()
    house.chat("a")
    pid = house.backends()["a"]["pid"]
    assert house.process is not None
    house.process.kill()
    house.process.wait(20)
    house.start()
    assert house.backends()["a"]["pid"] == pid
    assert house.chat("a").status == 200
    house.ctl("unload", "--all")


def test_what_changed_meanwhile_is_not_adopted(make_house: MakeHouse, tiny_gguf: Path) -> None:
    house = make_house(model("a", tiny_gguf, ctx=512), service=True)
    house.start()
    house.chat("a")
    pid = house.backends()["a"]["pid"]
    house.stop()
    house.write(model("a", tiny_gguf, ctx=1024))
    house.start()
    assert house.backends() == {}
    assert not process_exists(pid)
    assert house.chat("a").status == 200
    assert house.backends()["a"]["context"] == 1024
    house.ctl("unload", "--all")


def test_a_killed_foreground_daemon_leaves_nothing(make_house: MakeHouse, tiny_gguf: Path) -> None:
    house = make_house(model("a", tiny_gguf, ctx=512)).start()
    house.chat("a")
    backend = house.backends()["a"]
    assert house.process is not None
    house.process.kill()
    house.process.wait(20)
    deadline = time.monotonic() + 20
    while process_exists(backend["pid"]) or process_exists(backend["keeper_pid"]):
        assert time.monotonic() < deadline, "the engine outlived a foreground daemon"
        time.sleep(0.02)


# ---------------------------------------------------------------- one daemon, one port


def test_a_second_daemon_names_the_first(make_house: MakeHouse, tiny_gguf: Path) -> None:
    with make_house(model("a", tiny_gguf)) as house:
        second = House.__new__(House)
        second.__dict__.update(house.__dict__)
        second.launch()
        assert second.process is not None
        assert house.process is not None
        assert second.process.wait(40) == 78
        assert str(house.process.pid) in house.stderr()
        assert house.chat("a").status == 200


def test_a_taken_port_is_named_with_a_free_one(make_house: MakeHouse, tiny_gguf: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        house = make_house(model("a", tiny_gguf))
        house.port = holder.getsockname()[1]
        house.write(model("a", tiny_gguf))
        house.launch()
        assert house.process is not None
        assert house.process.wait(40) == 78
        said = house.stderr()
        assert f"Port {house.port} on 127.0.0.1 is taken by" in said
        assert "--port" in said


def test_a_handed_over_socket_is_served(make_house: MakeHouse, tiny_gguf: Path) -> None:
    """Socket activation: whoever connected before the daemon was there is answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        house = make_house(model("a", tiny_gguf, ctx=512), service=True)
        house.port = listener.getsockname()[1]
        house.write(model("a", tiny_gguf, ctx=512))
        early = socket.create_connection(("127.0.0.1", house.port), 10)
        early.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        descriptor = listener.fileno()
        handing_over = (
            f"import os, sys; os.dup2({descriptor}, 3); "
            "os.environ |= {'LISTEN_FDS': '1', 'LISTEN_PID': str(os.getpid())}; "
            "os.execv(sys.executable, [sys.executable, '-P', '-m', 'daemon', '--service'])"
        )
        with (house.folder / "stderr").open("ab") as said:
            house.process = subprocess.Popen(
                [sys.executable, "-c", handing_over],
                cwd=ROOT,
                env=house.environ,
                stdin=subprocess.DEVNULL,
                stderr=said,
                pass_fds=(descriptor,),
            )
        early.settimeout(40)
        assert early.recv(65536).startswith(b"HTTP/1.1 200 "), house.stderr()
        early.close()
        assert house.chat("a").status == 200
        assert house.ctl("unload", "--all").returncode == 0
        assert house.stop() == 0


# ---------------------------------------------------------------- failures, told


def test_a_model_that_cannot_load_says_why(make_house: MakeHouse, short_dir: Path) -> None:
    broken = short_dir / "broken.gguf"
    broken.write_bytes(b"GGUF but not really")
    with make_house(model("bad", broken) + model("gone", short_dir / "none.gguf")) as house:
        answer = house.chat("bad")
        assert answer.status in (500, 503)
        assert "bad" in answer.json()["error"]["message"]
        assert answer.headers["x-should-retry"] == "false"
        gone = house.chat("gone")
        assert "none.gguf" in gone.json()["error"]["message"]
        load = house.ctl("load", "gone")
        assert load.returncode == 1
        assert "none.gguf" in load.stderr + load.stdout


def test_what_can_never_fit_is_refused_with_numbers(make_house: MakeHouse, tiny_gguf: Path) -> None:
    config = '[memory]\nbudget = "8 MiB"\n\n' + model("big", tiny_gguf, ctx=512)
    with make_house(config) as house:
        answer = house.chat("big")
        assert answer.status == 400
        error = answer.json()["error"]
        assert error["code"] == "model_too_large"
        assert "8.0 MiB" in error["message"] or "8 MiB" in error["message"]
        load = house.ctl("load", "big")
        assert load.returncode == 1


def test_a_crashed_backend_comes_back_on_demand(make_house: MakeHouse, tiny_gguf: Path) -> None:
    with make_house(model("a", tiny_gguf, ctx=512) + "[timing]\nbackoff = 0.1\n") as house:
        watch = Watch(house)
        house.chat("a")
        pid = house.backends()["a"]["pid"]
        os.kill(pid, signal.SIGSEGV)
        watch.wait("backoff", "a")
        assert house.chat("a").status == 200
        assert house.backends()["a"]["pid"] != pid
        crashed = [e.data["facts"] for e in house.events() if e.kind == "exited"]
        assert crashed[0]["exit_class"] == "crash"


def test_a_lost_keeper_is_a_crash_like_any_other(make_house: MakeHouse, tiny_gguf: Path) -> None:
    with make_house(model("a", tiny_gguf, ctx=512) + "[timing]\nbackoff = 0.1\n") as house:
        watch = Watch(house)
        house.chat("a")
        backend = house.backends()["a"]
        os.kill(backend["keeper_pid"], signal.SIGKILL)
        watch.wait("exited", "a")
        assert not process_exists(backend["pid"])
        assert house.chat("a").status == 200
        left = {path.suffix for path in (house.folder / "run" / "b").iterdir()}
        assert left == {".json", ".sock", ".key"}, "only those of the new one"
