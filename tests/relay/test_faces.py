"""What a port answers as another server would: which paths there are on which port."""

from __future__ import annotations

import json

import pytest

from daemon.access.principals import CONTROL, USE, Principal
from daemon.core.problems import Code, Problem
from daemon.dialects import servers
from daemon.ports import ModelCard, Route
from daemon.relay import faces, routes
from daemon.relay.doors import MAIN, Door, Face
from daemon.relay.guard import Guard, Peer
from daemon.relay.heads import Head
from daemon.relay.listener import bound
from daemon.relay.routes import Local, Order, Place, Refused
from tests.relay.peers import Reply, World, both_loops, get, post, until, world

OLLAMA, LMSTUDIO, LLAMA = Door(Face.OLLAMA), Door(Face.LMSTUDIO), Door(Face.LLAMA_SERVER)
BOUND = Door(model="m")


@pytest.mark.parametrize(
    ("door", "paths"),
    [
        (MAIN, set()),
        (OLLAMA, {"/"}),
        (LMSTUDIO, {"/api/v0/models", "/api/v0/models/x", "/api/v1/models"}),
        (LLAMA, {"/props", "/slots", "/v1/health"}),
        (BOUND, {"/props", "/slots", "/v1/health"}),
    ],
)
def test_paths_by_door(door: Door, paths: set[str]) -> None:
    every = {
        "/",
        "/api/v1/models",
        "/api/v0/models",
        "/api/v0/models/x",
        "/props",
        "/slots",
        "/v1/health",
    }
    for path in (*every, "/api/tags", "/api/ps", "/api/version", "/v1/models", "/nothing"):
        place = faces.resolve("GET", path, door)
        if path in paths:
            assert isinstance(place, Place)
            assert place.local is Local.FACE
            assert "GET" in faces.allowed(path, door)
            assert isinstance(faces.resolve("POST", path, door), Refused)
        else:
            assert place is None
            assert not faces.allowed(path, door)


async def ask(here: World, front_port: int, data: bytes) -> Reply:
    client = await here.client(port=front_port)
    await client.send(data)
    return await client.reply()


async def opened(here: World, door: Door) -> int:
    (sock,) = await bound("127.0.0.1", 0)
    here.front.open(sock, door)
    port: int = sock.getsockname()[1]
    return port


@both_loops
async def test_whatever_the_client_names_the_bound_model_answers() -> None:
    async with world() as here:
        here.leases.rename["m"] = "its-own-name"
        port = await opened(here, BOUND)
        for body, seen in (
            (b'{"model":"other","a":1}', {"model": "its-own-name", "a": 1}),
            (b'{"model":null}', {"model": "its-own-name"}),
            (b'{"a":[1.50]}', {"model": "its-own-name", "a": [1.5]}),
            (b"{}", {"model": "its-own-name"}),
            (rb'{"a":"\ud83d"}', {"model": "its-own-name", "a": "\ufffd"}),
        ):
            reply = await ask(here, port, post(body=body))
            assert reply.status == 200
            assert json.loads(here.backend.seen[-1].body) == seen
        form = b'--XX\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc\r\n--XX--\r\n'
        upload = post("/v1/audio/transcriptions", form)
        kind = b"multipart/form-data; boundary=XX"
        upload = upload.replace(b"application/json", kind, 1)
        assert (await ask(here, port, upload)).status == 200
        said = here.backend.seen[-1].body
        head = b'--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\nits-own-name\r\n'
        assert said == head + form
        assert {wish.model for wish in here.leases.wishes} == {"m"}
        assert not any(wish.movable for wish in here.leases.wishes)
        assert (await ask(here, port, get("/upstream/m/x"))).status == 404


