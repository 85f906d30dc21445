"""What fits together, and what is given up for it."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.budget import fits, total
from daemon.core.units import GIB
from daemon.planning import Option, Wanted, loss, plan


def options(weights: dict[str, tuple[float, int]], per_32k: int) -> tuple[Option, ...]:
    """Every quantisation with 128k to 32k of context and two kinds of cache."""
    found = []
    for quant, (bits, gib) in weights.items():
        for half, cache in itertools.product(range(3), ("f16", "q8_0")):
            context = 131072 >> half
            kv = per_32k * (context // 32768) // (2 if cache == "q8_0" else 1)
            need = {"gpu0": gib * GIB + kv}
            found.append(Option(quant, context, cache, need, loss(bits, context, 131072, cache)))
    return tuple(found)


CODER = Wanted("coder", options({"Q8_0": (8.5, 30), "Q4_K_M": (4.84, 18), "Q2_K": (3.35, 11)}, GIB))
SMALL = Wanted("small", options({"Q8_0": (8.5, 4), "Q4_K_M": (4.84, 2)}, GIB // 2))
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
