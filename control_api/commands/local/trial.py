"""An engine tried on the side before it is trusted: a daemon of its own, with a small model, asked
as clients ask. The daemon that serves is not touched."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from control_api.client import Client, RefusedError, UnreachableError
from control_api.commands.local.serve import daemon_environ
from control_api.commands.local.settings import find_paths, load_settings

if TYPE_CHECKING:
    from daemon.config.model import Model
    from daemon.proving.values import Finding

NAME: Final = "trial"  # of the model, in that daemon
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 40
REQUEST_SECONDS: Final = 120.0  # for one request to a small model
LARGEST: Final = 3 << 30  # bytes of weights that still count as small
CONTEXT: Final = 4096
SHORT: Final = 256  # tokens that answers are measured by: a quarter of it is the longest

# What costs minutes on a processor says nothing of an engine that the others do not.
STEPS: Final = ("stream", "tools-chat", "tools-messages", "tools-responses", "leak", "stop")
AGAIN: Final = " after a restart"
ORDER: Final = ("load", *STEPS, f"stream{AGAIN}")
Tell = Callable[[str, str, float | None], None]
FORMS: Final[Mapping[str, str]] = {
    "llama-server": "gguf",
    "xllamacpp": "gguf",
    "mlx-lm": "mlx",
    "vllm-mlx": "mlx",
    "vllm": "safetensors",
}


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of it. ``broken`` are the steps that failed, with what was found; ``made`` False:
    it could not be tried at all, and ``text`` says why."""

    made: bool
    broken: Mapping[str, str]
    text: str

    @property
    def good(self) -> bool:
        return self.made and not self.broken


def small_model(config: str | None, engine: str) -> Path | None:
    """The smallest chat model on this disk that the engine runs; None: there is none."""
    from daemon.config.catalog import Catalog
    from daemon.config.presets import load_presets
    from daemon.reading import Reader

    reader = Reader(find_paths(config), os.environ, {}, "foreground")
    catalog = Catalog.build(load_settings(config).settings, load_presets())
    every = (*catalog.models.values(), *catalog.presets.values())
    found = [_weighed(reader.files_of, model, FORMS[engine]) for model in every]
    here = [one for one in found if one is not None]
    return min(here)[1] if here else None


def _weighed(files_of: Callable[[Model], Any], model: Model, form: str) -> tuple[int, Path] | None:
    """Bytes and path, where it is here, small, and of that form."""
    from daemon.backends.prepare import form_of
    from daemon.core.problems import ProblemError
    from daemon.weights.describe import describe
    from daemon.weights.errors import WeightsError

    if (model.engine or "").startswith("command."):
        return None
    try:
        path = files_of(model).path
        size = path.stat().st_size if path.is_file() else _folder(path)
        if size > LARGEST:
            return None
        weights = describe(path)
        fits = form_of(model, weights) == form or (form == "mlx" and weights.format != "gguf")
        return (size, path) if fits and weights.kind == "chat" else None
    except (ProblemError, WeightsError, OSError):
        return None


def _folder(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file())


def prove(
    engine: str,
    place: Path,
    model: Path,
    config: str | None,
    tell: Tell,
    only: Collection[str] = ORDER,
) -> Proof:
    """Take the steps (``only`` some) with the engine at ``place`` (as `path` of its settings would
    say). Never raises for what the engine does."""
    try:
        with _side(engine, place, model, config) as client:
            return _taken(client, tell, only)
    except UnreachableError as error:
        return Proof(False, {}, f"The daemon for the trial did not start: {error}")
    except RefusedError as error:
        if error.code in ("model_too_large", "queue_timeout", "all_pinned"):
            return Proof(False, {}, error.message)  # no memory for it just now
        return Proof(True, {"load": error.message}, error.message)


