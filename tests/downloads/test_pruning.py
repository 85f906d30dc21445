from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from daemon.downloads.cache import Holding, Partial
from daemon.downloads.pruning import DAY, Facts, Item, Use, choose

NOW = 1000 * DAY
FILE = Path("/hub/models--o--n/snapshots/c1/m-Q4_K_M.gguf")
OLD = Holding("o/n", "Q4_K_M", (FILE,), 100, NOW - 40 * DAY, current=True)
NOBODY = Facts(NOW, {}, {})


def used_by(*uses: Use) -> Facts:
    return replace(NOBODY, uses={FILE: uses})


def one(facts: Facts = NOBODY, *, days: float = 30, configured: bool = False) -> Item | None:
    found = choose([OLD], [], facts, days=days, configured=configured)
    return found[0] if found else None


def test_what_nobody_used_for_so_long() -> None:
    assert one() == Item("unused", "hf:o/n:Q4_K_M", (FILE,), 100, 40)
    assert one(days=41) is None


def test_our_own_record_counts_where_the_disk_tells_nothing() -> None:
    assert one(replace(NOBODY, used={str(FILE): NOW - 5 * DAY})) is None
    assert one(replace(NOBODY, used={str(FILE.parent): NOW - 5 * DAY})) is None, "a folder's"
    assert one(replace(NOBODY, used={"/another": NOW})) is not None


def test_what_is_in_use_stays() -> None:
    for why in ("loaded", "pinned"):
        item = one(used_by(Use("gemma", why), Use("gemma", "configured")), configured=True)
        assert item is not None
        assert item.kept == f"gemma is {why}"
    item = one(replace(NOBODY, pulling=frozenset({"o/n"})))
    assert item is not None
    assert item.kept == "it is being pulled"


def test_what_is_configured_stays_unless_asked_for() -> None:
    facts = used_by(Use("gemma", "configured"), Use("other", "configured"))
    item = one(facts)
    assert item is not None
    assert (item.kept, item.models) == ("it is configured as gemma, other", ("gemma", "other"))
    item = one(facts, configured=True)
    assert item is not None
    assert item.kept == ""


def test_an_old_commit_goes_at_once_but_not_under_a_running_model() -> None:
    path = FILE.parent.parent / "c0" / FILE.name
    before = replace(OLD, files=(path,), current=False, seen=NOW)
    now = replace(OLD, seen=NOW)
    (item,) = choose([now, before], [], used_by(Use("m", "configured")), days=30)
    assert (item.kind, item.files, item.kept) == ("old", (path,), "")
    loaded = replace(NOBODY, uses={path: (Use("m", "loaded"),)})
    (item,) = choose([now, before], [], loaded, days=30)
    assert item.kept == "m is loaded"


def test_a_commit_without_a_successor_is_no_old_one() -> None:
    """Another program has moved the branch on, and fetched only a small file of it."""
    before = replace(OLD, current=False, seen=NOW)
    other = replace(OLD, files=(FILE.parent.parent / "c2" / "config.json",), quant="", seen=NOW)
    assert choose([other, before], [], NOBODY, days=30) == []


def test_broken_downloads() -> None:
    path = Path("/hub/models--o--n/blobs/x.incomplete")
    late, now = Partial("o/n", path, 7, NOW - 2 * DAY), Partial("o/n", path, 7, NOW - 60)
    (item,) = choose([], [late], NOBODY, days=30)
    assert (item.kind, item.size, item.days, item.kept) == ("partial", 7, 2, "")
    (item,) = choose([], [now], NOBODY, days=30)
    assert item.kept == "bytes came within the last hour"
    (item,) = choose([], [replace(now, ours=True)], NOBODY, days=30)
    assert item.kept == "", "nobody else goes on with it"
    (item,) = choose([], [late], replace(NOBODY, pulling=frozenset({"o/n"})), days=30)
    assert item.kept == "it is being pulled"


def test_the_largest_comes_first_and_what_stays_last() -> None:
    big = replace(OLD, repo="o/big", files=(Path("/b"),), size=500)
    kept = replace(OLD, repo="o/kept", files=(Path("/k"),), size=900)
    facts = replace(NOBODY, uses={Path("/k"): (Use("k", "pinned"),)})
    names = [item.name for item in choose([OLD, kept, big], [], facts, days=30)]
    assert names == ["hf:o/big:Q4_K_M", "hf:o/n:Q4_K_M", "hf:o/kept:Q4_K_M"]
