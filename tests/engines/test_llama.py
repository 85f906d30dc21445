"""llama.cpp's command line: what is passed, what is refused, what it comes to in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daemon.core.problems import Code, ProblemError
from daemon.engines import llama
from tests.engines.plans import ENVIRON, MIB, installed, plan, running

# What a llama-server of today knows of the flags that we pass.
ALL = (
    "-m -a --host --port --api-key-file -c -np -no-kvu -kvu --cache-ram -ctxcp -b -ub -ctk -ctv"
    " --embeddings --pooling --reranking --jinja --chat-template-file --mmproj -md --spec-type"
    " -ngl -fit -lv --no-webui --offline --slot-save-path -t --temp --override-kv --no-jinja"
    " --chat-template --spec-default --gpt-oss-20b-default -fa --webui"
)
SERVER = installed("llama-server", flags=ALL)
HEAD = ("-m", "/models/qwen.gguf", "-a", "qwen", "--host", "127.0.0.1", "--port", "40001",
        "--api-key-file", "/run/key")  # fmt: skip
TAIL = ("-fit", "off", "-lv", "4", "--no-webui", "--offline")


def test_a_chat_model() -> None:
    assert llama.arguments(plan(), SERVER) == (
        *HEAD,
        *("-c", "4096", "-np", "1", "-no-kvu", "--cache-ram", "0", "-ctxcp", "4", "--jinja"),
        *TAIL,
    )


def test_everything_that_a_way_to_run_can_ask() -> None:
    way = running(32768, 2, prompt_cache=512 * MIB + 1, ubatch=256, type_k="q8_0", type_v="q8_0")
    asked = plan(
        way,
        template=Path("/t.jinja"),
        mmproj=Path("/mm.gguf"),
        draft=Path("/draft.gguf"),
        options={"slot_save_path": "/slots", "gpu_layers": 20},
        args=("-t", "1", "--temp", "0.6"),
    )
    assert llama.arguments(asked, SERVER) == (
        *HEAD,
        *(
            "-c",
            "65536",
            "-np",
            "2",
            "-no-kvu",
            "--cache-ram",
            "512",
            "-ctxcp",
            "4",
            "-b",
            "512",
            "-ub",
            "256",
        ),
        *("-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on", "--slot-save-path", "/slots", "--jinja"),
        *("--chat-template-file", "/t.jinja", "--mmproj", "/mm.gguf", "-md", "/draft.gguf"),
        *("--spec-type", "draft-simple", "-ngl", "20"),
        *TAIL,
        *("-t", "1", "--temp", "0.6"),
    )


def test_an_embedding_model_takes_its_whole_input_in_one_batch() -> None:
    asked = plan(running(2048), kind="embedding", options={"pooling": "mean"})
    argv = llama.arguments(asked, SERVER)
    assert argv[len(HEAD) : -len(TAIL)] == (
        *(
            "-c",
            "2048",
            "-np",
            "1",
            "-no-kvu",
            "--cache-ram",
            "0",
            "-ctxcp",
            "4",
            "-b",
            "2048",
            "-ub",
            "2048",
        ),
        *("--embeddings", "--pooling", "mean"),
    )


def test_a_reranker() -> None:
    argv = llama.arguments(plan(running(512), kind="rerank"), SERVER)
    assert "--reranking" in argv
    assert "--jinja" not in argv


@pytest.mark.parametrize(
    ("ctx", "ubatch", "expected"),
    [(128, None, 512), (2048, None, 2048), (131072, None, 8192), (8192, 1024, 1024)],
)
def test_the_batch_of_an_embedding_model_is_bounded(
    ctx: int, ubatch: int | None, expected: int
) -> None:
    memory = llama.memory_settings(running(ctx, ubatch=ubatch), "embedding")
    assert (memory.batch, memory.ubatch) == (expected, expected)


def test_a_gpu_gets_all_layers_since_the_budget_counted_them_there() -> None:
    gpu = installed("llama-server", flags=ALL, accelerators=("cuda",))
    argv = llama.arguments(plan(), gpu)
    assert argv[argv.index("-ngl") + 1] == "999"
    assert "-ngl" not in llama.arguments(plan(), SERVER)


def test_only_flags_that_the_build_knows_are_passed() -> None:
    old = installed("llama-server", flags="-m -a --host --port --api-key-file -c -np")
    expected = (*HEAD, "-c", "4096", "-np", "1")
    assert llama.arguments(plan(), old) == expected


def test_a_long_name_is_used_where_only_that_is_known() -> None:
    flags = ALL.replace("-ctk", "--cache-type-k").replace("-ctv", "--cache-type-v")
    argv = llama.arguments(
        plan(running(type_k="q8_0", type_v="q8_0")), installed("llama-server", flags=flags)
    )
    assert argv[argv.index("--cache-type-k") + 1] == "q8_0"


@pytest.mark.parametrize(
    ("changes", "lacking", "needed"),
    [({"kind": "rerank"}, "--reranking", "ranking"),
     ({"kind": "embedding"}, "--embeddings", "embeddings"),
     ({"mmproj": Path("/x")}, "--mmproj", "projector"),
     ({"draft": Path("/x")}, "-md", "draft"),
     ({"template": Path("/x")}, "--chat-template-file", "template"),
     ({"running": running(type_k="q8_0")}, "-ctk", "KV cache")],
)  # fmt: skip
def test_a_build_without_a_flag_that_the_model_needs_is_refused(
    changes: dict[str, Any], lacking: str, needed: str
) -> None:
    flags = " ".join(set(ALL.split()) - {lacking})
    with pytest.raises(ProblemError, match=needed) as caught:
        llama.arguments(plan(**changes), installed("llama-server", flags=flags))
    assert caught.value.problem.code is Code.MODEL_UNAVAILABLE
    assert "Update the engine" in caught.value.problem.hint


# ---------------------------------------------------------------- the user's arguments


def test_what_the_user_sets_is_not_set_by_us_too() -> None:
    args = ("-c", "262144", "--parallel", "2", "-kvu", "--cache-ram", "64", "-ub", "2048",
            "--no-jinja", "-lv", "5", "-fit", "on", "--webui", "-ctxcp", "2")  # fmt: skip
    engine = installed("llama-server", flags=f"{ALL} --parallel")
    argv = llama.arguments(plan(running(ubatch=256), args=args), engine)
    assert argv == (*HEAD, "-b", "512", "--offline", *args)


@pytest.mark.parametrize(
    "arg",
    ["-m", "--model", "--host", "--port", "--api-key", "--api-key-file", "-hf", "--hf-repo",
     "--hf_repo", "-mu", "--model-url", "--docker-repo", "--models-dir", "--ssl-key-file",
     "--gpt-oss-20b-default", "--fim-qwen-30b-default", "--fim-qwen-7b-spec", "--log-disable",
     "--version", "-hfd", "--mmproj-url"],
)  # fmt: skip
def test_arguments_that_take_a_decision_of_ours_are_refused(arg: str) -> None:
    with pytest.raises(ProblemError, match="args") as caught:
        llama.arguments(plan(args=(arg, "x")), installed("llama-server"))
    assert caught.value.problem.code is Code.MODEL_UNAVAILABLE


def test_an_unknown_flag_names_build_and_flag() -> None:
    with pytest.raises(ProblemError, match=r"llama-server 1\.0 does not know --no-mmap"):
        llama.arguments(plan(args=("--no-mmap",)), SERVER)


def test_the_embedded_engine_names_llama_server() -> None:
    embedded = installed("xllamacpp", flags=" ".join(set(ALL.split()) - {"--override-kv"}))
    with pytest.raises(ProblemError, match="does not know --override-kv") as caught:
        llama.arguments(plan(args=("--override-kv", "a=int:2")), embedded)
    assert 'engine = "llama-server"' in caught.value.problem.hint


def test_a_value_joined_by_an_equals_sign_is_explained() -> None:
    with pytest.raises(ProblemError, match="two items"):
        llama.arguments(plan(args=("--temp=0.6",)), SERVER)


def test_values_may_look_odd() -> None:
    args = ("--temp", "-1", "--override-kv", "a=b", "--chat-template", "{% x -%}")
    assert llama.arguments(plan(args=args), SERVER)[-len(args) :] == args
    assert llama.arguments(plan(args=("--spec-default",)), SERVER)[-1] == "--spec-default"


def test_underscores_are_taken_as_llama_server_takes_them() -> None:
    engine = installed("llama-server", flags=f"{ALL} --cache-type-k")
    args = ("--cache_type_k", "q8_0")
    assert llama.arguments(plan(args=args), engine)[-2:] == args


def test_nothing_on_the_disk() -> None:
    with pytest.raises(ProblemError, match="ctl pull qwen"):
        llama.arguments(plan(path=None), SERVER)


# ---------------------------------------------------------------- memory


def test_memory_as_planned() -> None:
    assert llama.memory_settings(running(4096, 2, prompt_cache=64 * MIB), "chat") == llama.Memory(
        n_ctx=8192, slots=2, unified=False, batch=2048, ubatch=512, type_k="f16", type_v="f16",
        prompt_cache=64 * MIB, checkpoints=4,
    )  # fmt: skip
    assert llama.memory_settings(running(4096, 2), "chat").ctx_per_slot == 4096


def test_memory_as_the_user_overrides_it() -> None:
    args = ("-c", "1024", "--ctx-size", "262144", "-np", "4", "-kvu", "-b", "4096", "-ub", "1024",
            "-ctk", "q8_0", "--cache-type-v", "q4_0", "-cram", "128",
            "--ctx-checkpoints", "9")  # fmt: skip
    assert llama.memory_settings(running(4096, 2), "chat", args) == llama.Memory(
        n_ctx=262144, slots=4, unified=True, batch=4096, ubatch=1024, type_k="q8_0",
        type_v="q4_0", prompt_cache=128 * MIB, checkpoints=9,
    )  # fmt: skip


def test_unreadable_arguments_leave_the_plan() -> None:
    memory = llama.memory_settings(running(4096), "chat", ("-c", "lots", "-np", "-1", "-ub"))
    assert (memory.n_ctx, memory.slots, memory.ubatch) == (4096, 1, 512)


def test_the_ladder_halves_both_batches_and_a_large_one_keeps_the_logical() -> None:
    small = llama.memory_settings(running(ubatch=256), "chat")
    assert (small.batch, small.ubatch) == (512, 256)
    large = llama.memory_settings(running(ubatch=1024), "chat")
    assert (large.batch, large.ubatch) == (2048, 1024)


def test_the_logical_batch_is_never_below_the_physical() -> None:
    huge = llama.memory_settings(running(ubatch=4096), "chat")
    assert (huge.batch, huge.ubatch) == (4096, 4096)


# ---------------------------------------------------------------- environment, probe, routes


def test_environment() -> None:
    environment = llama.environment(ENVIRON, plan(env={"GGML_X": "1"}))
    assert environment["GGML_NO_BACKTRACE"] == "1"
    assert environment["GGML_X"] == "1"
    assert environment["PATH"] == "/bin"
    assert not {"HF_TOKEN", "LLAMA_ARG_CTX_SIZE"} & environment.keys()


@pytest.mark.parametrize(
    ("kind", "path", "field"),
    [("chat", "/v1/completions", "prompt"), ("completion", "/v1/completions", "prompt"),
     ("embedding", "/v1/embeddings", "input"), ("rerank", "/v1/rerank", "documents")],
)  # fmt: skip
def test_probe_asks_for_the_models_own_work(kind: str, path: str, field: str) -> None:
    probe = llama.probe(plan(kind=kind))
    assert (probe.health, probe.method, probe.path) == ("/health", "POST", path)
    body = json.loads(probe.body)
    assert body["model"] == "qwen"
    assert field in body
    assert body.get("max_tokens", 1) == 1


def test_routes() -> None:
    text = {"completions", "infill", "tokens", "upstream"}
    chat = {"chat", "messages", "count_tokens", "responses", *text}
    assert llama.routes("chat") == chat
    assert llama.routes("completion") == text
    assert llama.routes("embedding") == {"embeddings", "tokens", "upstream"}
    assert llama.routes("rerank") == {"rerank", "tokens", "upstream"}
    assert llama.routes("other") == {"upstream"}


def test_on_a_socket_it_has_no_port() -> None:
    start = plan(socket=Path("/run/q-1.engine.sock"), port=0)
    argv = llama.arguments(start, installed("llama-server"))
    assert argv[argv.index("--host") + 1] == "/run/q-1.engine.sock"
    assert "--port" not in argv
