"""llama-server's flags on the real ``CommonParams`` of the wheel."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.engines import xllamacpp_flags
from daemon.engines.xllamacpp_flags import UsageError, known_flags
from daemon.engines.xllamacpp_flags.table import FLAGS

wheel = pytest.importorskip("xllamacpp")


def parse(*argv: str) -> Any:
    return xllamacpp_flags.parse(wheel, ("-m", "x.gguf", *argv))


def read(params: Any, path: str) -> Any:
    for name in path.split("."):
        params = getattr(params, name)
    return params


@pytest.mark.parametrize(
    ("argv", "path", "expected"),
    [
        (["--port", "0"], "port", 0),
        ([], "port", 8080),
        ([], "n_parallel", -1),
        ([], "model.path", "x.gguf"),
        (["--host", "127.0.0.1, ::1"], "hostnames", ["127.0.0.1", "::1"]),
        (["--host", "/run/x.sock"], "hostnames", ["/run/x.sock"]),
        (["-a", "one,two", "--alias", "three"], "model_alias", {"one", "two", "three"}),
        (["-c", "512"], "n_ctx", 512),
        (["--ctx_size", "512"], "n_ctx", 512),
        (["-c", "0"], "fit_params_min_ctx", 2**31 - 1),
        (["-np", "2"], "n_parallel", 2),
        (["-kvu"], "kv_unified", True),
        (["-kvu", "-no-kvu"], "kv_unified", False),
        (["-t", "3"], "cpuparams.n_threads", 3),
        (["-t", "3"], "cpuparams_batch.n_threads", 3),
        (["-t", "3", "-tb", "5"], "cpuparams_batch.n_threads", 5),
        (["-ngl", "7"], "n_gpu_layers", 7),
        (["-ngl", "0"], "n_gpu_layers", 0),
        (["-ngl", "all"], "n_gpu_layers", -2),
        (["-ngl", "auto"], "n_gpu_layers", -1),
        (["-b", "64"], "n_batch", 64),
        (["-ub", "32"], "n_ubatch", 32),
        (["-ctk", "q8_0"], "cache_type_k.name", "GGML_TYPE_Q8_0"),
        (["-ctv", "iq4_nl"], "cache_type_v.name", "GGML_TYPE_IQ4_NL"),
        (["-fa", "on"], "flash_attn_type.name", "LLAMA_FLASH_ATTN_TYPE_ENABLED"),
        (["-fa", "off"], "flash_attn_type.name", "LLAMA_FLASH_ATTN_TYPE_DISABLED"),
        (["-fa", "auto"], "flash_attn_type.name", "LLAMA_FLASH_ATTN_TYPE_AUTO"),
        (["--cache-ram", "0"], "cache_ram_mib", 0),
        (["--cache-reuse", "256"], "n_cache_reuse", 256),
        (["--metrics"], "endpoint_metrics", True),
        (["--no-slots"], "endpoint_slots", False),
        (["--no-webui"], "ui", False),
        (["-lv", "4"], "verbosity", 4),
        (["--embeddings"], "embedding", True),
        (["--pooling", "mean"], "pooling_type.name", "LLAMA_POOLING_TYPE_MEAN"),
        (["--reranking"], "embedding", True),
        (["--reranking"], "pooling_type.name", "LLAMA_POOLING_TYPE_RANK"),
        (["--mmproj", "mm.gguf"], "mmproj.path", "mm.gguf"),
        (["--no-mmproj-offload"], "mmproj_use_gpu", False),
        (["--jinja"], "use_jinja", True),
        (["--no-jinja"], "use_jinja", False),
        (["--chat-template", "{{ x }}"], "chat_template", "{{ x }}"),
        (["--reasoning-format", "deepseek-legacy"], "reasoning_format.name",
         "COMMON_REASONING_FORMAT_DEEPSEEK_LEGACY"),
        (["--reasoning-budget", "0"], "sampling.reasoning_budget_tokens", 0),
        (["--reasoning", "off"], "enable_reasoning", 0),
        (["--top-k", "0"], "sampling.top_k", 0),
        (["--seed", "-1"], "sampling.seed", 2**32 - 1),
        (["--repeat-last-n", "128"], "sampling.n_prev", 128),
        (["--repeat-last-n", "128"], "sampling.penalty_last_n", 128),
        (["--samplers", "top_k;temperature"], "sampling.samplers", "top_k;temperature"),
        (["--swa-full"], "swa_full", True),
        (["-fit", "off"], "fit_params", False),
        (["-lm", "mmap+mlock"], "load_mode.name", "LLAMA_LOAD_MODE_MMAP_MLOCK"),
        (["-lm", "dio"], "load_mode.name", "LLAMA_LOAD_MODE_DIRECT_IO"),
        (["--rope-scaling", "yarn"], "rope_scaling_type.name", "LLAMA_ROPE_SCALING_TYPE_YARN"),
        (["--rope-freq-base", "5000"], "rope_freq_base", 5000.0),
        (["--rope-scale", "4"], "rope_freq_scale", 0.25),
        (["-ot", r"blk\.0=CPU"], "tensor_buft_overrides", r"blk\.0=CPU"),
        (["-sm", "row"], "split_mode.name", "LLAMA_SPLIT_MODE_ROW"),
        (["-md", "d.gguf"], "speculative.draft.mparams.path", "d.gguf"),
        (["--spec-draft-n-max", "5"], "speculative.draft.n_max", 5),
        (["-ngld", "3"], "speculative.draft.n_gpu_layers", 3),
        (["-ctkd", "q8_0"], "speculative.draft.cache_type_k.name", "GGML_TYPE_Q8_0"),
        (["--timeout", "9"], "timeout_write", 9),
        (["--offline"], "offline", True),
    ],
)  # fmt: skip
def test_mapping(argv: list[str], path: str, expected: object) -> None:
    assert read(parse(*argv), path) == expected


@pytest.mark.parametrize(
    ("argv", "path", "expected"),
    [(["--temp", "0.6"], "temp", 0.6), (["--top-p", "0.95"], "top_p", 0.95),
     (["--min-p", "0.01"], "min_p", 0.01), (["--repeat-penalty", "1.1"], "penalty_repeat", 1.1),
     (["--presence-penalty", "1.5"], "penalty_present", 1.5),
     (["--frequency-penalty", "0.2"], "penalty_freq", 0.2)],
)  # fmt: skip
def test_sampling(argv: list[str], path: str, expected: float) -> None:
    assert read(parse(*argv), f"sampling.{path}") == pytest.approx(expected)


def test_what_the_user_chose_is_marked_so_that_the_model_file_does_not_replace_it() -> None:
    marks = wheel.common_params_sampling_config
    both = (
        marks.COMMON_PARAMS_SAMPLING_CONFIG_TEMP.value
        | marks.COMMON_PARAMS_SAMPLING_CONFIG_TOP_K.value
    )
    assert parse().sampling.user_sampling_config == 0
    assert parse("--temp", "1", "--top-k", "5").sampling.user_sampling_config == both


def test_drafting_has_a_type() -> None:
    def types(*argv: str) -> list[str]:
        found = parse(*argv).speculative.types
        return [kind.name.removeprefix("COMMON_SPECULATIVE_TYPE_") for kind in found]

    assert types() == ["NONE"]
    assert types("-md", "d.gguf") == ["DRAFT_SIMPLE"]
    assert types("-md", "d.gguf", "--spec-type", "draft-mtp,ngram-mod") == [
        "DRAFT_MTP",
        "NGRAM_MOD",
    ]


def test_template_settings_add_up() -> None:
    params = parse(
        "--chat-template-kwargs", '{"a": {"b": 1}}', "--reasoning", "off",
        "--reasoning-effort", "high",
    )  # fmt: skip
    settings = {key: json.loads(text) for key, text in params.default_template_kwargs.items()}
    assert settings == {
        "a": {"b": 1},
        "enable_thinking": False,
        "reasoning_effort": "high",
        "preserve_reasoning": True,
    }


def test_files(tmp_path: Path) -> None:
    keys, template = tmp_path / "keys", tmp_path / "t.jinja"
    keys.write_text("# not this\none\n\ntwo\n")
    template.write_text("{{ é }}")
    params = parse("--api-key-file", str(keys), "--chat-template-file", str(template),
                   "--slot-save-path", str(tmp_path))  # fmt: skip
    assert params.api_keys == ["one", "two"]
    assert params.chat_template == "{{ é }}"
    assert params.slot_save_path == f"{tmp_path}/"


def test_adapters() -> None:
    params = parse("--lora", "a.gguf,b.gguf", "--lora-scaled", "c.gguf:0.5")
    assert [(each.path, each.scale) for each in params.lora_adapters] == [
        ("a.gguf", 1.0), ("b.gguf", 1.0), ("c.gguf", 0.5)
    ]  # fmt: skip


def test_experts_on_the_cpu() -> None:
    assert parse("-ncmoe", "2").tensor_buft_overrides.count("=CPU") == 2
    assert "exps" in parse("--cpu-moe").tensor_buft_overrides


@pytest.mark.parametrize(
    "flag",
    ["--override-kv", "--control-vector", "-dev", "--rpc", "-hf", "-mu", "--grammar",
     "--dry-sequence-breaker", "--top-n-sigma", "--json-schema", "--no-mmap", "--mlock", "-ts0",
     "-ag", "--models-dir", "--ctx", "-cx", "", "-", "--", "x"],
)  # fmt: skip
def test_what_cannot_be_mapped_names_llama_server(flag: str) -> None:
    with pytest.raises(UsageError, match=f"^{flag}: .*llama-server"):
        parse(flag, "x")


@pytest.mark.parametrize(
    ("argv", "said"),
    [(["-c"], "-c: a value must follow"), (["-c", "lots"], "'lots' is not a whole number"),
     (["-c", "99999999999"], "-c: "), (["-np", "0"], "at least one slot"),
     (["--temp", "nan"], "'nan' is not a number"), (["--temp", "warm"], "'warm' is not a number"),
     (["-ctk", "q3"], "'q3' is not one of f32, f16"), (["-fa", "maybe"], "'maybe' is not one of"),
     (["-fit", "maybe"], "'maybe' is not one of"), (["-ngl", "most"], "'most' is not a whole"),
     (["--chat-template-kwargs", "[]"], "not a JSON object"),
     (["--chat-template-kwargs", "{"], "not a JSON object"),
     (["--api-key-file", "/no/such"], "failed to open '/no/such'"),
     (["--slot-save-path", "/no/such"], "'/no/such' is not a folder"),
     (["--samplers", "top_k;bogus"], "unknown sampler"), (["--lora-scaled", "a"], "FILE:SCALE"),
     (["--spec-type", "magic"], "'magic' is not one of none"),
     (["--rope-scale", "0"], "not above 0"), (["-ot", "blk=NOWHERE"], "-ot: "),
     (["--pooling", "max"], "'max' is not one of"), (["--reasoning", "x"], "'x' is not one of")],
)  # fmt: skip
def test_bad_values(argv: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*argv)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_is_required() -> None:
    with pytest.raises(UsageError, match="a model is required"):
        xllamacpp_flags.parse(wheel, [])


def test_every_flag_of_the_table_is_understood_by_this_wheel(tmp_path: Path) -> None:
    """None of them names a setting that the pinned wheel does not have."""
    (tmp_path / "file").write_text("x")
    texts = {"-ot": r"a=CPU", "--chat-template-kwargs": "{}", "--lora-scaled": "a:1",
             "--slot-save-path": str(tmp_path), "--reasoning-format": "none", "-fa": "on",
             "-fit": "on", "--pooling": "mean", "--rope-scaling": "none", "-lm": "auto",
             "-sm": "none", "-ctk": "f16", "-ctv": "f16", "-ctkd": "f16", "-ctvd": "f16",
             "--samplers": "top_k", "--spec-type": "none",
             "--api-key-file": str(tmp_path / "file"), "--reasoning": "on", "-rea": "on",
             "--chat-template-file": str(tmp_path / "file")}  # fmt: skip
    for flag in FLAGS:
        value = [texts.get(flag.names[0], "1")] if flag.takes else []
        parse(flag.names[0], *value)


def test_names_are_unique() -> None:
    names = [name for flag in FLAGS for name in flag.names]
    assert len(names) == len(set(names)) == len(known_flags())


def test_a_wheel_that_lacks_a_setting() -> None:
    params = SimpleNamespace(port=0, n_parallel=1, default_template_kwargs={}, model="x")
    old = SimpleNamespace(CommonParams=lambda: params)
    for argv in (["-c", "5"], ["--temp", "1"], ["-fa", "on"]):
        with pytest.raises(UsageError, match=r"this xllamacpp has no .*llama-server"):
            xllamacpp_flags.parse(old, argv)
