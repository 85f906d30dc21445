from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from daemon.config.describe import display, schema, show, show_bytes, show_seconds
from daemon.config.load import load_text, load_with_sources
from daemon.config.tree import Node
from daemon.config.types import Share, parse_bytes, parse_seconds

EXAMPLE: dict[str, Any] = {
    "server": {"port": 9000, "also": [{"port": 11434, "as": "ollama"}]},
    "memory": {"budget": {"gpu0": "22GiB"}, "degrade": "aggressive"},
    "defaults": {"keep_alive": -1},
    "models": {"a": {"path": "/x", "ctx": "64k", "params": {"default": {"top_p": 0.9}}}},
    "engines": {"llama-server": {"path": "/x"}, "command": {"c": {"argv": ["x", "{port}"]}}},
    "timing": {"breaker": "5 in 600 s"},
    "schedule": [{"cron": "* * * * *", "do": "load", "model": "a"}],
}


def properties(node: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    found = []
    if isinstance(node, dict):
        for name, inner in (node.get("properties") or {}).items():
            found.append((f"{path}/{name}", inner))
        for key, inner in node.items():
            found += properties(inner, f"{path}/{key}")
    elif isinstance(node, list):
        for item in node:
            found += properties(item, path)
    return found


def test_every_key_of_the_schema_is_described() -> None:
    tables = schema()["$defs"]
    every = properties(schema())
    assert len(every) > 150
    for path, inner in every:
        # pydantic leaves out a description that is the same as that of the table it refers to
        table = tables[inner["$ref"].rsplit("/", 1)[1]] if "$ref" in inner else {}
        assert inner.get("description") or table.get("description"), path


def test_the_schema_is_one_and_accepts_a_file_that_we_accept() -> None:
    made = json.loads(json.dumps(schema()))
    jsonschema.Draft202012Validator.check_schema(made)
    jsonschema.validate(EXAMPLE, made)
    for wrong in ({"sever": {}}, {"server": {"port": 0}}, {"models": {"a": {"ctxx": 1}}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, made)


def test_each_value_says_where_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[server]\nport = 1\n\n[models.a]\npath = '/x'\nkeep_alive = '90s'\n")
    loaded = load_with_sources(
        path, environ={"MODELPORT_MEMORY__BUDGET": "75%"}, flags={"server.host": "::1"}
    )
    rows = {row.key: row for row in show(loaded.settings, loaded.sources)}
    assert (rows["server.port"].value, rows["server.port"].source) == ("1", f"{path}:2")
    assert rows["server.host"].source == "flag server.host"
    assert rows["memory.budget"].value == "75%"
    assert rows["memory.budget"].source == "env MODELPORT_MEMORY__BUDGET"
    assert rows["server.body_limit"].value == "64MiB"
    assert rows["server.body_limit"].is_default
    assert rows["models.a.keep_alive"].value == "90s"
    assert rows["timing.breaker.window"].value == "10m"
    assert rows["server.default_model"].value == ""
    written = [row.key for row in show(loaded.settings, loaded.sources, everything=False)]
    assert written == [
        "server.host",
        "server.port",
        "memory.budget",
        "models.a.path",
        "models.a.keep_alive",
    ]
    assert all(row.description for row in rows.values())


def test_secrets_are_not_shown() -> None:
    text = """
    [models.a]
    path = "/x"
    args = ["--api-key", "hunter2", "--hf-token=hunter2", "--max-tokens", "5", "-v"]
    env = { HF_TOKEN = "hunter2", OTHER = "seen" }
    """
    loaded = load_text(text, name="x")
    rows = {row.key: row.value for row in show(loaded.settings, loaded.sources)}
    assert "hunter2" not in str(rows)
    assert "seen" in rows["models.a.env"]
    assert '"5"' in rows["models.a.args"]


def test_lists_of_tables_and_pools_are_shown_whole() -> None:
    loaded = load_text(
        "server.also = [{port = 1, as = 'ollama'}]\nmemory.budget = {gpu0 = '50%'}", name="x"
    )
    rows = {row.key: row.value for row in show(loaded.settings, loaded.sources)}
    assert rows["server.also"] == '[{"port": 1, "as": "ollama"}]'
    assert rows["memory.budget"] == '{"gpu0": "50%"}'


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 3 * 2**20, 18 * 2**30, 2**40, 10**9])
def test_sizes_read_back_as_shown(size: int) -> None:
    assert parse_bytes(show_bytes(size)) == size


@pytest.mark.parametrize("seconds", [0.0, 0.02, 1.0, 75.0, 90.0, 900.0, 5400.0, 86400.0])
def test_durations_read_back_as_shown(seconds: float) -> None:
    assert parse_seconds(show_seconds(seconds)) == pytest.approx(seconds)


def test_never_and_shares() -> None:
    assert show_seconds(-1.0) == "never"
    assert show_bytes(Share(62.5)) == "62.5%"
    assert display(None) == ""
    assert display(("a", "b"), Node.of(tuple[str, ...])) == '["a", "b"]'
