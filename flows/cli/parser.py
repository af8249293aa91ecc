"""The parser of the command line: complaints in one line, help on one page, and all of it by ``--help-all``."""

import argparse
import difflib
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from torchmill.components.errors import ConfigError
from torchmill.flows.cli import settings

TRUST = "run the source code that an MLflow server recorded without asking"
RUNS_HELP = "folder of the runs (default: TORCHMILL_RUNS or ./mlruns)"


@dataclass(frozen=True)
class Command:
    """A word after ``torchmill``, with its options and its code."""

    name: str
    summary: str
    """One line in the list of commands, which begins in lower case."""
    run: Callable[[argparse.Namespace], int]
    """Does the work and returns the exit code."""
    add_options: Callable[["Parser"], None] = lambda parser: None
    settings: tuple[str, ...] = ()
    """Settings on the first page of the help. With any of them, the command takes all settings of a run."""
    settings_last: bool = False
    """Show the command's own options before these."""
    has_runs: bool = True
    """True if the command has the option ``--runs``."""


@dataclass(frozen=True)
class Group:
    """Commands that stand together in the list of commands."""

    title: str
    commands: tuple[Command, ...]


class Formatter(argparse.HelpFormatter):
    """Options as ``--data, --data.name NAME`` and ``--inputs INPUT…``: the placeholder once."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        placeholder = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {placeholder}"

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        return f"{action.metavar}…" if action.nargs == "+" else super()._format_args(action, default_metavar)


class Parser(argparse.ArgumentParser):
    """The parser of a command."""

    def __init__(self, **options: Any):
        super().__init__(add_help=False, allow_abbrev=False, formatter_class=Formatter, **options)
        self.settings: dict[str, argparse.Action] = {}
        """Options for the settings of a run, by dotted name."""
        self.commonest: list[argparse.Action] = []
        self.commonest_last = False
        self.shows_all = False

    def error(self, message: str) -> NoReturn:
        _, is_missing, names = message.partition("the following arguments are required: ")
        if is_missing:
            raise ConfigError(f"Missing: {names}.", f"Usage: {self.usage}")
        raise ConfigError(f"{message[0].upper()}{message[1:]}.", f"See {self.prog} --help.")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse settings in either spelling, also those that name an entry of a JSON object."""
        words = [settings.spell(word) for word in (sys.argv[1:] if args is None else args)]
        if self.settings:
            for option in settings.entry_options(words):
                if option not in self._option_string_actions:
                    self.add_argument(option, dest=option.removeprefix("--"), metavar="VALUE", help=argparse.SUPPRESS)
        return super().parse_known_args(words, namespace)

    def option_names(self) -> list[str]:
        """Return the options that the help shows."""
        shown = (action for action in self._actions if action.help != argparse.SUPPRESS)
        return [name for action in shown for name in action.option_strings]

    def meant_by(self, option: str) -> str:
        """Name the options that an unknown one may stand for: ``--epochs`` is ``--train.epochs``."""
        word = option.lstrip("-").replace("-", "_")
        options = [name.removeprefix("--") for name in self.option_names()]
        initials = "".join(part[0] for part in word.split("_") if part)  # --learning-rate is --train.lr
        last = {name: name.rpartition(".")[2] for name in options}
        near = [name for name in options if last[name] in (word, initials)]
        near = near or [name for name in options if name.startswith(word)]
        near = near or difflib.get_close_matches(word, options, n=3, cutoff=0.7)
        near = near or [name for name in options if difflib.get_close_matches(word, [last[name]], cutoff=0.7)]
        if not near:
            return f"See {self.prog} {'--help-all' if self.settings else '--help'}."
        return f"Did you mean {' or '.join(f'--{name}' for name in near)}?"

    def format_help(self) -> str:
        """Format the first page, or all options by section if ``--help-all`` has asked for them."""
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        for title, actions in self._sections():
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def _sections(self) -> Iterator[tuple[str, Sequence[argparse.Action]]]:
        of_settings = {id(action) for action in self.settings.values()}
        own = [action for action in self._actions if action.option_strings and id(action) not in of_settings]
        yield "arguments", [action for action in self._actions if not action.option_strings]
        if self.shows_all:
            yield "options", own
            for section, names in itertools.groupby(self.settings, settings.section_of):
                yield section, [self.settings[name] for name in names]
        else:
            pages = [("most used settings", self.commonest), ("options", own)]
            yield from reversed(pages) if self.commonest_last else pages


