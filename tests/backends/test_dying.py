"""The words for a backend's end."""

from __future__ import annotations

from daemon.backends.dying import MAX_LAST, MAX_WORDS, with_last, words
from daemon.core.messages import ExitClass
from daemon.engines import signatures
from daemon.engines.base import Verdict

METAL = "error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
FAILED = "ggml_metal_synchronize: error: command buffer 0 failed with status 5"


def test_how_it_ended_and_what_it_said() -> None:
    verdict = signatures.classify(-6, [FAILED, METAL], ready=True, asked=False)
    assert words(verdict, -6) == f"killed by SIGABRT: {METAL} / {FAILED}"


def test_what_lives_has_no_status() -> None:
    verdict = Verdict(ExitClass.HANG, "no sign of progress for 120 s while loading")
    assert words(verdict, None) == verdict.detail


def test_a_status_is_told_once() -> None:
    assert words(signatures.classify(3, [], ready=True, asked=False), 3) == "exit status 3"
    killed = signatures.classify(-9, [], ready=True, asked=False)
    assert words(killed, -9).count("SIGKILL") == 1


def test_an_end_that_nobody_knows_is_told_by_its_last_line() -> None:
    unknown = signatures.classify(3, [], ready=False, asked=False)
    told = words(with_last(unknown, "unknown pre-tokenizer type: 'new\x1b[0m'"), 3)
    assert told == "exit status 3 / its last line: unknown pre-tokenizer type: 'new\\x1b[0m'"
    assert len(words(with_last(unknown, "x" * 5000), 3)) < MAX_LAST + 60
    assert with_last(unknown, "") == unknown
    known = signatures.classify(-6, [METAL], ready=True, asked=False)
    assert with_last(known, "goodbye") == known, "it has said why"
    asked = signatures.classify(0, [], ready=True, asked=True)
    assert with_last(asked, "goodbye") == asked


def test_what_we_stopped_is_not_explained() -> None:
    assert words(signatures.classify(-9, [METAL], ready=True, asked=True), -9) == (
        "killed by SIGKILL"
    )


def test_no_secret_passes_and_no_book() -> None:
    lines = ["GGML_ASSERT(x) failed: key-of-this-start, api_key=canary-canary"]
    lines += [f"ValueError: {n} " + "x" * 290 for n in range(9)]
    said = words(
        signatures.classify(-6, lines, ready=True, asked=False), -6, ("key-of-this-start",)
    )
    assert len(said) == MAX_WORDS
    said = words(
        signatures.classify(-6, lines[:1], ready=True, asked=False), -6, ("key-of-this-start",)
    )
    assert said == "killed by SIGABRT: GGML_ASSERT(x) failed: ***, api_key=***"
