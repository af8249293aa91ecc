"""Reports for people, terminals and scripts."""

import json

from torchmill.components.doctor.verdict import Report, Verdict

PASSED = Verdict("shared", "pass", "", "0 shared", "")
WARNING = Verdict("wasteful", "warn", "conv", "1 bias", "bias=False")
FAILURE = Verdict("reached", "fail", "layers.0", "2 of 4 get no gradient", "Use it.")


def test_the_worst_grade_of_a_report():
    assert Report([PASSED, WARNING], 0.1).worst == "warn"
    assert Report([WARNING, FAILURE, PASSED], 0.1).worst == "fail"
    assert Report([], 0.1).worst == "pass"


def test_lines_begin_with_failures_and_end_with_skipped_checks():
    lines = Report([PASSED, WARNING, FAILURE], 0.1, ["gradient_size"]).lines()
    assert lines[0] == "fail  reached in layers.0: 2 of 4 get no gradient"
    assert lines[1].strip() == "Use it."
    assert lines[-2:] == ["skipped because of the failures: gradient_size", "1 fail, 1 warn, 1 pass  (0.1 s)"]


def test_a_terminal_shows_failures_last_and_passed_checks_by_name():
    lines = Report([PASSED, WARNING, FAILURE, PASSED], 0.1, ["gradient_size"]).terminal_lines()
    assert lines[0] == "pass  shared" and lines[1].startswith("warn  wasteful in conv")
    assert lines[-4:-2] == ["fail  reached in layers.0: 2 of 4 get no gradient", "      Use it."]
    assert lines[-2:] == ["skipped because of the failures: gradient_size", "1 fail, 1 warn, 2 pass  (0.1 s)"]
    assert Report([PASSED], 0.1).terminal_lines() == ["pass  shared: 0 shared", "0 fail, 0 warn, 1 pass  (0.1 s)"]


def test_scripts_read_json():
    report = json.loads(json.dumps(Report([FAILURE], 0.12345, ["dtype"]).as_json()))
    assert (report["worst"], report["seconds"], report["left_out"]) == ("fail", 0.123, ["dtype"])
    assert report["verdicts"][0]["layer"] == "layers.0"
