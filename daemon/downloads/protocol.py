"""What a pull is asked for, and what it tells: values that travel between the daemon and the child
process that downloads (one JSON object a line)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec

from daemon.core.problems import Code, Problem, ProblemError

_REPO: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
_QUANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class FileRef:
    """A single file on the hub. ``repo`` None: in the repository of the weights."""

    file: str
    repo: str | None = None


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What to have on the disk: the weights of a model, and what goes with them.

    Of a GGUF repository ``quant`` or ``file`` names the weights (neither: the best default). With
    ``find_mmproj`` the repository's own projector is taken, if it has one. ``weights`` False: only
    the single files, for weights that the user has himself.
    """

    repo: str
    quant: str | None = None
    file: str | None = None
    revision: str = "main"
    mmproj: FileRef | None = None
    find_mmproj: bool = False
    draft: FileRef | None = None
    template: FileRef | None = None
    weights: bool = True

    def check(self) -> None:
        """Raise ProblemError (PULL_FAILED) for names that no repository can have."""
        refs = [ref for ref in (self.mmproj, self.draft, self.template) if ref is not None]
        for repo in (self.repo, *(ref.repo for ref in refs if ref.repo is not None)):
            if not _REPO.fullmatch(repo) or ".." in repo:
                raise _wrong("repository", repo, 'the form "owner/name"')
        if not _REVISION.fullmatch(self.revision) or ".." in self.revision:
            raise _wrong("revision", self.revision, "a branch, a tag or a commit")
        if self.quant is not None and not _QUANT.fullmatch(self.quant):
            raise _wrong("quantisation", self.quant, "a name such as Q4_K_M")
        for name in (self.file, *(ref.file for ref in refs)):
            if name is not None and not is_safe_name(name):
                raise _wrong("file", name, "a path inside the repository")


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far it is, in bytes of all files together.

    ``fetched``: bytes that came over the line since the child began. ``note`` is for people, ""
    while bytes flow.
    """

    done: int = 0
    total: int = 0
    fetched: int = 0
    file: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class PulledFiles:
    """Where everything is. ``path``: the GGUF file (the first shard), or the folder of safetensors.

    ``size`` is bytes of all files together; ``revision`` the commit that they are of.
    """

    path: Path
    files: tuple[Path, ...]
    revision: str
    size: int
    mmproj: Path | None = None
    draft: Path | None = None
    template: Path | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What the child reads. ``reserve``: bytes of the disk that must stay free."""

    request: PullRequest
    cache_dir: str | None
    reserve: int


class Progressed(msgspec.Struct, frozen=True, tag="progress"):
    """The child's news while it works."""

    progress: PullProgress


class Finished(msgspec.Struct, frozen=True, tag="done"):
    """The child's last word, if all went well."""

    files: PulledFiles


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The child's last word otherwise. ``lost``: the connection broke, trying again may help."""

    code: Code
    message: str
    hint: str = ""
    retry_after: float | None = None
    facts: dict[str, Any] = msgspec.field(default_factory=dict)
    lost: bool = False

    @property
    def problem(self) -> Problem:
        return Problem(self.code, self.message, self.hint, self.retry_after, self.facts)


Word = Progressed | Finished | Failed


def _encode(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} does not travel")


def _decode(kind: type, value: object) -> object:
    if issubclass(kind, Path):
        return kind(str(value))
    raise NotImplementedError(f"{kind.__name__} does not travel")


def write(value: Word | Job) -> bytes:
    """One line."""
    return msgspec.json.encode(value, enc_hook=_encode) + b"\n"


def read_word(line: bytes) -> Word:
    """A line of the child's. Raises msgspec.DecodeError (or its ValidationError)."""
    return msgspec.json.decode(line, type=Word, dec_hook=_decode)  # type: ignore[no-any-return]


def read_job(line: bytes) -> Job:
    """The line that the child is given. Raises msgspec.DecodeError."""
    return msgspec.json.decode(line, type=Job)


def is_safe_name(name: str) -> bool:
    """Whether this is a relative path that stays inside its repository."""
    if not 0 < len(name) <= 1024 or not name.isprintable() or name.startswith(("~", "-")):
        return False
    parts = name.split("/")
    return "\\" not in name and not any(part in ("", ".", "..") for part in parts)


def check_repository(repo: str, quant: str | None) -> None:
    """Raise ProblemError (PULL_FAILED) for what no repository, no quantisation can be called."""
    PullRequest(repo, quant).check()


def suffix(name: str) -> str:
    """Lower-case suffix of a path in a repository."""
    return PurePosixPath(name).suffix.lower()


def _wrong(what: str, found: str, allowed: str) -> ProblemError:
    return ProblemError(
        Problem(
            Code.PULL_FAILED, f"{found[:80]!r} is no {what} of the hub.", f"Allowed: {allowed}."
        )
    )
