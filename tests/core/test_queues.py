from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from daemon.core.lifecycle import State
from daemon.core.messages import ExitClass, Ticket, TimeAdvanced
from daemon.core.problems import Code
from daemon.core.queues import FairQueue
from tests.core.desk import Desk, model


def ticket(number: int, client: str = "c", *, arrived: float = -1.0, attempt: int = 1) -> Ticket:
    age = float(number) if arrived < 0 else arrived
    return Ticket(number, "m", client, "key", age, age + 300.0, attempt=attempt)


def queue(*tickets: Ticket) -> FairQueue:
    made = FairQueue()
    for one in tickets:
        made.push(one, one.arrived)
    return made


def drained(line: FairQueue) -> list[int]:
    return [line.pop(10.0).id for _ in range(len(line))]


def test_one_client_is_served_first_come_first_served() -> None:
    assert drained(queue(ticket(1), ticket(2), ticket(3))) == [1, 2, 3]


def test_clients_take_turns_however_many_one_of_them_sent() -> None:
    crowd = [ticket(n, "agent") for n in range(1, 5)]
    assert drained(queue(*crowd, ticket(5, "me"), ticket(6, "you"))) == [1, 5, 6, 2, 3, 4]


def test_who_comes_back_joins_the_end_of_the_round() -> None:
    line = queue(ticket(1, "a"), ticket(2, "b"))
    assert line.pop(10.0).id == 1
    line.push(ticket(3, "a"), 3.0)
    assert drained(line) == [2, 3]


def test_who_has_priority_goes_ahead_of_younger_turns_only() -> None:
    low, high = ticket(1, "a"), replace(ticket(20, "b"), priority=1.0)
    assert drained(queue(low, high)) == [20, 1]
    late = replace(ticket(32, "b"), priority=1.0)
    assert drained(queue(low, late)) == [1, 32], "half a minute is all that it is worth"


def test_the_head_of_a_line_decides_for_its_client() -> None:
    first, urgent = ticket(1, "a"), replace(ticket(2, "a"), priority=2.0)
    line = queue(ticket(0, "b"), first, urgent)
    assert line.remove(1) is first
    assert drained(line) == [2, 0]
    assert drained(queue(ticket(0, "b"), first, urgent)) == [0, 1, 2]


def test_the_first_is_the_oldest_but_for_priority() -> None:
    line = queue(ticket(1), replace(ticket(20), priority=1.0))
    assert (line.oldest(), line.first()) == (1.0, -10.0)
    line.remove(20)
    assert line.first() == 1.0


def test_small_calls_are_counted() -> None:
    line = queue(ticket(1), replace(ticket(2), small=True))
    assert line.small == 1
    line.remove(2)
    assert line.small == 0


def test_a_second_attempt_keeps_the_place_of_its_age() -> None:
    line = queue(ticket(1), ticket(3), ticket(4))
    line.push(ticket(2, attempt=2), 5.0)
    assert drained(line) == [1, 2, 3, 4]


def test_a_second_attempt_goes_behind_those_of_the_same_age() -> None:
    line = queue(ticket(1, arrived=5.0), ticket(2, arrived=6.0))
    line.push(ticket(3, arrived=5.0, attempt=2), 7.0)
    assert drained(line) == [1, 3, 2]


def test_leaving_from_the_middle() -> None:
    line = queue(ticket(1), ticket(2), ticket(3, "other"))
    left = line.remove(2)
    assert left is not None
    assert left.id == 2
    assert line.remove(2) is None
    assert 2 not in line
    assert 1 in line
    assert line.remove(3) is not None
    assert line.of_client("other") == 0
    assert line.of_client("c") == 1
    assert [t.id for t in line] == [1]


def test_the_oldest_is_exact_whoever_leaves() -> None:
    line = queue(ticket(2, "a"), ticket(1, "b"), ticket(3, "c"))
    assert line.oldest() == 1.0
    line.remove(1)
    assert line.oldest() == 2.0
    line.pop(10.0)
    assert line.oldest() == 3.0
    line.pop(10.0)
    assert line.oldest() is None


def test_a_model_that_serves_for_weeks_remembers_none_of_it() -> None:
    """Nobody asks a running model for its oldest ticket, so the index must tidy itself."""
    line = FairQueue()
    for n in range(1, 1001):
        line.push(ticket(n), n)
        if n % 2:
            line.pop(10.0)
        else:
            line.remove(n)
    assert len(line._by_age) == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=40), st.data())
