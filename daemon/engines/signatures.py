"""What engines say when they die, as data, and the one classification of it.

The texts are those that llama.cpp, MLX, vLLM and their servers really print. Order matters where
a dying engine says several things: memory before "error loading model", which follows it.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from daemon.core.messages import ExitClass
from daemon.engines.base import Verdict

_MAX_LINES: Final = 5
_MAX_CHARS: Final = 300
# Clock and level, as llama.cpp and Python's logging write them.
_PREFIX: Final = re.compile(
    r"^(?:\d+\.\d\d\.\d{3}\.\d{3} [A-Z] +|\d{4}-\d\d-\d\d [\d:,.]+ - [A-Z]+ - )"
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]+")

# What to set, and try once more, after METAL_INIT.
METAL_RETRY: Final[Mapping[str, str]] = {"GGML_METAL_TENSOR_DISABLE": "1"}

# To whoever ran out of memory, where nothing more is known.
SMALLER: Final = "Give it less: a smaller context, fewer slots, or a smaller quantisation."
_THREAD = (
    "The system refused it a thread, for want of memory or by a limit on threads: raise that limit"
    " (`ulimit -u`, a container's pids limit), or give it a smaller context or fewer slots."
)
_ADVICE_PORT = "Another program took the port; a new one is chosen."
_FILE = "The file is missing, damaged or not of this engine's form: pull it again."
_FLAG = "Mend `args` of the model, or install a version of the engine that knows the flag."
_TOO_OLD = (
    "This engine does not know the model's architecture: `ctl engine update` brings a newer one,"
    " `ctl engine install NAME` where it is not ours (`ctl engine ls` shows what there is)."
)


@dataclass(frozen=True, slots=True)
class Signature:
    """A text that decides. ``loading``: only while the engine had not been ready."""

    pattern: str
    exit_class: ExitClass
    advice: str = ""
    loading: bool = False

    def found(self, lines: Iterable[str]) -> list[str]:
        compiled = re.compile(self.pattern, re.IGNORECASE)
        return [line for line in lines if compiled.search(line)]


def _memory(pattern: str, advice: str = SMALLER) -> Signature:
    return Signature(pattern, ExitClass.OUT_OF_MEMORY, advice)


def _permanent(pattern: str, advice: str) -> Signature:
    return Signature(pattern, ExitClass.PERMANENT, advice, loading=True)


# Lines that name memory and are not a failure of it: the engine goes on in another way.
HARMLESS: Final = (
    r"retrying without pipeline parallelism|failed to mlock|failed to munlock"
    r"|Mi?B of pinned memory|failed to allocate pinned memory"
)

SIGNATURES: Final[tuple[Signature, ...]] = (
    Signature(r"failed to initialize the metal library", ExitClass.METAL_INIT),
    Signature(r"input types must match cooperative tensor types", ExitClass.METAL_INIT),
    Signature(r"address already in use", ExitClass.PORT, _ADVICE_PORT, loading=True),
    Signature(r"couldn't bind", ExitClass.PORT, _ADVICE_PORT, loading=True),
    # memory: Metal
    _memory(r"insufficient memory"),
    _memory(r"kIOGPUCommandBufferCallbackErrorOutOfMemory"),
    # Metal gave the commands up for another reason. llama.cpp prints "status 5" for this too.
    Signature(r"kIOGPUCommandBufferCallbackError(?!OutOfMemory)\w+", ExitClass.CRASH,
              "Metal gave up the work for a reason other than memory."),
    _memory(r"command buffer \d+ failed with status"),
    _memory(r"backend is in error state"),
    _memory(r"\[METAL\] Command buffer execution failed"),
    _memory(r"\[(?:metal::)?malloc(?:_or_wait)?\] (?:Unable|Attempting|Resource)"),
    # memory: CPU, CUDA, ROCm, Vulkan
    _memory(r"failed to allocate"),
    _memory(r"unable to allocate"),
    _memory(r"allocation failed|Device memory allocation of size"),
    _memory(r"std::bad_alloc"),
    _memory(r"GGML_ASSERT\(ctx->mem_buffer != NULL\)"),
    _memory(r"cudaMalloc failed"),
    _memory(r"CU(?:BLAS|DNN)_STATUS_ALLOC_FAILED"),
    _memory(r"out of memory"),
    _memory(r"ErrorOutOfDeviceMemory|Requested preallocation size is too large"),
    _memory(r"not enough memory|cannot allocate memory|\bMemoryError\b"),
    _memory(r"unable to fit"),
    # a thread's stack is memory too: libstdc++, libc++, OpenMP, Python, OpenBLAS
    _memory(r"what\(\): +Resource temporarily unavailable|thread constructor failed"
            r"|thread creation failed|can't start new thread|pthread_create failed", _THREAD),
    # memory: vLLM
    _memory(r"No available memory for the cache blocks"),
    _memory(r"is less than desired GPU memory utilization",
            "Other programs hold the card's memory: end them, or lower `memory.budget`."),
    _memory(r"larger than the (?:available KV cache memory|maximum number of tokens that can)"),
    # the same start would fail again
    _permanent(r"unknown model architecture|Model type \S+ not supported"
               r"|Model architectures .{0,200} are not supported", _TOO_OLD),
    _permanent(r"error: invalid argument|error while handling argument|unknown argument"
               r"|unrecognized arguments|error: argument |expected value for argument", _FLAG),
    _permanent(r"chat template parsing error|chat template is not supported",
               "The chat template does not parse: set `template` of the model."),
    _permanent(r"does not divide n_embd_head|V cache quantization requires flash_attn",
               "This model cannot hold its context in that type: leave the KV types alone."),
    _permanent(r"failed to load CLIP model|failed to load multimodal model",
               "The file of `mmproj` does not belong to this model."),
    _permanent(r"failed to load lora adapter", "The LoRA adapter is missing or does not fit."),
    _permanent(r"cannot import \w+|ModuleNotFoundError|No module named|ImportError:",
               "The engine's environment is broken: install the engine again."),
    _permanent(r"invalid magic|data is not within the file bounds|failed to open"
               r"|FileNotFoundError|No such file or directory|cached snapshot folder"
               r"|LocalEntryNotFoundError|Repo id must be in the form|parameters not in model"
               r"|Missing \d+ parameters", _FILE),
    _permanent(r"unsupported", "The engine cannot run this model as configured."),
    _permanent(r"error loading model|exiting due to model loading error", _FILE),
    # it lives on and answers nothing
    Signature(r"generation thread died", ExitClass.CRASH, "It answers nothing until restarted."),
    Signature(r"Engine loop error", ExitClass.CRASH, "It answers nothing until restarted."),
)  # fmt: skip

# Worth telling, though nothing died of them.
HINTS: Final[Mapping[str, str]] = {
    r"failed to find a memory slot": (
        "The context is too small or there are too many slots: raise `ctx` or lower `slots`."
    ),
    r"greater than the recommended max working set": (
        "Metal was given more than it recommends: a smaller context, or a smaller budget."
    ),
}

# An end that nothing explains, after one of these, is memory's: Metal goes on for a while.
STRAINED: Final = r"greater than the recommended max working set"

# Lines that decide nothing and still explain a crash.
EVIDENCE: Final = (
    r"GGML_ASSERT|GGML_ABORT|uncaught exception|terminate called|(?:CUDA|ROCm|HIP) error"
    r"|device lost|exiting due to|failed to decode|\wError: |segmentation fault"
    r"|\[read\] Unable to read"
)

# Evidence of a bug, and signals that somebody sends: then a full memory is no suspect.
_EXPLAINS: Final = (
    r"GGML_ASSERT|illegal memory access|device lost"
    r"|(?:Index|Key|Type|Value|Attribute|Assertion)Error: "
)
_SENT: Final = frozenset({-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, 143, 130, 129})

# The keeper searches with it as it stands, so that cases do not matter is said in it.
PATTERN: Final = "(?i:{})".format(
    "|".join(f"(?:{text})" for text in (*(each.pattern for each in SIGNATURES), *HINTS, EVIDENCE))
)

# Small letters: whatever PATTERN finds in a line, one of these is in it. A flood of a log is looked
# through for them first, which is ten times as fast; so they are few, and rare in ordinary talk.
NEEDLES: Final = (
    "error", "memory", "failed", "alloc", "unable to", "support", "argument", "ggml_a",
    "cooperative tensor", "already in use", "couldn't bind", "unknown model", "does not divide",
    "flash_attn", "cannot import", "no module named", "invalid magic", "not within the file",
    "no such file", "snapshot folder", "must be in the form", "parameters", "thread died",
    "larger than the", "uncaught exception", "terminate called", "device lost", "exiting due to",
    "segmentation fault", "recommended max working set", "temporarily unavailable",
    "new thread",
)  # fmt: skip


def hint(lines: Sequence[str]) -> str:
    """The next step for a line that an engine survived, or ""."""
    for pattern, advice in HINTS.items():
        if any(re.search(pattern, line, re.IGNORECASE) for line in lines):
            return advice
    return ""


def classify(
    status: int | None,
    lines: Sequence[str],
    *,
    ready: bool,
    asked: bool,
    near_budget: bool = False,
) -> Verdict:
    """What an exit means.

    ``status`` as in subprocess (negative: killed by that signal); None: it lives, but will not
    serve. ``lines``: the kept lines, oldest first. ``ready``: it had served before. ``asked``: we
    stopped it, and then nothing that it said on its way matters. ``near_budget``: it was last seen
    to take about all that there is: an end while serving that nothing else explains is then
    memory's (some engines name it only in the system's own log, and MLX on a CPU not at all).
    """
    if asked:
        return Verdict(ExitClass.CLEAN, ended(status))
    kept = [_clean(line) for line in lines if not re.search(HARMLESS, line, re.IGNORECASE)]
    for each in SIGNATURES:
        if each.loading and ready:
            continue
        if found := each.found(kept):
            return _verdict(each.exit_class, found, kept, each.advice or hint(kept))
    strained = near_budget or any(re.search(STRAINED, line, re.IGNORECASE) for line in kept)
    return _by_status(status, kept, ready, strained and ready)


def _by_status(status: int | None, kept: Sequence[str], ready: bool, strained: bool) -> Verdict:
    """The verdict where no text decides."""
    how = ended(status)
    explained = [line for line in kept if re.search(EVIDENCE, line, re.IGNORECASE)]
    evidence = tuple(explained[-_MAX_LINES:])
    if status is None:
        return Verdict(ExitClass.HANG, how, hint(kept), evidence)
    # 137 is how a shell tells of SIGKILL. Nobody but the system's memory guards kills with it.
    if status in (-signal.SIGKILL, 128 + signal.SIGKILL):
        text = "killed by SIGKILL that we did not send: the out-of-memory killer, or a person"
        return Verdict(ExitClass.OUT_OF_MEMORY, text, SMALLER, evidence)
    if status in (126, 127) and not ready:
        text = "the program could not be started"
        return Verdict(ExitClass.PERMANENT, text, "Check `path` of the engine.", evidence)
    explained = [line for line in evidence if re.search(_EXPLAINS, line, re.IGNORECASE)]
    if strained and status not in _SENT and not explained:
        text = f"{how}, with its memory all but used up: probably that"
        return Verdict(ExitClass.OUT_OF_MEMORY, text, hint(kept) or SMALLER, evidence)
    return Verdict(
        ExitClass.CRASH, f"{how}: {evidence[-1]}" if evidence else how, hint(kept), evidence
    )


def _verdict(
    exit_class: ExitClass, found: Sequence[str], kept: Sequence[str], advice: str
) -> Verdict:
    # The first line tells the cause, what follows are its consequences.
    lines = list(found[:_MAX_LINES])
    lines += [line for line in kept[-_MAX_LINES:] if line not in lines]
    return Verdict(exit_class, lines[0], advice, tuple(lines[:_MAX_LINES]))


def ended(status: int | None) -> str:
    """How a process ended, in words."""
    if status is None:
        return "it lives, but does not serve"
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _clean(line: str) -> str:
    """A line as it may be shown: without its clock, without control characters, bounded."""
    return _CONTROL.sub(" ", _PREFIX.sub("", line)).strip()[:_MAX_CHARS]
