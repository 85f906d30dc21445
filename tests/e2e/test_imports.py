"""From another program's configuration to an answer, with nothing between but ``ctl``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import MakeHouse


@pytest.mark.timeout(400)
@pytest.mark.llama_server
def test_a_llama_swap_file_answers(
    make_house: MakeHouse, llama_server: Path, smollm2_gguf: Path
) -> None:
    with make_house("# mine\n") as house:
        swap = house.folder / "swap.yaml"
        swap.write_text(
            f"macros:\n  server: {llama_server} --host 127.0.0.1 --port ${{PORT}}\n"
            f"models:\n  smol:\n    cmd: |\n      ${{server}} -m {smollm2_gguf}\n"
            "      -c 2048 --parallel 2 -t 1 -ngl 99 --temp 0\n"
            "    aliases: [tiny-one]\n    ttl: 90\n    unlisted: true\n"
        )
        imported = house.ctl("import", "llama-swap", str(swap), "--yes")
        assert imported.returncode == 0, imported.stderr
        assert "# not carried over: unlisted = true" in imported.stdout
        assert "# mine" in house.config_file.read_text("utf-8")
        answered = house.ctl("run", "tiny-one", "Say hello.", "--max-tokens", "16")
        assert answered.returncode == 0, answered.stderr
        assert answered.stdout.strip()
        backend = house.backends()["smol"]
        assert backend["engine"] == "llama-server"
        assert (backend["context"], backend["slots"]) == (1024, 2)
        assert house.ctl("config", "check").returncode == 0
