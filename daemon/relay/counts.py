"""Counting tokens (Anthropic's count_tokens): by the engine of a model that is loaded, else aside.

Claude Code asks for twenty-five counts at once: none of them loads a model, or waits for one that
is at work. What the engine does not count is counted by the model's own tokenizer, and what that
does not count is estimated, with a header that says so.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from daemon.core.messages import Outcome
from daemon.core.problems import Code, Problem, ProblemError
from daemon.dialects import counting
from daemon.dialects.chat_request import Chat
from daemon.dialects.manner import Manner, Way, counting_way
from daemon.ports import ModelCard, Route, Tokens, Waiting
from daemon.relay.admission import Admitted
from daemon.relay.answering import Step, entry
from daemon.relay.answers import Answer
from daemon.relay.heads import Head
from daemon.relay.speaking import Speaking
from daemon.relay.talks import chat_of, counted

if TYPE_CHECKING:
    from daemon.relay.client import ClientConnection
    from daemon.relay.plane import Plane


class Counting(Speaking):
    """What an exchange does where tokens are counted."""

    __slots__ = ("_waiting",)

    def __init__(
        self, plane: Plane, client: ClientConnection, head: Head, admitted: Admitted | None
    ) -> None:
        super().__init__(plane, client, head, admitted)
        self._waiting: Waiting | None = None  # for a lease, or for a count

    @property
    def _counts(self) -> bool:
        return self._admitted is not None and self._admitted.place.route is Route.COUNT_TOKENS

    def _by_engine(self) -> bool:
        """Is the lease port to be asked for an engine? Also where it has something to say of the
        model: that there is none of that name, or none yet."""
        found = self._meant()
        if found is None:
            return True
        card, spoken = found
        return card.state == "ready" and counting_way(spoken, self._body) is not Way.ASIDE

    def _meant(self) -> tuple[ModelCard, Manner] | None:
        """Whose tokens are counted, and how it is spoken to; None: nobody's who is known."""
        assert self._admitted is not None
        leases, who = self._plane.leases, self._admitted.principal
        card = leases.card(self._model, Route.COUNT_TOKENS.value, who)
        spoken = leases.manner(card.id) if isinstance(card, ModelCard) else None
        return None if spoken is None or isinstance(card, Problem) else (card, spoken)

    def _aside(self) -> bool:
        """Count without an engine. False: this is no count, or of no model that is known."""
        found = self._meant() if self._counts else None
        if found is None:
            return False
        card, spoken = found
        self._end_lease(Outcome.UPSTREAM_ERROR)
        self._talk = self._gathered = None
        self._parts = ()
        try:
            chat = chat_of(self._body, spoken.norms)
        except ProblemError as error:
            self.refuse(error.problem)
            return True
        self.step = Step.WAITING
        prompt = counting.template_body(chat)
        waiting = self._plane.leases.count(card.id, prompt, partial(self._told, chat))
        if self.step is Step.WAITING:  # else it is over already
            self._waiting = waiting
        return True

    @entry
    def _told(self, chat: Chat, tokens: Tokens | None) -> None:
        """It is counted, or it is not."""
        self._waiting = None
        self._tell(counted(chat, tokens))

    def _answer(self, answer: Answer, data: bytes, ended: bool) -> None:
        """An engine that does not count after all is not the client's business."""
        if answer.status >= 300 and self._counts:
            if ended:
                self._upstream = None
            self._leave_upstream()
            if self._aside():
                return
        super()._answer(answer, data, ended)

    def _no_lease(self, problem: Problem) -> None:
        """There is none, and why."""
        if problem.code is not Code.MODEL_UNAVAILABLE or not self._aside():
            self.refuse(problem)
