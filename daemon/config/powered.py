"""What the settings become while the machine runs on its battery. Pure."""

from __future__ import annotations

from daemon.config.settings import Settings


def shorter(usual: float, most: float) -> float:
    """The shorter of two keep-alives, in seconds; negative is for ever."""
    if most < 0:
        return usual
    return most if usual < 0 else min(usual, most)


def on_battery(settings: Settings) -> Settings:
    """With ``[power] on_battery`` in force: no keep-alive longer than its own, and its model in
    place of ``default_model``. Pins stay: they are not idle, they are wanted."""
    battery = settings.power.on_battery
    if battery is None:
        return settings
    update: dict[str, object] = {}
    if battery.keep_alive is not None:
        most = battery.keep_alive
        usual = settings.defaults.keep_alive
        update["defaults"] = settings.defaults.model_copy(
            update={"keep_alive": shorter(usual, most)}
        )
        update["models"] = {
            name: entry
            if entry.keep_alive is None
            else entry.model_copy(update={"keep_alive": shorter(entry.keep_alive, most)})
            for name, entry in settings.models.items()
        }
    if battery.model is not None:
        update["server"] = settings.server.model_copy(update={"default_model": battery.model})
    return settings.model_copy(update=update)


def told(settings: Settings) -> str:
    """What differs on battery, in words; "" for nothing."""
    battery = settings.power.on_battery
    if battery is None:
        return ""
    parts = []
    if battery.keep_alive is not None and battery.keep_alive >= 0:
        parts.append(f"idle models leave after {battery.keep_alive:g} s at the latest")
    if battery.model is not None:
        parts.append(f"{battery.model} is the default model")
    return ", ".join(parts)
