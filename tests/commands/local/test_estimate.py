from __future__ import annotations

from pathlib import Path

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
