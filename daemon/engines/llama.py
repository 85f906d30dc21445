"""What llama-server and the embedded engine share: the command line, readiness, routes.

Context: llama.cpp's ``-c`` is the total of all slots. With ``-np S -no-kvu`` each slot owns
``pad256(c / S)`` cells that no other slot can take, so ``-c ctx*S`` keeps the promised context for
every slot; a unified cache would let one long conversation starve the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from daemon.core.problems import Code, Problem, ProblemError
from daemon.engines.base import Installed, LaunchPlan, Probe, Running
from daemon.engines.environment import child_environment

MIB: Final = 1 << 20
DEFAULT_BATCH: Final = 2048  # llama.cpp's own -b
DEFAULT_UBATCH: Final = 512  # llama.cpp's own -ub
# An embedding's or a ranking's whole input must fit one physical batch. The compute buffer grows
# with it (about 0.5 GB at 8192 for bge-m3), so it is not simply the context.
MAX_INPUT_BATCH: Final = 8192

ALL_LAYERS: Final = "999"  # understood by every version; "all" only by new ones

Group = tuple[str, ...]  # the names of one flag, best first

_CTX: Final[Group] = ("-c", "--ctx-size")
_SLOTS: Final[Group] = ("-np", "--parallel")
_UNIFIED: Final[Group] = ("-kvu", "--kv-unified")
_SEPARATE: Final[Group] = ("-no-kvu", "--no-kv-unified")
_BATCH: Final[Group] = ("-b", "--batch-size")
_UBATCH: Final[Group] = ("-ub", "--ubatch-size")
_TYPE_K: Final[Group] = ("-ctk", "--cache-type-k")
_TYPE_V: Final[Group] = ("-ctv", "--cache-type-v")
_CACHE: Final[Group] = ("--cache-ram", "-cram")
_CHECKPOINTS: Final[Group] = ("-ctxcp", "--ctx-checkpoints", "--swa-checkpoints")
_FLASH: Final[Group] = ("-fa", "--flash-attn")
_NO: Final = frozenset({"off", "0", "false", "disabled"})
_SPECULATION: Final[Group] = ("--spec-type",)
_LAYERS: Final[Group] = ("-ngl", "--gpu-layers", "--n-gpu-layers")
_SPLIT: Final[Group] = ("-ts", "--tensor-split")
_ALL_EXPERTS: Final[Group] = ("-cmoe", "--cpu-moe")
_SOME_EXPERTS: Final[Group] = ("-ncmoe", "--n-cpu-moe")
_OVERRIDE: Final[Group] = ("-ot", "--override-tensor")
_NO_KV_OFFLOAD: Final[Group] = ("-nkvo", "--no-kv-offload")
_PROJECTOR_HOME: Final[Group] = ("--no-mmproj-offload",)
_PROJECTOR_AWAY: Final[Group] = ("--mmproj-offload",)
# What a user may have set himself of each step of the out-of-memory ladder.
CACHE_FLAGS: Final = _CACHE
BATCH_FLAGS: Final = _BATCH + _UBATCH
KV_FLAGS: Final = _TYPE_K + _TYPE_V + _FLASH
CTX_FLAGS: Final = _CTX
SLOT_FLAGS: Final = _SLOTS
PROJECTOR_FLAGS: Final = _PROJECTOR_HOME + _PROJECTOR_AWAY
LAYER_FLAGS: Final = _LAYERS + _SPLIT
FLASH_HAS_VALUE: Final = 6325  # the build since which -fa takes on, off or auto
_BUILD: Final = re.compile(r"b?([0-9]{3,6})(?![0-9.])")
EVERY: Final = 1 << 30  # layers: more than any model has

# Flags that would take the model out of our hands, each with what to do instead.
RESERVED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("-m", "--model"), "set `path` or `hf` of the model"),
    **dict.fromkeys(("--host", "--port", "--reuse-port", "--api-prefix"), "modelport chooses it"),
    **dict.fromkeys(("--ssl-key-file", "--ssl-cert-file"), "use [tls]: clients talk to modelport"),
    **dict.fromkeys(("--api-key", "--api-key-file"), "a backend's key is made anew at each start"),
    **dict.fromkeys(
        ("-hf", "-hfr", "--hf-repo", "-hff", "--hf-file", "-hft", "--hf-token", "-mu",
         "--model-url", "-dr", "--docker-repo", "-mmu", "--mmproj-url", "-hfd", "-hfrd",
         "--hf-repo-draft", "--spec-draft-hf", "-hfv", "--hf-repo-v", "-hffv", "--hf-file-v"),
        "set `hf` of the model: weights are pulled before the start, with progress",
    ),
    **dict.fromkeys(
        ("--models-dir", "--models-preset", "--models-max", "--models-autoload"),
        "modelport starts one process per model",
    ),
    **dict.fromkeys(("--log-disable", "--log-file"), "modelport keeps the log"),
    **dict.fromkeys(("-h", "--help", "--usage", "--version"), "it starts nothing"),
}  # fmt: skip
_DOWNLOADS: Final = re.compile(r"--[a-z0-9.-]+-(?:default|spec)")  # --gpt-oss-20b-default
_KEEPS: Final = frozenset({"--spec-default"})  # a speculative configuration: downloads nothing
_FLAG: Final = re.compile(r"--?[A-Za-z][\w.-]*(=.*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Memory:
    """The settings that decide how much memory llama.cpp takes, as it really gets them."""

    n_ctx: int  # tokens, all slots together
    slots: int
    unified: bool
    batch: int
    ubatch: int
    type_k: str
    type_v: str
    prompt_cache: int  # bytes
    checkpoints: int  # per slot; llama.cpp's own default of 32 can take gigabytes
    flash: bool = True  # False: -fa off
    drafting: bool = False  # with the model's own layers for it

    @property
    def ctx_per_slot(self) -> int:
        """Tokens that every slot is sure of."""
        return self.n_ctx // max(1, self.slots)


def counting(args: Sequence[str], running: Running) -> tuple[str, ...]:
    """The ``args`` that count for this way to run: without what it drops."""
    kept: list[str] = []
    dropping = False
    for arg in args:
        flag = _FLAG.fullmatch(arg) is not None
        if flag:  # a value goes with it
            dropping = arg.partition("=")[0] in running.dropped
        if not dropping:
            kept.append(arg)
    return tuple(kept)


def build(version: str) -> int | None:
    """The build number of a version such as ``8123 (abc)``; None where it has none."""
    match = _BUILD.match(version)
    return int(match[1]) if match else None


def memory_settings(running: Running, kind: str, args: Sequence[str] = ()) -> Memory:
    """What :func:`arguments` really passes for this way to run: the user's ``args`` win over it.

    An argument that cannot be read leaves the setting as planned; the engine will refuse it.
    """
    args = counting(args, running)
    batch, ubatch = _batches(running, kind)
    total = _number(args, _CTX, running.ctx * running.slots)
    slots = _number(args, _SLOTS, running.slots)
    cache = _number(args, _CACHE, running.prompt_cache // MIB)
    shared = [arg in _UNIFIED for arg in args if arg in _UNIFIED + _SEPARATE]
    return Memory(
        n_ctx=total,
        slots=slots,
        unified=bool(shared) and shared[-1],
        batch=_number(args, _BATCH, batch or DEFAULT_BATCH),
        ubatch=_number(args, _UBATCH, ubatch or DEFAULT_UBATCH),
        type_k=_value(args, _TYPE_K) or running.type_k,
        type_v=_value(args, _TYPE_V) or running.type_v,
        prompt_cache=cache * MIB,
        checkpoints=_number(args, _CHECKPOINTS, running.checkpoints),
        flash=(_value(args, _FLASH) or "auto").lower() not in _NO,
        drafting="mtp" in (_value(args, _SPECULATION) or ""),
    )


@dataclass(frozen=True, slots=True)
class Placing:
    """Where the user's ``args`` put the layers. ``gpu_layers`` None: as planned. ``host_experts``:
    of how many layers the routed experts stay in main memory; ``host_patterns``: and of those that
    a pattern of ``--override-tensor`` sends there."""

    gpu_layers: int | None = None
    split: tuple[float, ...] = ()
    host_experts: int = 0
    host_patterns: tuple[str, ...] = ()
    kv_offload: bool = True


def placement_settings(args: Sequence[str]) -> Placing:
    """What ``args`` say of places. What cannot be read leaves them as planned."""
    layers = _value(args, _LAYERS)
    split = [part for part in re.split(r"[,/]", _value(args, _SPLIT) or "") if part]
    sane = all(re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", part) for part in split)
    pairs = [item.rpartition("=") for name, text in pairwise(args) if name in _OVERRIDE
             for item in text.split(",")]  # fmt: skip
    return Placing(
        gpu_layers=int(layers) if layers and re.fullmatch(r"[0-9]{1,9}", layers) else None,
        split=tuple(float(part) for part in split) if sane else (),
        host_experts=EVERY if any(arg in _ALL_EXPERTS for arg in args)
        else _number(args, _SOME_EXPERTS, 0),
        host_patterns=tuple(pattern[:200] for pattern, _, device in pairs if device == "CPU"),
        kv_offload=not any(arg in _NO_KV_OFFLOAD for arg in args),
    )  # fmt: skip


def _batches(running: Running, kind: str) -> tuple[int | None, int | None]:
    """``-b`` and ``-ub``; None leaves llama.cpp's own."""
    if kind in ("embedding", "rerank"):
        size = running.ubatch or min(max(running.ctx, DEFAULT_UBATCH), MAX_INPUT_BATCH)
        return size, size
    if running.ubatch is None:
        return None, None
    # A smaller physical batch is a step of the out-of-memory ladder: the logical one goes with it.
    logical = DEFAULT_BATCH if running.ubatch >= DEFAULT_UBATCH else DEFAULT_UBATCH
    return max(logical, running.ubatch), running.ubatch


