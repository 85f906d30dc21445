"""What a model is made of on the hub: what a pull brings, and which files of the cache are its."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from daemon.config.model import Model
from daemon.core.problems import Code, Problem, ProblemError
from daemon.downloads.choose import choose_files
from daemon.downloads.locate import Snapshot, snapshots
from daemon.downloads.protocol import FileRef, PullRequest, check_repository

HUB: Final = "hf:"


def of_hub(source: str) -> Model:
    """A model that nobody has configured, from ``hf:OWNER/REPO[:QUANT]``. Raises ProblemError."""
    ref = source.removeprefix(HUB)
    repo, _, quant = ref.partition(":")
    check_repository(repo, quant or None)
    return Model(source, hf=ref, listed=False)


def pull_request(model: Model) -> PullRequest:
    """What a model needs of the hub: its weights, and companions that lie in repositories. Of one
    whose weights are a file of the user's own, the companions alone; ProblemError if it has none.
    """
    mmproj, draft, template = _ref(model.mmproj), _ref(model.draft), _ref(model.template)
    if model.repo is not None:
        return PullRequest(
            model.repo,
            quant=model.quant,
            file=model.file,
            find_mmproj=model.name.startswith(HUB),  # nobody has said what goes with it
            mmproj=mmproj,
            draft=draft,
            template=template,
        )
    far = [ref if ref is not None and ref.repo else None for ref in (mmproj, draft, template)]
    first = next((ref.repo for ref in far if ref is not None and ref.repo), None)
    if first is None:
        raise ProblemError(Problem(Code.NOT_PULLED, f"Nothing of {model.name} is on the hub."))
    return PullRequest(first, weights=False, mmproj=far[0], draft=far[1], template=far[2])


def _ref(value: str | None) -> FileRef | None:
    """``hf:OWNER/REPO/FILE``, or a file beside the weights; a path on this disk is none."""
    if value is None or value == "embedded" or value.startswith(("/", "~", ".")):
        return None
    if value.startswith("hf:"):
        repo, file = hub_file(value)
        return FileRef(file, repo)
    return FileRef(value)


def hub_file(value: str) -> tuple[str, str]:
    """Repository and file of ``hf:OWNER/REPO/FILE``. Raises ProblemError: CONFIG_INVALID."""
    owner, _, rest = value.removeprefix("hf:").partition("/")
    name, _, file = rest.partition("/")
    if not (owner and name and file):
        text = f"{value!r} names no file of a repository."
        raise ProblemError(Problem(Code.CONFIG_INVALID, text, "Write it as hf:OWNER/REPO/FILE."))
    return f"{owner}/{name}", file


def files_of(model: Model, cache: Path) -> set[Path]:
    """All files of the cache that this model uses or could use, in all commits that are here: its
    weights and what goes with them. Never raises for what is not there."""
    try:
        request = pull_request(model)
    except ProblemError:
        return set()
    found: set[Path] = set()
    if request.weights:
        for snapshot in snapshots(request.repo, cache):
            found.update(_weights(snapshot, request.quant, request.file))
    refs = (request.mmproj, request.draft, request.template)
    for ref in [one for one in refs if one is not None]:
        for snapshot in snapshots(ref.repo or request.repo, cache):
            names = (f for f in snapshot.files if ref.file in (f.name, Path(f.name).name))
            found.update(snapshot.path(file) for file in names)
    return found


def _weights(snapshot: Snapshot, quant: str | None, file: str | None) -> Iterator[Path]:
    try:
        for chosen in choose_files(snapshot.files, quant, file):
            yield snapshot.path(chosen)
    except ProblemError:
        return
