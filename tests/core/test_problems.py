from __future__ import annotations

import re

from daemon.core.problems import Code, Problem, ProblemError


def test_the_text_is_message_and_next_step_in_one_line() -> None:
    assert (
        Problem(Code.NOT_PULLED, "It is not here.", "Pull it.").text == "It is not here. Pull it."
    )
    assert Problem(Code.INTERNAL, "It broke.").text == "It broke."


def test_the_error_carries_its_problem_and_reads_like_it() -> None:
    problem = Problem(Code.QUEUE_FULL, "Full.", "Later.", 5.0)
    error = ProblemError(problem)
    assert error.problem is problem
    assert str(error) == "Full. Later."


def test_codes_are_plain_words_and_unique() -> None:
    values = [code.value for code in Code]
    assert len(values) == len(set(values))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", value) for value in values)
