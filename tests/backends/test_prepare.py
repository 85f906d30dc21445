"""Models made ready: what is found, what it costs, and what is said where something lacks."""

from __future__ import annotations

import os
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from daemon.backends.prepare import Prepared
from daemon.core.problems import Code
from daemon.engines.base import LaunchPlan
from daemon.engines.pricing import OWN_BYTES
from daemon.weights.footprint import Breakdown, Shape, estimate, estimate_mlx
from tests.backends.kitchen import Kitchen
from tests.models import make_gguf
from tests.models.net import write
from tests.models.zoo import ZOO
from tests.weights.files import write_gguf

MIB = 1 << 20


@pytest.fixture
def kitchen(tmp_path: Path) -> Kitchen:
    made = Kitchen(tmp_path)
    made.install()
    return made


def model(path: Path | str, **fields: Any) -> dict[str, Any]:
    return {"models": {"tiny": {"path": str(path), **fields}}}


def plain(item: Prepared) -> list[int]:
    """The contexts at full size, best first: without the ladder."""
    return [item.ways[variant.id].ctx for variant in item.spec.plain]


def ids(item: Prepared) -> list[str]:
    return [variant.id for variant in item.spec.plain]


def launched(item: Prepared, way: str | None = None) -> tuple[str, ...]:
    """The command line that a start would have."""
    assert item.engine is not None
    assert item.installed is not None
    assert item.best is not None
    plan = LaunchPlan(
        model=item.model.name,
        path=item.path,
        running=item.ways[way or item.best.id],
        kind=item.kind,
        port=40000,
        secret="s",
        secret_file=Path("/run/key"),
        mmproj=item.mmproj,
        draft=item.draft,
        args=item.engine_args,
        env=item.engine_env,
    )
    return item.engine.launch(plan, item.installed).argv


# ---------------------------------------------------------------- found


def test_a_file_is_all_that_is_needed(kitchen: Kitchen, tiny_gguf: Path) -> None:
    item = kitchen.sound(model(tiny_gguf))
    assert (item.engine_name, item.kind, item.path) == ("llama-server", "chat", tiny_gguf)
    assert item.installed is not None
    assert item.installed.version == "8123 (abc)"
    assert item.weights is not None
    assert item.trained_context == item.weights.n_ctx_train
    assert item.best is not None
    assert item.best.ctx == item.trained_context
    assert {"chat", "messages", "upstream"} <= item.routes
    assert item.source == str(tiny_gguf)
    assert item.pulled
    spec = item.spec
    assert (spec.name, spec.slots, spec.keep_alive, spec.pinned) == ("tiny", 1, 900.0, False)
    assert [v.id for v in spec.variants] == list(item.ways) == list(item.prices)
    assert spec.load_estimate == pytest.approx(1.0 + tiny_gguf.stat().st_size / 1.5e9, abs=1e-3)


def test_what_the_schedule_must_know(kitchen: Kitchen, tiny_gguf: Path) -> None:
    fields = {"slots": 3, "keep_alive": "5m", "pin": True, "priority": 2}
    spec = kitchen.sound(model(tiny_gguf, **fields)).spec
    assert (spec.slots, spec.keep_alive, spec.pinned, spec.priority) == (3, 300.0, True, 2.0)
    assert all(" x 3 slots" in variant.id for variant in spec.variants)


def test_companions_are_found_and_paid_for(kitchen: Kitchen, tmp_path: Path) -> None:
    make_gguf(tmp_path / "big.gguf", size=8 * MIB, fill="sparse")
    make_gguf(tmp_path / "small.gguf")
    alone = kitchen.sound(model(tmp_path / "big.gguf", ctx=512))
    item = kitchen.sound(model(tmp_path / "big.gguf", draft="small.gguf", ctx=512))
    assert item.draft == tmp_path / "small.gguf"
    way = next(iter(item.prices))
    assert item.prices[way].weights - alone.prices[way].weights > 100_000
    assert item.prices[way].total > alone.prices[way].total
    assert item.started_as != alone.started_as


