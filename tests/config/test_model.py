from __future__ import annotations

from pathlib import Path
from typing import Any

from daemon.config.entry import ModelEntry
from daemon.config.model import Model, merge
from daemon.config.presets import FormName, Preset, read_presets
from daemon.config.settings import Settings

PRESET: Preset = read_presets(
    {
        "base": {
            "description": "a base",
            "kind": "chat",
            "aliases": ["base:1"],
            "ctx": 16384,
            "slots": 2,
            "thinking": False,
            "warnings": ["slow"],
            "params": {"default": {"temperature": 1.0, "top_p": 0.9}},
            "gguf": {
                "hf": "a/b:Q4",
                "mmproj": "m.gguf",
                "template": "hf:a/b/t",
                "size": 10,
                "quants": {"Q8": 20, "Q4": 10},
                "args": ["-ub", "512"],
                "min_engine": {"llama.cpp": "b1"},
            },
            "mlx": {
                "hf": "c/d",
                "warnings": ["tight"],
                "params": {"default": {"top_p": 0.5}},
                "engine_args": {"vllm-mlx": ["--x"]},
                "engine_env": {"vllm-mlx": {"A": "1", "B": "1"}},
            },
        }
    }
)["base"]


def model(
    entry: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    *,
    form: FormName = "gguf",
) -> Model:
    made = ModelEntry.model_validate({"preset": "base"} if entry is None else entry)
    preset = PRESET if made.preset == "base" else None
    return merge("x", made, preset, Settings.from_layers(settings or {}), form)


def test_a_preset_fills_in_what_the_entry_leaves_out() -> None:
    made = model()
    assert (made.hf, made.repo, made.quant) == ("a/b:Q4", "a/b", "Q4")
    assert (made.form, made.ctx, made.slots, made.thinking) == ("gguf", 16384, 2, False)
    assert (made.mmproj, made.template, made.size) == ("m.gguf", "hf:a/b/t", 10)
    assert list(made.quants) == ["Q8", "Q4"]
    assert (made.args, made.warnings, made.kind) == (("-ub", "512"), ("slow",), "chat")
    assert made.min_engine == {"llama.cpp": "b1"}


def test_the_entry_wins_and_arguments_add_up() -> None:
    made = model(
        {
            "preset": "base",
            "ctx": 8192,
            "slots": 1,
            "args": ["-ub", "1024"],
            "thinking": True,
            "params": {"default": {"temperature": 0.1}, "strip": ["logprobs"]},
        }
    )
    assert made.params.strip == {"logprobs"}
    assert (made.ctx, made.ctx_written, made.slots, made.thinking) == (8192, True, 1, True)
    assert made.args == ("-ub", "512", "-ub", "1024")
    assert made.params.default == {"temperature": 0.1, "top_p": 0.9}


def test_own_weights_replace_the_presets_with_all_that_belongs_to_them() -> None:
    made = model({"preset": "base", "path": "/own.gguf"})
    assert made.path == Path("/own.gguf")
    assert (made.hf, made.mmproj, made.quants, made.size) == (None, None, {}, None)
    assert made.args == ("-ub", "512")
    assert made.template == "hf:a/b/t"
    hub = model({"preset": "base", "hf": "e/f:Q8"})
    assert (hub.repo, hub.quant, hub.path, hub.mmproj) == ("e/f", "Q8", None, None)


def test_the_form_follows_the_engine_then_the_machine() -> None:
    assert model(form="mlx").hf == "c/d"
    assert model({"preset": "base", "engine": "mlx-lm"}).hf == "c/d"
    assert model({"preset": "base", "engine": "xllamacpp"}, form="mlx").hf == "a/b:Q4"
    mlx = model(form="mlx")
    assert mlx.warnings == ("slow", "tight")
    assert mlx.params.default == {"temperature": 1.0, "top_p": 0.5}


def test_arguments_and_environment_of_one_engine() -> None:
    entry = {"preset": "base", "args": ["--y"], "env": {"B": "2"}}
    made = model(entry, form="mlx")
    assert made.args_for("vllm-mlx") == ("--x", "--y")
    assert made.args_for("mlx-lm") == ("--y",)
    assert made.env_for("vllm-mlx") == {"A": "1", "B": "2"}
    assert made.env_for("mlx-lm") == {"B": "2"}


def test_another_family_of_engines_does_not_get_the_presets_arguments() -> None:
    made = model({"preset": "base", "engine": "vllm", "args": ["--z"]})
    assert (made.args, made.engine_args, made.min_engine) == (("--z",), {}, {})


def test_a_written_context_is_shrunk_only_where_the_entry_allows_it() -> None:
    assert model().fit == "shrink"
    assert model({"path": "/x"}).fit == "shrink"
    assert model({"path": "/x", "ctx": 8192}).fit == "refuse"
    assert model({"path": "/x", "ctx": 8192, "min_ctx": 4096}).fit == "shrink"
    assert model({"path": "/x", "ctx": 8192, "fit": "shrink"}).fit == "shrink"
    assert model({"path": "/x", "ctx": 8192, "fit": "ask"}).fit == "ask"
    ask: dict[str, Any] = {"memory": {"fit": "ask"}}
    assert model({"path": "/x", "ctx": 8192}, ask).fit == "ask"
    assert model({"path": "/x"}, {"memory": {"fit": "refuse"}}).fit == "refuse"


def test_the_smallest_context_is_never_above_the_model_s_own() -> None:
    assert model({"path": "/x"}).min_ctx == 32768
    assert model().min_ctx == 16384
    written = model({"path": "/x", "ctx": 65536, "min_ctx": 4096})
    assert (written.min_ctx, written.min_ctx_written) == (4096, True)
    assert not model().min_ctx_written
    assert model({"path": "/x"}, {"defaults": {"ctx": 4096}}).ctx_limit == 4096


def test_defaults_fill_the_rest() -> None:
    settings = {"defaults": {"keep_alive": "5m", "slots": 4}, "conversations": {"enabled": False}}
    made = model({"path": "/x"}, settings)
    assert (made.keep_alive, made.slots, made.conversations) == (300.0, 4, False)
    own = model({"path": "/x", "keep_alive": 0, "slots": 1, "conversations": True}, settings)
    assert (own.keep_alive, own.slots, own.conversations) == (0.0, 1, True)


def test_a_command_template_says_what_it_serves() -> None:
    command = {"argv": ["x", "{port}"], "kind": "audio", "dialects": ["chat", "responses"]}
    settings = {"engines": {"command": {"whisper": command}}}
    for engine in ("whisper", "command.whisper"):
        made = model({"engine": engine}, settings)
        assert made.engine == "command.whisper"
        assert (made.kind, made.dialects) == ("audio", ("chat", "responses"))
    own = model({"engine": "whisper", "kind": "other", "dialects": ["chat"]}, settings)
    assert (own.kind, own.dialects) == ("other", ("chat",))
