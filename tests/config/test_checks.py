from __future__ import annotations

import ast
from pathlib import Path

import pytest

from daemon.config.checks import NOT_YET, contradictions, warnings
from daemon.config.load import load_text
from daemon.config.presets import load_presets
from daemon.config.settings import Settings
from daemon.config.tree import dotted
from tests.conftest import ROOT


def told(text: str) -> dict[str, str]:
    """The contradictions of settings that are right one by one, and their hints."""
    import tomllib

    settings = Settings.from_layers(tomllib.loads(text))
    return {dotted(f.path): f.hint for f, _ in contradictions(settings, load_presets())}


@pytest.mark.parametrize(
    ("text", "where", "hint"),
    [
        ("models.a.path='/x'\nmodels.a.hf='a/b'", "models.a.hf", "Remove one."),
        ("[models.a]", "models.a", "Give path"),
        ("[models.qwen3-coder]\nctx=4096", "models.qwen3-coder", "builds on the preset"),
        ("models.a.path='/x'\nmodels.a.file='y'", "models.a.file", "in the path itself"),
        ("models.a.hf='a/b:Q4'\nmodels.a.file='y'", "models.a.file", ""),
        ("models.a.preset='gpt-oss'", "models.a.preset", "gpt-oss-20b"),
        ("models.a.path='/x'\nmodels.a.engine='vlm'", "models.a.engine", '"vllm"'),
        ("models.a.engine='command.x'", "models.a.engine", "[engines.command.NAME]"),
        ("models.a.engine='command'", "models.a.engine", "[engines.command.NAME]"),
        ("models.a={path='/x', ctx=4096, min_ctx=8192}", "models.a.min_ctx", ""),
        ("models.a={preset='qwen3-vl', min_ctx=65536}", "models.a.min_ctx", ""),
        ("models.a.path='/x'\nmodels.A.path='/y'", "models.A", "case alone"),
        (
            "models.a.path='/x'\nmodels.b={path='/y', aliases=['A']}",
            "models.b.aliases[0]",
            "name of a model",
        ),
        ("models.a={path='/x', aliases=['b','B']}", "models.a.aliases[1]", "twice in this list"),
        (
            "models.a={path='/x', aliases=['c-*']}\nmodels.b={path='/x', aliases=['c-*']}",
            "models.b.aliases[0]",
            'Model "a"',
        ),
        ("models.daemon.path='/x'", "models.daemon", "`ctl logs daemon` is the daemon's own log."),
        ("models.Daemon.path='/x'", "models.Daemon", "`ctl logs daemon`"),
        (
            "models.a={path='/x', aliases=['b', 'DAEMON']}",
            "models.a.aliases[1]",
            "`ctl logs daemon`",
        ),
        ("server.default_model='qwen3-codr'", "server.default_model", "qwen3-coder"),
        ("server.small_model='x1'", "server.small_model", ""),
        ("power.on_battery.model='x1'", "power.on_battery.model", ""),
        ("server.also=[{port=9, model='x1'}]", "server.also[0].model", ""),
        (
            "schedule=[{cron='* * * * *', do='load', model='x1'}]",
            "schedule[0].model",
            "",
        ),
        ("server.also=[{port=8123, as='ollama'}]", "server.also[0].port", "server.port has it."),
        (
            "server.also=[{port=1, as='ollama'},{port=1, as='openai'}]",
            "server.also[1].port",
            "server.also[0] has it.",
        ),
        ("tls.cert='/c'", "tls.key", ""),
        ("timing={linger_min=9, linger_max=8}", "timing.linger_min", ""),
        ("engines.command.vllm.argv=['x','{port}']", "engines.command.vllm", ""),
    ],
)
def test_contradictions(text: str, where: str, hint: str) -> None:
    found = told(text)
    assert list(found) == [where]
    assert hint in found[where]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "models.a.path='/x'\nserver.default_model='A'",
        "models.a={path='/x', aliases=['b', 'claude-*']}\nserver.default_model='b'",
        "server.default_model='qwen3-coder:30b'",
        "models.a={preset='qwen3-coder', path='/own.gguf'}",
        "models.a={path='/x', ctx=4096}",
        "models.daemons={path='/x', aliases=['d*', 'my-daemon']}",
        "models.a.engine='ollama'",
        "models.a.engine='x'\nengines.command.x.argv=['x', '{port}']",
        "models.a.engine='command.x'\nengines.command.x.argv=['x', '{port}']",
        "server.also=[{port=8123, host='10.0.0.1', as='ollama'}]",
        "tls={cert='/c', key='/k'}",
    ],
)
def test_what_is_none(text: str) -> None:
    assert told(text) == {}


def test_files_that_are_not_there_are_warnings_not_mistakes(tmp_path: Path) -> None:
    here = tmp_path / "a.gguf"
    here.touch()
    text = f"""
    models.a.path = "{here}"
    models.b.path = "/nowhere/b.gguf"
    models.b.template = "/nowhere/t.jinja"
    models.c.hf = "a/b"
    models.c.mmproj = "mmproj.gguf"
    engines.llama-server.path = "llama-server"
    engines.mlx-lm.path = "/nowhere/python"
    """
    loaded = load_text(text, name="x")
    assert {dotted(f.path) for f in warnings(loaded.settings)} == {
        "models.b.path",
        "models.b.template",
        "engines.mlx-lm.path",
    }


def acted_upon(table: str) -> set[str]:
    """The keys of ``table`` that the daemon's code takes a value from (``….timing.settle``), or
    that of the commands that need no daemon."""
    found: set[str] = set()
    files = [*(ROOT / "daemon").rglob("*.py"), *(ROOT / "control_api" / "commands").rglob("*.py")]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                inner = node.value
                name = inner.attr if isinstance(inner, ast.Attribute) else getattr(inner, "id", "")
                found |= {node.attr} if name == table else set()
    return found


@pytest.mark.parametrize("table", ["server", "defaults", "logs", "service", "timing"])
def test_a_key_that_nothing_acts_upon_is_told_as_such(table: str) -> None:
    keys = set(type(getattr(Settings(), table)).model_fields)
    told = {key for key in keys if (table,) in NOT_YET or (table, key) in NOT_YET}
    used = acted_upon(table) & keys
    assert keys - used <= told
    if table == "timing":
        assert not used & told


def test_a_setting_without_effect_is_a_warning() -> None:
    text = "timing.flush = 5\nschedule = []\ntiming.climb_back = 1\nhistory.enabled = false"
    loaded = load_text(text, name="x")
    found = {dotted(f.path): f.hint for f in warnings(loaded.settings)}
    assert list(found) == ["history", "timing.flush"]
    assert all("nothing acts on it now" in hint for hint in found.values())


def test_weights_that_the_engine_cannot_read_are_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.touch()
    loaded = load_text(f"models.a = {{path = '{path}', engine = 'mlx-lm'}}", name="x")
    (finding,) = warnings(loaded.settings)
    assert dotted(finding.path) == "models.a.engine"