def test_who_can_see(kitchen: Kitchen, tmp_path: Path, tiny_gguf: Path) -> None:
    """Programs are told of it, and images are kept from one that cannot."""
    weights = tmp_path / "tiny.gguf"
    weights.write_bytes(tiny_gguf.read_bytes())
    write_gguf(tmp_path / "mmproj.gguf", "clip", {})
    for fields, sees in (
        ({}, False),
        ({"mmproj": "mmproj.gguf"}, True),
        ({"args": ["--mmproj", str(tmp_path / "mmproj.gguf")]}, True),
    ):
        item = kitchen.one(model(weights, **fields))
        assert (item.sees, item.shown_kind) == (sees, "vision" if sees else "chat")
        assert item.kind == "chat", "what it answers is the same"
        assert item.manner is not None
        assert item.manner.norms.blind is not sees


def test_engines_are_asked_once(kitchen: Kitchen, tiny_gguf: Path) -> None:
    config = {"models": {name: {"path": str(tiny_gguf)} for name in ("a", "b", "c")}}
    script = kitchen.folder / "bin" / "llama-server"
    counted = script.read_text().replace("case $1", f"echo x >> '{kitchen.folder}/asked'\ncase $1")
    script.write_text(counted)
    items = kitchen.prepare(config)
    assert [item.problem for item in items.values()] == [None] * 3
    asked = len((kitchen.folder / "asked").read_text().split())
    assert asked == 3  # --help, --version, --list-devices


# ---------------------------------------------------------------- what lacks


def test_a_file_that_is_not_there(kitchen: Kitchen) -> None:
    problem = kitchen.broken(model("/no/such.gguf"))
    assert problem.code is Code.MODEL_UNAVAILABLE
    assert "tiny" in problem.message
    assert "/no/such.gguf" in problem.message
    assert kitchen.one(model("/no/such.gguf")).pulled


def test_one_that_was_not_pulled(kitchen: Kitchen) -> None:
    config = {"models": {"tiny": {"hf": "owner/repo:Q4_K_M"}}}
    problem = kitchen.broken(config)
    assert problem.code is Code.NOT_PULLED
    assert "ctl pull tiny" in problem.hint
    item = kitchen.one(config)
    assert not item.pulled
    assert item.source == "hf:owner/repo:Q4_K_M"


def test_a_projector_that_is_not_there(kitchen: Kitchen, tiny_gguf: Path) -> None:
    problem = kitchen.broken(model(tiny_gguf, mmproj="mmproj.gguf"))
    assert problem.code is Code.NOT_PULLED
    assert "mmproj.gguf" in problem.message


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"no model at all", b"GGUF\x03\0\0\0" + b"\xff" * 64]
)
def test_a_broken_file(kitchen: Kitchen, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    problem = kitchen.broken(model(path))
    assert problem.code is Code.MODEL_UNAVAILABLE
    assert problem.message.startswith("tiny: ")
    assert "broken.gguf" in problem.message
    assert "again" in problem.hint


def test_a_cut_file(kitchen: Kitchen, tmp_path: Path, tiny_gguf: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:-5000])
    assert kitchen.broken(model(path)).code is Code.MODEL_UNAVAILABLE


def test_an_engine_that_is_not_there(tmp_path: Path, tiny_gguf: Path) -> None:
    kitchen = Kitchen(tmp_path)
    config = model(tiny_gguf, engine="llama-server")
    config["engines"] = {"llama-server": {"path": "/no/such/llama-server"}}
    problem = kitchen.broken(config)
    assert problem.code is Code.ENGINE_MISSING
    assert "/no/such/llama-server" in problem.message
    assert kitchen.one(config).pulled


def test_an_engine_in_another_version(kitchen: Kitchen, tiny_gguf: Path) -> None:
    config = model(tiny_gguf, engine="llama-server")
    config["engines"] = {"llama-server": {"version": "b9000"}}
    problem = kitchen.broken(config)
    assert problem.code is Code.ENGINE_MISSING
    assert "8123" in problem.message


def test_one_broken_model_does_not_touch_the_others(
    kitchen: Kitchen, tmp_path: Path, tiny_gguf: Path
) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    models = {
        "bad": {"path": str(tmp_path / "bad.gguf")},
        "args": {"path": str(tiny_gguf), "args": ["-ctk", "nope"]},
        "good": {"path": str(tiny_gguf)},
    }
    items = kitchen.prepare({"models": models})
    assert [name for name, item in items.items() if item.problem is None] == ["good"]


