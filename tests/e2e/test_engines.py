"""Every engine through the daemon: the embedded one elsewhere, here all others.

mlx-lm and a compiled llama-server are the real programs; vllm and vllm-mlx are stand-ins
(docs/untested.md); ``command`` runs a program of our own.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import MakeHouse
from tests.e2e.house import Answer, House, Watch, process_exists
from tests.fakes import start

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

TEN = "one two three four five six seven eight nine ten"


def answers(house: House, model: str) -> str:
    answer = house.chat(model)
    assert answer.status == 200, answer.body
    content: str = answer.json()["choices"][0]["message"]["content"]
    return content


@pytest.mark.mlx
def test_mlx_lm(make_house: MakeHouse, mlx_python: Path, tiny_hf: Path) -> None:
    config = (
        f'[engines.mlx-lm]\npath = "{mlx_python}"\n'
        f'[models.mlx]\npath = "{tiny_hf}"\nengine = "mlx-lm"\nctx = 512\naliases = ["other"]\n'
    )
    with make_house(config) as house:
        assert answers(house, "mlx") == TEN
        assert "".join(house.stream("other")) == TEN, "its model name is rewritten for mlx-lm"
        view = house.client.get("/models/mlx")
        assert view["kind"] == "chat"
        assert "messages" in view["routes"], "by translation"
        asked = {"model": "mlx", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 32}
        message = house.request("POST", "/v1/messages", asked)
        assert message.json()["content"][0]["text"] == TEN
        streamed = house.request("POST", "/v1/messages?beta=true", {**asked, "stream": True})
        assert b"event: message_stop" in streamed.body
        response = house.request("POST", "/v1/responses", {"model": "mlx", "input": "hi"})
        assert response.json()["output"][0]["content"][0]["text"] == TEN
        refused = house.request("POST", "/v1/embeddings", {"model": "mlx", "input": "hi"})
        assert refused.status == 400
        assert "mlx" in refused.json()["error"]["message"]
        # it answers 404 to any query string
        asked = house.request(
            "POST",
            "/v1/chat/completions?beta=true",
            {"model": "mlx", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4},
        )
        assert asked.status == 200
        pid = house.backends()["mlx"]["pid"]
        assert house.ctl("unload", "mlx").returncode == 0
        assert not process_exists(pid)


def counts(house: House, asked: object, many: int = 1) -> list[Answer]:
    """Answers to so many counts at once."""
    with ThreadPoolExecutor(many) as pool:
        path = "/v1/messages/count_tokens?beta=true"
        return list(pool.map(lambda _: house.request("POST", path, asked), range(many)))


def token_counters(house: House) -> list[int]:
    """The daemon's children that count tokens."""
    assert house.process is not None
    found = []
    for child in psutil.Process(house.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # gone since it was listed
            if any("token_counter" in word for word in child.cmdline()):
                found.append(child.pid)
    return found


PING = {"name": "ping", "description": "Pings.", "input_schema": {"type": "object"}}
ASKED = {
    "max_tokens": 16,
    "system": [{"type": "text", "text": "Be terse."}],
    "messages": [{"role": "user", "content": "Which of these words are counted?"}],
    "tools": [PING],
}


@pytest.mark.mlx
def test_tokens_of_mlx_lm_are_counted_by_its_own_tokenizer(
    make_house: MakeHouse, mlx_python: Path, tiny_hf: Path
) -> None:
    """To the token what the engine then reads; and without loading anything."""
    config = (
        f'[engines.mlx-lm]\npath = "{mlx_python}"\n'
        f'[models.mlx]\npath = "{tiny_hf}"\nengine = "mlx-lm"\nctx = 512\n'
        '[timing]\ncount_wait = "55 s"\n'
    )
    asked = {**ASKED, "model": "mlx"}
    with make_house(config) as house:
        answers = counts(house, asked, 25)
        assert {answer.status for answer in answers} == {200}
        assert not any("x-token-count" in answer.headers for answer in answers)
        (tokens,) = {answer.json()["input_tokens"] for answer in answers}
        assert house.backends() == {}, "no count loads a model"
        (child,) = token_counters(house)
        usage = house.request("POST", "/v1/messages", asked).json()["usage"]
        assert usage["input_tokens"] + usage.get("cache_read_input_tokens", 0) == tokens
        assert counts(house, asked)[0].json()["input_tokens"] == tokens
    assert not process_exists(child)


def test_tokens_of_a_gguf_are_estimated_until_it_is_loaded(
    make_house: MakeHouse, tiny_gguf: Path
) -> None:
    pytest.importorskip("xllamacpp")
    table = f'[models.t]\npath = "{tiny_gguf}"\nengine = "xllamacpp"\nctx = 1024\n'
    table += '[timing]\ncount_wait = "30 s"\n'
    asked = {**ASKED, "model": "t"}
    with make_house(table) as house:
        answers = counts(house, asked, 5)
        assert {answer.headers.get("x-token-count") for answer in answers} == {"estimated"}
        assert house.backends() == {}
        usage = house.request("POST", "/v1/messages", asked).json()["usage"]
        read = usage["input_tokens"] + usage.get("cache_read_input_tokens", 0)
        answers = counts(house, asked, 25)
        assert {answer.headers.get("x-token-count") for answer in answers} == {None}
        assert {answer.json()["input_tokens"] for answer in answers} == {read}


@pytest.mark.llama_server
def test_llama_server(make_house: MakeHouse, llama_server: Path, tiny_gguf: Path) -> None:
    config = (
        f'[engines.llama-server]\npath = "{llama_server}"\n'
        f'[models.real]\npath = "{tiny_gguf}"\nctx = 512\nargs = ["-t", "1"]\n'
    )
    with make_house(config) as house:
        assert answers(house, "real") == TEN
        assert house.backends()["real"]["engine"] == "llama-server", "preferred when it is found"
        props = house.request("GET", "/upstream/real/props").json()
        assert props["default_generation_settings"]["n_ctx"] == 512


def stand_in(folder: Path, program: start.Program, name: str) -> Path:
    (folder / "bin").mkdir(exist_ok=True)
    return start.install(folder / "bin", program, name)


def test_vllm_stand_in(make_house: MakeHouse, short_dir: Path, tiny_hf: Path) -> None:
    program = stand_in(short_dir, "vllm", "vllm")
    config = (
        f'[memory]\nbudget = "8 GiB"\n[engines.vllm]\npath = "{program}"\n'
        f'[models.v]\npath = "{tiny_hf}"\nengine = "vllm"\nctx = 1024\naliases = ["claude-*"]\n'
    )
    with make_house(config) as house:
        assert answers(house, "v")
        assert answers(house, "claude-opus-5-5"), "another name is rewritten to its own"
        said = house.request(
            "POST",
            "/v1/messages",
            {"model": "v", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]},
        )
        assert said.status == 200


