"""Table: your own .parquet, numbers or texts with a label in each row; parquet:PATH.

PATH is a file, or a folder with train.parquet and perhaps val.parquet and test.parquet. Licence: yours.
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
    """Read numbers (N, F), or the token ids of one column of texts, as from ``csv``; the schema tells columns' types.

    Args:
        label: column of the label; without it label, target, class or y, or else the last one. Several columns,
            separated by commas or as a list, are yes or no (0 and 1) or targets.
        text: column with texts; without it text, sentence or review, or the only one beside the label.
        task: classification, multilabel or regression; auto as of ``csv``.
        target_scale: log trains on the logarithm of targets above 0; answers and measures keep the targets' units.
        ignore: columns to leave out, separated by commas or as a list, for example row numbers.
        date_order: order of dates such as 03/04/2024 in texts.
        test: another file with the test rows.
        test_fraction: share of the rows to test with if there are no test rows; equal rows stay together.
        max_categories: largest number of categories in a column.
        pieces: pieces that a number is also given in, from which networks learn curves sooner; 0 is none.
        level: words or characters, for texts.
        max_length: longest text in tokens; more are cut off.
        lower_case: ignore case in texts, so that Read and read are one word.

    Raises:
        UserError: as ``read_parquet`` and ``csv``.
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
    return read_splits(path, settings, (".parquet",))
