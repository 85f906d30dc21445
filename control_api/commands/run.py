"""``run``: ask a model something through the fixed port, as every other client does."""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from control_api.client import Client, RefusedError, UnreachableError, daemon_facts
from control_api.commands.asking import terminal
from control_api.commands.command import Command
from control_api.commands.output import Out, clean, duration

if TYPE_CHECKING:
    from control_api.far import Far

KEY_ENV: Final = "MODELPORT_API_KEY"
WAIT_SECONDS: Final = 600.0  # between two pieces: a big model may have to be loaded first


@dataclass(slots=True)
class Answer:
    """One answer as it grew. ``tokens`` is None where the engine told no usage."""

    text: str = ""
    thoughts: str = ""
    tokens: int | None = None
    pieces: int = 0
    started: float = field(default_factory=time.monotonic)
    first: float | None = None
    ended: float | None = None
    per_second: float | None = None

    def rate(self) -> float | None:
        """Tokens per second after the first one, as the engine says or as it arrived here."""
        if self.per_second is not None:
            return self.per_second
        count = self.tokens if self.tokens is not None else self.pieces
        if self.first is None or self.ended is None or count < 2 or self.ended <= self.first:
            return None
        return (count - 1) / (self.ended - self.first)


def run(args: Namespace, out: Out) -> int:
    prompt = _prompt(args.prompt)
    server = Server.find(Client())
    messages: list[dict[str, str]] = []
    if args.system:
        messages.append({"role": "system", "content": args.system})
    if prompt is None:
        return _talk(args, server, messages, out)
    messages.append({"role": "user", "content": prompt})
    answer = _ask(args, server, messages, out)
    if out.json:
        out.value(_result(args.model, answer))
    return 0


def _talk(args: Namespace, server: Server, messages: list[dict[str, str]], out: Out) -> int:
    """Prompt after prompt, until Ctrl-D or ``/bye``; Ctrl-C ends the answer under way."""
    if out.json:
        raise RefusedError("invalid_request", "--json needs a prompt.", 'ctl run MODEL "prompt"')
    with suppress(ImportError):
        import readline  # noqa: F401 - line editing and history for input()
    out.note(f"{args.model}: /bye or Ctrl-D leaves, Ctrl-C ends an answer.")
    while True:
        try:
            prompt = input(">>> ").strip()
        except (EOFError, KeyboardInterrupt):
            out.line()
            return 0
        if prompt in {"/bye", "/exit", "/quit"}:
            return 0
        if not prompt:
            continue
        messages.append({"role": "user", "content": prompt})
        try:
            answer = _ask(args, server, messages, out)
        except KeyboardInterrupt:
            out.line()
            messages.pop()
            continue
        except RefusedError as error:
            out.note(f"{error.message} {error.hint}".strip())
            messages.pop()
            continue
        messages.append({"role": "assistant", "content": answer.text})


def _prompt(words: list[str]) -> str | None:
    """The prompt of the command line and of a pipe; None for a conversation on the terminal."""
    given = " ".join(words)
    piped = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read().strip()
    prompt = "\n\n".join(filter(None, (given, piped)))
    if prompt:
        return prompt
    if terminal():
        return None
    raise RefusedError("invalid_request", "There is no prompt.", 'ctl run MODEL "prompt"')


@dataclass(frozen=True, slots=True)
class Server:
    """Where models are asked: the fixed port here, or (``far``) that of another machine."""

    url: str
    far: Far | None = None

    @classmethod
    def find(cls, client: Client) -> Server:
        """As the running daemon says. Raises ``UnreachableError``."""
        try:
            return cls(client.url(), client.far)
        except (UnreachableError, RefusedError):
            # another user's daemon: its socket is closed to us, its port is not
            url = os.environ.get("MODELPORT_URL") or daemon_facts().get("url")
            if client.far is not None or not url:
                raise
            return cls(str(url))

    @property
    def prefix(self) -> str:
        return self.far.prefix if self.far is not None else ""

    def open(self) -> http.client.HTTPConnection:
        """OSError, ``HostError``."""
        if self.far is not None:
            return self.far.open(WAIT_SECONDS)
        parts = urlsplit(self.url)
        https = parts.scheme == "https"
        kind = http.client.HTTPSConnection if https else http.client.HTTPConnection
        return kind(parts.hostname or "127.0.0.1", parts.port, timeout=WAIT_SECONDS)

    def headers(self) -> dict[str, str]:
        """What is sent: MODELPORT_API_KEY goes before the key for that machine."""
        key = os.environ.get(KEY_ENV)
        own = {"Authorization": f"Bearer {key}"} if key else {}
        kinds = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        return {**kinds, **(own or (self.far.headers() if self.far is not None else {}))}

    def broken(self, error: Exception) -> Exception:
        """What went wrong, in words."""
        if self.far is not None:
            return self.far.broken(error)
        return UnreachableError(f"{self.url} cannot be asked: {error}.")


