"""Tails and follows across rotation, with nothing lost, doubled or leaked."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.backends.keeper import Log
from daemon.logs import follow as module
from daemon.logs.files import rotate
from daemon.logs.follow import follow, tail

DEADLINE = 20.0
POLL = 0.005


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.log"


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


async def take(stream: AsyncIterator[str], count: int) -> list[str]:
    async with asyncio.timeout(DEADLINE):
        return [await anext(stream) for _ in range(count)]


# --- tail ----------------------------------------------------------------------------------------


def test_a_tail_reaches_into_older_files(path: Path) -> None:
    assert tail(path, 5) == []
    for name, text in (("model.log.2", "a\nb\n"), ("model.log.1", "c\nd"), ("model.log", "e\nf")):
        path.with_name(name).write_text(text)
    assert tail(path, 2) == ["de", "f"], "files are cut at any byte; the last line is not finished"
    assert tail(path, 4) == ["b", "c", "de", "f"]
    assert tail(path, 99) == ["a", "b", "c", "de", "f"]
    assert tail(path, 0) == []
    path.unlink()
    assert tail(path, 2) == ["c", "d"], "in the middle of a rotation"


def test_a_tail_is_redacted_escaped_and_cut(path: Path) -> None:
    path.write_bytes(b"token=abc \x1b[31m\r\nkey " + b"secretkey9\n" + b"x" * 9000 + b"\n\xff\n")
    first, second, long, last = tail(path, 9, lambda text: text.replace("secretkey9", "***"))
    assert (first, second, last) == (r"token=abc \x1b[31m", "key ***", "\ufffd")
    assert len(long.encode()) == 8192
    assert tail(path, 9)[0] == r"token=*** \x1b[31m"


def test_a_tail_of_an_endless_line_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TAIL_LIMIT", 50_000)
    path.write_bytes(b"api_key=" + b"s" * 200_000 + b"\nlast\n")
    assert tail(path, 10) == ["last"], "half a line could be half a secret"


@given(st.text("ab\n", max_size=60), st.lists(st.integers(0, 60), max_size=3), st.integers(0, 12))
def test_a_tail_is_the_end_of_the_stream(text: str, cuts: list[int], count: int) -> None:
    points = sorted({0, *(min(cut, len(text)) for cut in cuts), len(text)})
    parts = [text[a:b] for a, b in itertools.pairwise(points)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.log"
        for number, part in enumerate(reversed(parts)):
            Path(f"{path}.{number}" if number else path).write_text(part)
        expected = text.removesuffix("\n").split("\n") if text else []
        assert tail(path, count) == (expected[-count:] if count else [])


# --- follow --------------------------------------------------------------------------------------


async def test_following_starts_with_a_tail_and_goes_on_without_a_gap(path: Path) -> None:
    append(path, "1\n2\n3\nhal")
    async with aclosing(follow(path, lines=2, poll=POLL)) as stream:
        assert await take(stream, 2) == ["2", "3"]
        append(path, "f\n5\n")
        assert await take(stream, 2) == ["half", "5"]


async def test_without_a_tail_only_what_is_new(path: Path) -> None:
    append(path, "old\n")
    async with aclosing(follow(path, poll=POLL)) as stream, asyncio.timeout(DEADLINE):
        waiting = asyncio.ensure_future(anext(stream))
        while not waiting.done():  # when it takes its first look is its own affair
            append(path, "token=abc\n")
            await asyncio.wait({waiting}, timeout=POLL)
        assert waiting.result() == "token=***"


async def test_a_file_that_is_not_there_yet_is_waited_for(path: Path) -> None:
    async with aclosing(follow(path, lines=3, poll=POLL)) as stream:
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.wait({waiting}, timeout=5 * POLL)
        append(path, "born\n")
        assert await asyncio.wait_for(waiting, DEADLINE) == "born"


async def test_it_survives_rotations_also_several_between_two_looks(path: Path) -> None:
    append(path, "0\n")
    async with aclosing(follow(path, lines=1, poll=POLL)) as stream:
        assert await take(stream, 1) == ["0"]
        append(path, "1\n")
        rotate(path, 5)
        append(path, "2\nhal")
        rotate(path, 5)
        append(path, "f\n")
        rotate(path, 5)
        append(path, "3\n")
        assert await take(stream, 4) == ["1", "2", "half", "3"]
        rotate(path, 5)
        append(path, "4\n")
        assert await take(stream, 1) == ["4"]


async def test_a_place_that_was_rotated_away_goes_on_with_the_oldest(path: Path) -> None:
    append(path, "0\n")
    async with aclosing(follow(path, lines=1, poll=POLL)) as stream:
        assert await take(stream, 1) == ["0"]
        for number in range(1, 4):  # file systems give a deleted file's number to the next one
            rotate(path, 1)
            append(path, f"{number}\n")
        assert await take(stream, 2) == ["2", "3"]


async def test_truncation_starts_again(path: Path) -> None:
    append(path, "a long first line\n")
    async with aclosing(follow(path, lines=1, poll=POLL)) as stream:
        assert await take(stream, 1) == ["a long first line"]
        with path.open("w") as file:
            file.write("new\n")
        assert await take(stream, 1) == ["new"]


async def test_a_flood_without_newlines_costs_no_memory(path: Path) -> None:
    append(path, "start\n")
    async with aclosing(follow(path, lines=1, poll=POLL)) as stream:
        assert await take(stream, 1) == ["start"]
        append(path, "x" * 3_000_000 + "\nend\n")
        [line, last] = await take(stream, 2)
        assert len(line.encode()) <= 8192
        assert last == "end"


async def test_following_what_a_keeper_writes_loses_nothing(path: Path) -> None:
    log = Log(str(path), 500, 50)
    count = 400

    def write() -> None:
        for number in range(count):
            log.write(b"line %d\n" % number)
        log.close()

    log.write(b"start\n")
    async with aclosing(follow(path, lines=1, poll=POLL)) as stream:
        assert await take(stream, 1) == ["start"]
        await asyncio.to_thread(write)
        assert await take(stream, count) == [f"line {n}" for n in range(count)]
