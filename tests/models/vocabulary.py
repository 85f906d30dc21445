"""Vocabulary, chat template and weights shared by the tiny test models.

A tiny model is a real Llama-architecture network that says one fixed reply
whatever it is asked.  Every attention and feed-forward block adds zero to the
residual stream, so the next token depends on the last one alone:

    any prompt token -> reply[0] -> reply[1] -> ... -> reply[-1] -> end of turn

That makes a server's answer predictable (text, token count, finish reason, tool
calls) at any temperature, while loading, batching, KV cache and sampling are the
backend's real ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]

END_OF_TURN = "<|im_end|>"
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", END_OF_TURN]
MARKUP_TOKENS = ["<tool_call>", "</tool_call>", "<think>", "</think>"]

DEFAULT_REPLY = "one two three four five six seven eight nine ten"

CHAT_TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- 'You may call these functions:\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' + (tool | tojson) }}
    {%- endfor %}
    {{- '\\n</tools>\\nTo call one, answer with:\\n' }}
    {{- '<tool_call>\\n{"name": NAME, "arguments": OBJECT}\\n</tool_call><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' and loop.first %}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content }}
        {{- '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- if message.content %}
            {{- message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls or [] %}
            {%- if tool_call.function %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' + tool_call.name + '", "arguments": ' }}
            {%- if tool_call.arguments is string %}
                {{- tool_call.arguments }}
            {%- else %}
                {{- tool_call.arguments | tojson }}
            {%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def byte_alphabet() -> list[str]:
    """The printable stand-in for each byte value used by byte-level BPE."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


_ALPHABET = byte_alphabet()


def to_byte_level(text: str) -> str:
    """How byte-level BPE writes this text as a token."""
    return "".join(_ALPHABET[byte] for byte in text.encode())


@dataclass(frozen=True)
class Vocabulary:
    """Token strings in id order; ``reply`` holds the ids of the fixed reply."""

    tokens: list[str]
    merges: list[str]
    special: dict[str, int]
    markup: dict[str, int]
    reply: list[int]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def end_of_turn(self) -> int:
        return self.special[END_OF_TURN]


def split_reply(text: str) -> list[str]:
    """Cut a reply into pieces that are all different, about one word each.

    Prompts are made of single bytes and special tokens.  No piece is a single
    byte, so that only markup can send a prompt into the middle of the reply.
    """
    markup = "|".join(re.escape(token) for token in MARKUP_TOKENS)
    word = rf"\s*(?:(?!{markup})\S)+(?:\s+(?={markup}|$))?"
    pieces: list[str] = []
    pending = ""
    for part in re.findall(rf"{markup}|{word}|\s+", text):
        pending += part
        if len(pending.encode()) > 1 and pending not in pieces:
            pieces.append(pending)
            pending = ""
    if not pieces:
        raise ValueError("the reply needs at least two bytes")
    pieces[-1] += pending
    if pieces[-1] in pieces[:-1]:
        raise ValueError(f"cannot cut the reply into different pieces: {text!r}")
    return pieces


def build_vocabulary(reply: str = DEFAULT_REPLY) -> Vocabulary:
    """All single bytes, the special and markup tokens, and the pieces of ``reply``."""
    tokens = [*_ALPHABET]
    ids = {token: index for index, token in enumerate(tokens)}

    def add(token: str) -> int:
        if token not in ids:
            ids[token] = len(tokens)
            tokens.append(token)
        return ids[token]

    # llama.cpp refuses a BPE vocabulary without merges; "th" is as good as any.
    add("th")
    special = {token: add(token) for token in SPECIAL_TOKENS}
    markup = {token: add(token) for token in MARKUP_TOKENS}
    reply_ids = [
        markup[piece] if piece in markup else add(to_byte_level(piece))
        for piece in split_reply(reply)
    ]
    return Vocabulary(tokens, ["t h"], special, markup, reply_ids)


def chain_weights(
    vocab: Vocabulary, dim: int, *, loop: bool = False, seed: int = 0
) -> tuple[Matrix, Matrix]:
    """Embedding and output matrices (vocab x dim, float32) that spell the reply.

    With ``loop`` the reply repeats until the caller's token limit.
    """
    rng = np.random.default_rng(seed)

    def unit(rows: int) -> Matrix:
        vectors = rng.standard_normal((rows, dim)).astype(np.float32)
        normed: Matrix = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return normed

    prompt_direction = unit(1)
    embedding = prompt_direction + 0.2 * unit(len(vocab))
    embedding[vocab.reply] = unit(len(vocab.reply))

    successor = dict(pairwise(vocab.reply))
    successor[vocab.reply[-1]] = vocab.reply[0] if loop else vocab.end_of_turn

    output = np.zeros((len(vocab), dim), dtype=np.float32)
    output[vocab.reply[0]] += prompt_direction[0]
    for token, following in successor.items():
        output[following] += embedding[token]
    output *= 6.0

    _check_chain(vocab, embedding, output, successor)
    return embedding, output


def _check_chain(
    vocab: Vocabulary, embedding: Matrix, output: Matrix, successor: dict[int, int]
) -> None:
    """Raise ValueError unless every token's intended follower wins by 10 logits."""
    normed = embedding / np.sqrt(np.mean(embedding**2, axis=1, keepdims=True))
    logits = normed @ output.T
    expected = np.full(len(vocab), vocab.reply[0])
    for token, following in successor.items():
        expected[token] = following
    chosen = logits[np.arange(len(vocab)), expected].copy()
    logits[np.arange(len(vocab)), expected] = -np.inf
    if np.min(chosen - logits.max(axis=1)) < 10.0:
        raise ValueError("the reply is too long for this dim: take a larger one")


def random_weights(vocab: Vocabulary, dim: int, seed: int = 0) -> tuple[Matrix, Matrix]:
    """Embedding and output matrices of noise: the model babbles bytes."""
    rng = np.random.default_rng(seed)
    shape = (len(vocab), dim)
    return (
        rng.standard_normal(shape).astype(np.float32),
        rng.standard_normal(shape).astype(np.float32),
    )


def parse_size(text: str) -> int:
    """Bytes from '750M' or '2G' (binary multiples); ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise ValueError(f"not a size: {text!r}")
    power = {"": 0, "K": 10, "M": 20, "G": 30}[match[2].upper()]
    return int(float(match[1]) * (1 << power))
