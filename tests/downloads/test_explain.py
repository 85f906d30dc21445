from __future__ import annotations

import errno

import httpx2
import pytest
from huggingface_hub import errors

from daemon.core.problems import Code, Problem
from daemon.downloads.explain import (
    Circumstances,
    explain,
    is_connection,
    no_space,
    offline,
)

ANON = Circumstances("owner/name", "v1", "https://hub.example")
KNOWN = Circumstances("owner/name", "v1", "https://hub.example", has_token=True)


def response(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", "https://hub.example/x"))


def hub_error(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    return kind("first line\nsecond line", response=response(status))


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "about", "message", "hint"),
    [
        (
            hub_error(errors.GatedRepoError, 401),
            ANON,
            "owner/name is gated: its authors ask who downloads it.",
            "Accept its terms at https://hub.example/owner/name, then set HF_TOKEN",
        ),
        (
            hub_error(errors.GatedRepoError, 403),
            KNOWN,
            "owner/name is gated: its authors ask who downloads it.",
            "Accept its terms at https://hub.example/owner/name with the account of your token",
        ),
        (
            hub_error(errors.RepositoryNotFoundError, 404),
            ANON,
            "There is no repository owner/name on the hub, or it is private.",
            "If it is private, set HF_TOKEN",
        ),
        (
            hub_error(errors.RepositoryNotFoundError, 404),
            KNOWN,
            "There is no repository owner/name on the hub, or it is private.",
            "Check its name.",
        ),
        (
            hub_error(errors.RevisionNotFoundError, 404),
            ANON,
            "owner/name has no revision 'v1'.",
            "Name a branch, a tag or a commit",
        ),
        (
            hub_error(errors.RemoteEntryNotFoundError, 404),
            ANON,
            "A file of owner/name is not on the hub any more.",
            "Pull again.",
        ),
        (
            hub_error(errors.HfHubHTTPError, 401),
            KNOWN,
            "The hub refused the token for owner/name (401).",
            "It may have expired",
        ),
        (
            hub_error(errors.HfHubHTTPError, 403),
            ANON,
            "The hub wants to know who asks for owner/name (403).",
            "To do so, set HF_TOKEN",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            ANON,
            "The disk is full.",
            "Make room, then pull again",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/cache"),
            ANON,
            "The folder of downloads may not be written: [Errno 13] Permission denied: '/cache'.",
            "",
        ),
        (ValueError("odd\nmore"), ANON, "The download failed: ValueError: odd", ""),
        (ValueError(), ANON, "The download failed: ValueError: ValueError", ""),
    ],
)
def test_each_error_has_its_sentence_and_its_next_step(
    error: Exception, about: Circumstances, message: str, hint: str
) -> None:
    problem = explain(error, about)
    assert problem.code is Code.PULL_FAILED
    assert problem.message == message
    assert problem.hint.startswith(hint)
    assert problem.facts == {"repo": "owner/name"}
    assert not is_connection(error)


def test_too_many_requests_may_be_tried_again_later() -> None:
    problem = explain(hub_error(errors.HfHubHTTPError, 429), ANON)
    assert (problem.code, problem.retry_after) == (Code.PULL_FAILED, 60.0)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "17"}, 17.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 60.0),
        ({"Retry-After": "1e9"}, 60.0),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"Retry-After": "3", "RateLimit": '"api";r=0;t=55'}, 3.0),
    ],
)
def test_the_hub_says_how_long(headers: dict[str, str], seconds: float) -> None:
    request = httpx2.Request("GET", "https://hub.example/x")
    error = errors.HfHubHTTPError(
        "x", response=httpx2.Response(429, headers=headers, request=request)
    )
    assert explain(error, ANON).retry_after == seconds
    assert "With a token it allows more" in explain(error, ANON).hint
    assert explain(error, KNOWN).hint == "Pull again then."


@pytest.mark.parametrize(
    "error",
    [
        httpx2.ConnectError("no route"),
        httpx2.ReadTimeout("slow"),
        httpx2.RemoteProtocolError("cut"),
        errors.OfflineModeIsEnabled("off"),
        caused(errors.LocalEntryNotFoundError("not here"), httpx2.ConnectError("no route")),
        hub_error(errors.HfHubHTTPError, 503),
        caused(errors.LocalEntryNotFoundError("x"), hub_error(errors.HfHubHTTPError, 502)),
        TimeoutError("slow"),
        ConnectionResetError("cut"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_whatever_the_network_did_is_being_offline(error: Exception) -> None:
    assert is_connection(error)
    problem = explain(error, ANON)
    assert problem.code is Code.NOT_PULLED
    assert problem.message.startswith(
        "owner/name is not on this machine, and https://hub.example cannot be reached ("
    )
    assert problem.facts == {"repo": "owner/name", "endpoint": "https://hub.example"}


def test_offline_without_a_reason() -> None:
    assert offline(ANON).message.endswith("https://hub.example cannot be reached.")


def test_errors_that_cause_each_other_end() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert not is_connection(first)


def test_no_space_tells_the_numbers() -> None:
    gib = 1 << 30
    assert no_space("owner/name", 5 * gib, 2 * gib, gib, "/cache") == Problem(
        Code.PULL_FAILED,
        "owner/name needs 5.0 GiB more on the disk, 2.0 GiB are free in /cache and 1.0 GiB must "
        "stay free.",
        "Remove something, choose a smaller quantisation, or move the cache (HF_HUB_CACHE).",
        facts={"needed": 5 * gib, "free": 2 * gib, "reserve": gib},
    )
