"""What a port answers as another server would: which paths there are on which port."""

from __future__ import annotations

import json

import pytest

from daemon.relay import faces
from daemon.relay.doors import MAIN, Door, Face
from daemon.relay.listener import bound
from daemon.relay.routes import Local, Place, Refused
from tests.relay.peers import Reply, World, both_loops, get, post, until, world

OLLAMA, LMSTUDIO, LLAMA = Door(Face.OLLAMA), Door(Face.LMSTUDIO), Door(Face.LLAMA_SERVER)
BOUND = Door(model="m")


@pytest.mark.parametrize(
    ("door", "paths"),
    [
        (MAIN, set()),
        (OLLAMA, {"/"}),
        (LMSTUDIO, {"/api/v0/models", "/api/v0/models/x"}),
        (LLAMA, {"/props", "/slots", "/v1/health"}),
        (BOUND, {"/props", "/slots", "/v1/health"}),
    ],
)
def test_paths_by_door(door: Door, paths: set[str]) -> None:
    every = {"/", "/api/v0/models", "/api/v0/models/x", "/props", "/slots", "/v1/health"}
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
