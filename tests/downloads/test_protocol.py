from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from daemon.core.problems import Code, Problem, ProblemError
from daemon.downloads import protocol
from daemon.downloads.protocol import (
    Failed,
    FileRef,
    Finished,
    Job,
    Progressed,
    PulledFiles,
    PullProgress,
    PullRequest,
    is_safe_name,
)

REQUEST = PullRequest(
    "owner/name",
    "Q4_K_M",
    mmproj=FileRef("mmproj.gguf"),
    template=FileRef("templates/chat.jinja", "other/repo"),
)


@pytest.mark.parametrize(
    "word",
    [
        Progressed(PullProgress(5, 10, 3, "m.gguf", "checking")),
        Finished(PulledFiles(Path("/a/m.gguf"), (Path("/a/m.gguf"),), "c0", 7, mmproj=Path("/p"))),
        Failed(Code.PULL_FAILED, "No.", "Do.", 5.0, {"needed": 3}, lost=True),
    ],
)
def test_each_word_arrives_as_it_was_sent(word: protocol.Word) -> None:
    line = protocol.write(word)
    assert line.count(b"\n") == 1
    assert protocol.read_word(line) == word


def test_a_job_arrives_as_it_was_sent() -> None:
    job = Job(REQUEST, "/cache", 3)
    assert protocol.read_job(protocol.write(job)) == job


def test_a_failure_is_a_problem() -> None:
    failed = Failed(Code.NOT_PULLED, "No.", "Do.", 5.0, {"a": 1})
    assert failed.problem == Problem(Code.NOT_PULLED, "No.", "Do.", 5.0, {"a": 1})


@pytest.mark.parametrize("line", [b"", b"hello\n", b'{"type": "other"}\n', b'{"type": "done"}\n'])
def test_anything_else_is_a_decode_error(line: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        protocol.read_word(line)


def test_only_paths_are_added_to_what_travels() -> None:
    with pytest.raises(NotImplementedError, match="object does not travel"):
        protocol.write(Failed(Code.INTERNAL, "", facts={"x": object()}))
    with pytest.raises(NotImplementedError, match="int does not travel"):
        protocol._decode(int, 3)


def test_proper_names_are_let_through() -> None:
    REQUEST.check()
    PullRequest("a/b", file="Q4/m.gguf", revision="refs/pr/3").check()


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (PullRequest("name"), "repository"),
        (PullRequest("../etc"), "repository"),
        (PullRequest("a/b/c"), "repository"),
        (PullRequest("-a/b"), "repository"),
        (PullRequest("a/b..c"), "repository"),
        (PullRequest("a/b", template=FileRef("t.jinja", "nope")), "repository"),
        (PullRequest("a/b", revision="../x"), "revision"),
        (PullRequest("a/b", revision="--force"), "revision"),
        (PullRequest("a/b", revision="a/../b"), "revision"),
        (PullRequest("a/b", quant=""), "quantisation"),
        (PullRequest("a/b", quant="Q4/../.."), "quantisation"),
        (PullRequest("a/b", file="../m.gguf"), "file"),
        (PullRequest("a/b", draft=FileRef("/etc/passwd")), "file"),
    ],
)
def test_names_that_no_repository_can_have_are_refused(request_: PullRequest, what: str) -> None:
    with pytest.raises(ProblemError, match=f"is no {what} of the hub") as caught:
        request_.check()
    assert caught.value.problem.code is Code.PULL_FAILED
    assert caught.value.problem.hint.startswith("Allowed: ")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("m.gguf", True),
        ("a/b/m.gguf", True),
        ("", False),
        ("/m.gguf", False),
        ("a//m.gguf", False),
        ("a/./m.gguf", False),
        ("a/../m.gguf", False),
        ("a\\m.gguf", False),
        ("~/m.gguf", False),
        ("-m.gguf", False),
        ("m\n.gguf", False),
        ("m" * 1025, False),
    ],
)
def test_safe_names_stay_inside_the_repository(name: str, safe: bool) -> None:
    assert is_safe_name(name) is safe


def test_suffixes_are_lower_case() -> None:
    assert protocol.suffix("a/M.GGUF") == ".gguf"
