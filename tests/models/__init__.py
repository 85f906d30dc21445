"""Writers of tiny real models, whose answers are known in advance.

``make_gguf`` and ``make_embedding_gguf`` are for llama.cpp, ``make_hf`` is for MLX; ``python -m
tests.models --help`` is the same as a command.
"""

from tests.models.embedding import make_embedding_gguf
from tests.models.gguf_file import Shape, make_gguf
from tests.models.hf_folder import make_hf
from tests.models.vocabulary import DEFAULT_REPLY, parse_size

TOOL_REPLY = '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>'
"""A reply that servers with a chat template turn into one call of a tool named ``ping``."""

__all__ = [
    "DEFAULT_REPLY",
    "TOOL_REPLY",
    "Shape",
    "make_embedding_gguf",
    "make_gguf",
    "make_hf",
    "parse_size",
]
