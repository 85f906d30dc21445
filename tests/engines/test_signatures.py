"""What dying engines say, with the exact texts that they were seen to print."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.messages import ExitClass
from daemon.engines import signatures
from daemon.engines.base import Engine, Verdict
from daemon.engines.command import Command, Template
from daemon.engines.llama_server import LlamaServer
from daemon.engines.mlx_lm import MlxLm
from daemon.engines.vllm import Vllm
from daemon.engines.vllm_mlx import VllmMlx
from daemon.engines.xllamacpp import Xllamacpp

OOM = ExitClass.OUT_OF_MEMORY
PERMANENT = ExitClass.PERMANENT
CRASH = ExitClass.CRASH

METAL = "error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
STICKY = (
    "ggml_metal_graph_compute: backend is in error state from a previous command buffer failure"
    " - recreate the backend to recover"
)
MLX_METAL = "[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPUComman"
LOADING = "0.00.005.305 E srv          init: exiting due to model loading error"

# status, ready, what it said, class
SEEN: list[tuple[int | None, bool, list[str], ExitClass]] = [
    # llama.cpp, Metal
    (None, True, ["ggml_metal_synchronize: error: command buffer 0 failed with status 5", METAL,
                  STICKY, "llama_decode: failed to decode, ret = -3", "Compute error."], OOM),
    (None, True, [STICKY], OOM),
    (None, False, ['{"error":{"code":500,"message":"Compute error.","type":"server_error"}}',
                   METAL], OOM),
    (-6, True, ["ggml_metal_graph_compute: command buffer 3 failed with status 5", METAL,
                "GGML_ABORT(\"fatal error\")"], OOM),
    (None, True, ["ggml_metal_synchronize: error: command buffer 0 failed with status 5",
                  "error: Impacting Interactivity (0000000e:"
                  "kIOGPUCommandBufferCallbackErrorImpactingInteractivity)"], CRASH),
    (-6, True, ["error: Invalid Resource (00000009:"
                "kIOGPUCommandBufferCallbackErrorInvalidResource)"], CRASH),
    (-6, True, ["kIOGPUCommandBufferCallbackErrorSubmissionsIgnored"], CRASH),
    (-6, True, ["kIOGPUCommandBufferCallbackErrorBackgroundExecutionNotPermitted"], CRASH),
    (1, False, ["ggml_metal_buffer_init: error: failed to allocate buffer, size =  8192.00 MiB",
                LOADING], OOM),
    (1, False, ["ggml_metal_buffer_init: failed to allocate Metal buffer of 123 bytes"
                " (out of memory)", LOADING], OOM),
    # llama.cpp, CPU
    (1, False, ["ggml_aligned_malloc: insufficient memory (attempted to allocate 512.00 MB)",
                "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 5",
                "alloc_tensor_range: failed to allocate CPU buffer of size 536870912",
                "error loading model: unable to allocate CPU buffer", LOADING], OOM),
    (1, False, ["ggml_backend_buft_alloc_buffer_n_default: failed to allocate buffer"], OOM),
    (1, False, ["failed to initialize the context: failed to allocate buffer for kv cache"], OOM),
    (1, False, ["failed to initialize the context: std::bad_alloc", LOADING], OOM),
    (-6, False, ["ggml.c:1573: GGML_ASSERT(ctx->mem_buffer != NULL) failed"], OOM),
    (None, True, ["update_slots: decode() failed: std::bad_alloc"], OOM),
    (None, False, ['{"error":{"code":500,"message":"decode() failed: std::bad_alloc"}}'], OOM),
    (1, False, ["llama_context: failed to allocate compute pp buffers"], OOM),
    (1, False, ["failed to allocate graph"], OOM),
    (1, False, ["graph_reserve: failed to allocate compute buffers"], OOM),
    # a thread that is refused: its stack is memory
    (-6, False, ["terminate called after throwing an instance of 'std::system_error'",
                 "  what():  Resource temporarily unavailable"], OOM),
    (-6, True, ["libc++abi: terminating due to uncaught exception of type std::__1::system_error:"
                " thread constructor failed: Resource temporarily unavailable"], OOM),
    (1, False, ["libgomp: Thread creation failed: Resource temporarily unavailable"], OOM),
    (1, False, ["RuntimeError: can't start new thread"], OOM),
    (-2, False, ["OpenBLAS blas_thread_init: pthread_create failed for thread 1 of 4: Resource"
                 " temporarily unavailable"], OOM),
    (-6, True, ["terminate called after throwing an instance of 'std::system_error'",
                "  what():  Invalid argument"], CRASH),
    (1, True, ["BlockingIOError: [Errno 11] Resource temporarily unavailable"], CRASH),
    # CUDA, ROCm, Vulkan
    (1, False, ["ggml_backend_cuda_buffer_type_alloc_buffer: allocating 7605.34 MiB on device 0:"
                " cudaMalloc failed: out of memory", LOADING], OOM),
    (-6, True, ["CUDA error: out of memory"], OOM),
    (-6, True, ["ROCm error: out of memory"], OOM),
    (-6, True, ["CUDA error: an illegal memory access was encountered"], CRASH),
    (1, False, ["ggml_vulkan: Device memory allocation of size 123 failed.",
                "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory"], OOM),
    (-6, True, ["Requested preallocation size is too large"], OOM),
    (-6, True, ["ggml_vulkan: device lost on"], CRASH),
    # MLX
    (-6, True, ["libc++abi: terminating due to uncaught exception of type std::runtime_error: "
                + MLX_METAL], OOM),
    (None, True, [f"mlx_lm.server generation thread died: {MLX_METAL}"], OOM),
    (None, True, ["Engine loop error: " + MLX_METAL], OOM),
    (None, True, ["Engine loop error: list index out of range"], CRASH),
    (None, True, ["ERROR - mlx_lm.server generation thread died: boom"], CRASH),
    (None, False, ["mlx_lm.server generation thread died: Model type xlama not supported."],
     PERMANENT),
    (None, False, ["2026-11-21 04:00:49,029 - ERROR - mlx_lm.server generation thread died: Repo"
                   " id must be in the form 'repo_name' or 'namespace/repo_name': '/m'"],
     PERMANENT),
    (None, False, ["ModuleNotFoundError: No module named 'mlx_lm.models.xlama'"], PERMANENT),
    (None, True, ["RuntimeError: [metal::malloc] Attempting to allocate 99 bytes which is greater"
                  " than the maximum allowed buffer size of 9 bytes."], OOM),
    (None, True, ["RuntimeError: [metal::malloc] Resource limit (499000) exceeded."], OOM),
    (None, True, ["RuntimeError: [malloc] Unable to allocate 99 bytes."], OOM),
    (None, True, ["[malloc_or_wait] Unable to allocate 99 bytes."], OOM),
    (-11, True, [], CRASH),
    # the system's guards
    (-9, True, [], OOM),
    (-9, False, [], OOM),
    (137, True, [], OOM),
    # vLLM
    (1, False, ["torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."], OOM),
    (1, False, ["ValueError: No available memory for the cache blocks."], OOM),
    (1, False, ["ValueError: Model architectures ['X'] are not supported for now."], PERMANENT),
    (1, False, ["ValueError: Free memory on device cuda:0 (12.38/287.69 GiB) on startup is less"
                " than desired GPU memory utilization (0.92, 264.67 GiB)."], OOM),
    (-6, True, ["CUDA error: CUBLAS_STATUS_ALLOC_FAILED"], OOM),
    (1, True, ["vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue."],
     CRASH),
    # Metal's other reasons, in MLX's words
    (None, True, ["[METAL] Command buffer execution failed: Caused GPU Timeout Error"
                  " (00000002:kIOGPUCommandBufferCallbackErrorTimeout)"], CRASH),
    # unasked, as if all were well, and with an exit handler that hides the signal
    (0, True, [METAL], OOM),
    (1, True, ["Compute error."], CRASH),
    # ports
    (1, False, ["0.00.002.125 E srv         start: couldn't bind HTTP server socket, hostname:"
                " 127.0.0.1, port: 49069", "srv init: exiting due to HTTP server error"],
     ExitClass.PORT),
    (1, False, ["OSError: [Errno 98] Address already in use"], ExitClass.PORT),
    # Metal's start
    (1, False, ["ggml_metal_init: error: failed to initialize the Metal library", LOADING],
     ExitClass.METAL_INIT),
    (1, False, ["input types must match cooperative tensor types", LOADING],
     ExitClass.METAL_INIT),
    # the same start would fail again
    (1, False, ["error: invalid argument: --no-mmap"], PERMANENT),
    (2, False, ["server.py: error: unrecognized arguments: --nope"], PERMANENT),
    (1, False, ["gguf_init_from_file: failed to open GGUF file 'x' (No such file or directory)",
                LOADING], PERMANENT),
    (1, False, ["gguf_init_from_file_ptr: invalid magic characters: 'xxxx', expected 'GGUF'",
                LOADING], PERMANENT),
    (1, False, ["error loading model: tensor 'blk.0.attn_output.weight' data is not within the"
                " file bounds, model is corrupted or incomplete", LOADING], PERMANENT),
    (1, False, ["error loading model: unknown model architecture: 'xlama'", LOADING], PERMANENT),
    (1, False, ["init: chat template parsing error: std::exception", LOADING], PERMANENT),
    (1, False, ["K cache type q8_0 with block size 32 does not divide n_embd_head_k=16",
                LOADING], PERMANENT),
    (1, False, ["mtmd_init_from_file: error: Failed to load CLIP model from x", LOADING],
     PERMANENT),
    (1, False, [LOADING], PERMANENT),
    (127, False, [], PERMANENT),
    (1, False, ["error: cannot import xllamacpp in /bin/python: no"], PERMANENT),
    # anything else
    (0, True, [], CRASH),
    (0, False, [], CRASH),
    (1, False, [], CRASH),
    (-6, True, ["ggml.c:12: GGML_ASSERT(n > 0) failed"], CRASH),
    (-11, False, [], CRASH),
    (143, True, [], CRASH),
    (None, True, [], ExitClass.HANG),
    (None, False, [], ExitClass.HANG),
    # not memory, though it names it
    (-6, True, ["sched_reserve: failed to allocate compute buffers,"
                " retrying without pipeline parallelism"], CRASH),
    (-11, True, ["ggml_cuda_host_malloc: failed to allocate 512.00 MiB of pinned memory: "
                 "out of memory"], CRASH),
    (-11, True, ["WARNING: failed to allocate 512.00 MB of pinned memory"], CRASH),
    (-11, True, ["ggml_vulkan: Failed to allocate pinned memory (vk::Device::allocateMemory:"
                 " ErrorOutOfHostMemory)"], CRASH),
    (-11, True, ["warning: failed to mlock 5-byte buffer: Cannot allocate memory"], CRASH),
    # what was said of the load says nothing of an exit hours later
    (-11, True, ["failed to open 'x'", LOADING, "unsupported"], CRASH),
    (-11, True, ["couldn't bind"], CRASH),
]  # fmt: skip


@pytest.mark.parametrize(("status", "ready", "lines", "expected"), SEEN)
def test_classification(
    status: int | None, ready: bool, lines: list[str], expected: ExitClass
) -> None:
    verdict = signatures.classify(status, lines, ready=ready, asked=False)
    assert verdict.exit_class is expected
    assert verdict.detail


@pytest.mark.parametrize(("status", "ready", "lines", "expected"), SEEN)
def test_what_decides_is_among_the_lines_that_are_kept(
    status: int | None, ready: bool, lines: list[str], expected: ExitClass
) -> None:
    """The keeper keeps only lines that match: the verdict must be the same from those."""
    kept = [line for line in lines if re.search(signatures.PATTERN.encode(), line.encode())]
    verdict = signatures.classify(status, kept, ready=ready, asked=False)
    assert verdict.exit_class is expected


# status, what it said: unexplained ends of an engine that held about all the memory there was
SUSPECT: list[tuple[int, list[str]]] = [
    (-6, []),
    (-11, []),  # MLX on a CPU does not look at what malloc gave
    (0, []),  # through an exit handler
    (1, ["RuntimeError: [read] Unable to read from file."]),
    (1, ["terminate called without an active exception"]),
]


@pytest.mark.parametrize(("status", "lines"), SUSPECT)
def test_an_unexplained_end_near_the_budget_is_memorys(status: int, lines: list[str]) -> None:
    near = signatures.classify(status, lines, ready=True, asked=False, near_budget=True)
    assert near.exit_class is OOM
    assert "probably" in near.detail
    assert near.advice
    for ready, full in ((True, False), (False, True)):  # not while it loads: it held little then
        other = signatures.classify(status, lines, ready=ready, asked=False, near_budget=full)
        assert other.exit_class is CRASH


@pytest.mark.parametrize(
    ("status", "lines"),
    [
        (-6, ["ggml.c:12: GGML_ASSERT(n > 0) failed"]),
        (-6, ["CUDA error: an illegal memory access was encountered"]),
        (1, ["IndexError: list index out of range"]),
        (-15, []),
        (143, []),
    ],
)
def test_an_end_that_is_explained_is_not_suspected(status: int, lines: list[str]) -> None:
    verdict = signatures.classify(status, lines, ready=True, asked=False, near_budget=True)
    assert verdict.exit_class is CRASH


def test_metals_own_warning_is_as_good_as_a_measure() -> None:
    line = (
        "ggml_metal_log_allocated_size: warning: current allocated size is greater than the"
        " recommended max working set size"
    )
    assert re.search(signatures.PATTERN.encode(), line.encode())
    assert signatures.classify(-6, [line], ready=True, asked=False).exit_class is OOM
    assert "Metal" in signatures.hint([line])


EACH: dict[ExitClass, tuple[int | None, bool, list[str]]] = {
    ExitClass.PERMANENT: (1, False, ["error: invalid argument: --nope"]),
    ExitClass.PORT: (1, False, ["OSError: [Errno 98] Address already in use"]),
    OOM: (-6, True, [METAL]),
    ExitClass.METAL_INIT: (1, False, ["failed to initialize the Metal library"]),
    CRASH: (-11, True, []),
    ExitClass.HANG: (None, True, []),
}
ENGINES: list[Engine] = [
    LlamaServer(), Xllamacpp(), MlxLm(), VllmMlx(), Vllm(),
    Command(Template("mine", ("mine", "{port}"))),
]  # fmt: skip


@pytest.mark.parametrize("expected", EACH)
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_every_engine_knows_every_class(engine: Engine, expected: ExitClass) -> None:
    status, ready, lines = EACH[expected]
    verdict = engine.classify(status, lines, ready=ready, asked=False)
    assert verdict.exit_class is expected
    assert engine.classify(status, lines, ready=ready, asked=True).exit_class is ExitClass.CLEAN
    near = engine.classify(-11, [], ready=True, asked=False, near_budget=True)
    assert near.exit_class is OOM
    for line in lines:
        assert re.search(engine.pattern.encode(), line.encode(), re.IGNORECASE)


@pytest.mark.parametrize("status", [0, 1, -6, -9, -14, -15, 143])
def test_what_we_stopped_is_clean_whatever_it_said(status: int) -> None:
    verdict = signatures.classify(status, [METAL], ready=True, asked=True)
    assert verdict == Verdict(ExitClass.CLEAN, signatures.ended(status))


def test_the_cause_comes_before_its_consequences() -> None:
    lines = ["0.00.001.123 E ggml_metal: x", f"0.01.002.333 E {METAL}", "Compute error.", STICKY]
    verdict = signatures.classify(None, lines, ready=True, asked=False)
    assert verdict.detail == METAL
    assert verdict.lines[0] == METAL
    assert STICKY in verdict.lines
    assert "context" in verdict.advice


def test_the_clock_of_a_python_log_is_left_out() -> None:
    line = "2026-11-21 04:00:49,029 - ERROR - mlx_lm.server generation thread died: boom"
    verdict = signatures.classify(None, [line], ready=True, asked=False)
    assert verdict.detail == "mlx_lm.server generation thread died: boom"


def test_lines_are_fit_to_be_shown() -> None:
    verdict = signatures.classify(-6, ["\x1b[31mout of memory\r\n" + "x" * 1000], ready=True,
                                  asked=False)  # fmt: skip
    assert len(verdict.detail) == 300
    assert verdict.detail.isprintable()


def test_a_signal_is_named() -> None:
    assert signatures.ended(-11) == "killed by SIGSEGV"
    assert signatures.ended(-99) == "killed by signal 99"
    assert signatures.ended(3) == "exit status 3"
    crash = signatures.classify(-6, ["ggml.c:1: GGML_ASSERT(x) failed"], ready=True, asked=False)
    assert crash.detail == "killed by SIGABRT: ggml.c:1: GGML_ASSERT(x) failed"


def test_a_memory_slot_that_is_not_found_is_advised_on() -> None:
    line = "decode: failed to find a memory slot for batch of size 512"
    assert "slots" in signatures.hint([line])
    assert re.search(signatures.PATTERN.encode(), line.encode())
    verdict = signatures.classify(-11, [line], ready=True, asked=False)
    assert verdict.exit_class is CRASH
    assert "raise `ctx`" in verdict.advice
    assert signatures.hint(["all is well"]) == ""


@pytest.mark.parametrize(
    ("line", "advice"),
    [("unknown model architecture: 'x'", "ctl engine update"),
     ("error: invalid argument: -x", "`args`"),
     ("invalid magic characters", "pull it again"),
     ("chat template parsing error", "`template`")],
)  # fmt: skip
def test_permanent_failures_say_what_to_do(line: str, advice: str) -> None:
    assert advice in signatures.classify(1, [line], ready=False, asked=False).advice


def test_ordinary_lines_are_not_kept() -> None:
    """The pattern runs over every line of an engine at -lv 4: ordinary ones must not fill it."""
    ordinary = [
        "srv  update_slots: all slots are idle",
        "load_tensors:   CPU_Mapped model buffer size =     0.21 MiB",
        "slot print_timing: id  0 | task 0 | prompt eval time = 1.0 ms / 2 tokens",
        "srv  log_server_r: done request: POST /v1/chat/completions 127.0.0.1 200",
        "llama_kv_cache: size =    0.12 MiB (   512 cells,   2 layers,  1/1 seqs)",
        '127.0.0.1 - - [21/Nov/2026 03:19:03] "POST /v1/completions HTTP/1.1" 200 -',
        "srv          init: preserve_reasoning kwarg: not supported by template",
    ]
    pattern = re.compile(signatures.PATTERN.encode())
    assert [line for line in ordinary if pattern.search(line.encode())] == []


@given(st.from_regex(re.compile(signatures.PATTERN, re.IGNORECASE | re.ASCII)))
def test_whatever_is_found_has_a_needle(line: str) -> None:
    """Also in a keeper, which knows ASCII's small letters alone."""
    low = line.encode("utf-8", "replace").lower()
    assert any(needle.encode() in low for needle in signatures.NEEDLES)


def test_needles_are_small_letters() -> None:
    assert all(needle == needle.lower() != "" for needle in signatures.NEEDLES)
    assert not any(char.isdigit() for needle in signatures.NEEDLES for char in needle)


def test_a_long_line_is_looked_at_quickly() -> None:
    """No alternative may try again from each character of a word without end."""
    pattern = re.compile(signatures.PATTERN.encode(), re.IGNORECASE)
    for line in (b"y" * 8192, b"Model architectures " * 400, b" " * 8192, b"_" * 8192):
        began = time.thread_time()
        assert pattern.search(line) is None
        assert time.thread_time() - began < 0.5  # 7 ms here; tries from each character take minutes
