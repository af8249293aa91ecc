"""Train your own PyTorch network, track it in MLflow, schedule it with Prefect, export an ONNX model proven equal.

Example:
    >>> from torchmill import RunConfig, train
    >>> result = train(RunConfig(data="mnist", train={"epochs": 3}))  # doctest: +SKIP
    >>> result.metrics["test_accuracy"], result.onnx.path  # doctest: +SKIP
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchmill.components.config import RunConfig
    from torchmill.components.errors import UserError
    from torchmill.components.refs import TrainResult
    from torchmill.flows.train import train

__all__ = ["RunConfig", "TrainResult", "UserError", "train"]

# In a checkout `flows` and `components` are links to the folders at its top. Modules are imported from those folders
# themselves, so that tracebacks, breakpoints and reports name the files that one edits.
_own = Path(__file__).parent
__path__ = list(dict.fromkeys(str(place) for place in ((_own / "flows").resolve().parent, _own)))

_MODULES = {
    "RunConfig": "torchmill.components.config",
    "TrainResult": "torchmill.components.refs",
    "UserError": "torchmill.components.errors",
    "train": "torchmill.flows.train",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for at its first use: torch and Prefect take seconds."""
    if name not in _MODULES:
        raise AttributeError(f"module 'torchmill' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_MODULES[name]), name)
