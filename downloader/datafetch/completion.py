"""Completion scripts for bash, zsh and fish, made of the parser itself. Pure.

A script stands alone: it needs neither a completion package of the shell nor to ask `datafetch` while somebody types.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Completes = Literal["nothing", "file", "directory"]
_FILES = ("CONFIG", "FILE", "PATH", "CONFIG|URI")
_DIRECTORIES = ("DIR", "DEST", "TARGET")


@dataclass(frozen=True)
class Option:
    """An option of a command."""

    flags: tuple[str, ...]
    help: str
    takes_value: bool
    choices: tuple[str, ...]
    completes: Completes
    repeats: bool


@dataclass(frozen=True)
class Argument:
    """What a command takes without a flag."""

    name: str
    choices: tuple[str, ...]
    completes: Completes
    repeats: bool


@dataclass(frozen=True)
class Command:
    """A command, as its parser describes it."""

    name: str
    help: str
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...]

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that its arguments may be, where they are words."""
        return tuple(choice for argument in self.arguments for choice in argument.choices)

    @property
    def completes(self) -> Completes:
        """What its arguments are, any of them: files are more than directories."""
        kinds = {argument.completes for argument in self.arguments}
        return "file" if "file" in kinds else "directory" if "directory" in kinds else "nothing"


def describe(parser: argparse.ArgumentParser) -> tuple[Command, ...]:
    """Return what a parser of commands accepts; the parser itself comes first, without a name."""
    found = [_describe("", parser.description or "", parser)]
    for action in parser._actions:  # noqa: SLF001 - argparse has no public list of them
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}  # noqa: SLF001 - as above
            found += [_describe(name, helps.get(name, ""), inner) for name, inner in action.choices.items()]
    return tuple(found)


