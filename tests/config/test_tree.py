from __future__ import annotations

import pytest

from daemon.config.settings import Settings
from daemon.config.tree import Node, dotted, leaves, lookup, read_text

ROOT = Node.of(Settings)


def test_paths_are_written_as_toml_would() -> None:
    assert dotted(("models", "qwen", "args", 0)) == "models.qwen.args[0]"
    assert dotted(("models", "a.b", "ctx")) == 'models."a.b".ctx'
    assert dotted(("models", 'a"\n', "ctx")) == r'models."a\"\n".ctx'


def test_walking_down() -> None:
    ctx = ROOT.at(("models", "anything", "ctx"))
    assert ctx is not None
    assert ctx.annotation is int
    assert ctx.field is not None
    assert "slot" in (ctx.field.description or "")
    listener = ROOT.at(("server", "also", 3))
    assert listener is not None
    assert listener.keys() == ("port", "host", "model", "as")
    assert ROOT.at(("models", "x", "nothing")) is None
    assert ROOT.at(("server", "port", "deeper")) is None
    engines = ROOT.at(("engines",))
    assert engines is not None
    assert engines.keys()[0] == "llama-server"


def test_lookup_and_leaves() -> None:
    values = {"a": {"b": [1, {"c": 2}]}, "d": {}}
    assert lookup(values, ("a", "b", 1, "c")) == (True, 2)
    assert lookup(values, ("a", "x")) == (False, None)
    assert lookup(values, ("a", "b", 9)) == (False, None)
    assert lookup(values, ("a", "b", "0")) == (False, None)
    assert set(leaves(values)) == {("a", "b"), ("d",)}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        (("server", "port"), "9000", 9000),
        (("server", "port"), "x", "x"),
        (("server", "default_model"), "7", "7"),
        (("memory", "tier"), "true", "true"),
        (("defaults", "auto_pull"), "true", True),
        (("defaults", "auto_pull"), "TRUE", True),
        (("defaults", "keep_alive"), "15m", "15m"),
        (("defaults", "keep_alive"), "-1", -1),
        (("server", "hosts"), "a, b,", ["a", "b"]),
        (("server", "hosts"), '["a"]', ["a"]),
        (("server", "hosts"), "[a", "[a"),
        (("memory", "budget"), '{gpu0 = "1GiB"}', {"gpu0": "1GiB"}),
        (("memory", "budget"), '{"gpu0": "1GiB"}', {"gpu0": "1GiB"}),
        (("memory", "budget"), "18GiB", "18GiB"),
        (("memory", "budget"), "1\nx = 2", "1\nx = 2"),
        (("server", "nothing"), "5", "5"),
    ],
)
def test_text_is_read_as_what_the_key_takes(key: tuple[str, ...], text: str, value: object) -> None:
    assert read_text(ROOT.at(key), text) == value


def test_arguments_are_read_as_on_a_command_line() -> None:
    node = ROOT.at(("models", "x", "args"))
    assert read_text(node, "-ub 512 --name 'a b'", words=True) == ["-ub", "512", "--name", "a b"]
    assert read_text(node, "--open 'quote", words=True) == "--open 'quote"
