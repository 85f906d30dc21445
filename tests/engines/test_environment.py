"""What a child may inherit."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.engines.environment import OFFLINE, Platform, child_environment, inherited


@pytest.mark.parametrize(
    "name",
    ["PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
     "ROCR_VISIBLE_DEVICES", "VK_ICD_FILENAMES", "OMP_NUM_THREADS", "LD_LIBRARY_PATH", "HF_HOME",
     "VLLM_MLX_ENABLE_THINKING", "GGML_METAL_TENSOR_DISABLE"],
)  # fmt: skip
def test_what_a_process_needs_is_inherited(name: str) -> None:
    assert inherited({name: "x"}) == {name: "x"}


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL",
     "OPENAI_API_KEY", "LLAMA_ARG_CTX_SIZE", "LLAMA_API_KEY", "VLLM_API_KEY", "HTTP_PROXY",
     "https_proxy", "PYTHONPATH", "LD_PRELOAD", "DYLD_INSERT_LIBRARIES", "NVIDIA_API_KEY",
     "AWS_SECRET_ACCESS_KEY", "MODELPORT_CONFIG", "NOTIFY_SOCKET", "XDG_CONFIG_HOME",
     "GGML_SECRET", "CUDA_TOKEN", "SSH_AUTH_SOCK"],
)  # fmt: skip
def test_secrets_and_settings_of_ours_are_not_inherited(name: str) -> None:
    assert inherited({name: "x"}) == {}


def test_an_engine_is_kept_offline() -> None:
    environment = child_environment({"HF_HUB_OFFLINE": "0", "PATH": "/bin"})
    assert environment == {"PATH": "/bin", **OFFLINE}
    assert environment["HF_HUB_OFFLINE"] == environment["TRANSFORMERS_OFFLINE"] == "1"


def test_the_last_layer_wins() -> None:
    environment = child_environment({"PATH": "/bin"}, {"A": "1", "B": "1"}, {"B": "2"})
    assert (environment["A"], environment["B"]) == ("1", "2")


def test_the_user_may_hand_a_token_over_explicitly() -> None:
    assert child_environment({"HF_TOKEN": "x"}, {"HF_TOKEN": "mine"})["HF_TOKEN"] == "mine"


def test_gpus_are_told_by_their_drivers(tmp_path: Path) -> None:
    assert Platform.here(tmp_path).gpus == ()
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text("x")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kfd").write_text("")
    assert Platform.here(tmp_path).gpus == ("nvidia", "amd")


def test_apple_silicon() -> None:
    assert Platform("Darwin", "arm64").apple_silicon
    assert not Platform("Darwin", "x86_64").apple_silicon
    assert not Platform("Linux", "arm64").apple_silicon
