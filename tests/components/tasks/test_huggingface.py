"""A network of the library transformers, made from its configuration, as a user's own tagger."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.components.tasks.trials import Trial
from tests.toy_tokenizers import wordpiece
from torchmill.components.data.fetch import fetch
from torchmill.components.onnx_model.session import open_session
from torchmill.components.prediction.predict_fields import predict_fields

pytest.importorskip("transformers", reason="the library transformers is not installed")

EXAMPLE = Path(__file__).parents[3] / "examples" / "bert_tagger.py"


@pytest.fixture(scope="module")
def surnames(tmp_path_factory):
    folder = tmp_path_factory.mktemp("surnames")
    syllables = ("Ko", "wal", "ski", "Mey", "er", "Fu", "ji", "mo", "to")
    names = {first + second + third for first in syllables for second in syllables for third in syllables}
    (folder / "all.txt").write_text("\n".join(sorted(names)))
    return folder


@pytest.mark.parametrize("pieces", [False, True])
def test_bert_is_bound_trained_exported_and_answers_in_words(surnames, tmp_path, pieces):
    args = {"folder": str(surnames), "samples": 800}
    if pieces:
        example = runpy.run_path(str(EXAMPLE))
        known = (example["TEMPLATES"], example["FIRST"], *example["TYPES"].values())
        words = " ".join(" ".join(each) for each in known)
        args["tokenizer"] = str(wordpiece(tmp_path, [words, (surnames / "all.txt").read_text()], size=250))
    data = fetch(f"{EXAMPLE}:sentences", tmp_path / "cache", args=args)
    model_args = {"width": 32, "layers": 1, "longest": 64}
    trial = Trial.with_data(tmp_path, data, "token_labels", f"{EXAMPLE}:tagger", model_args=model_args)
    assert trial.model.taken == {"input_ids": "tokens", "attention_mask": "attention_mask"}
    trial.train(120)
    assert trial.evaluate()["span_f1"] > 0.8
    ref, _ = trial.export()
    session = open_session(ref.onnx.path)
    assert {entry.name: entry.shape for entry in session.get_inputs()} == {
        "tokens": ["batch", "length"], "lengths": ["batch"]
    }  # fmt: skip
    model = trial.model.eval()
    for row in range(3):  # a sample alone, at its own length
        batch = trial.samples().take(torch.tensor([row]))
        with torch.no_grad():
            expected = trial.task.predict(model, model.prepared(batch))["logits"].numpy()
        inputs = {name: batch[name].numpy() for name in ("tokens", "lengths")}
        np.testing.assert_allclose(session.run(["logits"], inputs)[0], expected, atol=1e-5)
    (tmp_path / "in.txt").write_text("Doctor Anna Kowalji wrote to Acme from Oslo .")
    done = predict_fields(ref.onnx.path, [tmp_path / "in.txt"], tmp_path / "out.jsonl")
    assert '"type": "LOC", "text": "Oslo"' in done.output.read_text()
