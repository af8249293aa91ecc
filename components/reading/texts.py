"""Text files: UTF-8, whose lines end at a line feed alone."""

from pathlib import Path

from torchmill.components.errors import UserError


def decoded(content: bytes, file: object) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark.

    Raises:
        UserError: the file is in another encoding.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        encoding = "UTF-16" if utf16 else "CP1252"
        raise UserError(
            f"{file} line {line} is not UTF-8: byte {error.start:,} of the file is 0x{content[error.start]:02x}.",
            f"Convert it, for example with: iconv -f {encoding} -t UTF-8.",
        ) from None


def lines(text: str) -> list[str]:
    """Return the lines of a text, without the line feed, or the carriage return and line feed, that ends them.

    ``str.splitlines`` would also end a line at a form feed, at U+2028 and at others that occur within texts.
    """
    parts = text.split("\n")
    if not parts[-1]:
        parts.pop()
    return [part.removesuffix("\r") for part in parts]


def read_text(file: Path) -> str:
    """Return the text of a file.

    Raises:
        UserError: the file can't be read, or is not UTF-8.
    """
    try:
        return decoded(file.read_bytes(), file)
    except OSError as error:
        raise UserError(f"Cannot read {file}: {error.strerror}.") from None
