"""systemctl's answers, as they were recorded, and what is made of them. (``tests/systemd`` has the
real one.)"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from daemon.core.problems import ProblemError
from daemon.service.programs import Done, run_program
from daemon.service.systemd import Systemd, ending, parse_show, state_of

RUNNING = """\
Result=success
NRestarts=1
ExecMainCode=0
ExecMainStatus=0
MainPID=4711
StatusText=2 models loaded, 17.2 GiB; serving on http://127.0.0.1:8123
LoadState=loaded
ActiveState=active
SubState=running
FragmentPath=/home/me/.config/systemd/user/modelport.service
UnitFileState=enabled
StateChangeTimestampMonotonic=90000000
NeedDaemonReload=no
"""
FAILED = """\
Result=exit-code
NRestarts=7
ExecMainCode=1
ExecMainStatus=78
MainPID=0
StatusText=
LoadState=loaded
ActiveState=failed
UnitFileState=enabled
NeedDaemonReload=yes
"""
GONE = "LoadState=not-found\nActiveState=inactive\nMainPID=0\nUnitFileState=\n"


def test_a_running_service() -> None:
    state = state_of(parse_show(RUNNING), (("modelport.socket", "active"),), 100.0)
    assert (state.installed, state.enabled, state.active, state.pid) == (
        True,
        True,
        "running",
        4711,
    )
    assert (state.since, state.restarts, state.stale, state.last_exit) == (10.0, 1, False, "")
    assert state.text.startswith("2 models loaded")
    assert state.sockets == (("modelport.socket", "active"),)


def test_a_failed_one() -> None:
    state = state_of(parse_show(FAILED), (), 100.0)
    assert (state.active, state.pid, state.since, state.stale) == ("failed", None, None, True)
    assert state.last_exit.startswith("exit code 78")
    assert "configuration" in state.last_exit


def test_none_at_all() -> None:
    state = state_of(parse_show(GONE), (), 1.0)
    assert (state.installed, state.enabled, state.active) == (False, False, "stopped")
    assert not state_of({}, (), 1.0).installed


@pytest.mark.parametrize(
    ("code", "status", "result", "words"),
    [("2", "9", "signal", "signal SIGKILL"), ("3", "11", "core-dump", "signal SIGSEGV"),
     ("3", "6", "watchdog", "signal SIGABRT, it gave no sign of life (watchdog)"),
     ("0", "0", "timeout", "it took too long"), ("2", "999", "signal", "signal 999")],
)  # fmt: skip
def test_how_it_ended(code: str, status: str, result: str, words: str) -> None:
    facts = {"ExecMainCode": code, "ExecMainStatus": status, "Result": result}
    assert ending(facts) == words


class Fake:
    """Answers by the first words that fit; remembers what it was asked."""

    def __init__(self, answers: dict[str, Done]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, argv: Sequence[str]) -> Done:
        line = " ".join(argv).replace(" --no-ask-password", "")
        self.asked.append(line)
        return next((done for head, done in self.answers.items() if line.startswith(head)), Done(0))


def test_sockets_are_taken_first_and_one_that_fails_is_told() -> None:
    fake = Fake({"systemctl --user start modelport-1": Done(1, err="Address already in use")})
    also = ("modelport-1.socket", "modelport-2.socket")
    troubles = Systemd("user", fake, also).start()
    assert troubles == ["modelport-1.socket cannot be started: Address already in use"]
    assert fake.asked[1:] == [
        "systemctl --user start modelport.socket",
        "systemctl --user start modelport-1.socket",
        "systemctl --user start modelport-2.socket",
        "systemctl --user start modelport.service",
    ]


def test_what_fails_says_where_to_look() -> None:
    fake = Fake({"systemctl start modelport.service": Done(1, err="Job failed.")})
    with pytest.raises(ProblemError) as caught:
        Systemd("system", fake).start()
    assert "does not start: Job failed." in caught.value.problem.message
    assert "journalctl -u modelport" in caught.value.problem.hint


@pytest.mark.parametrize(
    ("done", "words"),
    [(Done(127), "no systemd on this machine"),
     (Done(1, err="Failed to connect to bus"), "does not answer: Failed to connect"),
     (Done(0, "\n"), "does not answer")],
)  # fmt: skip
def test_a_manager_that_is_not_there(done: Done, words: str) -> None:
    with pytest.raises(ProblemError, match=words):
        Systemd("user", Fake({"systemctl --user show": done})).check()


def test_one_that_is_there() -> None:
    Systemd("user", Fake({"systemctl --user show": Done(0, "252\n")})).check()


def test_lingering() -> None:
    fake = Fake({
        "loginctl show-user": Done(0, "no\n"),
        "loginctl disable-linger": Done(1, err="Access denied"),
    })  # fmt: skip
    manager = Systemd("user", fake)
    assert manager.lingers("me") is False
    assert manager.linger("me", wanted=True) == ""
    assert manager.linger("me", wanted=False) == "Access denied"


def test_the_journal_is_asked_for_our_unit() -> None:
    assert "--user-unit=modelport.service" in Systemd("user").journal(5, follow=False)
    words = Systemd("system").journal(5, follow=True, form="json")
    assert {"--unit=modelport.service", "--lines=5", "--follow", "--output=json"} <= set(words)


def test_programs_never_raise() -> None:
    assert run_program(["/no/such/program"]).code == 127
    assert run_program(["sleep", "30"], 0.05).code == 124
    assert run_program(["/"]).code == 126
    assert run_program(["sh", "-c", "echo a; echo b >&2; exit 3"]) == Done(3, "a\n", "b\n")
    assert Done(1, "out", "err").said == "err"
