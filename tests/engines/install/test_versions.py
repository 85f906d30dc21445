from __future__ import annotations

import pytest

from daemon.core.problems import Code, ProblemError
from daemon.engines.install.versions import bring, build_of, older, order, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [("vllm", ("vllm", None)), ("llama-server@b9000", ("llama-server", "b9000")),
     ("mlx-lm@0.32.2.post1", ("mlx-lm", "0.32.2.post1"))],
)  # fmt: skip
def test_what_may_be_written(text: str, expected: tuple[str, str | None]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["ollama", "", "vllm@", "vllm@../../x", "vllm@.hidden", "vllm@-r", "vllm@a/b", "vllm@a b"],
)
def test_what_may_not(text: str) -> None:
    with pytest.raises(ProblemError) as caught:
        parse(text)
    assert caught.value.problem.code is Code.CONFIG_INVALID
    assert caught.value.problem.hint


@pytest.mark.parametrize(
    ("engine", "version", "build"),
    [("llama-server", "8123 (0c1e570)", 8123), ("llama-server", "b8123", 8123),
     ("llama-server", "0 (0c1e570)", None), ("llama-server", "0.5.0-dev", None),
     ("xllamacpp", "2026.10.11549", 11549), ("xllamacpp", "2026.4.8672.1", 8672),
     ("xllamacpp", "0.2.14", None), ("mlx-lm", "0.32.2", None), ("llama-server", "", None)],
)  # fmt: skip
def test_builds_of_llama_cpp(engine: str, version: str, build: int | None) -> None:
    assert build_of(engine, version) == build


@pytest.mark.parametrize(
    ("engine", "version", "wanted", "expected"),
    [("llama-server", "8123 (abc)", "b8124", True), ("llama-server", "8124 (abc)", "b8124", False),
     ("xllamacpp", "2026.4.8672", "b9000", True), ("xllamacpp", "0.2.14", "b9000", False),
     ("mlx-lm", "0.30.3", "0.30.4", True), ("mlx-lm", "0.31", "0.30.4", False),
     ("mlx-lm", "0.30", "0.30.0", False), ("mlx-lm", "0.9.1", "0.10", True),
     ("mlx-lm", "unknown", "0.30.4", False), ("llama-server", "0 (abc)", "b1", False)],
)  # fmt: skip
def test_older(engine: str, version: str, wanted: str, expected: bool) -> None:
    assert older(engine, version, wanted) is expected


def test_order() -> None:
    versions = ["2026.10.11549", "0.2.14", "2026.4.8672"]
    assert max(versions, key=lambda v: order("xllamacpp", v)) == "2026.10.11549"
    assert sorted(["0.9", "0.10", "junk"], key=lambda v: order("mlx-lm", v)) == [
        "junk",
        "0.9",
        "0.10",
    ]


@pytest.mark.parametrize(
    ("version", "command"),
    [("b9000", "install llama-server@b9000"), ("0.32.2-cuda12", "install llama-server@0.32.2"),
     ("b9000-cuda", "install llama-server@b9000"),
     ("brew-9000", "install llama-server --from brew"), ("0.3.36", "install llama-server@0.3.36"),
     ("9000-at-ab12cd34", "use llama-server PATH"), ("0.5-dev", "install llama-server@0.5-dev")],
)  # fmt: skip
def test_what_brings_a_version_again(version: str, command: str) -> None:
    assert bring("llama-server", version) == f"ctl engine {command}"
