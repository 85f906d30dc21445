from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from daemon.config.types import (
    Share,
    check_alias,
    check_hf,
    check_name,
    check_repo_file,
    check_text,
    parse_amount,
    parse_budget,
    parse_bytes,
    parse_interval,
    parse_keep_alive,
    parse_percent,
    parse_seconds,
    parse_switch,
    parse_tokens,
)
from daemon.core import units

READERS = (parse_bytes, parse_seconds, parse_keep_alive, parse_tokens, parse_amount, parse_budget)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("18GiB", 18 * 2**30),
        ("18 GiB", 18 * 2**30),
        ("18G", 18 * 2**30),
        ("18gb", 18 * 10**9),
        ("1.5 MiB", 3 * 2**19),
        ("512", 512),
        ("512B", 512),
        (0, 0),
        (4096, 4096),
        (1e6, 10**6),
    ],
)
def test_sizes(written: object, size: int) -> None:
    assert parse_bytes(written) == size


@pytest.mark.parametrize(
    "written",
    ["", "GiB", "-1GiB", -1, "18 gigs", True, None, [], math.nan, math.inf, "1e9", 2**61, "9" * 30],
)
def test_what_is_no_size(written: object) -> None:
    with pytest.raises(PydanticCustomError) as caught:
        parse_bytes(written)
    assert "18GiB" in str(caught.value.context)


def test_a_negative_size_says_so() -> None:
    with pytest.raises(PydanticCustomError) as caught:
        parse_bytes("-3GiB")
    assert caught.value.context == {
        "allowed": caught.value.message(),
        "hint": "A size cannot be negative.",
    }


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("15m", 900.0),
        ("300 s", 300.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("2 hours", 7200.0),
        ("20ms", 0.02),
        ("1.5s", 1.5),
        ("90", 90.0),
        ("7d", 604800.0),
        (0, 0.0),
        (0.25, 0.25),
    ],
)
def test_durations(written: object, seconds: float) -> None:
    assert parse_seconds(written) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written",
    ["", "m", "15 parsecs", "1h30", "-5m", -1, True, None, math.nan, math.inf, "1m!", "m1", 10**12],
)
def test_what_is_no_duration(written: object) -> None:
    with pytest.raises(PydanticCustomError):
        parse_seconds(written)


@pytest.mark.parametrize("written", [-1, -1.0, "-1", "never"])
def test_never_unload(written: object) -> None:
    assert parse_keep_alive(written) == -1.0


def test_keep_alive_is_a_duration_otherwise() -> None:
    assert parse_keep_alive("15m") == 900.0
    assert parse_keep_alive(0) == 0.0
    for wrong in (-2, "-1m", True, "ever"):
        with pytest.raises(PydanticCustomError, match="-1"):
            parse_keep_alive(wrong)


def test_what_repeats_may_not_spin() -> None:
    assert parse_interval(0.001) == 0.001
    with pytest.raises(PydanticCustomError):
        parse_interval(0)


@pytest.mark.parametrize(
    ("written", "tokens"), [(65536, 65536), ("64k", 65536), ("1M", 2**20), ("4096", 4096)]
)
def test_contexts(written: object, tokens: int) -> None:
    assert parse_tokens(written) == tokens


@pytest.mark.parametrize("written", [0, -1, "0", True, 1.5, "64kb", "", None, 2**40])
def test_what_is_no_context(written: object) -> None:
    with pytest.raises(PydanticCustomError):
        parse_tokens(written)


def test_shares() -> None:
    assert parse_percent("75%") == Share(75.0)
    assert parse_percent("75") is None
    assert Share(75.0).of(16 * 2**30) == 12 * 2**30
    for wrong in ("0%", "101%"):
        with pytest.raises(PydanticCustomError):
            parse_percent(wrong)


def test_budgets() -> None:
    assert parse_budget("18GiB") == 18 * 2**30
    assert parse_budget("75%") == Share(75.0)
    assert parse_budget({"gpu0": "22GiB", "ram": "50%"}) == {"gpu0": 22 * 2**30, "ram": Share(50.0)}
    for wrong in (0, {}, {"disk": "1GiB"}, {"gpu0": "x"}, {1: 2}, []):
        with pytest.raises(PydanticCustomError):
            parse_budget(wrong)


def test_switches() -> None:
    assert [parse_switch(word) for word in ("on", "OFF", "true", "No")] == [
        True,
        False,
        True,
        False,
    ]
    assert parse_switch("auto") == "auto"
    assert parse_switch(3) == 3


@pytest.mark.parametrize(
    "alias", ["coder", "claude-*", "*-haiku-*", "qwen3:30b", "a/b", "gpt-4o@x"]
)
def test_aliases(alias: str) -> None:
    assert check_alias(alias) == alias


@pytest.mark.parametrize(
    "alias", ["", "*", "**", "a**b", "*a*b*c*d*", "-x", "a b", "a?b", "[ab]", "x" * 300, "a\n"]
)
def test_what_is_no_alias(alias: str) -> None:
    with pytest.raises(PydanticCustomError):
        check_alias(alias)


def test_names_are_no_flags_and_no_paths_upwards() -> None:
    assert check_name("owner/model:30b") == "owner/model:30b"
    for wrong in ("-m", "../x", "", "a b", "a\x00", "<img>", "x" * 201, "é"):
        with pytest.raises(PydanticCustomError):
            check_name(wrong)


def test_repositories() -> None:
    assert check_hf("unsloth/X-GGUF:Q4_K_XL") == "unsloth/X-GGUF:Q4_K_XL"
    assert check_hf("hf:unsloth/X") == "unsloth/X"
    for wrong in ("x", "a/b/c", "a/..", "../a", "a/b:", "https://x/y", "-a/b", "a b/c"):
        with pytest.raises(PydanticCustomError):
            check_hf(wrong)


def test_files_of_a_repository_stay_inside_it() -> None:
    assert check_repo_file("sub/x.gguf") == "sub/x.gguf"
    for wrong in ("/etc/passwd", "../x", "a/../b", "~/x", "-m", "a\\b", "a\nb", ""):
        with pytest.raises(PydanticCustomError):
            check_repo_file(wrong)


def test_text_is_one_line() -> None:
    assert check_text("é 漢") == "é 漢"
    for wrong in ("a\nb", "\x1b[31m", "\x7f", ""):
        with pytest.raises(PydanticCustomError):
            check_text(wrong)


@given(st.from_regex(r"\A {0,2}[0-9]{1,12}(\.[0-9]{1,3})? ?[kKmMgG]?i?[bB]?\Z"))
def test_sizes_are_read_as_everywhere_else(text: str) -> None:
    try:
        expected = units.parse_bytes(text)
    except ValueError:
        expected = None
    if expected is None or expected > 2**60:
        with pytest.raises(PydanticCustomError):
            parse_bytes(text)
    else:
        assert parse_bytes(text) == expected


@given(st.text(max_size=30) | st.integers() | st.floats() | st.none() | st.lists(st.integers()))
def test_readers_answer_or_refuse_and_never_break(value: object) -> None:
    for read in READERS:
        try:
            result = read(value)
        except PydanticCustomError:
            continue
        assert isinstance(result, int | float | Share)


@given(st.integers(min_value=0, max_value=2**40), st.sampled_from(["", "KiB", "MiB", "GiB"]))
def test_sizes_scale(number: int, unit: str) -> None:
    factor = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]
    if number * factor <= 2**60 and number < 2**50:
        assert parse_bytes(f"{number}{unit}") == number * factor
