"""The main flow: from data to an ONNX model that is proven to give the network's answers."""

from torchmill.components.config import RunConfig
from torchmill.components.refs import TrainResult
from torchmill.flows import steps
from torchmill.flows.run import claim, conclude, tracked
from torchmill.flows.step import flow, flow_run_name


@flow(name="train", flow_run_name=flow_run_name, description=__doc__)
def train(config: RunConfig = RunConfig(), fresh: bool = False, publish: bool = True) -> TrainResult:
    """Fetch data, build and initialise a network, train, evaluate and export it; MLflow records it all.

    What was done already is not done again, and what was interrupted goes on where it stopped.

    Args:
        fresh: use nothing of earlier runs.
        publish: make the ONNX model a version in the model registry, and champion if it is as good as that.

    Raises:
        UserError: something that the user can mend is wrong; says what, where and how.
    """
    claimed = claim(config, fresh)
    if claimed.result:
        return claimed.result
    asked = (config.data.validation_fraction, config.seed, config.data.leakage_limit, config.data.allow_leakage)
    with tracked(claimed) as run:
        data = steps.fetch(config.data, run)
        steps.inspect(data, *asked, run)
        network = steps.initialize(config.model, config.initialize, config.seed, data, run)
        if config.check.level != "off":
            steps.check(config.check, config.train, config.seed, network, data, run)
        trained = steps.fit(config.train, config.data, config.device, config.seed, network, data, run)
        scores = steps.evaluate(config.evaluate, config.data.validation_fraction, config.seed, trained, data, run)
        model = steps.export(config.export, trained, scores, data, run)
        version = steps.register(config.registered_name, model, scores, data, run) if publish else None
        rated = version and config.promote.mode == "auto"
        promoted = steps.promote(config.promote, config.registered_name, version, model, data, run) if rated else None
        return conclude(config, trained, scores, model, data, version, promoted, run)
