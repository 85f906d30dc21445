"""Bits per weight by the name of a quantisation."""

from __future__ import annotations

import pytest

from daemon.weights.quants import bits


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Q4_K_M", 4.84),
        ("q4_k_m", 4.84),
        ("UD-Q4_K_XL", 4.9),
        ("Q8_0", 8.5),
        ("Q6_K", 6.56),
        ("F16", 16.0),
        ("BF16", 16.0),
        ("MXFP4", 4.25),
        ("IQ4_XS", 4.25),
        ("4bit", 4.5),
        ("8-bit", 8.5),
    ],
)
def test_known(name: str, wanted: float) -> None:
    assert bits(name) == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize("name", ["", "instruct", "Q", "999bit", "Q4_K_M_extra"])
def test_unknown(name: str) -> None:
    assert bits(name) is None


def test_more_bits_have_the_larger_name() -> None:
    order = ["Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16"]
    found = [bits(name) for name in order]
    assert found == sorted(found, key=lambda b: b or 0.0)
