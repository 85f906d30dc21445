"""Headers that were made to hurt: only the one error, little memory, little time.

A few hundred by default; ``-m slow`` reads 100,000 of each kind.
"""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.weights import safetensors
from daemon.weights.describe import describe
from daemon.weights.errors import WeightsError
from daemon.weights.gguf import read_header
from tests.models.net import write
from tests.models.zoo import ZOO
from tests.weights.files import smollm2, write_safetensors

FEW, MANY = 400, 100_000
SECONDS = 1.0  # of this thread, for one file
MEMORY = 64 << 20
# Sizes that overflow something: counts, lengths, products, signs.
NUMBERS = (0, 1, 2, 0x7F, 0xFF, 0xFFFF, 1 << 16, 0x7FFFFFFF, 1 << 31, 0xFFFFFFFF, 1 << 40,
           1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip
TOKENS = (b"[", b"{", b'"', b"}", b"]", b",", b":", b"-", b"1e999", b"null", b"\0", b"\xff\xfe",
          b'{"a":' * 50, b"[" * 500, b"9" * 400, b'"__metadata__":{}')  # fmt: skip

Read = Callable[[Path], object]


def gguf_seeds(folder: Path) -> list[bytes]:
    """Heads of real and of made models: their metadata and tensor infos, no data."""
    seeds = []
    for name in ("gemma-3-27b", "glm-4.7-flash", "nemotron-3-nano", "bge-m3"):
        path = write(ZOO[name][1](), folder / "seed.gguf", dtype="f16", context=512)
        seeds.append(path.read_bytes()[: 1 << 16])
    return seeds


def safetensors_seeds(folder: Path) -> list[bytes]:
    tensors = {f"layers.{i}.w": ("F16", (4, 8)) for i in range(5)}
    small = write_safetensors(folder / "a.safetensors", tensors).read_bytes()
    one = write_safetensors(folder / "b.safetensors", {"w": ("U32", (2,))}).read_bytes()
    return [small, one]


def mutated(rng: random.Random, seed: bytes) -> bytes:
    """One to eight changes: numbers and tokens where others stood, pieces moved, doubled, cut."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(data)) if data else 0
        kind = rng.randrange(8)
        if kind == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + 8] = struct.pack("<Q", rng.choice(NUMBERS))
        elif kind == 2:
            data[at : at + 4] = struct.pack("<I", rng.choice(NUMBERS) & 0xFFFFFFFF)
        elif kind == 3:
            data[at:at] = rng.choice(TOKENS)
        elif kind == 4:
            del data[at : at + rng.randrange(1, 64)]
        elif kind == 5:
            piece = bytes(data[at : at + rng.randrange(1, 200)])
            data[at:at] = piece * rng.choice((1, 2, 50))
        elif kind == 6:
            data = data[:at]
        else:  # the counts and lengths at the head, where most is decided
            at = rng.randrange(0, 40)
            data[at : at + 8] = struct.pack("<Q", rng.choice(NUMBERS))
    return bytes(data[: 1 << 20])


def made_gguf(rng: random.Random) -> bytes:
    """A head from nothing, whose claims are lies half of the time."""

    def number() -> int:
        return rng.choice(NUMBERS) if rng.random() < 0.3 else rng.randrange(6)

    def name() -> bytes:
        text = rng.choice((b"general.architecture", b"llama.block_count", b"x" * 300, b"\xff", b""))
        return struct.pack("<Q", number() if rng.random() < 0.1 else len(text)) + text

    def value(depth: int = 0) -> bytes:
        kind = rng.randrange(14)
        head = struct.pack("<I", kind)
        if kind == 9 and depth < 6:
            inner = value(depth + 1)
            return head + inner[:4] + struct.pack("<Q", number()) + inner[4:]
        return head + (name() if kind == 8 else rng.randbytes(rng.choice((1, 4, 8))))

    def tensor() -> bytes:
        rank = rng.randrange(6)
        sizes = b"".join(struct.pack("<Q", number()) for _ in range(rank))
        return (
            name()
            + struct.pack("<I", rank)
            + sizes
            + struct.pack("<IQ", rng.randrange(50), number())
        )

    keys, tensors = rng.randrange(5), rng.randrange(5)
    claims = [number() if rng.random() < 0.2 else true for true in (tensors, keys)]
    body = b"".join(name() + value() for _ in range(keys))
    body += b"".join(tensor() for _ in range(tensors))
    return b"GGUF" + struct.pack("<IQQ", rng.choice((2, 3, 3, 3)), *claims) + body + bytes(256)


def made_safetensors(rng: random.Random) -> bytes:
    def number() -> object:
        return rng.choice((*NUMBERS, -1, 0.5, True, None, "1", [1])) if rng.random() < 0.3 else 4

    entries: dict[str, object] = {}
    for index in range(rng.randrange(6)):
        shape = [number() for _ in range(rng.randrange(20))]
        dtype = rng.choice(("F16", "F4", "NEW", "", "x" * 500))
        offsets = [number() for _ in range(rng.choice((2, 2, 2, 0, 3)))]
        entries[rng.choice((f"t{index}", "__metadata__"))] = {
            "dtype": dtype, "shape": shape, "data_offsets": offsets
        }  # fmt: skip
    text = json.dumps(entries).encode()
    length = len(text) if rng.random() < 0.8 else rng.choice(NUMBERS)
    return struct.pack("<Q", length) + text + bytes(rng.choice((0, 8, 64)))


def survived(read: Read, make: Callable[[random.Random], bytes], path: Path, count: int) -> int:
    """Read ``count`` made files; how many were refused. Fails by anything but WeightsError."""
    refused = 0
    rng = random.Random(int(os.environ.get("MODELPORT_SEED", "1")))
    for _ in range(count):
        data = make(rng)
        path.write_bytes(data)
        began = time.thread_time()
        said = ""
        try:
            read(path)
        except WeightsError as error:
            refused += 1
            said = str(error)
        except BaseException:
            print(f"by this file: {data!r}")
            raise
        assert len(said) < 1000  # it is for people
        assert time.thread_time() - began < SECONDS
    return refused


KINDS = ("gguf mutated", "gguf made", "safetensors mutated", "safetensors made")
COUNTS = [FEW, pytest.param(MANY, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_one_error_and_little_memory(kind: str, count: int, tmp_path: Path) -> None:
    form, _, how = kind.partition(" ")
    seeds = gguf_seeds(tmp_path) if form == "gguf" else safetensors_seeds(tmp_path)
    made = made_gguf if form == "gguf" else made_safetensors

    def make(rng: random.Random) -> bytes:
        return mutated(rng, rng.choice(seeds)) if how == "mutated" else made(rng)

    # A GGUF that passes is understood to its end: the layers' arithmetic too.
    read: Read = describe if form == "gguf" else safetensors.read_header
    path = tmp_path / f"x.{form}"
    survived(read, make, path, 20)  # what is imported and cached at first is no leak
    tracemalloc.start()
    try:
        refused = survived(read, make, path, count)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY
    assert refused > count // 4  # else they were not hostile


LARGE = """
import resource, struct, sys
from pathlib import Path
from daemon.weights.describe import describe
from daemon.weights.errors import WeightsError

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in map(Path, sys.argv[1:]):
    try:
        describe(path)
    except WeightsError:
        pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
"""


def large_heads(folder: Path) -> list[Path]:
    """Files whose heads are as large as they may claim to be: holes of 300 MiB."""

    def string(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    def head(keys: int, tensors: int = 0) -> bytes:
        return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys)

    bodies = {
        "bytes": head(1) + string(b"a") + struct.pack("<IIQ", 9, 0, 250 << 20),
        "strings": head(1) + string(b"a") + struct.pack("<IIQ", 9, 8, 30 << 20),
        "text": head(20) + (string(b"a") + struct.pack("<IQ", 8, 16 << 20)),
        "nested": head(1) + string(b"a") + struct.pack("<IIQ", 9, 9, 20 << 20),
        "keys": head(65_536)
        + b"".join(string(b"%d" % i) + struct.pack("<IB", 0, 1) for i in range(65_536)),
        "tensors": head(0, 1_000_000),
    }
    paths = []
    for name, body in bodies.items():
        path = folder / f"{name}.gguf"
        path.write_bytes(body)
        os.truncate(path, 300 << 20)
        paths.append(path)
    return paths


@pytest.mark.slow
def test_heads_as_large_as_they_may_be_take_little_memory(tmp_path: Path) -> None:
    """In a process of its own: what the system gave it, not what Python counts."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", LARGE, *map(str, large_heads(tmp_path))],
        capture_output=True, text=True, timeout=50, check=True, env={**os.environ},
    )  # fmt: skip
    assert int(done.stdout) < MEMORY, done.stdout


def test_a_real_models_head_is_read_and_its_cuts_are_refused(tmp_path: Path) -> None:
    whole = smollm2()
    header = read_header(whole)
    data = whole.read_bytes()[: header.data_offset]
    path = tmp_path / "cut.gguf"
    for cut in range(0, len(data), max(1, len(data) // 40)):
        path.write_bytes(data[:cut])
        with pytest.raises(WeightsError):
            describe(path)
