"""Which build a machine gets, from what its tools print."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daemon.engines.install.builds import choices, unused
from daemon.engines.install.probes import look, parse_nvidia_cards, parse_nvidia_smi
from tests.engines.install.machines import MACHINES, RELEASE, TAG

WANTED = {
    "Mac M3 Max": ["metal macos-arm64"],
    "Mac with Intel": ["cpu macos-x64"],
    "RTX 4090, driver of CUDA 12.8": [
        "cuda ubuntu-cuda-12.8-x64", "vulkan ubuntu-vulkan-x64", "cpu ubuntu-x64"],
    "two cards, driver of CUDA 13.0": [
        "cuda ubuntu-cuda-12.8-x64", "vulkan ubuntu-vulkan-x64", "cpu ubuntu-x64"],
    "GTX 1080 under the newest driver": [
        "cuda ubuntu-cuda-12.8-x64", "vulkan ubuntu-vulkan-x64", "cpu ubuntu-x64"],
    "RTX 3060, old driver": ["vulkan ubuntu-vulkan-x64", "cpu ubuntu-x64"],
    "DGX Spark": ["cuda ubuntu-cuda-13.4-arm64", "vulkan ubuntu-vulkan-arm64", "cpu ubuntu-arm64"],
    "RX 7900 XTX with ROCm 7.2": [
        "rocm ubuntu-rocm-7.2-x64", "vulkan ubuntu-vulkan-x64", "cpu ubuntu-x64"],
    "RX 7900 XTX with ROCm 6": ["vulkan ubuntu-vulkan-x64", "cpu ubuntu-x64"],
    "Strix Halo without ROCm": ["vulkan ubuntu-vulkan-x64", "cpu ubuntu-x64"],
    "Arc A770": ["vulkan ubuntu-vulkan-x64", "cpu ubuntu-x64"],
    "a card whose tools are not installed": ["vulkan ubuntu-vulkan-x64", "cpu ubuntu-x64"],
    "a server without a card": ["cpu ubuntu-x64"],
    "Alpine": [],
    "FreeBSD": [],
}  # fmt: skip


@pytest.mark.parametrize("name", MACHINES)
def test_each_machine_gets_its_build(name: str) -> None:
    found = choices(RELEASE, MACHINES[name].machine)
    short = [
        f"{one.build} {one.files[0].removeprefix(f'llama-{TAG}-bin-').removesuffix('.tar.gz')}"
        for one in found
    ]
    assert short == WANTED[name]
    for one in found:
        beside = [f"cudart-{one.files[0]}"] if one.build == "cuda" else []
        assert list(one.files[1:]) == beside, "CUDA's libraries come along"


@pytest.mark.parametrize("name", [n for n, one in MACHINES.items() if one.seen != type(one.seen)()])
def test_what_is_seen(name: str) -> None:
    assert MACHINES[name].machine.graphics == MACHINES[name].seen


def test_a_card_that_gets_no_cuda_is_told_why() -> None:
    old = unused(RELEASE, MACHINES["RTX 3060, old driver"].machine)
    assert "CUDA 12.2 at most" in old
    assert "newer driver" in old
    for name in ("RTX 4090, driver of CUDA 12.8", "Arc A770", "Mac M3 Max"):
        assert unused(RELEASE, MACHINES[name].machine) == ""


def test_other_words_of_nvidia_smi() -> None:
    assert parse_nvidia_smi("NVIDIA-SMI has failed because it couldn't communicate") is None
    assert parse_nvidia_smi("| KMD Version: 610.2   CUDA UMD Version: 13.5 |") == (13, 5)
    assert parse_nvidia_cards("NVIDIA A100, with a comma, 8.0\nNVIDIA P4, [N/A]\n") == (
        ("NVIDIA A100, with a comma",),
        (8, 0),
    )


def test_tools_are_really_run(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\ncase $1 in --query*) echo 'NVIDIA L4, 8.9' ;; "
        "*) echo '| CUDA Version: 12.9 |' ;; esac\n"
    )
    tool.chmod(0o755)
    broken = tmp_path / "vulkaninfo"
    broken.write_text("#!/bin/sh\necho 'Cannot create Vulkan instance.'\nexit 1\n")
    broken.chmod(0o755)
    (tmp_path / "opt/rocm/.info").mkdir(parents=True)
    (tmp_path / "opt/rocm/.info/version").write_text("7.2.0-1")
    found = look({"PATH": f"{tmp_path}:{os.environ['PATH']}"}, tmp_path).graphics
    assert (found.nvidia, found.cuda, found.capability) == (("NVIDIA L4",), (12, 9), (8, 9))
    assert found.vulkan == ()
    assert found.rocm == (7, 2)
