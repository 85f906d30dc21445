"""Changing the configuration file for its owner: comments and order survive, nothing is lost."""

from __future__ import annotations

import contextlib
import copy
import fcntl
import importlib.resources
import os
import stat
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import tomlkit
from tomlkit.exceptions import TOMLKitError

from daemon.config.entry import ModelEntry
from daemon.config.layers import file_layer, read_file
from daemon.config.load import load_text
from daemon.config.mistakes import did_you_mean
from daemon.config.tree import KeyPath, Node, dotted, lookup, read_text
from daemon.config.types import NAME_PATTERN
from daemon.core.problems import Code, Problem, ProblemError

_ENTRY: Final = Node.of(ModelEntry)
_NEW_MODE: Final = 0o600
_Change = tuple[KeyPath, Any]
_UNSET: Final = object()
_LISTENERS: Final = ("server", "also")


class _More(dict[str, Any]):
    """A table that is put behind the others of a list."""


class _Less(int):
    """The place of a table that is taken out of a list."""


def init(path: Path) -> None:
    """Write a commented first configuration to ``path``.

    Raises ProblemError where there is a file already or it cannot be written.
    """
    text = importlib.resources.files("daemon.config").joinpath("starter.toml").read_text("utf-8")
    with _locked(path):
        if path.exists() or path.is_symlink():
            raise _problem(f"{path} exists already.", "`ctl config edit` opens it.")
        _write(path, text, before=None)


