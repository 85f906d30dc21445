"""All steps by name, in their order (see ``verdict``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from daemon.proving import context, image, talking, tools
from daemon.proving.chat import CHAT
from daemon.proving.messages import MESSAGES
from daemon.proving.responses import RESPONSES
from daemon.proving.values import Subject, Talk

STEPS: Final[Mapping[str, Callable[[Subject], Talk]]] = {
    talking.STREAM: talking.stream,
    **{
        tools.PREFIX + dialect.name: partial(tools.tool_round, dialect)
        for dialect in (CHAT, MESSAGES, RESPONSES)
    },
    image.IMAGE: image.image,
    context.CONTEXT: context.context,
    talking.LEAK: talking.leak,
    talking.STOP: talking.stop,
}
"""By name, the quick ones first."""
