"""launchctl's answers in the form that macOS 13 and 14 give them, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from daemon.core.problems import ProblemError
from daemon.service.launchd import Launchd, parse_print, refused, state_of
from daemon.service.programs import Done

RUNNING = """\
gui/501/modelport = {
	active count = 4
	path = /Users/me/Library/LaunchAgents/modelport.plist
	type = LaunchAgent
	state = running

	program = /Users/me/.local/bin/modelportd
	arguments = {
		/Users/me/.local/bin/modelportd
		--service
		--config
		/Users/me/Library/Application Support/modelport/config.toml
	}

	stderr path = /Users/me/Library/Logs/modelport/launchd.log
	inherited environment = {
		SSH_AUTH_SOCK => /private/tmp/com.apple.launchd.x/Listeners
	}

	default environment = {
		PATH => /usr/bin:/bin:/usr/sbin:/sbin
	}

	domain = gui/501 [100005]
	asid = 100005
	minimum runtime = 2
	exit timeout = 38
	runs = 3
	pid = 4711
	immediate reason = speculative
	forks = 12
	execs = 1
	initialized = 1
	trampolined = 1
	started suspended = 0
	proxy started suspended = 0
	last exit code = 1

	sockets = {
		"modelport" = {
			type = stream
			bytes to read = 0
			active = 1
			passive = 1
			sockets = {
				5 (bytes to read: 0)
			}
		}
		"also-11434" = {
			type = stream
			active = 1
		}
	}

	spawn type = interactive (4)
	jetsam priority = 40
	properties = keepalive | runatload | inferred program
}
"""
STOPPED = """\
gui/501/modelport = {
	active count = 0
	path = /Users/me/Library/LaunchAgents/modelport.plist
	state = not running
	runs = 1
	last exit code = 0
}
"""
FAILED = STOPPED.replace("last exit code = 0", "last exit code = 78: EX_CONFIG")
KILLED = STOPPED.replace("last exit code = 0", "last terminating signal = Killed: 9")
FRESH = STOPPED.replace("last exit code = 0", "last exit code = (never exited)")


def test_a_running_service() -> None:
    state = state_of(RUNNING)
    assert (state.installed, state.active, state.pid, state.restarts) == (True, "running", 4711, 2)
    assert state.file == "/Users/me/Library/LaunchAgents/modelport.plist"
    assert state.sockets == (("modelport", "listening"), ("also-11434", "listening"))
    assert state.last_exit == "exit code 1"


@pytest.mark.parametrize(
    ("text", "active", "last"),
    [(STOPPED, "stopped", "exit code 0"), (FAILED, "failed", "exit code 78: EX_CONFIG"),
     (KILLED, "stopped", "signal Killed: 9"), (FRESH, "stopped", "")],
)  # fmt: skip
def test_one_that_does_not_run(text: str, active: str, last: str) -> None:
    state = state_of(text)
    assert (state.active, state.last_exit, state.pid) == (active, last, None)


@pytest.mark.parametrize(
    "text", ["", "\n\t}\n}", "x = {\n\tpid\n\t = 3\n", RUNNING[: len(RUNNING) // 2]]
)
def test_what_is_not_understood_is_left_out(text: str) -> None:
    facts, _ = parse_print(text)
    assert state_of(text).pid in (None, 4711)
    assert "environment" not in facts


class Fake:
    """A launchd with one job: loaded or not, and a process that comes and goes."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.loaded = False
        self.pid = 0
        self.codes: dict[str, int] = {}
        self.now = 0.0

    def __call__(self, argv: Sequence[str]) -> Done:
        verb = argv[1]
        if verb != "print":
            self.asked.append(" ".join(argv[1:]))
        if verb in self.codes:
            return Done(self.codes[verb], err=f"{verb} failed: {self.codes[verb]}")
        if verb == "bootstrap":
            self.loaded = True
        elif verb == "bootout":
            self.loaded, self.pid = False, 0
        elif verb == "kickstart":
            self.pid = self.pid or 7
        elif verb == "kill":
            self.pid += 1 if self.pid else 0  # a client came: launchd started the next
        elif not self.loaded and "modelport" in argv[2]:
            return Done(113, err='Could not find service "modelport" in domain')
        running = RUNNING.replace("pid = 4711", f"pid = {self.pid}")
        return Done(0, running if self.pid else STOPPED)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def launchd(fake: Fake) -> Launchd:
    return Launchd("user", Path("/f/modelport.plist"), fake, 1.0, fake.sleep, lambda: fake.now, 501)


def test_start_stop_and_restart(fake: Fake, launchd: Launchd) -> None:
    launchd.start()
    assert fake.asked == [
        "enable gui/501/modelport",
        "bootstrap gui/501 /f/modelport.plist",
        "kickstart gui/501/modelport",
    ]
    fake.asked.clear()
    launchd.restart()
    assert fake.asked == ["kill SIGTERM gui/501/modelport", "kickstart gui/501/modelport"]
    assert launchd.state().pid == 8
    fake.asked.clear()
    launchd.stop()
    launchd.stop()
    assert fake.asked == ["bootout gui/501/modelport"]
    assert not launchd.state().installed


def test_one_that_does_not_come_is_told(fake: Fake, launchd: Launchd) -> None:
    fake.loaded = True
    fake.codes["kickstart"] = 0
    with pytest.raises(ProblemError, match="After 1 s it does not run"):
        launchd.start()


@pytest.mark.parametrize(
    ("verb", "code", "words"),
    [("bootstrap", 5, "refused the property list"), ("bootstrap", 125, "no desktop session"),
     ("kickstart", 150, "does not let this user"), ("bootstrap", 77, "bootstrap failed: 77")],
)  # fmt: skip
def test_refusals_are_words(fake: Fake, launchd: Launchd, verb: str, code: int, words: str) -> None:
    fake.codes[verb] = code
    with pytest.raises(ProblemError, match=words) as caught:
        launchd.start()
    assert caught.value.problem.hint
    assert caught.value.problem.facts["launchctl"] == code


def test_domains() -> None:
    assert Launchd("system", Path("/f")).target == "system/modelport"
    gone = Launchd("user", Path("/f"), lambda argv: Done(125), uid=5)
    with pytest.raises(ProblemError, match=r"gui/5 does not answer: there is no desktop session"):
        gone.check()
    assert "code 9" in refused(Done(9), "x").problem.message
