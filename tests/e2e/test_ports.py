"""More ports than one, names, small calls and the lists of models: whole daemons."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeHouse
from tests.e2e.house import Answer, House, Watch
from tests.e2e.test_landlord import stand_in
from tests.ports import free_port

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

HI = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        raw = json.dumps(body).encode() if body is not None else None
        connection.request(method, path, raw, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        told = {k.lower(): v for k, v in answer.getheaders()}
        return Answer(answer.status, told, answer.read())
    finally:
        connection.close()


def also(*tables: str) -> str:
    return f"also = [{', '.join(tables)}]\n"


def chat(port: int, **more: Any) -> Answer:
    return ask(port, "POST", "/v1/chat/completions", {**HI, **more})


MODELS = '[memory]\nbudget = "350 MiB"\n' + stand_in("a") + stand_in("b")


@pytest.fixture
def ports() -> list[int]:
    return [free_port() for _ in range(3)]


def test_a_port_that_is_bound_to_one_model(make_house: MakeHouse, ports: list[int]) -> None:
    bound, other = ports[:2]
    config = also(f'{{port = {bound}, model = "b"}}', f'{{port = {other}, model = "a"}}') + MODELS
    with make_house(config) as house:
        for named in ({"model": "a"}, {"model": "claude-opus-5-5"}, {"model": None}, {}):
            assert chat(bound, **named).status == 200, named
        assert house.backends().keys() == {"b"}, "whatever the client names"
        said = ask(bound, "GET", "/v1/models").json()
        assert [model["id"] for model in said["data"]] == ["b"]
        assert ask(bound, "GET", "/v1/models/whatever").json()["id"] == "b"
        assert ask(bound, "GET", "/props").json()["model_alias"] == "b"
        assert ask(bound, "GET", "/slots").json()[0]["is_processing"] is False
        assert ask(bound, "GET", "/upstream/a/health").status == 404
        assert chat(other, model="b").status == 200
        assert house.backends().keys() == {"a", "b"}
        listed = {one["port"]: one for one in house.status()["listeners"]}
        assert (listed[bound]["model"], listed[bound]["open"]) == ("b", True)
        assert f"127.0.0.1:{bound}, always b" in house.ctl("status").stdout


def test_the_guard_is_the_same_on_every_port(make_house: MakeHouse, ports: list[int]) -> None:
    config = also(f'{{port = {ports[0]}, as = "ollama"}}') + MODELS
    with make_house(config):
        assert ask(ports[0], "GET", "/", Host="evil.example").status == 421
        assert ask(ports[0], "GET", "/api/tags", Origin="https://evil.example").status == 403
        assert ask(ports[0], "GET", "/control/v1/status").status == 401


def test_ollamas_lmstudios_and_llama_servers_words(make_house: MakeHouse, ports: list[int]) -> None:
    ollama, lmstudio, llama = ports
    config = also(
        f'{{port = {ollama}, as = "ollama"}}',
        f'{{port = {lmstudio}, as = "lmstudio"}}',
        f'{{port = {llama}, as = "llama-server"}}',
    )
    with make_house(config + MODELS) as house:
        assert ask(ollama, "GET", "/").body == b"Ollama is running"
        assert ask(ollama, "HEAD", "/").status == 200
        for port in (ollama, house.port):  # Codex asks for these wherever it is sent
            assert ask(port, "GET", "/api/version").json()["version"]
            tags = ask(port, "GET", "/api/tags").json()["models"]
            assert {"a", "b"} <= {model["name"] for model in tags}
            assert all(len(model["digest"]) >= 12 for model in tags)
            assert ask(port, "POST", "/api/show", {"model": "a"}).json()["capabilities"]
        lost = ask(ollama, "POST", "/api/show", {"name": "nothing"})
        assert (lost.status, "nothing" in lost.json()["error"]) == (404, True)
        assert ask(ollama, "GET", "/api/show").headers["allow"] == "POST, OPTIONS"
        assert ask(ollama, "GET", "/api/ps").json() == {"models": []}
        assert house.chat("a").status == 200
        (running,) = ask(ollama, "GET", "/api/ps").json()["models"]
        assert (running["name"], running["size_vram"]) == ("a", 100 << 20)
        assert running["expires_at"] < "2200"

        loaded = ask(lmstudio, "GET", "/api/v0/models").json()["data"]
        states = {model["id"]: model["state"] for model in loaded}
        assert (states["a"], states["b"]) == ("loaded", "not-loaded")
        assert ask(lmstudio, "GET", "/api/v0/models/a").json()["type"] == "llm"
        assert ask(house.port, "GET", "/api/v0/models").status == 404

        assert ask(llama, "GET", "/health").json() == {"status": "ok"}
        assert ask(llama, "GET", "/props").json()["role"] == "router"
        assert ask(llama, "GET", "/props?model=b").json()["model_alias"] == "b"
        assert ask(llama, "GET", "/slots?model=b").json() == []
        listed = ask(llama, "GET", "/models").json()["data"]
        states = {model["id"]: model["status"]["value"] for model in listed}
        assert (states["a"], states["b"]) == ("loaded", "unloaded")
        for port in ports:
            assert chat(port, model="a").status == 200


def studios(port: int) -> dict[str, Any]:
    """LM Studio's newer list, by name."""
    return {one["key"]: one for one in ask(port, "GET", "/api/v1/models").json()["models"]}


