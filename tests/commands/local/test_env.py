"""``ctl env``: shown, written, undone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.commands.conftest import Ctl
from tests.control_api.fake import FakeControl, FakeDaemon, backend_view, model_view


def test_lines_for_a_shell(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    fake.running = [backend_view("gemma", context=16384)]
    result = ctl("env", "claude", "g")
    assert result.code == 0
    script = result.out + '\necho "$ANTHROPIC_MODEL $CLAUDE_CODE_MAX_CONTEXT_TOKENS"'
    done = subprocess.run(
        ["/bin/sh", "-eu", "-c", script], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout == "gemma 16384\n", "the context as it is served"
    assert fake.calls == [], "nothing is loaded"
    assert ctl("env", "claude", "g", "--print").out == result.out


def test_a_key_is_used(ctl: Ctl, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELPORT_API_KEY", "mp-key")
    assert ctl("env", "claude", "g", "--json").json["env"]["ANTHROPIC_AUTH_TOKEN"] == "mp-key"


@pytest.mark.parametrize("sees", [False, True])
def test_a_model_that_sees_is_given_images(
    sees: bool, ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    fake.catalog["gemma"] = model_view("gemma", aliases=["g"], state="ready", sees=sees)
    env = ctl("env", "opencode", "g", "--json").json["env"]
    assert ('"attachment": true' in env["OPENCODE_CONFIG_CONTENT"]) is sees
    files = ctl("env", "pi", "g", "--json").json["files"]
    assert ('"image"' in files["pi/models.json"]) is sees


def test_the_small_model_serves_a_clients_small_calls(
    ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    fake.changes["small_model"] = "little"
    env = ctl("env", "claude", "g", "--json").json["env"]
    assert env["ANTHROPIC_MODEL"] == "gemma"
    assert env["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "little"
    del fake.changes["small_model"]
    assert (
        ctl("env", "claude", "g", "--json").json["env"]["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "gemma"
    )


def test_open_webui(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert "# docker run -d --name open-webui" in ctl("env", "open-webui", "g").out
    assert ctl("env", "open-webui", "g", "--json").json["docker"].startswith("docker run")
    result = ctl("env", "open-webui", "g", "--write")
    assert result.code == 1
    assert "`ctl env open-webui` shows what to set" in result.err


@pytest.fixture
def config(home: Path) -> Path:
    path = home / ".codex" / "config.toml"
    path.parent.mkdir()
    path.write_text('# mine\nmodel = "gpt-5"\n')
    return path


def test_written_and_undone(ctl: Ctl, daemon: FakeDaemon, config: Path, home: Path) -> None:
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    for model in ("gemma", "qwen3-coder", "gemma"):
        result = ctl("env", "codex", model, "--write")
        assert result.code == 0
        assert f"written  {config}" in result.err
        assert f'model = "{model}"' in config.read_text()
    assert config.read_text().startswith("# mine\n")
    assert "set up so already" in ctl("env", "codex", "gemma", "--write").out
    result = ctl("env", "codex", "--undo")
    assert f"as before  {config}" in result.out
    after = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert {p: b for p, b in after.items() if "state" not in p.parts} == {
        p: b for p, b in before.items() if "state" not in p.parts
    }
    assert ctl("env", "codex", "--undo").out == "Nothing was written for Codex.\n"
    assert ctl("env", "codex", "--undo", "--json").json == {"client": "codex", "restored": []}


def test_undo_needs_no_daemon_and_spares_later_edits(
    ctl: Ctl, daemon: FakeDaemon, config: Path
) -> None:
    ctl("env", "codex", "g", "--write", "--json")
    with config.open("a") as file:
        file.write("# later\n")
    daemon.stop()
    os.environ.pop("MODELPORT_CONTROL_SOCKET")
    result = ctl("env", "codex", "--undo")
    assert result.code == 1
    assert "+# later" in result.err
    assert "--undo --yes" in result.err
    assert "# later" in config.read_text()
    assert ctl("env", "codex", "--undo", "--yes").code == 0
    assert config.read_text() == '# mine\nmodel = "gpt-5"\n'


def test_a_file_that_cannot_be_read_is_left_alone(
    ctl: Ctl, daemon: FakeDaemon, config: Path
) -> None:
    config.write_text("model = \n")
    result = ctl("env", "codex", "g", "--write")
    assert result.code == 1
    assert f"{config} cannot be read" in result.err
    assert config.read_text() == "model = \n"
    assert "Traceback" not in result.err


@pytest.mark.parametrize("tokens", ["0", "x", "-5", "99999999"])
def test_bad_tokens_are_a_usage_error(tokens: str, ctl: Ctl) -> None:
    result = ctl("env", "claude", f"--out-tokens={tokens}")
    assert result.code == 2
    assert "256 to 1048576" in result.err


def test_only_one_thing_at_a_time(ctl: Ctl) -> None:
    assert ctl("env", "claude", "--write", "--undo").code == 2
