"""Two runs at once, and a disk that fills up. What kills do is in `report/kill_resume.json`."""

import errno
import os
import re
import signal
from pathlib import Path

from tests.robustness import row
from tests.test_lock import Holder
from tests.test_summary import METRICS
from tools.summary import summary
from utils.machinery import lock
from utils.machinery.errors import CaptionProjectError
from utils.machinery.files import atomic_path, full_disk_reported, record_files, write_json
from utils.machinery.lock import LOCK_FILE, only_one_in
from utils.settings import Settings


def enter(folder: Path) -> str:
    """Goes into a folder at once or not at all; who is in it is told without numbers and names."""
    patience, lock.PATIENCE = lock.PATIENCE, 0.1
    try:
        with only_one_in(folder, "running the notebooks"):
            return "let in"
    except CaptionProjectError as error:
        told = re.sub(r"process \d+ on \S+ is", "process <number> on <machine> is", str(error))
        return "refused: " + re.sub(r"since \S+ \S+\. ", "since <time>. ", told)
    finally:
        lock.PATIENCE = patience


@row("Two runs at once", "another process is at work in the folder")
def _(folder: Path) -> str:
    with Holder(folder):
        return enter(folder)


@row("Two runs at once", "the process that was at work there was killed")
def _(folder: Path) -> str:
    with Holder(folder) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        return enter(folder)


@row("Two runs at once", "a note that is torn", '{"pi')
@row("Two runs at once", "a note from another machine", '{"pid": 1, "host": "elsewhere"}')
def _(folder: Path, note: str) -> str:
    (folder / LOCK_FILE).write_text(note)
    return enter(folder)


@row("Full disk", "there is no room for a checkpoint")
def _(folder: Path) -> str:
    kept = folder / "epoch-001.weights.h5"
    kept.write_text("whole")
    try:
        with atomic_path(kept, size=1 << 60):
            raise AssertionError("HDF5 must not begin")
    except CaptionProjectError as error:
        assert kept.read_text() == "whole"
        return "refused, the old one is whole: " + without_bytes(error)


@row("Full disk", "the disk fills up while features are written")
def _(folder: Path) -> str:
    try:
        with full_disk_reported(folder / "spatial.npy"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except CaptionProjectError as error:
        return "refused: " + without_bytes(error)


def without_bytes(error: Exception) -> str:
    return re.sub(r"[\d,]+ bytes are free", "<some> bytes are free", str(error))


@row("Results", "scores edited by hand", b'{"scores": []}')
@row("Results", "scores cut in the middle", b'{"scores": [')
@row("Results", "scores that are missing", None)
def _(folder: Path, content: bytes | None) -> str:
    settings = Settings(runs=folder)
    if content is not None:
        write_json(settings.metrics_file, METRICS)
        record_files("notebook 05_evaluate_captions", settings.metrics_file)
        settings.metrics_file.write_bytes(content)
    return summary(settings)
