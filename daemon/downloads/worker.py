"""The child process that downloads: ``python -m daemon.downloads.worker``.

Reads one job from standard input, tells its progress on standard output, and ends when standard
input does, so that it never outlives the daemon. Ending it at any moment is safe: what has been
fetched lies in the cache under the name of its content, and the next pull goes on from there.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from huggingface_hub import HfApi, constants, get_hf_file_metadata, get_token, hf_hub_download
from huggingface_hub import hf_hub_url as address
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

from daemon.core.problems import Code, Problem, ProblemError
from daemon.downloads import explain, locate, protocol
from daemon.downloads.choose import RepoFile, choose_extra, choose_files, choose_projector
from daemon.downloads.protocol import Failed, FileRef, Finished, PulledFiles, PullProgress

PIECE = 1 << 18
"""Bytes between two reports. The library's 10 MiB would look like a standstill on a slow line."""
REPORT_EVERY = 0.1  # seconds between two lines at the most: for eyes, no wait
# Seconds for the hub's list of files. No setting: what a stalled download may take bounds it too,
# and this only makes a dead line an error with a text of its own.
LIST_SECONDS = 30.0
_ETAG = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Say = Callable[[protocol.Word], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file to have: where it is on the hub, its content's name (if told), and what for."""

    repo: str
    commit: str
    file: RepoFile
    sha256: str = ""
    role: str = "weights"


class Meter:
    """Counts bytes over all files; stands in for a progress bar of the hub's client."""

    def __init__(self, say: Say, total: int) -> None:
        self._say = say
        self._total = total
        self._before = 0  # bytes of the files that are done
        self._now = 0  # bytes of the one that is being fetched
        self._file = ""
        self._last = 0.0
        self.fetched = 0  # bytes that came over the line

    def begin(self, name: str) -> None:
        self._file, self._now = name, 0

    def end(self, size: int) -> None:
        self._before += size
        self._now = 0
        self.report()

    def report(self, note: str = "") -> None:
        done = min(self._before + self._now, self._total)
        progress = PullProgress(done, self._total, self.fetched, self._file, note)
        self._say(protocol.Progressed(progress))
        self._last = time.monotonic()

    def bar(self, *_: object, initial: int = 0, **__: object) -> Meter:
        """What the client calls to make a bar: the bytes that a file begins with are not news."""
        self._now = initial
        return self

    def update(self, count: float | None = 1) -> None:
        self._now += int(count or 0)
        self.fetched += max(0, int(count or 0))
        if time.monotonic() - self._last >= REPORT_EVERY:
            self.report()

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        return None


# ---------------------------------------------------------------- what is wanted


def plan(job: protocol.Job, api: HfApi) -> list[Wanted]:
    """Ask the hub what there is, and choose. Raises ProblemError and the client's errors."""
    request = job.request
    listed: dict[str, tuple[str, list[RepoFile]]] = {}
    contents: dict[tuple[str, str], str] = {}

    def look(repo: str, revision: str) -> tuple[str, list[RepoFile]]:
        if repo not in listed:
            info = api.model_info(
                repo, revision=revision, files_metadata=True, timeout=LIST_SECONDS
            )
            files = [
                RepoFile(one.rfilename, one.size or 0)
                for one in info.siblings or ()
                if protocol.is_safe_name(one.rfilename)
            ]
            listed[repo] = (str(info.sha), files)
            for one in info.siblings or ():
                contents[repo, one.rfilename] = getattr(one.lfs, "sha256", "")
        return listed[repo]

    def want(repo: str, commit: str, file: RepoFile, role: str = "weights") -> Wanted:
        return Wanted(repo, commit, file, contents[repo, file.name], role)

    def extra(role: str, ref: FileRef) -> Wanted:
        repo = ref.repo or request.repo
        commit, files = look(repo, request.revision if repo == request.repo else "main")
        chosen = choose_extra(files, ref.file, template=role == "template")
        return want(repo, commit, chosen, role)

    commit, files = look(request.repo, request.revision)
    weights = choose_files(files, request.quant, request.file) if request.weights else []
    wanted = [want(request.repo, commit, file) for file in weights]
    projector = choose_projector(files) if request.find_mmproj and not request.mmproj else None
    if projector is not None:
        wanted.append(want(request.repo, commit, projector, "mmproj"))
    for role, ref in _extras(request):
        wanted.append(extra(role, ref))
    return wanted


def _extras(request: protocol.PullRequest) -> list[tuple[str, FileRef]]:
    named = (("mmproj", request.mmproj), ("draft", request.draft), ("template", request.template))
    return [(role, ref) for role, ref in named if ref is not None]


def already_here(job: protocol.Job, cache: Path) -> PulledFiles | None:
    """What was asked for, if all of it lies in the cache; nothing is asked of the network."""
    request = job.request
    revision = None if request.revision == "main" else request.revision
    found: dict[str, Path | None] = {
        role: locate.locate_file(ref.repo or request.repo, ref.file, cache)
        for role, ref in _extras(request)
    }
    path = next(iter(found.values()), None)
    if request.weights:
        path = locate.locate(request.repo, request.quant, request.file, cache, revision)
    if path is None or None in found.values():
        return None
    if request.find_mmproj and "mmproj" not in found:
        found["mmproj"] = locate.locate_projector(path)
    folder = (
        path if path.is_dir() else next(p for p in path.parents if p.parent.name == "snapshots")
    )
    files = tuple(dict.fromkeys((path, *(p for p in found.values() if p is not None))))
    return PulledFiles(path, files, folder.name, sum(f.stat().st_size for f in files), **found)


# ---------------------------------------------------------------- fetching


def pull(job: protocol.Job, meter_for: Callable[[int], Meter]) -> PulledFiles:
    """Plan, check the disk, fetch what is missing. Raises ProblemError and the client's errors."""
    cache = Path(job.cache_dir) if job.cache_dir else locate.default_cache()
    wanted = plan(job, HfApi())
    meter = meter_for(sum(item.file.size for item in wanted))
    _check_space(job, cache, wanted)
    paths: list[Path] = []
    for item in wanted:
        meter.begin(item.file.name)
        paths.append(_have(item, cache, meter))
        meter.end(item.file.size)
    _remember(job.request, wanted, cache)
    first, depth = paths[0], wanted[0].file.name.count("/")  # of the weights, if any are wanted
    extras = {i.role: p for i, p in zip(wanted, paths, strict=True) if i.role != "weights"}
    return PulledFiles(
        first.parents[depth] if wanted[0].role == "weights" and not _gguf(first) else first,
        tuple(paths),
        wanted[0].commit,
        sum(item.file.size for item in wanted),
        **extras,
    )


def _gguf(path: Path) -> bool:
    return path.suffix.lower() == ".gguf"


def _target(item: Wanted, cache: Path) -> Path:
    return locate.storage(item.repo, cache) / "snapshots" / item.commit / item.file.name


def _have(item: Wanted, cache: Path, meter: Meter) -> Path:
    """The file's path, fetched if it is not here."""
    target = _target(item, cache)
    if target.is_file():
        return target
    if item.file.size <= constants.MAX_HTTP_DOWNLOAD_SIZE:
        _fetch_blob(item, cache, meter)
    # Finds the blob there and links it; larger files it fetches itself, with its own protocol.
    found = hf_hub_download(
        item.repo,
        item.file.name,
        revision=item.commit,
        cache_dir=cache,
        tqdm_class=cast("Any", meter.bar),
    )
    return Path(found)


def _fetch_blob(item: Wanted, cache: Path, meter: Meter) -> None:
    """Fetch the content into the cache, going on where an earlier pull ended.

    The client throws away what it has when it is interrupted, which on a slow line means that a
    large file never arrives: so the unfinished file is ours, under the name of its content.
    """
    url = address(item.repo, item.file.name, revision=item.commit)
    known = get_hf_file_metadata(url)
    if known.etag is None or not _ETAG.fullmatch(known.etag):
        raise ProblemError(
            Problem(Code.PULL_FAILED, f"The hub sent no usable name for {item.file.name}.")
        )
    place = locate.storage(item.repo, cache)
    blob = place / "blobs" / known.etag
    lock = cache / ".locks" / place.name / f"{known.etag}.lock"
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            return
        part = _part(blob)
        with part.open("ab") as file:
            begun = file.tell()
            if known.size is not None and begun > known.size:
                file.truncate(0)
                begun = 0
            meter.bar(initial=begun)
            proving = _Proving(file)
            _stream(url, cast("BinaryIO", proving), begun, known.size, meter)
        fresh = proving.digest.hexdigest() if proving.whole or not begun else ""
        if _SHA256.fullmatch(known.etag) and (fresh or _sha256(part, meter)) != known.etag:
            part.unlink()
            raise ProblemError(
                Problem(
                    Code.PULL_FAILED,
                    f"{item.file.name} arrived damaged and was thrown away.",
                    "Pull again to fetch it anew.",
                )
            )
        part.replace(blob)


class _Proving:
    """A file that is digested while it is written: what came in one piece is not read again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.whole = False  # begun anew from its first byte, by the client

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int) -> int:
        """The client goes back where the hub has ignored the range that it was asked for."""
        self.digest, self.whole = hashlib.sha256(), offset == 0
        return self._file.seek(offset)

    def truncate(self) -> int:
        return self._file.truncate()


def _part(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}{locate.PART}")


def _stream(url: str, file: BinaryIO, begun: int, size: int | None, meter: Meter) -> None:
    # The address of the file itself, not of where it redirects to: that one expires.
    http_get(
        url,
        file,
        resume_size=begun,
        headers=build_hf_headers(),
        expected_size=size,
        tqdm_class=cast("Any", meter.bar),
    )


def _sha256(path: Path, meter: Meter) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(64 << 20):
            digest.update(piece)
            meter.report(f"checking {path.name[:12]}")
    return digest.hexdigest()


def _check_space(job: protocol.Job, cache: Path, wanted: Iterable[Wanted]) -> None:
    needed = 0
    for item in wanted:
        blob = locate.storage(item.repo, cache) / "blobs" / (item.sha256 or "unknown")
        if not _target(item, cache).is_file() and not blob.is_file():
            part = _part(blob)
            needed += item.file.size - (part.stat().st_size if part.is_file() else 0)
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if needed > 0 and needed + job.reserve > free:
        repo = job.request.repo
        raise ProblemError(explain.no_space(repo, needed, free, job.reserve, str(cache)))


def _remember(request: protocol.PullRequest, wanted: Iterable[Wanted], cache: Path) -> None:
    """Write down which commit a branch is at, so that the files are found without the network."""
    for repo, commit in {item.repo: item.commit for item in wanted}.items():
        revision = request.revision if repo == request.repo else "main"
        if revision != commit:
            ref = locate.storage(repo, cache) / "refs" / revision
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(commit, encoding="utf-8")


# ---------------------------------------------------------------- the process


def run(job: protocol.Job, say: Say) -> None:
    """Do one job; the last word that is said is ``done`` or ``failed``."""
    meter: Meter | None = None

    def meter_for(total: int) -> Meter:
        nonlocal meter
        meter = Meter(say, total)
        return meter

    say(protocol.Progressed(PullProgress()))  # a first sign of life
    request = job.request
    about = explain.Circumstances(
        request.repo, request.revision, constants.ENDPOINT, get_token() is not None
    )
    cache = Path(job.cache_dir) if job.cache_dir else locate.default_cache()
    try:
        if not constants.is_offline_mode():
            say(Finished(pull(job, meter_for)))
            return
        problem, lost = explain.offline(about, because="HF_HUB_OFFLINE is set"), False
    except ProblemError as error:
        problem, lost = error.problem, False
    except Exception as error:  # noqa: BLE001  the boundary of this process: its last word
        problem = explain.explain(error, about)
        lost = explain.is_connection(error) or problem.retry_after is not None
    unasked = meter is None and problem.code is Code.NOT_PULLED
    if unasked and (here := already_here(job, cache)) is not None:
        say(Finished(here))
        return
    say(
        Failed(
            problem.code,
            problem.message,
            problem.hint,
            problem.retry_after,
            dict(problem.facts),
            lost=lost,
        )
    )


def _end_with_the_daemon() -> None:
    sys.stdin.buffer.read()
    os._exit(3)  # at once, also in the middle of a system call: nothing needs tidying


def main() -> None:
    """Entry of the child process."""
    job = protocol.read_job(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_the_daemon, daemon=True).start()
    constants.DOWNLOAD_CHUNK_SIZE = PIECE
    out = sys.stdout.buffer
    sys.stdout = sys.stderr  # a print in a library must not end up among our lines

    def say(word: protocol.Word) -> None:
        out.write(protocol.write(word))
        out.flush()

    run(job, say)


if __name__ == "__main__":
    main()
