"""Which model is taken: what never changes, whatever the models are."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from daemon.config.catalog import Catalog
from daemon.config.presets import load_presets
from daemon.config.settings import Settings
from daemon.core.budget import fits, total
from daemon.core.units import GIB
from daemon.planning import Option, Wanted
from daemon.recommending import (
    ENGINE_LOSS,
    SMALL_BYTES,
    TASKS,
    Candidate,
    least,
    recommend,
    suits,
    weighed,
    worth,
)

CODE = TASKS["code"]
NAMES = [f"m{i}" for i in range(6)]
MODELS = Catalog.build(Settings(), load_presets()).presets


@st.composite
def options(draw: st.DrawFn) -> tuple[Option, ...]:
    """Ways to run one model: coarser and shorter takes less."""
    weights = draw(st.integers(1, 60))
    per_32k = draw(st.integers(0, 6))
    here = draw(st.booleans())
    quants = draw(st.sampled_from([(("Q4_K_M", 1),), (("Q8_0", 2), ("Q4_K_M", 1)), (("4bit", 1),)]))
    longest = draw(st.sampled_from([32768, 131072, 200000]))

    def need(times: int, context: int) -> dict[str, int]:
        return {"unified": GIB * (weights * times + per_32k * context // 32768)}

    return tuple(
        Option(quant, context, "f16", need(times, context), 0.0, here)
        for quant, times in quants
        for context in (longest, longest // 2)
    )


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=5))
    return [
        Candidate(
            name,
            float(draw(st.integers(-10, 50))),
            draw(options()),
            draw(st.booleans()),
            draw(st.booleans()),
        )
        for name in names
    ]


BESIDE = st.lists(options().map(lambda found: Wanted("stays", found)), max_size=1)


@given(st.sampled_from(list(TASKS.values())), candidates(), BESIDE, st.integers(0, 150))
def test_what_is_recommended_fits(
    task: object, found: list[Candidate], beside: list[Wanted], room: int
) -> None:
    for pick in recommend(task, found, beside, {"unified": room * GIB}):  # type: ignore[arg-type]
        assert set(pick.beside) == {one.model for one in beside}
        needs = [pick.need, *(option.need for option in pick.beside.values())]
        assert fits(total(needs), {"unified": room * GIB})


@given(candidates(), BESIDE, st.lists(st.integers(0, 150), min_size=2, max_size=4))
def test_more_memory_never_gives_a_worse_first_pick(
    found: list[Candidate], beside: list[Wanted], rooms: list[int]
) -> None:
    for task in (CODE, TASKS["chat"]):
        firsts = [
            next(iter(recommend(task, found, beside, {"unified": room * GIB})), None)
            for room in sorted(rooms)
        ]
        for less, more in itertools.pairwise(firsts):
            if less is not None:
                assert more is not None
                assert more.score >= less.score


@given(candidates(), st.integers(0, 200))
def test_without_tools_it_is_never_first_for_code(found: list[Candidate], room: int) -> None:
    picks = recommend(CODE, found, [], {"unified": room * GIB})
    tools = [pick.candidate.tools for pick in picks]
    assert tools == sorted(tools, reverse=True)
    assert not picks or tools[0]


@given(candidates(), st.integers(0, 200), st.randoms())
def test_the_order_of_the_question_does_not_matter(
    found: list[Candidate], room: int, random: object
) -> None:
    mixed = list(found)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    budget = {"unified": room * GIB}
    assert recommend(CODE, found, [], budget) == recommend(CODE, mixed, [], budget)


def one(name: str, quant: str, context: int, gib: int, worth: float, **more: bool) -> Candidate:
    option = Option(quant, context, "f16", {"unified": gib * GIB}, 0.0, True)
    return Candidate(name, worth, (option,), **more)


def test_a_short_context_and_a_missing_engine_cost() -> None:
    good = one("good", "Q8_0", 131072, 10, 20.0)
    short = one("short", "Q8_0", 32768, 10, 24.0)
    engineless = one("engineless", "Q8_0", 131072, 10, 22.0, ready=False)
    picks = recommend(CODE, [short, engineless, good], [], {"unified": 16 * GIB})
    assert [pick.candidate.model for pick in picks] == ["good", "engineless", "short"]
    assert picks[0].score - picks[1].score == ENGINE_LOSS - 2.0


def test_a_model_that_was_trained_in_four_bits_loses_nothing_by_them() -> None:
    option = Option("MXFP4", 131072, "f16", {}, 0.0)
    plain = Option("Q8_0", 131072, "f16", {}, 0.0)
    assert weighed(option, CODE).loss == weighed(plain, CODE).loss


def test_the_smallest_is_named_where_nothing_fits() -> None:
    found = [one("a", "Q8_0", 131072, 10, 1.0), one("b", "Q8_0", 131072, 8, 1.0)]
    assert least(found) == ("b", {"unified": 8 * GIB})
    assert least([]) is None
    assert recommend(CODE, found, [], {"unified": GIB}) == []


def test_every_preset_suits_something_and_tasks_take_what_they_are_about() -> None:
    by_task = {
        name: {model.name for model in MODELS.values() if suits(task, model)}
        for name, task in TASKS.items()
    }
    assert set().union(*by_task.values()) == set(MODELS)
    assert "qwen3-vl" in by_task["vision"]
    assert "gpt-oss-20b" not in by_task["vision"]
    assert by_task["embed"].isdisjoint(by_task["code"])
    assert all((MODELS[name].size or 0) <= SMALL_BYTES for name in by_task["small"])


def test_an_unknown_model_is_worth_what_its_size_says() -> None:
    from dataclasses import replace

    base = replace(MODELS["llama3.1-8b"], name="new", preset="new", warnings=())
    sizes = [worth(CODE, replace(base, size=gb * 10**9)) for gb in (1, 5, 20, 400)]
    assert sizes == sorted(sizes)
    assert sizes[-1] < max(CODE.worth.values())
    assert worth(CODE, replace(base, warnings=("It lies.",))) < worth(CODE, base)
