from __future__ import annotations

import gguf

from daemon.weights.ggml import CACHE_TYPES, FILE_TYPES, REMOVED_TYPES, TENSOR_TYPES


def test_sizes_are_those_of_the_reference_package() -> None:
    for kind, sizes in gguf.GGML_QUANT_SIZES.items():
        if kind.name == "Q8_1":
            continue  # the package still has the layout of before 2024; the engine has 36 bytes
        assert TENSOR_TYPES[int(kind)] == (kind.name, *sizes)


def test_file_types_are_those_of_the_reference_package() -> None:
    for kind in gguf.LlamaFileType:
        if kind.name in ("GUESSED", "MOSTLY_MXFP4_MOE"):
            continue
        assert FILE_TYPES[int(kind)] == kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")


def test_removed_types_are_not_known_types() -> None:
    assert not REMOVED_TYPES & TENSOR_TYPES.keys()


def test_cache_types_are_tensor_types() -> None:
    by_name = {name.lower(): (block, size) for name, block, size in TENSOR_TYPES.values()}
    assert all(by_name[name] == sizes for name, sizes in CACHE_TYPES.items())
