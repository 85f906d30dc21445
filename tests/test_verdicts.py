"""What tests have found, kept."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.verdicts import MAX_ENTRIES, MAX_FILE, MAX_PER_MODEL, Served, Verdicts
from daemon.views import FindingView

M = Served("m", "llama-server", "b9000", "/m.gguf")


def finding(step: str, outcome: str = "works", text: str = "") -> FindingView:
    return FindingView(step=step, outcome=outcome, text=text, seconds=1.5)


async def test_findings_come_together() -> None:
    kept = Verdicts(now=lambda: 7.0)
    assert kept.last(M) is None
    first = kept.keep(M, [finding("leak"), finding("stream", "broken", "no end")], "0.1")
    assert first is not None
    assert (first.verdict, first.text, first.at) == ("broken", "stream: no end", 7.0)
    assert [one.step for one in first.findings] == ["stream", "leak"], "in the order of the steps"
    again = kept.keep(M, [finding("stream")], "0.2")
    assert again is not None
    assert (again.verdict, again.modelport) == ("partly tested", "0.2")
    assert [one.step for one in again.findings] == ["stream", "leak"]
    assert kept.last(M) == again
    assert len(kept.of(M)) == 1


async def test_what_could_not_be_tried_changes_nothing() -> None:
    kept = Verdicts()
    assert kept.keep(M, [finding("stream", "unknown")], "0.1") is None
    before = kept.keep(M, [finding("stream")], "0.1")
    assert kept.keep(M, [finding("stream", "unknown")], "0.1") == before


async def test_another_version_is_another_verdict() -> None:
    kept = Verdicts()
    kept.keep(M, [finding("stream", "broken")], "0.1")
    newer = replace(M, version="b9001")
    old = kept.last(newer)
    assert old is not None
    assert (old.version, old.current) == ("b9000", False)
    kept.keep(newer, [finding("stream")], "0.1")
    assert [(one.version, one.current) for one in kept.of(newer)] == [
        ("b9001", True),
        ("b9000", False),
    ]
    assert [one.version for one in kept.of(M)] == ["b9000", "b9001"], "what is served now is first"
    other = kept.last(replace(newer, source="/other.gguf"))
    assert other is not None
    assert not other.current


async def test_it_outlives_the_daemon(tmp_path: Path) -> None:
    path = tmp_path / "tests.json"
    kept = Verdicts(path, now=lambda: 7.0)
    kept.keep(M, [finding("stream"), finding("stop", "broken", "goes on")], "0.1")
    await kept.written()
    again = Verdicts(path)
    again.load()
    assert again.of(M) == kept.of(M)
    assert path.stat().st_mode & 0o777 == 0o600


async def test_it_is_bounded(tmp_path: Path) -> None:
    kept = Verdicts(tmp_path / "tests.json")
    for version in range(MAX_PER_MODEL + 3):
        kept.keep(replace(M, version=f"b{version:02}"), [finding("stream")], "0.1")
    assert [one.version for one in kept.of(M)] == [f"b{i:02}" for i in range(10, 2, -1)]
    for number in range(MAX_ENTRIES):
        served = replace(M, model=f"m{number}")
        kept.keep(served, [finding("stream", text="x" * 400)], "0.1")
    assert kept.of(M) == []
    await kept.written()
    assert (tmp_path / "tests.json").stat().st_size < MAX_FILE


BAD = [
    "",
    "[]",
    '{"version": 2, "entries": []}',
    '{"version": 1}',
    '{"version": 1, "entries": [7]}',
    '{"version": 1, "entries": {"a": 1}}',
    "[" * 100_000,
]


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_a_file_that_is_not_ours_is_moved_aside(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tests.json"
    path.write_text(text)
    path.chmod(0o600)
    kept = Verdicts(path)
    kept.load()
    assert kept.of(M) == []
    assert [one.name.split("-")[0] for one in tmp_path.iterdir()] == ["tests.json.corrupt"]


@pytest.mark.parametrize(
    "changes",
    [{"at": -1}, {"at": True}, {"model": 7}, {"steps": [{}]}, {"steps": [{"outcome": "good"}]}],
)
async def test_an_entry_that_is_not_ours(tmp_path: Path, changes: dict[str, object]) -> None:
    path = tmp_path / "tests.json"
    kept = Verdicts(path)
    kept.keep(M, [finding("stream")], "0.1")
    await kept.written()
    stored = json.loads(path.read_text())
    (entry,) = stored["entries"]
    steps = changes.pop("steps", None)
    entry |= changes
    if isinstance(steps, list):
        entry["steps"] = [{**entry["steps"][0], **steps[0]} if steps[0] else {}]
    path.write_text(json.dumps(stored))
    again = Verdicts(path)
    again.load()
    assert again.of(M) == []
    assert os.listdir(tmp_path) != ["tests.json"]  # noqa: PTH208
