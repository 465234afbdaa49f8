"""Files that are either whole or not there, and that say what they were made from."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from utils.machinery.errors import DiskFullError, MissingStageError, StaleArtefactError
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


def write_arrays(target: Path | str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as an `.npz` file, atomically; the same arrays give the same bytes."""
    size = sum(array.nbytes + 1024 for array in arrays.values())
    with atomic_path(target, size) as part, zipfile.ZipFile(part, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # without the time of day
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as output:
                np.lib.format.write_array(output, array, allow_pickle=False)


def read_arrays(source: Path | str, most_bytes: int, remedy: str) -> dict[str, np.ndarray]:
    """Reads an `.npz` file that `write_arrays` wrote; nothing in it can run or fill the memory.

    Args:
        source: the file.
        most_bytes: that its arrays may have together.
        remedy: what to do about an invalid file, for the message.

    Raises:
        StaleArtefactError: it is damaged, too large, or holds something other than arrays.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            members = archive.infolist()
            if (size := sum(member.file_size for member in members)) > most_bytes:
                raise ValueError(f"{size:,} bytes, at most {most_bytes:,} are expected")
            arrays = {}
            for member in members:
                with archive.open(member) as content:
                    array = np.lib.format.read_array(content, allow_pickle=False)
                arrays[member.filename.removesuffix(".npy")] = array
            return arrays
    except (
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        ValueError,
        RuntimeError,
        MemoryError,
        OverflowError,
    ) as error:
        reason = str(error) or type(error).__name__
        raise StaleArtefactError(f"{source} is no whole .npz file ({reason}). {remedy}") from error


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