def test_other_servers_paths_of_a_real_model(
    make_house: MakeHouse, ports: list[int], tiny_gguf: Path
) -> None:
    pytest.importorskip("xllamacpp")
    lmstudio, llama = ports[:2]
    config = also(
        f'{{port = {lmstudio}, as = "lmstudio"}}', f'{{port = {llama}, as = "llama-server"}}'
    )
    config += f'[models.t]\npath = "{tiny_gguf}"\nengine = "xllamacpp"\nctx = 1024\n'
    with make_house(config) as house:
        listed = studios(lmstudio)["t"]
        assert (listed["type"], listed["format"], listed["loaded_instances"]) == ("llm", "gguf", [])
        assert ask(llama, "POST", "/models/load", {"model": "t"}).json() == {"success": True}
        assert house.backends()["t"]["state"] == "ready"
        done = ask(lmstudio, "POST", "/api/v1/models/load", {"model": "t"}).json()
        assert (done["instance_id"], done["status"]) == ("t", "loaded")
        listed = studios(lmstudio)["t"]
        assert listed["loaded_instances"][0]["config"]["context_length"] == 1024
        for path in ("/api/v0/chat/completions", "/api/v0/completions"):
            said = ask(lmstudio, "POST", path, {**HI, "model": "t", "prompt": "hi"})
            assert (said.status, said.json()["usage"]["completion_tokens"]) == (200, 4), said.body
        text = "how many tokens?"
        tokens = ask(llama, "POST", "/tokenize", {"model": "t", "content": text}).json()["tokens"]
        back = ask(llama, "POST", "/detokenize", {"model": "t", "tokens": tokens}).json()
        assert back["content"] == text
        prompt = ask(llama, "POST", "/apply-template", {**HI, "model": "t"}).json()["prompt"]
        assert "hi" in prompt
        lost = ask(llama, "POST", "/models/load", {"model": "nothing"})
        assert (lost.status, "nothing" in lost.json()["error"]["message"]) == (404, True)
        kept = ask(llama, "POST", "/models/unload", {"model": "t"})
        assert (kept.status, "ctl unload t" in kept.body.decode()) == (401, True)
        assert house.backends()["t"]["state"] == "ready"
        for path in ("/props", "/slots/0?action=erase", "/lora-adapters"):
            assert ask(llama, "POST", path, {"model": "t"}).status in (404, 405)


def test_ports_come_and_go_by_reload_and_nobody_else_notices(
    make_house: MakeHouse, ports: list[int]
) -> None:
    stays, leaves, comes = ports
    slow = '[memory]\nbudget = "350 MiB"\n' + stand_in("a", "--tokens", "200", "--token-s", "0.02")
    kept = f'{{port = {stays}, as = "ollama"}}'
    house = make_house(slow)
    house.server = also(kept, f'{{port = {leaves}, model = "a"}}')
    house.write(slow)
    with house:
        idle = socket.create_connection(("127.0.0.1", leaves), 10)
        held = http.client.HTTPConnection("127.0.0.1", stays, timeout=30)
        held.request("GET", "/api/version")
        held.getresponse().read()
        pid = held.sock.getsockname()
        pieces = _stream(leaves)
        next(pieces)
        house.server = also(kept, f'{{port = {comes}, model = "a"}}')
        house.write(slow)
        done = house.client.post("/reload")
        assert (done["ok"], done["settings"], done["needs_restart"]) == (True, ["server.also"], [])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", leaves), 10)
        assert idle.recv(1) == b"", "an idle connection of the closed port goes"
        idle.close()
        assert len(list(pieces)) > 10, "an answer in progress is finished"
        held.request("GET", "/api/version")
        assert held.getresponse().read()
        assert held.sock.getsockname() == pid, "the same connection as before"
        held.close()
        assert chat(comes).status == 200
        # The same port for another purpose: on open connections, too.
        house.server = also(f'{{port = {stays}, model = "a"}}')
        house.write(slow)
        assert house.client.post("/reload")["ok"]
        assert b"Ollama" not in ask(stays, "GET", "/").body
        assert chat(stays).status == 200


