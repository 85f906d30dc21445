"""Downloads with a whole daemon: by people, by requests, and by a daemon that was killed."""

from __future__ import annotations

import http.client
import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.downloads.hub import Big, Hub, Repo, running_hub
from tests.e2e.conftest import MakeHouse
from tests.e2e.house import House, Watch

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

FILE = "m-Q4_K_M.gguf"
SAID = {"role": "user", "content": "hi"}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": [SAID], "max_tokens": 4}),
    "messages": ("/v1/messages", {"messages": [SAID], "max_tokens": 4}),
    "responses": ("/v1/responses", {"input": "hi", "max_output_tokens": 16}),
    "ollama": ("/api/chat", {"messages": [SAID], "options": {"num_predict": 4}}),
}
BUSY = {"chat": 503, "messages": 529, "responses": 503, "ollama": 503}
QUICK = "[timing]\nstream_keepalive = 0.3\ndownload_retry = 0.1\n"


def model(name: str, repo: str = "owner/name") -> str:
    keys = 'engine = "xllamacpp"\nargs = ["-t", "1"]\nctx = 512\n'
    return f'[models.{name}]\nhf = "{repo}:Q4_K_M"\n{keys}'


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, short_dir: Path) -> Iterator[Hub]:
    with running_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_HOME", str(short_dir / "hub"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield running


@pytest.fixture
def crowd() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


class Asking:
    """A streamed request over plain HTTP; ``heard`` grows while it is answered."""

    def __init__(self, house: House, name: str, path: str, body: dict[str, Any]) -> None:
        self.heard = b""
        self.status = 0
        self._connection = http.client.HTTPConnection("127.0.0.1", house.port, timeout=120)
        self._sent = json.dumps({"model": name, "stream": True, **body})
        self._path = path

    def run(self) -> bytes:
        try:
            headers = {"Content-Type": "application/json"}
            self._connection.request("POST", self._path, self._sent, headers)
            answer = self._connection.getresponse()
            self.status = answer.status
            while piece := answer.read1(65536):
                self.heard += piece
            return self.heard
        finally:
            self._connection.close()


def until(condition: Callable[[], object], seconds: float = 30.0, what: object = "") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def errors_of(dialect: str, body: bytes) -> str:
    found = json.loads(body)["error"]
    return str(found if dialect == "ollama" else found["message"])


# ---------------------------------------------------------------- by requests


def test_requests_bring_their_models_and_hear_that_there_is_life(
    make_house: MakeHouse, hub: Hub, tiny_gguf: Path, crowd: ThreadPoolExecutor
) -> None:
    """In each dialect, by a stream that goes on once the model is here and loaded."""
    data = tiny_gguf.read_bytes()
    for dialect in ASKED:
        hub.repos[f"owner/{dialect}"] = Repo({f"{dialect}-Q4_K_M.gguf": data})
        hub.stall_after[f"{dialect}-Q4_K_M.gguf"] = 1000
    models = "".join(model(dialect, f"owner/{dialect}") for dialect in ASKED)
    more = "[defaults]\nauto_pull = true\n[downloads]\nparallel = 4\n"
    with make_house(more + QUICK + models) as house:
        askings = {name: Asking(house, name, *ASKED[name]) for name in ASKED}
        futures = {name: crowd.submit(asking.run) for name, asking in askings.items()}
        until(lambda: hub.stalling == len(ASKED), what=house.stderr())
        before = {name: len(asking.heard) for name, asking in askings.items()}
        until(lambda: all(len(a.heard) > before[n] + 10 for n, a in askings.items()))
        waited = {name: len(asking.heard) for name, asking in askings.items()}
        hub.release.set()
        for name, future in futures.items():
            said = future.result(90)
            assert askings[name].status == 200, said
            assert len(said) > waited[name] + 50, said
            assert b'"error":{' not in said
            assert house.kinds(name)[:2] == ["pull", "pulled"]
            assert house.kinds(name)[-2:] == ["start", "ready"]


def test_what_takes_too_long_is_told_with_its_figures(
    make_house: MakeHouse, hub: Hub, crowd: ThreadPoolExecutor
) -> None:
    """In each dialect: those who wait hear it as soon as it is known, those who come at once."""
    hub.repos["owner/name"] = Repo({FILE: Big(64 << 20)})
    hub.pace = 1 << 20
    house = make_house(f"[defaults]\nauto_pull = true\n{QUICK}{model('m')}")
    house.server = "queue_timeout = 20\n"
    house.write(house.config)
    with house:
        first = crowd.submit(house.chat, "m")
        told = first.result(60)
        assert told.status == 503, told.body
        for dialect, (path, body) in ASKED.items():
            answer = house.request("POST", path, {"model": "m", **body})
            assert answer.status == BUSY[dialect], answer.body
            text = errors_of(dialect, answer.body)
            assert "m is being downloaded: " in text
            assert " % of 64.0 MiB, about " in text
            assert text.endswith("left. Ask again then, or watch it: ctl pull m")
            assert 1 <= int(answer.headers["retry-after"]) <= 30
            assert answer.headers["x-should-retry"] == "true"
        assert told.json()["error"]["code"] == "pulling"
        (pull,) = house.client.get("/pulls")["pulls"]
        assert (pull["name"], pull["state"]) == ("m", "running")
        assert 0 < pull["done"] < pull["total"] == 64 << 20
        gone = house.ctl("pull", "m", "--cancel")
        assert gone.returncode == 0, gone.stderr
        assert house.client.get("/pulls") == {"pulls": []}


