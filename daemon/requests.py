"""The last requests, remembered so that one of them can be explained: why was that slow?

In memory only and without a word of what was asked or answered.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from daemon.core.problems import Code, Problem, ProblemError
from daemon.relay.records import RequestRecord
from daemon.views import RequestView

KEPT = 1000


@dataclass(slots=True)
class Requests:
    """Records by id, the oldest going first. An id that a client uses again means its last one."""

    keep: int = KEPT
    _records: OrderedDict[str, RequestRecord] = field(default_factory=OrderedDict)

    def add(self, record: RequestRecord) -> None:
        """A request is over."""
        records = self._records
        records.pop(record.request_id, None)
        records[record.request_id] = record
        if len(records) > self.keep:
            records.popitem(last=False)

    def view(self, request_id: str) -> RequestView:
        """What is known of one.

        Raises:
            ProblemError: REQUEST_UNKNOWN.
        """
        record = self._records.get(request_id)
        if record is None:
            text = f"No request {request_id[:80]!r} is remembered."
            hint = f"The last {self.keep} that are over are; an answer's x-request-id is the id."
            raise ProblemError(Problem(Code.REQUEST_UNKNOWN, text, hint))
        return shown(record)


def shown(record: RequestRecord) -> RequestView:
    """A record for people and programs."""
    answering = None if record.first_byte is None else record.total - record.first_byte
    speed = None
    if record.tokens_out and answering and answering > 0.001:
        speed = round(record.tokens_out / answering, 1)
    return RequestView(
        id=record.request_id,
        model=record.model,
        client=record.client,
        method=record.method,
        path=record.path,
        arrived=record.at - record.total,
        status=record.status,
        outcome=record.outcome,
        queue_ms=_ms(record.queue),
        evict_ms=_ms(record.evict),
        load_ms=_ms(record.load),
        evicted=list(record.evicted),
        first_byte_ms=_ms(record.first_byte),
        total_ms=round(record.total * 1e3, 1),
        tokens_in=record.tokens_in,
        tokens_out=record.tokens_out,
        tokens_per_second=speed,
        retried=record.attempts > 1,
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 1)
