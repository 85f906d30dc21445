"""Downloads as the user sees them: begun, watched, listed, ended."""

from __future__ import annotations

import pytest

from control_api.commands.local.complete import candidates
from control_api.commands.progress import transfer
from daemon.core.problems import Code, Problem, ProblemError
from daemon.ports import Progress
from tests.commands.conftest import Ctl
from tests.control_api.fake import FakeControl, FakeDaemon, pull_view

GIB = 1 << 30
ADHOC = "hf:owner/name:Q4_K_M"


def done(**facts: object) -> Progress:
    return Progress("done", "it is on this machine", 1.0, facts)


def test_pull(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    fake.steps = (*(Progress("pull", f"{n} of 9 MiB", n / 9) for n in range(9)),)
    result = ctl("pull", "gemma")
    assert result.out.startswith("pulled  gemma  ")
    assert len(result.err.splitlines()) == 1
    assert ctl("pull", "gemma", "--json").json["step"] == "done"
    assert fake.calls == [("pull", "gemma")] * 2


def test_what_nobody_has_configured_says_how_to_use_it(
    ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    facts = {"model": ADHOC, "source": ADHOC, "served_as": "", "size": 17 * GIB}
    fake.steps = (done(**facts, projector="mmproj-f16.gguf"),)
    lines = ctl("pull", ADHOC).out.splitlines()
    assert lines[0].startswith(f"pulled  {ADHOC}  17.0 GiB  ")
    assert lines[1] == f"To serve it, give it a name: ctl add {ADHOC} NAME, then ctl run NAME"
    assert lines[2] == "It can see with its projector: ctl set NAME mmproj=mmproj-f16.gguf"
    assert fake.calls == [("pull", ADHOC)]
    fake.steps = (done(**{**facts, "served_as": "gemma"}),)
    assert "It is served as gemma: ctl run gemma" in ctl("pull", ADHOC).out
    assert ctl("pull", ADHOC, "--json").json["facts"]["served_as"] == "gemma"
    fake.steps = (done(**{**facts, "served_as": "owner/name:Q4_K_M", "found": True}),)
    assert ctl("pull", ADHOC).out.splitlines()[1:] == [
        "It is served as owner/name:Q4_K_M: ctl run owner/name:Q4_K_M",
        f"For a name and settings of your own: ctl add {ADHOC} NAME",
    ]


def test_begin_and_come_back(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert ctl("pull", "gemma", "--no-wait").out == "pull of gemma has begun\n"
    assert ctl("pull", ADHOC, "--no-wait").out == f"pull of {ADHOC} has begun\n"


def test_a_failure_is_told_with_its_next_step(
    ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    text = "owner/name is gated: its authors ask who downloads it."
    fake.steps = (ProblemError(Problem(Code.PULL_FAILED, text, "Accept its terms.")),)
    result = ctl("pull", ADHOC)
    assert (result.code, result.out) == (1, "")
    assert result.err == f"ctl: {text}\n     Accept its terms.\n"


def test_what_is_being_pulled(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    waiting = {"state": "waiting", "done": 0, "total": 0, "rate": None, "left": None}
    fake.pulling_now["b"] = pull_view("b", **waiting, note="waits for its turn behind gemma")
    head, first, second = ctl("pull").out.splitlines()
    assert head.split() == ["MODEL", "STATE", "PROGRESS", "SOURCE"]
    assert "gemma  running  50%  2.0 of 4.0 GiB  32.0 MiB/s  1m 4s left" in first
    assert "b      waiting  waits for its turn behind gemma" in second
    assert [one["name"] for one in ctl("pull", "--json").json["pulls"]] == ["gemma", "b"]
    fake.pulling_now.clear()
    assert ctl("pull").out.startswith("Nothing is being pulled.")


def test_ending_one(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    assert ctl("pull", "gemma", "--cancel").out == (
        "The pull of gemma was cancelled; 2.0 GiB of 4.0 GiB are kept. Go on with: ctl pull gemma\n"
    )
    assert fake.calls == [("cancel_pull", "gemma")]
    again = ctl("pull", "gemma", "--cancel")
    assert (again.code, "No pull of 'gemma' is under way" in again.err) == (1, True)
    assert ctl("pull", "gemma", "--cancel", "--json").json["error"]["code"] == "pull_unknown"


@pytest.mark.parametrize("flag", ["--cancel", "--no-wait"])
def test_a_flag_without_a_name(flag: str, ctl: Ctl, daemon: FakeDaemon) -> None:
    result = ctl("pull", flag)
    assert (result.code, f"{flag} needs a name" in result.err) == (1, True)


def test_what_the_tab_key_offers(ctl: Ctl, daemon: FakeDaemon) -> None:
    offered = candidates(["pull"])
    assert {"gemma", "qwen3-0.6b", "--cancel", "--no-wait"} <= set(offered)
    names = [word for word in candidates(["pull", "--cancel"]) if not word.startswith("-")]
    assert names == ["gemma"]
    assert {"--weights", "--yes"} <= set(candidates(["rm", "gemma"]))
    assert {"--days", "--dry-run", "--configured", "--all"} <= set(candidates(["prune"]))
    assert {"gguf", "mlx", "safetensors"} == set(candidates(["search", "--format"]))


def test_the_figures_of_a_download() -> None:
    facts = {"done": int(7.2 * GIB), "total": int(17.2 * GIB)}
    assert transfer(facts) == "7.2 of 17.2 GiB"
    assert transfer({**facts, "rate": 31 << 20, "left": 331.0}) == (
        "7.2 of 17.2 GiB  31.0 MiB/s  5m 31s left"
    )
    assert transfer({"done": 5 << 20, "total": GIB}) == "5.0 MiB of 1.0 GiB"
    for other in ({}, {"done": 1}, {"done": 0, "total": 0}, {"done": "x", "total": 5}):
        assert transfer(other) == ""
