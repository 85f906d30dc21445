"""What models took before: remembered, bounded, and never a reason to fail."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.backends.learned import (
    HEADER_BYTES,
    MAX_ENTRIES,
    MAX_FILE,
    Entry,
    Learned,
    combined,
    heard,
    identity_of,
    key_of,
)
from daemon.files import DISK
from tests.backends.kitchen import Kitchen

GIB = 1 << 30


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "learned.json"


def note(learned: Learned, key: str = "k", told: bool = True, **measured: int) -> Entry | None:
    estimated = {"ram": 10 * GIB, "gpu0": 20 * GIB}
    return learned.record(key, "gemma", "context 8192", estimated, measured, told=told)


def test_the_measure_counts_next_time_with_a_margin(file: Path) -> None:
    learned = Learned(file, lambda: 5.0)
    assert learned.need("k", {"ram": 10 * GIB}) == {"ram": 10 * GIB}
    entry = note(learned, ram=8 * GIB)
    assert entry is not None
    assert (entry.runs, entry.seen, entry.wrong) == (1, 5.0, True)
    for memory in (learned, Learned(file)):  # kept over a restart
        need = memory.need("k", {"ram": 10 * GIB, "gpu0": 20 * GIB})
        assert need == {"ram": 8 * GIB + int(8 * GIB * 0.03), "gpu0": 20 * GIB}
        assert memory.need("other", {"ram": 1}) == {"ram": 1}


def test_the_peak_of_all_runs_is_kept(file: Path) -> None:
    learned = Learned(file)
    assert note(learned, ram=9 * GIB) is not None
    assert note(learned, ram=7 * GIB, gpu0=0) is None
    entry = note(learned, ram=7 * GIB, gpu0=21 * GIB)
    assert entry is not None
    assert (entry.measured, entry.runs) == ({"ram": 9 * GIB, "gpu0": 21 * GIB}, 3)


def test_a_process_that_only_looks_small_lowers_nothing(file: Path) -> None:
    """Until its engine says what it allotted, unused memory may still be used."""
    learned = Learned(file)
    entry = note(learned, told=False, ram=2 * GIB)
    assert entry is not None
    assert not entry.wrong
    assert learned.need("k", {"ram": 10 * GIB}) == {"ram": 10 * GIB}
    larger = note(learned, told=False, ram=12 * GIB)
    assert larger is not None
    assert larger.wrong
    assert learned.need("k", {"ram": 10 * GIB})["ram"] > 12 * GIB
    assert note(learned, told=True, ram=8 * GIB) is not None  # told now: worth a place
    assert learned.need("k", {"ram": 20 * GIB})["ram"] < 13 * GIB


def test_what_a_run_takes_is_the_larger_of_what_was_seen_and_said() -> None:
    assert combined({"ram": 5}, {"ram": 9}, {"ram": 1}) == {"ram": 9}
    assert combined({"ram": 5}, {"ram": 4}, {"ram": 3}) == {"ram": 8}
    assert combined({"gpu0": 7}, {"ram": 4}, {"ram": 3}) == {"gpu0": 7, "ram": 4}
    assert combined({}, {"ram": 4}, {"ram": 3}) == {"ram": 4}


def test_far_off_estimates_are_told_the_worst_first() -> None:
    learned = Learned(None)
    note(learned, "near", ram=int(9.5 * GIB))
    note(learned, "high", ram=8 * GIB)
    note(learned, "low", ram=20 * GIB)
    assert [round(entry.error, 2) for entry in learned.wrong()] == [-0.5, 0.25]


def test_old_entries_make_room(file: Path) -> None:
    learned = Learned(None)
    for index in range(MAX_ENTRIES + 5):
        note(learned, f"k{index}", ram=GIB)
    note(learned, "k7", ram=GIB)
    for index in range(3):
        note(learned, f"new{index}", ram=GIB)
    estimated = {"ram": 10 * GIB}
    assert learned.need("k7", estimated) != estimated  # used again
    assert learned.need("k8", estimated) != estimated or learned.need("k0", estimated) == estimated
    assert learned.need("k5", estimated) == estimated
    assert learned.forget() == MAX_ENTRIES
    assert not file.exists()


def test_one_model_can_be_forgotten(file: Path) -> None:
    learned = Learned(file)
    note(learned, ram=GIB)
    assert learned.forget("another") == 0
    assert learned.forget("gemma") == 1
    assert Learned(file).need("k", {"ram": 3}) == {"ram": 3}


def test_the_file_is_private_and_whole(file: Path) -> None:
    note(Learned(file), ram=GIB)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["learned.json"]


GOOD = {
    "model": "m", "way": "w", "estimated": {"ram": 1}, "measured": {"ram": 2}, "told": True,
    "runs": 1, "seen": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "7", '{"version": 2, "entries": {}}', '{"version": 1}',
        "[" * 100_000, "\udcff",
        *(json.dumps({"version": 1, "entries": {"k": {**GOOD, **bad}}}) for bad in (
            {"measured": {"ram": -1}}, {"measured": {"ram": 1 << 60}}, {"measured": 3},
            {"measured": {"ram": "2"}}, {"measured": {"ram": True}}, {"runs": "x"},
            {"model": 5}, {"estimated": {str(i): 1 for i in range(99)}}, {"seen": None},
        )),
        json.dumps({"version": 1, "entries": {"k": {"model": "m"}}}),
        json.dumps({"version": 1, "entries": [1]}),
    ],
)  # fmt: skip
def test_a_broken_file_is_forgotten_and_written_anew(file: Path, text: str) -> None:
    file.parent.mkdir()
    file.write_text(text, errors="surrogateescape")
    learned = Learned(file)
    assert learned.need("k", {"ram": 5}) == {"ram": 5}
    assert note(learned, ram=GIB) is not None
    assert Learned(file).need("k", {"ram": 5}) != {"ram": 5}


def test_a_file_that_is_too_large_is_not_read(file: Path) -> None:
    file.parent.mkdir()
    file.touch()
    os.truncate(file, MAX_FILE + 1)
    assert Learned(file).need("k", {"ram": 5}) == {"ram": 5}


def test_a_disk_that_refuses_costs_only_the_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "plain").touch()
    learned = Learned(tmp_path / "plain" / "learned.json")
    assert note(learned, ram=8 * GIB) is not None
    assert "it is kept in memory" in caplog.text
    DISK.forget(tmp_path / "plain" / "learned.json")
    assert learned.need("k", {"ram": 10 * GIB})["ram"] < 9 * GIB


ANY = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_is_survived(tmp_path: Path, entries: object) -> None:
    file = tmp_path / "l.json"
    file.write_text(json.dumps({"version": 1, "entries": entries}), "utf-8")
    assert Learned(file).need("k", {"ram": 5}) == {"ram": 5}


def test_files_are_known_by_size_time_and_beginning(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"a" * (HEADER_BYTES + 10))
    os.utime(path, (1, 1))
    first = identity_of([path])
    path.write_bytes(b"a" * HEADER_BYTES + b"b" * 10)  # only what is not read differs
    os.utime(path, (1, 1))
    assert identity_of([path]) == first
    os.utime(path, (2, 2))
    assert identity_of([path]) != first
    path.write_bytes(b"b" + b"a" * (HEADER_BYTES + 9))
    os.utime(path, (1, 1))
    assert identity_of([path]) != first
    assert identity_of([tmp_path / "no"]) != identity_of([tmp_path / "none"])


def test_a_log_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    log = tmp_path / "m.log"
    assert heard(log).total == 0
    log.write_bytes(b"load_tensors: CPU model buffer size = 7.00 MiB\n\xff\n")
    assert heard(log).total == 7 << 20


def test_another_command_line_is_another_key() -> None:
    keys = {
        key_of("a", ["-c", "1"], "v"),
        key_of("b", ["-c", "1"], "v"),
        key_of("a", ["-c", "2"], "v"),
        key_of("a", ["-c", "1"], "w"),
        key_of("a", ["-c1"], "v"),
    }
    assert len(keys) == 5


# ---------------------------------------------------------------- in use


def test_a_model_is_charged_what_it_took_before(tmp_path: Path, tiny_gguf: Path) -> None:
    learned = Learned(tmp_path / "learned.json")
    kitchen = Kitchen(tmp_path, learned=learned)
    kitchen.install()
    config = {"models": {"tiny": {"path": str(tiny_gguf), "ctx": 512}}}
    item = kitchen.sound(config)
    way = item.spec.plain[0].id
    taken = {"ram": 300 << 20}
    learned.record(item.keys[way], "tiny", way, item.estimates[way], taken, told=True)
    variant = kitchen.sound(config).spec.variants[0]
    assert variant.need == {"ram": (300 << 20) + int((300 << 20) * 0.03)}
    assert kitchen.sound(config).estimates == item.estimates
    config["models"]["tiny"]["args"] = ["-ub", "128"]
    assert kitchen.sound(config).keys[way] != item.keys[way]
    assert item.promised(way)["ram"] == item.prices[way].output  # no cache, no checkpoints
    assert item.promised("no way") == {}
