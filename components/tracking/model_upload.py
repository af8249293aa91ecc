"""Upload of an ONNX model into MLflow's model registry."""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from torchmill.components.tracking.registry import set_challenger

ASK_TAG = "torchmill.ask"
"""Tag of a version with the request that it came from."""


def upload_model(
    client: Any, run_id: str, experiment_id: str, *, ask: str, name: str, file: Path, example: Path, tags: Mapping
) -> str:
    """Register an ONNX file as a new version and as challenger, once per request; return the version.

    Args:
        ask: id of the request. If a version of the run carries it, an earlier recorder has done the work.
        example: an ``.npz`` file with inputs and answers, by the names in the graph.
    """
    for version in client.search_model_versions(f"run_id = '{run_id}'"):
        if version.name == name and version.tags.get(ASK_TAG) == ask:
            set_challenger(client, name, str(version.version))
            return version.version
    # A recorder that died half-way leaves a logged model without a version.
    for partial in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
        client.delete_logged_model(partial.model_id)
    version = _log_model(run_id, experiment_id, name, file, example, {**tags, ASK_TAG: ask})
    set_challenger(client, name, str(version))
    return version


def _log_model(run_id: str, experiment_id: str, name: str, file: Path, example: Path, tags: Mapping[str, str]) -> str:
    import mlflow.onnx
    import numpy as np
    import onnx
    from mlflow.models import Model
    from mlflow.models.signature import ModelSignature
    from mlflow.types import Schema, TensorSpec

    from torchmill.components.onnx_model.proto import read_without_weights, weights_beside

    proto = read_without_weights(file)
    is_large = bool(weights_beside(proto))
    if is_large:
        onnx.load_external_data_for_model(proto, str(file.parent))
    arrays = np.load(example)
    inputs = list(proto.graph.input)

    def spec(value: onnx.ValueInfoProto) -> TensorSpec:
        sizes = [size.dim_value if size.HasField("dim_value") else -1 for size in value.type.tensor_type.shape.dim]
        dtype = arrays[value.name].dtype
        return TensorSpec(np.dtype("str") if dtype.kind == "U" else dtype, tuple(sizes), value.name)

    mlflow.set_experiment(experiment_id=experiment_id)
    info = Model.log(
        artifact_path=None,
        name="onnx",
        flavor=mlflow.onnx,
        run_id=run_id,
        registered_model_name=name,
        await_registration_for=0,
        tags=dict(tags),
        onnx_model=proto,
        signature=ModelSignature(Schema([*map(spec, inputs)]), Schema([*map(spec, proto.graph.output)])),
        input_example={value.name: arrays[value.name][:2] for value in inputs},
        # Without this list, MLflow runs the model to infer the requirements: up to half a minute.
        pip_requirements=[f"{library}=={metadata.version(library)}" for library in ("onnxruntime", "onnx", "numpy")],
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=is_large,
    )
    return info.registered_model_version
