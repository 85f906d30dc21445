from __future__ import annotations

import tomllib
from typing import Any

import tomlkit
from hypothesis import assume, given, settings

from daemon.config.positions import positions
from daemon.config.tree import KeyPath
from tests.config.toml_values import tables

SAMPLE = '''# first
a = 1
"b.c" = "x" # trailing

[server]
port = 8123
also = [
  { port = 1, model = "x" },  # one
  # between
  { port = 2, as = "openai" },
]
text = """
[not.a.table]
key = 1
"""
raw = \'\'\'it"s \'\'\'

[models.qwen]
params.default.temperature = 0.7
path = 'C:\\temp'

[[schedule]]
cron = "a"

[[schedule]]
cron = "b"
[schedule.deep]
x = true
'''


def test_lines_of_keys_items_and_tables() -> None:
    lines = positions(SAMPLE)
    assert lines[("a",)] == 2
    assert lines[("b.c",)] == 3
    assert lines[("server",)] == 5
    assert lines[("server", "port")] == 6
    assert lines[("server", "also", 0)] == 8
    assert lines[("server", "also", 1, "as")] == 10
    assert lines[("server", "text")] == 12
    assert lines[("server", "raw")] == 16
    assert lines[("models", "qwen")] == 18
    assert lines[("models", "qwen", "params", "default", "temperature")] == 19
    assert lines[("schedule", 0, "cron")] == 23
    assert lines[("schedule", 1, "cron")] == 26
    assert lines[("schedule", 1, "deep", "x")] == 28
    assert not any("not" in path for path in lines)


def test_windows_line_ends_count_once() -> None:
    assert positions("a = 1\r\n\r\nb = 2\r\n") == {("a",): 1, ("b",): 3}


def _all_paths(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    found = {path} if path else set()
    if isinstance(value, dict):
        for key, inner in value.items():
            found |= _all_paths(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found |= _all_paths(inner, (*path, index))
    return found


@settings(max_examples=50)
@given(tables)
def test_every_key_of_any_file_is_found(table: dict[str, Any]) -> None:
    try:
        text = tomlkit.dumps(table)
        read = tomllib.loads(text)
    except (ValueError, TypeError):  # tomlkit writes some odd keys so that nobody can read them
        assume(False)
        raise
    lines = positions(text)
    assert _all_paths(read) <= lines.keys()
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())
