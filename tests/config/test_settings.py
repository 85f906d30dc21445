from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from daemon.config.settings import Settings
from daemon.config.types import Share


def test_defaults_are_those_of_the_design() -> None:
    settings = Settings()
    server, memory, defaults = settings.server, settings.memory, settings.defaults
    assert (server.host, server.port, server.also) == ("127.0.0.1", 8123, ())
    assert (server.default_model, server.small_model) == (None, None)
    assert (server.body_limit, server.queue_timeout) == (64 * 2**20, 300.0)
    assert (server.hosts, server.cors_origins) == ((), ())
    assert (memory.budget, memory.policy, memory.fit) == (None, "wait", "shrink")
    assert (memory.degrade, memory.allow_cpu_offload, memory.max_drain) == ("on", False, None)
    assert (defaults.keep_alive, defaults.slots, defaults.auto_pull) == (900.0, 1, False)
    assert (defaults.ctx, defaults.min_ctx) == (131072, 32768)
    assert settings.models == {}
    assert settings.power.on_battery is None
    assert settings.schedule == ()
    assert not settings.lan.enabled
    assert not settings.tls.enabled


def test_the_first_layer_wins_key_by_key() -> None:
    settings = Settings.from_layers(
        {"server": {"port": 1}, "models": {"a": {"ctx": 4096}}},
        {"server": {"port": 2, "host": "::1"}, "models": {"a": {"path": "/x", "ctx": 1}}},
    )
    assert (settings.server.port, settings.server.host) == (1, "::1")
    assert (settings.models["a"].path, settings.models["a"].ctx) == ("/x", 4096)


def test_neither_environment_nor_files_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER", '{"port": 1}')
    monkeypatch.setenv("server", '{"port": 1}')
    assert Settings().server.port == 8123
    assert Settings.from_layers({}).server.port == 8123


@pytest.mark.parametrize("key", ["_env_file", "_cli_parse_args", "layers", "self", "SERVER"])
def test_no_key_of_a_file_reaches_the_library_itself(key: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.from_layers({key: "x"})
    assert [error["type"] for error in caught.value.errors()] == ["extra_forbidden"]


def test_settings_are_frozen() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.server = settings.server  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.server.port = 1  # type: ignore[misc]


def test_equal_settings_are_equal() -> None:
    values: dict[str, Any] = {"memory": {"budget": "75%"}, "models": {"a": {"path": "/x"}}}
    assert Settings.from_layers(values) == Settings.from_layers(values)
    assert Settings.from_layers(values) != Settings()
    assert Settings.from_layers(values).memory.budget == Share(75.0)


def test_importing_the_settings_stays_light() -> None:
    """Nothing that only an edit or a download needs is imported for every start."""
    code = (
        "import sys; import daemon.config.load, daemon.config.catalog, daemon.config.paths;"
        "heavy = {'tomlkit', 'huggingface_hub', 'aiohttp', 'rich', 'apscheduler'};"
        "print(*heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
