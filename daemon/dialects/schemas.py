"""JSON schemas of tools without what grammar converters choke on, and a check of arguments.

llama.cpp turns each tool's schema into a grammar; patterns that are not anchored, long counts and
rarer keywords make it refuse the whole request ("failed to parse grammar"). What is taken away is
said in the description, so that the model still knows it.
"""

from __future__ import annotations

from typing import Any

from daemon.dialects.fields import Json

_KEPT = ("type", "title", "description", "enum", "const", "default", "required", "$ref")
_SAID = (
    "format",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minItems",
    "maxItems",
)
_LONGEST = 80  # characters of a rule that is said in words
_DEPTH = 24
_ANY: Json = {}


def parameters(function: Json) -> Json:
    """A function's parameters, plain: always an object with properties."""
    schema = plain(function.get("parameters"))
    if schema.get("type") != "object" and "$ref" not in schema and "anyOf" not in schema:
        schema = {**schema, "type": "object"}
    schema.setdefault("properties", {})
    return schema


def answer_format(wanted: Json) -> Json:
    """``response_format`` with a plain schema."""
    inner = wanted.get("json_schema")
    if isinstance(inner, dict) and isinstance(inner.get("schema"), dict):
        return {**wanted, "json_schema": {**inner, "schema": plain(inner["schema"])}}
    return wanted


def plain(schema: object, depth: int = 0) -> Json:
    """``schema`` without what a grammar cannot hold."""
    if not isinstance(schema, dict) or depth > _DEPTH:
        return dict(_ANY)
    schema = _folded(schema)
    found: Json = {name: schema[name] for name in _KEPT if name in schema}
    for name in ("properties", "$defs", "definitions"):
        inner = schema.get(name)
        if isinstance(inner, dict):
            found[name] = {key: plain(value, depth + 1) for key, value in inner.items()}
    for name in ("anyOf", "oneOf", "prefixItems"):
        inner = schema.get(name)
        if isinstance(inner, list):
            found[name] = [plain(value, depth + 1) for value in inner]
    if isinstance(schema.get("items"), dict):
        found["items"] = plain(schema["items"], depth + 1)
    more = schema.get("additionalProperties")
    if isinstance(more, bool):
        found["additionalProperties"] = more
    elif isinstance(more, dict):
        found["additionalProperties"] = plain(more, depth + 1)
    rules = [f"{name} {schema[name]}" for name in _SAID if name in schema]
    rules = [rule for rule in rules if len(rule) <= _LONGEST]
    if rules:
        said = found.get("description")
        words = f"({', '.join(rules)})"
        found["description"] = f"{said} {words}" if isinstance(said, str) and said else words
    return found


def _folded(schema: Json) -> Json:
    """``allOf`` laid together: properties and required of all, the first of anything else."""
    every = schema.get("allOf")
    if not isinstance(every, list):
        return schema
    found = {name: value for name, value in schema.items() if name != "allOf"}
    for part in every:
        if not isinstance(part, dict):
            continue
        for name, value in _folded(part).items():
            before = found.get(name)
            if name == "properties" and isinstance(before, dict) and isinstance(value, dict):
                found[name] = {**value, **before}
            elif name == "required" and isinstance(before, list) and isinstance(value, list):
                found[name] = [*before, *[item for item in value if item not in before]]
            else:
                found.setdefault(name, value)
    return found


# ---------------------------------------------------------------- arguments

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def fits(value: object, schema: object, root: Json | None = None, depth: int = 0) -> bool:
    """Does ``value`` fit ``schema``, as far as types, enums, properties and items go?

    Unknown keywords count for nothing: the client checks its arguments itself.
    """
    if not isinstance(schema, dict) or depth > _DEPTH:
        return schema is not False
    root = schema if root is None else root
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return fits(value, _resolved(reference, root), root, depth + 1)
    if "const" in schema and value != schema["const"]:
        return False
    options = schema.get("enum")
    if isinstance(options, list) and value not in options:
        return False
    for name in ("anyOf", "oneOf"):
        choices = schema.get(name)
        if isinstance(choices, list) and not any(
            fits(value, choice, root, depth + 1) for choice in choices
        ):
            return False
    every = schema.get("allOf")
    if isinstance(every, list) and not all(fits(value, one, root, depth + 1) for one in every):
        return False
    return _typed(value, schema.get("type")) and _filled(value, schema, root, depth)


def _typed(value: object, wanted: object) -> bool:
    if wanted is None:
        return True
    names = wanted if isinstance(wanted, list) else [wanted]
    for name in names:
        known = _TYPES.get(name) if isinstance(name, str) else None
        if known is None or (
            (type(value) is bool) is (name == "boolean") and isinstance(value, known)
        ):
            return True
        if name == "integer" and isinstance(value, float) and value.is_integer():
            return True
    return False


def _filled(value: object, schema: Json, root: Json, depth: int) -> bool:
    if isinstance(value, dict):
        properties = schema.get("properties")
        known: Json = properties if isinstance(properties, dict) else {}
        required = schema.get("required")
        if isinstance(required, list) and any(name not in value for name in required):
            return False
        more = schema.get("additionalProperties")
        for name, inner in value.items():
            if name in known:
                if not fits(inner, known[name], root, depth + 1):
                    return False
            elif more is False or (
                isinstance(more, dict) and not fits(inner, more, root, depth + 1)
            ):
                return False
    elif isinstance(value, list):
        items = schema.get("items")
        return all(fits(inner, items, root, depth + 1) for inner in value) if items else True
    return True


def _resolved(reference: str, root: Json) -> Any:
    found: Any = root
    if not reference.startswith("#"):
        return _ANY
    for step in reference.split("/")[1:]:
        found = found.get(step) if isinstance(found, dict) else None
    return _ANY if found is None else found


def converted(text: str, schema: object, loads: Any) -> object:
    """``text`` (an XML form has nothing else) as the kind of value that ``schema`` wants."""
    kind = schema.get("type") if isinstance(schema, dict) else None
    if kind == "string" or (isinstance(kind, list) and "string" in kind) or not schema:
        return text
    value = loads(text.strip())
    if value is None and text.strip() != "null":
        words = {"true": True, "false": False, "none": None}
        return words.get(text.strip().lower(), text)
    return value
