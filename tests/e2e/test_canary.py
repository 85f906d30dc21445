"""Secrets that must stay where they are: a whole daemon is given them, does all that it does, and
then every place is searched where they could be read.
"""

from __future__ import annotations

import contextlib
import stat
import sys
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import get_args

import psutil
import pytest

from control_api.operation import PREFIX
from daemon.config.load import load
from daemon.service.places import Manager, Scope
from daemon.service.render import Recipe, addresses, render, stop_seconds
from tests.e2e.house import House
from tests.e2e.outcomes import Ask, ask
from tests.e2e.stage import Stage, folder, until

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(400),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]
OURS = {  # of the user's own environment; none is any engine's affair
    "HF_TOKEN": "hf_" + "CanaryOfTheHub" * 2,
    "HUGGING_FACE_HUB_TOKEN": "hf_" + "CanaryOfTheHubOnceMore",
    "OPENAI_API_KEY": "sk-proj-" + "CanaryOfOpenAI" * 2,
    "ANTHROPIC_API_KEY": "sk-ant-" + "CanaryOfAnthropic" * 2,
    "AWS_SECRET_ACCESS_KEY": "CanaryOfTheCloud" * 2,
    "GITHUB_TOKEN": "ghp_" + "CanaryOfGit" * 2,
}
PRIVATE = ("logs", "run", "state")
GIVEN = "hf_CanaryInTheConfiguration"  # to one engine, in so many words
CLIENTS = "mp-" + "Wr0ngCanary" * 4  # what a client sends, and no key of ours
# The engine tells its own key and its environment, and dies of a certain word.
ENGINE = """#!/bin/sh
before=
for word in "$@"; do
    [ "$before" = --api-key-file ] && key=$(cat "$word") && echo "the key is $key" >&2
    before=$word
done
env >&2
eval "set -- \\"\\$@\\" $(cat {flags})"
{words} "$@"
code=$?
echo "last words: the key is $key, Authorization: Bearer $HF_TOKEN" >&2
exit $code
"""


def engine(stage: Stage, name: str) -> None:
    path = stage.folder / f"engine-{name}"
    words = path.read_text().splitlines()[-1].removeprefix("exec ").removesuffix(' "$@"')
    flags = stage.folder / f"flags-{name}"
    path.write_text(ENGINE.format(flags=flags, words=words))


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with folder() as place:
        more = {"a": f'env = {{ HF_TOKEN = "{GIVEN}" }}'}
        stage = Stage(place, ("a", "b"), more=more, extra=OURS)
        for name in stage.names:
            engine(stage, name)
            stage.flags(name, "--crash-word", "boom")
        with stage:
            yield stage


def keys_of_engines(house: House) -> list[str]:
    found = []
    for path in (house.folder / "run" / "b").glob("*.key"):
        with contextlib.suppress(FileNotFoundError):  # of an engine that has just ended
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            found.append(path.read_text().strip())
    return found


def played(stage: Stage) -> list[str]:
    """All that a daemon does in a day; the keys that its engines had."""
    house, keys = stage.house, []
    made = house.ctl("key", "add", "canary", "--scope", "control").stdout.strip()
    for name in ("a", "b"):
        stage.ready(name)
        keys += keys_of_engines(house)
        for secret in (made, CLIENTS):
            by = {"Authorization": f"Bearer {secret}", "x-request-id": "canary-1"}
            for path, body in (("/v1/messages", b"{"), (f"/v1/models?key={secret}", None)):
                house.request("POST" if body else "GET", path, body, by)
            house.request("GET", f"{PREFIX}/status?token={secret}", None, by)
        assert ask(house.port, Ask(name, text="boom", stream=False)).kind == "error"
        until(lambda name=name: stage.house.client.get("/incidents?model=" + name)["incidents"])
        stage.forget(name)
        stage.ready(name)
        keys += keys_of_engines(house)
    house.ctl("reload")
    assert len(set(keys)) >= 4, "a new one each start"
    return [made, *keys]


COMMANDS = [
    ["status"],
    ["status", "--json"],
    ["ls", "--json"],
    ["ps", "--json"],
    ["show", "a"],
    ["show", "a", "--json"],
    ["why"],
    ["why", "--json"],
    ["logs", "a"],
    ["logs", "daemon"],
    ["key", "ls", "--json"],
    ["config", "show", "--all"],
    ["config", "show", "--json"],
    ["config", "check"],
    ["doctor", "--redact"],
    ["doctor", "--json", "--redact"],
    ["service", "status", "--json"],
    ["service", "install", "--print"],
    ["service", "install", "--print", "socket", "--json"],
    ["service", "install", "--system", "--print"],
]


