from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.weights import reader as module
from daemon.weights.errors import WeightsError
from daemon.weights.reader import Reader, Skipped, open_regular


@pytest.fixture
def reader(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Reader]:
    path = tmp_path / "file"
    path.write_bytes(request.param)
    with open_regular(path) as (descriptor, size):
        yield Reader(descriptor, size, "file")


def with_bytes(data: bytes) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("reader", [data], indirect=True)


def test_a_folder_a_pipe_and_a_missing_file_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, found in [
        (tmp_path, "not a file of weights"),
        (tmp_path / "pipe", "not a file of weights"),
        (tmp_path / "gone", "no such file"),
        (Path("nul\0byte"), "cannot be opened"),
    ]:
        with pytest.raises(WeightsError, match=found), open_regular(path):
            pass


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    with open_regular(path) as (descriptor, size):
        assert os.pread(descriptor, size, 0) == b"abc"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@with_bytes(b"abcdef")
def test_take_and_skip_stop_at_the_end(reader: Reader) -> None:
    assert reader.take(2, "x") == b"ab"
    reader.skip(3, "x")
    assert (reader.position, reader.left) == (5, 1)
    with pytest.raises(WeightsError, match="ends within its header"):
        reader.take(2, "x")
    with pytest.raises(WeightsError, match="ends within its header"):
        reader.skip(2, "x")


@with_bytes(b"\x05\0\0\0\0\0\0\0hello")
def test_texts_longer_than_kept_are_walked_over(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEEP_STRING", 4)
    assert reader.string("x") == Skipped(5)
    assert reader.left == 0


@with_bytes(b"\xff" * 8 + b"x" * 64)
def test_absurd_lengths_are_refused_before_reading(reader: Reader) -> None:
    with pytest.raises(WeightsError, match="18446744073709551615 bytes"):
        reader.string("x")


@with_bytes(b"x")
def test_memory_is_a_budget(reader: Reader) -> None:
    reader.keep(module.KEEP_BYTES)
    with pytest.raises(WeightsError, match="larger than any model's"):
        reader.keep(1)


@with_bytes(b"x")
def test_time_is_a_budget(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    reader.check_time()
    monkeypatch.setattr(module.time, "thread_time", lambda: 1e9)
    with pytest.raises(WeightsError, match="took over 2 s"):
        reader.check_time()


@with_bytes(b"\x02\0\0\0\0\0\0\0\xff\xfe")
def test_names_are_text(reader: Reader) -> None:
    with pytest.raises(WeightsError, match="not text"):
        reader.name("key")


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    with (
        open_regular(path) as (descriptor, _),
        pytest.raises(WeightsError, match="became shorter"),
    ):
        Reader(descriptor, 100, "file").take(50, "x")
