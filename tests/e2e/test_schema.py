"""The control API against its own document: a real daemon is asked what the document allows and
what it does not, over the port with a control key and over the private socket as its owner.

By default a few examples of each operation besides the constructed edge cases; with
``MODELPORT_SEEDS`` or ``HYPOTHESIS_PROFILE=long`` (``make test-long``) more than a hundred.
"""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter
from schemathesis.core.parameters import ParameterLocation
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

from control_api.app import OPERATIONS
from control_api.client import RefusedError
from control_api.openapi import document
from control_api.operation import NDJSON, PREFIX
from control_api.version import version
from tests.e2e.house import House
from tests.e2e.stage import Stage, folder

LONG: Final = "MODELPORT_SEEDS" in os.environ or os.environ.get("HYPOTHESIS_PROFILE") == "long"
CASES: Final = 120 if LONG else 2
pytestmark = [pytest.mark.processes, pytest.mark.timeout(1200 if LONG else 120)]
NAMES: Final = ("a", "b")
MODELS: Final = (*NAMES, "daemon", "none", "a/b")
SHUTDOWN: Final = f"{PREFIX}/shutdown"
DOCUMENT: Final = document(OPERATIONS, version())
STEP: Final = jsonschema.Draft202012Validator(
    {"$ref": "#/components/schemas/ProgressLine", "components": DOCUMENT["components"]}
)
few = settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


# ---------------------------------------------------------------- what is asked


def loaded(document: dict[str, Any], mode: str = "all") -> Any:
    """The document as schemathesis reads it: all of its checks, good requests and bad ones."""
    config = schemathesis.Config.from_dict({"generation": {"mode": mode}})
    found = schemathesis.openapi.from_dict(document, config=config)
    found.hook("flatmap_case")(met)
    return found


def met(context: Any, case: schemathesis.Case) -> st.SearchStrategy[schemathesis.Case]:
    """Names that there are, where the document would let any pass; and no two cases are the same,
    also of operations that take nothing: every request may have an id."""
    names = st.sampled_from(MODELS if "{name}" in case.path else ("laptop", "gone"))
    real = st.one_of(st.none(), names)
    marks = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=40)
    return st.tuples(real, marks).map(lambda found: put(case, *found))


def put(case: schemathesis.Case, name: str | None, mark: str) -> schemathesis.Case:
    if case.meta is not None and case.meta.generation.mode.is_negative:
        return case  # what is wrong with it shall stay so
    for field in ("name", "key"):
        if name is not None and field in (case.path_parameters or {}):
            case.path_parameters[field] = name.replace("/", "%2F")
    case.headers["x-request-id"] = mark
    return case


AT_THE_PORT: Final = loaded(DOCUMENT)
# Whoever can open the private socket is the owner: it asks for no key, so none can be missing.
AS_OWNER: Final = loaded({**DOCUMENT, "security": []})
REFUSED: Final = loaded(DOCUMENT, "negative")


# ---------------------------------------------------------------- who is asked


class UnixConnection(HTTPConnection):
    """To a unix socket instead of a host."""

    path = ""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self.path)


class UnixAdapter(HTTPAdapter):
    """``requests`` over one unix socket, whatever the host in the URL."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        connection = type("Connection", (UnixConnection,), {"path": str(path)})
        pool = type("Pool", (HTTPConnectionPool,), {"ConnectionCls": connection})
        self._pool = pool("localhost", maxsize=1)

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> HTTPConnectionPool:
        return self._pool

    def close(self) -> None:
        self._pool.close()
        super().close()


asked: Counter[str] = Counter()


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with folder() as place, Stage(place, NAMES) as stage:
        yield stage.house
        assert stage.house.client.get("/status")["pid"] == stage.pid, "it is the same daemon still"
    few_asked = {name: count for name, count in asked.items() if count < 100}
    assert not (LONG and few_asked), few_asked


@pytest.fixture(scope="module")
def key(house: House) -> str:
    return house.ctl("key", "add", "desk", "--scope", "control").stdout.strip()


@pytest.fixture(scope="module")
def as_owner(house: House) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.mount("http://", UnixAdapter(house.folder / "run" / "control.sock"))
        yield session


def check(case: schemathesis.Case, house: House, url: str, **how: Any) -> None:
    """Ask, and hold the answer against the document. What would last is bounded."""
    if case.path.endswith(("/events", "/logs/{name}")) and followed(case):
        case.query["follow"] = "0"
    asked[f"{url[:16]} {case.operation.label}"] += 1
    answer = case.call_and_validate(base_url=url, timeout=30, **how)
    if answer.headers.get("content-type", [""])[0].startswith(NDJSON):
        for line in filter(None, answer.content.splitlines()):
            STEP.validate(json.loads(line))  # schemathesis reads no such stream
    with suppress(RefusedError):
        if case.path.endswith("/pause"):
            house.client.post("/resume")
        elif case.path.endswith("/keys"):
            for key in house.client.get("/keys")["keys"]:
                if key["name"] != "desk":
                    house.client.post(f"/keys/{key['name']}/remove")


def keyed(case: schemathesis.Case, key: str) -> dict[str, str]:
    """The key, unless the case is that there is none, or a wrong one: no other header is asked
    for."""
    bad = case.meta is not None and case.meta.is_negative_at(ParameterLocation.HEADER)
    return {} if bad else {"Authorization": f"Bearer {key}"}


def followed(case: schemathesis.Case) -> bool:
    """Would a good answer stay open?"""
    return str(case.query.get("follow", "1")).lower() in {"1", "true", "yes"}


@few
@AT_THE_PORT.exclude(path=SHUTDOWN).parametrize()
def test_at_the_port(case: schemathesis.Case, house: House, key: str) -> None:
    check(case, house, house.url, headers=keyed(case, key))


# What only the owner may do; all the rest goes the same way on both sockets.
OWNERS: Final = AS_OWNER.exclude(path=SHUTDOWN) if LONG else AS_OWNER.include(path_regex="/keys")


@few
@OWNERS.parametrize()
def test_as_the_owner(case: schemathesis.Case, house: House, as_owner: requests.Session) -> None:
    check(case, house, "http://localhost", session=as_owner)


@few
@REFUSED.include(path=SHUTDOWN).parametrize()
def test_no_bad_request_stops_the_daemon(case: schemathesis.Case, house: House, key: str) -> None:
    check(case, house, house.url, headers=keyed(case, key))


def test_a_good_one_does(short_dir: Path) -> None:
    with House(short_dir, "") as house:
        served = house.client.get("/openapi.json")
        assert served == json.loads(json.dumps(DOCUMENT)), "what it serves is what was tested"
        assert house.client.post("/shutdown") == {"ok": True, "model": None}
        assert house.process is not None
        assert house.process.wait(20) == 0
