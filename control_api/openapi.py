"""The OpenAPI 3.1 document, made from the same list of operations as the router."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from aiohttp import web

from control_api.daemon import API
from control_api.errors import STATUS
from control_api.operation import JSON, PREFIX, SSE, TEXT, Call, Operation, Query, answer
from control_api.schemas import KEY_NAME, MODEL_NAME, ErrorBody, Gap
from daemon.core.problems import Code

COMMON_ERRORS: Final = (
    Code.INVALID_REQUEST,
    Code.UNAUTHORIZED,
    Code.FORBIDDEN,
    Code.INTERNAL,
    # of the front, through which all come who do not use the private socket
    Code.BODY_TIMEOUT,
    Code.BODY_TOO_LARGE,
    Code.UNSUPPORTED_ENCODING,
    Code.MISDIRECTED,
    Code.RATE_LIMITED,
    Code.UPSTREAM_ERROR,
    Code.SHUTTING_DOWN,
)
BODY_ERRORS: Final = (
    Code.INVALID_JSON,
    Code.UNSUPPORTED_MEDIA_TYPE,
)


def document(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """The whole document. ``version`` is the daemon's."""
    kinds: list[Any] = [ErrorBody, Gap]
    for operation in operations:
        kinds += [k for k in _kinds(operation) if k not in kinds and k not in (str, dict)]
    refs, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    schema_of: dict[Any, Any] = dict(zip(kinds, refs, strict=True))
    schema_of[str] = {"type": "string"}
    schema_of[dict] = {"type": "object"}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        described = _describe(operation, schema_of)
        paths.setdefault(PREFIX + operation.path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "modelport control API",
            "version": version,
            "summary": f"Control API {API}: what `ctl` and the dashboard use.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key of scope control. The private socket, whose file only "
                    "its owner can open, asks for none.",
                }
            },
        },
    }


async def serve_document(call: Call) -> web.StreamResponse:
    return answer(document(call.request.app[OPERATIONS_KEY], call.port.status().version))


OPERATIONS_KEY = web.AppKey[Sequence[Operation]]("operations")

OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/openapi.json",
        handler=serve_document,
        tag="daemon",
        summary="This document.",
        answer=dict,
    ),
)


def _kinds(operation: Operation) -> list[Any]:
    kinds = [operation.answer, *(kind for _, kind in operation.also.values())]
    return [*kinds, operation.body] if operation.body else kinds


def _describe(operation: Operation, schema_of: dict[Any, Any]) -> dict[str, Any]:
    answers: dict[int, tuple[str, Any]] = {
        operation.status: (operation.media, operation.answer),
        **operation.also,
    }
    codes = COMMON_ERRORS + (BODY_ERRORS if operation.body else ()) + operation.errors
    responses: dict[str, Any] = {
        str(status): _response(HTTPStatus(status).phrase, media, schema_of[kind])
        for status, (media, kind) in sorted(answers.items())
    }
    if operation.media == SSE:
        events = _event_schema(schema_of[operation.answer], schema_of[Gap])
        responses[str(operation.status)]["content"][SSE]["schema"] = events
    for status in sorted({STATUS[code] for code in codes}):
        names = ", ".join(dict.fromkeys(code.value for code in codes if STATUS[code] == status))
        responses[str(status)] = _response(names, JSON, schema_of[ErrorBody])
        if status in _HEADERS:
            responses[str(status)]["headers"] = _HEADERS[status]
    described: dict[str, Any] = {
        "operationId": operation.handler.__name__,
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": responses,
    }
    parameters = _parameters(operation)
    if parameters:
        described["parameters"] = parameters
    if operation.body:
        described["requestBody"] = {
            "required": True,  # also where it is {}: its media type keeps web pages out
            "content": {JSON: {"schema": schema_of[operation.body]}},
        }
    return described


def _response(text: str, media: str, schema: Any) -> dict[str, Any]:
    content = {"schema": schema} if media != TEXT else {"schema": {"type": "string"}}
    return {"description": text, "content": {media: content}}


def _header(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "schema": schema}


_RETRY = {
    "Retry-After": _header(
        "Whole seconds, where asking again may help.", {"type": "integer", "minimum": 1}
    )
}
_HEADERS: Final[dict[int, dict[str, Any]]] = {
    401: {"WWW-Authenticate": _header("How to say who asks.", {"type": "string"})},
    429: _RETRY,
    502: _RETRY,
    503: _RETRY,
}


def _event_schema(known: Any, gap: Any) -> dict[str, Any]:
    """One server-sent event, as OpenAPI 3.1 can say it."""
    data = {
        "type": "string",
        "contentMediaType": JSON,
        "contentSchema": {"anyOf": [known, gap]},
    }
    named = {"id": {"type": "string"}, "event": {"type": "string"}, "retry": {"type": "integer"}}
    return {"type": "object", "properties": {**named, "data": data}}


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    named = {
        "name": "name",
        "in": "path",
        "required": True,
        "description": "A model's name or alias, percent-encoded (`/` as `%2F`).",
        "schema": {"type": "string", "pattern": MODEL_NAME},
    }
    request = {
        "name": "id",
        "in": "path",
        "required": True,
        "description": "The x-request-id of an answer.",
        "schema": {"type": "string"},
    }
    key = {
        "name": "key",
        "in": "path",
        "required": True,
        "description": "The name of a key.",
        "schema": {"type": "string", "pattern": KEY_NAME},
    }
    return [
        *([key] if "{key}" in operation.path else []),
        *([named] if "{name}" in operation.path else []),
        *([request] if "{id}" in operation.path else []),
        *map(_query, operation.query),
    ]


def _query(query: Query) -> dict[str, Any]:
    schema: dict[str, Any]
    if isinstance(query.default, bool):
        # 1 and 0 as well as true and false
        schema = {"type": "string", "enum": ["0", "1", "false", "true"]}
        schema["default"] = str(int(query.default))
    elif isinstance(query.default, str):
        schema = {"type": "string", "pattern": MODEL_NAME}
    else:
        schema = {"type": "integer", "minimum": query.low, "maximum": query.high}
        if query.default >= query.low:
            schema["default"] = query.default
    return {"name": query.name, "in": "query", "description": query.text, "schema": schema}
