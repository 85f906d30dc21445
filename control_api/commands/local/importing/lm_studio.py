"""LM Studio: the models in its folder, and the settings that it keeps for each of them.

Nothing of this is documented by LM Studio; seen in its versions 0.3 and 0.4: models lie in
``models/PUBLISHER/REPOSITORY/``; settings in ``.internal/user-concrete-model-default-config/``
under the same path with ``.json`` behind it, as ``load`` and ``operation``, each with ``fields`` of
a ``key`` and a ``value``. A value that can be switched off is ``{"checked": …, "value": …}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from control_api.commands.local.importing.modelfile import read_json
from control_api.commands.local.importing.reading import Document
from control_api.commands.local.importing.values import Item

_LOAD: Final = "llm.load."
_ASKED: Final = "llm.prediction."
_PARAMS: Final = {
    "temperature": "temperature", "topKSampling": "top_k", "topPSampling": "top_p",
    "minPSampling": "min_p", "repeatPenalty": "repeat_penalty",
    "llama.presencePenalty": "presence_penalty", "presencePenalty": "presence_penalty",
    "llama.frequencyPenalty": "frequency_penalty", "maxPredictedTokens": "max_tokens",
    "stopStrings": "stop", "seed": "seed",
}  # fmt: skip
_FLAGS: Final = {
    "llama.evalBatchSize": "-b", "llama.physicalBatchSize": "-ub", "llama.cpuThreadPoolSize": "-t",
    "llama.kCacheQuantizationType": "-ctk", "llama.vCacheQuantizationType": "-ctv",
    "llama.ropeFrequencyBase": "--rope-freq-base", "llama.ropeFrequencyScale": "--rope-freq-scale",
    "numExperts": "",
}  # fmt: skip
_WHY: Final = {
    "systemPrompt": "clients send their own system message.",
    "promptTemplate": "the template in the weights is used (`template`: another one).",
    "llama.tryMmap": "the engine maps the file as it sees fit.",
    "llama.keepModelInMemory": "`pin` and `keep_alive` decide that.",
    "llama.useUnifiedKvCache": "every slot has its own part, so that its context is sure.",
    "useUnifiedKvCache": "every slot has its own part, so that its context is sure.",
    "offloadKVCacheToGpu": "it is where the layers are.",
    "llama.offloadKVCacheToGpu": "it is where the layers are.",
}


def apply(item: Item, text: str, source: str, *, gguf: bool) -> None:
    """Put the settings of one file into its model. ``gguf``: it runs in llama-server. Raises
    ConfigError."""
    document = Document(source)
    values = read_json(document, text)
    if not document.mistakes and not isinstance(values, dict):
        document.wrong((), "something else", "a table")
    document.check()
    params: dict[str, Any] = {}
    args: list[str] = []
    for part in ("load", "operation"):
        for key, value in _fields(document, values, part):
            if key.startswith(_LOAD):
                _load(item, key.removeprefix(_LOAD), value, args)
            elif key.startswith(_ASKED) and (name := _PARAMS.get(key.removeprefix(_ASKED))):
                params[name] = value
            else:
                short = key.removeprefix(_ASKED)
                item.say(short, value, _WHY.get(short, "modelport has nothing of that name."))
    document.check()
    if values.get("preset"):
        item.say("preset", values["preset"], "presets of LM Studio are not read.")
    if params:
        item.set("params", {"default": params})
    if args and gguf:
        item.set("args", args)
    elif args:
        item.say("load", " ".join(args), "settings of llama.cpp; this model is none of its.")


def _fields(document: Document, values: Mapping[str, Any], part: str) -> list[tuple[str, Any]]:
    """The keys and values of one part; what is switched off is left out."""
    table = values.get(part, {})
    listed = table.get("fields", []) if isinstance(table, dict) else None
    if not isinstance(listed, list):
        document.wrong((part, "fields"), "something else", "a list of fields")
        return []
    found = []
    for index, one in enumerate(listed):
        if not isinstance(one, dict) or not isinstance(one.get("key"), str):
            document.wrong((part, "fields", index), "something else", "a key and a value")
            continue
        value = one.get("value")
        if isinstance(value, dict) and "checked" in value:
            if not value["checked"]:
                continue
            value = value.get("value")
        if value is not None and value != "":
            found.append((one["key"], value))
    return found


def _load(item: Item, key: str, value: Any, args: list[str]) -> None:
    number = isinstance(value, int) and not isinstance(value, bool)
    if key == "contextLength" and number:
        item.set("ctx", value)
    elif key in ("numParallelSessions", "llama.numParallelSessions") and number:
        item.set("slots", value)
    elif key in ("llama.flashAttention", "flashAttention") and isinstance(value, bool):
        args += ["-fa", "on" if value else "off"]
    elif key == "llama.acceleration.offloadRatio":
        if value in (0, "off") and value is not False:
            args += ["-ngl", "0"]
        elif value not in (1, "max"):
            item.say(key, value, "a share of the layers; a number of them: `-ngl` in `args`.")
    elif _FLAGS.get(key) and isinstance(value, int | float | str) and not isinstance(value, bool):
        args += [_FLAGS[key], str(value)]
    else:
        item.say(key, value, _WHY.get(key, "modelport has nothing of that name."))
