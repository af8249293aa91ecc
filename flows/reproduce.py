"""`torchmill reproduce`: run a recorded run again from what was recorded, and compare the results."""

from torchmill.components.runs.reproduction import Reproduction
from torchmill.flows.recorded import compare, recorded_config
from torchmill.flows.step import flow
from torchmill.flows.train import train


@flow(name="reproduce", description=__doc__)
def reproduce(run: str, trust: bool = False) -> Reproduction:
    """Run a recorded configuration, seed and source again from the beginning, and compare the results.

    Args:
        run: id of a run in MLflow, the beginning of it, or its name.
        trust: run source code that a server has recorded without asking.

    Raises:
        UserError: there is no such run, or its configuration or source was not recorded.
    """
    again = train(recorded_config(run, trust), fresh=True, publish=False)
    return compare(run, again)
