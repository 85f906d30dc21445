from __future__ import annotations

from control_api.redacted import redacted
from daemon.views import HeldView
from tests.control_api.fake import incident_view


def upper(text: str) -> str:
    return text.upper()


def test_every_text_however_deep() -> None:
    value = {"a": ["b", ("c", 1)], "d": {"e": None}, "f": 2.5}
    assert redacted(value, upper) == {"a": ["B", ["C", 1]], "d": {"e": None}, "f": 2.5}


def test_dataclasses_keep_their_type() -> None:
    one = redacted(incident_view(), upper)
    assert one.model == "GEMMA"
    assert isinstance(one.memory[0], HeldView)
    assert one.memory[0].name == "UNIFIED"
    assert one.status == -6
