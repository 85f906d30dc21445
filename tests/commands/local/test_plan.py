"""``plan``: what it says, what it writes, what it refuses. No engine and no weights are needed."""

from __future__ import annotations

import io
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from control_api.commands.local.complete import candidates
from tests.commands.conftest import Ctl, answering
from tests.control_api.fake import FakeControl, FakeDaemon

BUDGET = ("--budget", "20GiB")
REPO = "unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF"
GIB = 1 << 30


@pytest.fixture(autouse=True)
def cache(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration without anything, and an empty cache of the hub."""
    (home / "config.toml").write_text("# mine\n", "utf-8")
    monkeypatch.setattr("daemon.downloads.locate.default_cache", lambda: tmp_path / "hub")
    return tmp_path / "hub"


def pulled(cache: Path, repo: str, name: str, source: Path) -> None:
    folder = cache / f"models--{repo.replace('/', '--')}" / "snapshots" / "abc"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, folder / name)


def models(home: Path) -> dict[str, Any]:
    return dict(tomllib.loads((home / "config.toml").read_text("utf-8")).get("models", {}))


def by_name(found: Any) -> dict[str, Any]:
    return {row["model"]: row for row in found["models"]}


def test_what_fits_together(ctl: Ctl) -> None:
    result = ctl("plan", "qwen3-coder@64k", "qwen3-0.6b", "nomic-embed-text", *BUDGET)
    assert (result.code, result.err) == (0, "")
    head, *rows = result.out.splitlines()
    assert head.split() == ["MODEL", "QUANT", "CONTEXT", "CACHE", "MEMORY", "NOTE"]
    assert rows[0].split()[:4] == ["qwen3-coder", "Q3_K_XL", "65536", "q8_0"]
    assert "to pull, another quantisation" in rows[0]
    assert rows[3].startswith("together: ")
    assert "of 20.0 GiB" in rows[3]
    assert "from published figures, not from the files" in rows[4]
    again = "ctl plan qwen3-coder@64k qwen3-0.6b nomic-embed-text --budget 20GiB --write"
    assert [line[6:] for line in rows[5:]] == [
        again,
        "ctl pull qwen3-coder",
        "ctl pull qwen3-0.6b",
        "ctl pull nomic-embed-text-v1.5",
    ]


def test_the_sum_is_within_the_budget(ctl: Ctl) -> None:
    for budget in (3, 14, 18, 24, 40, 80):
        found = ctl("plan", "qwen3-coder", "glm-4.7-flash", "bge-reranker", "--json",
                    "--budget", f"{budget}GiB").json  # fmt: skip
        (pool,) = (pool for pool, amount in found["budget"].items() if amount == budget * GIB)
        assert found["need"].get(pool, 0) <= budget * GIB
        assert found["fits"] == (not found["left_out"])
        assert len(found["models"]) + len(found["left_out"]) == 3
        assert budget < 80 or all(row["cache"] != "q4_0" for row in found["models"])
    assert all(row["quant"] == "Q8_0" for row in found["models"])


def test_a_context_and_a_quantisation_that_are_asked_for_are_kept(ctl: Ctl) -> None:
    found = ctl("plan", "qwen3-coder:Q6_K@48k", *BUDGET, "--budget", "40GiB", "--json").json
    (row,) = found["models"]
    assert (row["quant"], row["context"], row["cache"]) == ("Q6_K", 49152, "f16")
    assert found["changes"]["qwen3-coder"]["hf"] == f"{REPO}:Q6_K"
    other = ctl("plan", "qwen3-coder@48k:Q6_K", "--budget", "40GiB", "--json").json
    assert other["models"] == found["models"]


def test_four_bits_are_the_last_resort(ctl: Ctl) -> None:
    """With 8 bits and the smallest context it does not fit; at 4 bits it does."""
    (least,) = ctl("plan", "llama3.1-8b@128k", "--budget", "14GiB", "--json").json["models"]
    assert least["cache"] == "q8_0"
    (row,) = ctl("plan", "llama3.1-8b@128k", "--budget", "11GiB", "--json").json["models"]
    assert row["cache"] == "q4_0"
    assert row["need"]


def test_mlx_has_no_kinds_of_cache(ctl: Ctl, home: Path) -> None:
    entry = '[models.gemma-4-26b]\npreset = "gemma-4-26b"\nengine = "mlx-lm"\n'
    (home / "config.toml").write_text(entry, "utf-8")
    found = ctl("plan", "gemma-4-26b", "--budget", "16GiB", "--json").json
    assert [row["cache"] for row in found["models"]] in ([], ["f16"])
    roomy = ctl("plan", "gemma-4-26b", "--budget", "20GiB", "--json").json
    assert roomy["models"][0]["cache"] == "f16"
    assert "args" not in roomy["changes"]["gemma-4-26b"]


def test_what_has_no_place_is_named_with_what_lacks(ctl: Ctl, home: Path) -> None:
    result = ctl("plan", "qwen3-coder", "llama3.1-70b", "qwen3-0.6b", *BUDGET)
    assert result.code == 1
    assert "does not fit: llama3.1-70b lacks " in result.out
    assert "next: ctl plan qwen3-coder qwen3-0.6b --budget 20GiB\n" in result.out
    assert "--write" not in result.out
    refused = ctl("plan", "qwen3-coder", "llama3.1-70b", *BUDGET, "--write", "--yes")
    assert refused.code == 1
    assert "llama3.1-70b would not fit" in refused.err
    assert models(home) == {}


def test_what_is_on_the_disk_is_taken_unless_it_does_not_fit(
    ctl: Ctl, cache: Path, tiny_gguf: Path
) -> None:
    pulled(cache, REPO, "Qwen3-Coder-30B-A3B-Instruct-UD-Q4_K_XL.gguf", tiny_gguf)
    (row,) = ctl("plan", "qwen3-coder", "--budget", "80GiB", "--json").json["models"]
    assert (row["quant"], row["here"], row["source"]) == ("Q4_K_XL", True, "files")
    assert row["pull"] is None
    (asked,) = ctl("plan", "qwen3-coder:Q8_0", "--budget", "80GiB", "--json").json["models"]
    assert (asked["here"], asked["source"]) == (False, "published")
    pulled(cache, REPO, "Qwen3-Coder-30B-A3B-Instruct-Q6_K.gguf", tiny_gguf)
    (both,) = ctl("plan", "qwen3-coder", "--budget", "80GiB", "--json").json["models"]
    assert (both["quant"], both["here"]) == ("Q6_K", True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("qwen3-codr",), "Did you mean qwen3-coder"),
        (("qwen3-codr@64k",), "Did you mean qwen3-coder"),
        (("qwen3-coder@x",), "'x' is not a number of tokens"),
        (("qwen3-coder@0",), "'0' is not a number of tokens"),
        (("qwen3-coder@",), "nothing stands behind its @"),
        (("qwen3-coder@64k:",), "nothing stands behind its :"),
        (("qwen3-coder@999999999999",), "no model has a context of"),
        (("qwen3-coder:Q4_K_M@64k:Q8_0",), "two quantisations"),
        (("qwen3-coder:Q77",), "nothing is known of the quantisation 'Q77'"),
        (("qwen3-coder", "qwen3-coder:30b"), "are the same model, qwen3-coder"),
        (("tiny:Q8_0",), "no quantisation to choose"),
        (("nothing",), "There is no model 'nothing'"),
        (("qwen3-coder", "--budget", "much"), "--budget: 'much' is not an amount"),
        (("qwen3-coder", "--budget", "0"), "leaves nothing"),
        (("qwen3-coder", "--budget", "gpu7=4GiB"), "--budget names 'gpu7'"),
    ],
)
def test_what_cannot_be_meant(
    words: tuple[str, ...], said: str, ctl: Ctl, home: Path, tiny_gguf: Path
) -> None:
    (home / "config.toml").write_text(f'[models.tiny]\npath = "{tiny_gguf}"\n', "utf-8")
    result = ctl("plan", *words)
    assert (result.code, result.out) == (1, "")
    assert said in result.err
    assert "Traceback" not in result.err


def test_an_empty_list_and_a_long_one(ctl: Ctl) -> None:
    assert ctl("plan").code == 2
    assert "16 at most" in ctl("plan", *["qwen3-coder"] * 17).err


def test_it_is_written_and_says_the_same_again(ctl: Ctl, home: Path, tiny_gguf: Path) -> None:
    path = home / "config.toml"
    path.write_text(
        f'# mine\n[models.tiny] # small\npath = "{tiny_gguf}"\nargs = ["-ub", "64"]\n'
        f'[models.other]\npath = "{tiny_gguf}"\nctx = 77\n',
        "utf-8",
    )
    words = ("plan", "qwen3-coder@64k", "tiny", *BUDGET)
    done = ctl(*words, "--write", "--yes")
    assert done.code == 0, done.err
    assert "wrote qwen3-coder, tiny in " in done.out
    assert "next: ctl pull qwen3-coder" in done.out
    text = path.read_text("utf-8")
    assert "# mine" in text
    assert "# small" in text
    found = models(home)
    assert found["other"] == {"path": str(tiny_gguf), "ctx": 77}
    coder = found["qwen3-coder"]
    assert (coder["preset"], coder["ctx"]) == ("qwen3-coder", 65536)
    assert coder["args"][-2] == "--cache-ram"
    assert found["tiny"]["path"] == str(tiny_gguf)
    assert found["tiny"]["args"][:2] == ["-ub", "64"]
    assert ctl("config", "check").code == 0
    again = ctl(*words, "--write", "--yes")
    assert again.code == 0
    assert "has it so already" in again.out
    assert path.read_text("utf-8") == text


def test_what_was_written_is_what_the_plan_said(ctl: Ctl) -> None:
    words = ("plan", "qwen3-coder", "qwen3-0.6b", "--budget", "22GiB", "--json")
    said = by_name(ctl(*words, "--write", "--yes").json)
    for name, row in said.items():
        found = ctl("estimate", name, "--ctx", str(row["context"]), "--json").json
        assert found["quantisation"] == row["quant"]
        assert found["estimates"][0]["pools"] == row["need"]


def test_a_written_cache_type_is_not_for_ever(ctl: Ctl, home: Path) -> None:
    ctl("plan", "qwen3-coder@128k", "--budget", "24GiB", "--write", "--yes")
    assert "q8_0" in models(home)["qwen3-coder"]["args"]
    assert ctl("plan", "qwen3-coder", "--budget", "80GiB", "--write", "--yes").code == 0
    assert "-ctk" not in models(home)["qwen3-coder"]["args"]


def test_a_person_is_asked_first(ctl: Ctl, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("plan", "qwen3-coder", *BUDGET, "--write")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert "Say --yes" in ctl(*words).err
    answering(monkeypatch, "\n")
    no = ctl(*words)
    assert no.code == 1
    assert '[models.qwen3-coder] preset = "qwen3-coder", ctx = ' in no.err
    assert "Nothing was changed." in no.err
    assert models(home) == {}
    answering(monkeypatch, "y\n")
    assert ctl(*words).code == 0
    assert "qwen3-coder" in models(home)


def test_a_daemon_gives_its_budget_and_is_told(
    ctl: Ctl, home: Path, daemon: FakeDaemon, fake: FakeControl
) -> None:
    fake.config = str(home / "config.toml")
    text = '[models.small]\npreset = "qwen3-0.6b"\npool = "gpu0"\n'
    (home / "config.toml").write_text(text, "utf-8")
    found = ctl("plan", "small", "--write", "--yes", "--json").json
    assert (found["budget_source"], found["budget"]) == ("daemon", {"gpu0": 24 * GIB})
    assert found["reloaded"]["ok"] is True
    assert ("reload",) in fake.calls


def test_names_are_completed(ctl: Ctl, home: Path, tiny_gguf: Path) -> None:
    (home / "config.toml").write_text(f'[models.tiny]\npath = "{tiny_gguf}"\n', "utf-8")
    assert "tiny" in candidates(["plan"])
    assert "--write" in candidates(["plan", "tiny"])
    assert "tiny" in candidates(["plan", "tiny"])
