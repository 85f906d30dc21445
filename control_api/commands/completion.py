"""``completion``: scripts for the shells. All that they know they ask ``ctl __complete``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Final

from control_api.commands.command import Command
from control_api.commands.output import Out

# The words are split here and not by bash, which breaks a word at ':' and '='; bash then wants only
# what comes after the last of these.
BASH: Final = r"""# bash completion for ctl and modelport
_modelport() {
  local IFS=$'\n' line="${COMP_LINE:0:COMP_POINT}"
  COMPREPLY=($("${COMP_WORDS[0]}" __complete bash "$line" 2>/dev/null))
  if [[ ${#COMPREPLY[@]} -eq 1 && ( ${COMPREPLY[0]} == */ || ${COMPREPLY[0]} == *= ) ]]; then
    compopt -o nospace 2>/dev/null
  fi
}
complete -F _modelport ctl modelport
"""

ZSH: Final = r"""#compdef ctl modelport
# zsh completion for ctl and modelport
_modelport() {
  local -a found
  local IFS=$'\n'
  found=($("${words[1]}" __complete zsh "${(@)words[2,CURRENT]}" 2>/dev/null))
  compadd -Q -- "${found[@]}"
}
if [[ "${funcstack[1]}" == "_modelport" ]]; then
  _modelport "$@"
else
  compdef _modelport ctl modelport
fi
"""

FISH: Final = r"""# fish completion for ctl and modelport
function __modelport_complete
  set -l words (commandline -opc) (commandline -ct)
  $words[1] __complete fish $words[2..-1] 2>/dev/null
end
complete -c ctl -f -a '(__modelport_complete)'
complete -c modelport -f -a '(__modelport_complete)'
"""

SCRIPTS: Final = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def completion(args: Namespace, out: Out) -> int:
    script = SCRIPTS[args.shell]
    if out.json:
        out.value({"shell": args.shell, "script": script})
    else:
        out.out.write(script)
    return 0


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=sorted(SCRIPTS), help="which shell")


COMMANDS: Final = {
    "completion": Command(
        summary="print the completion script of a shell",
        text="It completes commands, flags, and the names of models.",
        examples=(
            ('eval "$(ctl completion bash)"', "in ~/.bashrc"),
            ('eval "$(ctl completion zsh)"', "in ~/.zshrc, after compinit"),
            ("ctl completion fish > ~/.config/fish/completions/ctl.fish", ""),
        ),
        run=completion,
        arguments=_arguments,
    ),
}
