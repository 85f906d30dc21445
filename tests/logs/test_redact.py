"""Secrets go, the rest stays readable."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.logs.redact import REMEMBERED, Redactor, redact

HF, SK, MP = "hf_" + "aB3" * 11, "sk-ant-api03-" + "x_-9" * 6, "mp_" + "Zz0-_" * 6

HIDDEN = [
    ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
    ("authorization: abc", "authorization: ***"),
    ("Proxy-Authorization: Basic dXNlcjpwdw==", "Proxy-Authorization: Basic ***"),
    ('{"Authorization": "Bearer abc", "a": 1}', '{"Authorization": "Bearer ***", "a": 1}'),
    ("(b'authorization', b'Bearer abc')", "(b'authorization', b'Bearer ***')"),
    (r'"{\"authorization\": \"Bearer abc\"}"', r'"{\"authorization\": \"Bearer ***\"}"'),
    ("x-api-key: abc", "x-api-key: ***"),
    ("{'X-Api-Key': 'abc'}", "{'X-Api-Key': '***'}"),
    ("GET /v1/models?api_key=abc&limit=3", "GET /v1/models?api_key=***&limit=3"),
    ("token=abc rest", "token=*** rest"),
    ('{"token": "abc"}', '{"token": "***"}'),
    ("access_token=abc;refresh_token=def", "access_token=***;refresh_token=***"),
    ("llama-server --api-key abc -m x", "llama-server --api-key *** -m x"),
    ("['llama-server', '--api-key', 'abc', '-m']", "['llama-server', '--api-key', '***', '-m']"),
    ("OPENAI_API_KEY=abc HF_TOKEN=def", "OPENAI_API_KEY=*** HF_TOKEN=***"),
    ("apiKey: abc", "apiKey: ***"),
    ("sent bearer abcdefgh123", "sent bearer ***"),
    (f"401 for {HF}!", "401 for hf_***!"),
    (f"key {SK}, next", "key sk-***, next"),
    (f"key={MP}", "key=mp_***"),
]

KEPT = [
    "from huggingface_hub import hf_hub_download; hf_transfer",
    "print_info: EOS token        = 2 '</s>'",
    "n_tokens = 512, max_tokens=100, prompt_tokens: 7",
    "--api-key-file /run/modelport/b7.key -m x",
    "tokenizer.ggml.model str = llama",
    "disk-usage ask-me-anything-at-all risk-management-department",
    "the authorization header is missing",
    "bearer of bad news",
]


@pytest.mark.parametrize(("text", "safe"), HIDDEN)
def test_secrets_are_hidden(text: str, safe: str) -> None:
    assert redact(text) == safe
    assert redact(safe) == safe


@pytest.mark.parametrize("text", KEPT)
def test_ordinary_talk_stays(text: str) -> None:
    assert redact(text) == text


WORDS = st.sampled_from(
    [
        *("authorization", "Proxy-Authorization", "x-api-key", "api_key", "token", "HF_TOKEN"),
        *("Bearer ", "basic ", "--api-key", "password", "client_secret", "session-key"),
        *("hf_", "sk-", "mp_", "***", ":", "=", ",", " ", "  ", '"', "'", "\\", '\\"', "b'", "&"),
        *("abc", "abcdefghijklmnop", "0123456789abcdef", HF, SK, MP, "{", "}", "\n", "é", "-", "_"),
    ]
)
TEXT = st.lists(WORDS | st.text(max_size=3), max_size=14).map("".join)
SECRETS = st.lists(st.text("abcdef0123456789-_", max_size=12), max_size=3)


@given(TEXT, SECRETS)
def test_redacting_twice_is_redacting_once(text: str, secrets: list[str]) -> None:
    once = redact(text, secrets)
    assert redact(once, secrets) == once


@given(TEXT, st.text("QRSTUVWXYZ", min_size=12, max_size=40), TEXT)
def test_known_secrets_and_shapes_never_leave(before: str, key: str, after: str) -> None:
    assert key not in redact(f"{before}{key}{after}", [key])
    for name in ("authorization: Bearer ", "x-api-key: ", "api_key=", "token=", "hf_", "sk-"):
        assert key not in redact(f"{before} {name}{key} {after}"), name
    assert key not in redact(json.dumps({"a": before, "api_key": key}))


def test_the_keys_of_this_run_are_hidden_and_the_oldest_forgotten() -> None:
    redactor = Redactor()
    redactor.add("0123456789")
    redactor.add("0123456789abc")
    redactor.add("short")
    assert redactor("a 0123456789abc, b 0123456789, short") == "a ***, b ***, short"
    for number in range(REMEMBERED - 2):
        redactor.add(f"another one {number}")
    assert redactor("0123456789 0123456789abc") == "0123456789 ***"
