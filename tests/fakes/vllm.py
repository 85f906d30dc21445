#!/usr/bin/env python3
"""A stand-in for ``vllm``: its command line checked strictly, its routes, its refusals.

From vLLM's documentation and source (engine arguments, models/serving.py, launcher.py, the sleep
router): the port opens only when the model is loaded; /health is 200 with an empty body; another
model's name is a 404 (none at all is fine); --api-key guards /v1 alone; sleep mode needs both
--enable-sleep-mode and VLLM_SERVER_DEV_MODE=1. Faults: see engine.py, by FAKE_ENGINE_FLAGS.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fakes.faults import say, with_faults
from tests.fakes.llama_server import LlamaServer
from tests.fakes.server import Handler
from tests.fakes.wire import Connection, RefusalError, Request

# Flags that change nothing here: with a value, and without.
VALUES = """--served-model-name --tokenizer --dtype --kv-cache-dtype --quantization --load-format
    --download-dir --revision --tensor-parallel-size --pipeline-parallel-size --seed --swap-space
    --cpu-offload-gb --max-num-batched-tokens --block-size --chat-template --tool-call-parser
    --reasoning-parser --limit-mm-per-prompt --max-logprobs --uvicorn-log-level --hf-overrides
    --rope-scaling --override-generation-config --generation-config --tokenizer-mode --uds
    --kv-cache-memory-bytes --runner --convert --task --speculative-config --compilation-config
    --chat-template-content-format --default-chat-template-kwargs --max-log-len --device
    --scheduling-policy --distributed-executor-backend --attention-backend --model-impl"""
SWITCHES = """--trust-remote-code --enforce-eager --enable-prefix-caching --no-enable-prefix-caching
    --enable-chunked-prefill --no-enable-chunked-prefill --enable-auto-tool-choice
    --enable-sleep-mode --disable-log-requests --enable-log-requests --disable-log-stats
    --disable-uvicorn-access-log --enable-lora --enable-server-load-tracking
    --enable-prompt-tokens-details --enable-force-include-usage"""


def parse(argv: list[str]) -> argparse.Namespace:
    """``vllm serve``; wrong flags end it with 2, as argparse does there."""
    top = argparse.ArgumentParser(prog="vllm")
    top.add_argument("-v", "--version", action="version", version="0.0.0+fake")
    commands = top.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", allow_abbrev=False)
    add = serve.add_argument
    add("model_tag", nargs="?")
    add("--model")
    add("--host")
    add("--port", type=int, default=8000)
    add("--max-model-len")
    add("--max-num-seqs", type=int, default=256)
    add("--gpu-memory-utilization", type=float, default=0.9)
    add("--api-key", nargs="+")
    for flag in VALUES.split():
        add(flag)
    for flag in SWITCHES.split():
        add(flag, action="store_true")
    # vLLM takes --max_model_len for --max-model-len.
    dashed = [
        arg.replace("_", "-") if arg.startswith("--") and "=" not in arg else arg for arg in argv
    ]
    return top.parse_args(dashed)


def fail(text: str) -> None:
    """How its start fails."""
    say(text)
    sys.exit(1)


class Vllm(LlamaServer):
    """vLLM's routes and refusals."""

    def __init__(self, args: argparse.Namespace) -> None:
        model = args.model_tag or args.model or "Qwen/Qwen3-0.6B"
        config_file = Path(model) / "config.json"
        if not config_file.is_file():
            fail(f"OSError: {model} is not a local folder and is not a valid model identifier")
        config = json.loads(config_file.read_text())
        trained = int(config.get("max_position_embeddings", 4096))
        context = int(args.max_model_len or trained)
        if context > trained:
            fail(
                f"ValueError: User-specified max_model_len ({context}) is greater than the derived "
                f"max_model_len (max_position_embeddings={trained})"
            )
        if args.enable_auto_tool_choice and not args.tool_call_parser:
            fail("TypeError: Error: --enable-auto-tool-choice requires --tool-call-parser")
        if not 0 < args.gpu_memory_utilization <= 1:
            fail("ValueError: GPU memory utilization must be less than 1.0.")
        options = with_faults(
            model=model,
            name=args.served_model_name or model,
            host=args.host or "0.0.0.0",
            port=args.port,
            context=context,
            parallel=args.max_num_seqs,
        )
        options.late_port = True
        options.metrics = True
        super().__init__(options)
        self.args = args
        self.keys = set(args.api_key or []) | ({os.environ.get("VLLM_API_KEY")} - {None, ""})
        architecture = " ".join(config.get("architectures", []))
        self.pooling = args.runner == "pooling" or args.task in ("embed", "score")
        self.pooling |= architecture.endswith(("Model", "SequenceClassification"))
        options.embeddings = options.reranking = self.pooling
        self.asleep = False

    def routes(self) -> dict[tuple[str, str], Handler]:
        routes = super().routes()
        names = ["/v1/embeddings", "/v1/rerank"]
        generating = ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"]
        for path in generating if self.pooling else names:
            del routes["POST", path]
        for path in ("/models", "/props", "/slots", "/v1/health"):
            del routes["GET", path]
        routes["GET", "/ping"] = self.health
        routes["GET", "/version"] = self.version
        if self.args.enable_sleep_mode and os.environ.get("VLLM_SERVER_DEV_MODE") == "1":
            routes["POST", "/sleep"] = self.sleep
            routes["POST", "/wake_up"] = self.sleep
            routes["GET", "/is_sleeping"] = self.is_sleeping
        return routes

    def admit(self, request: Request) -> None:
        offered = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.keys and request.path.startswith("/v1") and offered not in self.keys:
            raise RefusalError(401, "Unauthorized", "unauthorized")

    def refusal(self, error: RefusalError) -> object:
        if error.kind == "unauthorized":
            return {"error": "Unauthorized"}
        if error.kind == "not_found_error":
            return {"detail": "Not Found"}
        kinds = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError"}
        kind = kinds.get(error.status, error.kind)
        param = "model" if error.status == 404 else None
        about = {"message": error.message, "type": kind, "param": param, "code": error.status}
        return {"error": about}

    def check_model(self, body: dict[str, object]) -> None:
        model = body.get("model")
        if model and model != self.name:
            raise RefusalError(404, f"The model `{model}` does not exist.")
        automatic = body.get("tools") and body.get("tool_choice", "auto") == "auto"
        if automatic and not self.args.enable_auto_tool_choice:
            flags = "--enable-auto-tool-choice and --tool-call-parser"
            raise RefusalError(400, f'"auto" tool choice requires {flags} to be set')

    def health(self, connection: Connection, request: Request) -> None:
        connection.answer(200, b"", "text/plain")

    def version(self, connection: Connection, request: Request) -> None:
        """Its version."""
        connection.answer(200, {"version": "0.0.0+fake"})

    def models(self, connection: Connection, request: Request) -> None:
        entry = {"id": self.name, "object": "model", "owned_by": "vllm"}
        entry |= {"root": self.options.model}
        size = {"max_model_len": self.options.ctx_size}
        connection.answer(200, {"object": "list", "data": [{**entry, **size}]})

    def metrics(self, connection: Connection, request: Request) -> None:
        label = f'{{engine="0",model_name="{self.name}"}}'
        text = f"vllm:num_requests_running{label} {self.counts['in_flight']}.0\n"
        connection.answer(200, text.encode(), "text/plain; version=0.0.4")

    def sleep(self, connection: Connection, request: Request) -> None:
        """POST /sleep and /wake_up."""
        self.asleep = request.path == "/sleep"
        connection.answer(200, b"", "text/plain")

    def is_sleeping(self, connection: Connection, request: Request) -> None:
        """GET /is_sleeping."""
        connection.answer(200, {"is_sleeping": self.asleep})


if __name__ == "__main__":
    Vllm(parse(sys.argv[1:])).run()
