"""Table: your own .csv or .tsv, numbers or texts with a label in each row; csv:PATH.

PATH is a file, or a folder with train.csv and perhaps val.csv and test.csv. Licence: yours.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from torchmill.components.data.formats.table_splits import TableSettings, read_splits
from torchmill.components.data.splits import Splits


def load(
    path: Path,
    validation_fraction: Annotated[float, Field(ge=1e-6, le=0.9)] = 0.1,
    label: str | list[str] | None = None,
    text: str | None = None,
    task: str = "auto",
    target_scale: Literal["linear", "log"] = "linear",
    ignore: str | list[str] = "",
    date_order: Literal["auto", "day_first", "month_first"] = "auto",
    test: str | None = None,
    test_fraction: Annotated[float, Field(ge=0.001, le=0.9)] = 0.2,
    max_categories: Annotated[int, Field(ge=2, le=100_000)] = 100,
    pieces: Annotated[int, Field(ge=0, le=64)] = 0,
    level: Literal["words", "characters"] = "words",
    max_length: Annotated[int, Field(ge=1, le=1_000_000)] = 256,
    lower_case: bool = True,
) -> Splits:
    """Read numbers (N, F), or the token ids of one column of texts.

    Numbers without a value get the median, and a 0 or 1 that tells where. Categories are one-hot encoded, and no value
    is one. A category needs 1 of 100 training rows, 10 at most; only the most frequent ones count, and all others are
    one, "other". Dates become the day's number, year, month, day, weekday, and the hour if there are times. Numbers
    are cut far beyond what is usual.

    Args:
        label: column of the label; without it label, target, class or y, or else the last one. Several columns, as a
            list or with commas between, are yes or no (0 and 1) or targets.
        text: column with texts; without it text, sentence or review, or the only one beside the label.
        task: classification, multilabel or regression; auto is a regression of fractions and of many whole numbers.
        target_scale: log trains on the logarithm of targets above 0; answers and measures keep the targets' units.
        ignore: columns to leave out, separated by commas or as a list, for example row numbers.
        date_order: order of dates such as 03/04/2024; auto is the one that other dates of the column tell.
        test: another file with the test rows.
        test_fraction: share of the rows to test with if there are no test rows; equal rows stay together.
        max_categories: largest number of categories in a column.
        pieces: pieces that a number is also given in, from which networks learn curves sooner; 0 is none.
        level: words or characters, for texts.
        max_length: longest text in tokens; more are cut off.
        lower_case: ignore case in texts, so that Read and read are one word.

    Raises:
        UserError: as ``read_table``; a column is missing; a cell is no number or date; labels fit no task.
    """
    settings = TableSettings(
        label=label,
        text=text,
        task=task,
        target_scale=target_scale,
        ignore=ignore,
        date_order=date_order,
        test=test,
        test_fraction=test_fraction,
        validation_fraction=validation_fraction,
        max_categories=max_categories,
        pieces=pieces,
        level=level,
        max_length=max_length,
        lower_case=lower_case,
    )
    return read_splits(path, settings, (".csv", ".tsv", ".txt"))
