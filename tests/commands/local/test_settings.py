"""The places, as ``ctl`` and the daemon find them."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_api.client import find_socket, state_dir
from daemon.config.paths import Paths


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"MODELPORT_STATE_DIR": "~/here"},
        {"XDG_RUNTIME_DIR": "{home}/run"},
        {"XDG_RUNTIME_DIR": "relative"},
        {"MODELPORT_RUNTIME_DIR": "{home}/sockets", "XDG_RUNTIME_DIR": "{home}/run"},
    ],
)
def test_both_sides_agree(
    environ: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    for kind in ("STATE", "LOG", "CACHE", "RUNTIME"):
        monkeypatch.delenv(f"MODELPORT_{kind}_DIR")
    environ = {name: value.format(home=home) for name, value in environ.items()}
    paths = Paths.find(environ)
    assert state_dir(environ) == paths.state_dir
    paths.control_socket.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(paths.control_socket))
        assert find_socket(environ) == paths.control_socket
