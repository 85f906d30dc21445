"""The files for service managers: as kept in ``golden/``, valid, and explained line by line."""

from __future__ import annotations

import os
import plistlib
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.config.settings import Settings
from daemon.core.problems import ProblemError
from daemon.service.render import (
    Recipe,
    addresses,
    fill,
    quoted,
    render,
    stop_seconds,
    stream,
    template,
)

GOLDEN = Path(__file__).parent / "golden"
USER = Recipe(
    manager="systemd",
    scope="user",
    program=Path("/home/me/My Tools/100%/bin/modelportd"),
    config=Path("/home/me/.config/modelport/config.toml"),
    stop_seconds=38,
    listen=("127.0.0.1", 8123),
    also=(("127.0.0.1", 11434), ("::1", 1234)),
)
SYSTEM = replace(
    USER,
    scope="system",
    program=Path("/usr/local/lib/modelport/current/bin/modelportd"),
    config=Path("/etc/modelport/config.toml"),
    also=(),
    user="modelport",
    group="modelport",
)
AGENT = replace(
    USER,
    manager="launchd",
    program=Path("/Users/me/R&D/bin/modelportd"),
    config=Path("/Users/me/Library/Application Support/modelport/config.toml"),
    log=Path("/Users/me/Library/Logs/modelport/launchd.log"),
)
DAEMON = replace(AGENT, scope="system", user="me", group="staff", also=())
RECIPES = {"user": USER, "system": SYSTEM, "agent": AGENT, "daemon": DAEMON}
MADE = [
    (f"{name}-{one.name}", one.text) for name, recipe in RECIPES.items() for one in render(recipe)
]


