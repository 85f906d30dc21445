"""Any tables that TOML can hold, some of them with keys and values like ours."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

KEYS = (
    "server", "port", "also", "models", "memory", "budget", "engines", "command", "argv", "timing",
    "breaker", "schedule", "cron", "aliases", "ctx", "path", "hf", "preset", "llama-server", "env",
    "params", "default", "layers", "_env_file", "power", "on_battery", "a.b", "", "é", "x y",
)  # fmt: skip
WORDS = (
    "127.0.0.1", "18GiB", "75%", "15m", "-1", "claude-*", "*", "qwen3-coder", "llama-server", "{x}",
    "5 in 600 s", "30 8 * * mon-fri", "9" * 400, "../..", "hf:a/b", "owner/repo:Q4",
)  # fmt: skip

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
keys = st.sampled_from(KEYS) | text
scalars = (
    st.booleans()
    | st.integers()
    | st.integers(min_value=-2, max_value=70000)
    | st.floats()
    | st.sampled_from(WORDS)
    | text
    | st.datetimes()
    | st.dates()
    | st.times()
)


def _inside(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(children, max_size=3) | st.dictionaries(keys, children, max_size=4)


values = st.recursive(scalars, _inside, max_leaves=12)
tables = st.dictionaries(keys, values, max_size=5)
