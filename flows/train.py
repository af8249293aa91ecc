"""The train flow: from data to an ONNX model proven to give the network's answers."""

from torchmill.components.config import RunConfig
from torchmill.components.refs import TrainResult
from torchmill.flows import steps
from torchmill.flows.run import claim, conclude, tracked
from torchmill.flows.step import flow, flow_run_name


@flow(name="train", flow_run_name=flow_run_name, description=__doc__)
def train(config: RunConfig = RunConfig(), fresh: bool = False, publish: bool = True) -> TrainResult:
    """Fetch data, build and initialise a network, train, evaluate and export it; record everything in MLflow.

    Steps whose result is cached don't run again, and an interrupted run resumes where it stopped.

    Args:
        config: settings of the run.
        fresh: use no results of earlier runs.
        publish: register the ONNX model, and make it the champion if it is as good as the current one.

    Raises:
        UserError: something that the user can fix is wrong. The message says what, where and how.

    Example:
        >>> result = train(RunConfig(data="mnist", train={"epochs": 3}))  # doctest: +SKIP
        >>> result.metrics["test_accuracy"]  # doctest: +SKIP
        0.9902
    """
    claimed = claim(config, fresh)
    if claimed.result:
        return claimed.result
    with tracked(claimed):
        data = steps.fetch(config.data, config.task).with_split(config.data.validation_fraction, config.seed)
        steps.inspect(data)
        network = steps.initialize(config.model, config.initialize, data)
        if config.check.level != "off":
            steps.check(config.check, config.train, network, data)
        trained = steps.fit(config.train, network, data)
        scores = steps.evaluate(config.evaluate, trained, data)
        model = steps.export(config.export, trained, scores, data)
        version = promoted = None
        if publish:
            version = steps.register(config.registered_name, model, scores, data)
            if config.promote.mode == "auto":
                promoted = steps.promote(config.promote, config.registered_name, version, model, data)
        return conclude(config, trained, scores, model, data, version, promoted)