def _ask(args: Namespace, server: Server, messages: list[dict[str, str]], out: Out) -> Answer:
    """Ask, print as it comes (unless JSON was asked for), and give the whole answer."""
    body: dict[str, Any] = {
        "model": args.model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if args.max_tokens:
        body["max_tokens"] = args.max_tokens
    answer = Answer()
    printer = _Printer(out)
    try:
        for chunk in _chunks(server, body):
            _take(chunk, answer, printer)
    finally:
        printer.end()
    answer.ended = time.monotonic()
    if args.verbose and not out.json:
        out.note(_figures(answer))
    return answer


def _take(chunk: dict[str, Any], answer: Answer, printer: _Printer) -> None:
    if error := chunk.get("error"):
        raise _refused(error, 0)
    usage, timings = chunk.get("usage"), chunk.get("timings")
    if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
        answer.tokens = usage["completion_tokens"]
    if isinstance(timings, dict) and isinstance(timings.get("predicted_per_second"), float):
        answer.per_second = timings["predicted_per_second"]
    for choice in (chunk.get("choices") or [])[:1]:
        delta = choice.get("delta") or {}
        text = str(delta.get("content") or "")
        thought = str(delta.get("reasoning_content") or delta.get("reasoning") or "")
        if text or thought:
            answer.first = answer.first or time.monotonic()
            answer.pieces += 1
        answer.text += text
        answer.thoughts += thought
        printer.show(thought, text)


class _Printer:
    """Writes the pieces of an answer. Thoughts are for a person at a terminal only."""

    def __init__(self, out: Out) -> None:
        self._out = out
        self._thinking = False
        self._open = False

    def show(self, thought: str, text: str) -> None:
        if self._out.json:
            return
        if thought and self._out.tty:
            self._thinking = True
            self._write(self._out.paint(clean(thought, colours=False), "dim"))
        if text:
            if self._thinking:
                self._write("\n\n")
                self._thinking = False
            # a pipe gets the very bytes of the answer; a terminal gets no control characters
            self._write(clean(text, colours=False) if self._out.tty else text)

    def end(self) -> None:
        if self._open:
            self._write("\n")
            self._open = False

    def _write(self, text: str) -> None:
        self._open = True
        self._out.out.write(text)
        self._out.out.flush()


def _figures(answer: Answer) -> str:
    count = answer.tokens if answer.tokens is not None else answer.pieces
    rate = answer.rate()
    first = None if answer.first is None else answer.first - answer.started
    parts = [f"{count} tokens", f"{rate:.1f} tok/s" if rate else ""]
    parts.append(f"first after {duration(first)}" if first is not None else "")
    return ", ".join(filter(None, parts))


def _result(model: str, answer: Answer) -> dict[str, Any]:
    rate = answer.rate()
    return {
        "model": model,
        "text": answer.text,
        "reasoning": answer.thoughts,
        "tokens": answer.tokens,
        "tokens_per_second": round(rate, 2) if rate else None,
        "seconds": round((answer.ended or answer.started) - answer.started, 3),
    }


def _chunks(server: Server, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The JSON of each server-sent event of one streamed chat completion."""
    try:
        connection = server.open()
    except OSError as error:
        raise server.broken(error) from error
    try:
        path, data = f"{server.prefix}/v1/chat/completions", json.dumps(body).encode()
        connection.request("POST", path, data, server.headers())
        response = connection.getresponse()
        if response.status != 200:
            raise _refused(_loads(response.read()).get("error"), response.status)
        done = False
        while line := response.readline():
            if line.startswith(b"data:"):
                data = line[5:].strip()
                done = data == b"[DONE]"
                if done:
                    break
                yield _loads(data)
        if not done:
            raise RefusedError("upstream_error", "The answer broke off.", "`ctl events` says why.")
    except (OSError, http.client.HTTPException) as error:
        raise server.broken(error) from error
    finally:
        connection.close()


def _loads(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _refused(error: Any, status: int) -> RefusedError:
    if not isinstance(error, dict):
        return RefusedError("upstream_error", f"The daemon answered {status}.", status=status)
    message = str(error.get("message") or "The request was refused.")
    if status == 401:
        return RefusedError("unauthorized", message, f"Put a key in {KEY_ENV}.", status=status)
    return RefusedError(str(error.get("code") or error.get("type")), message, status=status)


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="name or alias")
    parser.add_argument("prompt", metavar="PROMPT", nargs="*", help="what to ask")
    parser.add_argument("--system", metavar="TEXT", help="a system message")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="length of the answer at most")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="also tokens and tokens per second"
    )


COMMANDS: Final = {
    "run": Command(
        summary="ask a model something; it is loaded first if need be",
        text="Without a prompt on a terminal, a conversation begins. What is piped in is added\n"
        f"to the prompt. {KEY_ENV} is sent as the key, where one is needed.",
        examples=(
            ('ctl run gemma "Why is the sky blue?"', ""),
            ('git diff | ctl run qwen3-coder "Review this"', "a pipe is added to the prompt"),
            ("ctl run gemma", "a conversation"),
        ),
        run=run,
        arguments=_arguments,
    ),
}