def without_cache_settings(args: Sequence[str]) -> tuple[str, ...]:
    """``args`` without the cache types and the size of the prompt cache."""
    dropped = {*_TYPE_K, *_TYPE_V, *_CACHE}
    before = (None, *args)
    pairs = zip(before, args, strict=False)
    return tuple(arg for last, arg in pairs if arg not in dropped and last not in dropped)


def _value(args: Sequence[str], group: Group) -> str | None:
    """What ``args`` say last for a flag."""
    found = [after for name, after in pairwise(args) if name in group]
    return found[-1] if found else None


def _number(args: Sequence[str], group: Group, planned: int) -> int:
    given = _value(args, group)
    return int(given) if given is not None and re.fullmatch(r"\d{1,9}", given) else planned


# ---------------------------------------------------------------- the command line


def refuse(message: str, hint: str = "") -> ProblemError:
    """MODEL_UNAVAILABLE: the same start would fail again."""
    return ProblemError(Problem(Code.MODEL_UNAVAILABLE, message, hint))


def check_args(plan: LaunchPlan, installed: Installed) -> None:
    """Refuse the user's ``args`` where they take a decision of ours, or where this engine does not
    know the flag. Raises ProblemError (MODEL_UNAVAILABLE)."""
    for arg in plan.args:
        match = _FLAG.fullmatch(arg)
        if match is None:
            continue
        if match[1]:
            name = arg.partition("=")[0]
            raise refuse(f"{plan.model}: {arg!r} in args.", f'Write "{name}", "VALUE": two items.')
        # llama-server takes --ctx_size for --ctx-size
        name = arg.replace("_", "-") if arg.startswith("--") else arg
        if name in RESERVED:
            raise refuse(f"{plan.model}: {arg} cannot be in args: {RESERVED[name]}.")
        if _DOWNLOADS.fullmatch(name) and name not in _KEEPS:
            hint = "Use a preset, or `hf` and args written out: this flag would download unseen."
            raise refuse(f"{plan.model}: {arg} cannot be in args.", hint)
        if installed.flags and name not in installed.flags:
            what = f"{installed.engine} {installed.version}".strip()
            raise refuse(f"{plan.model}: {what} does not know {arg}.", _unknown(installed.engine))


