"""What fits together, and what is given up for it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.backends.sizing import Sized
from daemon.config.model import Model
from daemon.core.budget import fits, total
from daemon.core.units import GIB
from daemon.engines.pricing import Site, site
from daemon.planning import (
    PULL_LOSS,
    Option,
    Wanted,
    best,
    context_steps,
    largest,
    loss,
    on_each_gpu,
    options,
    plan,
    prompt_caches,
    takes,
    written_cache,
)
from daemon.weights.published import figures


def made(weights: dict[str, tuple[float, int]], per_32k: int) -> tuple[Option, ...]:
    """Every quantisation with 128k to 32k of context and two kinds of cache."""
    found = []
    for quant, (bits, gib) in weights.items():
        for half, cache in itertools.product(range(3), ("f16", "q8_0")):
            context = 131072 >> half
            kv = per_32k * (context // 32768) // (2 if cache == "q8_0" else 1)
            need = {"gpu0": gib * GIB + kv}
            found.append(Option(quant, context, cache, need, loss(bits, context, 131072, cache)))
    return tuple(found)


CODER = Wanted("coder", made({"Q8_0": (8.5, 30), "Q4_K_M": (4.84, 18), "Q2_K": (3.35, 11)}, GIB))
SMALL = Wanted("small", made({"Q8_0": (8.5, 4), "Q4_K_M": (4.84, 2)}, GIB // 2))
EMBED = Wanted("embed", (Option("Q8_0", 8192, "f16", {"gpu0": GIB // 2}, 0.0),))


def test_all_the_best_where_there_is_room() -> None:
    found = plan([CODER, SMALL, EMBED], {"gpu0": 80 * GIB})
    assert [o.loss for o in found.chosen.values()] == [0.0, 0.0, 0.0]
    assert found.left_out == {}


def test_the_cache_goes_first_then_the_quantisation() -> None:
    assert plan([CODER], {"gpu0": 33 * GIB}).chosen["coder"].cache == "q8_0"
    tight = plan([CODER], {"gpu0": 23 * GIB}).chosen["coder"]
    assert (tight.quant, tight.context, tight.cache) == ("Q4_K_M", 131072, "f16")
    tighter = plan([CODER], {"gpu0": 21 * GIB}).chosen["coder"]
    assert (tighter.quant, tighter.context, tighter.cache) == ("Q4_K_M", 131072, "q8_0")


def test_half_the_context_before_a_broken_quantisation() -> None:
    found = plan([CODER], {"gpu0": 19 * GIB}).chosen["coder"]
    assert (found.quant, found.context) == ("Q4_K_M", 65536)


def test_what_is_named_first_matters_most() -> None:
    found = plan([EMBED, SMALL, CODER], {"gpu0": 8 * GIB})
    assert list(found.chosen) == ["embed", "small"]
    assert found.left_out["coder"]["gpu0"] > 3 * GIB


def test_nothing_fits() -> None:
    found = plan([CODER], {"gpu0": GIB})
    assert found.chosen == {}
    assert set(found.left_out) == {"coder"}


def test_order_of_losses() -> None:
    best = loss(8.5, 131072, 131072, "f16")
    assert best == 0.0
    assert loss(8.5, 131072, 131072, "q8_0") < loss(4.84, 131072, 131072, "f16")
    assert loss(4.84, 65536, 131072, "f16") < loss(3.35, 131072, 131072, "f16")
    assert loss(16.0, 131072, 131072, "f16") == 0.0
    assert loss(8.5, 131072, 131072, "q4_0") > loss(8.5, 65536, 131072, "q8_0")


NEEDS = st.fixed_dictionaries({"a": st.integers(0, 9), "b": st.integers(0, 9)})
OPTIONS = st.lists(
    st.builds(Option, st.just("q"), st.just(1), st.just("f16"), NEEDS, st.integers(0, 9)),
    min_size=1,
    max_size=5,
).map(tuple)


@settings(max_examples=300)
@given(st.lists(OPTIONS, min_size=1, max_size=4), NEEDS)
def test_it_is_the_best_of_all_combinations(
    lists: list[tuple[Option, ...]], budget: dict[str, int]
) -> None:
    wanted = [Wanted(f"m{i}", each) for i, each in enumerate(lists)]
    found = plan(wanted, budget)
    assert fits(found.need, budget)
    names = [w.model for w in wanted]
    assert list(found.chosen) == [name for name in names if name in found.chosen]
    assert found.chosen.keys() | found.left_out.keys() == set(names)

    def possible(some: list[Wanted]) -> list[tuple[Option, ...]]:
        every = itertools.product(*(w.options for w in some))
        return [each for each in every if fits(total(o.need for o in each), budget)]

    kept = [w for w in wanted if w.model in found.chosen]
    least = min(sum(o.loss for o in each) for each in possible(kept))
    assert sum(o.loss for o in found.chosen.values()) == least
    for name, lacks in found.left_out.items():  # beside those named before it there is no way
        before = [w for w in kept if w.model < name]
        assert not possible([*before, wanted[names.index(name)]])
        assert sum(lacks.values()) > 0


# ------------------------------------------------------------ from models to options


def sized(
    preset: str = "qwen3-coder",
    *args: str,
    form: str = "gguf",
    here: bool = True,
    quant: str = "Q4_K_XL",
    pools: tuple[str, ...] = ("unified",),
    engine: str = "llama-server",
    kind: Literal["chat", "embedding"] = "chat",
) -> Sized:
    found = figures(preset, form)
    assert found is not None
    weights = found.weights(preset, kind, quant, 17 * GIB)
    where = site(engine, kind, args, pools, accelerated=True)
    return Sized(Model(preset, ctx=131072), where, quant, here, weights)


def test_options_are_every_context_with_every_cache() -> None:
    found = options([sized()])
    assert {o.context for o in found} == {131072, 98304, 65536, 49152, 32768}
    assert {o.cache for o in found} == {"f16", "q8_0"}
    assert all(o.need["unified"] > 17 * GIB for o in found)
    by = {(o.context, o.cache): o.need["unified"] for o in found}
    assert by[65536, "q8_0"] < by[65536, "f16"] < by[131072, "f16"]
    assert {o.context for o in options([sized()], ctx=1000)} == {1000}


def test_a_download_has_to_be_worth_it() -> None:
    here, there = sized(), sized(quant="Q8_0", here=False)
    found = {o.quant: o.loss for o in options([here, there], ctx=32768, caches=["f16"])}
    assert found["Q8_0"] == PULL_LOSS > found["Q4_K_XL"]
    alone = options([there], ctx=32768, caches=["f16"])
    assert [o.loss for o in alone] == [0.0]


def test_what_the_args_fix_is_not_planned() -> None:
    fixed = sized("qwen3-coder", "-c", "20480", "-ctk", "q8_0", "-ctv", "q8_0")
    assert context_steps(fixed, 65536) == (20480,)
    assert written_cache(fixed) == "q8_0"
    assert {(o.context, o.cache) for o in options([fixed])} == {(20480, "q8_0")}
    assert (written_cache(sized()), largest(fixed, {"unified": 80 * GIB}, slots=1)) == (None, 20480)


def test_who_takes_which_cache() -> None:
    assert takes(sized(), "q8_0")
    assert takes(sized("glm-4.7-flash"), "q8_0")
    assert not takes(sized("qwen3-coder", "-fa", "off"), "q8_0")
    assert not takes(sized(form="mlx", engine="mlx-lm"), "q8_0")
    assert not takes(sized("nomic-embed-text-v1.5", kind="embedding"), "q8_0")
    odd = sized("llama3.1-8b")
    assert odd.weights is not None
    layers = tuple(replace(layer, key_length=80) for layer in odd.weights.layers)
    assert not takes(replace(odd, weights=replace(odd.weights, layers=layers)), "q8_0")


HALVES = {"gpu0": 14 * GIB, "gpu1": 14 * GIB, "ram": 8 * GIB}


def test_several_gpus() -> None:
    pools = ("gpu0", "gpu1", "ram")
    one, two, both = on_each_gpu(sized(pools=pools), pools)
    assert [each.site.pools for each in (one, two, both)] == [("gpu0",), ("gpu1",), pools[:2]]
    assert on_each_gpu(sized(), ("unified",)) == (sized(),)
    spread = sized("qwen3-coder", "-ts", "1,1", pools=pools)
    assert spread.site.devices == ("gpu0", "gpu1")
    assert on_each_gpu(spread, pools) == (spread,)
    (large,) = plan([Wanted("a", options([one, two, both], ctx=32768))], HALVES).chosen.values()
    assert large.pools == ("gpu0", "gpu1")
    assert max(large.need[gpu] for gpu in large.pools) < 0.7 * sum(large.need.values())
    wanted = [Wanted(name, options([one, two], ctx=32768)) for name in "ab"]
    found = plan(wanted, {"gpu0": 22 * GIB, "gpu1": 22 * GIB, "ram": 8 * GIB})
    assert {o.pools for o in found.chosen.values()} == {("gpu0",), ("gpu1",)}


def test_four_bits_only_where_more_models_stay() -> None:
    asked: list[list[str]] = []

    def ask(caches: Sequence[str]) -> list[Wanted]:
        asked.append(list(caches))
        return [Wanted("a", options([sized()], ctx=131072, caches=caches))]

    assert best(ask, {"unified": 80 * GIB}).chosen["a"].cache == "f16"
    assert asked == [["f16", "q8_0"]]
    assert best(ask, {"unified": 22 * GIB}).chosen["a"].cache == "q4_0"
    assert best(ask, {"unified": 10 * GIB}).chosen == {}


def test_prompt_caches_share_what_is_left() -> None:
    one = sized()
    (option,) = options([one], ctx=8192, caches=["f16"])
    sizes = prompt_caches([(one, option), (one, option)], {"unified": 4 * GIB})
    assert sizes == [2 * GIB, 2 * GIB]
    assert prompt_caches([(one, option)], {"unified": -1}) == [0]
    mlx = sized(form="mlx", engine="mlx-lm")
    assert prompt_caches([(mlx, option)], {"unified": 4 * GIB}) == [0]


@given(st.integers(1, 40))
def test_the_largest_context_fits_and_more_does_not(gib: int) -> None:
    model, room = sized(), {"unified": gib * GIB}
    most = largest(model, room, slots=1)
    (least,) = options([model], ctx=1024, caches=["f16"])
    if most is None:
        assert not fits(least.need, room)
        return
    (found,) = options([model], ctx=most, caches=["f16"])
    assert fits(found.need, room)
    if most < 262144:
        (more,) = options([model], ctx=most + 1024, caches=["f16"])
        assert not fits(more.need, room)


def test_models_on_two_gpus_and_what_one_more_lacks() -> None:
    pools = ("gpu0", "gpu1")
    every = options([replace(sized(), site=Site("llama-server", devices=(g,))) for g in pools])
    wanted = [Wanted(str(index), every) for index in range(5)]
    found = plan(wanted, {"gpu0": 45 * GIB, "gpu1": 45 * GIB, "ram": 8 * GIB})
    assert sorted(pool for o in found.chosen.values() for pool in o.pools) == [
        *("gpu0", "gpu0", "gpu1", "gpu1"),
    ]
    ((name, lacks),) = found.left_out.items()
    assert name == "4"
    least = min(o.need[o.pools[0]] for o in every)
    assert list(lacks.values()) == [3 * least - 45 * GIB]
