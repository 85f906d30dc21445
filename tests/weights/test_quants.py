"""Bits per weight by the name of a quantisation."""

from __future__ import annotations

import pytest

from daemon.weights.quants import bits, named_in, plain


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


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Qwen3-0.6B-Q8_0.gguf", "Q8_0"),
        ("qwen3-coder-30b-a3b-instruct-q8_0.gguf", "Q8_0"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("Qwen3.6-27B-UD-Q4_K_XL.gguf", "Q4_K_XL"),
        ("mlx-community/gemma-4-e4b-it-4bit", "4bit"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("owner/Some-Model-7B-GGUF", ""),
        ("", ""),
    ],
)
def test_a_name_in_the_name_of_a_file(text: str, name: str) -> None:
    assert named_in(text) == name


def test_names_are_compared_plainly() -> None:
    assert plain("ud-q4_k_xl") == plain("Q4_K_XL")
