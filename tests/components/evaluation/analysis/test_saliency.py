import json

import numpy as np
import pytest
import torch
from torch import nn

from tests.toy import made, toy_numbers, toy_tokens
from torchmill.components.data.encoding import read_encoding
from torchmill.components.data.fetch import COLUMNS
from torchmill.components.data.samples import read_test
from torchmill.components.encoding.columns import Column, Columns
from torchmill.components.evaluation.analysis import saliency
from torchmill.components.evaluation.analysis.mistakes import worst_mistakes
from torchmill.components.evaluation.evaluate import evaluate
from torchmill.components.initialization.standardized_model import StandardizedModel

CPU = torch.device("cpu")


def explained(network: nn.Module, data, test, folder) -> saliency.Saliency:
    model = StandardizedModel.of(network, data).eval()
    with torch.no_grad():
        outputs = torch.cat([model(inputs) for inputs, _ in test.batches(64)]).numpy()
    truth = test.labels.numpy()
    chosen = saliency.cases(outputs, truth, data, worst_mistakes(outputs, truth, data))
    return saliency.explain(model, test, data, chosen, read_encoding(data), folder)


def test_both_ways_are_drawn_and_the_network_is_left_as_it_was(trained, toy, toy_test, tmp_path):
    trained.conv1.weight.requires_grad_(False)
    found = explained(trained, toy, toy_test, tmp_path)
    assert found.picture and found.picture.read_bytes().startswith(b"\x89PNG")
    assert [weight.requires_grad for weight in trained.parameters()] == [False, *[True] * 7]
    assert all(weight.grad is None for weight in trained.parameters())
    assert not any("does not work" in note for note in found.notes)


def test_right_answers_are_of_several_classes_and_wrong_ones_the_worst(toy):
    truth = np.repeat(np.arange(10), 5)
    outputs = np.eye(10)[truth]
    outputs[:2] = 3 * np.eye(10)[[9, 8]]
    chosen = saliency.cases(outputs, truth, toy, worst_mistakes(outputs, truth, toy))
    assert [case.right for case in chosen] == [True] * 4 + [False] * 2
    assert len({case.truth for case in chosen[:4]}) == 4


def test_a_network_without_convolution_has_gradients_alone_and_says_so(toy, toy_test, tmp_path):
    found = explained(made("mlp", toy), toy, toy_test, tmp_path)
    assert found.picture and any("this network has none" in note for note in found.notes)


class Opaque(nn.Module):
    """Gives no gradient to its input."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(784, 10)

    def forward(self, images):
        return self.linear(images.detach().flatten(1))


def test_a_network_that_cannot_be_explained_is_evaluated_all_the_same(toy, toy_test, tmp_path):
    ref = evaluate(Opaque(), toy_test, toy, CPU, 64, tmp_path)
    notes = json.loads(ref.report.path.read_text())["saliency"]["notes"]
    assert any(note.startswith("Integrated gradients does not work on this network: ") for note in notes)
    assert not (tmp_path / "saliency.png").exists()


@pytest.mark.parametrize("network", ["rnn", "transformer"])
def test_each_token_of_a_text_has_what_it_contributes(tmp_path, network):
    data = toy_tokens(tmp_path)
    test = read_test(data)
    found = explained(made(network, data), data, test, tmp_path)
    assert not found.notes and len(found.texts) > 2
    for told in found.texts:
        assert len(told["tokens"]) == len(told["attributions"]) == int(test.lengths[told["sample"]])
        assert set(told["tokens"]) <= set("abcde")
    assert any(max(map(abs, told["attributions"])) > 0 for told in found.texts)


def test_texts_without_an_embedding_are_told_in_words(tmp_path):
    class Counts(nn.Module):
        def forward(self, tokens):
            return nn.functional.one_hot(tokens, 8).float().sum(1)[:, 2:5]

    found = explained(Counts(), data := toy_tokens(tmp_path), read_test(data), tmp_path)
    assert found.texts == [] and "nn.Embedding" in found.notes[0]


def test_each_column_of_a_table_has_what_it_contributes(tmp_path):
    data = toy_numbers(tmp_path)
    network = nn.Linear(6, 3, bias=False)
    with torch.no_grad():
        network.weight[:, 2] = 0
    test = read_test(data)
    for columns, names in (
        (None, [f"feature {number}" for number in range(6)]),
        ("abcdef", list("abcdef")),
        (Columns((Column("a"), Column("b", ("x", "y", "z")), Column("c"), Column("d"))), list("abcd")),
    ):
        if columns:
            held = columns if isinstance(columns, Columns) else Columns.called(columns)
            (data.folder / COLUMNS).write_text(held.as_json())
        found = explained(network, data, test, tmp_path)
        assert not found.notes and len(found.texts) > 2
        for told in found.texts:
            assert sorted(token.rsplit(" ", 1)[0] for token in told["tokens"]) == names
            output = data.classes.index(told["answer"])
            exact = model_output(network, data, test, told["sample"])[output]
            assert sum(told["attributions"]) == pytest.approx(exact, rel=1e-2, abs=1e-3)  # IG's completeness
            if not isinstance(columns, Columns):
                assert told["attributions"][-1] == 0


def model_output(network, data, test, sample) -> list[float]:
    raw, _ = test.take(torch.tensor([sample]))
    with torch.no_grad():
        return StandardizedModel.of(network, data).eval()(raw)[0].tolist()