def test_vllm_mlx_stand_in(make_house: MakeHouse, short_dir: Path, tiny_hf: Path) -> None:
    program = stand_in(short_dir, "vllm_mlx", "vllm-mlx")
    config = (
        f'[memory]\nbudget = "8 GiB"\n[engines.vllm-mlx]\npath = "{program}"\n'
        f'[models.v]\npath = "{tiny_hf}"\nengine = "vllm-mlx"\nctx = 1024\naliases = ["x"]\n'
    )
    with make_house(config) as house:
        assert answers(house, "v")
        assert "".join(house.stream("x"))


def test_command(make_house: MakeHouse) -> None:
    words = ", ".join(f"'{word}'" for word in [*start.argv("engine"), "--port", "{port}"])
    config = f"""
[models.mine]
engine = "mine"

[engines.command.mine]
argv = [{words}, "--load-s", "0.2"]
ready = "/health"
footprint = "100 MiB"
dialects = ["chat", "messages"]
"""
    with make_house(config) as house:
        assert answers(house, "mine")
        view = house.client.get("/models/mine")
        assert list(view["estimate"].values()) == [100 << 20]
        assert {"chat", "messages"} <= set(view["routes"])
        assert house.request("POST", "/v1/responses", {"model": "mine", "input": "x"}).status == 200
        unable = house.request("POST", "/v1/embeddings", {"model": "mine", "input": "x"})
        assert unable.status == 400


def test_the_engine_is_chosen_where_none_is_named(make_house: MakeHouse, tiny_gguf: Path) -> None:
    with make_house(f'[models.m]\npath = "{tiny_gguf}"\nctx = 512\n') as house:
        assert answers(house, "m") == TEN
        expected = "llama-server" if shutil.which("llama-server") else "xllamacpp"
        assert house.backends()["m"]["engine"] == expected