# ---------------------------------------------------------------- prices


def shape_of(argv: tuple[str, ...], trained: int) -> Shape:
    """What llama.cpp makes of a command line: the last word counts."""

    def last(default: str, *names: str) -> str:
        found = [after for name, after in pairwise(argv) if name in names]
        return found[-1] if found else default

    return Shape(
        ctx=int(last("0", "-c", "--ctx-size")) or trained,
        slots=int(last("1", "-np", "--parallel")),
        ubatch=int(last("512", "-ub", "--ubatch-size")),
        type_k=last("f16", "-ctk", "--cache-type-k"),
        type_v=last("f16", "-ctv", "--cache-type-v"),
        prompt_cache=int(last("8192", "-cram", "--cache-ram")) * MIB,
        unified_kv=any(word in ("-kvu", "--kv-unified") for word in argv),
        swa_full="--swa-full" in argv,
        checkpoints=int(last("32", "-ctxcp", "--ctx-checkpoints")),
        batch=int(last("2048", "-b", "--batch-size")),
        embedding="--embeddings" in argv or "--reranking" in argv,
        all_logits=True,  # build 8123
    )


ARGS = st.lists(
    st.sampled_from(
        [
            ["-c", "2048"], ["-c", "0"], ["--ctx-size", "700"], ["-np", "2"], ["--parallel", "3"],
            ["-ub", "128"], ["-b", "1024", "-ub", "1024"], ["-ctk", "q8_0"],
            ["--cache-type-v", "q4_0"], ["-cram", "64"], ["--cache-ram", "0"], ["-ctxcp", "7"],
            ["-kvu"], ["--swa-full"], ["-ngl", "3"],
        ]
    ),
    max_size=4,
)  # fmt: skip


