"""What happened, as it happens: one numbered stream for ``ctl events``, the log and the metrics."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping

from daemon.views import EventView

log = logging.getLogger("modelport.events")

Listener = Callable[[EventView], None]


class Bus:
    """Publishes events to listeners and remembers the last ``keep`` of them."""

    def __init__(self, keep: int = 1000) -> None:
        self._remembered: deque[EventView] = deque(maxlen=keep)
        self._listeners: list[Listener] = []
        self._last = 0

    def publish(
        self, kind: str, model: str, text: str, facts: Mapping[str, object] | None = None
    ) -> EventView:
        """Tell everyone. ``text`` is one plain sentence for people; it goes into the log too."""
        self._last += 1
        event = EventView(
            id=self._last,
            at=time.time(),
            kind=kind,
            model=model,
            text=text,
            facts=dict(facts or {}),
        )
        self._remembered.append(event)
        log.info("%s", text)
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception:
                log.exception("a listener failed on event %s", event.id)
        return event

    def history(self, after: int) -> list[EventView]:
        """Remembered events with an id above ``after``."""
        return [event for event in self._remembered if event.id > after]

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` at each event; the returned function ends that."""
        self._listeners.append(listener)

        def end() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return end