@both_loops
async def test_a_closed_port_takes_its_own_connections_and_no_others() -> None:
    async with world() as here:
        ports = [await opened(here, door) for door in (OLLAMA, LMSTUDIO)]
        listeners = here.front._listeners[1:]
        clients = [await here.client(port=port) for port in ports]
        for client in clients:
            await client.send(get("/api/version"))
            assert (await client.reply()).status == 200
        here.front.close(listeners[0])
        await until(lambda: here.front.connections == 1, "an idle connection of it goes")
        await clients[1].send(get("/api/version"))
        assert (await clients[1].reply()).status == 200


@both_loops
async def test_another_purpose_counts_on_open_connections() -> None:
    async with world() as here:
        port = await opened(here, OLLAMA)
        client = await here.client(port=port)
        await client.send(get("/"))
        assert (await client.reply()).body == b"Ollama is running"
        here.front._listeners[1].entry.door = BOUND
        await client.send(get("/"))
        assert b"modelport" in (await client.reply()).body


@both_loops
async def test_ollamas_questions_of_one_model_are_answered_at_every_door() -> None:
    async with world() as here:
        open_port, bound_port = here.front.port, await opened(here, BOUND)
        for body in (b"", b"[]", b"{}", b'{"model": 7}', b"[" * 10_000):
            assert (await ask(here, open_port, post("/api/show", body))).status == 400
        for body in (b'{"model":"m"}', b'{"name":"m","verbose":true}'):
            assert (await ask(here, open_port, post("/api/show", body))).status == 200
        for path in ("/api/show", "/api/pull"):
            assert (await ask(here, bound_port, post(path, b"{}"))).status == 200
        listed = json.loads((await ask(here, bound_port, get("/api/tags"))).body)["models"]
        assert [entry["name"] for entry in listed] == ["m"]


LOADED = ModelCard("m", state="ready", context=4096, facts={"size": 7, "quantisation": "Q4_K_M"})
ORDERS = {
    "/api/v1/models/load": LMSTUDIO,
    "/api/v1/models/unload": LMSTUDIO,
    "/models/load": LLAMA,
    "/models/unload": LLAMA,
}


@pytest.mark.parametrize("path", ORDERS)
def test_orders_are_taken_at_their_own_doors_alone(path: str) -> None:
    for door in (MAIN, OLLAMA, LMSTUDIO, LLAMA, BOUND):
        place = faces.resolve("POST", path, door)
        if door == ORDERS[path]:
            assert isinstance(place, Place)
            assert place.order is (Order.UNLOAD if path.endswith("unload") else Order.LOAD)
            assert faces.allowed(path, door) == "POST, OPTIONS"
            assert isinstance(faces.resolve("GET", path, door), Refused)
        else:
            assert place is None


@pytest.mark.parametrize(
    ("door", "path", "body"),
    [
        (LMSTUDIO, "/api/v0/chat/completions", {"messages": []}),
        (LMSTUDIO, "/api/v0/completions", {"prompt": "a"}),
        (LMSTUDIO, "/api/v0/embeddings", {"input": "a"}),
        (LLAMA, "/tokenize", {"content": "a"}),
        (LLAMA, "/detokenize", {"tokens": [1]}),
        (MAIN, "/apply-template", {"messages": []}),
    ],
)
@both_loops
async def test_texts_at_other_servers_paths(door: Door, path: str, body: dict[str, object]) -> None:
    async with world() as here:
        port = await opened(here, door)
        asked = post(path, json.dumps({"model": "m", **body}).encode())
        assert (await ask(here, port, asked)).status == 200
        to = path.replace("/api/v0/", "/v1/")
        assert here.backend.seen[-1].line == f"POST {to} HTTP/1.1"
        if path.startswith("/api/"):
            assert (await ask(here, here.front.port, asked)).status == 404


