"""Where the files of the service lie, for a user or for the whole machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import platformdirs

LABEL: Final = "modelport"
Scope = Literal["user", "system"]
Manager = Literal["systemd", "launchd"]
SYSTEM_ROOT: Final = Path("/usr/local/lib/modelport")
"""Root's: what an upgrade or a removal by root acts upon must not be the daemon's to change."""


@dataclass(frozen=True, slots=True)
class Places:
    """``units``: the folder that the service manager reads; ``root``: what is ours alone (the
    environment that was made, the record of the installation)."""

    manager: Manager
    scope: Scope
    units: Path
    root: Path

    @classmethod
    def find(cls, platform: str, scope: Scope, *, home: Path, config_home: Path) -> Places:
        """``config_home``: XDG_CONFIG_HOME, which a user's systemd reads as well."""
        root = SYSTEM_ROOT
        if scope == "user":
            root = platformdirs.user_data_path(LABEL, False) / "service"
        if platform == "darwin":
            library = Path("/Library/LaunchDaemons")
            if scope == "user":
                library = home / "Library" / "LaunchAgents"
            return cls("launchd", scope, library, root)
        units = Path("/etc/systemd/system")
        if scope == "user":
            units = config_home / "systemd" / "user"
        return cls("systemd", scope, units, root)

    @property
    def service(self) -> Path:
        """The file of the service itself."""
        return self.units / (f"{LABEL}.service" if self.manager == "systemd" else f"{LABEL}.plist")

    @property
    def record(self) -> Path:
        """What was installed; see ``record``."""
        return self.root / "service.json"

    @property
    def current(self) -> Path:
        """A link to the environment in use: units call it, an upgrade moves it on."""
        return self.root / "current"
