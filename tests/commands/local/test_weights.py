"""``rm --weights``, ``prune`` and ``search``: what they show, ask, free and leave alone."""

from __future__ import annotations

import json
import os
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.core.problems import Code, Problem, ProblemError
from daemon.downloads.pulled import Pulled
from daemon.downloads.search import Found
from daemon.downloads.unfinished import Unfinished
from daemon.downloads.used import Used
from tests.commands.conftest import Ctl, answering
from tests.control_api.fake import FakeControl, FakeDaemon, backend_view, model_view, pull_view
from tests.downloads.test_cache import Cache

FOUR, EIGHT = "m-Q4_K_M.gguf", "m-Q8_0.gguf"
GIB = 1 << 30


@pytest.fixture(autouse=True)
def cache(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """Two quantisations of one repository, that modelport has pulled; one is configured."""
    made = Cache(tmp_path / "hub")
    made.add("o/n", "c1", {FOUR: b"four", EIGHT: b"eight!"})
    monkeypatch.setattr("daemon.downloads.locate.default_cache", lambda: made.root)
    state = home / "state"
    monkeypatch.setattr("daemon.downloads.pulled.default_cache", lambda: made.root)
    record = {"version": 1, "folders": [str(made.repo("o/n").absolute())]}
    (state / "pulled.json").write_text(json.dumps(record))
    (state / "pulled.json").chmod(0o600)
    configure(home, 'four = { hf = "o/n:Q4_K_M" }\n')
    return made


def configure(home: Path, models: str) -> None:
    (home / "config.toml").write_text(f"[models]\n{models}", "utf-8")


def models(home: Path) -> dict[str, Any]:
    return dict(tomllib.loads((home / "config.toml").read_text("utf-8")).get("models", {}))


def age(cache: Cache, days: float) -> None:
    then = time.time() - days * 86_400
    for path in cache.root.rglob("*"):
        if path.is_symlink() or path.is_file():
            os.utime(path, (then, then), follow_symlinks=False)


def left(cache: Cache) -> set[str]:
    return {Path(name).name for name in cache.left() if "/snapshots/" in name}


# ---------------------------------------------------------------- rm --weights


def test_the_entry_and_its_own_files_go(ctl: Ctl, home: Path, cache: Cache) -> None:
    result = ctl("rm", "four", "--weights", "--yes")
    assert result.code == 0, result.err
    assert "freed 4 B of four" in result.out
    assert "snapshots/c1/m-Q4_K_M.gguf  4 B" in result.err, "said before"
    assert left(cache) == {EIGHT}
    assert models(home) == {}


def test_a_person_is_asked(
    ctl: Ctl, home: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = ctl("rm", "four", "--weights")
    assert (refused.code, "--yes removes them" in refused.err) == (1, True)
    answering(monkeypatch, "n\n")
    assert "Nothing was removed." in ctl("rm", "four", "--weights").err
    assert (left(cache), set(models(home))) == ({FOUR, EIGHT}, {"four"})
    answering(monkeypatch, "y\n")
    assert ctl("rm", "four", "--weights").code == 0
    assert left(cache) == {EIGHT}


def test_files_that_another_model_uses_stay(ctl: Ctl, home: Path, cache: Cache) -> None:
    configure(home, 'a = { hf = "o/n:Q4_K_M" }\nb = { hf = "o/n:Q4_K_M", ctx = 512 }\n')
    result = ctl("rm", "a", "--weights", "--yes")
    assert result.code == 0, result.err
    assert "that b uses stay" in result.err
    assert (left(cache), set(models(home))) == ({FOUR, EIGHT}, {"b"})
    refused = ctl("rm", "hf:o/n:Q4_K_M", "--weights", "--yes")
    assert "All files of hf:o/n:Q4_K_M are used by b, too." in refused.err


def test_a_pull_without_an_entry_and_what_is_not_here(ctl: Ctl, home: Path, cache: Cache) -> None:
    assert ctl("rm", "hf:o/n:Q8_0", "--weights", "--yes", "--json").json["freed"] == 6
    assert left(cache) == {FOUR}
    gone = ctl("rm", "hf:o/n:Q8_0", "--weights", "--yes")
    assert "The weights of hf:o/n:Q8_0 are not on this machine." in gone.err
    assert "There is no model 'fuor'" in ctl("rm", "fuor", "--weights", "--yes").err
    assert "Did you mean four?" in ctl("rm", "fuor", "--weights", "--yes").err


def test_all_commits_and_what_is_left_of_a_download(ctl: Ctl, home: Path, cache: Cache) -> None:
    cache.add("o/n", "c2", {FOUR: b"newer"})
    (cache.repo("o/n") / "blobs" / "x.modelport.incomplete").write_bytes(b"12345")
    assert ctl("rm", "four", "--weights", "--yes", "--json").json["freed"] == 4 + 5 + 5
    assert left(cache) == {EIGHT}


def test_files_of_the_users_own_are_refused(ctl: Ctl, home: Path, tiny_gguf: Path) -> None:
    configure(home, f'mine = {{ path = "{tiny_gguf}" }}\n')
    result = ctl("rm", "mine", "--weights", "--yes")
    assert result.code == 1
    assert f"The weights of mine are a file of your own: {tiny_gguf}." in result.err
    assert tiny_gguf.exists()
    assert set(models(home)) == {"mine"}


def test_yes_alone_means_nothing(ctl: Ctl, home: Path) -> None:
    assert "--yes is for --weights" in ctl("rm", "four", "--yes").err
    assert set(models(home)) == {"four"}


@pytest.mark.parametrize("how", ["loaded", "pulled", "unfinished"])
def test_what_is_in_use_is_refused(
    how: str, ctl: Ctl, home: Path, cache: Cache, daemon: FakeDaemon, fake: FakeControl
) -> None:
    fake.catalog = {"four": model_view("four")}
    fake.pulling_now.clear()
    if how == "loaded":
        fake.running = [backend_view("four")]
    elif how == "pulled":
        fake.pulling_now["four"] = pull_view("four", source="hf:o/n:Q4_K_M")
    else:
        Unfinished(home / "state" / "pulls.json").begin("hf:o/n")
    result = ctl("rm", "four", "--weights", "--yes")
    assert result.code == 1, result.out
    said = "four is loaded." if how == "loaded" else "four is being pulled."
    assert said in result.err
    assert left(cache) == {FOUR, EIGHT}
    assert set(models(home)) == {"four"}


# ---------------------------------------------------------------- prune


def test_nothing_is_old_enough(ctl: Ctl, cache: Cache) -> None:
    assert "There is nothing to free of what modelport has pulled" in ctl("prune").out
    assert ctl("prune", "--json").json == {
        "items": [],
        "could_free": 0,
        "freed": 0,
        "dry_run": True,
    }


def test_it_shows_asks_and_frees(ctl: Ctl, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    age(cache, 45)
    shown = ctl("prune")
    assert shown.code == 0
    assert "hf:o/n:Q8_0  6 B   unused for 45 days  -" in shown.out
    assert (
        "stays  hf:o/n:Q4_K_M  4 B  unused for 45 days, but it is configured as four" in shown.out
    )
    assert "--configured frees it, too" in shown.out
    assert "Nothing was freed, as nobody is here to be asked" in shown.err
    answering(monkeypatch, "no\n")
    assert "Nothing was freed." in ctl("prune").out
    assert ctl("prune", "--dry-run").code == 0
    assert left(cache) == {FOUR, EIGHT}
    answering(monkeypatch, "yes\n")
    done = ctl("prune")
    assert "Free 6 B? [y/N]" in done.err
    assert "freed 6 B" in done.out
    assert left(cache) == {FOUR}
    assert ctl("prune", "--yes", "--configured", "--json").json["freed"] == 4
    assert cache.left() == []


def test_what_was_used_lately_stays(ctl: Ctl, home: Path, cache: Cache) -> None:
    age(cache, 45)
    path = cache.repo("o/n") / "snapshots" / "c1" / EIGHT
    Used(home / "state" / "used.json").note(path, time.time() - 5 * 86_400)
    assert [item["name"] for item in ctl("prune", "--json").json["items"]] == ["hf:o/n:Q4_K_M"]
    assert ctl("prune", "--days", "3", "--yes", "--json").json["freed"] == 6


def test_what_other_programs_have_brought_is_theirs(ctl: Ctl, cache: Cache) -> None:
    cache.add("other/thing", "c1", {FOUR: b"theirs"})
    age(cache, 45)
    names = [item["name"] for item in ctl("prune", "--json").json["items"]]
    assert "hf:other/thing:Q4_K_M" not in names
    names = [item["name"] for item in ctl("prune", "--all", "--json").json["items"]]
    assert "hf:other/thing:Q4_K_M" in names


def test_old_versions_and_broken_downloads(ctl: Ctl, cache: Cache) -> None:
    cache.add("o/n", "c2", {FOUR: b"newer"})
    (cache.repo("o/n") / "blobs" / "x.modelport.incomplete").write_bytes(b"12345")
    done = ctl("prune", "--yes", "--json").json
    assert {item["kind"] for item in done["items"]} == {"old", "partial"}
    assert done["freed"] == 4 + 5
    assert (cache.repo("o/n") / "snapshots" / "c2" / FOUR).read_bytes() == b"newer"


def test_what_is_loaded_pinned_or_pulled_stays_always(
    ctl: Ctl, home: Path, cache: Cache, daemon: FakeDaemon, fake: FakeControl
) -> None:
    age(cache, 45)
    configure(home, 'four = { hf = "o/n:Q4_K_M" }\neight = { hf = "o/n:Q8_0", pin = true }\n')
    fake.catalog = {"four": model_view("four"), "eight": model_view("eight")}
    fake.running = [backend_view("four")]
    fake.pulling_now.clear()
    kept = ctl("prune", "--configured", "--yes", "--json").json["items"]
    assert {item["kept"] for item in kept} == {"four is loaded", "eight is pinned"}
    configure(home, "")
    fake.running, fake.catalog = [], {}
    fake.pulling_now["x"] = pull_view("x", source="hf:o/n:Q4_K_M")
    kept = ctl("prune", "--yes", "--json").json["items"]
    assert {item["kept"] for item in kept} == {"it is being pulled"}
    assert left(cache) == {FOUR, EIGHT}


@pytest.mark.parametrize("days", ["x", "-1", "1.5", "999999"])
def test_a_bad_number_of_days(days: str, ctl: Ctl) -> None:
    assert ctl("prune", f"--days={days}").code == 2


def test_the_record_of_ours_is_the_one_that_a_pull_writes(home: Path, cache: Cache) -> None:
    assert Pulled(home / "state" / "pulled.json").folders() == [cache.repo("o/n").absolute()]


# ---------------------------------------------------------------- search

FOUND = [
    Found("o/coder-GGUF", "gguf", 1_234_567, 9, False, "Q4_K_M",
          {"Q2_K": 9 * GIB, "Q4_K_M": 17 * GIB, "Q8_0": 31 * GIB}),
    Found("o/small-GGUF", "gguf", 5200, 9, True, "Q8_0", {"Q8_0": GIB}),
    Found("o/whole", "safetensors", 12, 9, False, "", {"": 60 * GIB}),
    Found("o/secret", "gguf", 1, 9, True),
]  # fmt: skip


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    asked: list[tuple[object, ...]] = []

    def search(*words: object) -> list[Found]:
        asked.append(words)
        return FOUND

    budget = SimpleNamespace(amounts={"gpu0": 24 * GIB, "ram": 64 * GIB}, main=("gpu0",))
    here = SimpleNamespace(budget=budget)
    monkeypatch.setattr("daemon.downloads.search.search", search)
    monkeypatch.setattr("control_api.commands.local.sizes.Here", lambda _: here)
    return asked


def test_search(ctl: Ctl, searched: list[tuple[object, ...]]) -> None:
    head, *rows, last = ctl("search", "qwen3", "coder").out.splitlines()
    assert head.split("  ")[-1].strip() == "FITS IN 24.0 GiB"
    cells = [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in rows]
    assert cells == [
        ["o/coder-GGUF", "1.2M", "gguf", "Q4_K_M 17.0 GiB (9.0 GiB to 31.0 GiB)", "up to Q4_K_M"],
        ["o/small-GGUF (gated)", "5.2k", "gguf", "Q8_0 1.0 GiB", "yes"],
        ["o/whole", "12", "safetensors", "60.0 GiB", "no"],
        ["o/secret (gated)", "1", "gguf", "not told", "?"],
    ]
    assert last == "Get one: ctl pull hf:o/coder-GGUF:Q4_K_M"
    other = "mlx" if sys.platform == "darwin" else "safetensors"
    assert searched == [("qwen3 coder", ["gguf", other], 10)]


def test_search_for_programs(ctl: Ctl, searched: list[tuple[object, ...]]) -> None:
    found = ctl("search", "x", "--format", "mlx", "--limit", "3", "--json").json
    assert searched == [("x", ["mlx"], 3)]
    assert found["budget"] == 24 * GIB
    assert found["models"][0]["fits"] == ["Q2_K", "Q4_K_M"]
    assert [one["pull"] for one in found["models"]] == [
        "hf:o/coder-GGUF:Q4_K_M",
        "hf:o/small-GGUF:Q8_0",
        "hf:o/whole",
        "hf:o/secret",
    ]


def test_search_that_finds_nothing_or_fails(
    ctl: Ctl, searched: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.downloads.search.search", lambda *_: [])
    assert "Fewer words find more" in ctl("search", "x").out

    def offline(*_: object) -> list[Found]:
        raise ProblemError(Problem(Code.PULL_FAILED, "The hub cannot be searched.", "Wait."))

    monkeypatch.setattr("daemon.downloads.search.search", offline)
    result = ctl("search", "x")
    assert (result.code, result.err) == (1, "ctl: The hub cannot be searched.\n     Wait.\n")
    assert ctl("search", "x", "--limit", "0").code == 2
