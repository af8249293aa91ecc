"""The command line's entry and its exit codes: 0, 1 failed, 2 mistyped, 130 and 143 stopped."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from torchmill.components.errors import ConfigError, UserError, nearest
from torchmill.components.processes import is_short_of_memory, keep_freed_memory
from torchmill.components.runs.folders import Runs
from torchmill.flows.cli import looking, parser, predicting, registry, serving, training
from torchmill.flows.cli.streams import keep_streams
from torchmill.flows.services.interpreter import leave
from torchmill.flows.services.prewarm.client import try_run

GROUPS = (training.GROUP, looking.GROUP, registry.GROUP, predicting.GROUP, serving.GROUP)

# torch, prefect and mlflow take seconds to import. Commands import them in their functions, so that help and
# complaints come at once.


def main(arguments: Sequence[str] | None = None, *, may_hand_over: bool = True) -> NoReturn:
    """Run a command and leave with its exit code.

    Args:
        arguments: the words after ``torchmill``; None for this process's.
        may_hand_over: False in a process that runs a command for another one.
    """
    keep_streams()
    try:
        leave(run(list(sys.argv[1:] if arguments is None else arguments), may_hand_over=may_hand_over))
    except UserError as error:
        print(f"torchmill: {error}", file=sys.stderr)
        leave(error.exit_code)
    except KeyboardInterrupt:
        print("torchmill: stopped.", file=sys.stderr)
        leave(130)
    except (MemoryError, ImportError, OSError, RuntimeError) as error:
        if not is_short_of_memory(error):
            raise
        print(f"torchmill: The system gives no more memory: {error or 'MemoryError'}.", file=sys.stderr)
        leave(1)
    except SystemExit as error:  # of a signal
        if not isinstance(error.code, int):
            raise
        leave(error.code)


def run(arguments: list[str], *, may_hand_over: bool = True) -> int:
    """Run a command and return its exit code.

    Raises:
        UserError: the command line is wrong, or the command fails.
    """
    words = (word for before, word in zip(["", *arguments], arguments, strict=False) if before != "--runs")
    name = next((word for word in words if not word.startswith("-")), None)
    root = make_parser(only=name or "")
    if name is None:
        root.print_help()
        return 0 if {"-h", "--help"} & set(arguments) else 2
    if name not in root.commands:
        raise ConfigError(f"Unknown command '{name}'.", nearest(name, root.commands))
    options = root.parse_command(arguments)
    if options.runs:
        os.environ["TORCHMILL_RUNS"] = options.runs
    if may_hand_over and (code := try_run(name, arguments, Runs.here())) is not None:
        return code
    keep_freed_memory()
    return root.commands[name].run(options)


def make_parser(only: str | None = None) -> parser.RootParser:
    """Make the parser of all commands, or of only one."""
    return parser.make_parser(GROUPS, only)


if __name__ == "__main__":
    main()