def units(house: House) -> dict[str, bytes]:
    """All files that any service manager would be given for this daemon's configuration."""
    settings = load(house.config_file, environ=house.environ)
    listen, also = addresses(settings)
    found = {}
    for manager, scope in product(get_args(Manager), get_args(Scope)):
        recipe = Recipe(
            manager=manager,
            scope=scope,
            program=Path("/opt/modelport/bin/modelportd"),
            config=house.config_file,
            stop_seconds=stop_seconds(settings),
            listen=listen,
            also=also,
            user="me",
            group="me",
            log=house.folder / "logs" / "launchd.log",
        )
        for one in render(recipe):
            found[f"{manager} {scope} {one.name}"] = one.text.encode()
    return found


def said(house: House) -> dict[str, bytes]:
    """What programs and people are told."""
    found = {"events": repr(house.events()).encode(), **house.told()}
    for words in COMMANDS:
        done = house.ctl(*words)
        found["ctl " + " ".join(words)] = (done.stdout + done.stderr).encode()
    return found


def written(house: House) -> dict[str, bytes]:
    """All files of the daemon's, but those where a secret has its place."""
    places = {path for path in house.folder.rglob("*") if path.is_file()}
    places -= {house.config_file, *(house.folder / "run" / "b").glob("*.key")}
    return contents(places)


def contents(paths: Iterable[Path]) -> dict[str, bytes]:
    """Of those that are still there: a file may be replaced, a process may end meanwhile."""
    found = {}
    for path in paths:
        with contextlib.suppress(OSError):
            found[str(path)] = path.read_bytes()
    return found


def processes(house: House) -> dict[str, dict[str, bytes]]:
    """Command lines and environments of all that the daemon started, by their first word."""
    assert house.process is not None
    found: dict[str, dict[str, bytes]] = {}
    for one in psutil.Process(house.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, OSError):  # it ended since it was listed
            words = " ".join(one.cmdline())
            for what in ("cmdline", "environ"):
                text = Path(f"/proc/{one.pid}/{what}").read_bytes()
                found.setdefault(what, {})[words] = text
    return found


def hits(places: dict[str, bytes], secrets: list[str]) -> list[tuple[str, str]]:
    return [(p, s) for p, text in places.items() for s in secrets if s[6:].encode() in text]


def test_secrets_stay_where_they_are(stage: Stage) -> None:
    house = stage.house
    made, *engines = played(stage)
    ours = list(OURS.values())
    told = said(house)
    assert hits(told, [made, CLIENTS, GIVEN, *engines, *ours]) == []
    assert b"[Socket]" in told["ctl service install --print socket --json"]
    files = units(house)
    assert len(files) == 6
    assert hits(files, [made, CLIENTS, GIVEN, *engines, *ours]) == []
    for place in ("/incidents", "ctl logs a"):
        assert b"the key is ***" in told[place], "it was told, without the secret"

    running = processes(house)
    assert len(running["cmdline"]) >= 4, "two keepers, two engines"
    assert hits(running["cmdline"], [made, CLIENTS, GIVEN, *engines, *ours]) == []
    assert hits(running["environ"], [made, CLIENTS, *engines, *ours]) == []
    # What the user gives an engine in so many words, that one has, and no other.
    holders = [words for words, _ in hits(running["environ"], [GIVEN])]
    assert holders
    assert all("control-a" in words for words in holders), holders

    files = written(house)
    assert hits(files, [made, CLIENTS, *ours]) == []
    # An engine's log is its own words, for its owner alone.
    own = {str(path) for path in (house.folder / "logs" / "models").glob("*")}
    # A keeper's record is how the next daemon learns the key of an engine that runs.
    own |= {str(path) for path in (house.folder / "run" / "b").glob("*.json")}
    assert own
    assert hits({p: t for p, t in files.items() if p not in own}, [GIVEN, *engines]) == []
    for path in house.folder.rglob("*"):
        if path.is_file() and path.relative_to(house.folder).parts[0] in PRIVATE:
            with contextlib.suppress(FileNotFoundError):  # replaced meanwhile
                assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    # After the last start the keys of the engines are gone with them.
    house.client.post("/unload", force=True)
    until(lambda: not keys_of_engines(house), 20, "no key is left")
