"""Files that are either whole or not there, and that say what they were made from."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.errors import DiskFullError, MissingStageError
from utils.settings import short_path

_BLOCK = 1 << 20  # bytes read at once when hashing: constant memory for files of any size
_NEARLY_FULL = 1 << 20  # bytes: less than this free explains a write that failed without a reason


@contextmanager
def atomic_path(target: Path | str, size: int = 0) -> Iterator[Path]:
    """Yields a temporary path beside `target` and moves it there only if the block succeeds.

    A reader therefore sees the old file or the whole new one, also after a kill or on a full disk.
    The temporary name ends as the target's does, since some writers choose their format by it.

    Args:
        target: file to make; its folder is made too.
        size: bytes that it will have, at most; then too little room is said before the block runs.
            Give it for HDF5 files: the library takes the whole process down with a full disk.

    Raises:
        DiskFullError: there is no room for it.
    """
    target = Path(target)
    with full_disk_said(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if size and size > shutil.disk_usage(target.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
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


@contextmanager
def full_disk_said(target: Path) -> Iterator[None]:
    """Turns what writers raise on a full disk into `DiskFullError`, which says what to do."""
    try:
        yield
    except DiskFullError:
        raise
    except OSError as error:
        free = shutil.disk_usage(target.parent).free if target.parent.exists() else None
        # NumPy tells only how much it could write.
        unexplained = error.errno is None and free is not None and free < _NEARLY_FULL
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) and not unexplained:
            raise
        room = "" if free is None else f" ({free:,} bytes are free)"
        raise DiskFullError(
            f"The disk is full: no room for {short_path(target)}{room}. What was finished before "
            "is whole. Make room, or name a folder on another disk with RUNS=..., and run this "
            "again: it goes on where it stopped."
        ) from error


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
