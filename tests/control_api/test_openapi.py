"""The document and the router name the same routes; the answers have the shapes it promises."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import jsonschema  # type: ignore[import-untyped]
import pytest

from control_api.app import OPERATIONS, make_app
from control_api.auth import OwnerAuth
from control_api.openapi import document
from control_api.operation import PREFIX, Operation
from daemon.access.keys import Wanted, make
from tests.control_api.fake import FakeControl

DOCUMENT = document(OPERATIONS, "0.1.0")


def test_every_route_is_in_the_document_and_the_other_way_round() -> None:
    app = make_app(FakeControl(), auth=OwnerAuth())
    routed = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None
    }
    described = {
        (method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item
    }
    assert routed == described
    assert len(routed) == len(OPERATIONS)


def test_the_document_holds_together() -> None:
    ids = [op["operationId"] for item in DOCUMENT["paths"].values() for op in item.values()]
    assert len(ids) == len(set(ids))
    text = json.dumps(DOCUMENT)
    for part in text.split('"$ref": "')[1:]:
        name = part.split('"')[0].removeprefix("#/components/schemas/")
        assert name in DOCUMENT["components"]["schemas"]
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for item in DOCUMENT["paths"].values():
        for operation in item.values():
            assert {"400", "401", "403", "500"} <= set(operation["responses"])
            assert operation["summary"].endswith(".")


def validator(operation: Operation) -> jsonschema.Draft202012Validator:
    responses = DOCUMENT["paths"][PREFIX + operation.path][operation.method.lower()]["responses"]
    schema = responses[str(operation.status)]["content"][operation.media]["schema"]
    return jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]})


@pytest.mark.parametrize(
    "operation",
    [operation for operation in OPERATIONS if operation.media == "application/json"],
    ids=lambda operation: f"{operation.method} {operation.path}",
)
async def test_answers_have_the_promised_shape(
    operation: Operation, http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    fake.ring["laptop"] = make(Wanted(name="laptop"), 1e9)[0].view(1e9)
    path = PREFIX + operation.path.replace("{name}", "gemma").replace("{id}", "req_1")
    path = path.replace("{key}", "laptop")
    sent = {"name": "desk"} if operation.path == "/keys" else {}
    body: dict[str, Any] = {"json": sent} if operation.body else {}
    async with http.request(operation.method, path, **body) as response:
        assert response.status == operation.status
        validator(operation).validate(await response.json())


async def test_errors_have_the_promised_shape(http: aiohttp.ClientSession) -> None:
    schema = {"$ref": "#/components/schemas/ErrorBody", "components": DOCUMENT["components"]}
    async with http.get(f"{PREFIX}/models/nobody") as response:
        jsonschema.Draft202012Validator(schema).validate(await response.json())


def test_bodies_refuse_unknown_fields_in_the_document_too() -> None:
    for name in ("LoadBody", "UnloadBody", "PullBody", "Empty"):
        assert DOCUMENT["components"]["schemas"][name]["additionalProperties"] is False
