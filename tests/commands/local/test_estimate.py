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
    assert "ctl show far" in far.err


def test_of_nothing(ctl: Ctl, home: Path) -> None:
    (home / "config.toml").touch()
    (home / "bad.gguf").write_bytes(b"nope")
    for name in ("nobody", "bad.gguf"):
        result = ctl("estimate", str(home / name) if "." in name else name)
        assert (result.code, result.out) == (1, "")
        assert name in result.err


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
