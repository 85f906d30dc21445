"""``add``, ``set``, ``rm``: the file, with and without a daemon."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from control_api.commands.local.catalog import suggest_name
from tests.commands.conftest import Ctl
from tests.control_api.fake import FakeControl, FakeDaemon


def models(home: Path) -> dict[str, Any]:
    return dict(tomllib.loads((home / "config.toml").read_text("utf-8")).get("models", {}))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Qwen3-Coder-30B-A3B-Instruct-Q4_K_M", "qwen3-coder-30b-a3b-instruct"),
        ("gemma-3-4b-it-UD-Q4_K_XL-00001-of-00002", "gemma-3-4b-it"),
        ("gemma-3-4b-it-GGUF", "gemma-3-4b-it"),
        ("SmolLM2.IQ2_XXS", "smollm2"),
        ("Llama BF16", "llama-bf16"),
        ("gpt-oss-20b-MXFP4", "gpt-oss-20b"),
        ("模型", "model"),
    ],
)
def test_a_name_from_a_file(text: str, name: str) -> None:
    assert suggest_name(text) == name


def test_add_a_file(ctl: Ctl, home: Path, tiny_gguf: Path) -> None:
    options = ("--ctx", "2k", "--slots", "2", "--engine", "xllamacpp", "--alias", "a", "--alias=b")
    result = ctl("add", str(tiny_gguf), *options)
    assert result.code == 0, result.err
    assert result.out.startswith(f"added tiny in {home}/config.toml\n")
    assert "in force when one starts" in result.out
    assert "llama" in result.err
    assert models(home) == {
        "tiny": {
            "path": str(tiny_gguf),
            "ctx": 2048,
            "slots": 2,
            "engine": "xllamacpp",
            "aliases": ["a", "b"],
        }
    }
    again = ctl("add", str(tiny_gguf))
    assert again.code == 1
    assert "ctl set tiny" in again.err


def test_add_a_folder_a_repository_and_a_preset(ctl: Ctl, home: Path, tiny_hf: Path) -> None:
    assert ctl("add", str(tiny_hf), "folder").code == 0
    result = ctl("add", "hf:owner/Some-Model-GGUF:Q4_K_M", "--json")
    assert result.json["model"] == "some-model"
    assert result.json["reloaded"] is None
    assert ctl("add", "qwen3-0.6b", "mine").code == 0
    assert models(home) == {
        "folder": {"path": str(tiny_hf)},
        "some-model": {"hf": "owner/Some-Model-GGUF:Q4_K_M"},
        "mine": {"preset": "qwen3-0.6b"},
    }


def test_add_what_is_no_model(ctl: Ctl, home: Path, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    (tmp_path / "text.txt").write_text("hello", "utf-8")
    (tmp_path / "empty").mkdir()
    for source in ("x.gguf", "text.txt", "empty", "nothing.gguf"):
        result = ctl("add", str(tmp_path / source))
        assert (result.code, result.out) == (1, "")
        assert source in result.err
        assert "Traceback" not in result.err
    for words in (("add",), ("import", "llama-cpp"), ("import", "ollama")):
        result = ctl(*words, "~nobody-of-that-name/x.gguf")
        assert (result.code, result.out) == (1, "")
        assert "~nobody-of-that-name/x.gguf" in result.err
    assert ctl("add", "hf:no-owner").code == 1
    assert not (home / "config.toml").exists()


def test_set_keeps_comments(ctl: Ctl, home: Path, tiny_gguf: Path) -> None:
    path = home / "config.toml"
    path.write_text(f'# mine\n[models.a]\npath = "{tiny_gguf}" # here\n', "utf-8")
    assert ctl("set", "a", "ctx=4096", "keep_alive=1h").code == 0
    text = path.read_text("utf-8")
    assert "# mine" in text
    assert "# here" in text
    assert models(home)["a"]["ctx"] == 4096
    assert ctl("set", "a", "ctx=").code == 0
    assert "ctx" not in models(home)["a"]


def test_set_that_is_refused_changes_nothing(ctl: Ctl, home: Path, tiny_gguf: Path) -> None:
    path = home / "config.toml"
    path.write_text(f'[models.a]\npath = "{tiny_gguf}"\n', "utf-8")
    before = path.read_bytes()
    for words, said in {
        ("a", "slots=x"): "found",
        ("a", "slotz=1"): "slots",
        ("a", "slots"): "KEY=VALUE",
        ("nobody", "slots=1"): "nobody",
    }.items():
        result = ctl("set", *words)
        assert result.code == 1
        assert said in result.err
    assert ctl("set", "a", "slots=x", "--json").json["error"]["facts"]["mistakes"]
    assert path.read_bytes() == before


def test_rm(ctl: Ctl, home: Path, tiny_gguf: Path) -> None:
    ctl("add", str(tiny_gguf))
    assert ctl("rm", "tiny").out.startswith("removed tiny in ")
    assert models(home) == {}
    assert tiny_gguf.exists()
    assert ctl("rm", "tiny").code == 1


def test_a_running_daemon_is_told(
    ctl: Ctl,
    home: Path,
    daemon: FakeDaemon,
    fake: FakeControl,
    tiny_gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake.config = str(home / "config.toml")
    result = ctl("add", str(tiny_gguf))
    assert "reloaded\n  added    new\n" in result.out
    assert fake.calls == [("reload",)]
    assert ctl("set", "tiny", "ctx=1024", "--json").json["reloaded"]["ok"] is True
    other = ctl("add", str(tiny_gguf), "--config", str(home / "other.toml"))
    assert f"uses {home}/config.toml: it was not told" in other.err
    assert len(fake.calls) == 2
