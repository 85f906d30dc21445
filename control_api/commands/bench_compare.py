"""Two measurements beside each other. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daemon.views import BenchView, FigureView


@dataclass(frozen=True, slots=True)
class Change:
    """From one figure to the next. ``share``: of the old median (0.1: a tenth more). ``better``:
    None where nothing changed. ``clear``: the runs of one are all above those of the other;
    ``single``: one of them was measured once, which says little."""

    share: float
    better: bool | None
    clear: bool
    single: bool = False

    @property
    def text(self) -> str:
        """For people: ``+12% (faster)``."""
        if self.better is None:
            return "the same"
        shown = f"{self.share:+.0%}" if abs(self.share) >= 0.095 else f"{self.share:+.1%}"
        if self.single:
            return f"{shown} (one run)"
        if not self.clear:
            return f"{shown} (within the spread)"
        return f"{shown} ({'faster' if self.better else 'slower'})"


def change(old: FigureView, new: FigureView) -> Change | None:
    """None where the old one was nothing."""
    if old.median <= 0:
        return None
    share = new.median / old.median - 1.0
    if new.median == old.median:
        return Change(0.0, None, clear=False)
    more_is_better = new.unit.endswith("/s")
    single = min(old.count, new.count) < 2
    clear = not single and (new.low > old.high or new.high < old.low)
    return Change(share, (share > 0) == more_is_better, clear, single)


def comparable(old: BenchView, new: BenchView) -> bool:
    """Whether the same was asked of the same model."""
    a, b = old.measured, new.measured
    asked = (a.prompt, a.generate) == (b.prompt, b.generate)
    return old.model == new.model and old.kind == new.kind and asked


def before(new: BenchView, kept: Sequence[BenchView]) -> BenchView | None:
    """The newest earlier one that can be compared. ``kept``: newest first."""
    return next((one for one in kept if one.id < new.id and comparable(one, new)), None)


def settings(old: BenchView, new: BenchView) -> list[str]:
    """What else is different, in words: of how it was served and measured."""
    found = []
    for name in ("engine", "version", "quant", "context", "slots", "source", "modelport"):
        a, b = getattr(old, name), getattr(new, name)
        if a != b:
            found.append(f"{name} {a or '-'} -> {b or '-'}")
    if old.measured.timed_by != new.measured.timed_by:
        found.append(f"timed by the {old.measured.timed_by} -> the {new.measured.timed_by}")
    return found


def changes(old: BenchView, new: BenchView) -> list[tuple[str, Change]]:
    """Of every figure that both have, in the order of the new one."""
    had = {figure.name: figure for figure in old.measured.figures}
    return [
        (figure.name, made)
        for figure in new.measured.figures
        if figure.name in had and (made := change(had[figure.name], figure)) is not None
    ]
