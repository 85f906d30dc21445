"""What goes into the plan of a client, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

DUMMY_KEY: Final = "modelport"
"""Sent where no key is needed: clients refuse to start without one."""
OUT_TOKENS: Final = 8192
"""Tokens of one answer at most, where nothing is said: the whole body of a file must fit."""
DEFAULT_CONTEXT: Final = 32768
"""Tokens; for a model whose context nobody knows. Too little costs an early summary, too much
costs the conversation."""
PROVIDER: Final = "modelport"

# Of the services that these clients would otherwise talk to. What other tools of the user's need
# (GITHUB_TOKEN, HF_TOKEN) stays.
REAL_KEYS: Final = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_USE_FOUNDRY",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "OPENAI_API_BASE",
    "OPENAI_ORGANIZATION",
    "CODEX_API_KEY",
    "AZURE_OPENAI_API_KEY",
    "OPENROUTER_API_KEY",
    "GEMINI_API_KEY",
    "GOOGLE_API_KEY",
    "GOOGLE_GENERATIVE_AI_API_KEY",
    "DEEPSEEK_API_KEY",
    "GROQ_API_KEY",
    "MISTRAL_API_KEY",
    "XAI_API_KEY",
    "TOGETHER_API_KEY",
    "FIREWORKS_API_KEY",
    "CEREBRAS_API_KEY",
)


@dataclass(frozen=True, slots=True)
class Served:
    """One model as it is served. ``context`` in tokens of one conversation; None: unknown."""

    name: str
    context: int | None = None
    vision: bool = False

    @property
    def window(self) -> int:
        """Tokens that a client may count with."""
        return self.context or DEFAULT_CONTEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is wanted of a client.

    ``url`` is the daemon's without ``/v1``; ``key`` is None where none is needed; ``folder`` is a
    throw-away place for the client's files (None: there is none, and the user's own is used);
    ``caged``: it runs in a sandbox, without a network and with nothing to lose.
    """

    url: str
    model: Served
    key: str | None = None
    small: str | None = None  # for titles and the like; None: the model itself
    models: tuple[Served, ...] = ()  # all that can be chosen; the model need not be among them
    out_tokens: int = OUT_TOKENS
    folder: str | None = None
    caged: bool = False
    platform: str = "linux"  # as sys.platform

    @property
    def v1(self) -> str:
        return self.url.rstrip("/") + "/v1"

    @property
    def secret(self) -> str:
        """The key, or something in its place."""
        return self.key or DUMMY_KEY

    @property
    def light(self) -> str:
        """The name of the model for small calls."""
        return self.small or self.model.name

    @property
    def all_models(self) -> tuple[Served, ...]:
        """The model first, then the others."""
        others = (one for one in self.models if one.name != self.model.name)
        return (self.model, *others)

    def capped(self, served: Served) -> int:
        """Tokens of an answer: no more than half of what the model can hold."""
        return max(1, min(self.out_tokens, served.window // 2))


@dataclass(frozen=True, slots=True)
class File:
    """A file to be written: ``path`` is below the throw-away folder."""

    path: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a client is started: what is set and unset, words before the user's own, files."""

    env: Mapping[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of one of the user's own files: ``change`` makes the new text of the old one (None:
    there is no file). It raises ``ValueError`` where the old text cannot be read."""

    path: str
    change: Callable[[str | None], str]
    instead: str = ""  # this file, if it exists: it would win over the other


def unset_for(env: Mapping[str, str]) -> tuple[str, ...]:
    """The real keys that must go: all but those that ``env`` sets itself."""
    return tuple(name for name in REAL_KEYS if name not in env)