class _ShowAll(argparse.Action):
    """``--help-all``: print every option and leave."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        assert isinstance(parser, Parser)
        parser.shows_all, parser.epilog = True, settings.EXPLANATION
        parser.print_help()
        parser.exit()


def make_parser(groups: Sequence[Group], only: str | None = None) -> "RootParser":
    """Make the parser of the command line.

    Args:
        only: the one command that has to be parsed; None for all.
    """
    root = RootParser(groups)
    commands = root.add_subparsers(dest="command", metavar="COMMAND", prog=root.prog, parser_class=Parser)
    for command in root.commands.values():
        if only in (None, command.name):
            _add_options(commands.add_parser(command.name), command)
    return root


def _add_options(parser: Parser, command: Command) -> None:
    parser.description = f"{command.summary[0].upper()}{command.summary[1:]}."
    if command.settings:
        parser.settings = settings.add_settings(parser)
        parser.commonest = [parser.settings[name] for name in command.settings]
        parser.commonest_last = command.settings_last
    command.add_options(parser)
    if command.has_runs:  # no default, which would undo a --runs before the command
        parser.add_argument("--runs", default=argparse.SUPPRESS, metavar="DIR", help=RUNS_HELP)
    parser.add_argument("-h", "--help", action="help", help="show this page")
    if command.settings:
        count = len(parser.settings)
        parser.add_argument("--help-all", action=_ShowAll, nargs=0, help=f"show all {count} settings, by section")
        parser.epilog = f"All {count} settings: {parser.prog} --help-all"
    placeholders = {"+": "{}…", "?": "[{}]"}
    arguments = [action for action in parser._actions if not action.option_strings]
    words = [placeholders.get(str(action.nargs), "{}").format(action.metavar) for action in arguments]
    parser.usage = " ".join([parser.prog, *words, "[options]"])


class RootParser(Parser):
    """The parser of ``torchmill`` itself, whose help lists the commands."""

    def __init__(self, groups: Sequence[Group]):
        super().__init__(
            prog="torchmill",
            usage="torchmill COMMAND [options]",
            description="Train your own PyTorch network, look at its runs in MLflow, schedule it with Prefect, "
            "and get an ONNX model that is proven to give the same answers.",
            epilog="The options of a command: torchmill COMMAND --help",
        )
        self.groups = groups
        self.commands = {command.name: command for group in groups for command in group.commands}
        self.add_argument("--runs", metavar="DIR", help=RUNS_HELP)
        self.add_argument("-h", "--help", action="help", help="show this page")

    def _sections(self) -> Iterator[tuple[str, Sequence[argparse.Action]]]:
        for group in self.groups:
            yield group.title, [_ListedCommand(command) for command in group.commands]
        yield "options", [action for action in self._actions if action.option_strings]

    def parse_command(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse a command line whose command is known.

        Raises:
            ConfigError: an option is unknown, or an argument is superfluous.
        """
        options, unknown = self.parse_known_args(list(arguments))
        if not unknown:
            return options
        name = unknown[0].partition("=")[0]
        if not name.startswith("-"):
            raise ConfigError(f"Unexpected argument '{name}'.", f"See torchmill {options.command} --help.")
        raise ConfigError(f"Unknown option {name}.", self.parser_of(options.command).meant_by(name))

    def parser_of(self, command: str) -> Parser:
        """Return the parser of a command."""
        actions = (action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        return next(actions).choices[command]


class _ListedCommand(argparse.Action):
    """A command as a row of the help."""

    def __init__(self, command: Command):
        super().__init__([], dest=command.name, metavar=command.name, help=command.summary.replace("%", "%%"))

    def __call__(self, *_: object, **__: object) -> None:
        raise NotImplementedError
