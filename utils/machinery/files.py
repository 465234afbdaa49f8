"""Files that are whole or not there, are checked when read, and are known by their hashes."""

import errno
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from utils.machinery import errors
from utils.settings import short_path

RECORD_FILE = "stages.json"  # in a folder: the hash of each file that a notebook handed over
_MOST_HASHED = 1 << 30  # bytes of a file that is handed over; only features may have more
_NEARLY_FULL = 1 << 20  # bytes: less than this free explains a write that failed without a reason
_MOST_BYTES = 256 << 20  # of a JSON or CSV file; Flickr8k's largest has 8 MB
# What a spreadsheet takes for a formula at the beginning of a cell. There it gets an apostrophe
# when it is written, which is taken off when it is read.
_FORMULA, _GUARDED = r"^('*[=+\-@\t])", r"^'('*[=+\-@\t])"


@contextmanager
def atomic_path(target: Path | str, size: int = 0) -> Iterator[Path]:
    """Yields a temporary path beside `target` and moves it there only if the block succeeds.

    Readers see the old file or the whole new one, also after a kill. The temporary name ends as the
    target's does, since some writers choose their format by it. With `size`, in bytes at most,
    `DiskFullError` comes before the block runs: HDF5's library dies with a full disk.
    """
    target = Path(target)
    with full_disk_reported(target):
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
            os.umask(mask := os.umask(0))  # there is no other way to read it
            part.chmod(0o666 & ~mask)  # mkstemp's 0600 would hide results from a shared folder
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def full_disk_reported(target: Path) -> Iterator[None]:
    """Turns what writers raise on a full disk, or where they may not write, into a sentence."""
    try:
        yield
    except errors.DiskFullError:
        raise
    except OSError as error:
        name = short_path(target)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            finding = f"{name} can't be written ({error.strerror})"
            remedy = "Name a folder of yours with RUNS=..., or change its permissions."
            raise errors.SettingsError(f"{finding}. {remedy}") from error
        free = shutil.disk_usage(target.parent).free if target.parent.exists() else _NEARLY_FULL
        # NumPy tells only how much it could write.
        unexplained = error.errno is None and free < _NEARLY_FULL
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) and not unexplained:
            raise
        finding = f"The disk is full: no room for {name} ({free:,} bytes are free)"
        remedy = "Make room, or set RUNS to another disk, and run this again: it goes on from here."
        raise errors.DiskFullError(f"{finding}. {remedy}") from error


def write_text(target: Path | str, text: str) -> None:
    """Writes UTF-8 text, atomically."""
    with atomic_path(target) as part:
        part.write_text(text, encoding="utf-8")


