"""What is said to those who deploy a model is what was found."""

from components.config import ExportConfig
from components.evaluation.evaluate import evaluate
from components.export.card import write_card
from components.export.export import export
from components.refs import NetworkRef
from tests.components.training.small_training import CPU


def test_a_card_tells_of_a_model_whose_files_are_elsewhere(trained, toy, toy_test, tmp_path):
    for name in ("earlier", "now"):
        (tmp_path / name).mkdir()
    scores = evaluate(trained, toy_test, toy, CPU, 64, tmp_path / "earlier")
    model = export(trained, toy, toy_test, ExportConfig(batch_sizes=(64,)), {}, tmp_path / "earlier")
    network = NetworkRef(reference="simple_cnn", arguments={}, weights=model.onnx, parameters=421_642)
    card = write_card(tmp_path / "now", network, toy, scores, model, {"Run": "calm-otter (0123)", "Commit": ""})
    assert card == tmp_path / "now" / "MODEL_CARD.md"
    text = card.read_text()
    for told in ("# simple_cnn on toy", "421,642 parameters", "calm-otter (0123)", "- power: ", model.onnx.sha256):
        assert told in text
    assert "Commit" not in text and f"{scores.score:.2%}" in text
