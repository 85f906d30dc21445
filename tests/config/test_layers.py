from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from daemon.config.layers import (
    Layer,
    Origin,
    Sources,
    env_layer,
    file_layer,
    flag_layer,
    text_layer,
)
from daemon.config.mistakes import ConfigError, Finding

NO_FILE = Layer("file", "")


def env(file: Layer = NO_FILE, **variables: str) -> dict[str, Any]:
    return dict(env_layer(variables, file).values)


def test_variables_become_tables() -> None:
    assert env(
        MODELPORT_SERVER__PORT="9000",
        MODELPORT_SERVER__HOSTS="a,b",
        MODELPORT_TIMING__BREAKER__COUNT="3",
        MODELPORT_MEMORY__BUDGET="75%",
        MODELPORT_MEMORY__DEGRADE="off",
        MODELPORT_MODELS__TINY__ARGS="-ub 512",
        MODELPORT_MODELS__TINY__ENV__Some_Name="x",
    ) == {
        "server": {"port": 9000, "hosts": ["a", "b"]},
        "timing": {"breaker": {"count": 3}},
        "memory": {"budget": "75%", "degrade": "off"},
        "models": {"tiny": {"args": ["-ub", "512"], "env": {"Some_Name": "x"}}},
    }


def test_other_variables_are_left_alone() -> None:
    assert env(MODELPORT_CONFIG="/x", MODELPORT_STATE_DIR="/y", PATH="/z", SERVER__PORT="1") == {}


def test_an_empty_variable_counts_as_unset() -> None:
    assert env(MODELPORT_SERVER__DEFAULT_MODEL="") == {}


def test_names_are_matched_to_those_of_the_file() -> None:
    file = text_layer('[models."Qwen3-Coder:30b"]\npath = "/x"\n', "c.toml")
    values = env(
        file,
        MODELPORT_MODELS__QWEN3_CODER_30B__CTX="64k",
        MODELPORT_ENGINES__LLAMA_SERVER__PATH="/bin/x",
    )
    assert values == {
        "models": {"Qwen3-Coder:30b": {"ctx": "64k"}},
        "engines": {"llama-server": {"path": "/bin/x"}},
    }


def test_two_variables_in_each_others_way_are_a_mistake() -> None:
    layer = env_layer(
        {"MODELPORT_LAN": "x", "MODELPORT_LAN__NAME": "a", "MODELPORT_LAN__NAME__X": "b"}, NO_FILE
    )
    assert layer.values == {"lan": {"name": "a"}}
    assert [finding.path for finding in layer.findings] == [("lan", "name", "x")]


def test_flags() -> None:
    layer = flag_layer({"server.port": 9000, "server.host": None, "defaults.keep_alive": "-1"})
    assert layer.values == {"server": {"port": 9000}, "defaults": {"keep_alive": -1}}
    assert str(layer.origin(("server", "port"))) == "flag server.port"


def test_origins_name_file_line_variable_and_flag() -> None:
    file = text_layer("[server]\nport = 1\nhost = 'x'\n", "c.toml")
    sources = Sources(
        (flag_layer({"server.port": 3}), env_layer({"MODELPORT_SERVER__HOST": "y"}, file), file)
    )
    assert str(sources.origin(("server", "port"))) == "flag server.port"
    assert str(sources.origin(("server", "host"))) == "env MODELPORT_SERVER__HOST"
    assert str(sources.origin(("server", "also"))) == "default"
    assert sources.place(("server", "also")).kind == "flag"
    assert str(Sources((file,)).origin(("server", "port"))) == "c.toml:2"
    assert Sources().place(("server",)) == Origin("default")
    mistake = Sources((file,)).mistake(Finding(("server", "port"), "1", "2"))
    assert (mistake.where, mistake.line, mistake.source) == ("server.port", 2, "c.toml")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = 1\nb = \nc = 3", 2),
        ("a = 1\na = 2\n", 2),
        ("[x]\n[x]\n", 2),
        ("a = 'x", 1),
        ("a = [1,\n", 1),
        ("a = qwen\n", 1),
        ("\n\x00\n", 2),
    ],
)
def test_what_is_no_toml_is_one_mistake_with_its_line(text: str, line: int) -> None:
    with pytest.raises(ConfigError) as caught:
        text_layer(text, "c.toml")
    (mistake,) = caught.value.mistakes
    assert mistake.line == line
    assert mistake.allowed.startswith("TOML (")


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "9" * 10_000])
def test_hostile_files_are_refused_in_words(text: str) -> None:
    with pytest.raises(ConfigError):
        text_layer(text, "c.toml")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "c.toml"
    assert file_layer(missing, missing_ok=True).values == {}
    with pytest.raises(ConfigError, match="no such file"):
        file_layer(missing)
    with pytest.raises(ConfigError, match="directory"):
        file_layer(tmp_path)
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"# ok\nname = '\xe9'\n")
    with pytest.raises(ConfigError) as caught:
        file_layer(latin)
    assert caught.value.mistakes[0].line == 2


def test_a_pipe_in_place_of_the_file_does_not_hang(tmp_path: Path) -> None:
    pipe = tmp_path / "c.toml"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="regular"):
        file_layer(pipe)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    huge = tmp_path / "c.toml"
    with huge.open("wb") as file:
        file.truncate(10 * 2**30)
    with pytest.raises(ConfigError, match="4 MiB"):
        file_layer(huge)


def test_a_byte_order_mark_is_forgiven(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xef\xbb\xbf[server]\nport = 1\n")
    assert file_layer(path).values == {"server": {"port": 1}}
