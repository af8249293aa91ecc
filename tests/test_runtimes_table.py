"""The table of runtimes in the docs is the one that was measured, and nothing in it is silently wrong."""

from benchmarks.runtimes.table import DOCS, EQUAL, measured, table


def test_the_docs_show_what_was_measured():
    assert table(measured()) in DOCS.read_text(encoding="utf-8")


def test_nothing_is_silently_wrong():
    for runtime, result in measured().items():
        for model, finding in result["models"].items():
            assert finding.get("failure") or finding["difference"] <= EQUAL, (runtime, model, finding)


def test_wrong_answers_would_stand_in_the_table():
    models = {"images complete": {"difference": 0.0}, "images bare": {"difference": 0.5}}
    rows = table({"some runtime": {"version": "1.0", "models": models}})
    assert rows.splitlines()[-1] == "| some runtime 1.0 | equal | **wrong**: images |"
