from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from daemon.config.layers import ROOT
from daemon.config.mistakes import ConfigError, Mistake, findings, nearest, shown
from daemon.config.settings import Settings
from daemon.core.problems import Code, ProblemError

ONE = Mistake(
    "server.prot", 'the unknown key "prot"', "host, port", 'Did you mean "port"?', 3, "/x/c.toml"
)
OTHER = Mistake("server.port", "nothing", "a number", source="MODELPORT_SERVER__PORT")


def test_the_report_has_place_finding_and_next_step() -> None:
    assert ConfigError([ONE, OTHER], "c.toml").report().splitlines() == [
        "c.toml has 2 mistakes:",
        "server.prot  (c.toml:3)",
        '    found the unknown key "prot"; allowed: host, port',
        '    Did you mean "port"?',
        "server.port  (MODELPORT_SERVER__PORT)",
        "    found nothing; allowed: a number",
    ]


def test_programs_get_every_field() -> None:
    error = ConfigError([ONE], "c.toml")
    (only,) = json.loads(json.dumps(error.to_json()))
    assert only["where"] == "server.prot"
    assert only["line"] == 3
    assert error.report().startswith("c.toml has 1 mistake:")


def test_it_is_a_problem_that_the_control_api_can_answer() -> None:
    error = ConfigError([ONE], "c.toml")
    assert isinstance(error, ProblemError)
    assert error.problem.code is Code.CONFIG_INVALID
    assert "server.prot" in error.problem.text
    assert error.problem.facts["mistakes"] == error.to_json()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\n\x1b[31m", r'"a\n\u001b[31m"'),
        (True, "true"),
        (1.5, "1.5"),
        ({"a": 1}, "a table"),
        (None, "nothing"),
        ("x" * 200, '"' + "x" * 66 + "..."),
    ],
)
def test_found_values_are_one_short_line(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_number_too_long_to_print_is_told() -> None:
    assert shown(10**5000) == "a very long number"


def test_what_may_be_a_secret_is_not_shown() -> None:
    assert "hunter2" not in shown("hunter2", ("models", "x", "env", "HF"))
    assert "hunter2" not in shown("hunter2", ("models", "x", "api_token"))


def test_nearest() -> None:
    assert nearest("KEEPALIVE", ("keep_alive", "ctx")) == "keep_alive"
    assert nearest("zzz", ("keep_alive", "ctx")) is None
    assert nearest("", ()) is None


@pytest.mark.parametrize(
    ("values", "where", "found", "allowed"),
    [
        ({"server": 3}, ("server",), "3", "a table"),
        ({"server": {"port": "x"}}, ("server", "port"), '"x"', "a whole number from 1 to 65535"),
        ({"server": {"port": 1.5}}, ("server", "port"), "1.5", "a whole number from 1 to 65535"),
        ({"server": {"hosts": "x"}}, ("server", "hosts"), '"x"', 'a list such as ["a", "b"]'),
        ({"server": {"default_model": 1}}, ("server", "default_model"), "1", "text in quotes"),
        ({"lan": {"enabled": 1}}, ("lan", "enabled"), "1", "true or false"),
        ({"models": []}, ("models",), "[]", "a table"),
        ({"models": {"a b": {}}}, ("models", "a b"), '"a b"', "a name of letters"),
        ({"logs": {"level": "inf"}}, ("logs", "level"), '"inf"', '"debug" | "info"'),
        ({"logs": {"keep": 0}}, ("logs", "keep"), "0", "a whole number from 1 to 1000"),
        ({"logs": {"max_size": 1}}, ("logs", "max_size"), "1", "a whole number, 65536 or more"),
        ({"conversations": {"min_tokens": -1}}, ("conversations", "min_tokens"), "-1", "0 or more"),
        ({"schedule": [{"do": "load", "model": "x"}]}, ("schedule", 0, "cron"), "nothing", "When"),
    ],
)
def test_errors_are_told_in_plain_words(
    values: dict[str, object], where: tuple[object, ...], found: str, allowed: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.from_layers(values)
    ((finding, _),) = findings(caught.value, values, ROOT)
    assert finding.path == where
    assert finding.found == found
    assert allowed in finding.allowed
    for word in ("Input should", "pydantic", "Extra inputs"):
        assert word not in finding.allowed


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"server": {"prot": 1}}, 'Did you mean "port"?'),
        ({"sever": {}}, 'Did you mean "server"?'),
        ({"models": {"a": {"ctxx": 1}}}, 'Did you mean "ctx"?'),
        ({"engines": {"llama_server": {}}}, 'Did you mean "llama-server"?'),
        ({"keep_alive": 1}, "It belongs in [defaults]."),
        ({"server": {"budget": 1}}, "It belongs in [memory]."),
        ({"server": {"zzzzzz": 1}}, ""),
    ],
)
def test_an_unknown_key_comes_with_the_known_one(values: dict[str, object], hint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.from_layers(values)
    ((finding, _),) = findings(caught.value, values, ROOT)
    assert finding.hint == hint
    assert "unknown key" in finding.found
