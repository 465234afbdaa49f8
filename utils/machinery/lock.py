"""A folder that one process at a time may write into.

Two runs that write into the same folder would tear each other's files. The operating system holds
the lock for the process and drops it when the process ends, however it ends; so a lock that a kill,
a crash or a reboot left behind keeps nobody out.
"""

import errno
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from io import FileIO
from pathlib import Path

from utils.machinery.devices import is_first
from utils.machinery.errors import FolderInUseError
from utils.settings import short_path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

LOCK_FILE = ".lock"
PATIENCE = 3.0  # seconds: what a killed run started may need a moment to notice and end
_HELD = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}  # what a lock that somebody has is refused with
_FAR_BYTE = 1 << 30  # Windows lets nobody read a locked byte, so it is one behind the note


@contextmanager
def only_one_in(folder: Path | str, doing: str) -> Iterator[None]:
    """Keeps all other processes from entering the same folder while the block runs.

    The lock is on a hidden file in the folder, which also notes who has it. A file system that has
    no locks, as some network drives, guards nothing and keeps nobody out. Of processes that work
    together (`utils.machinery.devices`) the first one takes it for all.

    Args:
        folder: is made if it isn't there.
        doing: what the block does, for the message to others ("training a decoder").

    Raises:
        FolderInUseError: another process is in it, and still is after some seconds.
    """
    if not is_first():
        yield
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a+b", buffering=0) as file:
        patient_until = time.monotonic() + PATIENCE
        while not _take(file):
            if time.monotonic() > patient_until:
                raise FolderInUseError(
                    f"{short_path(folder)} is in use: {_holder(file)}. Two runs at once would "
                    "spoil each other's files, so this one has not begun. Wait for the other one, "
                    "or end it (Ctrl+C, or shut down its kernel in JupyterLab), then run this "
                    "again."
                )
            time.sleep(0.05)
        _note(file, doing)
        try:
            yield
        finally:
            file.truncate(0)


def _take(file: FileIO) -> bool:
    """Takes the lock, which closing the file gives back; False if another process has it."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            file.seek(_FAR_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        return error.errno not in _HELD
    return True


def _note(file: FileIO, doing: str) -> None:
    note = {
        "pid": os.getpid(),
        "host": platform.node(),
        "since": datetime.now().astimezone().isoformat(" ", "seconds"),
        "doing": doing,
    }
    with suppress(OSError):  # a full disk: whoever has the lock will say so of its own files
        file.truncate(0)
        file.write(json.dumps(note).encode())


def _holder(file: FileIO) -> str:
    try:
        file.seek(0)
        note = json.loads(file.read())
        return "process {pid} on {host} is {doing} there since {since}".format(**note)
    except (OSError, ValueError, KeyError):
        return "another process is at work there"
