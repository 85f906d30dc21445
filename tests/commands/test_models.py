from __future__ import annotations

import dataclasses

from control_api.commands.stories import clock
from daemon.views import FindingView
from tests.commands.conftest import Ctl
from tests.control_api.fake import (
    GIB,
    FakeControl,
    FakeDaemon,
    backend_view,
    model_view,
    verdict_view,
)


def test_ps(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    fake.running = [
        backend_view("a"),
        backend_view("b", pinned=True, keep_alive_left=None, footprint_source="estimated"),
        backend_view("c", leases=2, queue=3, keep_alive_left=None, state="draining"),
        backend_view(
            "d", keep_alive_left=None, footprint={"gpu0": GIB, "ram": GIB}, warning="slow start"
        ),
    ]
    lines = ctl("ps").out.splitlines()
    assert lines[0].split() == (
        [
            "MODEL",
            "ENGINE",
            "WHERE",
            "STATE",
            "FOOTPRINT",
            "LEASES",
            "QUEUE",
            "KEEP-ALIVE",
            "UPTIME",
        ]
    )
    assert "10m 0s" in lines[1]
    assert "~4.0 GiB" in lines[2]
    assert "pinned" in lines[2]
    assert "draining" in lines[3]
    assert "busy" in lines[3]
    assert "1.0 GiB gpu0 + 1.0 GiB ram" in lines[4]
    assert "never" in lines[4]
    assert lines[5] == "! d: slow start"
    assert [b["model"] for b in ctl("ps", "--json").json["backends"]] == ["a", "b", "c", "d"]
    fake.running = []
    assert "No model is loaded." in ctl("ps").out
    died = "The backend of gemma died: crash (exit status 3: GGML_ASSERT(n > 0) failed)."
    fake.catalog["gemma"] = model_view("gemma", state="failed", problem=died)
    assert ctl("ps").out == f"! gemma (failed): {died}\n"
    assert ctl("ps", "--json").json["down"] == [
        {"model": "gemma", "state": "failed", "problem": died}
    ]


LOW = "context 65536, batch 256 (after running out of memory 2 times)"


def test_what_is_given_up(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    """What, since when, and how it comes back: of what runs, and of what does not."""
    given_up = {"degraded": LOW, "degraded_since": 1e9, "climbs_in": 7200.0}
    fake.running = [backend_view("gemma", **given_up)]
    fake.catalog["gemma"] = model_view("gemma", **given_up)
    told = ctl("ps").out.splitlines()[-1]
    now = clock(given_up["degraded_since"])
    assert told == (
        f"! gemma: degraded since {now}: {LOW}; full size at its next start: "
        "`ctl reset gemma`, or by itself in 2h 0m"
    )
    shown = [line.split(None, 1) for line in ctl("show", "gemma").out.splitlines()]
    assert ["degraded", LOW] in shown
    assert ["since", now] in shown
    assert ctl("ps", "--json").json["backends"][0]["degraded"] == LOW
    assert ctl("ps", "--json").json["degraded"] == []
    after = "context 65536, batch 256 (its next start is at full size)"
    fake.running = [backend_view("gemma", degraded=after)]
    assert ctl("ps").out.splitlines()[-1] == f"! gemma: degraded: {after}"
    fake.running = []
    fake.catalog["gemma"] = model_view("gemma", **{**given_up, "climbs_in": 0.0})
    (line,) = ctl("ps").out.splitlines()
    assert line.startswith("! gemma (stopped): degraded since")
    assert line.endswith("full size at its next start: `ctl reset gemma`")
    (one,) = ctl("ps", "--json").json["degraded"]
    assert (one["name"], one["degraded"]) == ("gemma", LOW)


def test_ls(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    fake.catalog["gemma"] = model_view("gemma", pinned=True, problem="The file is gone.")
    result = ctl("ls")
    assert "gemma *" in result.out
    assert "! gemma: The file is gone." in result.out
    assert "preset-one" not in result.out
    assert "(not pulled)" in ctl("ls", "--presets").out
    assert len(ctl("ls", "--json").json["models"]) == 3
    fake.catalog.clear()
    assert "ctl add" in ctl("ls").out


def test_ls_all(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    fake.catalog = {"mine": model_view("mine", pinned=True)}
    fake.found = [
        model_view(
            "a/b:Q4_K_M",
            place="lmstudio",
            parameters=8_030_000_000,
            abilities=["tools", "vision"],
            aliases=["a/b/b-Q4_K_M.gguf", "a/b", "b"],
        ),
        model_view("half", place="folder", problem="half cannot be served: it is damaged."),
        model_view("a/b:Q4_K_M@ollama", place="ollama", clash="a/b:Q4_K_M", kind="embedding"),
        model_view("odd\x1b[2J", place="folder", parameters=135_000_000),
    ]
    lines = ctl("ls", "--all").out.splitlines()
    assert fake.looked == [""]
    assert lines[0].split()[:6] == ["MODEL", "STATE", "FROM", "SIZE", "QUANT", "PARAMS"]
    assert [line.split()[0] for line in lines[1:7]] == [
        "mine", "a/b:Q4_K_M", "a/b:Q4_K_M@ollama", "half", "odd\\x1b[2J", "preset-one",
    ]  # fmt: skip
    for word in ("LM Studio", "8.0B", "131072", "chat, tools, vision", "b, a/b"):
        assert word in lines[2]
    assert "embedding" in lines[3]
    assert "not here" in lines[6]
    assert "! half: half cannot be served: it is damaged." in lines
    assert "! a/b:Q4_K_M@ollama: a/b:Q4_K_M is another model's name" in lines
    shown = ctl("ls", "--all", "--json").json["models"]
    assert next(m for m in shown if m["name"] == "half")["place"] == "folder"
    assert len(ctl("ls", "--json").json["models"]) == 1


def test_show(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    result = ctl("show", "g")
    assert "32768 of 131072 tokens, 1 slots" in result.out
    assert "ready, pid 4711, keeper 4710, start 4" in result.out
    assert ctl("show", "org/repo:Q4").code == 0
    assert "org/repo:Q4" in fake.looked, "it may have come a moment ago"
    fake.catalog["f"] = model_view(
        "f",
        place="ollama",
        parameters=494_000_000,
        abilities=["tools"],
        template="its own",
        mmproj="/p.gguf",
        params={"top_k": 1},
    )
    told = ctl("show", "f").out
    for word in ("Ollama", "494M", "tools", "its own", "/p.gguf", "top_k 1"):
        assert word in told
    assert ctl("show", "gemma", "--json").json["backends"][0]["pid"] == 4711
    assert ctl("show", "qwen3-coder", "--json").json["backends"] == []
    assert ctl("show", "qwen3-coder", "--json").json["story"] is None
    assert "it ran out of memory; killed by SIGABRT" in result.out
    assert "it said     llama_decode: failed to decode, ret = -3" in result.out


def test_verdicts_in_the_list_and_in_detail(
    ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    weak = FindingView(step="tools-chat", outcome="but", text="too weak", fault="model")
    tested = verdict_view(verdict="works, but", text="tools-chat: too weak", findings=[weak])
    fake.catalog["gemma"] = model_view("gemma", tested=tested)
    old = dataclasses.replace(tested, verdict="works", current=False)
    fake.catalog["qwen3-coder"] = model_view("qwen3-coder", tested=old)
    lines = ctl("ls").out.splitlines()
    assert "TESTED" in lines[0]
    assert "works, but  " in lines[1]
    assert "works ?" in lines[2]
    shown = ctl("show", "gemma").out
    assert f"works, but (llama-server b9000, {clock(1e9)})" in shown
    assert "tools-chat  too weak" in shown
    assert "served otherwise today" in ctl("show", "qwen3-coder").out
    assert ctl("show", "gemma", "--json").json["tested"]["verdict"] == "works, but"
