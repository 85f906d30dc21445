"""The child's work, done in this process: what it fetches, refuses, and how it goes on."""

from __future__ import annotations

import hashlib
import io
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.file_download
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session  # type: ignore[attr-defined]

from daemon.core.problems import Code, Problem
from daemon.downloads import protocol, worker
from daemon.downloads.locate import locate
from daemon.downloads.protocol import (
    Failed,
    FileRef,
    Finished,
    Job,
    Progressed,
    PulledFiles,
    PullProgress,
    PullRequest,
)
from tests.downloads.hub import Hub, Repo

pytestmark = pytest.mark.processes

WEIGHTS = bytes(range(256)) * 8192  # 2 MiB
REQUEST = PullRequest("owner/name", "Q4_K_M")


class Bench:
    """Runs jobs one after the other; remembers the progress of the latest."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.progress: list[PullProgress] = []
        self.last: protocol.Word | None = None

    def _say(self, word: protocol.Word) -> None:
        assert not isinstance(self.last, Finished | Failed), "said more after the last word"
        self.last = word
        if isinstance(word, Progressed):
            self.progress.append(word.progress)

    def run(self, request: PullRequest = REQUEST, *, reserve: int = 0) -> protocol.Word:
        self.progress, self.last = [], None
        worker.run(Job(request, str(self.cache), reserve), self._say)
        assert self.last is not None
        return self.last

    def fetched(self, request: PullRequest = REQUEST) -> PulledFiles:
        word = self.run(request)
        assert isinstance(word, Finished), word
        return word.files

    def refused(self, request: PullRequest = REQUEST, *, reserve: int = 0) -> Failed:
        word = self.run(request, reserve=reserve)
        assert isinstance(word, Failed), word
        return word

    def part(self, data: bytes) -> Path:
        """Where an unfinished download of ``data`` lies."""
        name = f"{hashlib.sha256(data).hexdigest()}.modelport.incomplete"
        return self.cache / "models--owner--name" / "blobs" / name

    def begun(self, data: bytes, part: bytes) -> None:
        """An earlier pull of ``data`` was interrupted after ``part``."""
        path = self.part(data)
        path.parent.mkdir(parents=True)
        path.write_bytes(part)


@pytest.fixture
def bench(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    use_endpoint(monkeypatch, hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", worker.PIECE)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    yield Bench(tmp_path / "cache")
    close_session()


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    module = huggingface_hub.file_download
    if hasattr(module, "HUGGINGFACE_CO_URL_TEMPLATE"):
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template)


# ---------------------------------------------------------------- what arrives


def test_one_file_and_nothing_else(hub: Hub, bench: Bench) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS, "m-Q8_0.gguf": b"", "x.py": b""})
    files = bench.fetched()
    assert files.path.read_bytes() == WEIGHTS
    assert files.revision == hub.repos["owner/name"].commit
    asked = {path.rsplit("/", 1)[1] for _, path, _ in hub.requests if "/resolve/" in path}
    assert asked == {"m-Q4_K_M.gguf"}
    assert locate("owner/name", "Q4_K_M", cache_dir=bench.cache) == files.path


def test_progress_goes_up_to_the_whole(hub: Hub, bench: Bench) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS, "t.jinja": b"0123456789"})
    bench.fetched(PullRequest("owner/name", template=FileRef("t.jinja")))
    done = [p.done for p in bench.progress]
    assert done == sorted(done)
    whole = len(WEIGHTS) + 10
    assert bench.progress[-1] == PullProgress(whole, whole, whole, "t.jinja")


def test_shards_projector_draft_and_a_template_of_another_repository(
    hub: Hub, bench: Bench
) -> None:
    shards = {f"Q4_K_M/m-Q4_K_M-0000{n}-of-00002.gguf": f"shard {n}".encode() for n in (1, 2)}
    hub.repos["owner/name"] = Repo(
        {**shards, "mmproj-f16.gguf": b"eyes", "mmproj-f32.gguf": b"no", "draft.gguf": b"quick"}
    )
    hub.repos["other/repo"] = Repo({"t/chat.jinja": b"{{ messages }}"})
    files = bench.fetched(
        PullRequest(
            "owner/name",
            find_mmproj=True,
            draft=FileRef("draft.gguf"),
            template=FileRef("chat.jinja", "other/repo"),
        )
    )
    assert files.path.name == "m-Q4_K_M-00001-of-00002.gguf"
    contents = [b"shard 1", b"shard 2", b"eyes", b"quick", b"{{ messages }}"]
    assert [path.read_bytes() for path in files.files] == contents
    assert (files.mmproj, files.draft, files.template) == files.files[2:]
    assert files.size == sum(len(c) for c in contents)


def test_a_named_projector_wins_over_the_one_that_would_be_found(hub: Hub, bench: Bench) -> None:
    names = ("m-Q4_K_M.gguf", "mmproj-f16.gguf", "mmproj-q8_0.gguf")
    hub.repos["owner/name"] = Repo({name: name.encode() for name in names})
    files = bench.fetched(
        PullRequest("owner/name", mmproj=FileRef("mmproj-q8_0.gguf"), find_mmproj=True)
    )
    assert files.mmproj is not None
    assert [path.name for path in files.files] == ["m-Q4_K_M.gguf", "mmproj-q8_0.gguf"]


def test_safetensors_are_a_folder_even_if_a_part_lies_deeper(hub: Hub, bench: Bench) -> None:
    names = ("1_Pooling/config.json", "config.json", "model.safetensors", "evil.py", "x.bin")
    hub.repos["owner/name"] = Repo(dict.fromkeys(names, b"{}"))
    files = bench.fetched(PullRequest("owner/name"))
    here = sorted(p.relative_to(files.path).as_posix() for p in files.path.rglob("*.*"))
    assert here == ["1_Pooling/config.json", "config.json", "model.safetensors"]
    assert locate("owner/name", cache_dir=bench.cache) == files.path


def test_what_is_here_is_not_fetched_again(hub: Hub, bench: Bench) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    first = bench.fetched()
    assert bench.fetched() == first
    assert hub.asked("GET", ".gguf") == [""]
    assert (bench.progress[-1].done, bench.progress[-1].fetched) == (len(WEIGHTS), 0)


def test_the_same_content_under_a_new_commit_is_only_linked(hub: Hub, bench: Bench) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    bench.fetched()
    hub.repos["owner/name"].files["README.md"] = b"new"
    assert bench.fetched().revision == hub.repos["owner/name"].commit
    assert hub.asked("GET", ".gguf") == [""]


def test_a_branch_a_commit_and_an_unknown_revision(hub: Hub, bench: Bench) -> None:
    repo = hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": b"w"}, branches=("main", "v1"))
    bench.fetched(PullRequest("owner/name", revision="v1"))
    assert locate("owner/name", cache_dir=bench.cache, revision="v1") is not None
    bench.fetched(PullRequest("owner/name", revision=repo.commit))
    failed = bench.refused(PullRequest("owner/name", revision="v2"))
    assert failed.message == "owner/name has no revision 'v2'."


def test_an_empty_file_is_a_file(hub: Hub, bench: Bench) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": b""})
    assert bench.fetched().path.read_bytes() == b""


def test_names_that_leave_the_repository_are_not_even_seen(hub: Hub, bench: Bench) -> None:
    hub.repos["owner/name"] = Repo({"../../evil-Q4_K_M.gguf": b"!", "/abs-Q4_K_M.gguf": b"!"})
    assert "GGUF and safetensors" in bench.refused(PullRequest("owner/name")).hint


def test_what_is_too_large_for_plain_http_is_left_to_the_client(
    hub: Hub, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    monkeypatch.setattr(constants, "MAX_HTTP_DOWNLOAD_SIZE", 1000)
    asked: list[str] = []

    def download(repo: str, name: str, **more: object) -> str:
        asked.append(name)
        target = bench.cache / "models--owner--name/snapshots" / str(more["revision"]) / name
        target.parent.mkdir(parents=True)
        target.write_bytes(WEIGHTS)
        return str(target)

    monkeypatch.setattr(worker, "hf_hub_download", download)
    assert bench.fetched().path.read_bytes() == WEIGHTS
    assert asked == ["m-Q4_K_M.gguf"]
    assert hub.asked("GET", ".gguf") == []


# ---------------------------------------------------------------- refusals


def test_a_quantisation_that_is_not_there_is_answered_with_those_that_are(
    hub: Hub, bench: Bench
) -> None:
    hub.repos["owner/name"] = Repo({"m-Q8_0.gguf": b"w", "m-Q2_K.gguf": b"w"})
    failed = bench.refused()
    assert (failed.code, failed.facts) == (Code.PULL_FAILED, {"quants": ["Q2_K", "Q8_0"]})
    assert not failed.lost


def test_a_repository_that_is_not_there(bench: Bench) -> None:
    failed = bench.refused(PullRequest("no/such"))
    assert failed.code is Code.PULL_FAILED
    assert failed.message == "There is no repository no/such on the hub, or it is private."


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_advises_a_token_and_takes_it(
    hub: Hub, bench: Bench, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": b"w"}, gate=status)
    failed = bench.refused()
    assert failed.code is Code.PULL_FAILED
    assert f"{hub.url}/owner/name, then set HF_TOKEN" in failed.hint
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert "the account of your token" in bench.refused().hint
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert bench.fetched().path.read_bytes() == b"w"


def test_a_full_disk_is_told_before_anything_is_fetched(hub: Hub, bench: Bench) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    bench.begun(WEIGHTS, WEIGHTS[:1000])
    bench.part(b"another file").write_bytes(b"does not help")
    failed = bench.refused(reserve=1 << 60)
    assert failed.code is Code.PULL_FAILED
    assert failed.facts["needed"] == len(WEIGHTS) - 1000
    assert hub.asked("GET", ".gguf") == []


def test_what_is_here_needs_no_room(hub: Hub, bench: Bench) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    bench.fetched()
    assert isinstance(bench.run(reserve=1 << 60), Finished)
    hub.repos["owner/name"].files["README.md"] = b"a new commit"
    assert isinstance(bench.run(reserve=1 << 60), Finished)


def test_a_nameless_content_is_refused(
    hub: Hub, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": b"w"})
    for etag in (None, "../../evil"):
        known = SimpleNamespace(etag=etag, size=1)
        monkeypatch.setattr(worker, "get_hf_file_metadata", lambda _, known=known: known)
        assert bench.refused().message == "The hub sent no usable name for m-Q4_K_M.gguf."


def test_what_arrives_wrong_is_thrown_away(hub: Hub, bench: Bench) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    hub.damaged["m-Q4_K_M.gguf"] = 1
    failed = bench.refused()
    assert failed.message == "m-Q4_K_M.gguf arrived damaged and was thrown away."
    assert list(bench.cache.rglob("*.incomplete")) == []
    assert bench.fetched().path.read_bytes() == WEIGHTS


def test_a_hub_that_is_crowded_says_how_long(hub: Hub, bench: Bench) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    hub.crowded, hub.retry_after = 1, "17"
    failed = bench.refused()
    assert (failed.code, failed.lost, failed.retry_after) == (Code.PULL_FAILED, True, 17.0)
    assert "asks to wait 17 s" in failed.message
    assert "HF_TOKEN" in failed.hint


def test_a_disk_that_gets_full_keeps_what_came(hub: Hub, bench: Bench) -> None:
    """By the limit of this process: a write above it is refused as one to a full disk is."""
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        failed = bench.refused()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (failed.code, failed.lost) == (Code.PULL_FAILED, False)
    assert failed.message == "The disk is full."
    assert bench.part(WEIGHTS).stat().st_size == 1 << 20
    assert bench.fetched().path.read_bytes() == WEIGHTS
    assert hub.asked("GET", ".gguf") == ["", f"bytes={1 << 20}-"]


def test_only_what_goes_with_weights_of_the_users_own(hub: Hub, bench: Bench) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS, "t.jinja": b"t", "mm.gguf": b"eyes"})
    eyes, words = FileRef("mm.gguf", "owner/name"), FileRef("t.jinja")
    request = PullRequest("owner/name", weights=False, mmproj=eyes, template=words)
    files = bench.fetched(request)
    assert [path.read_bytes() for path in files.files] == [b"eyes", b"t"]
    assert (files.path, files.size) == (files.mmproj, 5)
    assert hub.asked("GET", "Q4_K_M.gguf") == []


# ---------------------------------------------------------------- without the network


def test_offline_what_is_here_is_enough(
    hub: Hub, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": b"w", "mmproj.gguf": b"e", "t.jinja": b"t"})
    request = PullRequest("owner/name", "Q4_K_M", find_mmproj=True, template=FileRef("t.jinja"))
    first = bench.fetched(request)
    hub.requests.clear()
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    again = bench.fetched(request)
    assert (again.path, again.mmproj, again.template) == (first.path, first.mmproj, first.template)
    assert (again.revision, again.size) == (first.revision, 3)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert bench.fetched(request) == again
    assert hub.requests == []


def test_offline_a_folder_is_enough_too(
    hub: Hub, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["owner/name"] = Repo({"config.json": b"{}", "model.safetensors": b"w"})
    first = bench.fetched(PullRequest("owner/name"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again = bench.fetched(PullRequest("owner/name"))
    assert (again.path, again.revision) == (first.path, first.revision)


def test_offline_what_is_missing_is_not_pulled(
    hub: Hub, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": b"w", "t.jinja": b"t"})
    bench.fetched()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for request in (
        PullRequest("no/such"),
        PullRequest("owner/name", template=FileRef("t.jinja")),
        PullRequest("owner/name", revision="v2"),
    ):
        failed = bench.refused(request)
        assert failed.code is Code.NOT_PULLED
        assert "HF_HUB_OFFLINE is set" in failed.message
        assert not failed.lost


def test_a_hub_that_cannot_be_reached_or_is_down(
    hub: Hub, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.down = 500
    failed = bench.refused()
    assert (failed.code, failed.lost) == (Code.NOT_PULLED, True)
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    failed = bench.refused()
    assert (failed.code, failed.lost) == (Code.NOT_PULLED, True)
    assert "http://127.0.0.1:9 cannot be reached" in failed.message


# ---------------------------------------------------------------- going on


def test_a_cut_connection_goes_on_where_it_was(hub: Hub, bench: Bench) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    hub.drop_after["m-Q4_K_M.gguf"] = 700_000
    assert bench.fetched().path.read_bytes() == WEIGHTS
    ranges = hub.asked("GET", ".gguf")
    assert ranges[0] == ""
    assert int(ranges[1].removeprefix("bytes=").rstrip("-")) > 0


def test_an_interrupted_pull_goes_on_and_is_proven(hub: Hub, bench: Bench) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    bench.begun(WEIGHTS, WEIGHTS[:1_000_000])
    files = bench.fetched()
    assert files.path.read_bytes() == WEIGHTS
    assert hub.asked("GET", ".gguf") == ["bytes=1000000-"]
    assert bench.progress[-1].fetched == len(WEIGHTS) - 1_000_000
    assert any(p.note.startswith("checking ") for p in bench.progress)
    assert not bench.part(WEIGHTS).exists()


def test_one_that_was_interrupted_at_its_very_end_is_only_proven(hub: Hub, bench: Bench) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    bench.begun(WEIGHTS, WEIGHTS)
    assert bench.fetched().path.read_bytes() == WEIGHTS
    assert hub.asked("GET", ".gguf") == []


def test_a_hub_without_ranges_begins_again(hub: Hub, bench: Bench) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    hub.ranges = False
    bench.begun(WEIGHTS, WEIGHTS[:1_000_000])
    assert bench.fetched().path.read_bytes() == WEIGHTS
    assert bench.progress[-1].done == len(WEIGHTS)


def test_what_was_damaged_in_between_is_thrown_away(hub: Hub, bench: Bench) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    bench.begun(WEIGHTS, b"!" * 1000)
    failed = bench.refused()
    assert failed.message == "m-Q4_K_M.gguf arrived damaged and was thrown away."
    assert bench.fetched().path.read_bytes() == WEIGHTS


def test_a_rest_that_is_longer_than_the_file_is_begun_anew(hub: Hub, bench: Bench) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": b"short"})
    bench.begun(b"short", b"much longer")
    assert bench.fetched().path.read_bytes() == b"short"


def test_a_break_after_the_beginning_is_not_answered_with_an_older_version(
    hub: Hub, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the network an old version is enough; while a new one is fetched it is not."""
    repo = hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": b"old"})
    bench.fetched()
    repo.files["m-Q4_K_M.gguf"] = WEIGHTS

    def cut(*_: object, **__: object) -> None:
        raise ConnectionResetError("cut")

    monkeypatch.setattr(worker, "http_get", cut)
    failed = bench.refused()
    assert (failed.code, failed.lost) == (Code.NOT_PULLED, True)


