"""``ctl import``: shown first, appended with its comments, and nothing overwritten unasked."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import pytest

from tests.commands.conftest import Ctl, answering
from tests.control_api.fake import FakeControl, FakeDaemon

EXAMPLES = Path(__file__).parent / "importing" / "examples"
SWAP = "models:\n  a: {cmd: llama-server -m /w/a.gguf, unlisted: true}\n"


@pytest.fixture
def swap(home: Path) -> str:
    path = home / "swap.yaml"
    path.write_text(SWAP)
    return str(path)


def test_dry_run_writes_nothing(ctl: Ctl, home: Path, swap: str) -> None:
    result = ctl("import", "llama-swap", swap, "--dry-run")
    assert result.code == 0
    assert "# not carried over: unlisted = true: every model is listed." in result.out
    assert "Nothing was written" in result.out
    assert not (home / "config.toml").exists()


def test_it_is_put_behind_what_is_there(ctl: Ctl, home: Path, swap: str) -> None:
    config = home / "config.toml"
    config.write_text('# mine\n[models.b]  # keep\npath = "/b"')
    assert ctl("import", "llama-swap", swap, "--yes").code == 0
    text = config.read_text()
    assert text.startswith('# mine\n[models.b]  # keep\npath = "/b"\n\n# Imported from swap.yaml.')
    assert tomllib.loads(text)["models"] == {
        "b": {"path": "/b"},
        "a": {"engine": "llama-server", "path": "/w/a.gguf"},
    }
    assert ctl("config", "check").code == 0


def test_a_person_is_asked(
    ctl: Ctl, home: Path, swap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("import", "llama-swap", swap)
    refused = ctl(*words)
    assert (refused.code, "--yes writes it, --dry-run only shows it" in refused.err) == (1, True)
    assert "[models.a]" in refused.out, "shown all the same"
    assert ctl(*words, "--json").json["error"]["code"] == "invalid_request"
    answering(monkeypatch, "\n")
    declined = ctl(*words)
    assert (declined.code, "Nothing was written." in declined.err) == (1, True)
    assert not (home / "config.toml").exists()
    answering(monkeypatch, "y\n")
    assert ctl(*words).code == 0
    assert (home / "config.toml").exists()


def test_a_daemon_is_told(
    ctl: Ctl, home: Path, daemon: FakeDaemon, fake: FakeControl, swap: str
) -> None:
    fake.config = str(home / "config.toml")
    result = ctl("import", "llama-swap", swap, "--json", "--yes")
    assert result.json["written"] is True
    assert result.json["reloaded"]["ok"] is True


def test_names_that_are_taken(ctl: Ctl, home: Path, swap: str) -> None:
    config = home / "config.toml"
    before = '[models.a]\npath = "/mine"\naliases = ["z"]\n'
    config.write_text(before)
    result = ctl("import", "llama-swap", swap, "--yes")
    assert result.code == 1
    assert "a is left out: there is a model of that name" in result.out
    assert config.read_text() == before
    assert ctl("import", "llama-swap", swap, "--rename", "--yes").code == 0
    assert set(tomllib.loads(config.read_text())["models"]) == {"a", "a-2"}
    config.write_text(before)
    result = ctl("import", "llama-swap", swap, "--replace", "--yes")
    assert "a is replaced" in result.out
    assert tomllib.loads(config.read_text())["models"]["a"]["path"] == "/w/a.gguf"
    assert ctl("import", "llama-swap", swap, "--replace", "--rename").code == 2


def test_print_and_output(ctl: Ctl, home: Path, swap: str) -> None:
    printed = ctl("import", "llama-swap", swap, "--print")
    assert tomllib.loads(printed.out)["models"]["a"]["path"] == "/w/a.gguf"
    target = home / "new.toml"
    assert ctl("import", "llama-swap", swap, "--output", str(target)).code == 0
    assert target.read_text() == printed.out
    assert target.stat().st_mode & 0o777 == 0o600
    assert ctl("import", "llama-swap", swap, "--output", str(target)).code == 1
    assert not (home / "config.toml").exists()


def test_an_inline_table_takes_no_more(ctl: Ctl, home: Path, swap: str) -> None:
    config = home / "config.toml"
    config.write_text('models = { b = { path = "/b" } }\n')
    result = ctl("import", "llama-swap", swap, "--yes")
    assert result.code == 1
    assert "cannot be changed without harm" in result.err
    assert "a" not in tomllib.loads(config.read_text())["models"]


def test_secrets_are_kept_and_not_shown(ctl: Ctl, home: Path, swap: str) -> None:
    line = "HF_TOKEN=hf_abcdefghijklmnop"
    Path(swap).write_text(f"models: {{a: {{cmd: 'x ${{PORT}}', env: ['{line}']}}}}")
    result = ctl("import", "llama-swap", swap, "--yes")
    assert "hf_abc" not in result.out + result.err
    assert "hf_abcdefghijklmnop" in (home / "config.toml").read_text()


def test_an_engine_with_a_table_keeps_it(ctl: Ctl, home: Path, swap: str) -> None:
    Path(swap).write_text("models: {a: {cmd: /x/llama-server -m /w/a.gguf}}")
    (home / "config.toml").write_text('[engines.llama-server]\nargs = ["-v"]\n')
    result = ctl("import", "llama-swap", swap, "--yes")
    assert result.code == 0
    assert "engines.llama-server.path = /x/llama-server: there is a table of it." in result.out


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\xff\xfe", "line 1 is not UTF-8"),
        (b"#" * ((1 << 20) + 1), "more than 1 MiB"),
        (b"models:\n  a: 3\n", "swap.yaml:2"),
    ],
)
def test_wrong_files(ctl: Ctl, swap: str, data: bytes, word: str) -> None:
    Path(swap).write_bytes(data)
    result = ctl("import", "llama-swap", swap)
    assert result.code == 1
    assert word in result.err
    assert "Traceback" not in result.err


def test_no_file(ctl: Ctl, home: Path) -> None:
    for kind in ("llama-swap", "llama-cpp", "lm-studio"):
        result = ctl("import", kind, str(home / "none"))
        assert result.code == 1
        assert "There is no" in result.err


def test_a_preset_file(ctl: Ctl, home: Path) -> None:
    assert ctl("import", "llama-cpp", str(EXAMPLES / "models.ini"), "--yes").code == 0
    assert "coder" in tomllib.loads((home / "config.toml").read_text())["models"]


def ollama_model(home: Path) -> None:
    folder = home / ".ollama" / "models"
    blobs, digest = folder / "blobs", "sha256-" + "a" * 64
    blobs.mkdir(parents=True)
    (blobs / digest).write_bytes(b"GGUF")
    (blobs / ("sha256-" + "b" * 64)).write_text('{"temperature": 0.5, "stop": ["x"]}')
    manifest = folder / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "1b"
    manifest.parent.mkdir(parents=True)
    kind = "application/vnd.ollama.image."
    manifest.write_text(
        json.dumps(
            {
                "layers": [
                    {"mediaType": f"{kind}model", "digest": "sha256:" + "a" * 64},
                    {"mediaType": f"{kind}params", "digest": "sha256:" + "b" * 64},
                ]
            }
        )
    )


def test_a_model_of_ollama(ctl: Ctl, home: Path) -> None:
    ollama_model(home)
    assert ctl("import", "ollama", "tiny:1b", "--yes").code == 0
    entry = tomllib.loads((home / "config.toml").read_text())["models"]["tiny:1b"]
    assert entry["path"].endswith("blobs/sha256-" + "a" * 64)
    assert entry["params"]["default"] == {"temperature": 0.5, "stop": ["x"]}
    (home / "Modelfile").write_text("FROM tiny:1b\nPARAMETER temperature 1")
    assert ctl("import", "ollama", str(home / "Modelfile"), "warm", "--yes").code == 0
    assert tomllib.loads((home / "config.toml").read_text())["models"]["warm"]["params"] == {
        "default": {"stop": ["x"], "temperature": 1.0}
    }


def test_a_model_of_ollama_that_is_not_whole(ctl: Ctl, home: Path) -> None:
    ollama_model(home)
    for name in ("a", "b"):
        blob = home / ".ollama" / "models" / "blobs" / ("sha256-" + name * 64)
        blob.rename(blob.with_name("away"))
        refused = ctl("import", "ollama", "tiny:1b", "--yes")
        assert (refused.code, "`ollama pull tiny:1b` brings it again" in refused.err) == (1, True)
        blob.with_name("away").rename(blob)
    (manifest,) = (home / ".ollama" / "models" / "manifests").rglob("1b")
    manifest.write_text("[")
    assert "is no manifest" in ctl("import", "ollama", "tiny:1b", "--yes").err


@pytest.mark.parametrize("name", ["nothing", "../../x", "a/b/c/d", "tiny:../x", ""])
def test_a_model_that_ollama_has_not(ctl: Ctl, home: Path, name: str) -> None:
    result = ctl("import", "ollama", name)
    assert result.code == 1
    assert "Traceback" not in result.err


def test_the_models_of_lm_studio(ctl: Ctl, home: Path) -> None:
    models = home / ".lmstudio" / "models" / "someone"
    settings = home / ".lmstudio" / ".internal" / "user-concrete-model-default-config" / "someone"
    for folder in (models / "Tiny-GGUF", models / "Mlx-4bit", settings / "Tiny-GGUF"):
        folder.mkdir(parents=True)
    for name in (
        "Tiny-Q4_K_M.gguf",
        "Tiny-Q8_0.gguf",
        "mmproj-Tiny.gguf",
        "big-00002-of-00002.gguf",
    ):
        (models / "Tiny-GGUF" / name).touch()
    for name in ("config.json", "model.safetensors"):
        (models / "Mlx-4bit" / name).touch()
    text = (EXAMPLES / "lm-studio.json").read_text()
    file = settings / "Tiny-GGUF" / "Tiny-Q4_K_M.gguf.json"
    file.write_text(text)
    (settings / "Mlx-4bit.json").write_text(text)
    os.environ.pop("OLLAMA_MODELS", None)
    assert ctl("import", "lm-studio", "--yes").code == 0
    entries = tomllib.loads((home / "config.toml").read_text())["models"]
    assert set(entries) == {"tiny", "tiny-q8_0", "mlx-4bit"}
    assert entries["tiny"]["ctx"] == 16384
    assert entries["tiny"]["mmproj"].endswith("mmproj-Tiny.gguf")
    assert "args" not in entries["mlx-4bit"]
    alone = ctl("import", "lm-studio", str(file), "--print")
    assert list(tomllib.loads(alone.out)["models"]) == ["tiny"]
    assert ctl("import", "lm-studio", str(home / ".lmstudio" / "models"), "--print").code == 0
    other = home / "other.json"
    other.write_text("{}")
    assert ctl("import", "lm-studio", str(other)).code == 1


def test_models_that_lm_studio_keeps_elsewhere(ctl: Ctl, home: Path) -> None:
    folder = home / "big" / "someone" / "Far-GGUF"
    folder.mkdir(parents=True)
    for name in ("Far-Q4_K_M.gguf", "Half-Q4_K_M.gguf.part"):
        (folder / name).touch()
    (home / ".lmstudio").mkdir()
    settings = {"downloadsFolder": str(home / "big")}
    (home / ".lmstudio" / "settings.json").write_text(json.dumps(settings))
    result = ctl("import", "lm-studio", "--print")
    (entry,) = tomllib.loads(result.out)["models"].values()
    assert entry["path"] == str(folder / "Far-Q4_K_M.gguf")
    assert "still being copied or downloaded" in result.err


def test_help_has_examples(ctl: Ctl) -> None:
    for words in ((), ("llama-swap",), ("llama-cpp",), ("ollama",), ("lm-studio",)):
        result = ctl("import", *words, "--help")
        assert result.code == 0
        assert "examples:" in result.out
