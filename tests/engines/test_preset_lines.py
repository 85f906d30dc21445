"""Every preset's command line on every engine that runs it, written out in ``golden/``.

``MODELPORT_TEST_RENEW=1`` writes the files anew: look at the difference. What stands there is
then given to the engines' own parsers, and is looked through for anything that could download.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest

from daemon.config.catalog import Catalog
from daemon.config.model import Model
from daemon.config.presets import load_presets
from daemon.config.settings import Settings
from daemon.core.problems import ProblemError
from daemon.engines import xllamacpp_flags
from daemon.engines.base import Engine, Installed, Launch, LaunchPlan, Running
from daemon.engines.environment import OFFLINE, Platform
from daemon.engines.llama_server import LlamaServer
from daemon.engines.mlx_lm import NO_ORIGIN, MlxLm
from daemon.engines.vllm_mlx import RUNNER as VLLM_MLX
from daemon.engines.vllm_mlx import VllmMlx
from daemon.engines.xllamacpp import RUNNER as XLLAMACPP
from daemon.engines.xllamacpp import Xllamacpp
from tests.downloads.hub import Hub, running_hub

ROOT: Final = Path(__file__).parents[2]
GOLDEN: Final = Path(__file__).with_name("golden")
PLACE: Final = Path("/weights")  # of all files
RENEW: Final = "MODELPORT_TEST_RENEW"
LIMIT: Final = 131072  # of a context that nobody wrote: the default of the settings
ENVIRON: Final = {"PATH": "/bin", "HOME": "/home/u", "HF_TOKEN": "hf_canary"}
PRESETS = load_presets(lambda package, file: PLACE / file)
NOWHERE = Platform("Linux", "x86_64")
FLAG = re.compile(r"--?[A-Za-z]")
# What makes an engine fetch something, or look for it.
FETCHES = re.compile(
    r"(?i)-hf.*|--hf-.*|.*-default|-mu|-mmu|-dr|--.*-url|--docker-repo|.*https?://.*|--mcp.*"
)


@dataclass(frozen=True)
class Line:
    """One start of a preset: its launch, or why this engine refuses it."""

    preset: str
    engine: str
    launch: Launch | None
    refusal: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """The arguments behind the program."""
        assert self.launch is not None
        return self.launch.argv[1 if self.engine == "llama-server" else 3 :]

    @property
    def text(self) -> str:
        """One flag with its values a line; then what the preset adds to the environment."""
        if self.launch is None:
            return f"refused: {self.refusal}\n"
        lines: list[str] = []
        for word in self.words:
            if FLAG.match(word) or not lines:
                lines.append(word)
            else:
                lines[-1] += f" {word}"
        own = {k: v for k, v in self.launch.env.items() if k.startswith("VLLM_MLX")}
        return "\n".join([*lines, *(f"{k}={v}" for k, v in sorted(own.items()))]) + "\n"


def engines() -> Mapping[str, tuple[Engine, Installed]]:
    """Each engine as it is installed somewhere, with all the flags that it has today."""
    known = xllamacpp_flags.known_flags()
    return {
        "llama-server": (LlamaServer(None, ENVIRON, NOWHERE), _at("llama-server", "llama-server")),
        "xllamacpp": (
            Xllamacpp(None, ENVIRON, NOWHERE),
            _at("xllamacpp", "python", "-P", str(XLLAMACPP), flags=known),
        ),
        "mlx-lm": (
            MlxLm(None, ENVIRON, NOWHERE),
            _at("mlx-lm", "python", "-P", "mlx_lm.server"),
        ),
        "vllm-mlx": (
            VllmMlx(None, ENVIRON, NOWHERE),
            _at("vllm-mlx", "python", "-P", str(VLLM_MLX)),
        ),
    }


def _at(name: str, *program: str, flags: frozenset[str] = frozenset()) -> Installed:
    return Installed(name, program, "9999", flags)


def lines() -> Iterator[Line]:
    for name, (engine, installed) in engines().items():
        models = {f"{preset}": {"preset": preset, "engine": name} for preset in PRESETS}
        catalog = Catalog.build(Settings.from_layers({"models": models}), PRESETS)
        for preset, model in catalog.models.items():
            if model.form == ("mlx" if name.endswith(("mlx", "mlx-lm")) else "gguf"):
                yield line(model, preset, engine, installed)


def line(model: Model, preset: str, engine: Engine, installed: Installed) -> Line:
    try:
        return Line(preset, engine.name, engine.launch(plan(model, engine.name), installed))
    except ProblemError as error:
        return Line(preset, engine.name, None, error.problem.text)


def plan(model: Model, engine: str) -> LaunchPlan:
    """Its first way to run, on a machine where all fits."""
    kind = model.kind or "chat"
    ctx = model.ctx or (2048 if kind in ("embedding", "rerank") else LIMIT)
    weights = PLACE / (model.name if model.form == "mlx" else f"{model.name}.gguf")
    return LaunchPlan(
        model=model.name,
        path=weights,
        running=Running("first", ctx, model.slots, prompt_cache=1 << 30),
        kind=kind,
        port=40001,
        secret="secret",
        secret_file=PLACE / "key",
        mmproj=PLACE / "mmproj.gguf" if model.mmproj else None,
        template=PLACE / "template.jinja" if model.template else None,
        args=model.args_for(engine),
        env=model.env_for(engine),
    )


LINES = {(each.engine, each.preset): each for each in lines()}
TAKEN = {key: each for key, each in LINES.items() if each.launch is not None}


@pytest.mark.parametrize(("engine", "preset"), LINES, ids=lambda text: text)
def test_the_line_is_the_one_that_is_written_down(engine: str, preset: str) -> None:
    file = GOLDEN / engine / f"{preset}.txt"
    if os.environ.get(RENEW):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(LINES[engine, preset].text)
    assert file.exists(), f"{RENEW}=1 writes it"
    assert LINES[engine, preset].text == file.read_text(), f"if it is meant so: {RENEW}=1"


def test_nothing_else_is_written_down() -> None:
    written = {(file.parent.name, file.stem) for file in GOLDEN.glob("*/*.txt")}
    assert written == set(LINES)


def test_what_is_refused() -> None:
    """The embedded engine cannot force a model's metadata, and says which engine can."""
    refused = {key: each.refusal for key, each in LINES.items() if each.launch is None}
    assert list(refused) == [("xllamacpp", "glm-4.7-flash")]
    assert "does not know --override-kv" in refused["xllamacpp", "glm-4.7-flash"]
    assert 'engine = "llama-server"' in refused["xllamacpp", "glm-4.7-flash"]


