"""The main story: from data to an ONNX model that is proven to give the network's answers."""

from components.config import RunConfig
from components.refs import TrainResult
from flows import steps
from flows.story import flow_run_name, story


@story(name="train", flow_run_name=flow_run_name, description=__doc__)
def train(config: RunConfig = RunConfig()) -> TrainResult:
    """Fetch data, build and initialise a network, train, evaluate and export it; MLflow records it all.

    Raises:
        UserError: something that the user can mend is wrong; says what, where and how.
    """
    with steps.tracked(config) as run:
        data = steps.fetch(config.data, run)
        network = steps.initialize(config.model, config.initialize, config.seed, data, run)
        trained = steps.fit(config.train, config.data, config.device, config.seed, network, data, run)
        scores = steps.evaluate(config.evaluate, trained, data, run)
        model = steps.export(config.export, trained, scores, data, run)
        version = steps.register(config.registered_name, model, scores, data, run)
        return steps.conclude(config, trained, scores, model, data, version, run)