@pytest.mark.parametrize(("name", "text"), MADE, ids=[name for name, _ in MADE])
def test_golden(name: str, text: str) -> None:
    """MODELPORT_TEST_GOLDEN=write keeps what is rendered now: look at the difference."""
    path = GOLDEN / name
    if os.environ.get("MODELPORT_TEST_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


def test_no_golden_file_is_left_over() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {name for name, _ in MADE}


@pytest.mark.parametrize(("name", "text"), MADE, ids=[name for name, _ in MADE])
def test_every_key_is_explained(name: str, text: str) -> None:
    """By a comment right above it, or above the block of keys that it stands in."""
    explained, bare = False, []
    for line in map(str.strip, text.splitlines()):
        if line.startswith(("#", "<!-- ")):
            explained = True
        elif not line or line.startswith("["):
            explained = False
        elif name.endswith(".plist"):
            if line == "<key>Label</key>" or (line.startswith("<key>") and not explained):
                bare += [] if explained else [line]
        elif not explained and not line.startswith(("Description=", "ListenStream=", "ExecStart=")):
            bare.append(line)
    assert bare == []


def test_the_drop_in_of_the_readme_takes_back_all_that_keeps_set_uid_programs_out() -> None:
    """In a user's service each of these brings NoNewPrivileges (systemd.exec(5))."""
    (text,) = [one.text for one in render(USER) if one.kind == "service"]
    hardened = {line.partition("=")[0] for line in text.split("at run time alone")[1].splitlines()
                if re.match(r"[A-Z]\w+=", line)} - {"WantedBy"}  # fmt: skip
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    drop_in = readme.split("```\n[Service]\n")[1].split("```")[0]
    assert {line.partition("=")[0] for line in drop_in.splitlines()} == hardened


@pytest.mark.parametrize("name", ["agent", "daemon"])
def test_property_lists(name: str) -> None:
    recipe = RECIPES[name]
    plist = plistlib.loads(render(recipe)[0].text.encode())
    program = [str(recipe.program), "--service", "--config", str(recipe.config)]
    assert plist["ProgramArguments"] == program
    assert (plist["Label"], plist["RunAtLoad"], plist["AbandonProcessGroup"]) == (
        "modelport", True, True,
    )  # fmt: skip
    assert plist["KeepAlive"] == {"SuccessfulExit": False}
    assert (plist["ThrottleInterval"], plist["ExitTimeOut"]) == (2, 38)
    assert plist["StandardErrorPath"] == str(recipe.log)
    assert plist["Umask"] == 0o077
    assert "EnvironmentVariables" not in plist, "settings live in the configuration file"
    fixed = plist["Sockets"]["modelport"]
    assert (fixed["SockNodeName"], fixed["SockServiceName"]) == ("127.0.0.1", "8123")
    if name == "agent":
        assert plist["Sockets"]["also-1234"]["SockFamily"] == "IPv6"
        assert "UserName" not in plist
    else:
        assert (plist["UserName"], plist["GroupName"]) == ("me", "staff")


@pytest.mark.parametrize("program", ["plutil", "plistutil"])
@pytest.mark.parametrize("name", ["agent", "daemon"])
def test_another_reader_of_property_lists(name: str, program: str, tmp_path: Path) -> None:
    """Debian's libplist-utils has one of them, a Mac the other."""
    if not shutil.which(program):
        pytest.skip(f"no {program} here")
    path = tmp_path / "modelport.plist"
    path.write_text(render(RECIPES[name])[0].text)
    words = ["-lint", str(path)] if program == "plutil" else ["-i", str(path), "-f", "bin"]
    done = subprocess.run([program, *words], capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["user", "system"])
def test_systemd_verifies_them(name: str, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze here")
    recipe = replace(RECIPES[name], program=Path("/bin/true"))
    if name == "system":
        recipe = replace(recipe, user="root", group="root")
    files = render(recipe)
    for one in files:
        (tmp_path / one.name).write_text(one.text)
    done = subprocess.run(
        ["systemd-analyze", f"--{name}", "verify", *(str(tmp_path / one.name) for one in files)],
        env={"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("path", "word"),
    [("/usr/bin/x", "/usr/bin/x"), ("/a b/x", '"/a b/x"'), ("/100%/x", "/100%%/x"),
     ("/$HOME/x", '"/$$HOME/x"'), ('/a"b/x', '"/a\\"b/x"'), ("/a\\b", '"/a\\\\b"'),
     ("/größe/x", '"/größe/x"')],
)  # fmt: skip
def test_paths_are_one_word(path: str, word: str) -> None:
    assert quoted(Path(path)) == word


@pytest.mark.parametrize("path", ["relative/x", "/two\nlines", "/a\x7f"])
def test_what_no_unit_can_hold_is_refused(path: str) -> None:
    with pytest.raises(ProblemError, match="absolute path on one line"):
        render(replace(USER, config=Path(path)))


def test_addresses_are_numbers() -> None:
    also = [{"port": 11434, "as": "ollama"}, {"port": 1, "model": "a", "host": "[::1]"}]
    settings = Settings.from_layers({"server": {"host": "localhost", "also": also}})
    fixed = ("127.0.0.1", 8123)
    assert addresses(settings) == (fixed, (("127.0.0.1", 11434), ("::1", 1)))
    assert [stream(one) for one in (fixed, ("::1", 1))] == ["127.0.0.1:8123", "[::1]:1"]
    named = Settings.from_layers({"server": {"host": "nas.local"}})
    with pytest.raises(ProblemError, match=r"server\.host is 'nas\.local'"):
        addresses(named)


def test_a_clean_stop_is_never_cut_short() -> None:
    settings = Settings.from_layers({"timing": {"drain_grace": 100.0, "stop_grace": 7.5}})
    assert stop_seconds(settings) == 117


def test_templates_have_no_unknown_names() -> None:
    with pytest.raises(KeyError):
        fill("@NOBODY@", {"MODELPORTD": "x"})
    with pytest.raises(FileNotFoundError, match="lacks its templates"):
        template("units", "none.service")
    assert not [name for name, text in MADE if re.search(r"@[A-Z_]+@", text)]
