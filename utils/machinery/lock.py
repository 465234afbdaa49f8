"""A folder that one process at a time may write into.

`filelock` asks the operating system for the lock, which drops it when the process ends, however it
ends: what a kill, a crash or a reboot left behind keeps nobody out.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from utils.machinery.devices import is_first
from utils.machinery.errors import CaptionProjectError, FolderInUseError
from utils.machinery.files import full_disk_reported, read_json, write_json
from utils.settings import short_path

LOCK_FILE, NOTE_FILE = ".lock", ".lock.json"
PATIENCE = 3.0  # seconds: what a killed run started may need a moment to notice and end


@contextmanager
def only_one_in(folder: Path | str, doing: str) -> Iterator[None]:
    """Keeps all other processes from entering the same folder while the block runs.

    Of processes that work together (`utils.machinery.devices`) the first one takes the lock for
    all. `doing` is what the block does, for the message to others: "training a decoder".

    Raises:
        FolderInUseError: another process is in it, and still is after some seconds.
        SettingsError: the folder can't be written into.
    """
    if not is_first():
        yield
        return
    folder = Path(folder)
    lock, note = FileLock(folder / LOCK_FILE), folder / NOTE_FILE
    with full_disk_reported(folder / LOCK_FILE):
        folder.mkdir(parents=True, exist_ok=True)
    # A file system without locks, as some network drives, or a full one keeps nobody out.
    with suppress(OSError, NotImplementedError), full_disk_reported(folder / LOCK_FILE):
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            raise FolderInUseError(
                f"{short_path(folder)} is in use: {_holder(note)}. Wait for the other run, or end "
                "it (Ctrl+C, or shut down its kernel in JupyterLab), then run this again."
            ) from None
    holder = {"pid": os.getpid(), "host": platform.node(), "doing": doing}
    holder["since"] = datetime.now().astimezone().isoformat(" ", "seconds")
    with suppress(OSError):
        write_json(note, holder)
    try:
        yield
    finally:
        with suppress(OSError):
            note.unlink()
        lock.release()


def _holder(note: Path) -> str:
    try:
        known = read_json(note, "", dict.fromkeys(("host", "doing", "since"), str) | {"pid": int})
        return "process {pid} on {host} is {doing} there since {since}".format(**known)
    except CaptionProjectError:  # it has come or gone just now
        return "another process is at work there"
