"""Files that are either whole or not there, and that say what they were made from."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.errors import MissingStageError

_BLOCK = 1 << 20  # bytes read at once when hashing: constant memory for files of any size


@contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `target` and moves it there only if the block succeeds.

    A reader therefore sees the old file or the whole new one, also after a kill or on a full disk.
    The temporary name ends as the target's does, since some writers choose their format by it.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".part-", suffix=target.name, dir=target.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.chmod(0o666 & ~_umask())  # mkstemp's 0600 would hide results from a shared folder
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def write_text(target: Path | str, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_path(target) as part:
        part.write_text(text, encoding="utf-8")


def write_json(target: Path | str, content: Any) -> None:
    """Writes readable JSON atomically; NaN is refused, since other readers choke on it."""
    write_text(target, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(source: Path | str) -> Any:
    """Reads JSON; `json.JSONDecodeError` names the line if the file was edited into nonsense."""
    return json.loads(Path(source).read_text(encoding="utf-8"))


def require(path: Path, made_by: str) -> Path:
    """Returns `path`, or raises `MissingStageError` that names what makes it ("notebook 02 …")."""
    if not path.exists():
        raise MissingStageError(f"{path} is missing. Run {made_by} first: it makes this file.")
    return path


def file_hash(path: Path | str) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def content_hash(content: Any) -> str:
    """SHA-256 of anything that JSON can hold, the same for the same content in any key order."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
