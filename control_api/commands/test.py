"""``test``: does a model work for clients? Asked through the fixed port, as they do."""

from __future__ import annotations

import os
import secrets
import string
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from control_api.client import Client, RefusedError, segment, view
from control_api.commands.command import Command
from control_api.commands.output import Out, duration
from control_api.commands.progress import Steps
from control_api.commands.stories import clock
from daemon.proving.steps import STEPS
from daemon.proving.values import Finding, Outcome, Subject
from daemon.views import FindingView, ModelView, VerdictView

KEY_ENV: Final = "MODELPORT_API_KEY"
LONGEST: Final = 86400.0  # seconds
_COLOURS: Final = {
    "works": "green",
    "but": "yellow",
    "works, but": "yellow",
    "partly tested": "yellow",
    "broken": "red",
    "unknown": "red",
    "skipped": "dim",
}
_WORDS: Final = {"but": "works, but", "unknown": "not tried", "skipped": "left out"}
_WIDE: Final = len("works, but")


@dataclass(slots=True)
class Run:
    """One model's test of now."""

    model: str
    findings: list[Finding]
    verdict: VerdictView | None = None

    @property
    def good(self) -> bool:
        """Nothing is broken, and all that was to be tried was."""
        bad = (Outcome.BROKEN, Outcome.UNKNOWN)
        return not any(finding.outcome in bad for finding in self.findings)

    def value(self) -> dict[str, Any]:
        """For programs: the verdict on all that is known, and what was found now."""
        known = asdict(self.verdict) if self.verdict is not None else {"model": self.model}
        return {**known, "ran": [asdict(finding) for finding in self.findings]}


def test(args: Namespace, out: Out) -> int:
    client = Client()
    if args.last:
        return _last(client, args, out)
    if not args.all:
        run = _one(client, args.model, args, out)
        if out.json:
            out.value(run.value())
        return 0 if run.good else 1
    return _all(client, args, out)


def _all(client: Client, args: Namespace, out: Out) -> int:
    """Every model that fits, one after the other; what was not loaded before is unloaded again."""
    runs: list[Run] = []
    left_out: list[dict[str, str]] = []
    models = [view(ModelView, item) for item in client.get("/models")["models"]]
    for model in sorted(models, key=lambda one: one.state != "ready"):
        if why := _unfit(client, model):
            left_out.append({"model": model.name, "why": why})
            if not out.json:
                out.line(f"{model.name}: left out: {why}")
            continue
        if not out.json:
            out.line(out.paint(model.name, "bold"))
        try:
            runs.append(_one(client, model.name, args, out))
            if model.state in ("stopped", "backoff", "failed"):
                client.post(f"/models/{segment(model.name)}/unload")
        except RefusedError as error:
            left_out.append({"model": model.name, "why": error.message})
            if not out.json:
                out.line(f"{model.name}: left out: {error.message}")
    if out.json:
        out.value({"tests": [run.value() for run in runs], "left_out": left_out})
    return 0 if all(run.good for run in runs) else 1


def _unfit(client: Client, model: ModelView) -> str:
    """Why it is not tested; "" if it can be."""
    if "chat" not in model.routes:
        return f"it does not chat ({model.kind})"
    if not model.pulled:
        return f"it is not on this disk: `ctl pull {model.name}`"
    if model.problem:
        return model.problem
    fit = client.get(f"/models/{segment(model.name)}/fit")
    return str(fit["text"]) if fit["verdict"] == "refused" else ""


def _one(client: Client, name: str, args: Namespace, out: Out) -> Run:
    """Load it, take the steps, have the findings kept."""
    model = view(ModelView, client.get(f"/models/{segment(name)}"))
    if "chat" not in model.routes and not model.problem:
        said = ", ".join(model.routes) or "nothing"
        text = f"{model.name} does not chat (it serves {said}), so it cannot be tested."
        raise RefusedError("unsupported_dialect", text, "`ctl test` is for models that chat.")
    with Steps(out) as steps:
        for line in client.progress(f"/models/{segment(model.name)}/load"):
            steps.show(line)
    subject = _subject(client, model, args)
    run = Run(model.name, [])
    try:
        _take(run, subject, client, args.only or list(STEPS), out)
    finally:
        _keep(client, run)  # of a test that was interrupted too
    _conclude(run, args, out)
    return run


def _subject(client: Client, model: ModelView, args: Namespace) -> Subject:
    """The model as it is served now: its context may be smaller than what it is configured for."""
    backend = client.get(f"/backends/{segment(model.name)}")
    given = {} if args.timeout is None else dict.fromkeys(("seconds", "long_seconds"), args.timeout)
    return Subject(
        model.name,
        context=backend["context"],
        slots=backend["slots"],
        sees=model.sees,
        routes=frozenset(model.routes),
        tag=fresh_tag(),
        **given,
    )


def fresh_tag() -> str:
    """Letters by which one run's secret words differ from those of others."""
    return "".join(secrets.choice(string.ascii_lowercase) for _ in range(6))