def test_nothing_is_lost_and_each_client_keeps_its_order(
    arrivals: list[tuple[str, int]], data: st.DataObject
) -> None:
    line = FairQueue()
    waiting: dict[int, Ticket] = {}
    served: list[Ticket] = []
    for number, (client, _) in enumerate(arrivals):
        one = ticket(number, client)
        line.push(one, number)
        waiting[number] = one
        step = data.draw(st.sampled_from(["wait", "pop", "leave"]))
        if step == "pop":
            served.append(line.pop(10.0))
            del waiting[served[-1].id]
        elif step == "leave":
            gone = data.draw(st.sampled_from(sorted(waiting)))
            assert line.remove(gone) is waiting.pop(gone)
        assert len(line) == len(waiting)
        assert line.oldest() == min((t.arrived for t in waiting.values()), default=None)
    served += [line.pop(10.0) for _ in range(len(line))]
    for client in "abc":
        ids = [t.id for t in served if t.client == client]
        assert ids == sorted(ids)


# ---------------------------------------------------------------- the end of patience


def test_a_wait_ends_at_its_deadline_with_the_name_of_who_goes_first() -> None:
    desk = Desk(model("a"), model("b"), model("c"))
    desk.serve("a", 2.0)
    desk.arrive("b", patience=500.0)
    desk.arrive("c")
    assert desk.at(301.9) == []
    assert desk.at(302.0) == ["reject 3 queue_timeout"]
    assert desk.problem.code is Code.QUEUE_TIMEOUT
    assert "b is being given room first" in desk.problem.message


def test_the_clock_of_a_request_stands_still_while_its_backend_starts() -> None:
    desk = Desk(model("a"))
    desk.arrive("a", patience=10.0)
    desk.arrive("a", patience=10.0)
    assert desk.at(100.0) == []
    assert desk.ready("a") == ["grant 1 a/0"]
    assert desk.at(109.9) == []
    assert desk.at(110.0) == ["reject 2 queue_timeout"]


def test_only_the_part_of_a_start_that_a_request_saw_is_credited() -> None:
    desk = Desk(model("a"))
    desk.arrive("a")
    desk.at(40.0)
    desk.arrive("a", patience=10.0)
    desk.at(100.0)
    desk.ready("a")
    assert desk.at(109.9) == []
    assert desk.at(110.0) == ["reject 2 queue_timeout"]


def test_a_start_that_ends_before_the_deadline_is_credited_when_it_comes() -> None:
    desk = Desk(model("a"))
    desk.arrive("a", patience=50.0)
    desk.arrive("a", patience=50.0)
    desk.at(30.0)
    desk.ready("a")
    assert desk.at(79.9) == []
    assert desk.at(80.0) == ["reject 2 queue_timeout"]


def test_a_start_just_before_the_deadline_does_not_wake_anyone_over_and_over() -> None:
    desk = Desk(model("a"), model("b"))
    desk.serve("a", 2.0)
    desk.arrive("b", patience=9.001)
    desk.at(11.0)
    assert desk.end(1) == ["stop a evict"]
    assert desk.exit("a") == ["start b full"]
    before = desk.wakes
    assert desk.at(120.0) == []
    assert desk.wakes - before <= 1
    assert desk.exit("b", ExitClass.CRASH) == []
    assert desk.at(120.1) == ["reject 2 queue_timeout"]


def test_who_left_during_the_start_is_not_refused_afterwards() -> None:
    desk = Desk(model("a"))
    desk.arrive("a", patience=10.0)
    desk.arrive("a", patience=10.0, load=True)
    desk.at(50.0)
    desk.cancel(1)
    assert desk.exit("a", ExitClass.CRASH) == []
    desk.at(50.5)
    assert desk.state("a") is State.BACKOFF
    assert desk.due is not None


def test_nothing_is_due_for_requests_that_were_served() -> None:
    desk = Desk(model("a"))
    desk.idle("a")
    for _ in range(3):
        desk.arrive("a")
        desk.end(desk.ticket)
    assert desk.due is None


def test_time_alone_changes_nothing_between_deadlines() -> None:
    desk = Desk(model("a", keep_alive=60.0), model("b"))
    desk.idle("a", 2.0)
    desk.arrive("b")
    wakes = desk.wakes
    assert desk.at(2.4) == []
    assert desk.wakes == wakes


def test_waking_late_ends_only_the_waits_of_those_who_still_wait() -> None:
    desk = Desk(model("a"), model("b", slots=2))
    desk.serve("a", 2.0)
    for patience in (10.0, 11.0, 12.0):
        desk.arrive("b", patience=patience)
    desk.cancel(3)
    desk.now = 100.0
    assert desk.tell(TimeAdvanced()) == ["reject 2 queue_timeout", "reject 4 queue_timeout"]
