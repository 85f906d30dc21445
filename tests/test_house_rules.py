"""What tests/conftest.py promises every test: see there."""

from __future__ import annotations

import ast
import asyncio
import os
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from blockbuster import BlockingError

from tests import conftest, endcheck

SLEEPER = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]


def test_a_child_and_a_grandchild_of_another_session_are_found() -> None:
    before = endcheck.snapshot()
    # The shell leaves at once: its child is an orphan, with an environment cut down to HOME.
    orphan = "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(60)"
    command = f"env -i HOME=\"$HOME\" '{sys.executable}' -I -S -c '{orphan}' &"
    shell = subprocess.Popen(["/bin/sh", "-c", command], stdout=subprocess.PIPE, text=True)
    assert shell.stdout
    with shell.stdout:
        pid = int(shell.stdout.readline())
    assert shell.wait(5) == 0
    with subprocess.Popen(SLEEPER) as child:
        left = endcheck.leftovers(conftest.RUN, before, patience=0.0)
        assert sorted(int(line.split()[0]) for line in left) == sorted([pid, child.pid])
        assert any("time.sleep(60)" in line for line in left)
        endcheck.kill(left)
        child.returncode = -9  # reaped by the end-check
    assert endcheck.leftovers(conftest.RUN, before) == []


def test_an_unreaped_child_is_left_over() -> None:
    before = endcheck.snapshot()
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    (line,) = endcheck.leftovers(conftest.RUN, before, patience=0.0)
    assert "zombie" in line
    assert child.wait(5) == 0
    assert endcheck.leftovers(conftest.RUN, before) == []


def test_what_a_known_process_starts_is_its_own() -> None:
    code = f"import subprocess; subprocess.Popen({SLEEPER!r}); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as daemon:
        assert daemon.stdout
        before = endcheck.snapshot() - {"0"}
        daemon.stdout.readline()
        before -= {name for name in before if int(name) > daemon.pid}
        assert endcheck.leftovers(conftest.RUN, before, patience=0.0) == []
        os.killpg(daemon.pid, 9)


@pytest.fixture
def product() -> Callable[[], object]:
    """A coroutine function that looks as if it were in our code."""
    path = str(conftest.ROOT / "daemon" / "made_up.py")
    source = "import time\nasync def blocks():\n    time.sleep(0.001)\n"
    module = types.ModuleType("made_up")
    exec(compile(source, path, "exec"), module.__dict__)
    blocks: Callable[[], object] = module.blocks
    return blocks


async def test_our_code_may_not_block_in_the_loop(product: Callable[[], object]) -> None:
    with pytest.raises(BlockingError):
        await product()  # type: ignore[misc]


@pytest.mark.usefixtures("blocking_allowed")
async def test_unless_it_is_allowed(product: Callable[[], object]) -> None:
    assert await product() is None  # type: ignore[misc]


async def test_a_test_itself_may(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    assert (tmp_path / "x").read_text() == "x"
    assert asyncio.get_running_loop().is_running()


def test_nothing_of_the_person_is_in_sight() -> None:
    assert Path.home() == conftest.HOME
    assert not [name for name in os.environ if name.startswith(("LLAMA_ARG_", "HF_TOKEN"))]


def test_sockets_fit(short_dir: Path) -> None:
    assert len(str(short_dir / "keepers" / ("x" * 32 + ".sock"))) < 100


def test_short_timing_names_settings_that_exist(short_timing: dict[str, object]) -> None:
    from daemon.config.timing import Timing

    timing = Timing.model_validate(short_timing)
    assert timing.stop_grace < 1


def test_short_timing_shortens_what_it_names(short_timing: dict[str, object]) -> None:
    """Each of its settings counts: it reaches the part that waits."""
    from daemon.adoption import Waits
    from daemon.config.checks import NOT_YET
    from daemon.config.settings import Settings
    from daemon.translate import backend_timing, policy
    from daemon.watching import Patience

    short = Settings.from_layers({"timing": short_timing})
    parts = [asdict(part) for part in (backend_timing(short), policy(short), Waits.of(short))]
    patience = Patience.of(short)
    assert (patience.interval, patience.stall) == (0.2, 2.0)
    watched = {"liveness_interval", "answer_stall"}
    reached = {name for part in parts for name in part} | {"reap_timeout"} | watched
    later = {path[1] for path in NOT_YET if path[0] == "timing"}
    assert short_timing.keys() - reached - later == {"drain_grace"}  # the daemon's own stop
    for name, seconds in short_timing.items():
        for part in parts:
            assert part.get(name, seconds) == seconds
    assert Waits.of(short).reap == short_timing["reap_timeout"]


def imported(path: Path) -> set[str]:
    """The top-level names that a module imports, wherever it does."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names


CORE = sorted((conftest.ROOT / "daemon" / "core").glob("*.py"))


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_the_core_needs_the_standard_library_alone(path: Path) -> None:
    assert imported(path) <= sys.stdlib_module_names | {"daemon"}


@pytest.mark.parametrize(
    "name", ["daemon/backends/keeper.py", "tests/fakes/engine.py", "control_api/clients/inside.py"]
)
def test_programs_that_run_alone_need_the_standard_library_alone(name: str) -> None:
    own = {"tests"} if name.startswith("tests") else set()
    assert imported(conftest.ROOT / name) <= sys.stdlib_module_names | own
