"""Which folders of the hub's cache are here because of us."""

from __future__ import annotations

import json
from pathlib import Path

from daemon.downloads.protocol import FileRef, PullRequest
from daemon.downloads.pulled import Pulled


def test_only_what_was_not_there_is_ours(tmp_path: Path) -> None:
    cache = tmp_path / "hub"
    (cache / "models--a--there").mkdir(parents=True)
    record = Pulled(tmp_path / "pulled.json")
    record.begin(PullRequest("a/there"), cache)
    assert record.folders() == []
    record.begin(PullRequest("a/new", draft=FileRef("d.gguf", "b/draft")), cache)
    wanted = [cache / "models--a--new", cache / "models--b--draft"]
    assert record.folders() == wanted
    for folder in wanted:
        folder.mkdir()
    record.begin(PullRequest("a/new"), cache)
    assert record.folders() == wanted, "what is ours stays ours"


def test_only_folders_of_repositories_are_believed(tmp_path: Path) -> None:
    file = tmp_path / "pulled.json"
    odd = ["/home/u", "models--x--y", "/hub/../models--x--y", 7, "/hub/models--x--y"]
    for data, found in (
        ({"version": 1, "folders": odd}, [Path("/hub/models--x--y")]),
        ({"version": 2, "folders": odd}, []),
        ({"version": 1, "folders": "/hub/models--x--y"}, []),
        ([], []),
    ):
        file.write_text(json.dumps(data))
        file.chmod(0o600)
        assert Pulled(file).folders() == found
