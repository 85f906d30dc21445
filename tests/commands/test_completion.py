"""Completion: the words, and the bash script in a real bash."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from control_api.commands.local.complete import candidates, paths, split
from control_api.commands.local.settings import find_paths
from control_api.commands.main import VERBS
from daemon.engines.install.shelf import Item, Shelf, switch
from tests.commands.conftest import ROOT, Ctl, process_env
from tests.control_api.fake import FakeDaemon


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str, ctl: Ctl) -> None:
    result = ctl("completion", shell)
    assert f"__complete {shell}" in result.out
    assert ctl("completion", shell, "--json").json == {"shell": shell, "script": result.out}
    if program := shutil.which(shell):
        done = subprocess.run(
            [program, "-n"], input=result.out, text=True, capture_output=True, check=False
        )
        assert done.stderr == ""
    assert ctl("completion", "tcsh").code == 2


def test_verbs_flags_and_choices(home: Path) -> None:
    assert set(VERBS) <= set(candidates([]))
    assert "--ctx" in candidates(["load"])
    assert "--ctx" not in candidates(["load", "--ctx", "32k"])
    assert candidates(["completion"])[:3] == ["bash", "fish", "zsh"]
    assert "edit" in candidates(["config"])
    assert "--all" in candidates(["config", "show"])
    assert candidates(["nonsense"]) == []
    assert "load" in candidates(["help"])


def test_model_names_from_the_daemon(ctl: Ctl, daemon: FakeDaemon) -> None:
    names = ["g", "gemma", "org/repo:Q4", "qwen3-coder"]
    assert candidates(["load"])[:4] == names
    assert candidates(["load", "--ctx", "8k"])[:4] == names
    assert candidates(["logs"])[:5] == ["daemon", *names]
    assert "gemma" not in candidates(["load", "gemma"])
    assert ctl("__complete", "zsh", "load", "qw").out == "qwen3-coder\n"
    assert ctl("__complete", "fish", "unload", "--").out.split() == [
        "--help",
        "--all",
        "--force",
        "--json",
    ]


def test_model_names_from_the_file(ctl: Ctl, home: Path) -> None:
    (home / "config.toml").write_text('[models.one]\npreset = "x"\n[models.two]\n', "utf-8")
    assert candidates(["load"])[:2] == ["one", "two"]
    (home / "config.toml").write_text("[models", "utf-8")
    assert candidates(["load"])[0].startswith("-")


def test_bash_gets_what_comes_after_the_colon(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert ctl("__complete", "bash", "ctl load org").out == "org/repo:Q4\n"
    assert ctl("__complete", "bash", "ctl load org/repo:").out == "Q4\n"
    assert "load\n" in ctl("__complete", "bash", "ctl ").out
    assert ctl("__complete", "bash", "ctl lo").out == "load\nlogs\n"


def test_files_where_a_file_is_wanted(ctl: Ctl, home: Path) -> None:
    (home / "models").mkdir()
    (home / "models" / "a.gguf").touch()
    assert paths(f"{home}/models/") == [f"{home}/models/a.gguf"]
    assert ctl("__complete", "zsh", "add", f"{home}/mod").out == f"{home}/models/\n"
    words = ("import", "llama-cpp", f"{home}/mod")
    assert ctl("__complete", "zsh", *words).out == f"{home}/models/\n"
    assert ctl("__complete", "zsh", "import", "llama-").out == "llama-swap\nllama-cpp\n"
    assert ctl("__complete", "zsh", "schedule", "l").out == "ls\n"
    assert ctl("__complete", "zsh", "serve", "--config", f"{home}/models/a").out.endswith(".gguf\n")
    (home / "models" / "new.whl").touch()
    assert ctl("__complete", "zsh", "upgrade", "--from", f"{home}/models/n").out.endswith(".whl\n")
    assert ctl("__complete", "zsh", "service", "install", "--print", "").out == "service\nsocket\n"
    assert paths("/nowhere/at/all") == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ctl", ["ctl"]),
        ("ctl ", ["ctl", ""]),
        ("ctl load 'a b", ["ctl", "load", "a", "b"]),
        ("ctl load a\\ b", ["ctl", "load", "a b"]),
        ("", [""]),
    ],
)
def test_an_unfinished_line(line: str, words: list[str]) -> None:
    assert split(line) == words


def test_it_never_fails(ctl: Ctl) -> None:
    for words in ([], ["bash"], ["bash", "'"], ["zsh", "config", "x", "y"], ["zsh", "\x00"]):
        result = ctl("__complete", *words)
        assert (result.code, result.err) == (0, "")


def test_engines_and_their_versions(ctl: Ctl, home: Path) -> None:
    shelf = Shelf(find_paths(None).engines_dir)
    for version in ("b1", "b2"):
        place = shelf.place("llama-server", version)
        shelf.finish(Item("llama-server", version, place, place / "llama-server", "archive"))
        shelf.change("llama-server", lambda use, new=version: switch(use, new, 0))  # type: ignore[misc]
    assert "vllm-mlx" in candidates(["engine", "install"])
    assert "llama-server@b1" in candidates(["engine", "install"])
    assert "llama-server@found" not in candidates(["engine", "install"])
    used = candidates(["engine", "use"])
    assert {"llama-server@b1", "llama-server@b2", "llama-server@found"} <= set(used)
    assert "vllm@found" not in used
    assert candidates(["engine", "rollback"])[0] == "llama-server"
    assert "vllm" not in candidates(["engine", "rollback"])
    assert "mlx-lm" in candidates(["add", "x", "--engine"])
    assert ctl("__complete", "bash", "ctl engine use llama-server@b").out == "b2\nb1\n"
    assert ctl("__complete", "zsh", "engine", "use", "llama-server@b2").out == "llama-server@b2\n"
    (home / "build").mkdir()
    wanted = f"{home}/bui"
    assert ctl("__complete", "zsh", "engine", "use", "vllm", wanted).out == f"{home}/build/\n"


# As ctl.py, for a machine that may be busy with other tests.
PATIENT = """\
import sys
import ctl
from control_api.commands.local import complete
complete.DAEMON_SECONDS = 30.0
sys.exit(ctl.main())
"""


def test_in_a_real_bash(daemon: FakeDaemon, home: Path) -> None:
    bin_dir = home / "bin"
    bin_dir.mkdir()
    program = bin_dir / "ctl"
    program.write_text(f"#!{sys.executable} -P\n{PATIENT}", "utf-8")
    program.chmod(0o755)
    script = f"""
eval "$(ctl completion bash)"
try() {{
  COMP_LINE="$1"; COMP_POINT=${{#COMP_LINE}}
  COMP_WORDS=(ctl); COMP_CWORD=0
  _modelport; printf '%s|' "${{COMPREPLY[@]}}"; echo
}}
try "ctl load qw"
try "ctl load org/repo:"
try "ctl un"
cd {ROOT}
"""
    env = process_env()
    env["PATH"] = f"{bin_dir}:{env['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=env, timeout=50, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["qwen3-coder|", "Q4|", "unload|unpin|uninstall|"]
