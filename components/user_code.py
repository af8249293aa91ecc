"""The user's own code: imported from wherever it lies, its errors told with the place where they happened."""

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from components.config import source_file
from components.errors import UserError


def import_from(place: str) -> ModuleType:
    """Import ``path/to/file.py``, which finds the modules beside it, or ``package.module``.

    Raises:
        UserError: it isn't there or doesn't import.
    """
    try:
        file = source_file(place)
    except ValueError as error:
        raise UserError(str(error)) from None
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        if str(file.parent) not in sys.path:
            sys.path.insert(0, str(file.parent))  # so that it finds the modules beside it
        name = "torchmill_user." + "".join(letter if letter.isalnum() else "_" for letter in str(file.with_suffix("")))
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and inspect look their module up
        spec.loader.exec_module(module)
        return module
    except (Exception, SystemExit) as error:  # the user's code can fail in any way, and may read sys.argv
        raise UserError(f"{place} does not import: {first_hand(error)}") from error


def first_hand(error: BaseException) -> str:
    """The error in one line, with the user's own place in the code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    place = f" ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({Path(error.filename).name} line {error.lineno})"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{place}"


def _is_users(filename: str) -> bool:
    return not (
        filename.startswith("<") or "site-packages" in filename or Path(__file__).parent in Path(filename).parents
    )
