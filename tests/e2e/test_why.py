"""``ctl why``: whole daemons whose engines die, and what is told of it afterwards."""

from __future__ import annotations

import http.client
import json
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeHouse, timing
from tests.e2e.house import House, StreamCutError, Watch
from tests.e2e.test_worst_days import engine, memory, model, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

CANARY = "hf_canaryCANARYcanary0123456789"
KEY = "sk-canary-0123456789abcdef"
NOTHING = "Nothing died unasked, as far as is remembered.\n"
QUICK = timing({"stop_grace": 0.5, "drain_grace": 1.0, "backoff": 0.05, "backoff_max": 0.1})


def stories(house: House, name: str = "") -> list[dict[str, Any]]:
    """What the API tells of one model, or of all."""
    told: list[dict[str, Any]] = house.client.get("/incidents", model=name or None)["stories"]
    return told


def why(house: House, *words: str) -> str:
    done = house.ctl("why", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def kept(house: House) -> list[dict[str, Any]]:
    """What is on the disk."""
    path = house.folder / "state" / "incidents.jsonl"
    if not path.exists():
        return []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def test_out_of_memory_is_told_and_outlives_the_daemon(
    make_house: MakeHouse, short_dir: Path
) -> None:
    """Metal's words and SIGABRT while it serves; it is taken smaller, and ready again."""
    dying = engine(
        "mac", "--oom", "--crash-at", "token:3", "--signal", "ABRT", "--times", "1",
        "--state", str(short_dir / "count"),
        "--stderr", f"ValueError: token={CANARY} Authorization: Bearer {KEY}",
    )  # fmt: skip
    config = memory("1 GiB") + dying + model("mac", fit="'shrink'") + engine("idle") + model("idle")
    with make_house(config + QUICK) as house:
        watch = Watch(house)
        assert why(house) == NOTHING
        assert house.ctl("load", "idle").returncode == 0
        assert house.chat("mac").status == 200
        watch.wait("ready", "mac", count=2)
        (story,) = stories(house, "mac")
        last = story["last"]
        assert (last["exit_class"], last["status"]) == ("out_of_memory", -signal.SIGABRT)
        assert (last["context"], last["next_variant"]) == (131072, "context 65536")
        assert (last["serving"], last["leases"], last["followed"]) == (True, 1, "ready")
        assert [one["model"] for one in last["beside"]] == ["idle"]
        assert last["memory"][0]["own"] == 100 << 20
        text = why(house, "mac")
        assert text.startswith("mac ran out of memory, at ")
        for words in (
            "(now ready)",
            "killed by SIGABRT after",
            "with 1 request running",
            "Insufficient Memory",
            "200.0 MiB of 1.0 GiB for all",
            "idle (ready, 100.0 MiB)",
            "with context 65536 in place of context 131072; ready again",
            "`ctl set mac ctx=65536`",
            "`ctl unload idle`",
        ):
            assert words in text
        assert "Insufficient Memory" in house.ctl("show", "mac").stdout
        (told,) = [e.data for e in house.events() if e.kind == "incident"]
        assert told["facts"]["lines"] == last["lines"]
        shown = [
            *(text, house.ctl("show", "mac").stdout, house.ctl("why", "--json").stdout),
            *(json.dumps([e.data for e in house.events()]), house.log_file.read_text()),
        ]
        until(lambda: [one["followed"] for one in kept(house)] == ["ready"])
        shown.append((house.folder / "state" / "incidents.jsonl").read_text())
        for place in shown:
            assert "***" in place
            assert CANARY not in place
            assert KEY not in place
        before = house.client.get("/incidents")["incidents"]
        assert house.stop() == 0
        house.start()
        assert house.client.get("/incidents")["incidents"] == before
        assert why(house, "mac").startswith("mac ran out of memory, at ")


def test_a_crash_loop_is_one_story_until_it_is_reset(make_house: MakeHouse) -> None:
    """Five crashes open the breaker; a reset is written down, and the model may start."""
    words = ("--fail-start", "3", "--stderr", f"GGML_ASSERT(n > 0) failed, api_key={KEY}")
    with make_house(engine("loops", *words) + model("loops", ctx=512) + QUICK) as house:
        answer = house.chat("loops")
        assert answer.status == 503
        error = answer.json()["error"]["message"]
        assert "exit status 3: GGML_ASSERT(n > 0) failed" in error
        assert KEY not in error
        assert "api_key=***" in error
        (story,) = stories(house)
        assert (story["count"], story["state"], story["what"]) == (5, "failed", "crashed")
        assert story["last"]["done"] == "half_open"
        assert [one["followed"] for one in house.client.get("/incidents")["incidents"]] == [
            *("", "died", "died", "died", "died")
        ]
        text = why(house)
        assert "loops crashed, 5 times between " in text
        assert "given up after too many crashes; one try after 5 min" in text
        assert "`ctl reset loops`, then `ctl load loops`" in text
        assert "GGML_ASSERT(n > 0) failed" in house.ctl("ps").stdout
        reset = house.ctl("reset", "loops")
        assert reset.returncode == 0
        assert house.client.get("/models/loops")["state"] == "stopped"
        (told,) = [e.data["text"] for e in house.events() if e.kind == "reset"]
        assert told == "loops may be started again: 5 crashes forgotten, it had failed"
        (story,) = stories(house)
        assert story["last"]["followed"] == "reset"
        assert house.ctl("load", "loops").returncode == 1
        assert stories(house)[0]["count"] == 10, "the breaker's memory was cleared as well"


def test_a_permanent_failure_says_what_to_mend(make_house: MakeHouse) -> None:
    words = ("--fail-start", "1", "--stderr", "error: invalid argument: --no-mmap")
    with make_house(engine("bad", *words) + model("bad", ctx=512) + QUICK) as house:
        assert house.ctl("load", "bad").returncode == 1
        (story,) = stories(house)
        assert (story["last"]["exit_class"], story["last"]["done"]) == ("permanent", "gave_up")
        text = why(house)
        assert "bad cannot be started as it is configured, at " in text
        assert "exit status 1: error: invalid argument: --no-mmap" in text
        assert "given up until something changes" in text
        assert "Mend `args` of the model" in text
        assert "ctl reset" not in text, "which would not help"


def test_a_port_that_was_taken_is_no_crash(make_house: MakeHouse, short_dir: Path) -> None:
    words = ("--port-busy", "--times", "1", "--state", str(short_dir / "count"))
    with make_house(engine("late", *words) + model("late", ctx=512) + QUICK) as house:
        assert house.chat("late").status == 200
        (story,) = stories(house)
        assert (story["last"]["exit_class"], story["last"]["followed"]) == ("port", "ready")
        text = why(house)
        assert "late found its port taken, at " in text
        assert "started again at once, on another port; ready again" in text


def test_what_is_not_known_is_refused(make_house: MakeHouse) -> None:
    with make_house(engine("a") + model("a", ctx=512) + QUICK) as house:
        assert why(house, "a") == "Nothing of a died unasked, as far as is remembered.\n"
        refused = house.ctl("why", "req_0123456789")
        assert refused.returncode == 1
        assert "no model named 'req_0123456789'" in refused.stderr
        assert house.ctl("unload", "--all").returncode == 0
        assert house.chat("a").status == 200
        assert house.ctl("unload", "a").returncode == 0
        assert why(house) == NOTHING, "what was asked for is no incident"


def test_the_record_of_another_program_is_moved_aside(make_house: MakeHouse) -> None:
    house = make_house(engine("a") + model("a", ctx=512) + QUICK)
    path = house.folder / "state" / "incidents.jsonl"
    path.write_text("not ours\n")
    with house:
        assert why(house) == NOTHING
        (aside,) = path.parent.glob("incidents.jsonl.corrupt-*")
        assert aside.read_text() == "not ours\n"


def test_a_killed_llama_cpp_is_told_as_killed(make_house: MakeHouse, loop_gguf: Path) -> None:
    """The real engine, in the middle of an answer, as the system's guard of memory would."""
    config = (
        f'[models.real]\npath = "{loop_gguf}"\nengine = "xllamacpp"\nargs = ["-t", "1"]\n'
        'ctx = 4096\nmin_ctx = 1024\nfit = "shrink"\n'
    )
    with make_house(config + QUICK) as house:
        watch = Watch(house)
        pieces = house.stream("real", max_tokens=100_000)
        next(pieces)
        os.kill(house.backends()["real"]["pid"], signal.SIGKILL)
        with pytest.raises((OSError, http.client.HTTPException, StreamCutError)):
            list(pieces)
        watch.wait("exited", "real")
        (story,) = stories(house)
        last = story["last"]
        assert (last["exit_class"], last["status"], last["leases"]) == ("out_of_memory", -9, 1)
        assert last["engine"] == "xllamacpp"
        until(lambda: stories(house)[0]["last"]["kernel_kills"] is not None)
        text = why(house, "real")
        assert "killed by SIGKILL after" in text
        assert "SIGKILL, which modelport had not sent" in text
        assert "out-of-memory killer, or a person" in text
        assert house.chat("real", max_tokens=2).status in (200, 503)
