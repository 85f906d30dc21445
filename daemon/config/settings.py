"""The whole file as one frozen value. How it is read stands in ``load``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from daemon.config.entry import Engines, ModelEntry
from daemon.config.sections import (
    Conversations,
    Defaults,
    Discovery,
    Downloads,
    History,
    Lan,
    Logs,
    Memory,
    Power,
    Schedule,
    Server,
    Service,
    Tls,
)
from daemon.config.timing import Timing
from daemon.config.types import Name


class _Layer(PydanticBaseSettingsSource):
    """One source of settings that has been read already: flags, environment or file."""

    def __init__(self, settings_cls: type[BaseSettings], values: Mapping[str, Any]) -> None:
        super().__init__(settings_cls)
        self._values = dict(values)

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """The value of one field; pydantic-settings asks for it, `__call__` does the work."""
        return self._values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._values


class Settings(BaseSettings):
    """Every setting. ``Settings()`` is the defaults; it reads neither files nor environment."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", case_sensitive=True, hide_input_in_errors=True
    )

    server: Server = Field(default=Server(), description="The fixed address.")
    memory: Memory = Field(default=Memory(), description="The memory of all backends together.")
    defaults: Defaults = Field(default=Defaults(), description="For models that do not say.")
    models: Mapping[Name, ModelEntry] = Field(default={}, description="The models, by name.")
    engines: Engines = Field(default=Engines(), description="The inference servers.")
    timing: Timing = Field(default=Timing(), description="Every duration, in seconds.")
    power: Power = Field(default=Power(), description="What saves energy.")
    schedule: tuple[Schedule, ...] = Field(default=(), description="The calendar.")
    downloads: Downloads = Field(default=Downloads(), description="Bringing weights.")
    lan: Lan = Field(default=Lan(), description="Being reached from other machines.")
    tls: Tls = Field(default=Tls(), description="Encryption.")
    logs: Logs = Field(default=Logs(), description="Logs.")
    history: History = Field(default=History(), description="Numbers of past requests.")
    conversations: Conversations = Field(
        default=Conversations(), description="What is kept of conversations."
    )
    discovery: Discovery = Field(
        default=Discovery(), description="Models that are on this machine already."
    )
    service: Service = Field(default=Service(), description="Running at login.")

    @classmethod
    def from_layers(cls, *layers: Mapping[str, Any]) -> Settings:
        """Settings from nested tables, the first of which wins, key by key.

        Raises pydantic's ValidationError with every mistake in them.
        """
        return cls(**cast("dict[str, Any]", {"layers": layers}))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The layers given to :meth:`from_layers`; else the arguments alone."""
        given = getattr(init_settings, "init_kwargs", {})
        layers = given.get("layers")
        if isinstance(layers, tuple):
            return tuple(_Layer(settings_cls, layer) for layer in layers)
        return (init_settings,)
