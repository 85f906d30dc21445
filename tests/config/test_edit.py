from __future__ import annotations

import fcntl
import os
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from daemon.config import edit
from daemon.config.load import load
from daemon.config.mistakes import ConfigError
from daemon.core.problems import ProblemError
from tests.config.toml_values import tables

FILE = """\
# top comment
[server]   # the server
port = 9000  # our port

# about the models
[models.a]  # first
path = "/a.gguf"   # weights
ctx = 4096
# a's last words

[models.b]
path = "/b.gguf"
aliases = [
  "x",  # one
  "y-*",
]

[timing]
settle = 1
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(FILE)
    path.chmod(0o600)
    return path


def comments(text: str) -> list[str]:
    return [line.split("#", 1)[1].strip() for line in text.splitlines() if "#" in line]


def test_a_first_file_is_commented_private_and_valid(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config.toml"
    edit.init(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load(path, environ={}) == load(None, environ={})
    text = path.read_text()
    with pytest.raises(ProblemError, match="exists already"):
        edit.init(path)
    assert path.read_text() == text


def test_what_the_first_file_suggests_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    edit.init(path)
    lines = path.read_text().splitlines()
    code = [line.removeprefix("# ") for line in lines if line.startswith("[") or " = " in line]
    code.insert(code.index('preset = "qwen3-coder"'), "[models.coder]")
    path.write_text("\n".join(code))
    assert load(path, environ={}).models["coder"].ctx == 65536


def test_adding_keeps_comments_and_order(config: Path) -> None:
    entry = {"hf": "a/b:Q4", "ctx": 65536, "aliases": ["z"], "file": None}
    edit.add_model(config, "qwen3:30b", entry)
    text = config.read_text()
    assert text.startswith(FILE.split("[timing]")[0])
    assert comments(text) == comments(FILE)
    assert tomllib.loads(text)["models"]["qwen3:30b"] == {
        "hf": "a/b:Q4",
        "ctx": 65536,
        "aliases": ["z"],
    }
    assert '[models."qwen3:30b"]' in text


def test_adding_to_no_file_makes_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "config.toml"
    edit.add_model(path, "a", {"preset": "qwen3-coder"})
    assert path.read_text() == '[models.a]\npreset = "qwen3-coder"\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_preset_can_be_added_without_anything_else(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    with pytest.raises(ConfigError):
        edit.add_model(path, "a", {})
    assert not path.exists()


def test_setting_values(config: Path) -> None:
    edit.set_value(
        config,
        "a",
        [
            "ctx=64k",
            "keep_alive=15m",
            "pin=true",
            "engine=llama-server",
            "aliases=p,q-*",
            "args=-ub 512 --name 'a b'",
            "params.default.temperature=0.7",
            "env.FOO=5",
        ],
    )
    assert tomllib.loads(config.read_text())["models"]["a"] == {
        "path": "/a.gguf",
        "ctx": "64k",
        "keep_alive": "15m",
        "pin": True,
        "engine": "llama-server",
        "aliases": ["p", "q-*"],
        "args": ["-ub", "512", "--name", "a b"],
        "params": {"default": {"temperature": 0.7}},
        "env": {"FOO": "5"},
    }
    assert comments(config.read_text()) == comments(FILE)


def test_an_empty_value_removes_the_key(config: Path) -> None:
    edit.set_value(config, "a", ["ctx="])
    assert config.read_text() == FILE.replace("ctx = 4096\n", "")
    edit.set_value(config, "a", ["pin="])
    assert config.read_text() == FILE.replace("ctx = 4096\n", "")


def test_removing_a_model_leaves_the_others(config: Path) -> None:
    edit.remove_model(config, "b")
    text = config.read_text()
    assert tomllib.loads(text).keys() == {"server", "models", "timing"}
    assert list(tomllib.loads(text)["models"]) == ["a"]
    assert "# the server" in text
    assert "# first" in text


def test_other_sections_can_be_set(config: Path) -> None:
    values = {"server.port": 8124, "server.host": "127.0.0.1", "memory.budget": "1GiB"}
    edit.set_keys(config, values)
    settings = load(config, environ={})
    assert (settings.server.port, settings.memory.budget) == (8124, 2**30)
    assert "# our port" in config.read_text()
    edit.set_keys(config, {"memory.budget": None})
    assert load(config, environ={}).memory.budget is None


Edit = Callable[[Path], None]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: edit.set_value(p, "a", ["ctxx=1"]), 'Did you mean "ctx"'),
        (lambda p: edit.set_value(p, "a", ["ctx"]), "KEY=VALUE"),
        (lambda p: edit.set_value(p, "a", ["=1"]), "KEY=VALUE"),
        (lambda p: edit.set_value(p, "a", ["ctx=many"]), "models.a.ctx"),
        (lambda p: edit.set_value(p, "a", ["ctx.deep=1"]), "not a table"),
        (lambda p: edit.set_value(p, "a", ["aliases=x"]), "aliases"),
        (lambda p: edit.set_value(p, "a", ["path="]), "no weights"),
        (lambda p: edit.set_value(p, "aa", ["ctx=1"]), 'Did you mean "a"'),
        (lambda p: edit.add_model(p, "a", {"path": "/x"}), "already"),
        (lambda p: edit.add_model(p, "-x", {"path": "/x"}), "cannot be the name"),
        (lambda p: edit.add_model(p, "c", {"path": "/x", "aliases": ["x"]}), "aliases"),
        (lambda p: edit.add_model(p, "c", {"paht": "/x"}), "unknown key"),
        (lambda p: edit.remove_model(p, "zzz"), "no model"),
        (lambda p: edit.set_keys(p, {"server.port": 0}), "server.port"),
    ],
)
def test_a_refused_change_leaves_the_file_as_it_was(config: Path, change: Edit, says: str) -> None:
    with pytest.raises(ProblemError) as caught:
        change(config)
    assert says in caught.value.problem.text
    assert config.read_text() == FILE
    assert list(config.parent.iterdir()) == [config]


def test_a_model_that_something_names_is_not_removed(config: Path) -> None:
    edit.set_keys(config, {"server.default_model": "a"})
    with pytest.raises(ConfigError, match="default_model"):
        edit.remove_model(config, "a")


def test_a_broken_file_is_told_not_overwritten(config: Path) -> None:
    config.write_text("[server\n")
    for change in (
        lambda: edit.add_model(config, "c", {"path": "/x"}),
        lambda: edit.set_value(config, "a", ["ctx=1"]),
    ):
        with pytest.raises(ConfigError):
            change()
    assert config.read_text() == "[server\n"


def test_one_mistake_can_be_mended_by_setting_it(config: Path) -> None:
    config.write_text(FILE.replace("ctx = 4096", "ctx = -4"))
    edit.set_value(config, "a", ["ctx=4096"])
    assert config.read_text() == FILE


def test_the_mode_of_the_file_and_a_link_to_it_are_kept(config: Path, tmp_path: Path) -> None:
    config.chmod(0o640)
    link = tmp_path / "link.toml"
    link.symlink_to(config)
    edit.set_value(link, "a", ["pin=true"])
    assert link.is_symlink()
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    assert load(config, environ={}).models["a"].pin


def test_two_writers_do_not_lose_each_others_change(config: Path) -> None:
    handle = os.open(config.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(ProblemError, match="Try again"):
            edit.set_value(config, "a", ["pin=true"])
    finally:
        os.close(handle)
    edit.set_value(config, "a", ["pin=true"])


def test_an_editor_that_saved_meanwhile_wins(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = edit.load_text

    def save_meanwhile(*args: Any, **kwargs: Any) -> Any:
        config.write_text(FILE + "# saved\n")
        return check(*args, **kwargs)

    monkeypatch.setattr(edit, "load_text", save_meanwhile)
    with pytest.raises(ProblemError, match="changed in the meantime"):
        edit.set_value(config, "a", ["pin=true"])
    assert config.read_text().endswith("# saved\n")


@pytest.mark.parametrize("broken", ["fsync", "replace", "fchmod"])
def test_a_write_that_fails_loses_nothing(
    config: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(ProblemError, match="No space left"):
        edit.set_value(config, "a", ["pin=true"])
    assert config.read_text() == FILE
    assert list(config.parent.iterdir()) == [config]


@pytest.mark.parametrize(
    "text",
    [
        "models = { a = { path = '/x' } }\n",
        "models.a.path = '/x'\nmodels.a.ctx = 1\n",
        "[models]\na = { path = '/x' }\n",
        "[models.a]\npath = '/x'\n[server]\n[models.b]\npath = '/y'\n",
        "[models]\n[models.a]\npath = '/x'\n[models.a.params.default]\ntop_p = 1\n",
        "\r\n[models.a]\r\npath = '/x'\r\n",
        "[models.'a']\npath = '/x' # c\n[models.\"b.c\"]\npath = '/y'\n",
    ],
)
def test_every_way_to_write_models_can_be_edited_or_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode())
    try:
        edit.set_value(path, "a", ["ctx=4096", "params.default.top_k=5"])
        edit.add_model(path, "new", {"path": "/n"})
        edit.remove_model(path, "a")
    except ProblemError:  # what tomlkit would spoil is refused; that it is whole comes next
        assert tomllib.loads(path.read_text())["models"]["a"]["path"] == "/x"
        return
    before, after = tomllib.loads(text)["models"], tomllib.loads(path.read_text())["models"]
    before.pop("a")
    assert after == {**before, "new": {"path": "/n"}}


entries = st.fixed_dictionaries(
    {"path": st.sampled_from(["/x", "/y z", '/q"uote'])},
    optional={
        "ctx": st.integers(1, 10**6),
        "args": st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=5)),
        "env": st.dictionaries(st.sampled_from(["A", "B"]), st.just("v"), max_size=2),
        "params": st.fixed_dictionaries(
            {"default": st.dictionaries(st.sampled_from(["t", "u v"]), st.floats(0, 1), max_size=2)}
        ),
    },
)
names = st.sampled_from(["a", "b.c", "owner/m:30b", "UPPER", "x@y"])
comment = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=10)


@profile(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)
@given(st.dictionaries(names, entries, min_size=1, max_size=4), names, entries, comment)
def test_adding_setting_and_removing_touch_nothing_else(
    tmp_path: Path, models: dict[str, Any], name: str, entry: dict[str, Any], note: str
) -> None:
    models.pop(name, None)
    parts = [f"# {note}\n[server] # {note}\nport = 1 # {note}\n\n"]
    for each, values in models.items():
        parts += [f"# {note}\n", tomlkit.dumps({"models": {each: values}}), "\n"]
    text = "".join(parts)
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode())
    kept = text.count(f"# {note}\n")

    edit.add_model(path, name, entry)
    added = path.read_bytes().decode()
    assert tomllib.loads(added)["models"] == {**models, name: entry}
    assert added.count(f"# {note}\n") >= kept

    edit.set_value(path, name, ["slots=3"])
    assert tomllib.loads(path.read_bytes().decode())["models"][name] == {**entry, "slots": 3}
    edit.set_value(path, name, ["slots="])
    assert tomllib.loads(path.read_bytes().decode()) == tomllib.loads(added)

    edit.remove_model(path, name)
    removed = path.read_bytes().decode()
    assert tomllib.loads(removed).get("models", {}) == models
    assert removed.count(f"# {note}\n") >= kept


@profile(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)
@given(tables, names)
def test_any_file_is_edited_faithfully_or_left_alone(
    tmp_path: Path, table: dict[str, Any], name: str
) -> None:
    path = tmp_path / "config.toml"
    try:
        text = tomlkit.dumps(table)
        before = tomllib.loads(text)
    except (ValueError, TypeError):
        return
    path.write_bytes(text.encode())
    try:
        edit.add_model(path, name, {"path": "/x"})
    except ProblemError:
        assert path.read_bytes() == text.encode()
        return
    after = tomllib.loads(path.read_bytes().decode())
    assert after["models"].pop(name) == {"path": "/x"}
    before.setdefault("models", {})
    assert repr(after) == repr(before) or after == before


def test_several_models_at_once(config: Path) -> None:
    before = comments(config.read_text())
    changes = {"a": {"ctx": 8192, "args": ["-ctk", "q8_0"]}, "new": {"preset": "qwen3-0.6b"}}
    edit.set_models(config, changes)
    text = config.read_text()
    assert comments(text) == before
    models = tomllib.loads(text)["models"]
    assert models["a"] == {"path": "/a.gguf", "ctx": 8192, "args": ["-ctk", "q8_0"]}
    assert models["b"] == tomllib.loads(FILE)["models"]["b"]
    assert models["new"] == {"preset": "qwen3-0.6b"}
    edit.set_models(config, {"a": {"args": None, "file": None}})
    assert tomllib.loads(config.read_text())["models"]["a"] == {"path": "/a.gguf", "ctx": 8192}


def test_several_models_of_which_one_is_wrong_change_nothing(config: Path) -> None:
    for changes in ({"a": {"ctx": 8192}, "b": {"ctx": -1}}, {"a": {"ctx": 1}, "b c": {"ctx": 1}}):
        with pytest.raises((ConfigError, ProblemError)):
            edit.set_models(config, changes)
        assert config.read_text() == FILE


def test_models_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    edit.set_models(path, {"qwen3-0.6b": {"preset": "qwen3-0.6b", "ctx": 8192}})
    assert load(path, environ={}).models["qwen3-0.6b"].ctx == 8192


@pytest.mark.parametrize(
    "before",
    [
        "",
        "[server]\nport = 9  # ours\n",
        '[server]\nalso = [{port = 1, as = "openai"}]  # one\n',
        '[server]\nalso = [\n  # first\n  {port = 1, as = "openai"},  # one\n]\nport = 7\n',
        '[server]\nport = 9\n\n[[server.also]]  # one\nport = 1\nas = "openai"\n\n[memory]\n',
        'server = {port = 9, also = [{port = 1, as = "openai"}]}\n',
    ],
)
def test_a_port_more_and_back(before: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(before)
    edit.add_listener(path, {"port": 11434, "as": "ollama"})
    text = path.read_text()
    had = tomllib.loads(before).get("server", {}).get("also", [])
    assert tomllib.loads(text)["server"]["also"] == [*had, {"port": 11434, "as": "ollama"}]
    assert all(line.partition("#")[2] in text for line in before.splitlines())
    load(path, environ={})
    edit.remove_listener(path, 11434)
    after = tomllib.loads(path.read_text())
    assert after.get("server", {}).get("also", []) == had
    assert all(line.partition("#")[2] in path.read_text() for line in before.splitlines())
    edit.remove_listener(path, 11434)
    assert tomllib.loads(path.read_text()) == after


def test_tables_are_put_behind_the_file(config: Path) -> None:
    before = config.read_text()
    more = '# why\n[models.more]  # said\npath = "/more.gguf"\n'
    edit.append_models(config, more)
    after = config.read_text()
    assert after.startswith(before)
    assert after.endswith(f"\n\n{more}")
    assert "more" in load(config, environ={}).models
    edit.append_models(config, '[models.more]\npath = "/other.gguf"\n', ["more"])
    assert load(config, environ={}).models["more"].path == "/other.gguf"
    assert set(comments(before)) <= set(comments(config.read_text()))


@pytest.mark.parametrize(
    ("before", "more"),
    [
        ('models = {a = {path = "/a"}}\n', '[models.b]\npath = "/b"\n'),
        ('[models.b]\npath = "/a"\n', '[models.b]\npath = "/b"\n'),
        ('[models.a]\npath = "/a"\n', '[models.b]\nctx = "much"\n'),
        ('[models.a]\npath = "/a"\naliases = ["b"]\n', '[models.b]\npath = "/b"\n'),
    ],
)
def test_tables_that_do_not_go_there(before: str, more: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(before)
    with pytest.raises(ProblemError):
        edit.append_models(path, more)
    assert path.read_text() == before
