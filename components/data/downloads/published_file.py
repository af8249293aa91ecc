"""Files as their authors published them, and the check of a copy on disk."""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PublishedFile:
    """A file as its authors published it, mostly as gzip.

    Mirrors compress files anew, so the digest of the contents counts. If nobody published that, the digest of the
    compressed file is used.
    """

    dataset: str
    """Folder of the file on the user's own mirror."""
    name: str
    content_bytes: int
    """Size of the contents; unpacking stops there."""
    content_sha256: str = ""
    gzip_sha256: str = ""
    packed: bool = True
    """True for a gzip file; otherwise the file is its contents."""

    def __post_init__(self) -> None:
        if not (self.content_sha256 or self.gzip_sha256):
            raise ValueError(f"{self.path}: no digest to check it by")

    @property
    def path(self) -> str:
        """Path of the file on a mirror."""
        return f"{self.dataset}/{self.name}"

    @property
    def limit_bytes(self) -> int:
        """Largest size of a gzip file with these contents: deflate adds at most 5 bytes to 16 KB."""
        return self.content_bytes + self.content_bytes // 1000 + 64 * 1024


def flaw(path: Path, file: PublishedFile) -> str | None:
    """Return the fault of a file in words; None if it is as published."""
    try:
        if not file.content_sha256:
            return _gzip_flaw(path, file)
        digest, size = hashlib.sha256(), 0
        with gzip.open(path) if file.packed else path.open("rb") as contents:
            while chunk := contents.read(1 << 20):
                size += len(chunk)
                if size > file.content_bytes:
                    return f"unpacks to more than the {file.content_bytes:,} bytes it should hold"
                digest.update(chunk)
    except FileNotFoundError:
        return "is not there"
    except EOFError:
        return "is a gzip file that breaks off"
    except (gzip.BadGzipFile, zlib.error) as error:
        return f"is not a sound gzip file ({error})"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if digest.hexdigest() == file.content_sha256:
        return None
    return f"has other contents: sha256 expected {file.content_sha256}, got {digest.hexdigest()}"


def _gzip_flaw(path: Path, file: PublishedFile) -> str | None:
    with path.open("rb") as compressed:
        digest = hashlib.file_digest(compressed, "sha256").hexdigest()
    if digest == file.gzip_sha256:
        return None
    return (
        f"is not the published .gz file: sha256 expected {file.gzip_sha256}, got {digest}. Only the digest of "
        "the compressed file is known, so a mirror that compressed it anew cannot be told from a wrong one"
    )
