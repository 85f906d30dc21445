"""The request shapes that clients send and that can be served by an engine that chats."""

from __future__ import annotations

from enum import StrEnum


class Shape(StrEnum):
    """A client's dialect, by the path that it asks."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    MESSAGES = "messages"
    RESPONSES = "responses"
    OLLAMA_CHAT = "ollama_chat"
    OLLAMA_GENERATE = "ollama_generate"


SHAPES = {
    "/v1/chat/completions": Shape.CHAT,
    "/v1/completions": Shape.COMPLETIONS,
    "/v1/messages": Shape.MESSAGES,
    "/v1/responses": Shape.RESPONSES,
    "/api/chat": Shape.OLLAMA_CHAT,
    "/api/generate": Shape.OLLAMA_GENERATE,
}
"""By path."""
