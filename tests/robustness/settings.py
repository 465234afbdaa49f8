"""Settings that mean nothing, or something other than what is on disk."""

from pathlib import Path

from tests.robustness import row
from utils.settings import Settings


@row("Settings", "ENCODER leads out of the folder of runs", {"ENCODER": "../../../outside"})
@row("Settings", "DECODER is unknown", {"DECODER": "transformer"})
@row("Settings", "DATASET is unknown", {"DATASET": "coco"})
@row("Settings", "DATASET is a folder, and which one is not said", {"DATASET": "folder"})
@row("Settings", "SEED is negative", {"SEED": "-1"})
@row("Settings", "SEED is larger than 32 bits", {"SEED": "4294967296"})
@row("Settings", "EPOCHS is 0", {"EPOCHS": "0"})
@row("Settings", "EPOCHS is no number", {"EPOCHS": "many"})
@row("Settings", "LIMIT leaves a split empty", {"LIMIT": "3"})
@row("Settings", "WEIGHTS is a folder", {"WEIGHTS": "."})
@row("Settings", "WEIGHTS is a file that is not there", {"WEIGHTS": "gone.weights.h5"})
@row("Settings", "RUNS is a file", {"RUNS": "file"})
@row("Settings", "RUNS is below a file", {"RUNS": "file/runs"})
@row("Settings", "RUNS is a folder of the system", {"RUNS": "/proc/runs"})
@row("Settings", "KERAS_BACKEND is unknown", {"KERAS_BACKEND": "theano"})
@row("Settings", "DEVICES do not divide among PROCESSES", {"DEVICES": "3", "PROCESSES": "2"})
@row("Settings", "ADDRESS lacks its port", {"PROCESSES": "2", "DEVICES": "2", "ADDRESS": "host"})
def _(folder: Path, environment: dict[str, str]) -> str:
    (folder / "file").touch()
    places = {"RUNS", "WEIGHTS"} & set(environment)
    chosen = environment | {name: str(folder / environment[name]) for name in places}
    return str(Settings.from_environment(chosen))


@row("Settings", "another EPOCHS or SEED than the run on disk", {"epochs": 2}, {"seed": 7})
def _(folder: Path, *changes: dict) -> str:
    run = Settings(runs=folder)
    others = [Settings(runs=folder, **change) for change in changes]
    assert len({one.run_folder for one in (run, *others)}) == len(changes) + 1
    assert {one.prepared_folder for one in others} == {run.prepared_folder}
    return "goes to folders of its own: " + ", ".join(one.run_name for one in others)
