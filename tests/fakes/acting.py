"""How a stand-in plays a model: which tool it calls, what it says, what it sees."""

from __future__ import annotations

import argparse
import base64
import json
import zlib
from typing import Any


def add_roles(add: Any) -> None:
    """The flags of a played model. ``add``: ``add_argument`` of a parser or a group."""
    add("--calls", metavar="JSON", help="call an offered tool with these arguments, then go on")
    add("--calls-forced", action="store_true", help="... only when tool_choice demands it")
    add("--writes-calls", action="store_true", help="... but as text: <tool_call>{...}")
    add("--ends-wrong", action="store_true", help="... and say that the answer was complete")
    add("--no-finish", action="store_true", help="streams end without a reason")
    add("--sees", action="store_true", help="say whether an image is red or blue")
    add("--leaks", action="store_true", help="say what was asked before in other conversations")
    add("--deaf", action="store_true", help="go on for clients that have left")
    add("--refuse-long", action="store_true", help="refuse what is over --ctx-size")
    add("--cut-long", action="store_true", help="take no more than --ctx-size of it, in silence")


def call(options: argparse.Namespace, body: dict[str, Any]) -> tuple[str, str] | None:
    """Name and arguments of the call that answers this request."""
    tools = body.get("tools")
    if options.calls is None or not isinstance(tools, list) or not tools or _result(body):
        return None
    choice = body.get("tool_choice")
    forced = choice == "required" or (isinstance(choice, dict) and choice.get("type") == "any")
    if options.writes_calls or (options.calls_forced and not forced):
        return None
    return _name(tools[0]), options.calls


def reply(options: argparse.Namespace, body: dict[str, Any], before: list[str]) -> str:
    """What it says. ``before``: what was asked in other conversations."""
    result = _result(body)
    if options.calls is not None and result:
        return f"The tool says {result}"
    if options.writes_calls and body.get("tools"):
        given = {"name": _name(body["tools"][0]), "arguments": json.loads(options.calls)}
        return f"<tool_call>{json.dumps(given)}</tool_call>"
    if options.sees and (image := _image(body)):
        return _colour(image)
    said = str(options.reply)
    return " ".join([said, *before]) if options.leaks else said


def asked(body: dict[str, Any]) -> str:
    """The last thing that a user has said."""
    turns = body.get("messages") or body.get("input")
    for turn in reversed(turns if isinstance(turns, list) else []):
        content = turn.get("content") if isinstance(turn, dict) else None
        if isinstance(content, str) and turn.get("role") == "user":
            return content
    return ""


def _name(tool: dict[str, Any]) -> str:
    return str(tool.get("function", tool)["name"])


def _parts(body: dict[str, Any]) -> list[dict[str, Any]]:
    """All turns, and the blocks inside of them."""
    found: list[dict[str, Any]] = []
    turns = body.get("messages") or body.get("input")
    for turn in turns if isinstance(turns, list) else []:
        found.append(turn)
        content = turn.get("content")
        found += content if isinstance(content, list) else []
    return found


def _result(body: dict[str, Any]) -> str:
    """A tool's result in any dialect."""
    for part in _parts(body):
        if part.get("role") == "tool" or part.get("type") == "tool_result":
            return str(part["content"])
        if part.get("type") == "function_call_output":
            return str(part["output"])
    return ""


def _image(body: dict[str, Any]) -> bytes:
    for part in _parts(body):
        if part.get("type") == "image_url":
            return base64.b64decode(part["image_url"]["url"].partition(",")[2])
    return b""


def _colour(png: bytes) -> str:
    """The first pixel of a PNG as ours are: one IDAT, 8 bits RGB, rows without a filter."""
    start = png.index(b"IDAT")
    size = int.from_bytes(png[start - 4 : start], "big")
    row = zlib.decompress(png[start + 4 : start + 4 + size])
    return "Red." if row[1] > row[3] else "Blue."
