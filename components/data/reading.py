"""The splits of a data set as its task takes them: inputs with labels, or named fields."""

from torchmill.components.data.field_samples import FieldSamples, read_field_sample, read_fields
from torchmill.components.data.samples import Samples
from torchmill.components.data.samples import read_sample as read_labelled_sample
from torchmill.components.data.samples import read_training as read_labelled_training
from torchmill.components.refs import DataRef

AnySamples = Samples | FieldSamples


def read_training(data: DataRef) -> tuple[AnySamples, AnySamples]:
    """Return the training and the validation split. The test split is not opened."""
    if data.goal:
        return read_fields(data, "train"), read_fields(data, "validation")
    return read_labelled_training(data)


def read_sample(data: DataRef, count: int, seed: int) -> AnySamples:
    """Return some samples of the training file."""
    return read_field_sample(data, count, seed) if data.goal else read_labelled_sample(data, count, seed)