def write_json(target: Path | str, content: Any) -> None:
    """Writes readable JSON atomically; NaN is refused, since other readers choke on it."""
    write_text(target, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def invalid(source: Path | str, finding: str, remedy: str = "") -> errors.StaleArtefactError:
    """The error for a file that can't be used: what was found in it, and what to do."""
    told = f"{short_path(Path(source))} can't be used: {finding}. {remedy}"
    return errors.StaleArtefactError(told.rstrip())


def read_text(source: Path | str, remedy: str = "") -> str:
    """Reads a UTF-8 file; a pipe can't hang it, and a huge file can't fill the memory.

    Raises `MissingStageError` if there is no such file, and `StaleArtefactError` if it can't be
    read or isn't text; `remedy`, what to do, ends the message.
    """
    source = Path(source)
    try:
        size = source.stat().st_size
        if not source.is_file():
            raise invalid(source, "it is not a regular file", remedy)
        if size > _MOST_BYTES:
            raise invalid(source, f"it has {size:,} bytes", remedy)
        return source.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        told = f"{short_path(source)} is missing. {remedy}".rstrip()
        raise errors.MissingStageError(told) from error
    except UnicodeDecodeError as error:
        raise invalid(source, f"it is not UTF-8 text ({error})", remedy) from error
    except OSError as error:
        raise invalid(source, f"it could not be read ({error.strerror})", remedy) from error


def read_json(source: Path | str, remedy: str = "", fields: Mapping[str, Any] | None = None) -> Any:
    """Reads JSON as `read_text` does, and has `check_fields` check it if `fields` are given."""
    text = read_text(source, remedy)
    try:
        content = json.loads(text)
        if "\\ud" in text.lower():  # an escaped half of a character, which can't be written again
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise invalid(source, f"it is not JSON ({error})", remedy) from error
    return content if fields is None else check_fields(content, fields, source, remedy)


def check_fields(
    content: Any, fields: Mapping[str, Any], source: Path | str, remedy: str = ""
) -> dict[str, Any]:
    """Returns `content`, read from `source`, if it is an object with these fields, or more.

    Each field has a type, a function that tells whether a value is right, or the value itself. A
    `bool` is no `int`; a `float` may be a whole number and must be finite. Raises
    `StaleArtefactError`, which names the field and its value.
    """
    if not isinstance(content, dict):
        raise invalid(source, f"it holds {json.dumps(content)[:60]}, not an object", remedy)
    for name, expected in fields.items():
        if name not in content:
            raise invalid(source, f"it has no {name!r}", remedy)
        value = content[name]
        if expected is float:
            right = type(value) in (int, float) and math.isfinite(value)
        elif isinstance(expected, type):
            right = type(value) is expected
        else:
            right = expected(value) if callable(expected) else value == expected
        if not right:
            wanted = expected.__name__ if isinstance(expected, type) else expected
            wanted = "" if callable(wanted) else f"; expected {wanted}"
            raise invalid(source, f"{name!r} is {json.dumps(value)[:60]}{wanted}", remedy)
    return content


def write_table(target: Path | str, table: pd.DataFrame) -> None:
    """Writes a CSV file atomically, for `read_table`; no text in it is a spreadsheet's formula."""
    with atomic_path(target) as part:
        table.replace(_FORMULA, r"'\1", regex=True).to_csv(part, index=False)


def read_table(
    source: Path | str, columns: Mapping[str, type] | Sequence[str], remedy: str = ""
) -> pd.DataFrame:
    """Reads a CSV file as `read_text` does, with these columns or more, and a whole last line.

    Give their types (str, int, float) where they are known: without, "007" becomes 7. Cells that
    are empty or say "none" are text.
    """
    text = read_text(source, remedy)
    try:
        types = columns if isinstance(columns, Mapping) else None
        table = pd.read_csv(io.StringIO(text), keep_default_na=False, dtype=types)
    except (ValueError, MemoryError, OverflowError) as error:  # pandas' own are ValueErrors
        raise invalid(source, f"it is no table ({error})", remedy) from error
    if lacking := [column for column in columns if column not in table.columns]:
        found = ", ".join(map(str, table.columns))[:200]
        raise invalid(source, f"it has no column {lacking[0]!r}, only {found}", remedy)
    if not text.endswith("\n"):
        raise invalid(source, "its last line is cut", remedy)
    return table.replace(_GUARDED, r"\1", regex=True)


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
    """Reads what `write_arrays` wrote, `most_bytes` at most; `StaleArtefactError` for all else."""
    try:
        if not Path(source).is_file():
            raise ValueError("not a regular file")
        with zipfile.ZipFile(source) as archive:
            sizes = {member.filename: member.file_size for member in archive.infolist()}
            if (size := sum(sizes.values())) > most_bytes:
                raise ValueError(f"{size:,} bytes, at most {most_bytes:,} are expected")
            arrays = {}
            for name in sizes:
                with archive.open(name) as content:
                    array = np.lib.format.read_array(content, allow_pickle=False)
                arrays[name.removesuffix(".npy")] = array
            return arrays
    except Exception as error:  # zipfile and NumPy raise nearly anything on damaged files
        reason = str(error) or type(error).__name__
        raise invalid(source, f"it is no whole .npz file ({reason})", remedy) from error


def record_files(made_by: str, *paths: Path) -> None:
    """Keeps the hashes of finished files in `stages.json` beside them, for `require` to compare."""
    for path in paths:
        files = _record(path.parent) | {path.name: {"made_by": made_by, "sha256": file_hash(path)}}
        write_json(path.parent / RECORD_FILE, {"format": 1, "files": files})


def require(path: Path, made_by: str, recorded: bool = False) -> Path:
    """Returns `path`, which `made_by` makes ("notebook 02 …"), if it is as `record_files` knows it.

    Raises:
        MissingStageError: it is not there.
        StaleArtefactError: it is not a regular file, or was changed since it was recorded; or it
            had to be `recorded`, and is not.
    """
    if not path.exists():
        remedy = f"Run {made_by} first: it makes this file."
        raise errors.MissingStageError(f"{short_path(path)} is missing. {remedy}")
    known = _record(path.parent).get(path.name)
    finding = None
    if not path.is_file():
        finding = "it is not a regular file"
    elif recorded and not known:
        finding = f"{RECORD_FILE} does not tell whether it is as {made_by} wrote it"
    elif known and file_hash(path) != known["sha256"]:
        finding = f"it was changed since {known['made_by']} wrote it"
    if finding:
        raise invalid(path, finding, f"Restore it, or move it away and run {made_by} again.")
    return path


def _record(folder: Path) -> dict[str, dict[str, str]]:
    file, remedy = folder / RECORD_FILE, "Delete it; the notebooks write it again."
    known = {"format": 1, "files": dict}
    files = read_json(file, remedy, known)["files"] if file.exists() else {}
    for entry in files.values():
        check_fields(entry, {"made_by": str, "sha256": str}, file, remedy)
    return files


def file_hash(path: Path | str, most: int = _MOST_HASHED) -> str:
    """SHA-256 of a file, 64 hexadecimal digits; `StaleArtefactError` above `most` bytes."""
    with Path(path).open("rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise invalid(path, f"it has {size:,} bytes")
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_if_there(path: Path) -> str | None:
    """`file_hash`, or None if there is no such file."""
    return file_hash(path) if path.exists() else None


def content_hash(content: Any) -> str:
    """SHA-256 of anything that JSON can hold, the same for the same content in any key order."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
