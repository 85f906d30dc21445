"""Judging a load before it is begun: the verdict, the numbers and the choices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.budget import fits, minus, total
from daemon.core.eviction import Resident
from daemon.core.units import GIB
from daemon.machine.base import MachineFacts, PoolFacts
from daemon.preflight import Raise, Verdict, Way, gpu_limit, preflight

WAYS = [Way(n * 1024, {"unified": (10 * GIB + n * GIB // 8)}) for n in (64, 48, 32)]  # 18, 16, 14


def held(model: str, gib: int, last_used: float = 0.0) -> Resident:
    return Resident(model, {"unified": gib * GIB}, 0, last_used, 1.0)


def room(gib: int) -> dict[str, int]:
    return {"unified": gib * GIB}


def test_it_fits_beside_what_runs() -> None:
    found = preflight("coder", WAYS, room(24), [held("embed", 4)])
    assert (found.verdict, found.given, found.evicts) == (Verdict.FITS, WAYS[0], ())
    assert found.text == "coder needs 18.0 GiB with a context of 65536: it fits."
    assert found.choices == ()


def test_it_says_who_would_go() -> None:
    found = preflight("coder", WAYS, room(24), [held("new", 5, 9.0), held("old", 5, 1.0)])
    assert (found.verdict, found.evicts) == (Verdict.EVICTS, ("old",))
    assert "old would be evicted" in found.text


def test_its_own_memory_counts_as_free() -> None:
    found = preflight("coder", WAYS, room(24), [held("coder", 20)])
    assert (found.verdict, found.evicts) == (Verdict.FITS, ())


def test_it_would_shrink() -> None:
    found = preflight("coder", WAYS, room(17), [])
    assert (found.verdict, found.given) == (Verdict.SHRINKS, WAYS[1])
    assert found.text == (
        "coder needs 18.0 GiB with a context of 65536, there is room for 17.0 GiB: "
        "it would get a context of 49152 (16.0 GiB)."
    )
    assert [c.key for c in found.choices] == ["shrink", "ignore"]
    assert found.choices[0].context == 49152
    assert "1.0 GiB over" in found.choices[-1].text


def test_a_written_context_is_refused_with_the_choices() -> None:
    found = preflight("coder", WAYS, room(17), [], shrink=False)
    assert (found.verdict, found.given) == (Verdict.REFUSED, None)
    assert [c.key for c in found.choices] == ["shrink", "ignore"]


def test_pins_are_named() -> None:
    found = preflight("coder", WAYS, room(24), [held("embed", 8)], frozenset({"embed"}))
    assert (found.verdict, found.pinned) == (Verdict.SHRINKS, ("embed",))
    assert "16.0 GiB beside the pinned embed of 24.0 GiB" in found.text
    assert [c.key for c in found.choices] == ["shrink", "unpin", "ignore"]


def test_nothing_would_help() -> None:
    found = preflight("coder", WAYS, room(8), [])
    assert (found.verdict, [c.key for c in found.choices]) == (Verdict.REFUSED, ["ignore"])


@pytest.mark.parametrize(
    ("most", "keys"),
    [
        (18, ["shrink", "raise_limit", "ignore"]),  # enough for all that is wanted
        (16, ["shrink", "both", "ignore"]),  # more than without, not all
        (14, ["shrink", "ignore"]),  # no more than without
    ],
)
def test_a_raised_limit(most: int, keys: list[str]) -> None:
    asked: list[int] = []

    def command(more: int) -> tuple[str, ...]:
        asked.append(more)
        return ("sudo", "sysctl", f"iogpu.wired_limit_mb={(14 * GIB + more) >> 20}")

    found = preflight("coder", WAYS, room(14), [], limit=Raise(room(most), command))
    assert [c.key for c in found.choices] == keys
    if len(keys) == 3:
        assert asked == [(most - 14) * GIB]
        assert found.choices[1].command[-1].endswith(f"={most * 1024}")


def test_no_command_no_choice() -> None:
    found = preflight("coder", WAYS, room(14), [], limit=Raise(room(18), lambda _: None))
    assert [c.key for c in found.choices] == ["shrink", "ignore"]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 9)), max_size=6),
    st.integers(0, 30),
    st.booleans(),
)
def test_what_it_promises_fits(
    running: list[tuple[int, bool, int]], budget: int, shrink: bool
) -> None:
    residents = [held(f"m{i}", gib, float(at)) for i, (gib, _, at) in enumerate(running)]
    pins = frozenset(f"m{i}" for i, (_, pinned, _) in enumerate(running) if pinned)
    found = preflight("coder", WAYS, room(budget), residents, pins, shrink=shrink)
    assert not set(found.evicts) & pins
    if found.given is None:
        free = minus(room(budget), total(r.charge for r in residents if r.model in pins))
        assert not fits(WAYS[-1 if shrink else 0].need, free)
        return
    stay = [r for r in residents if r.model not in found.evicts]
    assert fits(found.given.need, minus(room(budget), total(r.charge for r in stay)))
    assert (found.verdict is Verdict.FITS) == (found.given is WAYS[0] and not found.evicts)


def test_only_a_mac_has_a_limit_to_raise() -> None:
    mac = MachineFacts(
        (PoolFacts("unified", 24 * GIB, 20 * GIB, 16 * GIB, "Metal"),), 24 * GIB, "darwin"
    )
    found = gpu_limit(mac, room(15))
    assert found is not None
    assert found.budget == {"unified": 21 * GIB}
    assert found.command(3 * GIB) == ("sudo", "sysctl", "iogpu.wired_limit_mb=18432")
    assert found.command(9 * GIB) is None, "more than the system can do without"
    card = MachineFacts((PoolFacts("gpu0", 24 * GIB, 20 * GIB, None, "NVML"),), 64 * GIB, "linux")
    assert gpu_limit(card, {"gpu0": 20 * GIB}) is None
