"""Engines that listen on a unix socket, from their start to what their end leaves."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeHouse, timing
from tests.e2e.house import House, Watch, process_exists
from tests.e2e.stage import until
from tests.e2e.test_faults_real import llama
from tests.fakes import start

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

BACK = timing({"backoff": 0.1, "keeper_grace": 60})


def configured(engine: str, weights: Path) -> str:
    """A model ``m`` on this engine."""
    if engine == "template":
        words = [*start.argv("engine"), "--host", "{socket}", "--api-key-file", "{key_file}"]
        argv = ", ".join(f"'{word}'" for word in words)
        table = f"[engines.command.mine]\nargv = [{argv}]\nfootprint = '1 MiB'\n"
        return f"{BACK}{table}[models.m]\nengine = 'mine'\n"
    table = ""
    if engine == "llama-server":
        program = llama()
        if program is None:
            pytest.skip("no compiled llama-server here: make llama-server")
        table = f'[engines.llama-server]\npath = "{program}"\n'
    else:
        pytest.importorskip("xllamacpp")
    return f'{BACK}{table}[models.m]\npath = "{weights}"\nengine = "{engine}"\nctx = 512\n'


def sockets(house: House) -> list[str]:
    """Files of sockets on which engines listen or listened."""
    return [str(path) for path in (house.folder / "run" / "b").glob("*.engine.sock")]


@pytest.mark.parametrize("engine", ["llama-server", "xllamacpp", "template"])
def test_a_backend_by_its_socket(make_house: MakeHouse, tiny_gguf: Path, engine: str) -> None:
    """Asked, streamed, reached beneath; killed; taken over by the next daemon; and gone."""
    house = make_house(configured(engine, tiny_gguf), service=True).start()
    watch = Watch(house)
    assert "".join(house.stream("m"))
    first = house.backends()["m"]
    assert first["address"] == f"unix:{sockets(house)[0]}"
    assert first["address"] in house.ctl("show", "m").stdout + house.ctl("ps", "--json").stdout
    assert house.request("GET", "/upstream/m/v1/models").status == 200
    os.kill(first["pid"], signal.SIGKILL)
    watch.wait("backoff", "m")
    assert sockets(house) == []
    assert house.chat("m").status == 200
    second = house.backends()["m"]
    assert second["pid"] != first["pid"]
    (place,) = sockets(house)
    house.stop(signal.SIGKILL)
    house.start()
    adopted = house.backends()["m"]
    assert (adopted["pid"], adopted["address"]) == (second["pid"], f"unix:{place}")
    assert "".join(house.stream("m"))
    assert house.ctl("unload", "m").returncode == 0
    assert not process_exists(second["pid"])
    # Its keeper takes its own files along, once the daemon has no more use for it.
    until(lambda: not list((house.folder / "run" / "b").iterdir()), 20, "nothing of it is left")
    assert "Traceback" not in house.stderr()