def _stream(port: int) -> Iterator[bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        body = json.dumps({**HI, "stream": True, "max_tokens": 200})
        connection.request("POST", "/v1/chat/completions", body)
        answer = connection.getresponse()
        assert answer.status == 200
        yield from (line for line in answer if line.startswith(b"data:"))
    finally:
        connection.close()


def test_a_taken_port_is_named_and_the_daemon_serves_on(
    make_house: MakeHouse, ports: list[int]
) -> None:
    taken = ports[1]  # nobody else is given it once it is free
    with socket.create_server(("127.0.0.1", taken)) as holder:
        tables = (f'{{port = {taken}, as = "ollama"}}', f'{{port = {ports[0]}, as = "lmstudio"}}')
        house = make_house(MODELS)
        house.server = also(*tables)
        house.write(MODELS)
        with house:
            assert chat(ports[0], model="a").status == 200
            said = house.ctl("status")
            assert f"Port {taken} on 127.0.0.1 is taken by" in said.stdout
            assert "pytest" in said.stdout or "python" in said.stdout
            (shut,) = [one for one in house.status()["listeners"] if not one["open"]]
            assert (shut["port"], shut["speaks"]) == (taken, "ollama")
            again = house.ctl("reload")
            assert (again.returncode, "is taken by" in again.stdout) == (0, True)
            holder.close()
            assert "taken" not in house.ctl("reload").stdout
            assert ask(taken, "GET", "/").body == b"Ollama is running"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", taken), 10)


# ---------------------------------------------------------------- taking over


def test_taking_a_port_over_and_giving_it_back(make_house: MakeHouse, ports: list[int]) -> None:
    port = str(ports[0])
    with make_house(MODELS) as house:
        with house.config_file.open("a") as file:
            file.write("# mine\n")
        done = house.ctl("takeover", "ollama", "--port", port, "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["changed"], told["port"]) == (True, ports[0])
        assert ask(ports[0], "GET", "/").body == b"Ollama is running"
        assert "# mine" in house.config_file.read_text()
        again = house.ctl("takeover", "ollama")
        assert (again.returncode, "already" in again.stdout) == (0, True)
        undone = house.ctl("takeover", "ollama", "--undo")
        assert undone.returncode == 0, undone.stderr
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", ports[0]), 10)
        assert "also" not in house.config_file.read_text()


def test_a_port_that_is_held_is_not_taken_over(make_house: MakeHouse) -> None:
    with make_house(MODELS) as house, socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        before = house.config_file.read_text()
        done = house.ctl("takeover", "lmstudio", "--port", str(port), "--json")
        assert done.returncode == 1
        error = json.loads(done.stdout)["error"]
        assert error["facts"]["holder"]["pid"] == os.getpid()
        assert error["hint"] == f"Stop it: kill {os.getpid()}"
        assert house.config_file.read_text() == before
        ours = house.ctl("takeover", "ollama", "--port", str(house.port))
        assert (ours.returncode, "server.port" in ours.stderr) == (1, True)


# ---------------------------------------------------------------- names


def test_names_that_a_hosted_service_has(make_house: MakeHouse) -> None:
    house = make_house(MODELS)
    with house:
        for name in ("claude-opus-5-5", "gpt-5.1", "anthropic/claude-x"):
            answer = house.chat(name)
            assert answer.status == 404
            said = answer.json()["error"]["message"]
            assert "There are: a, b" in said
            assert "server.default_model" in said
        assert house.request("POST", "/v1/chat/completions", HI).status == 400
        house.server = 'default_model = "a"\ndefault_for = {completions = "b"}\n'
        house.write(MODELS)
        assert house.client.post("/reload")["ok"]
        for name in ("claude-opus-5-5", "gpt-5.1", "whatever", "A", "openai/a", "ollama/a:latest"):
            assert house.chat(name).status == 200, name
        assert house.backends().keys() == {"a"}
        assert house.request("POST", "/v1/chat/completions", HI).status == 200, "none named"
        more = {"prompt": "x", "max_tokens": 2}
        assert house.request("POST", "/v1/completions", more).status == 200
        assert house.backends().keys() == {"a", "b"}, "another default for that path"


# ---------------------------------------------------------------- small calls

TITLE = "You are a title generator. You output ONLY a thread title. Nothing else."
TAGS = "### Task:\nGenerate 1-3 broad tags categorizing the main themes of the chat history."


def small(model: str, text: str = TITLE, role: str = "system") -> dict[str, Any]:
    turns = [{"role": role, "content": text}, {"role": "user", "content": "say hello"}]
    return {"model": model, "messages": turns if role == "system" else turns[:1], "max_tokens": 4}


TWO = '[memory]\nbudget = "150 MiB"\n' + stand_in("big", slots=2) + stand_in("other")


def test_small_calls_go_to_who_is_loaded_and_evict_nobody(make_house: MakeHouse) -> None:
    with make_house(TWO) as house:
        assert house.chat("big").status == 200
        pid = house.backends()["big"]["pid"]
        for body in (small("other"), small("other", TAGS, "user")):
            assert house.request("POST", "/v1/chat/completions", body).status == 200
        assert {name: b["pid"] for name, b in house.backends().items()} == {"big": pid}
        assert house.kinds("other") == []


def test_the_stand_in_serves_them_while_the_big_one_starts(make_house: MakeHouse) -> None:
    slow = stand_in("big", "--load-s", "30")
    config = 'small_model = "little"\n[memory]\nbudget = "250 MiB"\n' + slow + stand_in("little")
    with make_house(config) as house:
        assert house.ctl("load", "little").returncode == 0
        watch = Watch(house)
        asked = threading.Thread(target=house.chat, args=("big",), daemon=True)
        asked.start()
        watch.wait("start", "big")
        answer = house.request("POST", "/v1/chat/completions", small("big"))
        assert answer.status == 200
        assert house.backends()["big"]["state"] == "starting", "it was not waited for"
        assert house.ctl("unload", "big", "--force").returncode == 0
        asked.join(30)


@pytest.mark.parametrize("told", ["small_model", "own", "evicts"])
def test_small_calls_as_the_configuration_says(told: str, make_house: MakeHouse) -> None:
    keys = {
        "small_model": 'small_model = "little"\nsmall_calls = "small_model"\n',
        "own": 'small_calls = "own"\n',
        "evicts": 'small_evicts = true\nsmall_model = "big"\n',
    }
    config = keys[told] + '[memory]\nbudget = "250 MiB"\n' + stand_in("big") + stand_in("little")
    with make_house(config) as house:
        assert house.chat("big").status == 200
        assert house.request("POST", "/v1/chat/completions", small("big")).status == 200
        wanted = {"big", "little"} if told == "small_model" else {"big"}
        assert house.backends().keys() == wanted


# ---------------------------------------------------------------- the lists


def test_the_lists_are_what_the_official_clients_read(make_house: MakeHouse) -> None:
    import anthropic
    import openai

    with make_house(MODELS) as house:
        with openai.OpenAI(base_url=f"{house.url}/v1", api_key="x", max_retries=0) as one:
            assert {"a", "b"} <= {model.id for model in one.models.list()}
            assert one.models.retrieve("a").owned_by == "modelport"
        with anthropic.Anthropic(base_url=house.url, api_key="x", max_retries=0) as other:
            found = list(other.models.list(limit=1000))
            assert {"a", "b", "anthropic/a", "anthropic/b"} <= {model.id for model in found}
            assert other.models.retrieve("anthropic/a").id == "a"
            assert {model.lifecycle for model in found} == {"active"}
        assert house.chat("anthropic/a").status == 200


def test_a_mistake_in_the_new_keys_is_told_where_it_stands(make_house: MakeHouse) -> None:
    house: House = make_house(MODELS)
    house.server = 'default_for = {embed = "a", chat = "nobody"}\n'
    house.write(MODELS)
    said = house.ctl("config", "check")
    assert said.returncode == 1
    assert "server.default_for" in said.stdout
