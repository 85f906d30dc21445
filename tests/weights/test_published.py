"""Figures of the presets: there for every form, and read as a header would be."""

from __future__ import annotations

import pytest

from daemon.config.presets import load_presets
from daemon.weights.footprint import Shape, kv_bytes
from daemon.weights.published import figures, known

WITHOUT: dict[tuple[str, str], str] = {}  # forms of presets without figures, each with a reason


def test_every_form_of_every_preset_has_figures_and_a_size() -> None:
    presets = load_presets().items()
    forms = {(name, "gguf"): preset.gguf for name, preset in presets if preset.gguf}
    forms |= {(name, "mlx"): preset.mlx for name, preset in presets if preset.mlx}
    assert known() == forms.keys() - WITHOUT.keys()
    assert all(form.size for form in forms.values())


def test_of_others_there_are_none() -> None:
    assert figures("nobody", "gguf") is None
    assert figures("nomic-embed-text-v1.5", "mlx") is None


@pytest.mark.parametrize(("preset", "form"), sorted(known()))
def test_they_are_understood(preset: str, form: str) -> None:
    found = figures(preset, form)
    assert found is not None
    weights = found.weights(preset, "chat", "Q8_0", 1 << 30)
    assert weights.exact
    assert (weights.tensor_bytes, weights.disk_bytes, weights.files) == (1 << 30, 1 << 30, ())
    assert (weights.quantisation, weights.kind) == ("Q8_0", "chat")
    assert weights.n_ctx_train >= 2048
    assert weights.n_embd > 0
    assert weights.graph_width > 0
    assert form == "mlx" or weights.n_vocab > 30_000


def test_the_cache_of_qwen3_coder_is_the_one_that_is_known() -> None:
    """98,304 bytes a token: other programs get a half or a sixth of it."""
    for form in ("gguf", "mlx"):
        found = figures("qwen3-coder", form)
        assert found is not None
        weights = found.weights("qwen3-coder", "chat", "", 1)
        assert kv_bytes(weights, Shape(65536)) == 98304 * 65536


@pytest.mark.parametrize(
    "preset",
    sorted({name for name, form in known() if (name, "mlx") in known() and form == "gguf"}),
)
def test_both_forms_of_a_model_remember_the_same(preset: str) -> None:
    """Their caches differ by what engines keep beside keys and values only."""
    caches = []
    for form in ("gguf", "mlx"):
        found = figures(preset, form)
        assert found is not None
        weights = found.weights(preset, "chat", "", 1)
        caches.append((len(weights.layers), weights.n_ctx_train, kv_bytes(weights, Shape(32768))))
    assert caches[0][:2] == caches[1][:2]
    assert caches[0][2] == pytest.approx(caches[1][2], rel=0.05)


def test_windows_and_states_are_seen() -> None:
    gpt_oss, nemotron = figures("gpt-oss-20b", "gguf"), figures("nemotron-3-nano", "gguf")
    assert gpt_oss is not None
    assert nemotron is not None
    layers = gpt_oss.weights("", "chat", "", 1).layers
    assert [layer.window for layer in layers[:2]] == [128, None]
    assert nemotron.weights("", "chat", "", 1).recurrent
