"""``import``: the models of llama-swap, llama-server's presets, Ollama and LM Studio, as ours."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from control_api.commands.asking import agreed, need_somebody
from control_api.commands.command import Command
from control_api.commands.local.settings import (
    add_config_flag,
    config_file,
    report_change,
    tell_daemon,
)
from control_api.commands.output import Out

if TYPE_CHECKING:
    from control_api.commands.local.importing.values import Imported


def llama_swap(args: Namespace, out: Out) -> int:
    from control_api.commands.local.import_sources import llama_swap_file

    return _import(llama_swap_file(args.source), args, out)


def llama_cpp(args: Namespace, out: Out) -> int:
    from control_api.commands.local.import_sources import llama_cpp_file

    return _import(llama_cpp_file(args.source), args, out)


def ollama(args: Namespace, out: Out) -> int:
    from control_api.commands.local import import_sources

    return _import(import_sources.ollama(args.source, args.name), args, out)


def lm_studio(args: Namespace, out: Out) -> int:
    from control_api.commands.local.import_sources import lm_studio_models

    return _import(lm_studio_models(args.source), args, out)


def _import(found: Imported, args: Namespace, out: Out) -> int:
    """Show it; then, unless that is all, put it into the file."""
    from control_api.commands.local.importing.render import render

    path = config_file(args.config)
    printing = args.print or args.output is not None
    replaced = _fit_in(found, args, None if printing else path)
    text = render(found) if found.items else ""
    if printing:
        return _write_out(text, found, args, out)
    if not found.items:
        return _nothing(found, path, out)
    if not out.json:
        _show(text, found, replaced, out)
    if args.dry_run:
        if out.json:
            out.value(_facts(found, text, path) | {"written": False})
        else:
            out.line(f"Nothing was written: without --dry-run this is put into {path}.")
        return 0
    if not args.yes:
        hint = "--yes writes it, --dry-run only shows it."
        need_somebody(f"This changes {path}", hint, out)
        if not agreed(f"Put this into {path}?", out):
            out.note("Nothing was written.")
            return 1
    from daemon.config.edit import append_models

    append_models(path, text, replaced)
    reloaded = tell_daemon(path, out)
    if out.json:
        out.value(_facts(found, text, path) | {"written": True, "reloaded": reloaded})
    else:
        names = ", ".join(item.name for item in found.items)
        report_change(out, f"imported {names}", path, reloaded)
    return 0


def _fit_in(found: Imported, args: Namespace, path: Path | None) -> list[str]:
    """Make of it what the file can take; the names of models that are to be replaced."""
    from control_api.commands.local.import_sources import taken
    from control_api.commands.local.importing.settled import settle

    values: dict[str, Any] = {}
    if path is not None and path.exists():
        import tomllib

        from daemon.config.layers import file_layer, read_file

        file_layer(path)  # says in words what is wrong with a file that cannot be read
        values = tomllib.loads(read_file(path))
    names, templates, engines = taken(values)
    models = values.get("models", {})
    replaced = [item.name for item in found.items if args.replace and item.name in models]
    for name in replaced:
        names -= {name, *map(str, models[name].get("aliases", ()))}
    if args.rename:
        _renamed(found, names)
    for engine in engines & found.programs.keys():
        found.say(f"engines.{engine}.path", found.programs.pop(engine), "there is a table of it.")
    settle(found, names, templates)
    kept = {item.name for item in found.items}
    return [name for name in replaced if name in kept]


def _renamed(found: Imported, names: set[str]) -> None:
    """``NAME-2`` for a model whose name is taken."""
    used = {name.casefold() for name in names}
    for item in found.items:
        base, number = item.name, 2
        while item.name.casefold() in used:
            item.name, number = f"{base[:190]}-{number}", number + 1
        if item.name != base:
            item.note("name", base, "another model has this name.")
        used.add(item.name.casefold())


def _show(text: str, found: Imported, replaced: list[str], out: Out) -> None:
    for line in _hidden(text).rstrip("\n").split("\n"):
        out.line(out.paint(line, "dim") if line.startswith("#") else line)
    out.line()
    for name in replaced:
        out.line(f"{out.paint('!', 'yellow')} {name} is replaced: its entry goes.")
    for name, why in found.skipped.items():
        out.line(f"{out.paint('!', 'yellow')} {name} is left out: {why}")


def _nothing(found: Imported, path: Path, out: Out) -> int:
    if out.json:
        out.value(_facts(found, "", path) | {"written": False})
    else:
        for name, why in found.skipped.items():
            out.line(f"{out.paint('!', 'yellow')} {name} is left out: {why}")
        out.note("Nothing is left to import.")
    return 1


def _write_out(text: str, found: Imported, args: Namespace, out: Out) -> int:
    """For another file than ours, as it is: with what is secret in it."""
    from control_api.commands.local.import_sources import refuse

    if args.output is not None:
        try:
            with Path(args.output).open("x", encoding="utf-8") as file:
                Path(args.output).chmod(0o600)
                file.write(text)
        except OSError as error:
            raise refuse(f"{args.output} cannot be written: {error.strerror}.") from None
    if out.json:
        out.value(_facts(found, text, args.output))
    elif args.output is None:
        out.out.write(text)
    else:
        out.line(f"{len(found.items)} models in {args.output}")
    for name, why in found.skipped.items():
        out.note(f"{name} is left out: {why}")
    return 0 if found.items else 1


def _facts(found: Imported, text: str, path: Path | str | None) -> dict[str, Any]:
    models = [
        {"name": item.name, "remarks": [asdict(remark) for remark in item.remarks]}
        for item in found.items
    ]
    return {
        "file": str(path) if path is not None else None,
        "models": models,
        "skipped": found.skipped,
        "remarks": [asdict(remark) for remark in found.remarks],
        "toml": _hidden(text),
    }


def _hidden(text: str) -> str:
    """For a screen: without the secrets that are needed in the file. Comments have none."""
    from control_api.commands.local.importing.values import hide

    return "\n".join(one if one.startswith("#") else hide(one) for one in text.split("\n"))


def _flags(parser: ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="show it, and write nothing")
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")
    parser.add_argument("--print", action="store_true", help="the TOML alone, on stdout")
    parser.add_argument("--output", metavar="FILE", help="the TOML into a new file")
    clash = parser.add_mutually_exclusive_group()
    clash.add_argument("--rename", action="store_true", help="NAME-2 where a name is taken")
    clash.add_argument("--replace", action="store_true", help="replace models of the same name")
    add_config_flag(parser)


def _file_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE", help="its configuration")
    _flags(parser)


def _ollama_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE|MODEL", help="a Modelfile, or a name in Ollama")
    parser.add_argument("name", metavar="NAME", nargs="?", help="its name here")
    _flags(parser)


def _studio_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="FOLDER|FILE",
        nargs="?",
        help="LM Studio's folder, or settings of a model",
    )
    _flags(parser)


_TEXT: Final = (
    "Weights stay where they are. What could not be carried over stands as a comment above its\n"
    "model. A model of the same name is never overwritten unasked (--rename, --replace)."
)


def _command(
    run: Callable[[Namespace, Out], int],
    summary: str,
    arguments: Callable[[ArgumentParser], None],
    *examples: tuple[str, str],
) -> Command:
    return Command(summary=summary, text=_TEXT, examples=examples, run=run, arguments=arguments)


COMMANDS: Final = {
    "import": Command(
        summary="take over the models of another program",
        text=_TEXT,
        examples=(
            ("ctl import llama-swap ~/llama-swap/config.yaml --dry-run", "see what would come"),
            ("ctl import llama-cpp models.ini", "sections of --models-preset"),
            ("ctl import ollama llama3.1:8b", "pulled by Ollama already"),
            ("ctl import lm-studio", "all models in its folder"),
        ),
        subcommands={
            "llama-swap": _command(
                llama_swap,
                "the models of llama-swap's config.yaml",
                _file_arguments,
                ("ctl import llama-swap config.yaml --dry-run", "show what would be written"),
                ("ctl import llama-swap config.yaml", "append it, after asking"),
                ("ctl import llama-swap config.yaml --print > new.toml", "to look at elsewhere"),
            ),
            "llama-cpp": _command(
                llama_cpp,
                "the sections of llama-server's --models-preset",
                _file_arguments,
                ("ctl import llama-cpp models.ini", ""),
                ("ctl import llama-cpp models.ini --replace", "anew, in place of what is there"),
            ),
            "ollama": _command(
                ollama,
                "a Modelfile, or a model that Ollama has pulled",
                _ollama_arguments,
                ("ctl import ollama ./Modelfile mario", "named mario"),
                ("ctl import ollama qwen2.5-coder:32b", "its weights stay in Ollama's folder"),
            ),
            "lm-studio": _command(
                lm_studio,
                "LM Studio's models, with the settings that it keeps for each",
                _studio_arguments,
                ("ctl import lm-studio --dry-run", "all models in ~/.lmstudio"),
                ("ctl import lm-studio /mnt/models --rename", "another folder of models"),
            ),
        },
    ),
}
