"""Models of the guides as their publishers describe them: the numbers that decide about memory.

GGUF: the metadata keys of the files (names as llama.cpp writes them), taken from the models'
``config.json`` on the hub; MLX: that ``config.json`` itself, the text part. Sizes are those of the
presets, unless ``tensors`` says better. Nothing here was downloaded: see docs/untested.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Keys = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Published:
    """One form of a preset. ``tensors``: bytes, None for the preset's size; ``quant`` names another
    quantisation of the preset."""

    preset: str
    form: str
    architecture: str
    keys: Keys = field(repr=False)
    tensors: int | None = None
    quant: str = ""

    @property
    def name(self) -> str:
        how = self.quant or {"gguf": "GGUF", "mlx": "MLX"}[self.form]
        return f"{self.preset} ({how})"


QWEN3_MOE = {
    "block_count": 48,
    "context_length": 262144,
    "embedding_length": 2048,
    "feed_forward_length": 5472,
    "attention.head_count": 32,
    "attention.head_count_kv": 4,
    "attention.key_length": 128,
    "attention.value_length": 128,
    "expert_count": 128,
    "expert_used_count": 8,
    "expert_feed_forward_length": 768,
}
GPT_OSS = {
    "block_count": 24,
    "context_length": 131072,
    "embedding_length": 2880,
    "feed_forward_length": 2880,
    "attention.head_count": 64,
    "attention.head_count_kv": 8,
    "attention.key_length": 64,
    "attention.value_length": 64,
    "attention.sliding_window": 128,
    "expert_count": 32,
    "expert_used_count": 4,
    "expert_feed_forward_length": 2880,
}
QWEN3_NEXT = {
    "block_count": 48,
    "context_length": 262144,
    "embedding_length": 2048,
    "feed_forward_length": 5120,
    "attention.head_count": 16,
    "attention.head_count_kv": 2,
    "attention.key_length": 256,
    "attention.value_length": 256,
    "expert_count": 512,
    "expert_used_count": 10,
    "expert_feed_forward_length": 512,
    "expert_shared_feed_forward_length": 512,
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 4096,
    "ssm.state_size": 128,
    "ssm.time_step_rank": 32,
    "ssm.group_count": 16,
}
# M: Mamba, E: experts, *: attention
NEMOTRON_LAYERS = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"
NEMOTRON = {
    "block_count": 52,
    "context_length": 262144,
    "embedding_length": 2688,
    "feed_forward_length": tuple(1856 if mark == "E" else 0 for mark in NEMOTRON_LAYERS),
    "attention.head_count": tuple(32 if mark == "*" else 0 for mark in NEMOTRON_LAYERS),
    "attention.head_count_kv": tuple(2 if mark == "*" else 0 for mark in NEMOTRON_LAYERS),
    "attention.key_length": 128,
    "attention.value_length": 128,
    "expert_count": 128,
    "expert_used_count": 6,
    "expert_feed_forward_length": 1856,
    "expert_shared_feed_forward_length": 3712,
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 4096,
    "ssm.state_size": 128,
    "ssm.time_step_rank": 64,
    "ssm.group_count": 8,
}
GLM_FLASH = {
    "block_count": 47,
    "context_length": 202752,
    "embedding_length": 2048,
    "feed_forward_length": 10240,
    "attention.head_count": 20,
    "attention.head_count_kv": 1,
    "attention.key_length": 576,
    "attention.value_length": 512,
    "attention.key_length_mla": 256,
    "attention.value_length_mla": 256,
    "attention.kv_lora_rank": 512,
    "rope.dimension_count": 64,
    "expert_count": 64,
    "expert_used_count": 4,
    "expert_feed_forward_length": 1536,
}
QWEN36_27B = {
    "block_count": 64,
    "context_length": 262144,
    "embedding_length": 5120,
    "feed_forward_length": 17408,
    "attention.head_count": 24,
    "attention.head_count_kv": 4,
    "attention.key_length": 256,
    "attention.value_length": 256,
    "full_attention_interval": 4,
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 6144,
    "ssm.state_size": 128,
    "ssm.time_step_rank": 48,
    "ssm.group_count": 16,
}


def dense(
    layers: int, ctx: int, width: int, ff: int, heads: int, kv_heads: int, **more: Any
) -> dict[str, Any]:
    return {
        "block_count": layers,
        "context_length": ctx,
        "embedding_length": width,
        "feed_forward_length": ff,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        **more,
    }


GEMMA_E4B = {
    "model_type": "gemma4_text",
    "num_hidden_layers": 42,
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "global_head_dim": 512,
    "sliding_window": 512,
    "num_kv_shared_layers": 18,
    "max_position_embeddings": 131072,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 7,
}
GEMMA_26B = {
    "model_type": "gemma4_text",
    "num_hidden_layers": 30,
    "hidden_size": 2816,
    "intermediate_size": 2112,
    "moe_intermediate_size": 704,
    "num_experts": 128,
    "top_k_experts": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "num_global_key_value_heads": 2,
    "head_dim": 256,
    "global_head_dim": 512,
    "sliding_window": 1024,
    "max_position_embeddings": 262144,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 5,
}
GLM_FLASH_MLX = {
    "model_type": "glm4_moe_lite",
    "num_hidden_layers": 47,
    "hidden_size": 2048,
    "intermediate_size": 10240,
    "moe_intermediate_size": 1536,
    "num_attention_heads": 20,
    "num_key_value_heads": 20,
    "q_lora_rank": 768,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "v_head_dim": 256,
    "n_routed_experts": 64,
    "num_experts_per_tok": 4,
    "max_position_embeddings": 202752,
}
QWEN3_CODER_MLX = {
    "model_type": "qwen3_moe",
    "num_hidden_layers": 48,
    "hidden_size": 2048,
    "intermediate_size": 5472,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "max_position_embeddings": 262144,
}
QWEN35_9B = {
    "model_type": "qwen3_5_text",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "full_attention_interval": 4,
    "linear_num_value_heads": 32,
    "linear_num_key_heads": 16,
    "linear_value_head_dim": 128,
    "linear_key_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "max_position_embeddings": 262144,
}
QWEN25_7B = {
    "model_type": "qwen2",
    "num_hidden_layers": 28,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
}

QWEN3_06B = {
    "model_type": "qwen3",
    "num_hidden_layers": 28,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
}

MODELS = (
    Published("gpt-oss-20b", "gguf", "gpt-oss", GPT_OSS),
    Published("qwen3-30b", "gguf", "qwen3moe", {**QWEN3_MOE, "feed_forward_length": 6144}),
    Published("qwen3-coder", "gguf", "qwen3moe", QWEN3_MOE),
    Published("qwen3-coder", "gguf", "qwen3moe", QWEN3_MOE, quant="Q3_K_XL"),
    # 30.5 billion weights at 4.5 bits
    Published("qwen3-coder", "mlx", "qwen3_moe", QWEN3_CODER_MLX, tensors=17_180_000_000),
    Published("qwen3-coder-q8", "gguf", "qwen3moe", QWEN3_MOE),
    Published("qwen3-next", "gguf", "qwen3next", QWEN3_NEXT),
    Published("nemotron-3-nano", "gguf", "nemotron_h_moe", NEMOTRON),
    Published("glm-4.7-flash", "gguf", "deepseek2", GLM_FLASH),
    Published("glm-4.7-flash", "gguf", "deepseek2", GLM_FLASH, quant="Q8_0"),
    Published("glm-4.7-flash", "mlx", "glm4_moe_lite", GLM_FLASH_MLX),
    Published("qwen3-vl", "gguf", "qwen3vlmoe", {**QWEN3_MOE, "feed_forward_length": 6144}),
    Published("qwen3.6-27b", "gguf", "qwen35", QWEN36_27B),
    Published("llama3.1-8b", "gguf", "llama", dense(32, 131072, 4096, 14336, 32, 8)),
    Published("llama3.1-70b", "gguf", "llama", dense(80, 131072, 8192, 28672, 64, 8)),
    Published("qwen2.5-coder-32b", "gguf", "qwen2", dense(64, 32768, 5120, 27648, 40, 8)),
    Published("gemma-4-e4b", "mlx", "gemma4", GEMMA_E4B),
    Published("gemma-4-26b", "mlx", "gemma4", GEMMA_26B),
    Published("qwen3.5-9b", "mlx", "qwen3_5", QWEN35_9B),
    Published("qwen2.5-coder-7b", "mlx", "qwen2", QWEN25_7B),
    Published(
        "qwen3-0.6b",
        "gguf",
        "qwen3",
        dense(
            28,
            40960,
            1024,
            3072,
            16,
            8,
            **{"attention.key_length": 128, "attention.value_length": 128},
        ),
    ),
    Published("qwen3-0.6b", "mlx", "qwen3", QWEN3_06B),
    Published("smollm2-135m", "gguf", "llama", dense(30, 8192, 576, 1536, 9, 3)),
    Published("nomic-embed-text-v1.5", "gguf", "nomic-bert", dense(12, 2048, 768, 3072, 12, 12)),
    Published("bge-reranker-v2-m3", "gguf", "bert", dense(24, 8192, 1024, 4096, 16, 16)),
)
