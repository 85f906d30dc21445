"""What translating costs: ``python -m tests.bench.bench_dialects``.

Per streamed chunk (target 30 µs) and per request of 200 KB (target 5 ms), one client shape after
the other; medians. Nothing is sent anywhere.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

from daemon.dialects.fields import encode, read
from daemon.dialects.norms import Norms, Schemas
from daemon.dialects.shapes import Shape
from daemon.dialects.translator import About, translate

ABOUT = About("req_bench", 1)
NORMS = Norms(schemas=Schemas.PLAIN, output_floor=8192)
CHUNKS = 5000
BODY = 200_000


def _chunk(**delta: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + encode({**head, "choices": [choice]}) + b"\n\n"


def _called(arguments: str, name: str | None = None) -> bytes:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    item = {"index": 0, "function": function} | ({"id": "call_1"} if name else {})
    return _chunk(tool_calls=[item])


SCHEMA = {
    "type": "object",
    "properties": {"file_path": {"type": "string"}, "content": {"type": "string", "maxLength": 9}},
    "required": ["file_path", "content"],
}
WORDS = [_chunk(content=" token" if n % 7 else ".\n") for n in range(CHUNKS)]
THOUGHTS = [_chunk(reasoning_content=" hm") for _ in range(CHUNKS)]
CALL = [_called('{"file_path":"/a","content":"', "Write"), *[_called("x = 1 ")] * CHUNKS]
TEXT_CALL = "<tool_call>\n<function=Write>\n<parameter=file_path>\n/a\n</parameter>\n"
TEXT_CALL += "<parameter=content>\n" + "x = {'a': [1]}  # <b>\n" * (CHUNKS // 6)
TEXT_CALL += "</parameter>\n</function>\n</tool_call>"
RESCUED = [_chunk(content=TEXT_CALL[at : at + 4]) for at in range(0, len(TEXT_CALL), 4)]
STREAMS = {
    "text": WORDS,
    "thinking": THOUGHTS,
    "a native call": CALL,
    "a call rescued from text": RESCUED,
}


def _request(shape: Shape) -> bytes:
    """A conversation of an agent: 20 tools, many turns with calls and results."""
    tools = [{"name": f"tool_{n}", "description": "d" * 900, "schema": SCHEMA} for n in range(20)]
    tools[0]["name"] = "Write"
    body: dict[str, object] = {"model": "m", "max_tokens": 32000, "stream": True}
    turns = 8
    text = "word " * ((BODY - 30_000) // (3 * 5 * turns))
    given: list[dict[str, object]] = []
    for turn in range(turns):
        arguments = {"file_path": "/a", "content": text}
        if shape is Shape.MESSAGES:
            call = {"type": "tool_use", "id": f"c{turn}", "name": "Write", "input": arguments}
            result = {"type": "tool_result", "tool_use_id": f"c{turn}", "content": text}
            said = {"type": "text", "text": text}
            given += [
                {"role": "user", "content": [said]},
                {"role": "assistant", "content": [call]},
                {"role": "user", "content": [result]},
            ]
        elif shape is Shape.RESPONSES:
            part = {"type": "input_text", "text": text}
            told = json.dumps(arguments)
            call = {"type": "function_call", "call_id": f"c{turn}", "name": "Write"}
            given += [
                {"type": "message", "role": "user", "content": [part]},
                {**call, "arguments": told},
                {"type": "function_call_output", "call_id": f"c{turn}", "output": text},
            ]
        else:
            function = {"name": "Write", "arguments": json.dumps(arguments)}
            calls = [{"id": f"c{turn}", "type": "function", "function": function}]
            given += [
                {"role": "user", "content": text},
                {"role": "assistant", "content": None, "tool_calls": calls},
                {"role": "tool", "tool_call_id": f"c{turn}", "content": text},
            ]
    if shape is Shape.MESSAGES:
        body["messages"] = given
        body["tools"] = [
            {"name": t["name"], "description": t["description"], "input_schema": t["schema"]}
            for t in tools
        ]
    else:
        functions = [
            {"name": t["name"], "description": t["description"], "parameters": t["schema"]}
            for t in tools
        ]
        if shape is Shape.RESPONSES:
            body["input"] = given
            body["tools"] = [{"type": "function", **function} for function in functions]
        else:
            body["messages"] = given
            body["tools"] = [{"type": "function", "function": function} for function in functions]
    return encode(body)


def _median(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _stream(shape: Shape, pieces: list[bytes], rounds: int) -> float:
    """Microseconds per chunk."""
    translation = translate(shape, _request(shape), NORMS, ABOUT)

    def work() -> None:
        feed = translation.stream().feed
        for piece in pieces:
            feed(piece)

    return _median(work, rounds) / len(pieces) * 1e6


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    shapes = (Shape.MESSAGES, Shape.RESPONSES, Shape.CHAT, Shape.OLLAMA_CHAT)
    print(f"{'per streamed chunk, µs':28}" + "".join([f"{shape:>14}" for shape in shapes]))
    for name, pieces in STREAMS.items():
        row = [f"{_stream(shape, pieces, rounds):14.1f}" for shape in shapes]
        print(f"{name:28}" + "".join(row))
    print()
    for shape in (Shape.MESSAGES, Shape.RESPONSES, Shape.CHAT):
        body = _request(shape)
        spent = _median(lambda s=shape, b=body: translate(s, b, NORMS, ABOUT), rounds * 5)  # type: ignore[misc]
        decoded = _median(lambda b=body: read(b), rounds * 5)  # type: ignore[misc]
        stdlib = _median(lambda b=body: json.loads(b), rounds * 5)  # type: ignore[misc]
        print(
            f"a request of {len(body) / 1000:.0f} KB, {shape}: {spent * 1e3:.2f} ms"
            f" (decoding alone {decoded * 1e3:.2f}; json of the standard library"
            f" {stdlib * 1e3:.2f})"
        )


if __name__ == "__main__":
    main()
