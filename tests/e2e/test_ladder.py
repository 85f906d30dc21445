"""Whole daemons out of memory: step by step smaller, remembered, and back."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeHouse, timing
from tests.e2e.house import Watch
from tests.fakes.faults import OOM
from tests.fakes.start import argv as fake_argv
from tests.models import make_gguf

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

QUICK = timing(
    {
        "stop_grace": 0.5,
        "drain_grace": 2.0,
        "backoff": 0.05,
        "linger_min": 0,
        "linger_max": 0,
        "quantum_min": 0.05,
        "quantum_max": 0.1,
    }
)
HELP = """\
-m,    --model FNAME                    model path
-a,    --alias STRING                   model name
-c,    --ctx-size N                     size of the prompt context
-np,   --parallel N                     number of server slots
-kvu,  --kv-unified                     one buffer
-no-kvu, --no-kv-unified                buffers of their own
-b,    --batch-size N                   logical batch
-ub,   --ubatch-size N                  physical batch
-ctk,  --cache-type-k TYPE              type of K
-ctv,  --cache-type-v TYPE              type of V
-fa,   --flash-attn [on|off|auto]       flash attention
-cram, --cache-ram N                    prompt cache
-ctxcp, --ctx-checkpoints N             checkpoints
--jinja                                 templates
--host HOST                             where to listen
--port PORT                             port to listen
--api-key-file FNAME                    keys
"""
STEPS = ("-c", "-np", "-ub", "-ctk", "-ctv", "-fa", "--cache-ram")


class Engine:
    """A llama-server that runs out of memory unless its command line has some words (``needs``),
    and writes down how it was started."""

    def __init__(self, folder: Path) -> None:
        self.path, self._log = folder / "llama-server", folder / "starts"
        self._needs, self._says = folder / "needs", folder / "says"
        (folder / "help").write_text(HELP)
        self._log.touch()
        words = " ".join(f"'{word}'" for word in fake_argv())
        self.path.write_text(
            "#!/bin/sh\n"
            f"case $1 in --help) exec cat '{folder}/help';; --version) echo 'version: 9000 (a)';\n"
            f"exit;; esac\necho \"$*\" >> '{self._log}'\n"
            f"needs=$(cat '{self._needs}')\n"
            'case " $* metal $GGML_METAL_TENSOR_DISABLE " in *"$needs"*) ;; *)\n'
            f"cat '{self._says}' >&2\nexit 1;; esac\nexec {words} \"$@\"\n"
        )
        self.path.chmod(0o755)

    def needs(self, words: str, says: str = OOM) -> None:
        self._needs.write_text(words)
        self._says.write_text(f"{says}\n")

    @property
    def starts(self) -> list[dict[str, str]]:
        """Of each start, what the ladder decides."""
        lines = (line.split() for line in self._log.read_text().splitlines())
        pairs = (dict(pairwise(line)) for line in lines)
        return [{flag: words[flag] for flag in STEPS if flag in words} for words in pairs]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "large.gguf"
    make_gguf(path, layers=2, heads=2, kv_heads=1, head_dim=32, context=131072)
    return path


def config(
    engine: Engine, weights: Path, *, memory: str = "", slots: int = 2, own: str = ""
) -> str:
    return (
        f'{QUICK}[defaults]\nslots = 2\n[engines.llama-server]\npath = "{engine.path}"\n'
        f'[memory]\nbudget = "3GiB"\n{memory}\n'
        f'[models.m]\npath = "{weights}"\nengine = "llama-server"\n{own}\n'
    )


FULL = {"-c": "262144", "-np": "2", "--cache-ram": "0"}
LAST = {
    "-c": "32768", "-np": "1", "--cache-ram": "0", "-ub": "256", "-ctk": "q8_0", "-ctv": "q8_0",
    "-fa": "on",
}  # fmt: skip


def test_down_in_order_remembered_and_back(
    make_house: MakeHouse, engine: Engine, weights: Path
) -> None:
    engine.needs("-c 32768")
    house = make_house(config(engine, weights))
    with house:
        assert house.ctl("load", "m").returncode == 0, "an operator waits for any number of starts"
        seen = engine.starts
        cached = seen.pop(0)
        assert int(cached.pop("--cache-ram")) > 0
        assert cached == {k: v for k, v in FULL.items() if k != "--cache-ram"}
        assert seen == [
            FULL,
            {**FULL, "-ub": "256"},
            {**FULL, "-c": "131072", "-np": "1", "-ub": "256"},
            {**LAST, "-c": "131072"},
            {**LAST, "-c": "65536"},
            LAST,
        ], "nobody was beside it: alone would change nothing"
        assert house.chat("m").status == 200
        told = house.ctl("ps").stdout
        assert "context 32768, batch 256, one slot, KV q8_0 (after running out of mem" in told
        assert "`ctl reset m`" in told
        shown = house.ctl("show", "m").stdout
        assert "degraded" in shown
        assert "or by itself in 23h" in shown
        (backend,) = house.backends().values()
        assert (backend["context"], backend["slots"]) == (32768, 1)
        assert backend["degraded_since"] > 0
        assert house.kinds("m").count("degraded") == 6
        assert "its full size again: `ctl reset m`" in house.ctl("why", "m").stdout
    began = len(engine.starts)
    with house:
        degraded = house.client.get("/models/m")["degraded"]
        assert degraded.startswith("context 32768, batch 256, one slot, KV q8_0")
        assert '"degraded": "context 32768' in house.ctl("ps", "--json").stdout
        assert house.chat("m").status == 200
        assert engine.starts[began:] == [LAST], "it goes on from where it stood"
        engine.needs("-c")
        reset = house.ctl("reset", "m")
        assert "its next start is at full size (what runs goes on" in reset.stdout, reset
        assert "KV q8_0 (its next start is at full size)" in house.ctl("ps").stdout
        assert house.ctl("unload", "m").returncode == 0
        assert house.chat("m").status == 200
        assert int(engine.starts[-1]["--cache-ram"]) > 0
        assert engine.starts[-1]["-c"] == "262144"
        assert house.client.get("/models/m")["degraded"] == ""


def test_a_request_sees_three_starts_and_then_the_numbers(
    make_house: MakeHouse, engine: Engine, weights: Path
) -> None:
    engine.needs("no such word")
    with make_house(config(engine, weights)) as house:
        answer = house.chat("m")
        assert answer.status == 503
        assert len(engine.starts) >= 3
        error = answer.json()["error"]
        assert "ran out of memory 3 times while this request waited" in error["message"]
        assert int(answer.headers["retry-after"]) >= 1
        for _ in range(6):
            answer = house.chat("m")
            error = answer.json()["error"]
            if "needs" in error["message"]:
                break
        assert "Its smallest form (context 32768, batch 256, one slot, KV q8_0)" in error["message"]
        assert "the budget is 3.0 GiB" in error["message"]
        assert "smaller context (ctx) or quantisation (Q4)" in error["message"]
        assert answer.headers["x-should-retry"] == "false"
        assert engine.starts[-1] == LAST
        assert len(engine.starts) == 7, "each step once"
        assert "failed" in house.ctl("ps").stdout


@pytest.mark.parametrize("aggressive", [False, True])
def test_what_the_user_wrote(
    make_house: MakeHouse, engine: Engine, weights: Path, aggressive: bool
) -> None:
    engine.needs("no such word")
    own = 'ctx = 65536\nslots = 2\nargs = ["-ub", "1024", "-ctk", "f16"]'
    memory = 'degrade = "aggressive"' if aggressive else ""
    with make_house(config(engine, weights, memory=memory, own=own)) as house:
        assert house.ctl("load", "m").returncode == 1
        seen = [{k: v for k, v in start.items() if k != "--cache-ram"} for start in engine.starts]
        written = {"-c": "131072", "-np": "2", "-ub": "1024", "-ctk": "f16"}
        if not aggressive:
            assert seen == [written]
            return
        assert seen[0] == written
        final = {**{k: v for k, v in LAST.items() if k != "--cache-ram"}, "-c": "32768"}
        half = {**final, "-c": "65536"}
        assert seen[-2:] == [half, final], seen


def test_the_neighbour_leaves_before_anything_is_given_up(
    make_house: MakeHouse, engine: Engine, weights: Path, tiny_gguf: Path
) -> None:
    """Its other model is small enough to stay by the budget; the machine says otherwise."""
    engine.needs("-ub 256")
    other = f'[models.small]\npath = "{tiny_gguf}"\nengine = "xllamacpp"\nctx = 512\n'
    with make_house(config(engine, weights) + other) as house:
        assert house.chat("small").status == 200
        watch = Watch(house)
        assert house.chat("m").status in (200, 503)
        stop = watch.wait("evict", "small")
        degraded = [e for e in watch.seen if e.kind == "degraded"]
        assert "no other model beside its start" in degraded[1].data["text"]
        assert stop.id > degraded[1].id
        assert house.ctl("load", "m").returncode == 0
        assert engine.starts[-1]["-ub"] == "256"
        assert house.chat("small").status == 200, "once it is there others may come back"


# ---------------------------------------------------------------- Metal


def test_metal_is_started_once_more_without_its_tensor_units(
    make_house: MakeHouse, engine: Engine, weights: Path
) -> None:
    engine.needs("metal 1", "ggml_metal_init: error: failed to initialize the Metal library")
    house = make_house(config(engine, weights))
    with house:
        assert house.chat("m").status == 200, "whoever waited is served"
        assert len(engine.starts) == 2
        assert "GGML_METAL_TENSOR_DISABLE=1" in house.ctl("ps").stdout
        (told,) = [e for e in house.events() if e.kind == "remedy"]
        assert told.data["text"].startswith("llama-server 9000 (a): Metal did not start")
        assert "started again at once with GGML_METAL_TEN" in house.ctl("why", "m").stdout
    with house:
        assert house.chat("m").status == 200
        assert len(engine.starts) == 3, "remembered"
        assert house.ctl("unload", "m").returncode == 0
        engine.needs("never", "ggml_metal_init: error: failed to initialize the Metal library")
        answer = house.chat("m")
        assert answer.status == 503
        assert answer.headers["x-should-retry"] == "false"
        assert len(engine.starts) == 5
        assert house.chat("m").status == 503
        assert len(engine.starts) == 5, "given up until something changes"


# ---------------------------------------------------------------- a real engine, really out of it


@pytest.mark.parametrize(
    "name", ["xllamacpp", pytest.param("llama-server", marks=pytest.mark.llama_server)]
)
def test_a_real_engine_that_is_refused_memory(
    make_house: MakeHouse, request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    """Its address space is limited: with a gigabyte of context it dies, with one slot's quarter of
    it it serves."""
    real = name == "llama-server"
    program = request.getfixturevalue("llama_server") if real else Path(sys.executable)
    path, wrapper = tmp_path / "m.gguf", tmp_path / "limited"
    make_gguf(path, layers=4, heads=4, kv_heads=4, head_dim=64, context=65536)

    def config(limit: int | None, ctx: int) -> str:
        told = f"ulimit -v {limit // 1024}\n" if limit is not None else ""
        # One arena: else malloc sets 64 MiB of addresses aside for each thread, as many as there
        # happen to be processors and turns, and what dies first is any of a dozen things.
        arena = "export MALLOC_ARENA_MAX=1\n"
        wrapper.write_text(f"#!/bin/sh\n{arena}{told}exec '{program}' \"$@\"\n")
        wrapper.chmod(0o755)
        sizes = f"[defaults]\nctx = {ctx}\nmin_ctx = 4096\nslots = 4\n"
        return (
            f'{QUICK}{sizes}[engines.{name}]\npath = "{wrapper}"\n'
            f'[models.m]\npath = "{path}"\nengine = "{name}"\nargs = ["-t", "1"]\n'
        )

    with make_house(config(None, 4096)) as house:
        assert house.chat("m").status == 200
        status = Path(f"/proc/{house.backends()['m']['pid']}/status").read_text()
        (peak,) = (int(line.split()[1]) << 10 for line in status.splitlines() if "VmPeak" in line)
    with make_house(config(peak + (512 << 20), 65536)) as house:
        loaded = house.ctl("load", "m")
        assert loaded.returncode == 0, loaded
        (backend,) = house.backends().values()
        assert backend["degraded"].startswith("context 65536, batch 256, one slot"), backend
        assert (backend["context"], backend["slots"]) == (65536, 1)
        assert house.chat("m").status == 200
        stories = house.client.get("/incidents", model="m")["stories"]
        assert {story["last"]["exit_class"] for story in stories} == {"out_of_memory"}, stories