def _unknown(engine: str) -> str:
    if engine == "xllamacpp":
        return 'Run the model with llama-server (engine = "llama-server"), or leave the flag out.'
    return "Update the engine, or leave the flag out of args."


class _Line:
    """A command line in the making: flags that this build knows, none that the user gave."""

    def __init__(self, plan: LaunchPlan, installed: Installed) -> None:
        self.argv: list[str] = []
        self._user = set(plan.args)
        self._plan = plan
        self._installed = installed

    def add(self, group: Group, *value: str, need: str = "", unless: Group = ()) -> None:
        """``need``: what the model asked for; then a build without the flag cannot run it.
        ``unless``: flags by which the user settled the same thing."""
        if self._user.intersection(group + unless):
            return
        known = self._installed.flags
        name = next((name for name in group if not known or name in known), None)
        if name is not None:
            self.argv += [name, *value]
        elif need:
            what = f"{self._installed.engine} {self._installed.version}".strip()
            message = f"{self._plan.model}: {what} has no {group[-1]}, needed for {need}."
            raise refuse(message, _unknown(self._installed.engine))


def arguments(plan: LaunchPlan, installed: Installed) -> tuple[str, ...]:
    """llama-server's arguments for a plan; the user's come last.

    Raises ProblemError (MODEL_UNAVAILABLE): nothing on the disk, or a setting that this build
    cannot honour.

    Options of the plan: ``slot_save_path``, ``gpu_layers``, ``pooling``.
    """
    if plan.path is None:
        raise refuse(f"{plan.model} has no file on the disk.", f"Pull it: ctl pull {plan.model}")
    check_args(plan, installed)
    plan = replace(plan, args=counting(plan.args, plan.running))
    line = _Line(plan, installed)
    line.add(("-m", "--model"), str(plan.path), need="any model")
    line.add(("-a", "--alias"), plan.model)
    if plan.socket is not None:
        line.add(("--host",), str(plan.socket), need="any model")
    else:
        line.add(("--host",), "127.0.0.1", need="any model")
        line.add(("--port",), str(plan.port), need="any model")
    line.add(("--api-key-file",), str(plan.secret_file), need="its own key")
    _add_memory(line, plan, installed)
    _add_kind(line, plan)
    layers = plan.options.get("gpu_layers", ALL_LAYERS if installed.accelerators else None)
    if plan.running.gpu_layers is not None:
        layers = plan.running.gpu_layers
    if layers is not None:
        line.add(("-ngl", "--gpu-layers", "--n-gpu-layers"), str(layers))
    # By default it would shrink itself to what happens to be free; the budget has decided.
    line.add(("-fit", "--fit"), "off")
    # the lines that tell of memory; prompts come at 5
    line.add(
        ("-lv", "--verbosity", "--log-verbosity"), "4", unless=("-v", "--verbose", "--log-verbose")
    )
    line.add(("--no-webui", "--no-ui"), unless=("--webui", "--ui"))
    line.add(("--offline",))
    return (*line.argv, *plan.args)


