"""What a key may not use does not exist for it: names, lists, defaults and stand-ins."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.access.principals import LOCAL, USE, Principal
from daemon.backends.stock import Stock
from daemon.core.problems import Code, Problem
from daemon.ports import Resolved
from tests.backends.kitchen import Kitchen

pytestmark = pytest.mark.usefixtures("blocking_allowed")


def key(*models: str, default: str = "") -> Principal:
    return Principal("k", frozenset({USE}), keyed=True, models=models, default_model=default)


@pytest.fixture
def stock(tmp_path: Path, tiny_gguf: Path) -> Stock:
    models = {
        "coder": {"path": str(tiny_gguf), "aliases": ["fast"]},
        "gemma": {"path": str(tiny_gguf), "aliases": ["g", "claude-*"]},
        "tiny": {"path": str(tiny_gguf)},
    }
    server = {"default_model": "gemma", "small_model": "tiny"}
    return Kitchen(tmp_path).stock({"models": models, "server": server})


def unknown(found: object) -> str:
    assert isinstance(found, Problem)
    assert found.code is Code.MODEL_NOT_FOUND
    return found.text


@pytest.mark.parametrize("models", [("coder",), ("fast",), ("CO*",), ("nothing", "c?der", "cod*")])
def test_by_name_alias_or_pattern(stock: Stock, models: tuple[str, ...]) -> None:
    who = key(*models)
    for name in ("coder", "fast", "ollama/coder"):
        assert stock.resolve(name, "chat", who=who) == Resolved("coder")
    for name in ("gemma", "g", "tiny", "claude-opus-5", "whatever", ""):
        text = unknown(stock.resolve(name, "chat", who=who))
        assert "There are: coder" in text or "Did you mean" in text
        for hidden in ("gemma", "tiny"):
            assert hidden not in text.replace(repr(name), "")
    assert [card.id for card in stock.cards({}, who)] == ["coder"]
    unknown(stock.card("gemma", {}, "", who))
    unknown(stock.find("g", "", who))


def test_others_see_all(stock: Stock) -> None:
    stock.resolve("gemma", "chat", who=key("coder"))
    for who in (LOCAL, key()):
        assert stock.resolve("gemma", "chat", who=who) == Resolved("gemma")
        assert [card.id for card in stock.cards({}, who)] == ["coder", "gemma", "tiny"]


def test_a_keys_own_default(stock: Stock) -> None:
    who = key(default="coder")
    for name in ("", "gpt-99", "what"):
        guessed = name == "what"  # and may be a model that nobody has found yet
        assert stock.resolve(name, "chat", who=who) == Resolved("coder", guessed=guessed)
        assert stock.resolve(name, "chat") == Resolved("gemma", guessed=guessed)
    assert stock.resolve("tiny", "chat", who=who) == Resolved("tiny")
    assert stock.resolve("", "chat", who=key("coder", default="coder")) == Resolved("coder")
    unknown(stock.resolve("what", "chat", who=key("coder", default="tiny")))
    found = stock.resolve("what", "chat", who=key(default="gone"))
    assert found == Resolved("gemma", guessed=True)


def test_nobody_stands_in_whom_the_key_may_not_use(stock: Stock) -> None:
    def stand_ins(who: Principal) -> tuple[str, ...]:
        found = stock.resolve("coder", "chat", small=True, who=who)
        assert isinstance(found, Resolved)
        return found.stand_ins

    assert set(stand_ins(LOCAL)) == {"tiny", "gemma"}
    assert stand_ins(key("coder")) == ()
    assert stand_ins(key("coder", "tiny")) == ("tiny",)


def test_nor_the_small_model(tmp_path: Path, tiny_gguf: Path) -> None:
    models = {name: {"path": str(tiny_gguf)} for name in ("coder", "tiny")}
    server = {"small_model": "tiny", "small_calls": "small_model"}
    stock = Kitchen(tmp_path).stock({"models": models, "server": server})
    assert stock.resolve("coder", "chat", small=True) == Resolved("tiny", small=True)
    found = stock.resolve("coder", "chat", small=True, who=key("coder"))
    assert found == Resolved("coder", small=True)
