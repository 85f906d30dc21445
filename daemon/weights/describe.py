"""From a path to what is known of the model there. Reads headers only; blocks on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from daemon.weights import gguf, gguf_layers, hf_config, parts, safetensors
from daemon.weights.architectures import CACHELESS, EMBEDDERS
from daemon.weights.errors import PartError, WeightsError
from daemon.weights.facts import Kind, Layer, Weights, graph_width
from daemon.weights.ggml import FILE_TYPES
from daemon.weights.gguf import GGUFHeader, Value
from daemon.weights.reader import Skipped

__all__ = ["Layer", "PartError", "Weights", "WeightsError", "describe"]

_RANK: Final = 4  # llama.cpp's pooling type of rerankers
_TEMPLATE_LIMIT: Final = 1 << 20
_TOKENIZER_LIMIT: Final = 16 << 20


def describe(path: Path, *, mmproj: Path | None = None, draft: Path | None = None) -> Weights:
    """What the files at ``path`` say: a GGUF file, one of its shards, or a folder.

    ``mmproj`` is a projector for images or sound, ``draft`` a small model for speculative decoding;
    both are GGUF and count for the footprint. Takes up to a second: call it in a thread.
    Raises WeightsError with a sentence for people.
    """
    weights = _describe_path(path)
    if mmproj is not None:
        weights = _with_projector(weights, mmproj)
    if draft is not None:
        small = _describe_gguf(draft)
        weights = replace(
            weights,
            draft=small,
            extra_bytes=weights.extra_bytes + small.tensor_bytes,
            disk_bytes=weights.disk_bytes + small.disk_bytes,
        )
    return weights


def _describe_path(path: Path) -> Weights:
    if path.is_dir():
        return _describe_folder(path)
    if path.name == "config.json" or path.suffix == ".safetensors":
        return _describe_folder(path.parent)
    return _describe_gguf(path)


def _describe_folder(folder: Path) -> Weights:
    if (folder / "config.json").exists():
        return _describe_safetensors(folder)
    # A split model counts once; a projector beside the model is not a second model.
    models = sorted(
        {
            gguf.shard_paths(file)[0]
            for file in folder.glob("*.gguf")
            if "mmproj" not in file.name.lower()
        }
    )
    if len(models) == 1:
        return _describe_gguf(models[0])
    if not models:
        raise WeightsError(f"{folder}: holds neither a config.json nor a GGUF file")
    names = ", ".join(file.name for file in models[:5])
    raise WeightsError(f"{folder}: holds several models ({names}); name one of the files")


def _describe_gguf(path: Path) -> Weights:
    shards = gguf.read_shards(path)
    first = shards[0][1]
    metadata = first.metadata
    architecture = _text(metadata, "general.architecture")
    _refuse_parts(path, metadata, architecture)
    headers = [header for _, header in shards]
    gated = any(header.tally.gated for header in headers)
    shape = _in_file(path, metadata, architecture, gated=gated)
    template = _text(metadata, "tokenizer.chat_template") or None
    return Weights(
        format="gguf",
        files=tuple(file for file, _ in shards),
        tensor_bytes=sum(header.tensor_bytes for header in headers),
        architecture=architecture,
        n_ctx_train=shape.n_ctx_train,
        n_embd=shape.n_embd,
        n_ff=shape.n_ff,
        graph_width=shape.width,
        layers=shape.layers,
        kind=_gguf_kind(metadata, architecture, template, any(h.classifier for h in headers)),
        template=template,
        quantisation=_gguf_quantisation(metadata, headers),
        name=(_text(metadata, "general.name") or shards[0][0].stem)[:200],
        disk_bytes=sum(header.file_size for header in headers),
        expert_bytes=sum(header.expert_bytes for header in headers),
        exact=shape.exact,
        n_vocab=_vocabulary(metadata, headers),
        parameters=sum(header.tally.elements for header in headers),
        heads=shape.heads,
        logits=shape.logits,
        recurrence=shape.recurrence,
        parts=parts.joined(
            (header.tally for header in headers),
            predicting=shape.predicting,
            count=len(shape.layers),
        ),
    )


def _vocabulary(metadata: Mapping[str, Value], headers: list[GGUFHeader]) -> int:
    """How many tokens the model knows; 0 where the file does not say."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, tuple):
        return len(tokens)
    if isinstance(tokens, Skipped):
        return tokens.length
    return max(header.tally.rows for header in headers)


def _in_file(
    path: Path, metadata: Mapping[str, Value], architecture: str, *, gated: bool
) -> gguf_layers.Network:
    try:
        return gguf_layers.network(metadata, architecture, gated=gated)
    except WeightsError as error:
        raise WeightsError(f"{path.name}: {error}") from None


def _refuse_parts(path: Path, metadata: Mapping[str, Value], architecture: str) -> None:
    """Raise for GGUF files that are a part of a model, named as if they were one."""
    kind = _text(metadata, "general.type")
    if kind == "imatrix":
        raise PartError(f"{path.name}: is an importance matrix, made for quantising; no model")
    if not architecture:
        raise WeightsError(f"{path.name}: does not name its architecture; the file is damaged")
    if architecture == "clip" or kind == "mmproj":
        raise PartError(f"{path.name}: is a projector for images; set it as the model's mmproj")
    if kind == "adapter":
        raise PartError(f"{path.name}: is an adapter, not a model; name the model it belongs to")