@given(ARGS, ARGS, st.sampled_from([None, 512, 1000, 4096]), st.integers(1, 3))
@profile(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_prices_are_of_what_is_really_passed(
    kitchen: Kitchen,
    gemma: Path,
    engine: list[list[str]],
    own: list[list[str]],
    ctx: int | None,
    slots: int,
) -> None:
    config = model(gemma, slots=slots, args=[*chain(*own)], **({"ctx": ctx} if ctx else {}))
    config["engines"] = {"llama-server": {"args": [*chain(*engine)]}}
    item = kitchen.sound(config)
    assert item.weights is not None
    for way, price in item.prices.items():
        argv = launched(item, way)
        assert price == estimate(item.weights, shape_of(argv, item.weights.n_ctx_train))
        (variant,) = (v for v in item.spec.variants if v.id == way)
        assert variant.need == {"ram": price.total}


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five of six layers see a window only: everything of a price differs from zero."""
    path = tmp_path_factory.mktemp("gemma") / "gemma.gguf"
    make_gguf(path, arch="gemma3", layers=6, window=128, context=8192)
    return path


@pytest.mark.parametrize(
    "args", [["-ctk", "nope"], ["-ub", "0"], ["-np", "0"]], ids=lambda args: " ".join(args)
)
def test_args_that_say_nonsense(kitchen: Kitchen, tiny_gguf: Path, args: list[str]) -> None:
    problem = kitchen.broken(model(tiny_gguf, args=args))
    assert problem.code is Code.MODEL_UNAVAILABLE
    assert "tiny: its args" in problem.message
    assert "args" in problem.hint


def test_the_embedded_engine_pays_for_its_python(kitchen: Kitchen, tiny_gguf: Path) -> None:
    item = kitchen.sound(model(tiny_gguf, engine="xllamacpp", ctx=512))
    assert item.weights is not None
    assert item.best is not None
    price = item.prices[item.best.id]
    bare = estimate(item.weights, Shape(512, prompt_cache=0, checkpoints=item.best.checkpoints))
    assert price.total == bare.total + OWN_BYTES["xllamacpp"]


def test_an_mlx_engine_by_its_own_formula(kitchen: Kitchen, tiny_hf: Path, tmp_path: Path) -> None:
    script = tmp_path / "bin" / "mlx_lm.server"
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    config = model(tiny_hf, engine="mlx-lm", ctx=1024, slots=2)
    item = kitchen.sound(config)
    assert item.weights is not None
    assert item.weights.format == "safetensors"
    assert item.best is not None
    assert item.prices[item.best.id] == estimate_mlx(item.weights, 1024, slots=2)


def test_a_prompt_cache_where_the_budget_leaves_room(tmp_path: Path) -> None:
    path = write(ZOO["qwen3-30b-a3b"][0](), tmp_path / "m.gguf")
    config = model(path, ctx=8192)
    roomy = Kitchen(tmp_path, room={"ram": 64 << 30})
    roomy.install()
    item = roomy.sound(config)
    assert ids(item) == ["context 8192 with a prompt cache", "context 8192"]
    with_cache, without = (variant.need["ram"] for variant in item.spec.plain)
    assert with_cache - without == item.prices["context 8192 with a prompt cache"].prompt_cache
    assert with_cache - without == 8 * 768 * MIB
    argv = launched(item)
    assert argv[argv.index("--cache-ram") + 1] == str(8 * 768)
    assert item.promised("context 8192 with a prompt cache")["ram"] > 8 * 768 * MIB
    assert ids(Kitchen(tmp_path, room={"ram": 32 << 30}).sound(config)) == ["context 8192"]
    assert ids(Kitchen(tmp_path).sound(config)) == ["context 8192"]


# ---------------------------------------------------------------- contexts


def test_a_written_context_is_the_only_way(kitchen: Kitchen, tiny_gguf: Path) -> None:
    item = kitchen.sound(model(tiny_gguf, ctx=3000))
    assert {run.ctx for run in item.ways.values()} == {3000}
    assert plain(item) == [3000]


def test_with_a_least_context_it_may_shrink(kitchen: Kitchen, tiny_gguf: Path) -> None:
    item = kitchen.sound(model(tiny_gguf, ctx=3000, min_ctx=1024))
    assert plain(item) == [3000, 2048, 1536, 1024]
    needs = [variant.need["ram"] for variant in item.spec.plain]
    assert needs == sorted(needs, reverse=True)


def test_an_unwritten_one_is_the_largest_that_may_be(kitchen: Kitchen, tmp_path: Path) -> None:
    make_gguf(tmp_path / "long.gguf", context=1_000_000)
    item = kitchen.sound(model(tmp_path / "long.gguf"))
    assert plain(item) == [131072, 98304, 65536, 49152, 32768]


def test_of_two_cards_each_alone_is_tried_first_then_both(tmp_path: Path, tiny_gguf: Path) -> None:
    """The engine sees the cards of its way alone, by the driver's names, and is told to share its
    layers as they were priced."""
    kitchen = Kitchen(tmp_path, devices="  CUDA0: x\\n", pools=("gpu0", "gpu1", "ram"))
    kitchen.install()
    item = kitchen.sound(model(tiny_gguf, ctx=2048))
    first, second, both = item.spec.plain
    assert ids(item) == [
        "context 2048 on gpu0",
        "context 2048 on gpu1",
        "context 2048 on gpu0 + gpu1",
    ]
    assert set(first.need) == {"gpu0", "ram"}
    assert set(second.need) == {"gpu1", "ram"}
    assert first.need["gpu0"] == second.need["gpu1"]
    assert set(both.need) == {"gpu0", "gpu1", "ram"}
    stock = kitchen.stock(model(tiny_gguf, ctx=2048))
    for variant, seen, split in ((second, "GPU-gpu1", None), (both, "GPU-gpu0,GPU-gpu1", "1,1")):
        plan = stock._plan(stock.prepared["tiny"], 1, variant, 40000)
        assert item.engine is not None
        assert item.installed is not None
        launch = item.engine.launch(plan, item.installed)
        assert launch.env["CUDA_VISIBLE_DEVICES"] == seen
        found = dict(pairwise(launch.argv)).get("-ts")
        assert found == split


@pytest.mark.parametrize("args", [["-ts", "3,1"], ["-sm", "none"], ["--device", "CUDA1"]])
def test_who_places_layers_himself_is_left_alone(
    args: list[str], tmp_path: Path, tiny_gguf: Path
) -> None:
    kitchen = Kitchen(tmp_path, devices="  CUDA0: x\\n", pools=("gpu0", "gpu1", "ram"))
    kitchen.install()
    item = kitchen.sound(model(tiny_gguf, ctx=2048, args=args))
    assert ids(item) == ["context 2048"]


# ---------------------------------------------------------------- kinds


@pytest.mark.parametrize(
    ("kind", "route", "flag"),
    [("embedding", "embeddings", "--embeddings"), ("rerank", "rerank", "--reranking")],
)
def test_encoders(
    kitchen: Kitchen, request: pytest.FixtureRequest, kind: str, route: str, flag: str
) -> None:
    path = request.getfixturevalue(f"{kind}_gguf")
    item = kitchen.sound(model(path))
    assert item.kind == kind
    assert item.routes == {route, "tokens", "upstream"}
    assert item.best is not None
    assert item.best.ctx <= 8192
    argv = launched(item)
    assert flag in argv
    assert item.weights is not None
    price = item.prices[item.best.id]
    assert price == estimate(item.weights, shape_of(argv, item.weights.n_ctx_train))


def test_a_written_kind_wins(kitchen: Kitchen, tiny_gguf: Path) -> None:
    item = kitchen.sound(model(tiny_gguf, kind="embedding"))
    assert item.kind == "embedding"
    assert "embeddings" in item.routes


def test_dialects_narrow_the_routes(kitchen: Kitchen, tiny_gguf: Path) -> None:
    routes = kitchen.sound(model(tiny_gguf, dialects=["messages"])).routes
    assert routes == {"messages", "count_tokens", "infill", "tokens", "upstream"}
    routes = kitchen.sound(model(tiny_gguf, dialects=["chat"])).routes
    assert routes == {"chat", "completions", "infill", "tokens", "upstream"}


# ---------------------------------------------------------------- pools


@pytest.mark.parametrize(
    ("pools", "devices", "written", "expected"),
    [
        (["ram"], "", None, "ram"),
        (["unified"], "  MTL0: Apple M4\\n", None, "unified"),
        (["unified"], "", None, "unified"),
        (["ram", "gpu0"], "", None, "ram"),  # an engine without CUDA runs on the processor
        (["ram"], "  CUDA0: x\\n", None, "ram"),
        (["gpu0", "gpu1", "ram"], "  CUDA0: x\\n", "gpu1", "gpu1"),
        (["gpu0", "ram"], "  CUDA0: x\\n", "ram", "ram"),
    ],
)
def test_where_it_runs(
    tmp_path: Path,
    tiny_gguf: Path,
    pools: list[str],
    devices: str,
    written: str | None,
    expected: str,
) -> None:
    kitchen = Kitchen(tmp_path, devices, pools)
    kitchen.install()
    item = kitchen.sound(model(tiny_gguf, **({"pool": written} if written else {})))
    needs = {tuple(variant.need) for variant in item.spec.variants}
    # What a GPU has is not all: the embedding and the process are in main memory.
    assert needs == {(expected, "ram") if expected.startswith("gpu") else (expected,)}


# ---------------------------------------------------------------- args and environment


def test_args_and_environment_are_merged_the_last_counts(kitchen: Kitchen, tiny_gguf: Path) -> None:
    config = model(tiny_gguf, args=["-lv", "3"], env={"B": "model", "C": "3"})
    table = {"args": ["-lv", "1", "-ngl", "9"], "env": {"A": "1", "B": "engine"}}
    config["engines"] = {"llama-server": table}
    item = kitchen.sound(config)
    assert item.engine_args == ("-lv", "1", "-ngl", "9", "-lv", "3")
    assert item.engine_env == {"A": "1", "B": "model", "C": "3"}
    assert launched(item)[-6:] == item.engine_args


def test_a_presets_args_stand_between(kitchen: Kitchen, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf")
    config = model(path, preset="gpt-oss-20b", args=["-ngl", "1"], ctx=512)
    config["engines"] = {"llama-server": {"args": ["-ngl", "2"]}}
    item = kitchen.sound(config)
    preset = item.model.args_for("llama-server")[:-2]
    assert preset
    assert item.engine_args == ("-ngl", "2", *preset, "-ngl", "1")


# ---------------------------------------------------------------- commands


def command(**fields: Any) -> dict[str, Any]:
    return {
        "models": {"tiny": {"engine": "command.mine", **fields.pop("model", {})}},
        "engines": {"command": {"mine": {"argv": ["/bin/sh", "{port}"], **fields}}},
    }


def test_a_command_with_a_footprint_needs_nothing_else(kitchen: Kitchen) -> None:
    item = kitchen.sound(command(footprint="3GiB"))
    assert (item.engine_name, item.kind, item.path) == ("command.mine", "chat", None)
    assert set(item.prices.values()) == {Breakdown(3 << 30, 0, 0, 0, 0)}
    assert item.source == "command.mine"
    assert {"chat", "completions", "upstream"} == item.routes


def test_a_command_without_weights_is_a_small_process(kitchen: Kitchen) -> None:
    item = kitchen.sound(command(kind="embedding"))
    assert item.kind == "embedding"
    assert {price.total for price in item.prices.values()} == {64 * MIB}


def test_a_commands_weights_count_by_their_size(
    kitchen: Kitchen, tmp_path: Path, tiny_gguf: Path
) -> None:
    """As the description of ``footprint`` says; also of a form that we cannot read."""
    odd = tmp_path / "whisper.bin"
    with odd.open("wb") as file:
        os.truncate(file.fileno(), 5 << 30)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_bytes(b"x" * 1000)
    for path, size in ((odd, 5 << 30), (folder, 2000), (tiny_gguf, tiny_gguf.stat().st_size)):
        item = kitchen.sound(command(model={"path": str(path)}))
        assert {price.total for price in item.prices.values()} == {size + 64 * MIB}


def test_a_footprint_is_taken_as_written(kitchen: Kitchen, tiny_gguf: Path) -> None:
    item = kitchen.sound(command(footprint="1GiB", model={"path": str(tiny_gguf)}))
    assert {price.total for price in item.prices.values()} == {1 << 30}


def test_a_command_that_is_not_there(kitchen: Kitchen) -> None:
    problem = kitchen.broken(command(argv=["/no/such/server", "{port}"]))
    assert problem.code is Code.ENGINE_MISSING
    assert "/no/such/server" in problem.message


# ---------------------------------------------------------------- the ladder

LARGE = ZOO["qwen3-30b-a3b"][0]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return write(LARGE(), tmp_path / "large.gguf")


def rungs(item: Prepared) -> list[str]:
    """What is given up, rung by rung: the first variant of each."""
    found: dict[int, str] = {}
    for variant in item.spec.variants:
        found.setdefault(variant.rung, variant.id)
    return [found[rung] for rung in sorted(found)]


def test_rung_by_rung_down_to_the_least_context(kitchen: Kitchen, large: Path) -> None:
    item = kitchen.sound({"defaults": {"slots": 4}, **model(large)})
    assert rungs(item) == [
        "context 131072 x 4 slots",
        "context 131072 x 4 slots, batch 256",
        "context 131072, batch 256, one slot",
        "context 131072, batch 256, one slot, KV q8_0",
    ]
    assert item.spec.alone == 2
    last = item.spec.variants[-1]
    assert (last.id, last.until) == ("context 32768, batch 256, one slot, KV q8_0", 7)
    floor = [v.id for v in item.spec.variants if v.allowed_on(7)]
    assert floor == ["context 32768, batch 256, one slot, KV q8_0"]
    argv = launched(item, last.id)
    asked = dict(pairwise(argv))
    assert [asked[flag] for flag in ("-c", "-np", "-ub", "-ctk", "-ctv")] == [
        "32768", "1", "256", "q8_0", "q8_0",
    ]  # fmt: skip


def test_what_the_user_wrote_stays(kitchen: Kitchen, large: Path) -> None:
    config = model(large, ctx=65536, slots=2, args=["-ub", "1024", "-ctk", "f16"])
    item = kitchen.sound(config)
    assert rungs(item) == ["context 65536 x 2 slots"]
    config["memory"] = {"degrade": "aggressive"}
    item = kitchen.sound(config)
    assert rungs(item) == [
        "context 65536 x 2 slots",
        "context 65536 x 2 slots, batch 256",
        "context 65536, batch 256, one slot",
        "context 65536, batch 256, one slot, KV q8_0",
        "context 32768, batch 256, one slot, KV q8_0",
    ]
    argv = launched(item, item.spec.variants[-1].id)
    assert (argv.count("-ub"), argv.count("-ctk")) == (1, 1), "what he wrote gives way as a whole"
    assert "1024" not in argv
    config["memory"] = {"degrade": "off"}
    assert rungs(kitchen.sound(config)) == ["context 65536 x 2 slots"]
    assert kitchen.sound(config).spec.alone == 0


def test_a_command_can_only_give_up_its_context(kitchen: Kitchen) -> None:
    config = command(footprint="1GiB", argv=["/bin/sh", "{port}", "{ctx}"])
    item = kitchen.sound({"defaults": {"ctx": 8192, "min_ctx": 4096}, **config})
    assert plain(item) == [8192, 6144, 4096]
    assert [v.id for v in item.spec.variants if v.allowed_on(3)] == ["context 4096"]
    config = command(footprint="1GiB")
    item = kitchen.sound({"defaults": {"ctx": 8192, "min_ctx": 4096}, **config})
    assert max(v.rung for v in item.spec.variants) == 0, "its template passes no context on"


def test_of_two_cards_each_step_is_placed_as_the_whole(tmp_path: Path, large: Path) -> None:
    kitchen = Kitchen(tmp_path, devices="  CUDA0: x\\n", pools=("gpu0", "gpu1", "ram"))
    kitchen.install()
    item = kitchen.sound(model(large, ctx=8192))
    step = [v.id for v in item.spec.variants if v.rung == 3]
    assert step == [
        "context 8192 on gpu0, batch 256",
        "context 8192 on gpu1, batch 256",
        "context 8192 on gpu0 + gpu1, batch 256",
    ]


def test_layers_leave_the_card_only_where_that_is_allowed(tmp_path: Path, large: Path) -> None:
    kitchen = Kitchen(tmp_path, devices="  CUDA0: x\\n", pools=("gpu0", "ram"))
    kitchen.install()
    config = model(large, ctx=8192)
    assert not any("layers" in v for v in kitchen.sound(config).ways)
    item = kitchen.sound({"memory": {"allow_cpu_offload": True}, **config})
    away = [v for v in item.spec.variants if "layers" in v.id]
    assert [v.id.rpartition(", ")[2] for v in away] == [
        f"{n} of 49 layers on the GPU" for n in (36, 24, 12)
    ]
    needs = [v.need["gpu0"] for v in away]
    assert needs == sorted(needs, reverse=True)
    assert [v.rung for v in away] == [v.until for v in away] == [5, 6, 7]
    asked = dict(pairwise(launched(item, away[0].id)))
    assert asked["-ngl"] == "36"


def test_the_mark_of_a_ladder_changes_with_what_it_hangs_on(tmp_path: Path, large: Path) -> None:
    def mark(**more: Any) -> str:
        config = {"memory": {"budget": "64GiB"}, **model(large, ctx=8192), **more.pop("config", {})}
        kitchen = Kitchen(tmp_path, **more)
        kitchen.install()
        item = kitchen.sound(config)
        assert item.spec.ladder == item.ladder_key
        return item.ladder_key

    first = mark()
    assert first == mark()
    others = {
        mark(totals={"ram": 64 << 30}),
        mark(config={"memory": {"budget": "32GiB"}}),
        mark(config={"memory": {"budget": "64GiB", "degrade": "aggressive"}}),
        mark(config=model(large, ctx=4096)),
        mark(config=model(large, ctx=8192, args=["-t", "1"])),
    }
    assert len(others) == 5
    assert first not in others
    assert mark(room={"ram": 64 << 30}) == mark(room={"ram": 1 << 30}) == first, "of the moment"
    script = tmp_path / "bin" / "llama-server"
    text = script.read_text()
    kitchen = Kitchen(tmp_path)
    kitchen.install()
    script.write_text(text.replace("8123", "9123"))
    config = {"memory": {"budget": "64GiB"}, **model(large, ctx=8192)}
    assert kitchen.sound(config).ladder_key != first, "another engine"
    script.write_text(text)
    os.utime(large, (1, 1))
    assert mark() != first, "another file"


def test_how_tokens_are_counted_while_it_is_not_loaded(kitchen: Kitchen, tiny_gguf: Path) -> None:
    assert kitchen.sound(model(tiny_gguf)).recipe is None, "llama.cpp alone reads its tokenizer"
