"""Ways to run a model: from wanted to smallest allowed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.backends.ways import ALONE, EMBEDDING_CTX, Asked, Ladder, Ways, contexts, halves, ways
from daemon.core.messages import Variant
from daemon.engines.base import Running
from daemon.engines.ladder import Step, Steps

tokens = st.integers(1, 2_000_000)
asked = st.builds(
    Asked, st.none() | tokens, tokens, tokens, st.integers(1, 16), shrink=st.booleans()
)
kinds = st.sampled_from(["chat", "completion", "embedding", "rerank", "audio"])


@given(asked, st.none() | tokens, kinds)
def test_contexts_descend_within_their_bounds(asked: Asked, trained: int | None, kind: str) -> None:
    found = contexts(asked, trained, kind)
    assert all(a > b for a, b in pairwise(found))
    assert 1 <= len(found) <= 50
    largest, smallest = found[0], found[-1]
    if asked.ctx is not None:
        assert largest == asked.ctx
    else:
        assert largest <= min(trained or asked.limit, asked.limit)
        if kind in ("embedding", "rerank"):
            assert largest <= EMBEDDING_CTX
        else:
            assert largest == min(trained or asked.limit, asked.limit)
    if asked.shrink:
        assert smallest == min(asked.min_ctx, largest)
    else:
        assert found == (largest,)


@given(asked, st.none() | tokens, kinds)
def test_a_step_never_gives_up_more_than_half(asked: Asked, trained: int | None, kind: str) -> None:
    for larger, smaller in pairwise(contexts(asked, trained, kind)):
        assert smaller * 2 >= larger - 1


@given(tokens, tokens, tokens, kinds)
def test_a_written_context_is_never_shrunk_where_that_is_refused(
    ctx: int, limit: int, minimum: int, kind: str
) -> None:
    assert contexts(Asked(ctx, limit, minimum, 1, shrink=False), 512, kind) == (ctx,)


@pytest.mark.parametrize(
    ("given", "trained", "kind", "expected"),
    [
        (Asked(None, 131072, 32768, 1, True), 40960, "chat", (40960, 32768)),
        (Asked(None, 131072, 32768, 1, True), None, "chat", (131072, 98304, 65536, 49152, 32768)),
        (Asked(None, 131072, 32768, 1, True), 512, "chat", (512,)),
        (Asked(None, 131072, 1024, 1, True), 8192, "rerank", (2048, 1536, 1024)),
        (Asked(None, 131072, 32768, 1, True), 32768, "embedding", (2048,)),
        (Asked(8192, 131072, 4096, 1, True), 32768, "embedding", (8192, 6144, 4096)),
        (Asked(10000, 131072, 5000, 1, True), 4096, "chat", (10000, 8192, 6144, 5000)),
    ],
)
def test_contexts(given: Asked, trained: int | None, kind: str, expected: tuple[int, ...]) -> None:
    assert contexts(given, trained, kind) == expected


@given(asked, st.none() | tokens, kinds, st.integers(1, 10**6))
def test_each_way_is_one_variant_with_its_price(
    asked: Asked, trained: int | None, kind: str, per_token: int
) -> None:
    priced: list[Running] = []

    def price(running: Running) -> dict[str, int]:
        priced.append(running)
        return {"gpu0": running.ctx * running.slots * per_token}

    found = ways(asked, trained, kind, price)
    runs, variants = found.runs, found.variants
    assert found.alone == 0
    assert [v.id for v in variants] == list(runs)
    assert priced == list(runs.values())
    assert [run.ctx for run in priced] == list(contexts(asked, trained, kind))
    assert {run.slots for run in priced} == {asked.slots}
    for variant in variants:
        run = runs[variant.id]
        assert variant.need == {"gpu0": run.ctx * run.slots * per_token}
        assert variant.rung == 0
        assert (run.id, str(run.ctx) in run.id) == (variant.id, True)
        assert (f"x {asked.slots} slots" in run.id) is (asked.slots > 1)


def test_a_prompt_cache_is_the_first_thing_to_go() -> None:
    def price(running: Running) -> dict[str, int]:
        return {"ram": running.ctx + running.prompt_cache}

    asked = Asked(None, 65536, 32768, 2, shrink=True)
    found = ways(asked, None, "chat", price, lambda running: running.ctx * 10)
    runs, variants = found.runs, found.variants
    assert [v.id for v in variants] == [
        "context 65536 x 2 slots with a prompt cache",
        "context 65536 x 2 slots",
        "context 49152 x 2 slots",
        "context 32768 x 2 slots",
    ]
    assert [v.need["ram"] for v in variants] == [65536 * 11, 65536, 49152, 32768]
    assert [run.prompt_cache for run in runs.values()] == [655360, 0, 0, 0]
    assert [run.id for run in runs.values()] == list(runs)
    assert ways(asked, None, "chat", price, lambda running: 0) == ways(asked, None, "chat", price)


# ---------------------------------------------------------------- the ladder

STEPS = {
    "batch 256": Step("batch 256", {"ubatch": 256}),
    "one slot": Step("one slot", {"slots": 1}),
    "KV q8_0": Step("KV q8_0", {"type_k": "q8_0", "type_v": "q8_0"}),
}
AWAY = (
    Step("projector on the CPU", {"projector_on_cpu": True}, blind=True),
    Step("9 of 12 layers on the GPU", {"gpu_layers": 9}, blind=True),
    Step("6 of 12 layers on the GPU", {"gpu_layers": 6}, blind=True),
)
PLACES = (((),), (("gpu0",), ("gpu1",), ("gpu0", "gpu1")))
DEVICES = {"gpu0": "GPU-0", "gpu1": "GPU-1"}


def cost(running: Running) -> int:
    """Something that each step makes smaller."""
    bytes_of = 1 if running.type_k == "q8_0" else 2
    layers = 12 if running.gpu_layers is None else running.gpu_layers
    kv = running.ctx * running.slots * bytes_of
    return kv + (running.ubatch or 512) + layers - running.projector_on_cpu


def spread(running: Running) -> dict[str, int]:
    gpus = running.gpus or ("ram",)
    return {gpu: cost(running) // len(gpus) + running.prompt_cache for gpu in gpus}


@st.composite
def laddered(draw: st.DrawFn) -> tuple[Asked, Ways, tuple[tuple[str, ...], ...]]:
    given = draw(asked)
    names = draw(st.lists(st.sampled_from(sorted(STEPS)), unique=True))
    count = draw(st.integers(0, 3))
    steps = Steps(tuple(STEPS[n] for n in names), draw(st.booleans()), AWAY[:count])
    floor = draw(st.none() | tokens)
    ladder = Ladder(steps, (), floor, lambda large, small: cost(small) < cost(large))
    places = draw(st.sampled_from(PLACES))
    cached = draw(st.booleans())
    found = ways(
        given, draw(st.none() | tokens), "chat", spread,
        (lambda _: 1000) if cached else None, ladder, places, DEVICES,
    )  # fmt: skip
    return given, found, places


def on(found: Ways, rung: int) -> list[Variant]:
    return [v for v in found.variants if v.allowed_on(rung)]


def last_of(found: Ways) -> int:
    return max(v.rung if v.until is None else v.until for v in found.variants)


@given(laddered())
def test_laws_of_the_ladder(made: tuple[Asked, Ways, tuple[tuple[str, ...], ...]]) -> None:
    given, found, places = made
    ids = [v.id for v in found.variants]
    assert len(set(ids)) == len(ids)
    assert ids == list(found.runs) == [run.id for run in found.runs.values()]
    assert found.alone == ALONE
    for variant in found.variants:
        assert variant.until is not None
        assert 0 <= variant.rung <= variant.until
        run = found.runs[variant.id]
        assert variant.need == spread(run)
        assert variant.slots == (run.slots if run.slots != given.slots else None)
    for rung in range(last_of(found) + 1):
        allowed = on(found, rung)
        assert allowed or rung == 0, "no rung is empty"
        assert {found.runs[v.id].gpus for v in allowed} == set(places), "each on every place"
        sizes = [cost(found.runs[v.id]) for v in allowed]
        assert sizes == sorted(sizes, reverse=True), "best first"


@given(laddered())
def test_the_ladder_never_grows(made: tuple[Asked, Ways, tuple[tuple[str, ...], ...]]) -> None:
    """Whatever failed: the next rung's choice behind it is smaller on the same place."""
    _, found, _ = made
    order = {v.id: index for index, v in enumerate(found.variants)}
    for variant in found.variants:
        assert variant.until is not None
        failed = found.runs[variant.id]
        below = [v for v in on(found, variant.until + 1) if order[v.id] > order[variant.id]]
        for later in below:
            run = found.runs[later.id]
            if run.gpus == failed.gpus:
                assert sum(later.need.values()) <= sum(variant.need.values())