def _taken(client: Client, tell: Tell, only: Collection[str]) -> Proof:
    from control_api.commands.test import fresh_tag
    from daemon.proving.driver import take
    from daemon.proving.steps import STEPS as EVERY
    from daemon.proving.values import Subject

    url = str(client.get("/status")["url"])
    broken: dict[str, str] = {}
    for turn in ("", AGAIN):  # the second time: it comes up again after a stop
        steps = [step for step in STEPS if step + turn in only]
        if turn and not steps:
            break
        tell("prove", f"loading a small model{turn}", None)
        for _ in client.progress(f"/models/{NAME}/load"):
            pass
        routes = frozenset(client.get(f"/models/{NAME}")["routes"])
        subject = Subject(
            NAME, context=SHORT, routes=routes, tag=fresh_tag(),
            seconds=REQUEST_SECONDS, long_seconds=REQUEST_SECONDS,
        )  # fmt: skip
        for step in steps:
            tell("prove", f"{step}{turn}", None)
            _judge(step + turn, take(EVERY[step], subject, url), broken)
        client.post(f"/models/{NAME}/unload")
    text = "; ".join(f"{name}: {why}" for name, why in broken.items())
    return Proof(True, broken, text or "a stream, tools, two conversations, a stop, a restart")


def _judge(step: str, finding: Finding, broken: dict[str, str]) -> None:
    """A model that is too weak for a step says nothing of its engine."""
    if finding.outcome in ("broken", "unknown") and finding.fault != "model":
        broken[step] = finding.text


@contextlib.contextmanager
def _side(engine: str, place: Path, model: Path, config: str | None) -> Iterator[Client]:
    """A daemon beside the one that serves, with folders of its own. It ends with us, also by a
    kill -9. Raises UnreachableError."""
    from daemon.engines.install.children import started

    folder = Path(tempfile.mkdtemp(prefix="mp-", dir=_short()))
    try:
        environ = _environ(folder)
        (folder / "config.toml").write_text(_config(engine, place, model, config))
        argv = [sys.executable, "-P", "-m", "daemon"]
        with (
            (folder / "said").open("wb") as said,
            started(argv, environ, STOP_SECONDS, said, said, folder) as child,
        ):
            try:
                yield _answering(Client(environ=environ), child, folder / "said")
            finally:
                _stop(child)  # watched still: it takes a while
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _short() -> str:
    """Where paths of sockets stay short enough; the folder itself is ours alone."""
    fallback = "/tmp"  # noqa: S108 - mkdtemp makes a folder that is ours alone below it
    run = os.environ.get("XDG_RUNTIME_DIR", "")
    return run if run.startswith("/") and len(run) < 40 and os.access(run, os.W_OK) else fallback


def _environ(folder: Path) -> dict[str, str]:
    ours = {
        f"MODELPORT_{name}_DIR": str(folder / name.lower())
        for name in ("STATE", "LOG", "CACHE", "RUNTIME")
    }
    inherited = {k: v for k, v in daemon_environ().items() if not k.startswith("MODELPORT_")}
    return {**inherited, **ours, "MODELPORT_CONFIG": str(folder / "config.toml")}


def _config(engine: str, place: Path, model: Path, config: str | None) -> str:
    """With the user's own arguments and environment for that engine: they are to work too."""
    entry = load_settings(config).settings.engines.entry(engine)
    env = ", ".join(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in entry.env.items())
    args = [*threads(engine, os.cpu_count() or 1), *entry.args]
    with socket.socket() as probe:  # it is taken a moment later; another one's luck ends the trial
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return (
        f"[server]\nport = {port}\n"
        f"[engines.{engine}]\npath = {json.dumps(str(place))}\n"
        f"args = {json.dumps(args)}\nenv = {{ {env} }}\n"
        f'[models.{NAME}]\npath = {json.dumps(str(model))}\nengine = "{engine}"\n'
        f"ctx = {CONTEXT}\nmin_ctx = 512\n"
    )


def threads(engine: str, processors: int) -> tuple[str, ...]:
    """Half of the processors: what serves has the others, and llama.cpp's threads, which wait for
    each other by spinning, take a hundred times as long where one of them gets no processor."""
    return ("-t", str(max(1, processors // 2))) if FORMS[engine] == "gguf" else ()


def _answering(client: Client, child: subprocess.Popen[bytes], said: Path) -> Client:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            break
        try:
            client.get("/status")
        except (UnreachableError, RefusedError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.05)
        else:
            return client
    lines = said.read_text("utf-8", "replace").strip().splitlines()
    raise UnreachableError(lines[-1] if lines else "it said nothing", "")


def _stop(child: subprocess.Popen[bytes]) -> None:
    """In good order, so that it ends its engine; its keepers do if it cannot."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(STOP_SECONDS)