@both_loops
async def test_a_model_is_loaded_by_order() -> None:
    async with world() as here:
        here.leases.known["m"] = LOADED
        studio, llama = await opened(here, LMSTUDIO), await opened(here, LLAMA)
        said = await ask(here, studio, post("/api/v1/models/load", b'{"model":"m","context":1}'))
        told = json.loads(said.body)
        assert (told.pop("load_time_seconds") >= 0, said.status) == (True, 200)
        assert told == {"type": "llm", "instance_id": "m", "status": "loaded"}
        said = await ask(here, llama, post("/models/load", b'{"model":"m"}'))
        assert json.loads(said.body) == {"success": True}
        assert [wish.route for wish in here.leases.wishes] == [Route.UPSTREAM, Route.UPSTREAM]
        assert here.backend.seen == [], "it is asked nothing"
        here.leases.problems = [Problem(Code.MODEL_TOO_LARGE, "It does not fit.")]
        said = await ask(here, llama, post("/models/load", b'{"model":"m"}'))
        assert said.status >= 400
        assert "does not fit" in json.loads(said.body)["error"]["message"]
        for body in (b"{}", b"[]", b'{"model":7}', b'{"model":""}', b"{"):
            assert (await ask(here, llama, post("/models/load", body))).status == 400


@pytest.mark.parametrize(
    ("door", "path", "body"),
    [
        (LMSTUDIO, "/api/v1/models/unload", {"instance_id": "m"}),
        (LLAMA, "/models/unload", {"model": "m"}),
        (OLLAMA, "/api/chat", {"model": "m", "messages": [], "keep_alive": 0}),
        (OLLAMA, "/api/generate", {"model": "m", "keep_alive": 0}),
    ],
)
@both_loops
async def test_a_model_is_unloaded_by_order_of_an_operator(
    door: Door, path: str, body: dict[str, object]
) -> None:
    asked = post(path, json.dumps(body).encode())
    async with world() as here:
        port = await opened(here, door)
        refused = await ask(here, port, asked)
        assert refused.status in (401, 403)
        assert b"ctl unload m" in refused.body
        assert (here.leases.unloaded, here.leases.wishes) == ([], [])
        owner = Principal("owner", frozenset({USE, CONTROL}))
        here.front.set_guard(Granting(owner))
        done = await ask(here, port, asked)
        assert done.status == 200
        said = json.loads(done.body)
        assert said.get("success") or said.get("instance_id") or said["done_reason"] == "unload"
        assert (here.leases.unloaded, here.leases.wishes) == (["m"], [])
        unknown = post(path, json.dumps({**body, "model": "no", "instance_id": "no"}).encode())
        assert (await ask(here, port, unknown)).status == 404


class Granting(Guard):
    """Takes everybody for one principal."""

    def __init__(self, principal: Principal) -> None:
        super().__init__()
        object.__setattr__(self, "principal", principal)

    def decide(self, head: Head, peer: Peer) -> Principal | Problem:
        return self.principal  # type: ignore[attr-defined, no-any-return]


def test_nothing_that_changes_a_server_is_reached_by_its_face() -> None:
    """Slots' files, adapters, properties, downloads, tools, and a proxy to anywhere."""
    for door in (LMSTUDIO, LLAMA, BOUND):
        for method, path in (
            ("POST", "/props"),
            ("POST", "/slots/0"),
            ("POST", "/slots/0?action=save"),
            ("POST", "/lora-adapters"),
            ("POST", "/models"),
            ("DELETE", "/models"),
            ("POST", "/api/v1/models/download"),
            ("GET", "/cors-proxy"),
            ("POST", "/tools"),
        ):
            here = faces.resolve(method, path, door) or routes.resolve(method, path)
            assert isinstance(here, Refused), (door, method, path)


def test_lm_studios_newer_list() -> None:
    said = json.loads(servers.lm_list([LOADED, ModelCard("e", kind="embedding")]))["models"]
    first, second = said
    assert (first["key"], first["type"], first["size_bytes"]) == ("m", "llm", 7)
    assert first["loaded_instances"] == [{"id": "m", "config": {"context_length": 4096}}]
    assert first["quantization"] == {"name": "Q4_K_M", "bits_per_weight": None}
    assert first["capabilities"] == {"vision": False, "trained_for_tool_use": True}
    assert (second["type"], second["loaded_instances"]) == ("embedding", [])
    assert "capabilities" not in second
