"""Every file in components/fields/ is a whole kind of inputs."""

import inspect
import json

import numpy as np
import onnx_ir as ir
import pytest
import torch

from tests.toy import toy_data, toy_numbers, toy_tokens
from torchmill.components import fields
from torchmill.components.data.encoding import read_encoding
from torchmill.components.data.samples import read_test
from torchmill.components.encoding.columns import Columns
from torchmill.components.encoding.vocabulary import Vocabulary
from torchmill.components.errors import UserError
from torchmill.components.export.pre_and_post import plain
from torchmill.components.export.to_onnx import example
from torchmill.components.initialization.standardized_model import StandardizedModel, blank
from torchmill.components.onnx_model.run import answers, as_taken
from torchmill.components.onnx_model.session import open_session
from torchmill.components.refs import DataRef

TOYS = {"images": toy_data, "tokens": toy_tokens, "numbers": toy_numbers}


@pytest.fixture(scope="module", params=fields.names())
def data(request, tmp_path_factory) -> DataRef:
    return TOYS[request.param](tmp_path_factory.mktemp(request.param), train=40, test=23)


@pytest.fixture(scope="module")
def inputs(data) -> np.ndarray:
    return np.load(data.folder / "train_inputs.npy")


def test_a_kind_has_all_members_and_no_base_class(data):
    members = {name for name in vars(fields.Field) if not name.startswith("_")} | set(fields.Field.__annotations__)
    assert not [name for name in members if not hasattr(data.field, name)]
    assert type(data.field).__bases__ == (object,)
    for name in members:
        if inspect.isfunction(member := vars(fields.Field).get(name)):
            assert list(inspect.signature(getattr(data.field, name)).parameters) == [
                *list(inspect.signature(member).parameters)[1:]
            ], name
    assert data.field.name == data.kind and fields.file_of(data.kind).is_file()


def test_inputs_are_recognized_by_one_kind_which_finds_no_fault(data, inputs):
    tokens = data.vocabulary_size or None
    assert fields.recognized(inputs, tokens is not None) == data.kind
    assert [name for name in fields.names() if fields.field(name).recognizes(inputs, tokens is not None)] == [data.kind]
    assert not data.field.faults(inputs, tokens)
    assert data.field.faults(inputs.astype(np.float64), tokens) and data.field.faults(inputs[:0], tokens)


def test_arguments_hold_the_marks_that_the_source_names(data):
    assert set(fields.arguments_of(data.kind)) <= set(data.field.arguments(data.shape, data.vocabulary_size))
    assert set(data.arguments) == {"num_classes", *data.field.arguments(data.shape, data.vocabulary_size)}


def test_what_is_standardised_has_mean_0_and_deviation_1(data, inputs):
    mean, std = data.field.statistics(inputs)
    assert mean == pytest.approx(data.mean) and std == pytest.approx(data.std)
    assert bool(mean) != data.field.is_sequence
    if mean:
        model = StandardizedModel.of(torch.nn.Identity(), data)
        standardized = model(torch.from_numpy(inputs)).transpose(0, 1).flatten(1)
        torch.testing.assert_close(standardized.mean(1), torch.zeros(len(mean)), atol=1e-4, rtol=0)
        torch.testing.assert_close(standardized.std(1, correction=0), torch.ones(len(mean)), atol=1e-4, rtol=0)


def test_blank_inputs_have_the_shape_of_samples_and_the_type_of_an_export(data):
    assert blank(data).shape == (2, *data.shape)
    traced, (axes,) = example(data)
    assert traced.dtype == (torch.int64 if data.field.is_sequence else torch.float32) and axes[0] == "batch"


def test_the_graph_before_a_network_leaves_training_inputs_as_they_are(data):
    taken = as_taken(read_test(data).take(torch.arange(4))[0])
    if (graph := data.field.preprocessing(data.shape, data.vocabulary_size)) is not None:
        session = open_session(ir.to_proto(plain(graph, "prepare.", ["prepared"])).SerializeToString())
        assert session.get_inputs()[0].type == data.field.onnx_type
        (prepared,) = answers(session, None, **{data.field.onnx_input: taken})
        assert np.array_equal(prepared, taken)
    takes, prepares = data.field.describe_input(data.shape, False)
    assert takes and prepares


def test_the_code_on_a_card_reads_an_input(data):
    code, items, arguments = data.field.card_code(data.shape, data.rules, None)
    assert arguments
    assert "\ndef read(" in f"\n{code}" and "sys.argv[1" in code + items


def test_an_encoding_is_read_where_numbers_stand_for_something(data):
    encoding = read_encoding(data)
    assert encoding is None or isinstance(encoding, Vocabulary | Columns)
    assert isinstance(encoding, Vocabulary) == data.field.is_sequence == (data.field.padding is not None)


def test_measures_and_sums_are_of_all_samples(data):
    test = read_test(data)
    for name, _, values in data.field.measures(test):
        assert name and values.shape == (len(test),) and np.isfinite(values).all()
    raw = test.take(torch.arange(len(test)))[0].numpy()
    sums = data.field.sums(raw, None)
    assert json.loads(json.dumps(sums)) == sums
    assert set(data.field.drift(sums)) <= {"unknown_tokens", "words"}
    samples = ["ab", "c"] if data.field.is_sequence else [*raw[:2]]
    batch = data.field.batch(samples, read_encoding(data) if data.field.is_sequence else None)
    assert len(batch) == 2 and np.prod(data.field.batch_shape(data.shape)) > 0


def test_an_unknown_kind_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"Unknown kind of inputs 'image'\. Did you mean images"):
        fields.field("image")
