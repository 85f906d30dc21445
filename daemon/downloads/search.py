"""Searching the hub for models that run here. Imports the hub's client, so not for the daemon."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from huggingface_hub import HfApi, constants, get_session, get_token
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    hf_raise_for_status,
)

from daemon.core.problems import Code, Problem, ProblemError
from daemon.downloads import explain
from daemon.downloads.choose import RepoFile, choose_files, quants
from daemon.downloads.protocol import is_safe_name

FORMATS: Final = ("gguf", "mlx", "safetensors")
"""What the hub calls the formats that engines run here, the widest first."""
SECONDS: Final = 20.0  # for one answer of the hub: a person waits
_AT_ONCE: Final = 6
_CLOSED: Final = (401, 403, 404)


@dataclass(frozen=True, slots=True)
class Found:
    """One repository. ``sizes``: bytes by quantisation, smallest first ("" where there are none to
    choose); empty where the hub does not tell. ``best``: what a pull takes when nobody says."""

    repo: str
    format: str
    downloads: int
    likes: int
    gated: bool
    best: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)


def search(words: str, formats: Sequence[str], limit: int) -> list[Found]:
    """The most downloaded repositories whose name has these words. Raises ProblemError."""
    if constants.is_offline_mode():
        raise ProblemError(_away("HF_HUB_OFFLINE is set"))
    api = HfApi()
    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            lists = pool.map(lambda one: _listed(words, one, limit), formats)
            merged = _merged([found for one in lists for found in one])[:limit]
            return list(pool.map(lambda one: _measured(api, one), merged))
    except Exception as error:
        if explain.is_connection(error):
            raise ProblemError(_away(explain.first_line(error))) from error
        if not _of_hub(error):
            raise
        about = explain.Circumstances("", "main", constants.ENDPOINT, get_token() is not None)
        raise ProblemError(explain.explain(error, about)) from error


def _away(why: str) -> Problem:
    return Problem(
        Code.PULL_FAILED,
        f"The hub ({constants.ENDPOINT}) cannot be searched: {why}.",
        "`ctl ls` shows the models that are here, `ctl ls --presets` those that could be.",
    )


def _of_hub(error: BaseException) -> bool:
    return getattr(error, "response", None) is not None


def _listed(words: str, form: str, limit: int) -> list[Found]:
    """One page. By hand: the client's own way tries for a minute what fails, and a person waits."""
    answer = get_session().get(
        f"{constants.ENDPOINT}/api/models",
        params={
            "search": words,
            "filter": form,
            "sort": "downloads",
            "limit": limit,
            "expand": ["downloads", "likes", "gated"],
        },
        headers=build_hf_headers(),
        timeout=SECONDS,
    )
    hf_raise_for_status(answer)
    return [
        Found(
            str(one["id"]),
            form,
            int(one.get("downloads") or 0),
            int(one.get("likes") or 0),
            bool(one.get("gated")),
        )
        for one in answer.json()
    ]


def _merged(found: Iterable[Found]) -> list[Found]:
    """Each repository once, by the first of its formats; the most downloaded first."""
    once: dict[str, Found] = {}
    for one in sorted(found, key=lambda one: FORMATS.index(one.format)):
        once.setdefault(one.repo, one)
    return sorted(once.values(), key=lambda one: (-one.downloads, one.repo))


def _measured(api: HfApi, found: Found) -> Found:
    """With the sizes of its files; as it is, where the hub does not show them to us."""
    try:
        info: Any = api.model_info(found.repo, files_metadata=True, timeout=SECONDS)
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in _CLOSED:  # gated, private, or gone meanwhile
            return found
        raise
    files = [
        RepoFile(one.rfilename, one.size or 0)
        for one in info.siblings or ()
        if is_safe_name(one.rfilename)
    ]
    return sized(found, files)


def sized(found: Found, files: Sequence[RepoFile]) -> Found:
    """With what ``files`` tell. Pure."""
    try:
        chosen = choose_files(files)
    except ProblemError:  # nothing that is run here, after all
        return found
    gguf = chosen[0].name.lower().endswith(".gguf")
    sizes = quants(files) if gguf else {"": sum(file.size for file in chosen)}
    best = next((q for q, size in sizes.items() if size == sum(f.size for f in chosen)), "")
    form = "gguf" if gguf else found.format if found.format != "gguf" else "safetensors"
    return Found(
        found.repo, form, found.downloads, found.likes, found.gated, best if gguf else "", sizes
    )
