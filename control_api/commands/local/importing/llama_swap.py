"""llama-swap's ``config.yaml``: models, macros, groups, what is loaded at the start.

Fields: its ``config.example.yaml`` as of late 2026. What is said of memory there (groups, matrix)
is decided by bytes here, so only ``persistent`` has a counterpart: ``pin``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from control_api.commands.local.importing import servers
from control_api.commands.local.importing.reading import Document, Table, read_yaml
from control_api.commands.local.importing.values import (
    MAX_MODELS,
    Imported,
    Item,
    clean_name,
    secret_name,
)

_MACRO: Final = re.compile(r"\$\{([^{}$]{1,200})\}")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ROUNDS: Final = 10  # macros in macros
_LONGEST: Final = 1 << 17  # characters of a command with its macros filled in
_PROXY: Final = re.compile(r"https?://([^/:]+|\[[^\]]*\])(?::(\d+|\x00port\x00))?(/.*)?")
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "[::1]", "::1"})

_ITS_OWN: Final = frozenset(
    {
        "startPort", "logLevel", "logToStdout", "logTimeFormat", "ui", "metricsMaxInMemory",
        "captureBuffer", "performance", "store", "upstream", "includeAliasesInList",
    }
)  # fmt: skip
"""Settings of that program itself, told in one line."""
_FILE: Final = {
    "healthCheckTimeout": "how long a start may stand still is [timing] start_stall.",
    "unloadTimeout": "how long an engine has to end is [timing] stop_grace.",
    "apiKeys": "keys are kept hashed, not in the file: `ctl key add NAME` makes one.",
    "peers": "servers on other machines are not imported.",
    "selectors": "name them as `aliases` of one model.",
    "profiles": "name them as `aliases` of one model.",
    "tailcat": "other machines are let in by `ctl lan on`.",
}
_MODEL: Final = {
    "name": "models have one name; add it to `aliases` if clients use it.",
    "description": "there is no place for it.",
    "metadata": "there is no place for it.",
    "unlisted": "every model is listed.",
    "timeouts": "how long a model may be silent is [timing] answer_stall.",
    "unloadTimeout": "how long an engine has to end is [timing] stop_grace.",
    "compat": "there is no need for it.",
    "cmdStop": "its process is told to end (SIGTERM), then killed.",
}


class _MissingError(Exception):
    """A macro that nothing defines; its name."""


def translate(text: str, source: str, base: Path, environ: Mapping[str, str]) -> Imported:
    """``base``: the folder from which its relative paths are meant. Raises ConfigError with every
    mistake and its line."""
    document = read_yaml(text, source)
    top = document.top()
    found = Imported(source)
    macros = _macros(top.table("macros"))
    models = top.table("models")
    if not models.values:
        document.wrong(("models",), "no models", "a table of models")
    if len(models.values) > MAX_MODELS:
        document.wrong(("models",), f"{len(models.values)} models", f"at most {MAX_MODELS}")
        document.check()
    whole = _Whole(top, macros, environ, base, found)
    for name, table in models.tables():
        whole.model(name, table)
    whole.groups(top)
    whole.startup(top.table("hooks"))
    whole.priorities(top)
    _rest(top, found)
    document.check()
    _programs(found)
    return found


def _macros(table: Table) -> dict[str, str]:
    found = {}
    for name, value in table.values.items():
        path = (*table.path, name)
        if not _NAME.fullmatch(name) or name in ("PORT", "PID", "MODEL_ID"):
            table.document.wrong(
                path, "this name", "letters, digits, _ and -, and no reserved name"
            )
        elif not isinstance(value, str | int | float | bool):
            table.document.wrong(path, "a list or a table", "text, a number or true or false")
        else:
            found[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


def _rest(top: Table, found: Imported) -> None:
    rest = top.rest()
    own = [key for key in rest if key in _ITS_OWN]
    if own:
        found.say(", ".join(own), "", "settings of llama-swap itself.")
    for key, value in rest.items():
        if key not in _ITS_OWN:
            shown = f"{len(value)} of them" if isinstance(value, list | dict) else value
            found.say(key, shown, _FILE.get(key, "modelport has nothing of that name."))


def _programs(found: Imported) -> None:
    """One llama-server for all: the first that was named by its path."""
    for item in found.items:
        engine, program = item.keys.get("engine"), item.keys.pop("program", "")
        if not program or "/" not in program:
            continue
        known = found.programs.setdefault(str(engine), program)
        if known != program:
            item.say("cmd", program, f"an engine has one program here: {known}.")


class _Whole:
    """What the models of one file share."""

    def __init__(
        self,
        top: Table,
        macros: Mapping[str, str],
        environ: Mapping[str, str],
        base: Path,
        found: Imported,
    ) -> None:
        self._document: Document = top.document
        self._macros, self._environ, self._base = macros, environ, base
        self._found = found
        self._ttl = top.whole("globalTTL")
        self._loading = top.flag("sendLoadingState")
        self._items: dict[str, Item] = {}
        self._secrets: list[str] = []  # variables that a command names, and that stay outside

    def model(self, name: str, table: Table) -> None:
        """One entry, or the reason why there is none."""
        item = Item(clean_name(name))
        if item.name != name:
            item.note("name", name, "letters, digits and . _ : / @ + - only.")
        own = dict(self._macros) | _macros(table.table("macros")) | {"MODEL_ID": name}
        try:
            why = self._command(item, table, own)
        except _MissingError as error:
            why = f"nothing defines ${{{error}}}."
        except ValueError as error:
            self._document.wrong((*table.path, "cmd"), f"a command that ends early ({error})",
                                 "a command line")  # fmt: skip
            return
        self._common(item, table, own)
        for key, value in table.rest().items():
            item.say(key, value, _MODEL.get(key, "modelport has nothing of that name."))
        if why:
            self._found.skipped[name] = why
        else:
            self._items[name] = item
            self._found.items.append(item)

    # ------------------------------------------------------------ the command

    def _command(self, item: Item, table: Table, macros: Mapping[str, str]) -> str:
        written = table.text("cmd")
        if not written.strip():
            if "cmd" not in table.values:
                self._document.wrong((*table.path, "cmd"), "nothing", "a command line")
            return "it has no cmd."
        self._secrets.clear()
        words = shlex.split(_uncommented(self._filled(written, macros)))
        for name in self._secrets:
            item.say("cmd", f"${{env.{name}}}", "a secret stays where it is: put it in by hand.")
        env, words = servers.split_env(words)
        unresolved = self._env(table, macros, env)
        servers.environment(item, env, unresolved)
        check, proxy = table.text("checkEndpoint"), self._filled(table.text("proxy"), macros)
        model_name, limit = table.text("useModelName"), table.whole("concurrencyLimit")
        server = servers.server_of(words)
        if server is not None:
            servers.fill(item, server, self._base)
            item.set("program", server.program)
            if check not in ("", "/health", "/v1/models"):
                item.say("checkEndpoint", check, f"{server.engine} is asked a real request.")
            if limit:
                item.keys.setdefault(
                    "slots", min(limit, 256)
                ) if server.engine != "llama-server" else item.say(
                    "concurrencyLimit", limit, "`slots` requests run, others wait."
                )
            return ""
        return self._template(item, words, check, proxy, model_name, limit)

    def _template(
        self, item: Item, words: list[str], check: str, proxy: str, model_name: str,
        limit: int | None,
    ) -> str:  # fmt: skip
        port = ""
        if proxy:
            match = _PROXY.fullmatch(proxy)
            if match is None or match[1] not in _LOCAL:
                return "it is reached on another machine."
            port = "" if match[2] in (None, servers.PORT) else match[2]
            if match[3] and match[3] != "/":
                item.say("proxy", match[3], "a path before all others is not supported.")
        if not words:
            return "its cmd is empty."
        why = servers.as_command(item, words, port)
        if why or item.command is None:
            return why
        if check:
            item.command["ready"] = "request" if check == "none" else check
        if model_name:
            item.say("useModelName", model_name, f"it is asked for {item.name}: call it so there.")
        if limit:
            item.set("slots", min(limit, 256))
        return ""

    def _env(self, table: Table, macros: Mapping[str, str], env: dict[str, str]) -> dict[str, str]:
        """Fills ``env``; returns secrets that the environment holds, which stay there."""
        unresolved = {}
        for index, line in enumerate(table.texts("env")):
            name, equals, value = line.partition("=")
            if not equals:
                path = (*table.path, "env", index)
                self._document.wrong(path, "a text without =", "NAME=VALUE")
                continue
            outside = re.search(r"\$\{env\.([^{}]+)\}", value)
            if outside and (secret_name(name) or secret_name(outside[1])):
                unresolved[name] = outside[1]
            else:
                env[name] = self._filled(value, macros)
        return unresolved

    def _filled(self, text: str, macros: Mapping[str, str]) -> str:
        """``text`` with its macros filled in. Raises _MissingError, ValueError."""

        def one(match: re.Match[str]) -> str:
            name = match[1]
            if name == "PORT":
                return servers.PORT
            if name.startswith("env."):
                return self._outside(name.removeprefix("env."))
            if name not in macros:
                raise _MissingError(name)
            return macros[name]

        for _ in range(_ROUNDS):
            filled = _MACRO.sub(one, text)
            if len(filled) > _LONGEST:
                raise ValueError("it grows without end")
            if filled == text:
                return filled
            text = filled
        raise ValueError("its macros name each other")

    def _outside(self, name: str) -> str:
        if secret_name(name):
            self._secrets.append(name)
            return ""
        if name not in self._environ:
            raise _MissingError(f"env.{name}")
        return self._environ[name].replace("\x00", "")

    # ------------------------------------------------------------ the rest of a model

    def _common(self, item: Item, table: Table, macros: Mapping[str, str]) -> None:
        aliases = table.texts("aliases")
        if aliases:
            item.keys.setdefault("aliases", []).extend(aliases)
        ttl = table.any("ttl")
        if ttl is not None and (isinstance(ttl, bool) or not isinstance(ttl, int) or ttl < -1):
            self._document.wrong((*table.path, "ttl"), repr(ttl)[:40], "seconds, 0 or -1")
            ttl = None
        ttl = self._ttl if ttl in (None, -1) else ttl
        if ttl is not None:
            item.set("keep_alive", ttl or -1)
        loading = table.flag("sendLoadingState")
        if loading if loading is not None else self._loading:
            item.set("loading_text", True)
        self._filters(item, table.table("filters"), macros)
        self._capable(item, table.table("capabilities"))

    def _filters(self, item: Item, table: Table, macros: Mapping[str, str]) -> None:
        params: dict[str, Any] = {}
        words = table.any("stripParams")
        if isinstance(words, list):
            words = ",".join(str(word) for word in words)
        stripped = [word.strip() for word in (words or "").split(",")] if isinstance(
            words, str | None) else []  # fmt: skip
        if words is not None and not isinstance(words, str):
            path = (*table.path, "stripParams")
            self._document.wrong(path, "something else", "names with commas between")
        strip = [word for word in dict.fromkeys(stripped) if word and word != "model"]
        force = dict(table.table("setParams").values)
        by_id = table.table("setParamsByID")
        for name, fields in by_id.tables():
            if name.replace("${MODEL_ID}", macros["MODEL_ID"]) == macros["MODEL_ID"]:
                force |= fields.values
            else:
                why = "one model has one set of parameters: add an entry of its own for it."
                item.say(f"setParamsByID.{name}", dict(fields.values), why)
        force.pop("model", None)
        if strip:
            params["strip"] = strip
        if force:
            params["force"] = force
        if params:
            item.set("params", params)
        for key, value in table.rest().items():
            item.say(f"filters.{key}", value, "modelport has nothing of that name.")

    def _capable(self, item: Item, table: Table) -> None:
        if table.flag("reranker"):
            item.set("kind", "rerank")
            if item.command is not None:
                item.command["kind"] = "rerank"
        if table.values:
            item.say("capabilities", dict(table.values), "read from the weights and found out.")

    # ------------------------------------------------------------ between the models

    def groups(self, top: Table) -> None:
        """``groups``, where they stand now and where they stood before."""
        routing = top.table("routing")
        settings = routing.table("router").table("settings")
        for groups in (top.table("groups"), settings.table("groups")):
            for name, group in groups.tables():
                members = group.texts("members")
                swap, persistent = group.flag("swap"), group.flag("persistent")
                if persistent and swap is False:
                    for member in members:
                        self._pin(member, f"group {name}")
                elif persistent:
                    self._found.say(f"groups.{name}", "persistent", "`ctl pin` keeps a model.")
        if top.table("groups").values or settings.values:
            why = (
                "memory decides who runs beside whom; `pin`, `priority` and `keep_alive` steer it."
            )
            self._found.say("groups, routing", "", why)

    def startup(self, hooks: Table) -> None:
        """What is loaded at the start."""
        startup = hooks.table("on_startup")
        for name in startup.texts("preload"):
            self._pin(name, "preload")
        for key, value in {**startup.rest(), **hooks.rest()}.items():
            self._found.say(f"hooks.{key}", value, "modelport has nothing of that name.")

    def _pin(self, name: str, where: str) -> None:
        item = self._items.get(name)
        if item is None:
            self._found.say(where, name, "there is no such model.")
        elif "pin" not in item.keys:
            item.set("pin", True)
            item.note(where, "", "pin = true: started at boot, and never evicted.")

    def priorities(self, top: Table) -> None:
        """``routing.scheduler``."""
        scheduler = top.table("routing").table("scheduler")
        given = scheduler.table("settings").table("fifo").table("priority")
        for name in given.values:
            number = given.whole(name, -(2**31))
            if number is not None and name in self._items:
                self._items[name].set("priority", max(-100, min(100, number)))


def _uncommented(text: str) -> str:
    """Without lines of comments, and with lines that are continued made one."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return " ".join(line.removesuffix("\\") for line in lines)