@pytest.mark.parametrize(("engine", "preset"), TAKEN, ids=lambda text: text)
def test_nothing_on_it_downloads(engine: str, preset: str) -> None:
    one = TAKEN[engine, preset]
    asked = [word for word in one.words if word != NO_ORIGIN]
    assert [word for word in asked if FETCHES.fullmatch(word)] == []
    assert one.launch is not None
    assert OFFLINE.items() <= one.launch.env.items()
    assert "HF_TOKEN" not in one.launch.env
    if engine == "llama-server":
        assert "--offline" in one.words


# ---------------------------------------------------------------- the real parsers


def on_disk(words: tuple[str, ...], folder: Path) -> list[str]:
    """The line with files that are there, but for the weights."""
    for name in ("key", "template.jinja", "mmproj.gguf"):
        (folder / name).write_text("x\n")
    return [word.replace(str(PLACE), str(folder)) for word in words]


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub that has nothing, and notes who asks."""
    with running_hub() as found:
        yield found


def towards(hub: Hub) -> dict[str, str]:
    """The environment in which an engine that downloads would ask this hub."""
    return dict.fromkeys(("HF_ENDPOINT", "MODEL_ENDPOINT"), f"{hub.url}/")


NO_FILE: Final = re.compile(r"failed to (load|open)|No such file", re.IGNORECASE)


@pytest.mark.real
@pytest.mark.llama_server
@pytest.mark.parametrize("preset", [p for e, p in TAKEN if e == "llama-server"])
def test_llama_server_takes_it(preset: str, llama_server: Path, hub: Hub, tmp_path: Path) -> None:
    """It gets as far as the weights, which are not there, and asks nobody for them."""
    one = TAKEN["llama-server", preset]
    assert one.launch is not None
    argv = on_disk(one.words, tmp_path)
    done = subprocess.run(
        [llama_server, *argv], env={**one.launch.env, **towards(hub)}, capture_output=True,
        text=True, timeout=40, check=False, cwd=tmp_path,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert not re.search(r"(?i)invalid argument|error: |unknown argument", said), said
    assert f"{preset}.gguf" in said, said
    assert NO_FILE.search(said), said
    assert hub.requests == []


@pytest.mark.real
@pytest.mark.llama_server
def test_llama_server_would_refuse_a_wrong_line_and_would_download(
    llama_server: Path, hub: Hub, tmp_path: Path
) -> None:
    """So that the test above means something."""
    one = TAKEN["llama-server", "qwen3-coder"]
    argv = on_disk((*one.words, "--no-such-flag"), tmp_path)
    done = subprocess.run(
        [llama_server, *argv], capture_output=True, text=True, timeout=40, check=False
    )
    assert "--no-such-flag" in done.stdout + done.stderr
    assert not NO_FILE.search(done.stdout + done.stderr)
    environ = {**os.environ, **towards(hub), "HOME": str(tmp_path)}
    fetching = [llama_server, "-hf", "owner/name"]
    subprocess.run(fetching, env=environ, capture_output=True, timeout=40, check=False)
    assert any("owner/name" in path for _, path, _ in hub.requests), hub.requests


def told(python: str, program: str, given: object, **environ: str) -> dict[str, str]:
    """What a program in another Python says of each line."""
    done = subprocess.run(
        [python, "-P", "-c", program], input=json.dumps(given), capture_output=True, text=True,
        timeout=55, check=False, env={**os.environ, **OFFLINE, **environ},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.rstrip().rpartition("\n")[2])
    return found


# In a process of its own: the wheel starts GPU drivers.
_XLLAMACPP = """
import importlib.util, json, sys, xllamacpp
runner, given = json.load(sys.stdin)
spec = importlib.util.spec_from_file_location("runner", runner)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
flags, said = module.load_flags(), {}
for name, argv in given.items():
    try:
        params = flags.parse(xllamacpp, argv)
        said[name] = f"{params.n_ctx} {params.n_parallel}"
    except flags.UsageError as error:
        said[name] = f"refused: {error}"
