from __future__ import annotations

from pathlib import Path

from tests.backends.kitchen import Kitchen
from tests.commands.conftest import Ctl


def test_of_a_file(ctl: Ctl, tiny_gguf: Path) -> None:
    result = ctl("estimate", str(tiny_gguf))
    assert result.code == 0, result.err
    assert result.out.startswith("tiny.gguf: llama, ")
    assert "CONTEXT" in result.out
    one, two = (
        ctl("estimate", str(tiny_gguf), "--ctx=8k", f"--slots={slots}", "--json").json
        for slots in (1, 2)
    )
    assert one["estimates"][0]["ctx"] == 8192
    assert two["estimates"][0]["kv"] == 2 * one["estimates"][0]["kv"]
    parts = one["estimates"][0]
    assert parts["total"] > parts["weights"] > 0


def test_of_a_folder_and_of_a_model(ctl: Ctl, home: Path, tiny_hf: Path) -> None:
    (home / "config.toml").write_text(
        f'[models.tiny]\npath = "{tiny_hf}"\n[models.far]\nhf = "a/b"\n', "utf-8"
    )
    assert ctl("estimate", "tiny", "--json").json["path"] == str(tiny_hf)
    far = ctl("estimate", "far")
    assert far.code == 1
    assert "Nothing is published of them here" in far.err
    assert "ctl pull far" in far.err


def test_of_a_preset_that_is_not_here(ctl: Ctl, home: Path) -> None:
    entry = '[models.on-mlx]\npreset = "gemma-4-e4b"\nengine = "mlx-lm"\n'
    (home / "config.toml").write_text(entry, "utf-8")
    result = ctl("estimate", "qwen3-coder:30b", "--ctx", "64k")
    assert result.code == 0, result.err
    assert result.out.startswith("qwen3-coder: qwen3moe, Q4_K_XL, 16.5 GiB")
    assert "from published figures, not from the files" in result.out
    assert "ctl pull qwen3-coder" in result.out
    found = ctl("estimate", "qwen3-coder", "--ctx", "64k", "--json").json
    assert (found["source"], found["path"], found["exact"]) == ("published", None, False)
    assert found["estimates"][0]["kv"] == 98304 * 65536
    mlx = ctl("estimate", "on-mlx", "--json").json
    assert (mlx["engine"], mlx["quantisation"]) == ("mlx-lm", "4bit")
    assert ctl("estimate", "gpt-oss", "--json").json["slots"] == 2  # as the preset has it


def test_a_model_of_a_known_repository_needs_no_preset(ctl: Ctl, home: Path) -> None:
    repo = "unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF"
    text = f'[models.a]\nhf = "{repo}:Q5_K_M"\n[models.b]\nhf = "{repo}:strange"\n'
    (home / "config.toml").write_text(text, "utf-8")
    found = ctl("estimate", "a", "--json").json
    assert found["quantisation"] == "Q5_K_M"
    assert 19e9 < found["estimates"][0]["weights"] < 22e9  # by the bits of its name
    strange = ctl("estimate", "b")
    assert strange.code == 1
    assert "nothing is known of the quantisation 'strange'" in strange.err


def test_the_largest_context_that_fits(ctl: Ctl, home: Path, loop_gguf: Path) -> None:
    text = f'[memory]\nbudget = {{ ram = "256MiB" }}\n[models.a]\npath = "{loop_gguf}"\n'
    (home / "config.toml").write_text(text + 'pool = "ram"\n', "utf-8")
    found = ctl("estimate", "a", "--json").json
    assert found["budget"]["ram"] == 256 << 20
    most = found["largest"]["ctx"]
    assert 0 < most < found["context_max"]
    assert found["largest"]["pools"]["ram"] <= 256 << 20
    (more,) = ctl("estimate", "a", "--ctx", str(most + 1024), "--json").json["estimates"]
    assert more["pools"]["ram"] > 256 << 20
    said = ctl("estimate", "a").out
    assert f"largest context that fits: {most} (" in said
    assert "of 256.0 MiB ram, nothing else loaded" in said
    (home / "config.toml").write_text(text.replace("256MiB", "1MiB") + 'pool = "ram"\n', "utf-8")
    assert ctl("estimate", "a", "--json").json["largest"] == {"ctx": None, "pools": {}}
    assert "It does not fit 1.0 MiB ram: with 1024 tokens it needs " in ctl("estimate", "a").out


def test_a_command_of_your_own_is_not_known(ctl: Ctl, home: Path) -> None:
    (home / "config.toml").write_text(
        '[models.own]\nengine = "x"\n[engines.command.x]\nargv = ["x", "{port}"]\n', "utf-8"
    )
    result = ctl("estimate", "own")
    assert result.code == 1
    assert "only that knows what it takes" in result.err


def test_of_nothing(ctl: Ctl, home: Path) -> None:
    (home / "config.toml").touch()
    (home / "bad.gguf").write_bytes(b"nope")
    for name in ("nobody", "bad.gguf"):
        result = ctl("estimate", str(home / name) if "." in name else name)
        assert (result.code, result.out) == (1, "")
        assert name in result.err
    assert "Did you mean qwen3-coder" in ctl("estimate", "qwen3-codr").err


def test_it_says_what_the_daemon_would_charge(
    ctl: Ctl, home: Path, tmp_path: Path, tiny_gguf: Path
) -> None:
    """The same function prices a start: its args and what the engine takes itself count."""
    config = {"models": {"tiny": {"path": str(tiny_gguf), "ctx": 2048, "args": ["-ub", "128"]}}}
    kitchen = Kitchen(tmp_path)
    kitchen.install()
    (price,) = kitchen.sound(config).prices.values()
    program = tmp_path / "bin" / "llama-server"
    (home / "config.toml").write_text(
        f'[models.tiny]\npath = "{tiny_gguf}"\nargs = ["-ub", "128"]\nengine = "llama-server"\n'
        f'[engines.llama-server]\npath = "{program}"\n',
        "utf-8",
    )
    (said,) = ctl("estimate", "tiny", "--ctx", "2048", "--json").json["estimates"]
    assert said["total"] == price.total
    assert said["compute"] == price.compute
