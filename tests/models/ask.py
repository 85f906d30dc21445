"""Load a model with xllamacpp, ask it, and print the answers as one line of JSON.

python -m tests.models.ask MODEL.gguf [embedding|rerank] PATH BODY [PATH BODY ...]

A process of its own, since llama.cpp's threads cannot be ended within one.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request

import xllamacpp


def main() -> None:
    """Serve on a free port, ask, print, leave without waiting for threads."""
    model, mode, *questions = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = 512
    params.n_parallel = 1
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.cache_ram_mib = 0
    params.use_jinja = True
    params.embedding = mode in ("embedding", "rerank")
    if mode == "rerank":
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    server = xllamacpp.Server(params)
    answers = []
    for path, body in zip(questions[::2], questions[1::2], strict=True):
        kind = {"Content-Type": "application/json"}
        request = urllib.request.Request(server.listening_address + path, body.encode(), kind)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                answers.append([answer.status, json.load(answer)])
        except urllib.error.HTTPError as error:
            answers.append([error.code, json.load(error)])
    print(json.dumps(answers), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
