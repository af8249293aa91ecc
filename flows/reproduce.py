"""`torchmill reproduce`: run a recorded run again from what was recorded, and say what is equal."""

from torchmill.components.refs import Reproduction
from torchmill.flows.recorded import compare, recorded_config
from torchmill.flows.step import flow
from torchmill.flows.train import train


@flow(name="reproduce", description=__doc__)
def reproduce(run: str) -> Reproduction:
    """Take configuration, seed and source from the record of a run, run it anew, and compare.

    Args:
        run: id of a run in MLflow, the beginning of it, or its name.

    Raises:
        UserError: there is no such run, or what it was made from is not recorded.
    """
    recipe = recorded_config(run)
    again = train(recipe, fresh=True, publish=False)
    return compare(run, again)
