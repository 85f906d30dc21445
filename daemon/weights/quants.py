"""What quantisations are worth: bits per weight by name; names in names of files. Pure.

The mixtures' figures are of Llama 2 7B as llama.cpp's quantize tool documents them (its README),
those of Q2_K_XL and Q3_K_XL go by the files of Qwen3 30B; other models come within a few percent.
Pure types are exact (``TENSOR_TYPES``).
"""

from __future__ import annotations

import re
from typing import Final

from daemon.weights.ggml import TENSOR_TYPES

MIXTURES: Final = {
    "Q2_K": 3.35,
    "Q2_K_L": 3.1,
    "Q2_K_XL": 3.1,
    "Q3_K_S": 3.50,
    "Q3_K_M": 3.91,
    "Q3_K_L": 4.27,
    "Q3_K_XL": 3.7,
    "Q4_K_S": 4.58,
    "Q4_K_M": 4.84,
    "Q4_K_L": 4.9,
    "Q4_K_XL": 4.9,
    "Q5_K_S": 5.52,
    "Q5_K_M": 5.68,
    "Q5_K_XL": 5.8,
    "Q6_K": 6.56,
    "Q6_K_XL": 7.0,
    "Q8_K_XL": 9.5,
}
_PURE: Final = {name: 8 * size / block for name, block, size in TENSOR_TYPES.values()}
_PLAIN_BITS: Final = re.compile(r"(\d{1,2})-?bit", re.IGNORECASE)
_BREAKS: Final = re.compile(r"[-./: ]")


def bits(name: str) -> float | None:
    """Bits per weight of a quantisation such as ``Q4_K_M``, ``UD-Q4_K_XL``, ``MXFP4``, ``4bit``.

    None where the name says nothing.
    """
    stem = name.upper().removeprefix("UD-").removeprefix("I1-")
    if stem in MIXTURES:
        return MIXTURES[stem]
    if stem in _PURE:
        return _PURE[stem]
    match = _PLAIN_BITS.fullmatch(stem)
    return float(match[1]) + 0.5 if match else None  # MLX: a scale and a bias per 64 weights


def plain(name: str) -> str:
    """The name as all write it: ``ud-q4_k_xl`` is ``Q4_K_XL``. For comparing."""
    return name.upper().removeprefix("UD-")


def named_in(text: str) -> str:
    """The quantisation that the name of a file or a repository tells, "" where it tells none.

    >>> named_in("unsloth/Qwen3.6-27B-UD-Q4_K_XL.gguf")
    'Q4_K_XL'
    """
    for word in reversed(_BREAKS.split(text)):
        if bits(word) is not None:
            return word.lower() if _PLAIN_BITS.fullmatch(word) else word.upper()
    return ""