def _describe(name: str, help_text: str, parser: argparse.ArgumentParser) -> Command:
    actions = [action for action in parser._actions if not isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001
    return Command(
        name,
        _one_line(help_text),
        tuple(_option(action) for action in actions if action.option_strings),
        tuple(_argument(action) for action in actions if not action.option_strings),
    )


def _option(action: argparse.Action) -> Option:
    takes_value = action.nargs != 0
    return Option(
        tuple(action.option_strings),
        _one_line(action.help or ""),
        takes_value,
        _choices(action) if takes_value else (),
        _completes(action) if takes_value else "nothing",
        isinstance(action, argparse._AppendAction),  # noqa: SLF001 - argparse has no public name for it
    )


def _argument(action: argparse.Action) -> Argument:
    return Argument(str(action.metavar or action.dest), _choices(action), _completes(action), action.nargs == "+")


def _choices(action: argparse.Action) -> tuple[str, ...]:
    return tuple(map(str, action.choices or ()))


def _completes(action: argparse.Action) -> Completes:
    if action.metavar in _FILES:
        return "file"
    return "directory" if action.metavar in _DIRECTORIES else "nothing"


def _one_line(text: str) -> str:
    """Return the first clause of a help text: completions have room for no more."""
    text = " ".join(text.split())
    for end in (". ", "; ", " ("):
        text = text.partition(end)[0]
    return text.rstrip(".")


# --- bash ------------------------------------------------------------------------------------------------------------

_BASH_COMPGEN = {"file": "-f", "directory": "-d"}
_BASH_HEAD = """\
# bash completion for datafetch, made by 'datafetch completion bash'
_datafetch_words() {
    COMPREPLY=($(compgen -W "$1" -- "$current"))
}
_datafetch_paths() {
    local path
    compopt -o filenames 2> /dev/null
    while IFS= read -r path; do COMPREPLY+=("$path"); done < <(compgen "$1" -- "$current")
}
_datafetch() {
    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" command="" index
    for ((index = 1; index < COMP_CWORD; index++)); do
        if [[ ${COMP_WORDS[index]} != -* ]]; then command="${COMP_WORDS[index]}"; break; fi
    done
    COMPREPLY=()
"""


def bash(commands: Sequence[Command]) -> str:
    """Return the script for bash."""
    values = [line for command in commands for line in _bash_values(command)]
    words = [line for command in commands for line in _bash_words(command, commands)]
    cases = (
        *('    case "$command $previous" in', *values, "    esac"),
        *('    case "$command $current" in', *words, "    esac"),
    )
    return _BASH_HEAD + "\n".join((*cases, "}", "complete -F _datafetch datafetch", ""))


def _bash_values(command: Command) -> Iterator[str]:
    """Yield what comes after an option that takes a value."""
    for option in command.options:
        if option.takes_value:
            patterns = "|".join(f'"{command.name} {flag}"' for flag in option.flags)
            yield f"        {patterns}) {_bash_complete(option.choices, option.completes)}; return ;;"


def _bash_words(command: Command, commands: Sequence[Command]) -> Iterator[str]:
    """Yield what comes elsewhere: options after a dash, else arguments."""
    flags = " ".join(flag for option in command.options for flag in option.flags)
    names = tuple(other.name for other in commands if other.name) if not command.name else ()
    yield f'        "{command.name} -"*) _datafetch_words "{flags}" ;;'
    yield f'        "{command.name} "*) {_bash_complete(names or command.choices, command.completes)} ;;'


def _bash_complete(choices: tuple[str, ...], completes: Completes) -> str:
    if choices:
        return f'_datafetch_words "{" ".join(choices)}"'
    return f"_datafetch_paths {_BASH_COMPGEN[completes]}" if completes in _BASH_COMPGEN else ":"


# --- zsh -------------------------------------------------------------------------------------------------------------

_ZSH_ACTIONS = {"file": "_files", "directory": "_files -/", "nothing": " "}
_ZSH_HEAD = """\
#compdef datafetch
# zsh completion for datafetch, made by 'datafetch completion zsh'
_datafetch() {
    local context state line
    local -a commands
"""


def zsh(commands: Sequence[Command]) -> str:
    """Return the script for zsh: a file `_datafetch` in a directory of `$fpath`, or to be evaluated."""
    top, *others = commands
    options = " ".join(spec for option in top.options for spec in _zsh_option(option))
    lines = [f"    _arguments -C {options} '1:command:->command' '*::argument:->argument'", '    case "$state" in']
    lines += ["        command)", "            commands=("]
    lines += [f"                {_quoted(command.name + ':' + command.help)}" for command in others]
    lines += ["            )", "            _describe command commands ;;"]
    lines += ["        argument)", '            case "${words[1]}" in']
    lines += [f"                {command.name}) _arguments {_zsh_arguments(command)} ;;" for command in others]
    lines += ["            esac ;;", "    esac", "}"]
    lines += [
        'if [[ "${funcstack[1]}" == _datafetch ]]; then _datafetch "$@"; else compdef _datafetch datafetch; fi',
        "",
    ]
    return _ZSH_HEAD + "\n".join(lines)


def _zsh_arguments(command: Command) -> str:
    specs = [spec for option in command.options for spec in _zsh_option(option)]
    specs += [
        _quoted(
            f"{'*' if argument.repeats else number}:{argument.name.lower()}:"
            f"{_zsh_action(argument.choices, argument.completes)}"
        )
        for number, argument in enumerate(command.arguments, start=1)
    ]
    return " ".join(specs)


def _zsh_option(option: Option) -> Iterator[str]:
    value = f":value:{_zsh_action(option.choices, option.completes)}" if option.takes_value else ""
    text = re.sub(r"([\[\]:\\])", r"\\\1", option.help)
    for flag in option.flags:
        others = "" if option.repeats else f"({' '.join(option.flags)})"
        yield _quoted(f"{'*' if option.repeats else others}{flag}[{text}]{value}")


def _zsh_action(choices: tuple[str, ...], completes: Completes) -> str:
    return f"({' '.join(choices)})" if choices else _ZSH_ACTIONS[completes]


# --- fish ------------------------------------------------------------------------------------------------------------

_FISH_PATHS = {"file": "--force-files", "directory": "--arguments '(__fish_complete_directories)'"}


def fish(commands: Sequence[Command]) -> str:
    """Return the script for fish."""
    top, *others = commands
    lines = ["# fish completion for datafetch, made by 'datafetch completion fish'", "complete -c datafetch -f"]
    top_options = (_fish_option(option) for option in top.options)
    lines += [f"complete -c datafetch -n __fish_use_subcommand {option}" for option in top_options]
    for command in others:
        name = f"-a {command.name} -d {_quoted(command.help)}"
        lines.append(f"complete -c datafetch -n __fish_use_subcommand {name}")
    for command in others:
        here = f"complete -c datafetch -n '__fish_seen_subcommand_from {command.name}'"
        lines += [f"{here} {_fish_option(option)}" for option in command.options]
        if command.choices:
            lines.append(f"{here} -a '{' '.join(command.choices)}'")
        elif command.completes in _FISH_PATHS:
            lines.append(f"{here} {_FISH_PATHS[command.completes]}")
    return "\n".join([*lines, ""])


def _fish_option(option: Option) -> str:
    flags = [f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags]
    value = ""
    if option.choices:
        value = f"-x -a '{' '.join(option.choices)}' "
    elif option.takes_value:
        value = f"-r {_FISH_PATHS[option.completes]} " if option.completes in _FISH_PATHS else "-x "
    return f"{' '.join(flags)} {value}-d {_quoted(option.help)}"


def _quoted(text: str) -> str:
    """Return a word for zsh or fish, whatever is in it."""
    return "'" + text.replace("'", "'\\''") + "'"


SHELLS: Mapping[str, Callable[[Sequence[Command]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