def split_evenly(gpus: int) -> tuple[str, ...]:
    """The flag by which each of several GPUs gets as many layers as the others; else llama.cpp
    goes by what happens to be free there."""
    return ("-ts", ",".join(["1"] * gpus)) if gpus > 1 else ()


def visible(devices: Sequence[str]) -> dict[str, str]:
    """The environment in which a process sees just these GPUs, in this order.

    NVIDIA's are named by UUID, which no other order of theirs can confuse.
    """
    if devices and all(device.startswith(("GPU-", "MIG-")) for device in devices):
        return {"CUDA_VISIBLE_DEVICES": ",".join(devices)}
    return {}


def _add_memory(line: _Line, plan: LaunchPlan, installed: Installed) -> None:
    running = plan.running
    if split := split_evenly(len(running.gpus)):
        line.add((split[0], "--tensor-split"), split[1], need="several GPUs")
    batch, ubatch = _batches(running, plan.kind)
    line.add(_CTX, str(running.ctx * running.slots), need="its context")
    line.add(_SLOTS, str(running.slots), need="its slots")
    line.add(_SEPARATE, unless=_UNIFIED)
    line.add(_CACHE, str(running.prompt_cache // MIB))
    line.add(_CHECKPOINTS, str(running.checkpoints))
    if batch is not None and ubatch is not None:
        line.add(_BATCH, str(batch), need="its batch")
        line.add(_UBATCH, str(ubatch), need="its batch")
    if running.type_k != "f16":
        line.add(_TYPE_K, running.type_k, need="a smaller KV cache")
    if running.type_v != "f16":
        line.add(_TYPE_V, running.type_v, need="a smaller KV cache")
        number = build(installed.version)  # such values are refused without flash attention
        old = number is not None and number < FLASH_HAS_VALUE
        line.add(_FLASH, *(() if old else ("on",)))
    if running.projector_on_cpu and plan.mmproj is not None:
        line.add(_PROJECTOR_HOME, unless=_PROJECTOR_AWAY)
    if "slot_save_path" in plan.options:
        line.add(("--slot-save-path",), str(plan.options["slot_save_path"]))


def _add_kind(line: _Line, plan: LaunchPlan) -> None:
    if plan.kind == "embedding":
        line.add(("--embeddings", "--embedding"), need="embeddings")
        if "pooling" in plan.options:
            line.add(("--pooling",), str(plan.options["pooling"]), need="its pooling")
    elif plan.kind == "rerank":
        line.add(("--reranking", "--rerank"), need="ranking")
    else:
        # off by default in old builds: no tools without it
        line.add(("--jinja",), unless=("--no-jinja",))
        if plan.template is not None:
            file = str(plan.template)
            line.add(
                ("--chat-template-file",), file, need="its template", unless=("--chat-template",)
            )
    if plan.mmproj is not None:
        line.add(("--mmproj", "-mm"), str(plan.mmproj), need="its projector")
    if plan.draft is not None:
        line.add(("-md", "--model-draft"), str(plan.draft), need="its draft model")
        line.add(("--spec-type",), "draft-simple")  # new builds draft only with a type


def environment(environ: Mapping[str, str], plan: LaunchPlan) -> dict[str, str]:
    """The child's environment. ``LLAMA_ARG_*`` of ours is not inherited."""
    own = {
        # it would run gdb or lldb on itself before it dies
        "GGML_NO_BACKTRACE": "1",
        # new builds read llama.cpp/config.ini there: settings that no estimate knows of
        "XDG_CONFIG_HOME": "/dev/null",
    }
    return child_environment(environ, own, visible(plan.running.visible), plan.env)


def headers(plan: LaunchPlan) -> dict[str, str]:
    return {"Authorization": f"Bearer {plan.secret}"}


# ---------------------------------------------------------------- readiness and routes


def probe(plan: LaunchPlan) -> Probe:
    """``/health``, then one real request: a llama.cpp whose Metal queue broke says ok for ever."""
    return Probe("/health", *real_request(plan.kind, plan.model), slots="/slots")


def real_request(kind: str, model: str, **more: object) -> tuple[str, str, bytes]:
    """Method, path and body of the smallest request that makes a model of this kind work.

    Completions need no chat template, so they do for chat models too.
    """
    if kind == "embedding":
        return "POST", "/v1/embeddings", _body(model=model, input="a", **more)
    if kind == "rerank":
        return "POST", "/v1/rerank", _body(model=model, query="a", documents=["a"], **more)
    return "POST", "/v1/completions", _body(model=model, prompt="a", max_tokens=1, **more)


def _body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def routes(kind: str) -> frozenset[str]:
    """What llama.cpp's server answers itself, as values of ``daemon.ports.Route``."""
    text = {"completions", "infill", "tokens", "upstream"}
    spoken = {"chat", "messages", "count_tokens", "responses"}
    return frozenset(
        {
            "chat": text | spoken,
            "completion": text,
            "embedding": {"embeddings", "tokens", "upstream"},
            "rerank": {"rerank", "tokens", "upstream"},
            "audio": text | spoken | {"audio"},
        }.get(kind, {"upstream"})
    )
