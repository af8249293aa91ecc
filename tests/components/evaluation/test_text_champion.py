"""Champions of texts, which may have another vocabulary, other labels or another tokenizer than a challenger."""

import pytest

from tests.components.tasks.test_token_labels import OWN
from tests.components.tasks.trials import Trial
from tests.toy_tokenizers import wordpiece
from torchmill.components.data.fetch import fetch
from torchmill.components.evaluation.comparison.field_champion import compare_field_models
from torchmill.components.evaluation.config import PromoteConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("champions")
    (folder / "own.py").write_text(OWN)
    (folder / "cities.py").write_text(OWN.replace('"LOC"', '"CITY"'))
    return folder


def trial(folder, place, file="own.py", **args):
    (folder / place).mkdir()
    data = fetch(f"{folder / file}:sentences", folder / "cache", args=args)
    return Trial.with_data(folder / place, data, "token_labels", f"{folder}/own.py:Tagger")


def test_a_champion_reads_texts_by_its_own_vocabulary(folder):
    champion, challenger = trial(folder, "first", samples=400), trial(folder, "second", samples=390)
    assert champion.data.field_refs[0].names != challenger.data.field_refs[0].names
    champion.train(80)
    files = [each.export()[0].onnx.path for each in (challenger, champion)]
    verdict = compare_field_models(*files, challenger.data, PromoteConfig())
    assert verdict.outcome == "kept" and verdict.comparison and verdict.comparison.champion_score > 0.9
    for place, words, more in (
        ("cities", "the champion knows the classes O, B-LOC, B-PER, I-PER, and this data has", {"file": "cities.py"}),
        ("pieces", "the champion has another tokenizer", {"tokenizer": str(wordpiece(folder, ["Anna in Rome"] * 3))}),
    ):
        other = trial(folder, place, **more)
        verdict = compare_field_models(files[0], files[1], other.data, PromoteConfig())
        assert verdict.outcome == "kept" and words in verdict.reason
