"""Which files of a repository make up a model. Pure: names and sizes in, names out.

Only formats that are read as data are ever chosen (GGUF, safetensors and the texts beside them);
files that run code when they are opened (pickles, Python) are never downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from daemon.core.problems import Code, Problem, ProblemError

# fmt: off
DEFAULT_QUANTS = (
    "Q4_K_M", "Q4_K_XL", "Q4_0", "MXFP4", "MXFP4_MOE", "Q4_K_S", "Q4_K_L", "Q4_1", "IQ4_XS",
    "IQ4_NL", "Q5_K_M", "Q5_K_XL", "Q5_K_S", "Q5_0", "Q5_1", "Q6_K", "Q6_K_XL", "Q8_0", "Q8_K_XL",
    "Q3_K_XL", "Q3_K_L", "Q3_K_M", "IQ3_M", "Q3_K_S", "Q2_K_XL", "Q2_K", "F16", "BF16", "F32",
)
# fmt: on
"""What is taken when nobody says: four bits first, then the better ones, then the smaller ones."""

_MMPROJ_ORDER = ("F16", "BF16", "Q8_0", "F32")  # F16 runs on every backend; F32 only costs more
_BESIDE_SAFETENSORS = frozenset({".safetensors", ".json", ".txt", ".jinja", ".model", ".tiktoken"})
_OTHER_FORMATS = frozenset({"onnx", "openvino", "coreml", "original", "metal", "gguf"})
_TEMPLATES = frozenset({".jinja", ".jinja2", ".txt", ".json"})
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
_QUANT = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:I?Q[1-8](?:_[A-Z0-9]+){0,3}|TQ[12]_0|BF16|FP?16|FP?32|MXFP4(?:_MOE)?|NVFP4))"
    r"(?:[-._](?:IMAT|IMATRIX|I1))?$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class RepoFile:
    """One file of a repository: its path there, and its bytes."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Weights:
    """The files of one GGUF model, its shards in order. ``quant`` is upper case, "" if unknown."""

    quant: str
    files: tuple[RepoFile, ...]
    shards: int  # how many there should be

    @property
    def whole(self) -> bool:
        return len(self.files) == self.shards

    @property
    def size(self) -> int:
        return sum(f.size for f in self.files)


def quant_of(name: str) -> str:
    """The quantisation that a GGUF file's name tells, upper case; of its folder if it tells none.

    >>> quant_of("UD-Q4_K_XL/Qwen3-UD-Q4_K_XL-00001-of-00002.gguf")
    'UD-Q4_K_XL'
    """
    path = PurePosixPath(name)
    for text in (unsharded(path.stem), path.parent.name):
        if match := _QUANT.search(text):
            return match[1].upper().replace("FP16", "F16").replace("FP32", "F32")
    return ""


def unsharded(stem: str) -> str:
    """The stem of a file without the number of its shard."""
    return _SHARD.sub("", stem)


def series(stem: str) -> str:
    """The same without its quantisation: what several of one model share."""
    plain = unsharded(stem)
    return _QUANT.sub("", plain).rstrip("-._") or plain


def groups(files: Iterable[RepoFile]) -> list[Weights]:
    """The GGUF models among ``files``, shards put together; projectors and matrices are none."""
    found: dict[str, list[tuple[int, RepoFile]]] = {}
    counts: dict[str, int] = {}
    for file in files:
        path = PurePosixPath(file.name)
        if path.suffix.lower() != ".gguf" or _no_model(path.name):
            continue
        shard = _SHARD.search(path.stem)
        key = str(path.with_suffix(""))[: shard.start() - len(path.stem)] if shard else file.name
        found.setdefault(key, []).append((int(shard[1]) if shard else 1, file))
        counts[key] = int(shard[2]) if shard else 1
    made = []
    for key, members in found.items():
        ordered = tuple(file for _, file in sorted(members, key=lambda m: m[0]))
        made.append(Weights(quant_of(ordered[0].name), ordered, counts[key]))
    return sorted(made, key=_preference)


def _no_model(name: str) -> bool:
    return is_projector(name) or "imatrix" in name.lower()


def is_projector(name: str) -> bool:
    """Whether this is a vision or audio projector (``mmproj``)."""
    return "mmproj" in PurePosixPath(name).name.lower()


def choose_files(
    files: Sequence[RepoFile], quant: str | None = None, file: str | None = None
) -> list[RepoFile]:
    """The weights to take: those of ``file``, or of ``quant``, or of the best default.

    ``file`` is a path in the repository or a unique name; of a shard, all its shards are taken.
    ``quant`` is matched without regard to case; ``Q4_K_XL`` also finds ``UD-Q4_K_XL``. A repository
    without GGUF files gives its safetensors with all that belongs to them.

    Raises:
        ProblemError: PULL_FAILED; the hint names what there is.
    """
    models = groups(files)
    if file is not None:
        return list(_by_file(files, models, file))
    if not models:
        return _safetensors(files, quant)
    if quant is not None:
        matching = [m for m in models if _matches(m, quant)]
        exact = [m for m in matching if m.quant == quant.upper()]
        return list(_whole(next(iter(exact or matching), None), quant, models))
    best = min(models, key=lambda m: (not m.whole, _rank(m.quant), m.size))
    return list(_whole(best, best.quant, models))