def test_what_may_not_be_brought_is_refused_with_the_way_to_get_it(
    make_house: MakeHouse, hub: Hub, tiny_gguf: Path
) -> None:
    hub.repos["owner/name"] = Repo({FILE: tiny_gguf.read_bytes()})
    with make_house(QUICK + model("m") + model("n") + "auto_pull = true\n") as house:
        for dialect, (path, body) in ASKED.items():
            answer = house.request("POST", path, {"model": "m", **body})
            assert answer.status == 400
            assert "Get them with: ctl pull m" in errors_of(dialect, answer.body)
            assert answer.headers["x-should-retry"] == "false"
        assert hub.requests == []
        assert house.chat("n").status == 200, "this one model may"


def test_a_download_that_fails_is_told_to_who_waits_and_not_begun_by_each(
    make_house: MakeHouse, hub: Hub
) -> None:
    hub.repos["owner/name"] = Repo({FILE: b"GGUF"}, gate=403)
    with make_house(f"[defaults]\nauto_pull = true\n{QUICK}{model('m')}") as house:
        for dialect, (path, body) in ASKED.items():
            answer = house.request("POST", path, {"model": "m", **body})
            assert answer.status in (500, 503)
            text = errors_of(dialect, answer.body)
            assert "owner/name is gated" in text
            assert f"{hub.url}/owner/name" in text
        assert house.kinds("m").count("pull") == 1


# ---------------------------------------------------------------- by a daemon that was killed


def children() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "ppid"]):
        if "daemon.downloads.worker" in (process.info["cmdline"] or ()):
            found.append(process)
    return found


def test_a_killed_daemon_leaves_no_download_behind_and_takes_it_up(
    make_house: MakeHouse, hub: Hub, tiny_gguf: Path, short_dir: Path
) -> None:
    data = tiny_gguf.read_bytes() + bytes(4 << 20)
    hub.repos["owner/name"] = Repo({FILE: data})
    hub.stall_after[FILE] = len(data) // 2
    source = "hf:owner/name:Q4_K_M"
    house = make_house(QUICK).start()
    assert house.ctl("pull", source, "--no-wait").returncode == 0
    assert hub.stalled.wait(30)
    parts = (short_dir / "hub").rglob
    until(lambda: any(part.stat().st_size for part in parts("*.incomplete")))
    assert house.process is not None
    mine = [one for one in children() if one.info["ppid"] == house.process.pid]
    assert len(mine) == 1
    house.stop(signal.SIGKILL)
    _, alive = psutil.wait_procs(mine, timeout=20)
    assert alive == []
    hub.release.set()
    asked = len(hub.requests)
    house.start()
    Watch(house).wait("pulled", source, seconds=60)
    assert any(span for _, _, span in hub.requests[asked:]), "it went on where it was"
    assert house.ctl("pull", source).returncode == 0
    assert house.stop() == 0
    asked = len(hub.requests)
    house.start()
    assert house.client.get("/pulls") == {"pulls": []}, "it is over, and stays so"
    assert len(hub.requests) == asked


# ---------------------------------------------------------------- by people


def test_pull_add_run_rm_prune(
    make_house: MakeHouse, hub: Hub, smollm2_gguf: Path, crowd: ThreadPoolExecutor
) -> None:
    """A real model from the stand-in to its answer, and away again."""
    hub.repos["owner/SmolLM2-GGUF"] = Repo({"smollm2-Q4_1.gguf": smollm2_gguf.read_bytes()})
    source = "hf:owner/SmolLM2-GGUF:Q4_1"
    with make_house(QUICK) as house:
        found = house.ctl("search", "smollm2", "--json")
        assert json.loads(found.stdout)["models"][0]["pull"] == source, found.stderr
        pulls: list[Future[Any]] = [crowd.submit(house.ctl, "pull", source) for _ in range(2)]
        for one in pulls:
            done = one.result(90)
            assert done.returncode == 0, done.stderr
            assert f"pulled  {source}  " in done.stdout
            assert "It is served as owner/SmolLM2-GGUF:Q4_1: ctl run owner/" in done.stdout
            assert f"ctl add {source} NAME" in done.stdout
        assert len(hub.asked("GET", ".gguf")) == 1, "two watchers, one download"
        few = ("--max-tokens", "16")  # by chance it goes on until its context is full: minutes
        said = house.ctl("run", "owner/SmolLM2-GGUF:Q4_1", "Say hi.", "--json", *few)
        assert said.returncode == 0, said.stderr
        assert house.ctl("unload", "owner/SmolLM2-GGUF:Q4_1").returncode == 0
        added = house.ctl("add", source, "smol", "--engine", "xllamacpp", "--ctx", "512")
        assert added.returncode == 0, added.stderr
        again = house.ctl("pull", source, "--json")
        assert json.loads(again.stdout)["facts"]["served_as"] == "smol"
        said = house.ctl("run", "smol", "Say hi.", "--json", *few)
        assert said.returncode == 0, said.stderr
        refused = house.ctl("rm", "smol", "--weights", "--yes")
        assert (refused.returncode, "smol is loaded" in refused.stderr) == (1, True)
        kept = json.loads(house.ctl("prune", "--days", "0", "--yes", "--json").stdout)
        assert [item["kept"] for item in kept["items"]] == ["smol is loaded"]
        assert house.ctl("unload", "smol").returncode == 0
        assert house.ctl("rm", "smol").returncode == 0
        used = json.loads(house.ctl("prune", "--days", "1", "--json").stdout)
        assert used["items"] == [], "it was used just now"
        freed = house.ctl("prune", "--days", "0", "--yes", "--json")
        size = smollm2_gguf.stat().st_size
        assert json.loads(freed.stdout)["freed"] == size, freed.stdout + freed.stderr
        assert house.ctl("pull", source).returncode == 0
        gone = house.ctl("rm", source, "--weights", "--yes", "--json")
        assert json.loads(gone.stdout)["freed"] == size, gone.stderr
        assert len(hub.asked("GET", ".gguf")) == 2