def _take(run: Run, subject: Subject, client: Client, names: Sequence[str], out: Out) -> None:
    from daemon.proving.driver import take  # http.client only where it is needed

    url, far = client.url(), client.far
    key = os.environ.get(KEY_ENV) or (far.key if far is not None else None)
    dial = far.open if far is not None else None
    moving = out.err.isatty() and not out.json
    for name in STEPS:
        if name not in names:
            continue
        if moving:
            out.err.write(f"\r\x1b[K… {name}")
            out.err.flush()
        try:
            finding = take(STEPS[name], subject, url, key, dial)
        finally:
            if moving:
                out.err.write("\r\x1b[K")
                out.err.flush()
        run.findings.append(finding)
        if not out.json:
            _show(finding, out)


def _keep(client: Client, run: Run) -> None:
    said = [asdict(one) for one in run.findings if one.outcome is not Outcome.UNKNOWN]
    if said:
        for one in said:
            one["text"], one["hint"] = one["text"][:400], one["hint"][:400]
        data = client.post(f"/models/{segment(run.model)}/tests", findings=said)
        run.verdict = view(VerdictView, data)


def _show(finding: Finding | FindingView, out: Out) -> None:
    """One step, and the next step where something is wrong."""
    word = _WORDS.get(str(finding.outcome), str(finding.outcome)).ljust(_WIDE)
    painted = out.paint(word, _COLOURS[str(finding.outcome)])
    name = finding.step.ljust(max(map(len, STEPS)))
    out.line(f"  {painted}  {name}  {finding.text}  {out.paint(duration(finding.seconds), 'dim')}")
    if finding.hint and finding.outcome != "skipped":
        out.line(f"  {' ' * _WIDE}  {' ' * len(name)}  next: {finding.hint}")


def _conclude(run: Run, args: Namespace, out: Out) -> None:
    if run.verdict is None:
        text = run.findings[0].text if run.findings else "no step was taken"
        raise RefusedError("not_tested", f"{run.model} was not tested: {text}.", "`ctl status`")
    if not out.json:
        out.line(f"{run.model}: {told(run.verdict, out)}")


def told(verdict: VerdictView, out: Out) -> str:
    """``works, but tools-chat: … (llama-server b9000)``."""
    painted = out.paint(verdict.verdict, _COLOURS[verdict.verdict])
    parts = [painted, {"works": "", "works, but": " "}.get(verdict.verdict, ": "), verdict.text]
    engine = f"{verdict.engine} {verdict.version}".strip()
    return f"{''.join(parts)} ({engine})"


def _last(client: Client, args: Namespace, out: Out) -> int:
    """What is remembered; nothing is asked."""
    if args.all:
        models = [view(ModelView, item) for item in client.get("/models")["models"]]
        verdicts = [model.tested for model in models if model.tested is not None]
    else:
        data = client.get(f"/models/{segment(args.model)}/tests")
        verdicts = [view(VerdictView, item) for item in data["verdicts"]]
    if out.json:
        out.value({"verdicts": [asdict(verdict) for verdict in verdicts]})
        return 0
    if not verdicts:
        which = "No model" if args.all else args.model
        out.line(f"{which} has {'' if args.all else 'not '}been tested{' yet' * args.all}.")
    for verdict in verdicts:
        old = "" if verdict.current else ", not as it is served today"
        out.line(f"{verdict.model}: {told(verdict, out)}, {clock(verdict.at)}{old}")
        for finding in verdict.findings:
            _show(finding, out)
    return 0


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST:
        raise ArgumentTypeError(f"{text!r}: seconds are wanted, from above 0 to {LONGEST:.0f}")
    return seconds


def _arguments(parser: ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("model", metavar="MODEL", nargs="?", help="name or alias")
    which.add_argument("--all", action="store_true", help="every model that fits, one by one")
    parser.add_argument(
        "--only", metavar="STEP", choices=list(STEPS), action="append",
        help=f"this step alone, may be repeated: {', '.join(STEPS)}",
    )  # fmt: skip
    parser.add_argument("--last", action="store_true", help="what was found last; asks nothing")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds,
        help="the longest for one request (300; 1800 for the one that fills the context)",
    )  # fmt: skip


COMMANDS: Final = {
    "test": Command(
        summary="prove that a model works for clients: stream, tools, image, context, leak, stop",
        text="It is loaded and asked through the fixed port, as clients do. A stream; a whole\n"
        "tool round per dialect; an image, if it sees; its context filled, and exceeded; two\n"
        "conversations that must not leak into each other; a stream that is left. Each step\n"
        "says whether all around the model is broken, or the model itself is too weak, and\n"
        "what to do. The verdict is kept per version of the engine: `ctl ls`, `ctl show`.\n"
        f"{KEY_ENV} is sent as the key, where one is needed. Exit code 1: something is broken.",
        examples=(
            ("ctl test qwen3-coder", ""),
            ("ctl test qwen3-coder --only tools-messages", "the round that Claude Code needs"),
            ("ctl test --last qwen3-coder", "what was found last"),
            ("ctl test --all --json", "every model that fits, for a program"),
        ),
        run=test,
        arguments=_arguments,
    ),
}