def _gguf_kind(
    metadata: Mapping[str, Value], architecture: str, template: str | None, classifier: bool
) -> Kind:
    pooling = metadata.get(f"{architecture}.pooling_type", 0)
    if pooling == _RANK or (classifier and architecture in EMBEDDERS):
        return "rerank"
    two_way = metadata.get(f"{architecture}.attention.causal") is False
    if pooling or architecture in EMBEDDERS or (two_way and architecture not in CACHELESS):
        return "embedding"
    return "chat" if template else "completion"


def _gguf_quantisation(metadata: Mapping[str, Value], headers: list[GGUFHeader]) -> str:
    file_type = metadata.get("general.file_type")
    if isinstance(file_type, int) and file_type in FILE_TYPES:
        return FILE_TYPES[file_type]
    sums: dict[str, int] = {}
    for header in headers:
        for name, amount in header.type_bytes.items():
            sums[name] = sums.get(name, 0) + amount
    return max(sums, key=lambda name: sums[name]) if sums else "unknown"


def _text(metadata: Mapping[str, Value], key: str) -> str:
    value = metadata.get(key)
    return value if isinstance(value, str) else ""


def _with_projector(weights: Weights, path: Path) -> Weights:
    header = gguf.read_header(path)
    architecture = _text(header.metadata, "general.architecture")
    if architecture != "clip" and _text(header.metadata, "general.type") != "mmproj":
        raise WeightsError(
            f"{path.name}: is not a projector (its architecture is {architecture[:40]!r}); "
            "an mmproj file is needed"
        )
    return replace(
        weights,
        vision=True,
        extra_bytes=weights.extra_bytes + header.tensor_bytes,
        extra_compute=weights.extra_compute + _projector_compute(header.metadata),
        disk_bytes=weights.disk_bytes + header.file_size,
    )


def _projector_compute(metadata: Mapping[str, Value]) -> int:
    """Bytes in which one image is encoded: the rule of text, with patches for tokens.

    An estimate by analogy; models with images of any size exceed it for very large ones.
    """
    keys = gguf_layers.Keys(metadata, "clip")
    patch = keys.number("vision.patch_size")
    image = keys.number("vision.image_size")
    if not patch or not image:
        return 0
    n_embd = keys.number("vision.embedding_length")
    heads = keys.number("vision.attention.head_count")
    width = graph_width(
        n_embd=n_embd,
        n_ff=keys.number("vision.feed_forward_length"),
        heads=heads,
        head_length=n_embd // heads if heads else 0,
    )
    patches = min((image // patch) ** 2, 1 << 16)
    return 4 * patches * width + 2 * patches * patches


def _describe_safetensors(folder: Path) -> Weights:
    config = safetensors.read_json(folder / "config.json")
    files = safetensors.weight_files(folder)
    headers = [safetensors.read_header(file) for file in files]
    type_bytes: dict[str, int] = {}
    for header in headers:
        for name, amount in header.type_bytes.items():
            type_bytes[name] = type_bytes.get(name, 0) + amount
    shape = hf_config.network(config)
    template = _folder_template(folder)
    sentence = (folder / "modules.json").exists() or (folder / "1_Pooling").is_dir()
    architectures = hf_config.Config(config).texts("architectures")
    return Weights(
        format="safetensors",
        files=files,
        tensor_bytes=sum(header.tensor_bytes for header in headers),
        architecture=hf_config.Config(config).text("model_type") or (architectures or [""])[0],
        n_ctx_train=shape.n_ctx_train,
        n_embd=shape.n_embd,
        n_ff=shape.n_ff,
        graph_width=shape.width,
        layers=shape.layers,
        kind=hf_config.kind_of(config, template=template is not None, sentence=sentence),
        template=template,
        quantisation=hf_config.quantisation_of(config, type_bytes),
        name=folder.name[:200],
        disk_bytes=sum(header.file_size for header in headers),
        vision=isinstance(config.get("vision_config"), dict),
        exact=shape.exact,
        recurrence=shape.recurrence,
        parameters=hf_config.parameters(config, type_bytes),
    )


def _folder_template(folder: Path) -> str | None:
    """The chat template of a folder: its own file, else the tokenizer's."""
    own = folder / "chat_template.jinja"
    if own.exists():
        return safetensors.read_text(own, _TEMPLATE_LIMIT).decode(errors="replace")
    for name, limit in (
        ("chat_template.json", _TEMPLATE_LIMIT),
        ("tokenizer_config.json", _TOKENIZER_LIMIT),
    ):
        file = folder / name
        if file.exists() and (found := _template_in(file, limit)) is not None:
            return found
    return None


def _template_in(file: Path, limit: int) -> str | None:
    template = safetensors.read_template(file, limit)
    if isinstance(template, str):
        return template
    if isinstance(template, list):  # several with names: engines use the default one
        named = sorted(template, key=lambda item: item.get("name") != "default")
        found = named[0].get("template") if named else None
        return found if isinstance(found, str) else None
    return None
