"""Python on a model card that reads the cells of a table, and that prepares them for the network alone."""

import json
from pprint import pformat
from string import Template

from torchmill.components.encoding.columns import Columns
from torchmill.components.encoding.dates import DATE_PARTS, DAY
from torchmill.components.reading.dates import ISO_DATE, MONTH_FORMATS, OTHER_ORDER, WITH_MONTH
from torchmill.components.reading.tables import LARGEST, MISSING

SECONDS = """\
def seconds(cell, day_first):  # a date as a Unix time; without a zone it is UTC
    first = re.fullmatch(r"$iso", cell)
    other = re.fullmatch(r"$other", cell)
    if first:
        year, _, month, day, time = first.groups()
    elif other:
        before, _, after, year, time = other.groups()
        if day_first is None and int(before) <= 12 and int(after) <= 12 and before != after:
            raise ValueError(f"{cell} has day and month in an order that training did not have")
        in_order = int(before) > 12 if day_first is None else day_first
        day, month = (before, after) if in_order else (after, before)
    else:
        return named_month(cell)
    text = f"{year}-{int(month):02}-{int(day):02}" + (f"T{time}" if time else "")
    moment = datetime.datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp() // 1


def named_month(cell):
    if re.fullmatch(r"$month", cell):
        plain = " ".join(re.sub(r"[.,-]", " ", cell).split())
        for order in $formats:
            try:
                return datetime.datetime.strptime(plain, order).replace(tzinfo=datetime.UTC).timestamp()
            except ValueError:
                continue
    raise ValueError(f"{cell} is no date")


"""

READ = """\
def read(row):  # a dictionary of cells, as a batch of one
    numbers, categories = [], []
    for column in columns:
        name, cell = column["name"], row[column["name"]].strip()
        if "categories" in column:
            categories.append(cell)
            if cell not in column["categories"]:
                print(f"{name}: {cell} was not learned", file=sys.stderr)
        elif cell.lower() in missing:
            numbers.append(math.nan)
        elif column.get("is_date"):
            numbers.append(seconds(cell, column.get("day_first")))
        else:
            number = float(cell.replace("\\u2212", "-"))
            if "_" in cell or not abs(number) <= $largest:
                raise ValueError(f"{cell} is no number in {name}")
            numbers.append(number)
    inputs = {"numeric": np.array([numbers], np.float64), "categorical": np.array([categories], object)}
    return {name: values for name, values in inputs.items() if values.size}


text = unicodedata.normalize("NFC", Path(sys.argv[1]).read_bytes().decode("utf-8-sig"))
delimiter = max(",;\\t", key=text.partition("\\n")[0].count)
"""

NO_DATES = """\
def seconds(cell, day_first):
    raise ValueError(f"{cell} is no date")


"""

PARTS = """\
def parts(seconds, column):  # of dates
    number = np.floor(seconds / $day)
    days = number.astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    numbers = [number - column.get("offset", 0), days.astype("datetime64[Y]").astype(int) + 1970]
    turns = [(months.astype(int) % 12, 12), ((days - months).astype(int), 31)]
    within = np.floor(seconds - number * $day)
    weekdays = list(np.eye(7)[(number.astype(int) + 3) % 7].T)
    for step, steps in turns:
        numbers += [np.sin(2 * np.pi * step / steps), np.cos(2 * np.pi * step / steps)]
    numbers += weekdays
    if column.get("has_times"):
        hour = within // 3600
        numbers += [within / $day, np.sin(2 * np.pi * hour / 24), np.cos(2 * np.pi * hour / 24)]
    return np.stack(numbers, 1)


"""

PREPARE = """\
def prepare(inputs):  # numbers (N, K), and texts of categories (N, C), as the network takes them
    numbers, categories = (iter(inputs.get(name, np.empty((0, 0))).T) for name in ("numeric", "categorical"))
    blocks = []
    for column in columns:
        if "categories" in column:
            hot = next(categories)[:, None] == np.array([column["categories"]], object)
            blocks += [hot] + [~hot.any(1, keepdims=True)] * column.get("has_other", False)
            continue
        values = next(numbers)
        gaps = np.isnan(values)
        values = np.where(gaps, column["median"], values)
$ends        blocks.append($number)
$pieces        blocks += [gaps[:, None]] * column.get("has_gaps", False)
    return np.concatenate(blocks, 1).astype(np.float32)
"""

ENDS = """\
        if "ends" in column:
            values = values.clip(*column["ends"])
"""

PIECES = """\
        if "edges" in column:
            edges, centred = np.array(column["edges"]), blocks[-1].astype(np.float32)
            blocks.append(((centred - edges[:-1]) / (edges[1:] - edges[:-1])).clip(0, 1))
"""

assert len(DATE_PARTS) == 13  # as many as ``parts`` returns without times


def code_of_cells(columns: Columns) -> str:
    """Return Python that reads rows of a table as ``predict`` does."""
    values = {
        "iso": ISO_DATE.pattern,
        "other": OTHER_ORDER.pattern,
        "month": WITH_MONTH.pattern,
        "formats": MONTH_FORMATS,
        "largest": LARGEST,
    }
    head = f'columns = json.loads(metadata["columns"])\nmissing = {sorted(MISSING)}\n\n\n'
    dates = SECONDS if any(column.is_date for column in columns.columns) else NO_DATES
    return head + Template(dates).substitute(values) + Template(READ).substitute(values)


def preparation_of_cells(columns: Columns) -> str:
    """Return Python that turns the inputs of the complete form into those of the network alone."""
    has_dates = any(column.is_date for column in columns.columns)
    plain = '(values - column.get("offset", 0))[:, None]'
    number = f'parts(values, column) if column.get("is_date") else {plain}' if has_dates else plain
    described = f"columns = {pformat(json.loads(columns.as_json()), width=100, sort_dicts=False)}\n\n\n"
    ends = ENDS if any(column.ends for column in columns.columns) else ""
    pieces = PIECES if any(column.edges for column in columns.columns) else ""
    return (
        described
        + (Template(PARTS).substitute(day=DAY) if has_dates else "")
        + Template(PREPARE).substitute(number=number, ends=ends, pieces=pieces)
    )
