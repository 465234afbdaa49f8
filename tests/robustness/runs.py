"""Two runs at once, and a disk that fills up. What kills do is in `report/kill_resume.json`."""

import contextlib
import errno
import io
import os
import re
import signal
from pathlib import Path
from unittest.mock import patch

import nbformat

from tests.robustness import row
from tests.test_lock import Holder
from tests.test_summary import METRICS
from tools import run_notebooks
from tools.summary import summary
from utils.machinery import lock
from utils.machinery.errors import CaptionProjectError
from utils.machinery.files import (
    RECORD_FILE,
    atomic_path,
    full_disk_reported,
    record_files,
    require,
    write_json,
)
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


@row("Results", "scores edited by hand, and the record of them emptied", {"format": 1, "files": {}})
@row("Results", "scores edited by hand, and the record of them deleted", None)
def _(folder: Path, record: dict | None) -> str:
    settings = Settings(runs=folder)
    write_json(settings.metrics_file, METRICS)
    if record is not None:
        write_json(settings.run_folder / RECORD_FILE, record)
    return summary(settings)


@row("Results", "evaluated with another EPOCHS than trained with", {"epochs": 30})
@row("Results", "evaluated with another SEED than trained with", {"seed": 7})
def _(folder: Path, change: dict) -> str:
    write_json(Settings(runs=folder).training_file, {"ours": {"epochs": 20}})
    other = Settings(runs=folder, **change)
    return str(require(other.training_file, "notebook 04_train_captioner"))


def run_notebook_that_scores(folder: Path) -> str:
    """Brings a notebook that writes scores up to date, without a kernel; returns what is told."""
    settings = Settings(runs=folder / "runs")

    def execute(*_) -> None:
        write_json(settings.metrics_file, METRICS)

    with (
        patch.object(run_notebooks, "_execute", execute),
        contextlib.redirect_stdout(io.StringIO()) as shown,
    ):
        run_notebooks.run_all(settings, folder)
    return re.sub(r"\d+ s$", "<some> s", shown.getvalue().strip().splitlines()[0])


@row("Results", "scores edited, then `make run`", "metrics_file", b'{"scores": []}')
@row("Results", "scores deleted, then `make run`", "metrics_file", None)
@row("Results", "the runner's record cut, then `make run`", "completed_file", b'{"format')
def _(folder: Path, name: str, content: bytes | None) -> str:
    file = getattr(Settings(runs=folder / "runs"), name)
    cells = [nbformat.v4.new_code_cell("score()")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "05_score.ipynb")
    run_notebook_that_scores(folder)
    whole = file.read_bytes()
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    told = run_notebook_that_scores(folder)
    assert file.read_bytes() == whole
    return told


@row("Results", "a notebook that is no notebook", ())
@row("Results", "`--until` another notebook than there is", ("--until", "7"))
def _(folder: Path, arguments: tuple[str, ...]) -> str:
    (folder / "01_explore.ipynb").write_text("<<<<<<< HEAD")
    until = arguments[1] if arguments else None
    run_notebooks.run_all(Settings(runs=folder / "runs"), folder, until=until)
    return "run"
