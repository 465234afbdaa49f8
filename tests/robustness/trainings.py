"""Files of a training that a kill, a full disk or a hand left in a bad state."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from unittest.mock import patch

import h5py
import keras
import pandas as pd

from tests.robustness import row
from tests.test_training import toy
from utils.machinery.checkpoints import best_epoch_of, weights_file
from utils.machinery.errors import StaleArtefactError


@cache
def _made_once() -> Path:
    folder = Path(mkdtemp())
    toy(folder, 12, 6, epochs=2)
    return folder


def go_on(folder: Path, name: str, change: Callable[[Path], object]) -> str:
    """Goes on with a training of two epochs after `change` to its file."""
    shutil.copytree(_made_once(), folder / "training")
    (own,) = (folder / "training").iterdir()
    best = best_epoch_of(pd.read_csv(own / "history.csv"))
    change(weights_file(own, best) if name == "weights" else own / name)
    with patch.object(keras.Model, "fit", side_effect=StaleArtefactError("trained again")):
        result = toy(folder / "training", 12, 6, epochs=2)
    return f"taken as it is: {len(result.history)} epochs"


def poison(file: Path) -> None:
    """Makes the first weight of a file no number."""

    def visit(_, item) -> bool | None:
        if isinstance(item, h5py.Dataset) and item.size and item.dtype.kind == "f":
            item[...] = item[...] * float("nan")
            return True
        return None

    with h5py.File(file, "r+") as opened:
        assert opened.visititems(visit)


@row("Training", "finished, and called again", "history.csv", lambda file: None)
@row("Training", "an empty history", "history.csv", lambda file: file.write_bytes(b""))
@row(
    "Training",
    "a history cut in the middle of a number",
    "history.csv",
    lambda file: file.write_bytes(file.read_bytes()[:-9]),
)
@row(
    "Training",
    "a history whose epochs are not in their order",
    "history.csv",
    lambda file: file.write_text(file.read_text().replace("\n2,", "\n7,")),
)
@row(
    "Training",
    "a history with a loss that is no number",
    "history.csv",
    lambda file: file.write_text(file.read_text().replace("\n2,", "\n2,nan,")),
)
@row("Training", "the weights of the best epoch are missing", "weights", Path.unlink)
@row(
    "Training",
    "the weights of the best epoch are cut short",
    "weights",
    lambda file: file.write_bytes(file.read_bytes()[:9000]),
)
@row("Training", "weights that are not numbers", "weights", poison)
def _(folder: Path, name: str, change: Callable[[Path], object]) -> str:
    return go_on(folder, name, change)
