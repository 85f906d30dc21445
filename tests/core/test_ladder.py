"""Out of memory: down step by step, remembered, and up again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daemon.core import ladder
from daemon.core.lifecycle import State
from daemon.core.messages import Ask, BackendExited, ExitClass, ModelSpec, Standing, Variant
from daemon.core.policy import Policy
from tests.core.desk import NEVER, Desk, model

MEMORY = ExitClass.OUT_OF_MEMORY
DAY = 86400.0

# Two contexts, large and small. Rung 1: alone. Rung 2: leaner. Rung 3: and with one slot, from here
# on with the small context at most. Rung 4: the last resort.
WAYS = (
    Variant("full", {"ram": 8}, until=1),
    Variant("lean", {"ram": 7}, 2, 2),
    Variant("half", {"ram": 5}, until=1),
    Variant("lean half", {"ram": 4}, 2, 3, slots=1),
    Variant("last", {"ram": 3}, 4),
)


def laddered(
    name: str = "a",
    ways: tuple[Variant, ...] = WAYS,
    *,
    pinned: bool = False,
    keep_alive: float = NEVER,
    standing: Standing | None = None,
) -> ModelSpec:
    return ModelSpec(
        name, ways, slots=2, keep_alive=keep_alive, pinned=pinned, alone=1, standing=standing
    )


def again(desk: Desk, name: str = "a", kind: ExitClass = MEMORY, why: str = "") -> list[str]:
    """It dies, and a second passes."""
    return desk.exit(name, kind, why) + desk.at(desk.now + 1.0)


def degraded(desk: Desk, name: str = "a") -> str:
    return desk.page(name).degraded()


# ---------------------------------------------------------------- down


def test_down_to_the_end_and_then_the_numbers() -> None:
    desk = Desk(laddered())
    assert desk.arrive("a", load=True) == ["start a full"]
    assert again(desk) == ["start a lean"], "nobody was beside it: alone would change nothing"
    assert degraded(desk) == "lean (after running out of memory once)"
    assert again(desk) == ["start a lean half"]
    assert again(desk) == ["start a last"]
    assert degraded(desk) == "last (after running out of memory 3 times)"
    assert desk.exit("a", MEMORY, "KV") == ["reject 1 model_unavailable"]
    problem = desk.problem
    assert problem.message == (
        "The backend of a died: out of memory (KV). "
        "Its smallest form (last) needs 3 B, the budget is 10 B."
    )
    assert "smaller context" in problem.hint
    assert "Tried again in 300 s" in problem.hint
    assert (problem.facts["needed"], problem.facts["budget"]) == ({"ram": 3}, {"ram": 10})
    desk.at(desk.now + 300.0)
    assert desk.arrive("a") == ["start a last"], "the half-open try"
    desk.exit("a", MEMORY)
    assert desk.arrive("a", load=True) == ["start a last"], "a load does not climb"


def test_each_step_is_told_and_remembered() -> None:
    desk = Desk(laddered())
    desk.arrive("a")
    desk.exit("a", MEMORY)
    told = desk.published("degraded")[0]
    assert told["text"] == "lean (after running out of memory once)"
    assert told["failures"] == 1
    (remembered,) = desk.remembered
    assert remembered.standing == Standing(2, "full", 1)


def test_a_request_waits_for_three_starts_that_run_out_of_memory() -> None:
    desk = Desk(laddered())
    desk.arrive("a")
    assert again(desk) == ["start a lean"]
    desk.arrive("a")
    assert again(desk) == ["start a lean half"]
    assert desk.exit("a", MEMORY) == ["reject 1 backoff"]
    assert desk.problem.message == (
        "a ran out of memory 3 times while this request waited. "
        "Degraded: last (after running out of memory 3 times)."
    )
    assert desk.problem.retry_after == 1.0
    assert desk.at(desk.now + 1.0) == ["start a last"], "the other has seen two"
    assert desk.ready("a") == ["grant 2 a/0"]
    assert desk.page("a").tries == {}


def test_alone_it_is_tried_as_it_was_and_others_come_back_later() -> None:
    desk = Desk(laddered(), model("b", 1), model("pin", 1, pinned=True))
    desk.ready("pin")
    desk.idle("b")
    desk.arrive("a")
    assert desk.exit("a", MEMORY) == []
    assert degraded(desk).startswith("full, no other model beside its start (after")
    assert desk.at(10.0) == ["stop b evict"]
    desk.arrive("b")
    assert desk.exit("b") == ["start a full"], "the pin stays"
    assert desk.at(20.0) == [], "b fits, and waits until a is there"
    assert desk.core.explain(desk.now).waiting[-1].why.text == "a starts first, alone"
    assert desk.ready("a") == ["grant 2 a/0", "start b full"]


def test_alone_waits_for_memory_to_come_back() -> None:
    ways = tuple(replace(v, need={"gpu0": v.need["ram"]}) for v in WAYS)
    desk = Desk(laddered(ways=ways), model("b", {"gpu0": 1}), budget={"gpu0": 10})
    desk.idle("b")
    desk.arrive("a")
    desk.exit("a", MEMORY)
    assert desk.at(20.0) == ["stop b evict"]
    assert desk.exit("b") == []
    assert desk.at(24.9) == []
    assert desk.at(25.0) == ["start a full"], "settled"


def test_small_calls_make_nobody_leave_for_it() -> None:
    desk = Desk(laddered(), model("b", 1))
    desk.idle("b")
    desk.arrive("a", small=True)
    desk.exit("a", MEMORY)
    assert desk.page("a").alone
    assert desk.at(2.0) == ["start a full"]


def test_never_larger_than_what_failed() -> None:
    """It began with the small context, for there was no room. That has gone, and the large one
    would fit now."""
    desk = Desk(laddered(), model("pin", 5, pinned=True))
    desk.ready("pin")
    assert desk.arrive("a", load=True) == ["start a half"]
    desk.ask(Ask.UNPIN, "pin")
    desk.ask(Ask.UNLOAD, "pin")
    desk.exit("pin")
    assert again(desk) == ["start a lean half"]
    assert again(desk) == ["start a last"], "rung 3 has nothing smaller"


def test_out_of_memory_at_work_goes_down_and_reserves_more() -> None:
    ways = tuple(replace(v, need={"ram": v.need["ram"] * 100}) for v in WAYS)
    desk = Desk(laddered(ways=ways), model("b", 1), budget=1000)
    desk.idle("b")
    desk.arrive("a")
    desk.ready("a")
    assert desk.exit("a", MEMORY) == []
    desk.end(2)
    desk.arrive("a")
    assert desk.at(2.0) == ["start a lean"], "not just alone: its need has grown"
    assert desk.core.ledger.charged("a") == {"ram": 770}
    assert desk.page("a").slots == 2
    desk.ready("a")
    desk.exit("a", MEMORY)
    desk.arrive("a")
    assert desk.at(4.0) == ["start a lean half"]
    assert desk.core.ledger.charged("a") == {"ram": 440}, "ten in a hundred, once"
    assert desk.page("a").slots == 1, "what runs has one slot"
    desk.arrive("a")
    assert desk.ready("a") == ["grant 4 a/0"]
    assert desk.end(4) == ["grant 5 a/0"]


def test_no_reserve_that_would_not_fit() -> None:
    ways = (Variant("full", {"ram": 95}, until=0), Variant("lean", {"ram": 94}, 1))
    desk = Desk(ModelSpec("a", ways), budget=100)
    desk.arrive("a")
    desk.ready("a")
    desk.exit("a", MEMORY)
    desk.arrive("a")
    assert desk.at(1.0) == ["start a lean"]
    assert not desk.page("a").margin


def test_without_a_ladder_a_start_is_given_up_and_a_life_begins_again() -> None:
    desk = Desk(model("a", 8))
    desk.serve("a")
    assert desk.exit("a", MEMORY) == []
    assert desk.state("a") is State.BACKOFF, "it had served: like a crash"
    desk.arrive("a")
    assert desk.at(2.0) == ["start a full"]
    assert desk.exit("a", MEMORY) == ["reject 2 model_unavailable"]
    assert "It (full) needs 8 B, the budget is 10 B." in desk.problem.message
    assert desk.remembered == []


def test_a_step_that_the_engine_refuses_is_stepped_over() -> None:
    desk = Desk(laddered())
    desk.arrive("a", load=True)
    again(desk)
    assert again(desk, kind=ExitClass.PERMANENT) == ["start a lean half"]
    assert desk.page("a").failures == 1, "that was no lack of memory"
    desk.ready("a")
    desk.exit("a", ExitClass.PERMANENT)
    assert desk.state("a") is State.FAILED, "it had worked, so the step is not to blame"


def test_a_gap_in_the_ladder_is_stepped_over() -> None:
    ways = (Variant("full", {"ram": 8}, until=0), Variant("last", {"ram": 2}, 5))
    desk = Desk(ModelSpec("a", ways))
    desk.arrive("a")
    assert again(desk) == ["start a last"]


def test_what_was_adopted_goes_down_from_there() -> None:
    desk = Desk(laddered())
    desk.adopt("a", variant=replace(WAYS[1], need={"ram": 9}))
    assert again(desk) == ["start a lean half"]


# ---------------------------------------------------------------- remembered

KNOWN = Standing(2, "full", 2, margin=False, age=100.0)


def test_a_new_life_begins_where_the_last_one_stood() -> None:
    desk = Desk(laddered(standing=KNOWN))
    assert degraded(desk) == "lean (after running out of memory 2 times)"
    assert desk.arrive("a") == ["start a lean"]
    desk.exit("a", MEMORY)
    (remembered,) = desk.remembered
    assert remembered.standing == Standing(3, "lean", 3)
    assert desk.at(2.0) == ["start a lean half"]


def test_alone_is_remembered_too() -> None:
    desk = Desk(laddered(standing=Standing(1, "full", 1)))
    assert desk.page("a").alone
    assert desk.arrive("a") == ["start a full"]


@pytest.mark.parametrize("standing", [Standing(9, "gone", 1), Standing(4, "last", 4)])
def test_what_makes_no_sense_is_forgotten(standing: Standing) -> None:
    ways = WAYS[:4] if standing.rung == 9 else WAYS
    desk = Desk(laddered(ways=ways, standing=standing))
    assert desk.page("a").rung == 0
    assert desk.arrive("a") == ["start a full"]


def test_an_unknown_failure_leaves_the_whole_rung() -> None:
    desk = Desk(laddered(standing=Standing(2, "of another version", 1)))
    assert desk.arrive("a") == ["start a lean"]


@pytest.mark.parametrize("remedy", ["reset", "changed", "other ways", "another machine"])
def test_a_reset_and_a_change_allow_the_full_size(remedy: str) -> None:
    desk = Desk(laddered())
    desk.arrive("a")
    again(desk)
    match remedy:
        case "reset":
            desk.ask(Ask.RESET, "a")
            (remembered,) = desk.remembered
            assert remembered.standing is None
        case "changed":
            desk.catalog(laddered(), touched="a")
        case "another machine":
            desk.catalog(replace(laddered(), ladder="another"))
        case _:
            desk.catalog(laddered(ways=(WAYS[0], *WAYS[2:])))
    assert degraded(desk) == ""
    desk.exit("a", ExitClass.CLEAN)
    desk.at(desk.now + 2.0)
    assert desk.state("a") is State.STARTING
    assert desk.page("a").variant == WAYS[0]


def test_a_reset_of_what_stands_well_forgets_nothing() -> None:
    desk = Desk(laddered())
    desk.ask(Ask.RESET)
    assert desk.remembered == []


def test_another_price_changes_nothing() -> None:
    desk = Desk(laddered())
    desk.arrive("a")
    again(desk)
    desk.catalog(laddered(ways=tuple(replace(v, need={"ram": 2}) for v in WAYS)))
    assert desk.page("a").rung == 2
    assert [v.id for v in desk.page("a").allowed()] == ["lean", "lean half"]


# ---------------------------------------------------------------- up again


def down(keep_alive: float = NEVER, **more: object) -> Desk:
    """A desk whose model stands on rung 2 and runs, idle."""
    desk = Desk(laddered(keep_alive=keep_alive, **more), policy=Policy(climb_back=DAY))  # type: ignore[arg-type]
    desk.arrive("a")
    again(desk)
    desk.ready("a")
    if not desk.page("a").pinned:
        desk.end(1)
    return desk


def test_after_a_day_the_next_start_is_at_full_size() -> None:
    desk = down(keep_alive=60.0)
    desk.at(DAY - 1.0)
    desk.exit("a")
    assert desk.due == DAY, "counted from the failure"
    desk.at(DAY)
    assert desk.published("climbs")[0]["variant"] == "full"
    assert degraded(desk) == ""
    assert desk.remembered == [], "not before it has gone well"
    assert desk.arrive("a") == ["start a full"]


def test_one_that_runs_and_is_idle_is_started_anew() -> None:
    desk = down()
    assert desk.at(DAY - 1.0) == []
    assert desk.at(DAY) == ["stop a climb"]
    assert desk.exit("a") == ["start a full"]
    desk.ready("a")
    assert desk.due is None


def test_nobody_is_disturbed_by_it() -> None:
    desk = down()
    desk.arrive("a")
    assert desk.at(DAY + 10.0) == [], "it is at work"
    desk.end(2)
    assert desk.at(DAY + 609.0) == [], "and was in use lately"
    assert desk.at(DAY + 610.0) == ["stop a climb"]


def test_it_waits_for_room_without_anybody_leaving() -> None:
    desk = Desk(laddered(), model("b", 3))
    desk.arrive("a")
    again(desk)
    desk.ready("a")
    desk.end(1)
    desk.idle("b")
    assert desk.at(DAY + 10.0) == []
    assert desk.due == pytest.approx(DAY + DAY / 24)
    desk.ask(Ask.UNLOAD, "b")
    desk.exit("b")
    assert desk.at(DAY + DAY / 24) == ["stop a climb"]


def test_if_it_fails_it_is_back_at_once_where_it_was() -> None:
    desk = down()
    desk.at(DAY)
    desk.exit("a")
    assert desk.page("a").before == Standing(2, "full", 1)
    assert again(desk) == ["start a lean"], "no second walk"
    assert degraded(desk) == "lean (after running out of memory 2 times)"
    assert desk.ready("a") == []
    assert desk.page("a").climb_at == 2 * DAY, "and once a day"


def test_however_deep_it_stood() -> None:
    desk = Desk(laddered(standing=Standing(4, "lean half", 3, age=2 * DAY)))
    assert desk.arrive("a") == ["start a full"]
    assert again(desk) == ["start a last"]
    assert degraded(desk) == "last (after running out of memory 4 times)"


def test_if_it_goes_well_for_long_enough_it_is_forgotten() -> None:
    desk = down()
    desk.at(DAY)
    desk.exit("a")
    desk.ready("a")
    desk.at(DAY + 599.0)
    assert desk.exit("a", ExitClass.CRASH) == []
    assert desk.page("a").before is not None, "not yet"
    desk.arrive("a")
    desk.at(DAY + 610.0)
    desk.ready("a")
    desk.at(DAY + 1300.0)
    desk.exit("a", ExitClass.CRASH)
    (remembered,) = desk.remembered
    assert remembered.standing is None
    desk.arrive("a")
    desk.at(DAY + 1303.0)
    desk.exit("a", MEMORY)
    assert desk.page("a").rung == 2, "a ladder like any other"


def test_adopted_in_its_try_it_stays_there() -> None:
    desk = Desk(laddered(standing=replace(KNOWN, age=2 * DAY)))
    desk.adopt("a", variant=WAYS[0])
    assert desk.at(10_000.0) == [], "no start anew for what it has already"
    assert again(desk) == ["start a lean"]


def test_one_that_stood_there_for_long_climbs_when_the_daemon_comes_back() -> None:
    desk = Desk(laddered(standing=replace(KNOWN, age=2 * DAY)))
    assert degraded(desk) == ""
    assert desk.arrive("a") == ["start a full"]


def test_one_that_was_given_up_climbs_too() -> None:
    desk = Desk(laddered(standing=Standing(4, "lean half", 3)))
    desk.arrive("a")
    desk.exit("a", MEMORY)
    assert desk.state("a") is State.FAILED
    desk.at(DAY)
    assert desk.arrive("a") == ["start a full"]


def test_the_same_request_is_told_by_its_hash() -> None:
    desk = Desk(model("a"))
    for _ in range(3):
        desk.arrive("a")
        desk.at(desk.now + 10.0)
        desk.ready("a")
        desk.tell(BackendExited("a", desk.page("a").generation, ExitClass.CRASH, "", "hash"))
        desk.end(desk.ticket)
    assert len(desk.page("a").history.crashes) == 1
    assert ladder.standing(desk.page("a")) is None