def choose_projector(files: Sequence[RepoFile]) -> RepoFile | None:
    """The projector to use with a vision model of this repository, if it has one."""
    order = {quant: place for place, quant in enumerate(_MMPROJ_ORDER)}
    found = [f for f in files if is_projector(f.name) and f.name.lower().endswith(".gguf")]
    return min(found, key=lambda f: (order.get(quant_of(f.name), 99), f.name), default=None)


def choose_extra(files: Sequence[RepoFile], name: str, *, template: bool) -> RepoFile:
    """One named file: a chat template, or a GGUF file that goes with the weights.

    Raises:
        ProblemError: PULL_FAILED, also for a format that is never downloaded.
    """
    allowed = _TEMPLATES if template else {".gguf"}
    if PurePosixPath(name).suffix.lower() not in allowed:
        what = "a template" if template else "this"
        raise _refuse(f"{name!r} cannot be {what}; allowed: {', '.join(sorted(allowed))}.")
    found = _named(files, name)
    if found is None:
        like = [f.name for f in files if PurePosixPath(f.name).suffix.lower() in allowed]
        raise _refuse(f"There is no file {name!r} in this repository.", _there_is("files", like))
    return found


def quants(files: Iterable[RepoFile]) -> dict[str, int]:
    """The quantisations that can be asked for, and their bytes, smallest first."""
    sizes: dict[str, int] = {}
    for model in groups(files):
        if model.quant and model.whole:
            sizes.setdefault(model.quant, model.size)
    return dict(sorted(sizes.items(), key=lambda item: item[1]))


# ---------------------------------------------------------------- the parts


def _preference(model: Weights) -> tuple[int, int, int, str]:
    """Of several with one quantisation: near the top, in one piece, with the plainest name."""
    name = model.files[0].name
    return (name.count("/"), model.shards, len(name), name)


def _rank(quant: str) -> int:
    plain = quant.removeprefix("UD-")
    return DEFAULT_QUANTS.index(plain) if plain in DEFAULT_QUANTS else len(DEFAULT_QUANTS)


def _matches(model: Weights, quant: str) -> bool:
    wanted = quant.upper()
    stem = unsharded(PurePosixPath(model.files[0].name).stem).upper()
    ends = any(stem.endswith(mark + wanted) for mark in "-._")
    return model.quant in (wanted, f"UD-{wanted}") or ends


def _whole(model: Weights | None, quant: str, models: Sequence[Weights]) -> tuple[RepoFile, ...]:
    if model is None:
        there = sorted({m.quant or PurePosixPath(m.files[0].name).stem for m in models})
        raise _refuse(
            f"There is no quantisation {quant!r} in this repository.",
            _there_is("quantisations", there),
            quants=there,
        )
    if not model.whole:
        raise _refuse(
            f"{model.files[0].name} is incomplete in this repository: "
            f"{len(model.files)} of {model.shards} shards are there.",
            "Choose another quantisation.",
        )
    return model.files


def _named(files: Sequence[RepoFile], name: str) -> RepoFile | None:
    for file in files:
        if file.name == name:
            return file
    loose = [f for f in files if PurePosixPath(f.name).name.lower() == name.lower()]
    return loose[0] if len(loose) == 1 else None


def _by_file(
    files: Sequence[RepoFile], models: Sequence[Weights], name: str
) -> tuple[RepoFile, ...]:
    if PurePosixPath(name).suffix.lower() != ".gguf":
        raise _refuse(
            f"{name!r} is no GGUF file, and only those are taken one by one.",
            "Leave the file out to take all safetensors of the repository.",
        )
    found = _named(files, name)
    if found is None:
        like = [m.files[0].name for m in models]
        raise _refuse(f"There is no file {name!r} in this repository.", _there_is("files", like))
    model = next((m for m in models if found in m.files), None)
    return (found,) if model is None else _whole(model, model.quant, models)


def _safetensors(files: Sequence[RepoFile], quant: str | None) -> list[RepoFile]:
    taken = [f for f in files if _belongs_to_safetensors(PurePosixPath(f.name))]
    if not any(f.name.endswith(".safetensors") for f in taken):
        raise _refuse(
            "This repository has no weights in a format that is run here.",
            "Formats that are run: GGUF and safetensors.",
        )
    if quant is not None:
        raise _refuse(
            f"There is no quantisation {quant!r}: this repository has no GGUF files.",
            "Leave the quantisation out to take its safetensors, or name a GGUF repository.",
        )
    return sorted(taken, key=lambda f: f.name)


def _belongs_to_safetensors(path: PurePosixPath) -> bool:
    if path.suffix.lower() not in _BESIDE_SAFETENSORS or path.name.startswith("consolidated"):
        return False
    if len(path.parts) == 1:
        return True
    # Parts of sentence-transformers lie one folder down (1_Pooling/config.json).
    return len(path.parts) == 2 and path.parts[0].lower() not in _OTHER_FORMATS


def _there_is(what: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:40]) or "none"
    return f"There are these {what}: {shown}{', …' if len(names) > 40 else ''}"


def _refuse(message: str, hint: str = "", **facts: object) -> ProblemError:
    known: Mapping[str, object] = facts
    return ProblemError(Problem(Code.PULL_FAILED, message, hint, facts=known))
