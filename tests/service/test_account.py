"""The account of a service for the whole machine."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from daemon.core.problems import ProblemError
from daemon.service import account
from daemon.service.account import ensure, remove
from daemon.service.programs import Done


class Machine:
    """Users and groups, as the programs change them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.users, self.groups = {"root", "me"}, {"root", "video"}
        self.asked: list[str] = []
        self.refuses = ""
        monkeypatch.setattr(account, "exists", lambda name: name in self.users)
        monkeypatch.setattr(account, "group_exists", lambda name: name in self.groups)

    def __call__(self, argv: Sequence[str]) -> Done:
        self.asked.append(" ".join(argv))
        if argv[0] == self.refuses:
            return Done(1, err="no room in /etc/passwd")
        names = {"useradd": self.users.add, "userdel": self.users.remove,
                 "groupadd": self.groups.add, "groupdel": self.groups.remove}  # fmt: skip
        if argv[0] in names:
            names[argv[0]](argv[-1])
        return Done(0)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_it_is_made_with_the_groups_of_graphics_cards_and_removed(machine: Machine) -> None:
    made = ensure("modelport", machine)
    assert (made.user, made.group, made.made_user, made.made_group) == (
        "modelport", "modelport", True, True,
    )  # fmt: skip
    assert "usermod --append --groups video modelport" in machine.asked
    again = ensure("modelport", machine)
    assert (again.made_user, again.made_group) == (False, False)
    assert remove("modelport", "modelport", machine) == []
    assert machine.users == {"root", "me"}
    assert "modelport" not in machine.groups
    assert remove("modelport", "", machine) == [], "gone already"


def test_somebodys_account_is_used_as_it_is(machine: Machine) -> None:
    made = ensure("me", machine)
    assert (made.user, made.made_user) == ("me", False)
    assert not [line for line in machine.asked if line.startswith(("useradd", "usermod"))]
    with pytest.raises(ProblemError, match="no user nobody-here"):
        ensure("nobody-here", machine)


def test_what_fails_is_told(machine: Machine) -> None:
    machine.refuses = "useradd"
    with pytest.raises(ProblemError, match="no room in /etc/passwd"):
        ensure("modelport", machine)
    machine.refuses = "groupdel"
    assert remove("", "modelport", machine) == ["groupdel modelport: no room in /etc/passwd"]
