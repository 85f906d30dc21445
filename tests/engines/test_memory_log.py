"""What an engine's log says of its memory."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.units import MIB
from daemon.engines.memory_log import allotted, pool_of, versus

# Of real starts, shortened.
CPU = """\
0.00.166.657 I load_tensors:   CPU_Mapped model buffer size =    92.10 MiB
0.00.168.487 I llama_context:        CPU  output buffer size =     0.19 MiB
0.00.168.572 I llama_kv_cache:        CPU KV buffer size =    45.00 MiB
0.00.168.600 I llama_kv_cache: size =   45.00 MiB (  2048 cells,  30 layers,  1/1 seqs), K (f16)
0.00.196.519 I sched_reserve:        CPU compute buffer size =    15.51 MiB
"""
HYBRID = """\
load_tensors:   CPU_Mapped model buffer size =     4.71 MiB
llama_context:        CPU  output buffer size =     0.00 MiB
llama_kv_cache:        CPU KV buffer size =     2.00 MiB
llama_kv_cache:        CPU KV buffer size =     0.75 MiB
llama_memory_recurrent:        CPU RS buffer size =     0.14 MiB
sched_reserve:        CPU compute buffer size =    11.53 MiB
sched_reserve:        CPU compute buffer size =    12.53 MiB
"""
GPUS = """\
load_tensors:        CUDA0 model buffer size =  9000.00 MiB
load_tensors:        CUDA1 model buffer size =  8000.00 MiB
load_tensors:   CPU_Mapped model buffer size =   500.00 MiB
llama_context:  CUDA_Host  output buffer size =     1.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =   400.00 MiB
llama_kv_cache:      CUDA1 KV buffer size =   300.00 MiB
sched_reserve:      CUDA0 compute buffer size =   200.00 MiB
sched_reserve:      CUDA1 compute buffer size =   100.00 MiB
sched_reserve:  CUDA_Host compute buffer size =    20.00 MiB
load_tensors:        CUDA0 model buffer size =   600.00 MiB
llama_context:  CUDA_Host  output buffer size =     1.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =    50.00 MiB
sched_reserve:      CUDA0 compute buffer size =    70.00 MiB
alloc_compute_meta:      CUDA0 compute buffer size =   110.00 MiB
"""


def test_one_processor() -> None:
    told = allotted(CPU.splitlines())
    assert told.complete()
    assert told.total == round(152.80 * MIB)
    assert told.of("model", "KV") == round(137.10 * MIB)
    assert told.by_pool(["ram"]) == {"ram": told.total}
    assert told.by_pool(["unified"]) == {"unified": told.total}


def test_caches_add_up_and_a_new_reservation_replaces_the_old() -> None:
    told = allotted(HYBRID.splitlines())
    assert told.of("KV") == round(2.75 * MIB)
    assert told.of("RS") == round(0.14 * MIB)
    assert told.of("compute") == round(12.53 * MIB)


def test_a_draft_model_and_a_projector_beside_the_model() -> None:
    told = allotted(GPUS.splitlines())
    assert told.by_pool(["gpu0", "gpu1", "ram"]) == {
        "gpu0": (9000 + 400 + 200 + 600 + 50 + 70 + 110) * MIB,
        "gpu1": (8000 + 300 + 100) * MIB,
        "ram": (500 + 1 + 20 + 1) * MIB,
    }


def test_half_a_load_is_not_complete() -> None:
    assert not allotted(CPU.splitlines()[:3]).complete()
    assert not allotted([]).complete()


@pytest.mark.parametrize(
    ("device", "pool"),
    [
        ("CUDA1", "gpu1"),
        ("ROCm0", "gpu0"),
        ("Vulkan0", "gpu0"),
        ("CUDA_Host", "ram"),
        ("CPU_REPACK", "ram"),
        ("CUDA7", "ram"),  # none that we know
        ("RPC[127.0.0.1:5]", "ram"),
    ],
)
def test_devices_and_pools(device: str, pool: str) -> None:
    assert pool_of(device, ["gpu0", "gpu1", "ram"]) == pool
    assert pool_of(device, ["unified"]) == "unified"


@given(st.lists(st.text(max_size=200)))
def test_any_text_is_read(lines: list[str]) -> None:
    assert allotted(lines).total == 0


def test_a_hostile_log_costs_little() -> None:
    line = "load_tensors: " + " " * 400 + "A" * 100_000 + " model buffer size = 9.00 MiB"
    began = time.thread_time()
    assert allotted([line] * 5000).total == 0
    assert allotted(["sched_reserve: CPU compute buffer size = 99999999999.00 MiB"]).total == 0
    assert time.thread_time() - began < 5


def test_how_far_an_estimate_was_off() -> None:
    assert versus({"ram": 120}, {"ram": 100}) == pytest.approx(0.2)
    assert versus({"ram": 1, "gpu0": 80}, {"ram": 10, "gpu0": 100}) == pytest.approx(-0.2)
    assert versus({"ram": 120}, {}) == 0.0
    assert versus({}, {"ram": 0}) == 0.0
