"""The real clients, started by ``ctl launch``: whole tool rounds, each in a network of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.conftest import DIALECTS, MakeDesk, MakeHouse
from tests.e2e.programs import CLIENTS, TEN, Client, Desk, make_desk, proof, said, worked
from tests.e2e.terminal import Terminal
from tests.fakes.tools import TEXT
from tests.models import make_gguf, make_hf

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

each_client = pytest.mark.parametrize("client", CLIENTS, ids=str)
each_engine = pytest.mark.parametrize("speaks", DIALECTS)
# One round of each client in every run: two by translation, two as they are.
ALWAYS = {("claude", "chat"), ("codex", "chat"), ("opencode", "native"), ("pi", "native")}
ROUNDS = [
    pytest.param(
        client,
        speaks,
        id=f"{client}-{speaks}",
        marks=() if (client.name, speaks) in ALWAYS else pytest.mark.slow,
    )
    for client in CLIENTS
    for speaks in DIALECTS
]


@pytest.mark.parametrize(("client", "speaks"), ROUNDS)
def test_a_tool_round(client: Client, speaks: str, stand_in: MakeDesk) -> None:
    desk = stand_in(speaks)
    before = sorted(path.name for path in desk.home.iterdir())
    done = desk.ctl("launch", client.name, "mine", "--", *client.words, "Write the file")
    worked(desk, done)
    assert done.stdout.strip().endswith(TEN), "nothing of ours on its stdout"
    own = {path.name for path in desk.home.iterdir()} - set(before)
    assert not own & {".claude", ".claude.json", ".codex", ".pi"}, "the person's own is untouched"
    assert not list((desk.house.folder / "state" / "clients").glob("run-*"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
@each_engine
@each_client
def test_a_tool_round_in_the_sandbox(client: Client, speaks: str, stand_in: MakeDesk) -> None:
    desk = stand_in(speaks)
    words = [word for word in client.words if word not in {"-s", "workspace-write"}]
    done = desk.ctl(
        "launch", client.name, "mine", "--sandbox", str(desk.project), "--", *words, "Write it"
    )
    worked(desk, done)
    assert [path.name for path in desk.project.iterdir()] == ["proof-mine.txt"], "no litter"


@pytest.mark.slow
@each_client
def test_its_own_configuration(client: Client, stand_in: MakeDesk) -> None:
    """Written, it works without us; undone, everything is as it was."""
    desk = stand_in()
    files = {
        ".claude/settings.json": '{\n  "theme": "dark" // mine\n}\n'.replace(" // mine", ""),
        ".codex/config.toml": '# mine\nmodel = "gpt-5"\n\n[features]\ngoals = true # mine\n',
        ".config/opencode/opencode.jsonc": '{\n  // mine\n  "theme": "x",\n}\n',
        ".pi/agent/models.json": '{ "providers": {} }',
    }
    for name, text in files.items():
        path = desk.home / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    written = desk.ctl("env", client.name, "mine", "--write")
    assert written.returncode == 0, said(written)
    worked(desk, desk.run(client.name, *client.words, "Write the file"))
    undone = desk.ctl("env", client.name, "--undo", "--yes")
    assert undone.returncode == 0, said(undone)
    assert {name: (desk.home / name).read_text() for name in files} == files
    assert not [path for path in desk.home.rglob("*modelport*") if "before" in path.name]


@pytest.mark.slow
def test_opencode_asks_for_a_title_beside_the_answer(stand_in: MakeDesk) -> None:
    desk = stand_in("native", "--first-s", "1.5")
    worked(desk, desk.ctl("launch", "opencode", "mine", "--", "run", "Write the file"))
    bodies = [json.loads(one["body"]) for one in desk.record() if "completions" in one["path"]]
    asked = [body for body in bodies if "messages" in body and body.get("stream")]
    assert [body for body in asked if not body.get("tools")], "the title"
    main = [body for body in asked if body.get("tools")]
    assert len(main) == 2
    assert main[0]["max_tokens"] == 8192
    assert desk.house.request("GET", "/upstream/mine/fake").json()["max_in_flight"] >= 2


@pytest.mark.slow
def test_claude_on_a_terminal(stand_in: MakeDesk) -> None:
    """Its own questions and its own screen; a tool round, and a clean end."""
    desk = stand_in("native", "--first-s", "0.5")
    terminal = Terminal(desk, "launch", "claude", "mine")
    try:
        terminal.trust()
        terminal.say("Write the file")
        terminal.told(TEN)
        terminal.say("/exit")
        assert terminal.close() == 0
    finally:
        terminal.end()
    assert proof(desk.folder).read_text() == TEXT + "\n"
    bodies = [json.loads(one["body"]) for one in desk.record() if one["method"] == "POST"]
    assert {body["model"] for body in bodies} == {"mine"}, "no call by another name"


@pytest.mark.slow
def test_codex_on_a_terminal(stand_in: MakeDesk) -> None:
    """There it asks for a title beside the answer; both reach an engine that only chats."""
    desk = stand_in("chat", "--first-s", "1.5")
    terminal = Terminal(desk, "launch", "codex", "mine", "--", "-s", "workspace-write")
    try:
        terminal.told("To get started")
        terminal.say("Write the file")
        terminal.told(TEN)
        terminal.say("/quit")
        assert terminal.close() == 0
    finally:
        terminal.end()
    assert proof(desk.folder).read_text() == TEXT + "\n"
    asked = [body for body in desk.asked("/v1/chat/completions") if body.get("stream")]
    (title,) = [body for body in asked if not body.get("tools")]
    assert title["response_format"]["type"] == "json_schema"
    assert len([body for body in asked if body.get("tools")]) == 2
    assert desk.house.request("GET", "/upstream/mine/fake").json()["max_in_flight"] == 2


@pytest.mark.slow
def test_claude_counts_tokens(stand_in: MakeDesk) -> None:
    desk = stand_in()
    done = desk.ctl("launch", "claude", "mine", "--out-tokens", "4096", "--", "-p", "/context")
    assert done.returncode == 0, said(done)
    assert "65.5k" in done.stdout or "65k" in done.stdout or "66k" in done.stdout, said(done)
    assert [one for one in desk.record() if one["path"] == "/v1/messages/count_tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("provider", ["ollama", "lmstudio"])
def test_codex_takes_us_for_another(provider: str, stand_in: MakeDesk) -> None:
    """``codex --oss``: it asks for versions, tags and a pull first, and sends its whole prompt."""
    desk = stand_in("chat")
    words = [*CLIENTS[1].words, "--oss", "--local-provider", provider, "-m", "mine"]
    url = f"{desk.house.url}/v1"
    worked(desk, desk.run("codex", *words, "Write the file", CODEX_OSS_BASE_URL=url))


@pytest.fixture
def real_desk(
    make_house: MakeHouse, short_dir: Path, bins: Path, llama_server: Path, alone: None
) -> MakeDesk:
    """A desk at a true llama-server with a tiny model that always says the same."""

    def make(reply: str = TEN) -> Desk:
        model = short_dir / "model.gguf"
        make_gguf(model, reply=reply, context=131072)
        house = make_house(
            f'[engines.llama-server]\npath = "{llama_server}"\n'
            f'[models.mine]\npath = "{model}"\nctx = 65536\nargs = ["-t", "2", "-b", "2048"]\n'
        )
        return make_desk(house.start(), bins, short_dir)

    return make


@pytest.mark.slow
@pytest.mark.llama_server
@each_client
def test_a_true_llama_server(client: Client, real_desk: MakeDesk) -> None:
    desk = real_desk()
    done = desk.ctl("launch", client.name, "mine", "--", *client.words, "Say something")
    assert done.returncode == 0, said(done)
    assert TEN in done.stdout, said(done)


@pytest.mark.slow
@pytest.mark.llama_server
def test_a_true_llama_server_calls_a_tool(real_desk: MakeDesk, short_dir: Path) -> None:
    """Its parser makes a call of the model's words, and Claude Code writes the file. The model says
    the same for ever: the turns are limited."""
    arguments = {"file_path": str(proof(short_dir)), "content": TEXT + "\n"}
    call = json.dumps({"name": "Write", "arguments": arguments})
    desk = real_desk(f"<tool_call>\n{call}\n</tool_call>")
    words = ["-p", "--permission-mode", "acceptEdits", "--max-turns", "1", "Write the file"]
    done = desk.ctl("launch", "claude", "mine", "--", *words)
    assert proof(short_dir).read_text() == TEXT + "\n", said(done)


@pytest.mark.mlx
@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS[:2], ids=str)
def test_a_true_mlx_lm(
    client: Client,
    make_house: MakeHouse,
    short_dir: Path,
    bins: Path,
    alone: None,
    mlx_python: Path,
) -> None:
    """It chats and nothing else: Claude Code and Codex are translated for it."""
    make_hf(short_dir / "model", context=131072)
    house = make_house(
        f'[engines.mlx-lm]\npath = "{mlx_python}"\n'
        f'[models.mine]\npath = "{short_dir / "model"}"\nengine = "mlx-lm"\nctx = 65536\n'
    )
    desk = make_desk(house.start(), bins, short_dir)
    words = ["launch", client.name, "mine", "--", *client.words, "Say something"]
    done = desk.ctl(*words, seconds=600)  # over a minute on two cores: it reads slowly on a CPU
    assert done.returncode == 0, said(done)
    assert TEN in done.stdout, said(done)
    assert house.backends()["mine"]["engine"] == "mlx-lm"
