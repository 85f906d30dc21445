#!/usr/bin/env python3
"""A stand-in for ``vllm-mlx`` 0.6.0: its command line checked strictly, its routes, its refusals.

From its source and from one real run: the port opens after the load (unless --lazy-load-model);
/health is 200 even when it says "unhealthy"; ``model`` is required (422) and must be the served
name (404); SIGTERM waits for live streams for ever, and a second one changes nothing; once idle it
ends by the signal. Faults: see engine.py, by FAKE_ENGINE_FLAGS.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fakes.faults import with_faults
from tests.fakes.llama_server import LlamaServer
from tests.fakes.server import Handler
from tests.fakes.wire import Connection, RefusalError, Request

TOOL_PARSERS = """auto generic deepseek deepseek_v3 deepseek_r1 deepseek_v4 dsml functionary meetkai
    gemma4 glm47 glm4 granite granite3 harmony gpt-oss hermes nous kimi kimi_k2 moonshot llama
    llama3 llama4 minimax minimax_m2 mistral nemotron nemotron3 poolside_v1 qwen3_xml qwen3.5
    qwen3_coder qwen qwen3 step3p5 step xlam"""
REASONING_PARSERS = """qwen3 deepseek_r1 deepseek_v4 gpt_oss harmony gemma4 glm4 mistral poolside_v1
    step3p5"""
# Flags that change nothing here, by the type of their value, and those without one.
INTEGERS = """--prefill-batch-size --completion-batch-size --mllm-prefill-step-size
    --prefix-cache-size --cache-memory-mb --kv-cache-quantization-group-size
    --kv-cache-min-quantize-tokens --stream-interval --max-kv-size --paged-cache-block-size
    --max-cache-blocks --chunked-prefill-tokens --mtp-num-draft-tokens --prefill-step-size
    --specprefill-threshold --prefix-trie-cache-size --prefix-trie-cache-memory-mb
    --mllm-draft-block-size --rate-limit --max-audio-upload-mb --max-tts-input-chars
    --default-thinking-token-budget --default-top-k --download-timeout --download-retries"""
FLOATS = """--cache-memory-percent --ssd-cache-max-gb --gpu-memory-utilization
    --specprefill-keep-pct --specprefill-backbone-pct --timeout --auto-unload-idle-seconds
    --default-temperature --default-top-p --default-min-p --default-presence-penalty
    --default-repetition-penalty --memory-budget-gb"""
TEXTS = """--models-config --ssd-cache-dir --warm-prompts --specprefill-draft-model
    --mllm-draft-model --mcp-config --default-chat-template-kwargs --embedding-max-length"""
SWITCHES = """--enable-prefix-cache --disable-prefix-cache --no-memory-aware-cache
    --kv-cache-quantization --continuous-batching --use-paged-cache --enable-mtp --mtp-optimistic
    --specprefill --prefix-trie-cache --default-mllm-draft --lazy-load-model --mllm
    --trust-remote-code --offline"""


def parse(argv: list[str]) -> argparse.Namespace:
    """``vllm-mlx serve``; wrong flags end it with 2, wrong combinations with 1."""
    top = argparse.ArgumentParser(prog="vllm-mlx")
    commands = top.add_subparsers(dest="command")
    serve = commands.add_parser("serve", allow_abbrev=False)
    add = serve.add_argument
    add("model", nargs="?")
    add("--served-model-name")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8000)
    add("--max-num-seqs", type=int, default=256)
    add("--kv-cache-quantization-bits", type=int, choices=[4, 8], default=8)
    add("--max-tokens", type=int, default=32768)
    add("--max-request-tokens", type=int, default=32768)
    add("--api-key")
    add("--enable-metrics", action="store_true")
    add("--enable-auto-tool-choice", action="store_true")
    add("--tool-call-parser", choices=TOOL_PARSERS.split())
    add("--reasoning-parser", choices=REASONING_PARSERS.split())
    add("--mllm-draft-kind", choices=["mtp"])
    add("--embedding-model")
    add("--embedding-overflow-policy", choices=["truncate", "error"], default="truncate")
    add("--rerank-model")
    for flag in INTEGERS.split():
        add(flag, type=int)
    for flag in FLOATS.split():
        add(flag, type=float)
    for flag in TEXTS.split():
        add(flag)
    for flag in SWITCHES.split():
        add(flag, action="store_true")
    args = top.parse_args(argv)
    if args.command is None:
        top.print_help()
        sys.exit(1)
    check(args)
    return args


def check(args: argparse.Namespace) -> None:
    """What it refuses after parsing, in its order."""
    if args.model is None and args.models_config is None:
        sys.exit("Error: MODEL is required unless --models-config is provided")
    if args.enable_auto_tool_choice and not args.tool_call_parser:
        sys.exit("Error: --enable-auto-tool-choice requires --tool-call-parser")
    if args.max_tokens < 1:
        sys.exit("Error: --max-tokens must be at least 1")
    if args.max_tokens > args.max_request_tokens:
        sys.exit("Error: --max-tokens cannot exceed --max-request-tokens")


class VllmMlx(LlamaServer):
    """vllm-mlx's routes and refusals."""

    def __init__(self, args: argparse.Namespace) -> None:
        name = args.served_model_name or args.model
        options = with_faults(
            model=args.model,
            name=name,
            host=args.host,
            port=args.port,
            parallel=args.max_num_seqs if args.continuous_batching else 1,
        )
        options.late_port = not args.lazy_load_model
        options.metrics = args.enable_metrics
        options.embeddings = bool(args.embedding_model)
        options.reranking = bool(args.rerank_model)
        super().__init__(options)
        self.args = args
        self.loaded_at = 0.0

    def load(self) -> None:
        folder = Path(self.options.model)
        if not (folder / "config.json").is_file():
            sys.exit(f"Error: cannot load {self.options.model}: no such model here")
        super().load()
        self.loaded_at = time.time()

    def routes(self) -> dict[tuple[str, str], Handler]:
        routes = super().routes()
        for method, path in (
            ("GET", "/models"),
            ("GET", "/props"),
            ("GET", "/slots"),
            ("GET", "/v1/health"),
            ("POST", "/tokenize"),
        ):
            del routes[method, path]
        return routes

    def admit(self, request: Request) -> None:
        if self.args.api_key is None or request.path in ("/health", "/metrics", "/fake"):
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise RefusalError(401, "API key required")
        if key != self.args.api_key:
            raise RefusalError(401, "Invalid API key")

    def refusal(self, error: RefusalError) -> object:
        if error.status == 422:
            where = {"type": "missing", "loc": ["body", "model"], "msg": error.message}
            return {"detail": [where]}
        return {"detail": "Not Found" if error.kind == "not_found_error" else error.message}

    def check_model(self, body: dict[str, object]) -> None:
        model = body.get("model")
        if not isinstance(model, str):
            raise RefusalError(422, "Field required")
        if model != self.name:
            text = f"The model `{model}` does not exist. Available model: `{self.name}`"
            raise RefusalError(404, text)
        if self.options.unhealthy:
            raise RefusalError(503, "Model not loaded")

    def health(self, connection: Connection, request: Request) -> None:
        failed = self.options.unhealthy
        body = {
            "status": "unhealthy" if failed else "healthy",
            "model_loaded": not failed,
            "model_name": self.name,
            "available_models": [self.name],
            "model_type": "mllm" if self.args.mllm else "llm",
            "engine_type": "batched" if self.args.continuous_batching else "simple",
            "mcp": None,
            "residency_state": "failed" if failed else "loaded",
            "active_requests": self.counts["in_flight"],
            "loaded_at": self.loaded_at,
            "auto_unload_idle_seconds": self.args.auto_unload_idle_seconds or 0.0,
        }
        if failed:
            body["last_error"] = "model_load_failed"
        connection.answer(200, body)

    def models(self, connection: Connection, request: Request) -> None:
        entry = {"id": self.name, "object": "model", "owned_by": "vllm-mlx"}
        connection.answer(200, {"object": "list", "data": [entry]})

    def metrics(self, connection: Connection, request: Request) -> None:
        if not self.args.enable_metrics:
            raise RefusalError(404, "Metrics endpoint is disabled")
        connection.answer(200, b"vllm_mlx_up 1\n", "text/plain; version=0.0.4")

    def on_signal(self, number: int, frame: object) -> None:
        """SIGTERM asks, however often; SIGINT after it insists."""
        if number == signal.SIGINT and self.stopping.is_set():
            self.end_by(signal.SIGINT)
        self.stopping.set()

    def leave(self) -> None:
        self.listener.close()
        while self.counts["in_flight"]:
            time.sleep(0.005)
        self.end_by(signal.SIGTERM)

    def end_by(self, number: signal.Signals) -> None:
        """It raises the signal again once it has cleaned up, so that its status is the signal."""
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


if __name__ == "__main__":
    VllmMlx(parse(sys.argv[1:])).run()
