"""Every route against every kind of request that has to be refused, and the bounds."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from control_api.app import OPERATIONS, set_limits
from control_api.auth import FRONT_HEADERS, FrontAuth, front_headers
from control_api.operation import PREFIX, Limits, Operation
from daemon.access.principals import LOCAL, OWNER
from daemon.core.problems import Code, Problem, ProblemError
from tests.control_api.fake import FakeControl, served

MUTATIONS = [operation for operation in OPERATIONS if operation.method != "GET"]
READS = [operation for operation in OPERATIONS if operation.method == "GET"]
NAMED = [operation for operation in OPERATIONS if "{name}" in operation.path]
SECRET = "a-secret-of-this-start"


def op_id(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


def url(operation: Operation, name: str = "gemma") -> URL:
    path = operation.path.replace("{id}", "req_1").replace("{key}", "laptop")
    path = path.replace("{name}", name)
    return URL(PREFIX + path, encoded=True)


async def envelope(response: aiohttp.ClientResponse, status: int, code: str) -> dict[str, Any]:
    assert response.status == status, await response.text()
    assert response.content_type == "application/json"
    body = await response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "hint", "facts"}
    assert body["error"]["code"] == code
    assert "Access-Control-Allow-Origin" not in response.headers
    return dict(body["error"])


@pytest.mark.parametrize("operation", OPERATIONS, ids=op_id)
async def test_wrong_method_is_refused(
    operation: Operation, http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    before = fake.state()
    allowed = {op.method for op in OPERATIONS if op.path == operation.path}
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} - allowed:
        async with http.request(method, url(operation), json={}) as response:
            error = await envelope(response, 405, "method_not_allowed")
            assert response.headers["Allow"] == ", ".join(sorted(allowed))
            assert operation.method in error["hint"]
    assert fake.state() == before


HOSTILE_TYPES = [
    None,
    "text/plain",
    "text/plain; application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/jsonx",
    "application/octet-stream",
]


@pytest.mark.parametrize("operation", MUTATIONS, ids=op_id)
async def test_other_media_types_are_refused(
    operation: Operation, http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    before = fake.state()
    for media in HOSTILE_TYPES:
        headers = {} if media is None else {"Content-Type": media}
        skip = ["Content-Type"] if media is None else []
        async with http.post(
            url(operation), data=b"{}", headers=headers, skip_auto_headers=skip
        ) as response:
            await envelope(response, 415, "unsupported_media_type")
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    async with http.post(url(operation), data=b"{}", headers=headers) as response:
        await envelope(response, 415, "unsupported_encoding")
    assert fake.state() == before


@pytest.mark.parametrize("operation", MUTATIONS, ids=op_id)
async def test_bad_bodies_are_refused_with_the_field(
    operation: Operation, http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    before = fake.state()
    headers = {"Content-Type": "application/json; charset=utf-8"}
    bodies = {
        b'{"surprise": 1}': "invalid_request",
        b"[]": "invalid_request",
        b"null": "invalid_request",
        b"{": "invalid_json",
        b"\xff\xfe": "invalid_json",
        b"[" * 20_000: "invalid_request",
        b'{"wait": ' + b"[" * 20_000: "invalid_request",
    }
    for body, code in bodies.items():
        async with http.post(url(operation), data=body, headers=headers) as response:
            error = await envelope(response, 400, code)
            if b"surprise" in body:
                assert "surprise" in error["message"]
                assert "Allowed fields" in error["hint"]
    assert fake.state() == before


@pytest.mark.parametrize("operation", OPERATIONS, ids=op_id)
async def test_unknown_query_is_refused(
    operation: Operation, http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    before = fake.state()
    async with http.request(
        operation.method, url(operation).with_query(surprise="1"), json={}
    ) as response:
        error = await envelope(response, 400, "invalid_request")
        assert "surprise" in error["message"]
    for query in operation.query:
        values = ("-5", "maybe", "", "x" * 50, "٣")
        if query.default == "":  # the name of a model
            values = ("-m", "../x", "", "x" * 201, "٣")
        for value in values:
            async with http.get(url(operation).with_query({query.name: value})) as response:
                await envelope(response, 400, "invalid_request")
        async with http.get(url(operation).with_query([(query.name, "1")] * 2)) as response:
            await envelope(response, 400, "invalid_request")
    assert fake.state() == before


@pytest.mark.parametrize("operation", NAMED, ids=op_id)
@pytest.mark.parametrize(
    "name",
    [
        "nobody",
        "..%2f..%2fetc%2fpasswd",
        "-m%2Fetc%2Fpasswd",
        "--api-key=x",
        "a%0Ab",
        "gemma%0A",
        "%00",
        "x" * 300,
        "%E2%80%AEamme",
        "%252e",
        "caf%C3%A9",
    ],
)
async def test_unknown_models_are_404(
    operation: Operation, name: str, http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    before = fake.state()
    async with http.request(operation.method, url(operation, name), json={}) as response:
        await envelope(response, 404, "model_not_found")
    assert fake.state() == before


@pytest.mark.parametrize("operation", OPERATIONS, ids=op_id)
async def test_pages_of_other_sites_are_refused(
    operation: Operation, http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    before = fake.state()
    hostile = [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ]
    for headers in hostile:
        async with http.request(
            operation.method, url(operation), json={}, headers=headers
        ) as response:
            await envelope(response, 403, "forbidden")
    assert fake.state() == before


@pytest.mark.parametrize("operation", OPERATIONS, ids=op_id)
async def test_the_fronts_socket_denies_by_default(
    operation: Operation, fake: FakeControl, folder: Path
) -> None:
    before = fake.state()
    good = front_headers(SECRET, OWNER)
    secret = "X-Modelport-Secret"
    hostile: list[tuple[dict[str, str], int, str]] = [
        ({}, 401, "unauthorized"),
        ({**good, secret: "wrong"}, 401, "unauthorized"),
        ({**good, secret: ""}, 401, "unauthorized"),
        ({**good, secret: SECRET + "é"}, 401, "unauthorized"),
        ({**good, secret: "x" * 5000}, 401, "unauthorized"),
        (front_headers(SECRET, LOCAL), 403, "forbidden"),
        ({secret: SECRET}, 403, "forbidden"),
        ({**good, "Origin": "null"}, 403, "forbidden"),
        ({**good, "Sec-Fetch-Site": "cross-site"}, 403, "forbidden"),
    ]
    assert set(good) == FRONT_HEADERS
    async with served(fake, folder / "f.sock", auth=FrontAuth(SECRET)):
        connector = aiohttp.UnixConnector(path=str(folder / "f.sock"))
        async with aiohttp.ClientSession("http://x", connector=connector) as http:
            for headers, status, code in hostile:
                async with http.request(
                    operation.method, url(operation), json={}, headers=headers
                ) as response:
                    await envelope(response, status, code)
    assert fake.state() == before


async def test_the_front_with_its_secret_is_served(fake: FakeControl, folder: Path) -> None:
    async with served(fake, folder / "f.sock", auth=FrontAuth(SECRET)):
        connector = aiohttp.UnixConnector(path=str(folder / "f.sock"))
        headers = {**front_headers(SECRET, OWNER), "Origin": "http://127.0.0.1:8123"}
        async with (
            aiohttp.ClientSession("http://x", connector=connector, headers=headers) as http,
            http.get(f"{PREFIX}/version") as response,
        ):
            assert response.status == 200
        async with (
            aiohttp.ClientSession(
                "http://x", connector=aiohttp.UnixConnector(path=str(folder / "f.sock"))
            ) as http,
            http.get("/nowhere") as response,
        ):
            await envelope(response, 401, "unauthorized")  # not even which paths exist


def test_a_short_secret_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="16"):
        FrontAuth("short")


async def test_unknown_routes_are_404_with_the_list(http: aiohttp.ClientSession) -> None:
    for path in ("/", "/control/v1", "/control/v2/status", "/control/v1/models/a/b/load"):
        async with http.get(path) as response:
            error = await envelope(response, 404, "route_not_found")
            assert "openapi.json" in error["hint"]


async def test_large_and_slow_bodies_are_refused(
    http: aiohttp.ClientSession, fake: FakeControl, socket: Path
) -> None:
    big = b" " * 70_000
    async with http.post(
        f"{PREFIX}/reload", data=big, headers={"Content-Type": "application/json"}
    ) as response:
        await envelope(response, 413, "body_too_large")

    async def chunks() -> Any:
        for _ in range(80):
            yield b" " * 1024

    async with http.post(
        f"{PREFIX}/reload", data=chunks(), headers={"Content-Type": "application/json"}
    ) as response:
        await envelope(response, 413, "body_too_large")
    reader, writer = await asyncio.open_unix_connection(str(socket))
    writer.write(
        f"POST {PREFIX}/reload HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: 2\r\n\r\n{".encode()
    )
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert head.startswith(b"HTTP/1.1 408 ")
    writer.close()
    assert fake.calls == []


@pytest.mark.parametrize("code", list(Code))
async def test_each_code_has_a_status_and_keeps_its_facts(
    code: Code, http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    facts = {"needed": 17, "path": Path("/x")}
    fake.broken = ProblemError(Problem(code, "It is so.", "Do that.", 90.0, facts))
    async with http.get(f"{PREFIX}/status") as response:
        assert 400 <= response.status <= 503
        error = await envelope(response, response.status, code.value)
        assert error["facts"] == {"needed": 17, "path": "/x"}
        assert response.headers["Retry-After"] == "30"


async def test_other_limits_count_from_the_next_request(fake: FakeControl, folder: Path) -> None:
    fake.broken = ProblemError(Problem(Code.BACKOFF, "It is so.", "", 90.0))
    async with served(fake, folder / "s.sock", limits=Limits(retry_after_max=20.0)) as runner:
        connector = aiohttp.UnixConnector(path=str(folder / "s.sock"))
        async with aiohttp.ClientSession("http://x", connector=connector) as http:
            for limits, header in ((None, "20"), (Limits(retry_after_max=40.0), "40")):
                if limits is not None:
                    set_limits(runner.app, limits)
                async with http.get(f"{PREFIX}/status") as response:
                    assert response.headers["Retry-After"] == header


async def test_a_bug_is_a_500_without_its_text(
    http: aiohttp.ClientSession, fake: FakeControl, caplog: pytest.LogCaptureFixture
) -> None:
    fake.broken = RuntimeError("a secret path")
    async with http.get(f"{PREFIX}/status") as response:
        error = await envelope(response, 500, "internal_error")
        assert "secret" not in json.dumps(error)
    assert "a secret path" in caplog.text


@pytest.mark.parametrize("operation", READS, ids=op_id)
async def test_reading_changes_nothing(
    operation: Operation, http: aiohttp.ClientSession, fake: FakeControl, folder: Path
) -> None:
    log = folder / "gemma.log"
    log.write_text("one\n", "utf-8")
    fake.logs["gemma"] = str(log)
    before = fake.state()
    query = {"follow": "0"} if any(q.name == "follow" for q in operation.query) else {}
    async with http.get(url(operation).with_query(query)) as response:
        assert response.status == operation.status, await response.text()
        assert response.content_type == operation.media
        await response.read()
    assert fake.state() == before
