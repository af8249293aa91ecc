"""Read the pages in docs/: commands, snippets, quoted output, paths and links, which tests check."""

import ast
import functools
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
NEEDS_A_RUN = ("resume-and-cache.md", "deploy-onnx.md", "predict.md", "registry.md")
"""Pages whose snippets make a run or use one."""
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"\A# ([\w/.-]+\.(?:py|yaml|csv))(?: .*)?\n")
PREFIX = re.compile(r"^(\d\d:\d\d:\d\d  |torchmill: |(pass|warn|fail)  \w+( in \S+)?: |[a-z]+: (ran|cached), )")
"""A time, the program's name, a check's grade and name, or a step's name and state."""
PLACEHOLDER = "\0"
LETTERS = re.compile(r"[A-Za-z]{3}|→")
FIXED_SHARE = 0.15
"""Share of a quoted line that has to stand in the source word for word."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def file(self) -> str | None:
        """Name of the file that the block is, which its first line says."""
        match = FILE_NAME.match(self.text)
        return match.group(1) if match else None


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text[: match.start()].count("\n") + 1, match.group(2), match.group(3))
        for match in FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def commands(page: Path) -> list[str]:
    """Return the torchmill commands of a page: in shell blocks, behind a prompt, and complete ones in the prose."""
    rows: list[str] = []
    for block in blocks(page):
        joined = block.text.replace("\\\n", " ")
        match block.language:
            case "bash":
                rows += [line for line in joined.splitlines() if "torchmill " in line]
            case "console":
                rows += [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]
    rows += re.findall(r"`(torchmill [a-z-]+ [^`]+)`", prose(page))
    return [
        cleaned for row in rows if (cleaned := re.sub(r"\s+#.*| &$| \|.*", "", row).strip()).startswith("torchmill")
    ]


def names_of_commands(page: Path) -> set[str]:
    """Return the names of the commands that a page mentions."""
    return set(re.findall(r"`torchmill ([a-z-]+)", prose(page)))


def write_files(page: Path, folder: Path) -> None:
    """Write the files that a page shows into a folder, and the network that all pages speak of."""
    for block in [*blocks(DOCS / "own-network.md"), *blocks(page)]:
        if block.file:
            place = folder / block.file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(block.text, encoding="utf-8")


def scripts(page: Path) -> list[Block]:
    """Return the Python snippets of a page that are to be run as they stand."""
    return [block for block in blocks(page) if block.language == "python" and not block.file]


def quotes(page: Path) -> list[tuple[Block, str]]:
    """Return the lines of output and of messages that a page quotes."""
    rows = []
    for block in blocks(page):
        if block.language in ("text", "console"):
            # A line that is indented by eight goes on with the one before.
            lines = [line.strip() for line in re.sub(r"\n {8,}", " ", block.text).splitlines()]
            rows += [(block, line) for line in lines if line and line != "…" and not line.startswith("$ ")]
    return rows


def is_in_source(line: str) -> bool:
    """Return True if the source may print the line: a text of it, or a message and its remedy."""
    line = PREFIX.sub("", line)
    ends = [match.end() for match in re.finditer(r"[.?:] ", line)]
    parts = [(line,), *((line[: end - 1], line[end:]) for end in ends)]
    return any(all(any(template.fits(part) for template in _templates()) for part in pair) for pair in parts)


@dataclass(frozen=True)
class Template:
    """A line of a text in the source, whose placeholders stand for anything."""

    pattern: re.Pattern[str]
    fixed: int
    """Number of characters outside the placeholders."""

    def fits(self, line: str) -> bool:
        return self.fixed >= FIXED_SHARE * len(line) and bool(self.pattern.fullmatch(line))


@functools.cache
def _templates() -> tuple[Template, ...]:
    """Return the lines of all texts of the package that have a word or more of their own."""
    rows = []
    for folder in ("components", "flows"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
                    rows += [_template(line.strip()) for line in _text(node).split("\n") if LETTERS.search(line)]
    return tuple(rows)


def _text(node: ast.expr) -> str:
    """Return a text with PLACEHOLDER wherever a value is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            return re.sub(r"%[-+ #0]*[\d.]*[sdfgr]", PLACEHOLDER, text).replace("%%", "%")
        case ast.JoinedStr(values=values):
            return "".join(_text(value) for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left) + _text(right)
        case ast.BinOp(left=text, op=ast.Mult()):  # as `", …" * bool(reason)`
            return _text(text)
    return PLACEHOLDER


def _template(line: str) -> Template:
    texts = line.split(PLACEHOLDER)
    return Template(re.compile(".*?".join(map(re.escape, texts))), len("".join(texts)))


def run_snippet(text: str, folder: Path, environment: Mapping[str, str]) -> str:
    """Run a snippet as a script in a folder whose modules it may import; returns its output."""
    script = folder / "snippet.py"
    script.write_text(text, encoding="utf-8")
    environment = {**os.environ, **environment, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{text}\nfails:\n{done.stderr}"
    return done.stdout