print("\\n" + json.dumps(said))
"""


@pytest.mark.real
def test_xllamacpp_takes_all(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    given = {p: on_disk(x.words, tmp_path) for (e, p), x in TAKEN.items() if e == "xllamacpp"}
    said = told(sys.executable, _XLLAMACPP, [str(XLLAMACPP), given])
    contexts = {name: int(given[name][given[name].index("-c") + 1]) for name in given}
    slots = {name: int(given[name][given[name].index("-np") + 1]) for name in given}
    assert said == {name: f"{contexts[name]} {slots[name]}" for name in given}
    wrong = {"wrong": [*given["qwen3-coder"], "--no-such-flag"]}
    assert "refused" in told(sys.executable, _XLLAMACPP, [str(XLLAMACPP), wrong])["wrong"]


# The server's own main, up to where it would open a port and load.
_MLX_LM = """
import contextlib, io, json, sys
import mlx_lm.server as server
taken = []
server.ModelProvider = lambda args: args
server.run = lambda host, port, provider: taken.append(provider.model)
server.maybe_set_recommended_wired_limit = lambda: None
said = {}
for name, argv in json.load(sys.stdin).items():
    sys.argv = ["mlx_lm.server", *argv]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            server.main()
        said[name] = taken[-1]
    except SystemExit:
        said[name] = f"refused: {errors.getvalue()}"
print("\\n" + json.dumps(said))
"""


@pytest.mark.real
@pytest.mark.mlx
def test_mlx_lm_takes_all(mlx_python: Path, hub: Hub, tmp_path: Path) -> None:
    given = {p: on_disk(x.words, tmp_path) for (e, p), x in TAKEN.items() if e == "mlx-lm"}
    said = told(str(mlx_python), _MLX_LM, {**given, "wrong": ["--no-such-flag"]}, **towards(hub))
    assert "unrecognized arguments" in said.pop("wrong")
    assert said == {name: str(tmp_path / name) for name in given}
    assert hub.requests == []


# The stand-in's parser is written from the real one's source; the real one weighs 6.5 GB.
_VLLM_MLX = """
import contextlib, io, json, sys
stand_in, given = json.load(sys.stdin)
sys.path.insert(0, stand_in)
from tests.fakes.vllm_mlx import parse
said = {}
for name, argv in given.items():
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            said[name] = parse(argv).served_model_name
    except SystemExit as error:
        said[name] = f"refused: {errors.getvalue()} {error}"
print("\\n" + json.dumps(said))
"""


def test_the_stand_in_of_vllm_mlx_takes_all(tmp_path: Path) -> None:
    given = {}
    for (engine, preset), one in TAKEN.items():
        if engine == "vllm-mlx":  # the runner has put the key in place of its file
            argv = list(one.words)
            at = argv.index("--api-key-file")
            given[preset] = [*argv[:at], "--api-key", "k", *argv[at + 2 :]]
    wrong = {"wrong": [*given["qwen3-coder"], "--no-such-flag"]}
    said = told(sys.executable, _VLLM_MLX, [str(ROOT), {**given, **wrong}])
    assert said.pop("wrong").startswith("refused")
    assert said == {name: name for name in given}


def test_every_preset_has_a_line_for_each_of_its_forms() -> None:
    for name, preset in PRESETS.items():
        forms = {"gguf": preset.gguf, "mlx": preset.mlx}
        wanted = [("llama-server", "gguf"), ("xllamacpp", "gguf"), ("mlx-lm", "mlx")]
        for engine, form in [*wanted, ("vllm-mlx", "mlx")]:
            assert ((engine, name) in LINES) == (forms[form] is not None)


def test_slots_share_no_context() -> None:
    """gpt-oss: 131072 tokens for each of two slots; for one, half of that in all."""
    text = LINES["llama-server", "gpt-oss-20b"].text
    assert "-c 262144\n-np 2\n" in text
    models = {"one": {"preset": "gpt-oss-20b", "slots": 1, "engine": "llama-server"}}
    model = Catalog.build(Settings.from_layers({"models": models}), PRESETS).models["one"]
    engine, installed = engines()["llama-server"]
    named = replace(model, name="gpt-oss-20b")
    assert "-c 131072\n-np 1\n" in line(named, "one", engine, installed).text
