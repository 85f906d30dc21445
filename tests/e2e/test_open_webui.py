"""Open WebUI from PyPI, set up by ``ctl env open-webui``: it lists, it chats, and its small calls
put no model out.

An optional job, since it takes 1.7 GB: ``make test-webui`` makes .venv-webui and runs this;
MODELPORT_TEST_WEBUI names another environment that has it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import MakeHouse, worker
from tests.e2e.house import ROOT, House
from tests.ports import free_port

pytestmark = [pytest.mark.webui, pytest.mark.timeout(300)]

START_SECONDS = 120.0  # it imports a great deal: 20 s on two cores
TASKS = {
    "title": {},
    "tags": {},
    "follow_up": {},
    "queries": {"type": "web_search"},
    "emoji": {"prompt": "I am glad"},
    "auto": {"type": "search query", "prompt": "how do I"},
    "image_prompt": {},
}
TALK = [
    {"role": "user", "content": "What is a cactus?"},
    {"role": "assistant", "content": "A plant."},
]


@pytest.fixture(scope="session")
def program() -> Path:
    given = Path(os.environ.get("MODELPORT_TEST_WEBUI", ROOT / ".venv-webui")).absolute()
    path = given / "bin" / "open-webui" if given.is_dir() else given
    if not path.exists():
        pytest.skip("no Open WebUI here: run make test-webui")
    return path


class WebUi:
    """One that runs, in a folder of its own, with a person who is signed in."""

    def __init__(self, program: Path, house: House, folder: Path, variables: str) -> None:
        self.port = free_port()
        self.log = folder / "log"
        own = {
            "HOME": str(folder),
            "DATA_DIR": str(folder),
            "WEBUI_AUTH": "false",
            "WEBUI_SECRET_KEY": "of-this-test",
            "OFFLINE_MODE": "true",
            "HF_HUB_OFFLINE": "1",
            "ENABLE_VERSION_UPDATE_CHECK": "false",
            "BYPASS_EMBEDDING_AND_RETRIEVAL": "true",
            "RAG_EMBEDDING_ENGINE": "openai",  # none of its own is loaded
            "ENABLE_AUTOCOMPLETE_GENERATION": "true",
            "ANONYMIZED_TELEMETRY": "false",
        }
        words = f'{variables}\nexec "{program}" serve --host 127.0.0.1 --port {self.port}'
        with self.log.open("wb") as said:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", words],
                cwd=folder,
                env={**house.environ, **own},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", timeout=60, trust_env=False
        )

    def sign_in(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            try:
                if self.http.get("/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        answer = self.http.post("/api/v1/auths/signin", json={"email": "", "password": ""})
        assert answer.status_code == 200, answer.text
        self.http.headers["Authorization"] = f"Bearer {answer.json()['token']}"

    def task(self, name: str, model: str) -> dict[str, Any]:
        """One of the calls that its page makes beside the conversation."""
        body = {"model": model, "messages": TALK, "stream": False, **TASKS[name]}
        answer = self.http.post(f"/api/v1/tasks/{name}/completions", json=body)
        assert answer.status_code == 200, (name, answer.text)
        found: dict[str, Any] = answer.json()
        assert found["choices"][0]["message"]["content"], (name, found)
        return found

    def end(self) -> None:
        self.http.close()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def house(make_house: MakeHouse, short_dir: Path, program: Path, alone: None) -> House:
    """Two models, of which one fits."""
    models = worker("mine", short_dir, "native") + worker("other", short_dir, "native")
    return make_house(f'[memory]\nbudget = "150 MiB"\n{models}').start()


@pytest.fixture
def webui(house: House, short_dir: Path, program: Path) -> Iterator[WebUi]:
    """Its conversations are to go to one model, its small calls to the other."""
    shown = house.ctl("env", "open-webui", "other")
    assert shown.returncode == 0, shown.stderr
    folder = short_dir / "webui"
    folder.mkdir()
    found = WebUi(program, house, folder, shown.stdout)
    try:
        found.sign_in()
        yield found
    finally:
        found.end()


def test_it_lists_and_chats_and_its_small_calls_put_no_model_out(
    house: House, webui: WebUi
) -> None:
    listed = webui.http.get("/api/models").json()["data"]
    assert {"mine", "other"} <= {model["id"] for model in listed}
    assert house.backends() == {}, "nothing is loaded for a list"

    asked = {"model": "mine", "messages": TALK[:1], "stream": True}
    with webui.http.stream("POST", "/api/chat/completions", json=asked) as answer:
        assert answer.status_code == 200
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    assert len(lines) > 3
    assert lines[-1] == "data: [DONE]"
    pid = house.backends()["mine"]["pid"]

    for name in TASKS:
        webui.task(name, "mine")
    assert {name: one["pid"] for name, one in house.backends().items()} == {"mine": pid}
    assert house.kinds("other") == [], "it is named for them, and was never started"
