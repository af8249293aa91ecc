import json

from torchmill.components.doctor.verdict import Report, Verdict

GOOD = Verdict("shared", "pass", "", "0 shared", "")
SO_SO = Verdict("wasteful", "warn", "conv", "1 bias", "bias=False")
BAD = Verdict("reached", "fail", "layers.0", "2 of 4 get no gradient", "Use it.")


def test_the_worst_of_a_report():
    assert Report([GOOD, SO_SO], 0.1).worst == "warn"
    assert Report([SO_SO, BAD, GOOD], 0.1).worst == "fail"
    assert Report([], 0.1).worst == "pass"


def test_people_read_what_failed_first_and_what_was_left_out():
    lines = Report([GOOD, SO_SO, BAD], 0.1, ["gradient_size"]).lines()
    assert lines[0] == "fail  reached in layers.0: 2 of 4 get no gradient"
    assert lines[1].strip() == "Use it."
    assert lines[-2:] == ["left out, because of what failed: gradient_size", "1 fail, 1 warn, 1 pass  (0.1 s)"]


def test_a_terminal_shows_last_what_failed_and_what_passed_by_name():
    lines = Report([GOOD, SO_SO, BAD, GOOD], 0.1, ["gradient_size"]).shown()
    assert lines[0] == "pass  shared" and lines[1].startswith("warn  wasteful in conv")
    assert lines[-4:-2] == ["fail  reached in layers.0: 2 of 4 get no gradient", "      Use it."]
    assert lines[-2:] == ["left out, because of what failed: gradient_size", "1 fail, 1 warn, 2 pass  (0.1 s)"]
    assert Report([GOOD], 0.1).shown() == ["pass  shared: 0 shared", "0 fail, 0 warn, 1 pass  (0.1 s)"]


def test_scripts_read_json():
    read = json.loads(json.dumps(Report([BAD], 0.12345, ["dtype"]).as_json()))
    assert (read["worst"], read["seconds"], read["left_out"]) == ("fail", 0.123, ["dtype"])
    assert read["verdicts"][0]["layer"] == "layers.0"
