"""Ways to run a model: from wanted to smallest allowed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.backends.ways import EMBEDDING_CTX, Asked, contexts, ways
from daemon.engines.base import Running

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
