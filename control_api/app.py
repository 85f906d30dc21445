"""The control API: an ordinary aiohttp application for a private unix socket.

Deny by default: one middleware asks who it is before anything else, for every path, also those that
do not exist. Handlers get a checked :class:`~control_api.operation.Call` and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from control_api import (
    backends,
    benchmarks,
    daemon,
    events,
    incidents,
    keys,
    logs,
    models,
    openapi,
    pulls,
    requests,
    schedule,
)
from control_api.auth import PRINCIPAL_KEY, Auth, check
from control_api.bodies import decode_body
from control_api.errors import StatusProblemError, response
from control_api.jobs import Jobs
from control_api.operation import (
    PREFIX,
    Call,
    Limits,
    Operation,
    model_name,
    query_of,
    require_json,
)
from control_api.schemas import Body
from control_api.streams import Streams
from daemon.core.problems import Code, Problem, ProblemError
from daemon.logs.redact import redact as redact_known
from daemon.ports import ControlPort

log = logging.getLogger(__name__)

OPERATIONS: Final[tuple[Operation, ...]] = (
    *daemon.OPERATIONS,
    *models.OPERATIONS,
    *pulls.OPERATIONS,
    *backends.OPERATIONS,
    *requests.OPERATIONS,
    *events.OPERATIONS,
    *incidents.OPERATIONS,
    *benchmarks.OPERATIONS,
    *keys.OPERATIONS,
    *logs.OPERATIONS,
    *schedule.OPERATIONS,
    *openapi.OPERATIONS,
)


def make_app(
    port: ControlPort,
    *,
    auth: Auth,
    limits: Limits | None = None,
    redact: Callable[[str], str] = redact_known,
) -> web.Application:
    """The application. Give it to an ``AppRunner`` on a unix socket of mode 0600.

    ``auth`` says what the socket means: ``OwnerAuth`` for the private one, ``FrontAuth`` for the
    one that the front writes to (make one application for each). ``redact`` takes secrets out of
    the text of logs and events.
    """
    world = _World(port, limits or Limits(), redact)
    app = web.Application(
        middlewares=[_guard(auth, world)],
        client_max_size=world.limits.body_bytes,
        # bodies are refused when compressed, so nothing has to be inflated
        handler_args={"auto_decompress": False},
    )
    app[openapi.OPERATIONS_KEY] = OPERATIONS
    app[_WORLD_KEY] = world
    for operation in OPERATIONS:
        handler = _handler(operation, world)
        app.router.add_route(operation.method, PREFIX + operation.path, handler)

    async def end_streams(_: web.Application) -> None:
        world.streams.close()

    async def end_jobs(_: web.Application) -> None:
        await world.jobs.close()

    app.on_shutdown.append(end_streams)
    app.on_shutdown.append(end_jobs)
    return app


def set_limits(app: web.Application, limits: Limits) -> None:
    """Other limits for the requests that come from now on; sizes that are fixed stay."""
    app[_WORLD_KEY].limits = limits


class _World:
    """What all handlers of one application share."""

    def __init__(self, port: ControlPort, limits: Limits, redact: Callable[[str], str]) -> None:
        self.port = port
        self.limits = limits
        self.redact = redact
        self.jobs = Jobs()
        self.streams = Streams(limits.streams)

    def call(
        self, request: web.Request, name: str, body: Body | None, query: dict[str, Any]
    ) -> Call:
        return Call(
            request=request,
            port=self.port,
            limits=self.limits,
            jobs=self.jobs,
            streams=self.streams,
            redact=self.redact,
            name=name,
            body=body,
            query=query,
        )


_WORLD_KEY: Final = web.AppKey("world", _World)


def _handler(operation: Operation, world: _World) -> Handler:
    """Check what comes in as the operation says, then call its handler."""

    async def handle(request: web.Request) -> web.StreamResponse:
        body = None
        if operation.body is not None:
            require_json(request)
        query = query_of(operation, request)
        name = model_name(request)
        if operation.body is not None:
            body = decode_body(operation.body, await _read(request, world.limits))
        return await operation.handler(world.call(request, name, body, query))

    return handle


async def _read(request: web.Request, limits: Limits) -> bytes:
    length = request.content_length
    if length is not None and length > limits.body_bytes:
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await request.read()
    except TimeoutError:
        raise ProblemError(
            Problem(Code.BODY_TIMEOUT, f"The body did not come in {limits.body_seconds:g} s.")
        ) from None
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(limits) from None


def _too_large(limits: Limits) -> ProblemError:
    return ProblemError(
        Problem(Code.BODY_TOO_LARGE, f"The body is larger than {limits.body_bytes} bytes.")
    )


def _guard(auth: Auth, world: _World) -> Middleware:
    """Who it is, before the path is even looked at; then every error in the one envelope."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            request[PRINCIPAL_KEY] = check(auth, request)
            return await handler(request)
        except ProblemError as error:
            refused = error
        except web.HTTPException as error:
            refused = _of_http(request, error)
        except Exception:
            log.exception("%s %s failed", request.method, request.rel_url.raw_path)
            refused = ProblemError(Problem(Code.INTERNAL, "The daemon failed; see its log."))
        return response(refused, world.limits.retry_after_max)

    return guard


def _of_http(request: web.Request, error: web.HTTPException) -> ProblemError:
    """What aiohttp itself refuses, in our shape."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return StatusProblemError(
            Problem(
                Code.METHOD_NOT_ALLOWED,
                f"{request.method[:20]} is not allowed here.",
                f"Allowed: {allowed}.",
            ),
            405,
            {"Allow": allowed},
        )
    if isinstance(error, web.HTTPNotFound):
        return ProblemError(
            Problem(
                Code.ROUTE_NOT_FOUND,
                "There is no such route.",
                f"{PREFIX}/openapi.json lists all; a `/` in a model's name is written %2F.",
            )
        )
    return StatusProblemError(Problem(Code.INVALID_REQUEST, f"{error.reason}."), error.status)
