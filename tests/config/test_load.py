from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from daemon.config.load import load, load_text, load_with_sources
from daemon.config.mistakes import ConfigError
from daemon.config.settings import Settings
from tests.config.toml_values import tables

TEN = """\
# ten mistakes, one of each kind
[server]
prot = 9000
port = 70000

[memory]
budget = "18 gigs"

[models.qwen]
path = "/models/qwen.gguf"
ctxx = 65536
slots = true
aliases = ["claude-*", "coder"]

[models.gemma]
hf = "unsloth/gemma:Q4"
path = "/models/gemma.gguf"
engine = "lama-server"
aliases = ["coder"]

[models.mine]
preset = "qwen3-codr"

[[schedule]]
cron = "30 8 * * someday"
do = "load"
model = "qwen"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def mistakes(text: str) -> list[tuple[str, int | None]]:
    with pytest.raises(ConfigError) as caught:
        load_text(text, name="config.toml")
    return [(mistake.where, mistake.line) for mistake in caught.value.mistakes]


def test_ten_mistakes_are_ten_entries_with_their_lines(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, TEN), environ={})
    assert [(m.where, m.line) for m in caught.value.mistakes] == [
        ("server.prot", 3),
        ("server.port", 4),
        ("memory.budget", 7),
        ("models.qwen.ctxx", 11),
        ("models.qwen.slots", 12),
        ("models.gemma.hf", 16),
        ("models.gemma.engine", 18),
        ("models.gemma.aliases[0]", 19),
        ("models.mine.preset", 22),
        ("schedule[0].cron", 25),
    ]
    hints = {m.where: m.hint for m in caught.value.mistakes}
    assert hints["server.prot"] == 'Did you mean "port"?'
    assert hints["models.qwen.ctxx"] == 'Did you mean "ctx"?'
    assert hints["models.gemma.engine"] == 'Did you mean "llama-server"?'
    assert hints["models.mine.preset"] == 'Did you mean "qwen3-coder"?'
    assert hints["models.gemma.aliases[0]"] == 'Model "qwen" has it already.'
    assert len(caught.value.report().splitlines()) > 20


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    path = write(tmp_path, "[server]\nport = 1\nhost = '10.0.0.1'\nqueue_timeout = '1m'\n")
    environ = {"MODELPORT_SERVER__PORT": "2", "MODELPORT_SERVER__HOST": "10.0.0.2"}
    settings = load(path, environ=environ, flags={"server.port": 3})
    assert settings.server.port == 3
    assert settings.server.host == "10.0.0.2"
    assert settings.server.queue_timeout == 60.0


def test_no_file_is_the_defaults(tmp_path: Path) -> None:
    assert load(None, environ={}) == Settings()
    assert load(tmp_path / "none.toml", environ={}, missing_ok=True) == Settings()
    with pytest.raises(ConfigError):
        load(tmp_path / "none.toml", environ={})


def test_a_wrong_variable_is_told_by_its_name() -> None:
    environ = {
        "MODELPORT_SERVER__PROT": "1",
        "MODELPORT_SEVER__PORT": "1",
        "MODELPORT_LAN__MDNS": "x",
    }
    with pytest.raises(ConfigError) as caught:
        load(None, environ=environ)
    assert {(m.where, m.source) for m in caught.value.mistakes} == {
        ("server.prot", "MODELPORT_SERVER__PROT"),
        ("sever", "MODELPORT_SEVER__PORT"),
        ("lan.mdns", "MODELPORT_LAN__MDNS"),
    }


def test_relative_paths_are_those_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    text = """
    models.a.path = "weights/a.gguf"
    models.b.path = "~/b.gguf"
    models.c.path = "/c.gguf"
    models.c.mmproj = "mmproj.gguf"
    models.c.draft = "~/draft.gguf"
    engines.llama-server.path = "llama-server"
    engines.mlx-lm.path = "./venv/bin/python"
    tls.cert = "c.pem"
    tls.key = "k.pem"
    engines.command.x = { argv = ["x", "{port}"], cwd = "work" }
    """
    settings = load(write(tmp_path, text), environ={})
    assert settings.models["a"].path == str(tmp_path / "weights/a.gguf")
    assert settings.models["b"].path == "/home/me/b.gguf"
    assert settings.models["c"].path == "/c.gguf"
    assert settings.models["c"].mmproj == "mmproj.gguf"
    assert settings.models["c"].draft == "/home/me/draft.gguf"
    assert settings.engines.entry("llama-server").path == "llama-server"
    assert settings.engines.entry("mlx-lm").path == str(tmp_path / "venv/bin/python")
    assert settings.engines.command["x"].cwd == str(tmp_path / "work")
    assert settings.tls.cert == str(tmp_path / "c.pem")


def test_what_follows_from_a_mistake_is_not_told_as_well() -> None:
    assert mistakes("[models.a]\npaht = '/x'\n") == [("models.a.paht", 2)]
    assert mistakes("[models.a]\npath = 3\n") == [("models.a.path", 2)]
    command = "[engines.command.x]\nargv = ['x']\n[models.a]\nengine = 'command.x'\n"
    assert mistakes(command) == [("engines.command.x", 1)]
    assert mistakes("models = 3\nserver.default_model = 'x'\n") == [("models", 1)]
    assert mistakes("[[schedule]]\ncron='x'\ndo='load'\nmodel='smollm2-135m'\n") == [
        ("schedule[0].cron", 2)
    ]
    assert mistakes("[[server.also]]\nport = 1\nas = 'x'\n") == [("server.also[0].as", 3)]


def test_items_keep_their_numbers_when_others_are_wrong() -> None:
    good = "[[schedule]]\ncron = '* * * * *'\ndo = 'load'\nmodel = 'smollm2-135m'\n"
    unknown = good.replace("smollm2-135m", "nobody")
    wrong = "[[schedule]]\ncron = '* * * * *'\n"
    text = wrong + good + wrong + unknown
    assert mistakes(text) == [
        ("schedule[0].do", 1),
        ("schedule[0].model", 1),
        ("schedule[2].do", 7),
        ("schedule[2].model", 7),
        ("schedule[3].model", 12),
    ]


def test_sources_and_warnings(tmp_path: Path) -> None:
    path = write(tmp_path, "[server]\nport = 1\n[models.a]\npath = '/nowhere/a.gguf'\n")
    loaded = load_with_sources(path, environ={"MODELPORT_SERVER__HOST": "::1"})
    assert str(loaded.sources.origin(("server", "port"))) == f"{path}:2"
    assert str(loaded.sources.origin(("server", "host"))) == "env MODELPORT_SERVER__HOST"
    (warning,) = loaded.warnings()
    assert (warning.where, warning.line) == ("models.a.path", 4)


@profile(max_examples=80)
@given(tables)
def test_any_file_is_read_or_refused(table: dict[str, Any]) -> None:
    try:
        text = tomlkit.dumps(table)
    except (ValueError, TypeError):  # what tomlkit cannot write is no file
        return
    read_or_refused(text)


@profile(max_examples=150)
@given(st.text(alphabet="[]{}=.,\"'\\ab1-#\n \u00e9", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    read_or_refused(text)


def read_or_refused(text: str) -> None:
    try:
        loaded = load_text(text, name="x")
    except ConfigError as error:
        check_told(error)
    else:
        assert isinstance(loaded.settings, Settings)


def check_told(error: ConfigError) -> None:
    assert error.mistakes
    for mistake in error.mistakes:
        assert mistake.where
        assert mistake.found
        assert mistake.allowed
        assert mistake.line is None or mistake.line >= 1
        assert mistake.found.isprintable()


@profile(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.lists(
            st.sampled_from(["SERVER", "PORT", "MODELS", "A", "", "ENV", "ALSO", "0", "ENGINES"]),
            max_size=4,
        ).map(lambda parts: "MODELPORT_" + "__".join(parts)),
        st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
        | st.sampled_from(["1", "[1]", "{a=1}", "x", "\udc80"]),
        max_size=5,
    )
)
def test_any_environment_is_read_or_refused(environ: dict[str, str]) -> None:
    try:
        assert isinstance(load(None, environ=environ), Settings)
    except ConfigError as error:
        check_told(error)


def test_folders_to_look_in_are_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[discovery]\nfolders = ["weights", "/abs", "~/mine"]\n')
    folders = load(file, environ={}).discovery.folders
    home = os.path.expanduser("~")  # noqa: PTH111
    assert folders == (str(tmp_path / "weights"), "/abs", f"{home}/mine")
    file.write_text("[discovery]\nfolders = [5]\n")
    with pytest.raises(ConfigError) as caught:
        load(file, environ={})
    assert "discovery.folders" in caught.value.report()
