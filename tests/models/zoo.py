"""Headers of many architectures, in the sizes of real models or tiny, their weights a hole.

llama.cpp takes such a file for the model that it describes: what it would allot can be asked of
``llama-fit-params`` (nothing is loaded), and the tiny ones run. Names and shapes of tensors are
those that ``src/models/`` of llama.cpp demands; the sizes are the published ones of the models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.models.net import Net


def _heads(heads: int, kv: int | Sequence[int], head: int) -> dict[str, Any]:
    return {
        "attention.head_count": heads,
        "attention.head_count_kv": kv,
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": head,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
    }


def _ssm(inner: int, state: int, rank: int, groups: int = 0) -> dict[str, Any]:
    keys = {"conv_kernel": 4, "inner_size": inner, "state_size": state, "time_step_rank": rank}
    return {f"ssm.{name}": value for name, value in keys.items()} | (
        {"ssm.group_count": groups} if groups else {}
    )


def _moe(experts: int, used: int, width: int, shared: int = 0) -> dict[str, Any]:
    keys = {"expert_count": experts, "expert_used_count": used, "expert_feed_forward_length": width}
    return keys | ({"expert_shared_feed_forward_length": shared} if shared else {})


def dense(
    arch: str, layers: int, dim: int, ff: int, heads: int, kv: int, head: int, *,
    window: int = 0, bias: bool = False, norms: bool = False, post: bool = False,
    fused: bool = False,
) -> Net:  # fmt: skip
    """An ordinary decoder: Llama, Qwen, Gemma, Phi, Command R."""
    net = Net(arch, layers, dim, _heads(heads, kv, head) | {"feed_forward_length": ff})
    if window:
        net.keys["attention.sliding_window"] = window
    if arch == "cohere2":
        net.keys["logit_scale"] = 0.25
    for i in range(layers):
        net.norms(i, "attn_norm", *(() if arch == "cohere2" else ("ffn_norm",)))
        net.attend(i, heads, kv, head, bias=bias, norms=norms, fused=fused)
        if post:
            net.norms(i, "post_attention_norm", "post_ffw_norm")
        if fused:
            net.add(i, "ffn_up", dim, 2 * ff)
            net.add(i, "ffn_down", ff, dim)
        else:
            net.feed(i, ff)
    return net


def moe(
    layers: int, dim: int, heads: int, kv: int, head: int, experts: int, used: int, width: int
) -> Net:
    """Qwen3 with experts."""
    net = Net("qwen3moe", layers, dim, _heads(heads, kv, head) | _moe(experts, used, width))
    for i in range(layers):
        net.norms(i, "attn_norm", "ffn_norm")
        net.attend(i, heads, kv, head, norms=True)
        net.route(i, width, experts)
    return net


def gpt_oss(
    layers: int, dim: int, heads: int, kv: int, head: int, experts: int, used: int, width: int
) -> Net:
    keys = _heads(heads, kv, head) | _moe(experts, used, width) | {"attention.sliding_window": 128}
    net = Net("gpt-oss", layers, dim, keys, tied=False)
    for i in range(layers):
        net.norms(i, "attn_norm", "post_attention_norm")
        net.attend(i, heads, kv, head, bias=True)
        net.add(i, "attn_output.bias", dim)
        net.add(i, "attn_sinks", heads)
        net.route(i, width, experts)
        net.add(i, "ffn_gate_inp.bias", experts)
        net.add(i, "ffn_gate_exps.bias", width, experts)
        net.add(i, "ffn_up_exps.bias", width, experts)
        net.add(i, "ffn_down_exps.bias", dim, experts)
    return net


def mla(
    layers: int, dim: int, ff: int, heads: int, experts: int, used: int, width: int, *,
    query: int = 768, latent: int = 512, rope: int = 64, nope: int = 192, value: int = 256,
) -> Net:  # fmt: skip
    """DeepSeek and GLM Flash: compressed attention, the first layer dense."""
    keys = _heads(heads, 1, latent + rope) | _moe(experts, used, width)
    keys |= {
        "attention.value_length": latent,
        "attention.key_length_mla": nope + rope,
        "attention.value_length_mla": value,
        "attention.q_lora_rank": query,
        "attention.kv_lora_rank": latent,
        "rope.dimension_count": rope,
        "leading_dense_block_count": 1,
        "expert_shared_count": 1,
        "feed_forward_length": ff,
    }
    net = Net("deepseek2", layers, dim, keys)
    for i in range(layers):
        net.norms(i, "attn_norm", "ffn_norm")
        net.norms(i, "attn_q_a_norm", size=query)
        net.norms(i, "attn_kv_a_norm", size=latent)
        net.add(i, "attn_q_a", dim, query)
        net.add(i, "attn_q_b", query, heads * (nope + rope))
        net.add(i, "attn_kv_a_mqa", dim, latent + rope)
        net.add(i, "attn_k_b", nope, latent, heads)
        net.add(i, "attn_v_b", latent, value, heads)
        net.add(i, "attn_output", heads * value, dim)
        if i == 0:
            net.feed(i, ff)
        else:
            net.route(i, width, experts)
            net.feed(i, width, suffix="_shexp")
    return net


def glm4moe(
    layers: int, dim: int, ff: int, heads: int, kv: int, head: int, experts: int, used: int,
    width: int,
) -> Net:  # fmt: skip
    """GLM 4.5: its last layer predicts further tokens and is not loaded."""
    keys = _heads(heads, kv, head) | _moe(experts, used, width)
    keys |= {
        "leading_dense_block_count": 1,
        "expert_shared_count": 1,
        "nextn_predict_layers": 1,
        "feed_forward_length": ff,
        "rope.dimension_count": head // 2,
    }
    net = Net("glm4moe", layers, dim, keys)
    for i in range(layers):
        net.norms(i, "attn_norm", "post_attention_norm")
        net.attend(i, heads, kv, head, bias=True, norms=True)
        if i == 0:
            net.feed(i, ff)
        else:
            net.route(i, width, experts)
            net.add(i, "exp_probs_b.bias", experts)
            net.feed(i, width, suffix="_shexp")
    last = layers - 1
    net.add(last, "nextn.eh_proj", 2 * dim, dim)
    net.norms(last, "nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm")
    return net


def mamba(layers: int, dim: int, state: int) -> Net:
    rank = max(16, dim // 16)
    keys = _ssm(2 * dim, state, rank) | {"attention.layer_norm_rms_epsilon": 1e-5}
    net = Net("mamba", layers, dim, keys | {"feed_forward_length": 0, "attention.head_count": 0})
    for i in range(layers):
        net.norms(i, "attn_norm")
        net.mamba1(i, 2 * dim, state, rank)
    return net


def mamba2(layers: int, dim: int, state: int, rank: int) -> Net:
    keys = _ssm(2 * dim, state, rank, 1) | {"attention.layer_norm_rms_epsilon": 1e-5}
    net = Net("mamba2", layers, dim, keys | {"feed_forward_length": 0, "attention.head_count": 0})
    for i in range(layers):
        net.norms(i, "attn_norm")
        net.mamba2(i, 2 * dim, state, rank, 1)
    return net


def falcon_h1(
    layers: int, dim: int, ff: int, heads: int, kv: int, head: int, inner: int, state: int,
    rank: int,
) -> Net:  # fmt: skip
    """Attention and Mamba in each layer."""
    keys = _heads(heads, kv, head) | _ssm(inner, state, rank, 1) | {"feed_forward_length": ff}
    net = Net("falcon-h1", layers, dim, keys)
    for i in range(layers):
        net.norms(i, "attn_norm")
        net.mamba2(i, inner, state, rank, 1)
        net.attend(i, heads, kv, head)
        net.tensors.append((f"blk.{i}.ffn_norm", (dim,)))  # this one has no suffix
        net.feed(i, ff)
    return net


def granite_hybrid(
    layers: int, dim: int, heads: int, kv: int, head: int, state: int, rank: int, experts: int,
    used: int, width: int, shared: int, every: int = 10,
) -> Net:  # fmt: skip
    counts = [kv if i % every == every // 2 else 0 for i in range(layers)]
    keys = _heads(heads, counts, head) | _ssm(2 * dim, state, rank, 1)
    keys |= _moe(experts, used, width, shared) | {"feed_forward_length": width}
    net = Net("granitehybrid", layers, dim, keys)
    for i in range(layers):
        net.norms(i, "attn_norm", "ffn_norm")
        if counts[i]:
            net.attend(i, heads, kv, head)
        else:
            net.mamba2(i, 2 * dim, state, rank, 1)
        net.route(i, width, experts)
        net.feed(i, shared, suffix="_shexp")
    return net


def jamba(
    layers: int, dim: int, ff: int, heads: int, kv: int, experts: int, used: int, state: int
) -> Net:
    counts = [kv if i % 8 == 4 else 0 for i in range(layers)]
    rank = max(16, dim // 16)
    keys = _heads(heads, counts, dim // heads) | _ssm(2 * dim, state, rank)
    keys |= {"expert_count": experts, "expert_used_count": used, "feed_forward_length": ff}
    net = Net("jamba", layers, dim, keys)
    for i in range(layers):
        net.norms(i, "attn_norm", "ffn_norm")
        if counts[i]:
            net.attend(i, heads, kv, dim // heads)
        else:
            net.mamba1(i, 2 * dim, state, rank)
            net.norms(i, "ssm_dt_norm", size=rank)
            net.norms(i, "ssm_b_norm", "ssm_c_norm", size=state)
        if i % 2:
            net.route(i, ff, experts)
        else:
            net.feed(i, ff)
    return net


def delta(
    arch: str, layers: int, dim: int, ff: int, heads: int, kv: int, head: int, values: int,
    groups: int, experts: int = 0, used: int = 0, width: int = 0, state: int = 128,
) -> Net:  # fmt: skip
    """Qwen3-Next and Qwen3.5: three gated delta nets, then one attention."""
    inner, key = values * state, groups * state
    keys = _heads(heads, kv, head) | _ssm(inner, state, values, groups)
    keys |= {"feed_forward_length": ff, "rope.dimension_count": head // 4}
    if arch != "qwen3next":
        keys["rope.dimension_sections"] = [head // 24, head // 24, head // 24, 0]
    if experts:
        keys |= _moe(experts, used, width, width)
    net = Net(arch, layers, dim, keys)
    for i in range(layers):
        net.norms(i, "attn_norm", "post_attention_norm")
        if i % 4 == 3:
            net.attend(i, heads, kv, head, norms=True, gated=True)
        else:
            net.add(i, "attn_qkv", dim, 2 * key + inner)
            net.add(i, "attn_gate", dim, inner)
            net.add(i, "ssm_conv1d", 4, 2 * key + inner)
            net.add(i, "ssm_dt.bias", values)
            net.add(i, "ssm_a", values)
            if arch == "qwen3next":
                net.add(i, "ssm_ba", dim, 2 * values)
            else:
                net.add(i, "ssm_beta", dim, values)
                net.add(i, "ssm_alpha", dim, values)
            net.norms(i, "ssm_norm", size=state)
            net.add(i, "ssm_out", inner, dim)
        if experts:
            net.route(i, width, experts)
            net.add(i, "ffn_gate_inp_shexp", dim)
            net.feed(i, width, suffix="_shexp")
        else:
            net.feed(i, ff)
    return net


def nemotron(
    pattern: str, dim: int, heads: int, kv: int, head: int, inner: int, state: int, rank: int,
    groups: int, experts: int, used: int, width: int, shared: int,
) -> Net:  # fmt: skip
    """Nemotron 3: M a Mamba layer, * attention, E experts; each layer is one of them."""
    counts = [kv if mark == "*" else 0 for mark in pattern]
    keys = _heads(heads, counts, head) | _ssm(inner, state, rank, groups)
    keys |= _moe(experts, used, width, shared) | {"expert_shared_count": 1}
    keys["feed_forward_length"] = [width if mark == "E" else 0 for mark in pattern]
    net = Net("nemotron_h_moe", len(pattern), dim, keys)
    for i, mark in enumerate(pattern):
        net.norms(i, "attn_norm")
        if mark == "M":
            net.mamba2(i, inner, state, rank, groups)
        elif mark == "*":
            net.attend(i, heads, kv, head)
        else:
            net.route(i, width, experts, gate=False)
            net.add(i, "exp_probs_b.bias", experts)
            net.feed(i, shared, suffix="_shexp", gate=False)
    return net


def lfm2(layers: int, dim: int, ff: int, heads: int, kv: int) -> Net:
    counts = [kv if i % 3 == 2 else 0 for i in range(layers)]
    head = dim // heads
    keys = _heads(heads, counts, head) | {"feed_forward_length": ff, "shortconv.l_cache": 3}
    net = Net("lfm2", layers, dim, keys)
    for i in range(layers):
        net.norms(i, "attn_norm", "ffn_norm")
        net.feed(i, ff)
        if counts[i]:
            net.attend(i, heads, kv, head, norms=True)
        else:
            net.add(i, "shortconv.conv", 3, dim)
            net.add(i, "shortconv.in_proj", dim, 3 * dim)
            net.add(i, "shortconv.out_proj", dim, dim)
    return net


def encoder(arch: str, layers: int, dim: int, ff: int, heads: int) -> Net:
    """BERT and nomic-embed."""
    keys = _heads(heads, heads, dim // heads) | {"feed_forward_length": ff}
    keys |= {"attention.causal": False, "pooling_type": 1}
    net = Net(arch, layers, dim, keys, head=False)
    for i in range(layers):
        net.attend(i, heads, heads, dim // heads, fused=True)
        for name in ("attn_output_norm", "layer_output_norm"):
            net.norms(i, name)
            net.add(i, f"{name}.bias", dim)
        net.feed(i, ff, gate=arch != "bert")
    return net


Make = Callable[[], Net]
_NANO = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"

# Name: the published size, and a tiny one of the same kind.
ZOO: dict[str, tuple[Make, Make]] = {
    "llama-3.1-8b": (
        lambda: dense("llama", 32, 4096, 14336, 32, 8, 128),
        lambda: dense("llama", 4, 256, 768, 8, 2, 32),
    ),
    "qwen2.5-coder-32b": (
        lambda: dense("qwen2", 64, 5120, 27648, 40, 8, 128, bias=True),
        lambda: dense("qwen2", 4, 256, 1024, 8, 4, 32, bias=True),
    ),
    "qwen3-14b": (
        lambda: dense("qwen3", 40, 5120, 17408, 40, 8, 128, norms=True),
        lambda: dense("qwen3", 4, 256, 512, 8, 4, 64, norms=True),
    ),
    "phi-4": (
        lambda: dense("phi3", 40, 5120, 17920, 40, 10, 128, fused=True),
        lambda: dense("phi3", 4, 256, 1024, 8, 2, 32, fused=True),
    ),
    "command-r7b": (
        lambda: dense("cohere2", 32, 4096, 14336, 32, 8, 128, window=4096),
        lambda: dense("cohere2", 8, 256, 768, 8, 2, 32, window=512),
    ),
    "gemma-2-9b": (
        lambda: dense("gemma2", 42, 3584, 14336, 16, 8, 256, window=4096, post=True),
        lambda: dense("gemma2", 4, 256, 768, 4, 2, 64, window=512, post=True),
    ),
    "gemma-3-27b": (
        lambda: dense("gemma3", 62, 5376, 21504, 32, 16, 128, window=1024, post=True, norms=True),
        lambda: dense("gemma3", 6, 256, 1024, 4, 2, 64, window=512, post=True, norms=True),
    ),
    "qwen3-30b-a3b": (
        lambda: moe(48, 2048, 32, 4, 128, 128, 8, 768),
        lambda: moe(4, 256, 8, 2, 64, 16, 4, 128),
    ),
    "gpt-oss-20b": (
        lambda: gpt_oss(24, 2880, 64, 8, 64, 32, 4, 2880),
        lambda: gpt_oss(4, 256, 8, 2, 64, 8, 4, 256),
    ),
    "glm-4.7-flash": (
        lambda: mla(47, 2048, 10240, 20, 64, 4, 1536),
        lambda: mla(4, 256, 1024, 4, 8, 2, 128, query=96, latent=128, rope=32, nope=32, value=64),
    ),
    "glm-4.5-air": (
        lambda: glm4moe(47, 4096, 10944, 96, 8, 128, 128, 8, 1408),
        lambda: glm4moe(4, 256, 1024, 8, 2, 64, 8, 4, 128),
    ),
    "mamba-2.8b": (lambda: mamba(64, 2560, 16), lambda: mamba(4, 256, 16)),
    "mamba2-2.7b": (lambda: mamba2(64, 2560, 128, 80), lambda: mamba2(4, 256, 32, 8)),
    "falcon-h1-7b": (
        lambda: falcon_h1(44, 3072, 12288, 12, 2, 128, 3072, 256, 24),
        lambda: falcon_h1(4, 256, 768, 4, 2, 64, 256, 32, 8),
    ),
    "granite-4-h-tiny": (
        lambda: granite_hybrid(40, 1536, 12, 4, 128, 128, 48, 64, 6, 512, 1024),
        lambda: granite_hybrid(4, 256, 4, 2, 64, 32, 8, 8, 4, 128, 256, every=4),
    ),
    "jamba-mini": (
        lambda: jamba(32, 4096, 14336, 32, 8, 16, 2, 16),
        lambda: jamba(8, 256, 512, 4, 2, 4, 2, 16),
    ),
    "qwen3-next-80b": (
        lambda: delta("qwen3next", 48, 2048, 5120, 16, 2, 256, 32, 16, 512, 10, 512),
        lambda: delta("qwen3next", 4, 256, 512, 4, 2, 64, 4, 2, 8, 4, 128, state=64),
    ),
    "qwen3.5-35b-a3b": (
        lambda: delta("qwen35moe", 40, 2048, 0, 16, 2, 256, 32, 16, 256, 8, 512),
        lambda: delta("qwen35moe", 4, 256, 0, 4, 2, 96, 4, 2, 8, 4, 128, state=64),
    ),
    "qwen3.6-27b": (
        lambda: delta("qwen35", 64, 5120, 17408, 24, 4, 256, 48, 16),
        lambda: delta("qwen35", 4, 256, 768, 4, 2, 96, 4, 2, state=64),
    ),
    "nemotron-3-nano": (
        lambda: nemotron(_NANO, 2688, 32, 2, 128, 4096, 128, 64, 8, 128, 6, 1856, 3712),
        lambda: nemotron("MEM*E", 256, 4, 2, 64, 512, 32, 8, 2, 8, 4, 128, 256),
    ),
    "lfm2-2.6b": (
        lambda: lfm2(30, 2048, 10752, 32, 8),
        lambda: lfm2(6, 256, 768, 4, 2),
    ),
    "bge-m3": (
        lambda: encoder("bert", 24, 1024, 4096, 16),
        lambda: encoder("bert", 4, 256, 1024, 4),
    ),
    "nomic-embed": (
        lambda: encoder("nomic-bert", 12, 768, 3072, 12),
        lambda: encoder("nomic-bert", 4, 256, 512, 4),
    ),
}
