"""Other programs' configurations in our words: what is read, what is said of the rest."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_api.commands.local.importing import (
    llama_args,
    llama_cpp,
    llama_swap,
    lm_studio,
    modelfile,
    servers,
    values,
)
from control_api.commands.local.importing.reading import read_yaml
from control_api.commands.local.importing.render import render
from control_api.commands.local.importing.settled import settle
from control_api.commands.local.importing.values import Imported, Item
from daemon.config.load import load_text
from daemon.config.mistakes import ConfigError

EXAMPLES = Path(__file__).parent / "examples"
BASE = Path("/base")
ENVIRON = {"HOME": "/home/me"}


def swap(text: str) -> Imported:
    return llama_swap.translate(text, "config.yaml", BASE, ENVIRON)


def toml(found: Imported) -> dict[str, Any]:
    """What it says, once the real loader has taken it."""
    settle(found)
    text = render(found)
    load_text(text, name="config.toml", folder=BASE)
    return tomllib.loads(text)


def remarks(found: Imported, name: str) -> str:
    return "\n".join(r.text for item in found.items if item.name == name for r in item.remarks)


# ---------------------------------------------------------------- llama-swap


def test_a_whole_llama_swap_file() -> None:
    found = swap((EXAMPLES / "llama-swap.yaml").read_text("utf-8"))
    values = toml(found)
    assert values["engines"]["llama-server"] == {"path": "/opt/llama/llama-server"}
    assert values["models"]["coder"] == {
        "engine": "llama-server",
        "path": "/home/me/weights/coder-Q4_K_M.gguf",
        "slots": 2,
        "ctx": 16384,
        "args": ["--temp", "0.7"],
        "aliases": ["gpt-4o", "claude-*"],
        "keep_alive": -1,
        "env": {"CUDA_VISIBLE_DEVICES": "0"},
        "params": {"strip": ["top_k"], "force": {"temperature": 0.2, "top_p": 0.9}},
        "pin": True,
    }
    assert values["models"]["embed"]["kind"] == "embedding"
    assert values["models"]["embed"]["pin"] is True
    assert values["models"]["embed"]["keep_alive"] == 600
    assert values["models"]["big-vllm"] == {
        "engine": "vllm", "hf": "owner/Big-AWQ", "ctx": 16384, "slots": 4, "args": ["-tp", "2"],
        "keep_alive": 600,
    }  # fmt: skip
    command = values["engines"]["command"]
    assert command["contained"]["argv"][6:9] == ["-p", "{port}:8080", "example/image"]
    assert command["contained"]["elsewhere"] is True
    assert command["script"] == {
        "argv": ["./serve.sh", "--listen", "127.0.0.1:{port}"],
        "ready": "request",
    }
    assert found.skipped == {"elsewhere": "it is reached on another machine."}
    said = remarks(found, "coder")
    for word in ("unlisted = true", "setParamsByID", "env.HF_TOKEN", "--api-key = ***"):
        assert word in said


def test_no_secret_stands_in_a_comment() -> None:
    found = swap((EXAMPLES / "llama-swap.yaml").read_text("utf-8"))
    settle(found)
    text = render(found)
    assert "sk-" not in text
    hidden = values.hide('argv = ["x", "--hf-token", "hf_abcdefghijklmnop", "PASSWORD=hunter2"]')
    assert "hf_abc" not in hidden
    assert "hunter2" not in hidden
    assert values.told("apiKeys", ["a", "b"]) == "***"
    assert "me:pw" not in values.told("url", "http://me:pw@host/")


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("models: [a]", 1, "a table"),
        ("models:\n  a:\n    cmd: 'x'\n    aliases: 3", 4, "a list of texts"),
        ("models:\n  a:\n    cmd: [x]", 3, "text"),
        ('models:\n  a:\n    cmd: "llama-server \'open"', 3, "a command line"),
        ("models:\n  a: {cmd: x, ttl: soon}", 2, "seconds"),
        ("models:\n  a: {cmd: x}\n  a: {cmd: y}", 3, "each name once"),
        ("a: &a [*a]", 1, "at most 40 levels"),
        ("a: !!python/object:os.system x", 1, "plain values"),
        ("a: '\n", 2, "YAML"),
        ("", None, "a table"),
        ("models: {}", 1, "a table of models"),
        ("[" * 5000, None, "YAML"),
        ('models: {a: {cmd: "\\ud800"}}', 1, "text"),
        ("macros: {PORT: 1}\nmodels: {a: {cmd: x}}", 1, "reserved"),
    ],
)
def test_mistakes_have_a_line(text: str, line: int | None, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        swap(text)
    mistake = caught.value.mistakes[0]
    assert mistake.line == line
    assert word in mistake.allowed


def test_aliases_that_grow_without_end() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for n in range(1, 9):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]")
    with pytest.raises(ConfigError, match="endless aliases"):
        read_yaml("\n".join(lines), "bomb.yaml")


def test_more_values_than_any_configuration_has() -> None:
    with pytest.raises(ConfigError, match="values without end"):
        read_yaml("a: [" + "1," * 200_000 + "]", "long.yaml")


def test_macros_that_grow_without_end() -> None:
    macros = "".join(f"  m{n}: '{f'${{m{n + 1}}}' * 9}'\n" for n in range(9))
    with pytest.raises(ConfigError, match="without end"):
        swap(f"macros:\n{macros}  m9: {'x' * 99}\nmodels: {{a: {{cmd: '${{m0}}'}}}}")
    with pytest.raises(ConfigError, match="each other"):
        swap("macros: {a: '${b}', b: '${a}'}\nmodels: {a: {cmd: '${a}'}}")


def test_anchors_and_merges_are_read() -> None:
    found = swap(
        "x: &base {ttl: 60, aliases: [z]}\n"
        "models: {a: {<<: *base, cmd: 'llama-server -m a.gguf', ttl: 5}}"
    )
    assert toml(found)["models"]["a"]["keep_alive"] == 5
    assert found.items[0].keys["path"] == "/base/a.gguf"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("'server ${nothing}'", "nothing defines ${nothing}"),
        ("'server --port 1'", "no port in its command"),
        ("'server ${PORT} {other}'", "in braces"),
        ("'server ${env.NOT_THERE}'", "env.NOT_THERE"),
        ("'# nothing but a comment'", "empty"),
    ],
)
def test_models_that_cannot_be_had_are_told(command: str, why: str) -> None:
    found = swap(f"models: {{a: {{cmd: {command}}}, b: {{cmd: 'x ${{PORT}}'}}}}")
    assert why in found.skipped["a"]
    assert list(toml(found)["models"]) == ["b"]


def test_a_secret_of_the_environment_stays_there() -> None:
    text = "models: {a: {cmd: 'docker run -e HF_TOKEN=${env.HF_TOKEN} -p ${PORT}:80 x'}}"
    found = llama_swap.translate(text, "c", BASE, {"HF_TOKEN": "hf_very_secret_indeed"})
    settle(found)
    assert "hf_very" not in render(found)
    assert "put it in by hand" in remarks(found, "a")


def test_priorities_and_groups_of_the_newer_form() -> None:
    found = swap(
        "models: {a: {cmd: 'x ${PORT}'}, b: {cmd: 'x ${PORT}'}}\n"
        "routing:\n  scheduler: {settings: {fifo: {priority: {a: 1000, c: 1}}}}\n"
        "  router: {settings: {groups: {g: {persistent: true, swap: false, members: [b, d]}}}}\n"
    )
    models = toml(found)["models"]
    assert models["a"]["priority"] == 100
    assert models["b"]["pin"] is True
    assert any("d: there is no such model" in remark.text for remark in found.remarks)


# ---------------------------------------------------------------- commands


def filled(command: str) -> dict[str, Any]:
    words = command.split()
    server = servers.server_of(words)
    assert server is not None
    item = Item("a")
    servers.fill(item, server, BASE)
    return item.keys


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        ("llama-server -m a.gguf -c 0", {"path": "/base/a.gguf"}),
        ("/x/llama-server-b9000 --model=/a.gguf --ctx_size=4096",
         {"path": "/a.gguf", "ctx": 4096}),
        ("llama-server -hf o/r:Q4 -md ~/d.gguf -ngl 12 --top-k -1",
         {"hf": "o/r:Q4", "draft": "~/d.gguf", "args": ["-ngl", "12", "--top-k", "-1"]}),
        ("llama-server --gpt-oss-20b-default", {"preset": "gpt-oss-20b"}),
        ("llama-server -m a.gguf --lora l.gguf -a x,y",
         {"path": "/base/a.gguf", "args": ["--lora", "/base/l.gguf"], "aliases": ["x", "y"]}),
        ("mlx_lm.server --model mlx-community/x-4bit --port 1 --draft-model /d",
         {"engine": "mlx-lm", "hf": "mlx-community/x-4bit", "draft": "/d"}),
        ("python3 -m mlx_lm server --model ./m", {"engine": "mlx-lm", "path": "/base/m"}),
        ("python -m vllm.entrypoints.openai.api_server --model /m --max-model-len 9 --api-key x",
         {"engine": "vllm", "path": "/m", "ctx": 9}),
        ("vllm-mlx serve o/r --max-num-seqs 2", {"engine": "vllm-mlx", "hf": "o/r", "slots": 2}),
    ],
)  # fmt: skip
def test_commands_of_our_engines(command: str, keys: dict[str, Any]) -> None:
    assert filled(command) == {"engine": "llama-server", **keys}


@pytest.mark.parametrize("words", [[], ["python"], ["ollama", "serve"], ["vllm", "bench"]])
def test_commands_of_others(words: list[str]) -> None:
    assert servers.server_of(words) is None


def test_env_before_a_command() -> None:
    assert servers.split_env(["env", "A=1", "B=x y", "p", "C=2"]) == (
        {"A": "1", "B": "x y"},
        ["p", "C=2"],
    )


def test_words_without_a_flag_are_told() -> None:
    item = Item("a")
    llama_args.translate(item, llama_args.pairs(["stray", "-m", "/a", "--api-key", "abc"]), BASE)
    said = [remark.text for remark in item.remarks]
    assert said[0] == "not carried over: arguments = stray: they belong to no flag."
    assert "abc" not in said[1]


# ---------------------------------------------------------------- llama.cpp


def test_a_whole_preset_file() -> None:
    found = llama_cpp.translate((EXAMPLES / "models.ini").read_text("utf-8"), "models.ini", BASE)
    models = toml(found)["models"]
    assert models["coder"] == {
        "engine": "llama-server",
        "path": "/base/weights/coder.gguf",
        "mmproj": "/base/weights/mmproj.gguf",
        "ctx": 4096,  # both names of it: the last word wins, as in llama.cpp
        "slots": 2,
        "args": ["--flash-attn", "on", "--no-kv-unified", "--temp", "0.5"],
        "pin": True,
    } | {"ctx": 32768}
    assert models["owner/Some-Model-GGUF:Q4_K_M"]["hf"] == "owner/Some-Model-GGUF:Q4_K_M"
    assert "sk-of" not in render(found)


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("[a]\nmodel = x\nmodel = y", 3, "each key once"),
        ("[a]\nx=1\n[a]", 3, "each section once"),
        ("[a]\nnonsense", 2, "[section] or key = value"),
        ("version = 1", None, "a [section]"),
    ],
)
def test_wrong_preset_files(text: str, line: int | None, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        llama_cpp.translate(text, "models.ini", BASE)
    assert caught.value.mistakes[0].line == line
    assert word in caught.value.mistakes[0].allowed


def test_switches_of_presets() -> None:
    text = (
        "[a]\nmodel=/a\nno-warmup = true\nmetrics = off\ncont-batching=0\nno-perf=no\njinja=maybe"
    )
    found = llama_cpp.translate(text, "m", BASE)
    assert found.items[0].keys["args"] == ["--no-warmup", "--no-cont-batching", "--perf"]
    assert "jinja = maybe" in remarks(found, "a")


# ---------------------------------------------------------------- Ollama


def nothing(name: str) -> modelfile.Recipe | None:
    return None


def test_a_whole_modelfile() -> None:
    text = (EXAMPLES / "Modelfile").read_text("utf-8")
    found = modelfile.translate(text, "Modelfile", "cook", BASE, nothing)
    assert toml(found)["models"]["cook"] == {
        "path": "/base/cook.gguf",
        "ctx": 4096,
        "params": {"default": {"temperature": 0.6, "stop": ["<|end|>", "<|user|>"]}},
        "args": ["-ngl", "20", "--lora", "/base/cook-lora.gguf"],
    }
    said = remarks(found, "cook")
    for word in ("SYSTEM = You are a cook. Answer in recipes.", "TEMPLATE", "mirostat = 2",
                 "MESSAGE = 2 of them"):  # fmt: skip
        assert word in said


def test_where_a_modelfile_has_its_weights() -> None:
    def known(name: str) -> modelfile.Recipe | None:
        base = modelfile.Recipe("/blobs/w", "/blobs/p", parameters=[("temperature", "1")])
        return base if name == "llama3.1:8b" else None

    def imported(source: str) -> Imported:
        text = f"FROM {source}\nPARAMETER top_k 3"
        return modelfile.translate(text, "Modelfile", "m", BASE, known)

    assert imported("hf.co/o/r:Q4_K_M").items[0].keys["hf"] == "o/r:Q4_K_M"
    assert imported("llama3.1:8b").items[0].keys == {
        "path": "/blobs/w",
        "mmproj": "/blobs/p",
        "params": {"default": {"temperature": 1.0, "top_k": 3}},
    }
    assert "ollama pull unknown" in imported("unknown").skipped["m"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("PARAMETER a 1", "FROM"),
        ("NONSENSE x\nFROM x", "NONSENSE"),
        ('FROM x\nSYSTEM """open', "SYSTEM"),
        ("FROM x\nPARAMETER temperature", "PARAMETER"),
    ],
)
def test_wrong_modelfiles(text: str, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        modelfile.read(text, "Modelfile")
    assert caught.value.mistakes[0].where == where


def test_the_files_of_a_manifest() -> None:
    files = {"model": [Path("/b/1"), Path("/b/2")], "projector": [Path("/b/3")], "params": []}
    recipe = modelfile.of_files(files)
    assert (recipe.weights, recipe.projector, recipe.adapters) == ("/b/1", "/b/3", [])
    modelfile.add_small(recipe, "params", '{"stop": ["a", "b"], "num_ctx": 9}', "params")
    assert recipe.parameters == [("stop", "a"), ("stop", "b"), ("num_ctx", "9")]


@pytest.mark.parametrize("text", ["", "[]", "[" * 5000, '{"stop": "\\ud800"}', "9" * 5000])
def test_wrong_parameters(text: str) -> None:
    with pytest.raises(ConfigError):
        modelfile.add_small(modelfile.Recipe(), "params", text, "params")


# ---------------------------------------------------------------- LM Studio


def test_settings_of_lm_studio() -> None:
    item = Item("a", {"path": "/a.gguf"})
    lm_studio.apply(item, (EXAMPLES / "lm-studio.json").read_text("utf-8"), "a.json", gguf=True)
    found = Imported("LM Studio", [item])
    assert toml(found)["models"]["a"] == {
        "path": "/a.gguf",
        "ctx": 16384,
        "slots": 2,
        "params": {"default": {"temperature": 0.4, "top_p": 0.9}},
        "args": ["-fa", "on", "-ctk", "q8_0"],
    }
    said = remarks(found, "a")
    assert "systemPrompt = Be brief." in said
    assert "tryMmap = false" in said
    assert "minPSampling" not in said  # it is switched off there


@pytest.mark.parametrize(
    "text", ["", "[]", '{"load": 3}', '{"load": {"fields": [3]}}', '{"load": {"fields": {}}}']
)
def test_wrong_settings_of_lm_studio(text: str) -> None:
    with pytest.raises(ConfigError):
        lm_studio.apply(Item("a"), text, "a.json", gguf=True)


# ---------------------------------------------------------------- all of them


def test_names_that_are_taken() -> None:
    found = Imported("x", [Item(name, {"path": "/a"}) for name in ("a", "A", "daemon", "", "b")])
    found.items[4].keys["aliases"] = ["A", "b", "free", "no space", "free"]
    settle(found, ["a"])
    assert [item.name for item in found.items] == ["b"]
    assert found.items[0].keys["aliases"] == ["free"]
    assert set(found.skipped) == {"a", "A", "daemon", "(no name)"}


words = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | words
    | st.sampled_from(["llama-server -m a.gguf --port ${PORT}", "x ${PORT}", "{port}", "none", "/x",
                       "vllm serve o/r", "claude-*", "http://127.0.0.1:${PORT}", "A=b", "-c 9"])
)  # fmt: skip
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            words | st.sampled_from(["temperature", "swap", "members"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
FIELDS = ("cmd", "aliases", "ttl", "env", "proxy", "checkEndpoint", "filters", "macros", "unlisted",
          "useModelName", "concurrencyLimit", "capabilities", "sendLoadingState")  # fmt: skip
commands = st.lists(
    st.sampled_from(["llama-server", "vllm", "serve", "${PORT}", "-m", "a.gguf", "-c", "-np", "0",
                     "99999999", "--alias", "x,*", "-hf", "o/r:Q", "--hf-file", "../x", "{port}",
                     "docker", "'a b'", "--mmproj", "hf:x", "--model-draft", "\t", "é"]),
    max_size=9,
).map(" ".join)  # fmt: skip
likely = st.fixed_dictionaries(
    {"cmd": commands},
    optional={
        "aliases": st.lists(words, max_size=3),
        "ttl": st.integers(-1, 10**9),
        "env": st.lists(words.map(lambda word: f"A{word}={word}"), max_size=3),
        "checkEndpoint": words,
        "concurrencyLimit": st.integers(0, 10**6),
        "filters": st.fixed_dictionaries(
            {}, optional={"stripParams": words, "setParams": st.dictionaries(words, anything)}
        ),
    },
)
models = st.dictionaries(
    words, likely | st.dictionaries(st.sampled_from(FIELDS), anything, max_size=4), max_size=4
)


@given(models, st.dictionaries(words, anything, max_size=2))
def test_any_llama_swap_file_gives_mistakes_or_a_configuration(
    tables: dict[str, Any], more: dict[str, Any]
) -> None:
    text = json.dumps({**more, "models": tables})  # JSON is YAML
    try:
        found = swap(text)
    except ConfigError:
        return
    toml(found)


@given(st.text(max_size=200) | st.lists(words, max_size=9).map("\n".join))
def test_any_text_gives_mistakes_or_a_configuration(text: str) -> None:
    def of_modelfile(text: str) -> Imported:
        return modelfile.translate(f"FROM /x\n{text}", "Modelfile", "a", BASE, nothing)

    def of_preset(text: str) -> Imported:
        return llama_cpp.translate(f"[a]\nmodel = /x\n{text}", "m.ini", BASE)

    for read in (swap, of_modelfile, of_preset):
        try:
            found = read(text)
        except ConfigError:
            continue
        toml(found)


keys = st.sampled_from(["c", "parallel", "mmproj", "hf", "hf-file", "alias", "kvu", "x", "temp"])


@given(st.dictionaries(keys, words, max_size=5), words)
def test_any_preset_gives_a_configuration(lines: dict[str, str], name: str) -> None:
    text = "\n".join(f"{key} = {value}" for key, value in lines.items())
    try:
        found = llama_cpp.translate(f"[{name}]\nmodel = /x\n{text}", "m.ini", BASE)
    except ConfigError:
        return
    toml(found)


@given(st.lists(st.tuples(st.sampled_from(["num_ctx", "stop", "top_k", "seed", "num_gpu"]), words)))
def test_any_parameters_give_a_configuration(lines: list[tuple[str, str]]) -> None:
    text = "FROM /x\n" + "\n".join(f"PARAMETER {name} {value}" for name, value in lines)
    try:
        found = modelfile.translate(text, "Modelfile", "a", BASE, nothing)
    except ConfigError:
        return
    toml(found)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["llm.load.contextLength", "llm.load.numParallelSessions", "llm.load.x",
                 "llm.load.llama.evalBatchSize", "llm.prediction.temperature",
                 "llm.prediction.stopStrings", "llm.load.llama.acceleration.offloadRatio"]
            ),
            anything,
        ),
        max_size=6,
    )
)  # fmt: skip
def test_any_settings_give_a_configuration(fields: list[tuple[str, Any]]) -> None:
    listed = [{"key": key, "value": value} for key, value in fields]
    item = Item("a", {"path": "/x"})
    lm_studio.apply(item, json.dumps({"load": {"fields": listed}}), "a.json", gguf=True)
    toml(Imported("LM Studio", [item]))
