"""Write a tiny vision projector (mmproj) that llama.cpp loads beside a made model.

It is of the kind that Gemma 3 has, which needs the fewest tensors: patches, their places, a norm
and one matrix. Without a block between them an image costs no time, and its tokens are zero: what
a made model says does not change, only the prompt grows by ``IMAGE_TOKENS``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import gguf
import numpy as np
from gguf import GGUFWriter

from tests.models.gguf_file import TINY

SIDE: Final = 64  # pixels of an image, whatever its own size was
PATCH: Final = 8
MERGE: Final = 2  # so many patches by so many become one token
IMAGE_TOKENS: Final = (SIDE // PATCH // MERGE) ** 2
_WIDTH: Final = 32  # of the vision part


def make_mmproj(path: Path, *, dim: int = TINY.dim, name: str = "tiny eye") -> None:
    """Write a projector for a model of the embedding length ``dim`` to ``path``."""
    writer = GGUFWriter(path, "clip")
    writer.add_name(name)
    writer.add_type("mmproj")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("gemma3")
    writer.add_vision_projection_dim(dim)
    writer.add_vision_image_size(SIDE)
    writer.add_vision_patch_size(PATCH)
    writer.add_vision_embedding_length(_WIDTH)
    writer.add_vision_feed_forward_length(_WIDTH)
    writer.add_vision_block_count(0)
    writer.add_vision_head_count(1)
    writer.add_vision_attention_layernorm_eps(1e-6)
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    writer.add_vision_projector_scale_factor(MERGE)
    writer.add_vision_use_gelu(True)

    patches = (SIDE // PATCH) ** 2
    writer.add_tensor("v.patch_embd.weight", np.ones((_WIDTH, 3, PATCH, PATCH), np.float32))
    writer.add_tensor("v.position_embd.weight", np.zeros((patches, _WIDTH), np.float32))
    writer.add_tensor("mm.soft_emb_norm.weight", np.ones(_WIDTH, np.float32))
    writer.add_tensor("mm.input_projection.weight", np.zeros((_WIDTH, dim), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