def add_model(path: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Add ``[models.NAME]`` with the keys of ``entry`` to the file, which is made if needed.

    Raises ProblemError where the model is there already, ConfigError where the result would be
    wrong; the file is then as it was.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise _problem(f'"{name[:60]}" cannot be the name of a model.', "Use letters and digits.")
    changes: list[_Change] = [
        (("models", name, key), value) for key, value in entry.items() if value is not None
    ]
    with _locked(path):
        text = _read_or_start(path)
        if lookup(tomllib.loads(text or ""), ("models", name))[0]:
            raise _problem(
                f'Model "{name}" is in {path.name} already.', f"ctl set {name} KEY=VALUE"
            )
        _apply(path, text, changes, table=("models", name))


def set_value(path: Path, model: str, pairs: Sequence[str]) -> None:
    """Set ``KEY=VALUE`` pairs of a model; ``KEY=`` removes the key.

    Keys may be dotted (``params.default.temperature=0.7``). Values are read as what the key
    takes; text needs no quotes. Raises ProblemError for an unknown model or a pair that is none,
    ConfigError where the result would be wrong; the file is then as it was.
    """
    with _locked(path):
        text = _read_existing(path)
        _known_model(path, text, model)
        changes = [_read_pair(model, pair) for pair in pairs]
        if changes:
            _apply(path, text, changes)


def append_models(path: Path, text: str, replaced: Iterable[str] = ()) -> None:
    """Put ``text``, tables with their comments, behind the file, which is made if needed; models of
    the names ``replaced`` are taken out of it before.

    Raises ProblemError where the file is written in a way that takes no more tables, ConfigError
    where the result would be wrong; the file is then as it was.
    """
    with _locked(path):
        before = _read_or_start(path)
        start = before or ""
        wanted = copy.deepcopy(tomllib.loads(start))
        gone: list[_Change] = [(("models", name), _UNSET) for name in replaced]
        for where, value in gone:
            _change_plain(wanted, where, value)
        if gone:
            start = _rewritten(start, gone, None, wanted)
        between = "" if not start or start.endswith("\n\n") else "\n" * (2 - start.endswith("\n"))
        after = f"{start}{between}{text}"
        try:
            same = tomllib.loads(after) == _joined(wanted, tomllib.loads(text))
        except (ValueError, TypeError, RecursionError) as error:
            raise _by_hand(str(error)) from error
        if not same:
            raise _by_hand("")
        load_text(after, name=str(path), folder=path.parent)
        _write(path, after, before=before)


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Both, table by table; ValueError where they say the same key."""
    joined = dict(one)
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(joined.get(key), dict):
            joined[key] = _joined(joined[key], value)
        elif key in joined:
            raise ValueError(f"{key} is there already")
        else:
            joined[key] = value
    return joined


def set_models(path: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Set keys of several models at once, ``{"coder": {"ctx": 65536, "file": None}}``; None removes
    the key. Models that are not in the file are added, and the file is made if needed.

    Raises as :func:`add_model`; the file is then as it was.
    """
    bad = next((name for name in entries if not NAME_PATTERN.fullmatch(name)), None)
    if bad is not None:
        raise _problem(f'"{bad[:60]}" cannot be the name of a model.', "Use letters and digits.")
    changes: list[_Change] = [
        (("models", name, key), _UNSET if value is None else value)
        for name, entry in entries.items()
        for key, value in entry.items()
    ]
    with _locked(path):
        _apply(path, _read_or_start(path), changes)


def remove_model(path: Path, name: str) -> None:
    """Remove ``[models.NAME]`` with everything in it.

    Raises ProblemError for an unknown model, ConfigError where something else still names it.
    """
    with _locked(path):
        text = _read_existing(path)
        _known_model(path, text, name)
        _apply(path, text, [(("models", name), _UNSET)])


def set_keys(path: Path, values: Mapping[str, Any]) -> None:
    """Set dotted keys of any section, ``{"server.port": 9000}``; None removes the key.

    The file is made if needed. Raises as :func:`set_value`.
    """
    changes: list[_Change] = [
        (tuple(key.split(".")), _UNSET if value is None else value) for key, value in values.items()
    ]
    with _locked(path):
        _apply(path, _read_or_start(path), changes)


def add_listener(path: Path, listener: Mapping[str, Any]) -> None:
    """Put one more port, ``{"port": 11434, "as": "ollama"}``, behind those of ``server.also``.

    The file is made if needed. Raises as :func:`add_model`.
    """
    with _locked(path):
        _apply(path, _read_or_start(path), [(_LISTENERS, _More(listener))])


def remove_listener(path: Path, port: int) -> None:
    """Take the port out of ``server.also``; if it is not there, nothing is done.

    Raises as :func:`add_model`.
    """
    with _locked(path):
        text = _read_existing(path)
        there = lookup(tomllib.loads(text), _LISTENERS)[1]
        tables = there if isinstance(there, list) else []
        for place, table in enumerate(tables):
            if isinstance(table, dict) and table.get("port") == port:
                _apply(path, text, [(_LISTENERS, _Less(place))])
                return


def _read_pair(model: str, pair: str) -> _Change:
    key, equals, value = pair.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not key:
        raise _problem(
            f'"{pair[:60]}" is not KEY=VALUE.', f"For example: ctl set {model} ctx=65536"
        )
    parts = tuple(part for part in key.split(".") if part)
    node = _ENTRY.at(parts)
    if not parts or _ENTRY.step(parts[0]) is None:
        hint = did_you_mean(key, _ENTRY.keys()) or "`ctl config schema` lists the keys."
        raise _problem(f'A model has no key "{key[:60]}".', hint)
    wanted = _UNSET if not value else read_text(node, value, words=parts[-1] == "args")
    return ("models", model, *parts), wanted


def _known_model(path: Path, text: str, name: str) -> None:
    models = lookup(tomllib.loads(text), ("models",))[1]
    known = tuple(models) if isinstance(models, dict) else ()
    if name not in known:
        hint = did_you_mean(name, known) or f"It has: {', '.join(known) or 'no models'}."
        raise _problem(f'There is no model "{name[:60]}" in {path.name}.', hint)


def _apply(
    path: Path, text: str | None, changes: Iterable[_Change], table: KeyPath | None = None
) -> None:
    """Make the changes, prove the result, write it."""
    changes = list(changes)
    before = text or ""
    wanted = copy.deepcopy(tomllib.loads(before))
    for where, value in changes:
        _change_plain(wanted, where, value)
    if table is not None and not lookup(wanted, table)[0]:
        _change_plain(wanted, table, {})
    after = _rewritten(before, changes, table, wanted)
    load_text(after, name=str(path), folder=path.parent)
    _write(path, after, before=text)


def _change_plain(values: dict[str, Any], path: KeyPath, value: Any) -> None:
    """The change on plain tables: what the rewritten text has to mean."""
    *parents, last = path
    for part in parents:
        inner = values.get(str(part))
        if inner is None:
            if value is _UNSET:
                return
            inner = values[str(part)] = {}
        if not isinstance(inner, dict):
            raise _problem(f"{dotted(path)} cannot be set.", f'"{part}" is not a table.')
        values = inner
    if value is _UNSET:
        values.pop(str(last), None)
    elif isinstance(value, _More):
        values.setdefault(str(last), []).append(dict(value))
    elif isinstance(value, _Less):
        del values[str(last)][value]
        if not values[str(last)]:
            del values[str(last)]
    else:
        values[str(last)] = value


def _rewritten(
    before: str, changes: list[_Change], table: KeyPath | None, wanted: dict[str, Any]
) -> str:
    """The text with the changes in it, comments and order kept.

    Raises ProblemError where tomlkit cannot do it faithfully: a file that would mean something
    else than intended is never written.
    """
    try:
        document = tomlkit.parse(before)
        if table is not None:
            _table_at(document, table)
        for path, value in changes:
            _change_document(document, path, value)
        after = tomlkit.dumps(document)
        same = _without_empty(tomllib.loads(after)) == _without_empty(wanted)
    except (TOMLKitError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise _by_hand(str(error)) from error
    if not same:
        raise _by_hand("")
    return after


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    """Without [models] where its last model has gone: no line need stand for it."""
    return {key: value for key, value in values.items() if key != "models" or value != {}}


def _by_hand(reason: str) -> ProblemError:
    detail = f" ({reason})" if reason else ""
    return _problem(
        f"The file is written in a way that cannot be changed without harm{detail}.",
        "Nothing was written; `ctl config edit` opens it.",
    )


def _change_document(document: Any, path: KeyPath, value: Any) -> None:
    if value is _UNSET:
        holder: Any = document
        for part in path[:-1]:
            if part not in holder:
                return
            holder = holder[part]
        if path[-1] in holder:
            del holder[path[-1]]
        return
    holder = _table_at(document, path[:-1])
    if isinstance(value, _More | _Less):
        _change_list(holder, str(path[-1]), value)
    else:
        holder[path[-1]] = value


def _change_list(holder: Any, key: str, value: _More | _Less) -> None:
    """One table more or less in a list, written as ``[{…}]`` or as ``[[…]]``, as it is there."""
    if isinstance(value, _Less):
        del holder[key][int(value)]
        if not holder[key]:
            del holder[key]
        return
    if key not in holder:
        holder[key] = tomlkit.array()
    tables = key in holder and isinstance(holder[key], tomlkit.items.AoT)
    table: Any = tomlkit.table() if tables else tomlkit.inline_table()
    table.update(value)
    holder[key].append(table)


def _table_at(document: Any, path: KeyPath) -> Any:
    """The table at ``path``, made where it is not there."""
    holder = document
    for depth, part in enumerate(path):
        if part not in holder:
            if depth < 2:
                # [models] itself stays unwritten: only [models.NAME] is.
                new: Any = tomlkit.table(is_super_table=depth == 0 and len(path) > 1)
                if depth and isinstance(holder, tomlkit.items.InlineTable):
                    new = tomlkit.inline_table()
            else:
                new = tomlkit.inline_table()
            holder[part] = new
        holder = holder[part]
    return holder


def _read_existing(path: Path) -> str:
    file_layer(path)  # says in words what is wrong with a file that cannot be read
    return read_file(path)


def _read_or_start(path: Path) -> str | None:
    """The text, or None where there is no file yet."""
    if not path.exists() and not path.is_symlink():
        return None
    return _read_existing(path)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Nobody else changes the file meanwhile; another editor of ours is told to try again."""
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _problem(f"{folder} cannot be used: {error.strerror}.", "Check its rights.") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _problem("Another program is changing the file.", "Try again.") from None
        yield
    finally:
        os.close(handle)


def _write(path: Path, text: str, *, before: str | None) -> None:
    """Replace the file in one step: temporary file, fsync, rename. ``before`` is what was read.

    Raises ProblemError where that is not possible; the old file is then as it was.
    """
    target = Path(os.path.realpath(path))  # a link to a file elsewhere stays a link
    temporary: str | None = None
    try:
        if before is not None and read_file(target) != before:
            raise _problem(f"{path} has changed in the meantime.", "Try again.")
        mode = stat.S_IMODE(target.stat().st_mode) if before is not None else _NEW_MODE
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with open(handle, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123 (descriptor)
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, target)  # noqa: PTH105 (paths as they are)
        temporary = None
        _sync_folder(target.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise _problem(f"{path} cannot be written: {reason}.", "The old file is kept.") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _problem(message: str, hint: str) -> ProblemError:
    return ProblemError(Problem(Code.CONFIG_INVALID, message, hint))