# ---------------------------------------------------------------- the process


def test_main_reads_a_job_and_writes_only_its_own_lines(
    hub: Hub, bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": b"w"})
    out = io.BytesIO()
    watched: list[Callable[[], None]] = []

    class Thread:
        def __init__(self, *, target: Callable[[], None], daemon: bool) -> None:
            assert daemon
            watched.append(target)

        def start(self) -> None:
            return None

    real_run = worker.run

    def noisy_run(job: Job, say: worker.Say) -> None:
        print("a library prints")
        real_run(job, say)

    line = protocol.write(Job(REQUEST, str(bench.cache), 0))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(line)))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=out))
    monkeypatch.setattr(worker, "threading", SimpleNamespace(Thread=Thread))
    monkeypatch.setattr(worker, "run", noisy_run)
    worker.main()
    words = [protocol.read_word(one) for one in out.getvalue().splitlines()]
    assert isinstance(words[0], Progressed)
    assert isinstance(words[-1], Finished)
    assert "a library prints" in capsys.readouterr().err
    ended: list[int] = []
    monkeypatch.setattr(worker, "os", SimpleNamespace(_exit=ended.append))
    watched[0]()
    assert ended == [3], "when the daemon is gone, so is the child"


def test_a_failure_travels_as_the_same_problem(hub: Hub, bench: Bench) -> None:
    hub.repos["owner/name"] = Repo({"m-Q8_0.gguf": b"w"})
    failed = bench.refused()
    assert protocol.read_word(protocol.write(failed)) == failed
    assert failed.problem == Problem(
        Code.PULL_FAILED,
        "There is no quantisation 'Q4_K_M' in this repository.",
        "There are these quantisations: Q8_0",
        facts={"quants": ["Q8_0"]},
    )
