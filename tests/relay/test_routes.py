from __future__ import annotations

import pytest

from daemon.core.problems import Code
from daemon.dialects.errors import Dialect
from daemon.ports import Route
from daemon.relay.routes import (
    BodyKind,
    Local,
    Place,
    Refused,
    allowed,
    dialect_of,
    is_control,
    listed,
    refuse_upstream,
    resolve,
    upstream_splits,
)


def place(method: str, path: str) -> Place:
    found = resolve(method, path)
    assert isinstance(found, Place)
    return found


def refused(method: str, path: str) -> Refused:
    found = resolve(method, path)
    assert isinstance(found, Refused)
    return found


@pytest.mark.parametrize(
    ("path", "route", "upstream", "body"),
    [
        ("/v1/chat/completions", Route.CHAT, "/v1/chat/completions", BodyKind.JSON),
        ("/chat/completions", Route.CHAT, "/v1/chat/completions", BodyKind.JSON),
        ("/v1/completions", Route.COMPLETIONS, "/v1/completions", BodyKind.JSON),
        ("/completion", Route.COMPLETIONS, "/completion", BodyKind.JSON),
        ("/v1/embeddings", Route.EMBEDDINGS, "/v1/embeddings", BodyKind.JSON),
        ("/embedding", Route.EMBEDDINGS, "/embedding", BodyKind.JSON),
        ("/v1/messages", Route.MESSAGES, "/v1/messages", BodyKind.JSON),
        (
            "/v1/messages/count_tokens",
            Route.COUNT_TOKENS,
            "/v1/messages/count_tokens",
            BodyKind.JSON,
        ),
        ("/v1/responses", Route.RESPONSES, "/v1/responses", BodyKind.JSON),
        ("/rerank", Route.RERANK, "/v1/rerank", BodyKind.JSON),
        ("/reranking", Route.RERANK, "/v1/rerank", BodyKind.JSON),
        ("/v1/reranking", Route.RERANK, "/v1/rerank", BodyKind.JSON),
        ("/infill", Route.INFILL, "/infill", BodyKind.JSON),
        ("/v1/audio/speech", Route.AUDIO, "/v1/audio/speech", BodyKind.JSON),
        (
            "/v1/audio/transcriptions",
            Route.AUDIO,
            "/v1/audio/transcriptions",
            BodyKind.FORM,
        ),
        ("/v1/images/generations", Route.IMAGES, "/v1/images/generations", BodyKind.JSON),
        ("/v1/images/edits", Route.IMAGES, "/v1/images/edits", BodyKind.FORM),
    ],
)
def test_where_requests_go(path: str, route: Route, upstream: str, body: BodyKind) -> None:
    found = place("POST", path)
    assert (found.route, found.upstream, found.body) == (route, upstream, body)


def test_every_listed_path_is_there_and_takes_only_its_method() -> None:
    for method, path in listed():
        assert resolve(method, path)
        other = "GET" if method == "POST" else "POST"
        wrong = refused(other, path)
        assert wrong.problem.code is Code.METHOD_NOT_ALLOWED
        assert method in wrong.allow
        assert wrong.allow == allowed(path)


def test_head_goes_where_get_goes() -> None:
    for path in ("/", "/health", "/v1/models", "/v1/models/x"):
        assert place("HEAD", path) == place("GET", path)


def test_ids_hold_slashes_in_both_spellings() -> None:
    for path in ("/v1/models/org/big", "/v1/models/org%2Fbig"):
        found = place("GET", path)
        assert (found.local, found.rest) == (Local.MODEL, "org/big")


@pytest.mark.parametrize(
    "path",
    [
        "/v1",
        "/v1/models/",
        "/v1/files",
        "/v1/chat/completions/",
        "/v1//chat/completions",
        "//v1/chat/completions",
        "/V1/chat/completions",
        "/v1/chat%2Fcompletions",
        "/props",
        "/slots",
        "/lora-adapters",
        "/api/hello",
        "/upstream/",
        "/upstream",
        "/v1/messages/batches",
    ],
)
def test_the_rest_is_not_there(path: str) -> None:
    for method in ("GET", "POST"):
        found = refused(method, path)
        assert (found.problem.code, found.allow) == (Code.ROUTE_NOT_FOUND, "")
        assert found.dialect is dialect_of(path)


def test_one_v1_too_many_is_explained() -> None:
    assert "one /v1 too many" in refused("POST", "/v1/v1/chat/completions").problem.text


def test_errors_have_the_shape_of_their_path() -> None:
    assert dialect_of("/v1/messages/x") is Dialect.ANTHROPIC
    assert dialect_of("/v1/messages") is Dialect.ANTHROPIC
    assert dialect_of("/v1/messagesx") is Dialect.OPENAI
    assert dialect_of("/control/v1/x") is Dialect.CONTROL
    assert not is_control("/controls")
    assert not is_control("/metricsx")


def test_ways_to_split_an_upstream_path() -> None:
    assert upstream_splits("m") == [("m", "/")]
    assert upstream_splits("org/big/v1/x") == [
        ("org", "/big/v1/x"),
        ("org/big", "/v1/x"),
        ("org/big/v1", "/x"),
        ("org/big/v1/x", "/"),
    ]
    assert upstream_splits("org%2Fbig/metrics")[0] == ("org/big", "/metrics")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/props"),
        ("POST", "/v1/props"),
        ("POST", "/PROPS"),
        ("POST", "/%70rops"),
        ("POST", "/slots/0"),
        ("DELETE", "/slots/0"),
        ("POST", "/slots%3Faction=save"),
        ("POST", "/slots/0/x"),
        ("PUT", "/lora-adapters"),
        ("POST", "/lora-adapters"),
    ],
)
def test_backends_are_not_changed_from_here(method: str, path: str) -> None:
    problem = refuse_upstream(method, path)
    if path == "/slots%3Faction=save":  # one segment with a question mark: no path of theirs
        assert problem is None
    else:
        assert problem is not None
        assert problem.code is Code.FORBIDDEN


@pytest.mark.parametrize(
    "path",
    [
        "/x/../props",
        "/./props",
        "/x/%2e%2e/props",
        "/x/%2E./props",
        "//props",
        "/x//props",
        "/x%2fprops",
        "/x%2Fprops",
        "/x\\props",
        "/x%5cprops",
        "/x%00",
        "/x%0d%0aHost: evil",
        "/%2570rops",
    ],
)
def test_paths_that_could_be_read_as_others_are_refused(path: str) -> None:
    for method in ("GET", "POST"):
        problem = refuse_upstream(method, path)
        assert problem is not None
        assert problem.code is Code.INVALID_REQUEST


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/props"), ("GET", "/slots"), ("POST", "/tokenize"), ("GET", "/"), ("GET", "/a/")],
)
def test_what_may_be_asked_of_a_backend(method: str, path: str) -> None:
    assert refuse_upstream(method, path) is None