@given(laddered())
def test_without_the_ladder_it_is_the_same_at_full_size(
    made: tuple[Asked, Ways, tuple[tuple[str, ...], ...]],
) -> None:
    _, found, _ = made
    plain = [v for v in found.variants if v.rung == 0]
    cached = [v for v in plain if found.runs[v.id].prompt_cache]
    bare = [v for v in plain if not found.runs[v.id].prompt_cache]
    assert all(v.until == 0 for v in cached), "the prompt cache goes first"
    assert [v.id for v in on(found, ALONE)] == [v.id for v in bare], "alone: as it was"
    assert found.runs[plain[0].id].ctx == max(run.ctx for run in found.runs.values())


@given(tokens, tokens)
def test_halves_go_down_to_the_floor(largest: int, floor: int) -> None:
    found = halves(largest, floor)
    assert all(a > b for a, b in pairwise((largest, *found)))
    assert all(b * 2 >= a - 1 for a, b in pairwise((largest, *found)))
    assert (found[-1] if found else largest) == min(largest, floor)


def test_a_walk_down_the_whole_ladder() -> None:
    """The order of the loss, from the prompt cache to the processor."""
    steps = Steps(tuple(STEPS.values()), context=True, after=AWAY)
    ladder = Ladder(steps, (), 32768, lambda large, small: cost(small) < cost(large))
    asked = Asked(None, 131072, 32768, 2, shrink=False)
    found = ways(asked, None, "chat", spread, lambda _: 1000, ladder)
    first = [on(found, rung)[0].id for rung in range(last_of(found) + 1)]
    assert first == [
        "context 131072 x 2 slots with a prompt cache",
        "context 131072 x 2 slots",
        "context 131072 x 2 slots",  # alone
        "context 131072 x 2 slots, batch 256",
        "context 131072, batch 256, one slot",
        "context 131072, batch 256, one slot, KV q8_0",
        "context 65536, batch 256, one slot, KV q8_0",
        "context 32768, batch 256, one slot, KV q8_0",
        "context 32768, batch 256, one slot, KV q8_0, projector on the CPU",
        "context 32768, batch 256, one slot, KV q8_0, projector on the CPU, "
        "9 of 12 layers on the GPU",
        "context 32768, batch 256, one slot, KV q8_0, projector on the CPU, "
        "6 of 12 layers on the GPU",
    ]
