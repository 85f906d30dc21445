"""``ctl test`` through a whole daemon: real engines, and stand-ins that misbehave."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeHouse
from tests.e2e.house import House
from tests.fakes import start

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

CALLS = '{"thing": "salt", "warehouse": "north"}'
GOOD = ["--calls", CALLS, "--refuse-long"]
ALL = '["chat", "messages", "responses"]'


def stand_in(name: str, *flags: str, dialects: str = ALL, more: str = "") -> str:
    """A model of a command engine of its own name."""
    words = [*start.argv("engine"), "--port", "{port}", "-c", "{ctx}", *flags]
    return (
        f'[models.{name}]\nengine = "{name}"\nctx = 2048\n{more}\n'
        f"[engines.command.{name}]\nargv = {json.dumps(words)}\n"
        f'ready = "/health"\nfootprint = "50 MiB"\ndialects = {dialects}\n'
    )


def proven(house: House, model: str, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit status and outcomes by step, with the verdict."""
    done = house.ctl("test", model, "--json", *words, seconds=150.0)
    told = json.loads(done.stdout)
    assert "ran" in told, done
    return done.returncode, {**told, **{one["step"]: one for one in told["ran"]}}


@pytest.mark.llama_server
def test_a_real_engine_and_a_model_that_is_too_weak(
    make_house: MakeHouse, llama_server: Path, tiny_gguf: Path, tool_gguf: Path
) -> None:
    config = f'[engines.llama-server]\npath = "{llama_server}"\n' + "".join(
        f'[models.{name}]\npath = "{path}"\nctx = 1024\nslots = {slots}\nargs = ["-t", "1"]\n'
        for name, path, slots in (("real", tiny_gguf, 2), ("caller", tool_gguf, 1))
    )
    with make_house(config) as house:
        code, told = proven(house, "real")
        assert code == 0, told
        assert told["verdict"] == "works, but"
        for step in ("stream", "context", "leak", "stop"):
            assert told[step]["outcome"] == "works", told[step]
        for dialect in ("chat", "messages", "responses"):
            weak = told[f"tools-{dialect}"]
            assert (weak["outcome"], weak["fault"]) == ("but", "model")
            assert weak["text"].startswith("the model is too weak: it never calls the tool")
            assert weak["hint"]
        assert told["image"]["outcome"] == "skipped"
        assert "of 1024 tokens answered" in told["context"]["text"]
        assert told["version"], "the engine's"
        _, wrong = proven(house, "caller", "--only", "tools-chat", "--only", "tools-messages")
        for step in ("tools-chat", "tools-messages"):
            # real calls, by the engine's grammar: with arguments by chance, and again and again
            weak = wrong[step]
            assert (weak["outcome"], weak["fault"]) == ("but", "model"), weak
        assert house.stop() == 0
        house.start()
        assert "works, but" in house.ctl("ls").stdout, "it outlives the daemon"
        assert "tools-messages" in house.ctl("show", "real").stdout
        last = json.loads(house.ctl("test", "--last", "real", "--json").stdout)
        assert last["verdicts"][0]["findings"] == told["findings"]
        assert house.backends() == {}, "nothing is started for that"


def test_the_embedded_engine(make_house: MakeHouse, loop_gguf: Path) -> None:
    config = (
        f'[models.a]\npath = "{loop_gguf}"\nengine = "xllamacpp"\nctx = 4096\nargs = ["-t", "1"]\n'
    )
    with make_house(config) as house:
        names = ("stream", "context", "leak", "stop")
        code, told = proven(house, "a", *(word for name in names for word in ("--only", name)))
        assert code == 0, told
        assert [told[name]["outcome"] for name in names] == ["works"] * 4, told
        assert told["verdict"] == "partly tested"


@pytest.mark.mlx
def test_mlx_lm(make_house: MakeHouse, mlx_python: Path, tiny_hf: Path) -> None:
    config = (
        f'[engines.mlx-lm]\npath = "{mlx_python}"\n'
        f'[models.mlx]\npath = "{tiny_hf}"\nengine = "mlx-lm"\nctx = 512\n'
    )
    with make_house(config) as house:
        words = ("--only", "stream", "--only", "leak", "--only", "tools-responses")
        _, told = proven(house, "mlx", *words)
        assert told["stream"]["outcome"] == told["leak"]["outcome"] == "works", told
        weak = told["tools-responses"]  # reached by translation
        assert (weak["outcome"], weak["fault"]) == ("but", "model"), weak


def test_a_good_one_and_each_way_to_be_broken(make_house: MakeHouse) -> None:
    broken = {
        "text": (["--calls", CALLS, "--writes-calls"], "tools-messages", "arrives as text"),
        "mute": (["--no-finish"], "stream", "no finish_reason"),
        "leaks": (["--leaks"], "leak", "was said in another"),
        "cuts": (["--cut-long"], "context", "cut in silence"),
        "dies": (["--crash-at", "token:3", "--skip", "1"], "stream", "broke off"),
        "wrong": (["--calls", CALLS, "--ends-wrong"], "tools-chat", "clients stop there"),
    }
    as_it_is = 'rescue_tools = "off"'
    models = [stand_in(name, *flags, more=as_it_is) for name, (flags, _, _) in broken.items()]
    models.append(stand_in("good", *GOOD))
    models.append(stand_in("rescued", *broken["text"][0]))
    models.append(stand_in("lean", *GOOD, dialects='["chat"]'))
    with make_house("".join(models)) as house:
        code, told = proven(house, "good")
        assert (code, told["verdict"]) == (0, "works"), told
        code, told = proven(house, "lean")
        assert (code, told["verdict"]) == (0, "works"), told
        assert told["tools-messages"]["outcome"] == "works", "by translation"
        code, told = proven(house, "rescued", "--only", "tools-messages")
        assert (code, told["tools-messages"]["outcome"]) == (0, "works"), told
        for name, (_, step, said) in broken.items():
            code, told = proven(house, name, "--only", step)
            assert (code, told["verdict"]) == (1, "broken"), told
            assert told[step]["fault"] == "plumbing"
            assert said in told[step]["text"], told
        listed = house.ctl("ls").stdout
        assert listed.count("broken") == len(broken)


def test_one_that_goes_on_for_clients_that_left(make_house: MakeHouse) -> None:
    deaf = stand_in("deaf", "--deaf", "--token-s", "0.006")  # 1024 tokens: 6 s
    with make_house(deaf) as house:
        code, told = proven(house, "deaf", "--only", "stop")
        assert (code, told["stop"]["outcome"]) == (1, "broken"), told
        assert "goes on writing" in told["stop"]["text"]


def test_all_that_fit(make_house: MakeHouse, sparse_gguf: Callable[[int], Path]) -> None:
    big = f'[models.big]\npath = "{sparse_gguf(200 << 20)}"\nctx = 512\n'
    with make_house('[memory]\nbudget = "90 MiB"\n' + stand_in("good", *GOOD) + big) as house:
        house.chat("good")
        done = house.ctl("test", "nobody")
        assert (done.returncode, "nobody" in done.stderr) == (1, True)
        told = json.loads(house.ctl("test", "--all", "--json", "--only", "stream").stdout)
        (one,) = told["tests"]
        assert (one["model"], one["verdict"]) == ("good", "partly tested")
        why = {left["model"]: left["why"] for left in told["left_out"]}
        assert "MiB" in why["big"], why
        assert set(house.backends()) == {"good"}, "it ran before, so it runs on"
        assert "tested" in house.kinds("good")