def test_a_missing_engine_says_how_to_get_it(make_house: MakeHouse, tiny_hf: Path) -> None:
    with make_house(f'[models.m]\npath = "{tiny_hf}"\nengine = "vllm"\n') as house:
        error = house.chat("m").json()["error"]
        assert error["code"] == "engine_missing"
        assert "install" in error["message"]


def test_a_program_that_dies_at_once_is_told_with_its_words(make_house: MakeHouse) -> None:
    script = "import sys; sys.exit('error: invalid argument: --nonsense')"
    config = f"""
[models.dying]
engine = "dying"

[engines.command.dying]
argv = ["{sys.executable}", "-c", "{script}", "{{port}}"]
footprint = "1 MiB"
"""
    with make_house(config) as house:
        answer = house.chat("dying")
        assert answer.status in (500, 503)
        assert "invalid argument: --nonsense" in answer.json()["error"]["message"]
        assert answer.headers["x-should-retry"] == "false", "a bad flag is for ever"
        starts = house.kinds("dying").count("start")
        assert house.chat("dying").status == answer.status
        assert house.kinds("dying").count("start") == starts, "it is not tried again"
        assert "invalid argument" in house.ctl("logs", "dying").stdout


def test_running_out_of_memory_takes_the_next_smaller_context(make_house: MakeHouse) -> None:
    """An engine that dies of memory above a context: the next smaller one is tried."""
    script = (
        "import os, sys; "
        "over = int(sys.argv[2]) > 40000; "
        "print('ggml_aligned_malloc: insufficient memory (attempted to allocate 1 MB)') "
        "if over else None; "
        "sys.exit(1) if over else os.execv(sys.executable, [sys.executable, '-I', '-S', "
        "sys.argv[3], '--port', sys.argv[1]])"
    )
    engine = start.argv("engine")[-1]
    config = f"""
[models.big]
engine = "big"
fit = "shrink"

[engines.command.big]
argv = ["{sys.executable}", "-c", "{script}", "{{port}}", "{{ctx}}", "{engine}"]
footprint = "1 MiB"

[timing]
backoff = 0.05
"""
    with make_house(config) as house:
        watch = Watch(house)
        assert answers(house, "big")
        watch.wait("ready", "big")
        exits = [e.data["facts"] for e in watch.seen if e.kind == "exited"]
        assert {facts["exit_class"] for facts in exits} == {"out_of_memory"}
        assert house.backends()["big"]["context"] == 32768


ECHO = """
import http.server, json, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        self.answer({"status": "ok"})
    def do_POST(self):
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({"path": self.path, "body": raw.decode("latin-1")})
    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_audio_and_images_go_by_their_model_field(make_house: MakeHouse, short_dir: Path) -> None:
    """Multipart forms and JSON, to servers of the user's own; another name is rewritten."""
    server = short_dir / "echo.py"
    server.write_text(ECHO)
    tables = "".join(
        f'[models.{name}]\nengine = "{name}"\naliases = ["{alias}"]\n'
        f'[engines.command.{name}]\nargv = ["{sys.executable}", "{server}", "{{port}}"]\n'
        f'kind = "{kind}"\nfootprint = "1 MiB"\n'
        for name, kind, alias in (("hear", "audio", "whisper-1"), ("draw", "image", "dall-e-3"))
    )
    form = (
        b'--xx\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\nRIFF model=no \x00\xff\r\n"
        b'--xx\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--xx--\r\n'
    )
    with make_house(tables) as house:
        heard = house.request(
            "POST",
            "/v1/audio/transcriptions",
            form,
            {"Content-Type": "multipart/form-data; boundary=xx"},
        )
        assert heard.status == 200, heard.body
        got = heard.json()
        assert got["path"] == "/v1/audio/transcriptions"
        assert got["body"].encode("latin-1") == form.replace(b"whisper-1", b"hear")
        drawn = house.request("POST", "/v1/images/generations", {"model": "draw", "prompt": "x"})
        assert drawn.json()["path"] == "/v1/images/generations"
        assert house.backends().keys() == {"hear", "draw"}
        wrong = house.request("POST", "/v1/images/generations", {"model": "hear", "prompt": "x"})
        assert wrong.status == 400
        assert wrong.json()["error"]["code"] == "unsupported_dialect"
