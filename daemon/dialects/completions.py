"""OpenAI's older completions, for engines that only chat.

Source: OpenAI's completions reference. The prompt becomes a user's message; what only a bare model
can do (insertion, echo, log probabilities) is refused, not guessed.
"""

from __future__ import annotations

from daemon.dialects.chat_request import Chat, streamed, take
from daemon.dialects.chat_write import finish_reason, usage_of
from daemon.dialects.events import Event, Finish, Text, Usage, Whole
from daemon.dialects.fields import Json, an_array, bad, encode, whole
from daemon.dialects.sse import COMMENT, DONE, data

_INSTEAD = "Use a model whose engine serves completions, or chat completions."


def to_chat(body: Json) -> Chat:
    """What the chat engine is asked. Raises ProblemError (INVALID_REQUEST)."""
    prompt = body.get("prompt")
    if not isinstance(prompt, str):
        prompts = an_array(prompt, "prompt")
        if len(prompts) != 1 or not isinstance(prompts[0], str):
            raise bad("prompt: allowed is one string.", _INSTEAD)
        prompt = prompts[0]
    for name in ("suffix", "echo", "logprobs"):
        if body.get(name):
            raise bad(f"{name}: this model's engine cannot do that in a chat.", _INSTEAD)
    if whole(body, "n") not in (None, 1):
        raise bad("n: found more than 1.", "Ask several times.")
    chat = Chat({"model": body.get("model"), "messages": [{"role": "user", "content": prompt}]})
    names = ("temperature", "top_p", "top_k", "min_p", "max_tokens", "stop", "seed")
    take(body, chat.body, *names, "presence_penalty", "frequency_penalty", "logit_bias")
    streamed(body, chat.body)
    return chat


class CompletionsWriter:
    """Chunks of a completion. ``usage``: the client asked for it."""

    media = b"text/event-stream"

    def __init__(self, model: str, request_id: str, created: int, *, usage: bool) -> None:
        self._head = _head(model, request_id, created)
        self._usage = usage

    def write(self, events: list[Event]) -> bytes:
        """The bytes that tell ``events``; reasoning has no place in a completion."""
        out: list[bytes] = []
        for event in events:
            if isinstance(event, Text):
                out.append(self._chunk(event.text, None))
            elif isinstance(event, Finish):
                out.append(self._chunk("", finish_reason(event)))
            elif isinstance(event, Usage) and self._usage:
                chunk = {**self._head, "choices": [], "usage": usage_of(event)}
                out.append(data(encode(chunk)))
        return b"".join(out)

    def end(self) -> bytes:
        """The last event of every stream."""
        return data(DONE)

    def wait(self) -> bytes:
        """A comment."""
        return COMMENT

    def _chunk(self, text: str, finish: str | None) -> bytes:
        return data(encode({**self._head, "choices": [_choice(text, finish)]}))


def completion(answer: Whole, model: str, request_id: str, created: int) -> Json:
    """The whole completion."""
    return {
        **_head(model, request_id, created),
        "choices": [_choice(answer.text, finish_reason(answer.finish))],
        "usage": usage_of(answer.usage),
    }


def _head(model: str, request_id: str, created: int) -> Json:
    known = "cmpl-" + request_id.removeprefix("req_")
    return {"id": known, "object": "text_completion", "created": created, "model": model}


def _choice(text: str, finish: str | None) -> Json:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
