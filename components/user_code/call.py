"""Calls of the user's code, with arguments checked by its signature and errors in words."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torchmill.components.errors import UserError, unknown_argument
from torchmill.components.user_code.importing import first_hand, missing_module


def call(
    function: Callable[..., Any],
    arguments: Mapping[str, object],
    place: str,
    option: str,
    *,
    offered: Mapping[str, object] = {},
    offered_by: str = "",
) -> Any:
    """Call a function or class of the user's by name.

    Args:
        arguments: arguments that the user set.
        place: name of the function in errors, for example ``network.py:Net``.
        option: option that sets the arguments, for errors.
        offered: arguments that the function gets if its signature names them.
        offered_by: name of the data that they come from.

    Raises:
        UserError: an argument is unknown or missing, or the call fails.
    """
    arguments = fitting_arguments(function, arguments, place, option, offered=offered, offered_by=offered_by)
    try:
        return function(**arguments)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the user's code can fail in any way
        shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        remedy = missing_module(error)
        if offered and not remedy and _takes_any(function):
            remedy = (
                f"The data offers {', '.join(offered)} by name, and nothing to **: name the needed ones in the "
                f"signature, or set them by {option}."
            )
        raise UserError(f"{place}({shown}) fails: {first_hand(error)}", remedy) from error


def fitting_arguments(
    function: Callable[..., Any],
    arguments: Mapping[str, object],
    place: str,
    option: str,
    *,
    offered: Mapping[str, object] = {},
    offered_by: str = "",
    positional: int = 0,
) -> dict[str, Any]:
    """Return the arguments to call a function with: those that were set, and the offered ones that it names.

    Args:
        positional: number of the first parameters that get their values by position.

    Raises:
        UserError: an argument is unknown or missing.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())[positional:]
    except (TypeError, ValueError):  # some builtins have no signature
        return dict(arguments)
    named = {each.name: each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    for name in arguments:
        if name not in named and not _takes_any(function):
            raise UserError(*unknown_argument(place, name, named))
    fitting = {name: value for name, value in offered.items() if name in named} | dict(arguments)
    missing = [name for name, each in named.items() if each.default is each.empty and name not in fitting]
    if missing:
        example = ", ".join(f'"{name}": …' for name in missing)
        raise UserError(
            f"{place} needs {' and '.join(missing)}" + f", which {offered_by} does not know" * bool(offered_by) + ".",
            f"Set {'it' if len(missing) == 1 else 'them'}: {option} '{{{example}}}'."
            + f" The data knows {', '.join(offered)}." * bool(offered),
        )
    return fitting


def _takes_any(function: Callable[..., Any]) -> bool:
    """Return True if a function takes arguments of any name."""
    try:
        return any(each.kind is each.VAR_KEYWORD for each in inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False


def takes(function: Callable[..., Any], name: str) -> bool:
    """Return True if a function takes an argument of a name."""
    try:
        return name in inspect.signature(function).parameters or _takes_any(function)
    except (TypeError, ValueError):  # some builtins have no signature
        return False
