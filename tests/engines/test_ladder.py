"""What each engine can give up, and what the user keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.engines.base import Running
from daemon.engines.ladder import FLAGS, Case, divides, steps
from daemon.weights.describe import describe
from daemon.weights.facts import Weights
from tests.models.net import write
from tests.models.zoo import ZOO


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return describe(write(ZOO["qwen3-30b-a3b"][0](), tmp_path_factory.mktemp("w") / "m.gguf"))


def case(engine: str, weights: Weights | None, **more: Any) -> Case:
    args = more.pop("written", ())
    return Case(engine, more.pop("kind", "chat"), weights, args=args, written=args, **more)


def words(given: Case) -> list[str]:
    found = steps(given)
    context = ["context"] if found.context else []
    return [*(s.words for s in found.before), *context, *(s.words for s in found.after)]


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ("llama-server", ["batch 256", "one slot", "KV q8_0", "context"]),
        ("xllamacpp", ["batch 256", "one slot", "KV q8_0", "context"]),
        ("mlx-lm", ["batch 512", "one slot", "KV q8_0"]),
        ("vllm-mlx", ["one slot", "KV q8_0"]),
        ("vllm", ["batch 512", "one slot", "KV q8_0", "context"]),
        ("command.mine", ["context"]),
        ("of another day", []),
    ],
)
def test_each_engine_has_its_steps(engine: str, expected: list[str], weights: Weights) -> None:
    assert words(case(engine, weights)) == expected


@pytest.mark.parametrize("family", FLAGS)
def test_a_flag_that_the_user_wrote_keeps_its_setting(family: str, weights: Weights) -> None:
    engine = {"llama": "llama-server", "command": "command.mine"}.get(family, family)
    more = {"gpu": True, "projector": True, "offload": True}
    every = words(case(engine, weights, **more))
    for flags in FLAGS[family].values():
        for flag in flags:
            for written in ((flag, "99"), (f"{flag}=99",)):
                kept = words(case(engine, weights, written=written, **more))
                told = words(case(engine, weights, written=written, aggressive=True, **more))
                context = {"context"} if flags == FLAGS[family].get("context") else set()
                assert set(kept) < set(every) or "prompts" in FLAGS[family], (flag, kept)
                assert set(told) >= set(every) - context, f"{flag}: aggressive gives it up"


def test_what_a_preset_brought_may_go(weights: Weights) -> None:
    args = ("-ub", "2048", "--jinja", "-ctk", "bf16", "-ctv", "bf16", "--cache-ram", "512")
    given = Case("llama-server", "chat", weights, args=args)
    assert words(given) == ["no prompt cache", "batch 256", "one slot", "KV q8_0", "context"]
    running = Running("way", 4096, 4)
    for step in steps(given).before:
        running = step.of(running, args)
    assert set(running.dropped) == {"-ub", "-ctk", "-ctv", "--cache-ram"}
    assert (running.ubatch, running.slots, running.type_k) == (256, 1, "q8_0")
    assert "no prompt cache" not in words(replace(given, written=args))
    assert "no prompt cache" in words(replace(given, written=args, aggressive=True))


def test_written_slots_stay(weights: Weights) -> None:
    assert "one slot" not in words(case("llama-server", weights, slots_written=True))
    told = words(case("llama-server", weights, slots_written=True, aggressive=True))
    assert "one slot" in told


@pytest.mark.parametrize("kind", ["embedding", "rerank"])
def test_an_encoder_keeps_its_batch(kind: str, weights: Weights) -> None:
    assert words(case("llama-server", weights, kind=kind)) == ["one slot", "context"]


def test_a_command_that_passes_no_context_on_has_no_step(weights: Weights) -> None:
    assert words(case("command.mine", weights, takes_ctx=False)) == []


def test_heads_that_no_block_divides_keep_their_type(weights: Weights) -> None:
    assert divides(weights)
    odd = tuple(replace(layer, key_length=80) for layer in weights.layers)
    assert not divides(replace(weights, layers=odd))
    assert not divides(None)
    assert not divides(replace(weights, layers=()))


# ---------------------------------------------------------------- to the processor


def away(weights: Weights | None, **more: Any) -> list[str]:
    given = case("llama-server", weights, **{"gpu": True, **more})
    return [step.words for step in steps(given).after]


def test_the_projector_goes_home_before_the_layers(weights: Weights) -> None:
    layers = [f"{n} of 49 layers on the GPU" for n in (36, 24, 12)]
    assert away(weights) == []
    assert away(weights, projector=True) == ["projector on the CPU"]
    assert away(weights, offload=True) == layers, "only as memory.allow_cpu_offload says"
    assert away(weights, projector=True, offload=True) == ["projector on the CPU", *layers]
    assert away(weights, projector=True, offload=True, gpu=False) == []
    assert away(weights, projector=True, written=("--no-mmproj-offload",)) == []


def test_never_more_layers_than_before(weights: Weights) -> None:
    args = ("-ngl", "20")
    given = Case("llama-server", "chat", weights, args=args, gpu=True, offload=True)
    assert [s.changes["gpu_layers"] for s in steps(given).after] == [12]


@pytest.mark.parametrize(("count", "left"), [(1, [1, 0]), (2, [2, 1, 0]), (3, [3, 2, 1])])
def test_a_model_of_few_layers_has_no_step_twice(
    weights: Weights, count: int, left: list[int]
) -> None:
    few = replace(weights, layers=weights.layers[:count])
    given = case("llama-server", few, gpu=True, offload=True)
    assert [s.changes["gpu_layers"] for s in steps(given).after] == left


def test_it_is_told_by_the_file_that_it_has_layers(tmp_path: Path) -> None:
    assert away(None, offload=True) == []
