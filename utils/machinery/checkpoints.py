"""What training keeps on disk: weights and figures of every epoch, and finished decoders.

After every epoch the weights are written first, then `history.csv`: its last row is the truth about
how far the training came, and what a killed one goes on from. Of several processes only the first
one writes, and the others wait.
"""

import io
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from keras import ops

from utils.captions import Vocabulary
from utils.decoder import DECODERS, build_decoder
from utils.machinery import files
from utils.machinery.devices import is_first, require_same, wait
from utils.machinery.errors import StaleArtefactError
from utils.machinery.lock import only_one_in
from utils.settings import short_path


@contextmanager
def training_folder(folder: Path, identity: dict, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Keeps a training's folder to this process, notes what it depends on, and yields its history.

    `SettingsError` if that is not the same for all processes, `StaleArtefactError` if damaged.
    """
    with only_one_in(folder, "training a decoder"):
        if is_first():
            for part in folder.glob(".part-*"):
                part.unlink()  # a kill left it, and with the lock nobody else can be at it
            files.write_json(folder / "training.json", identity)
        history = _read_history(folder, columns)
        require_same([identity, len(history)], f"the training {folder.name}")
        yield history


def _read_history(folder: Path, columns: Sequence[str]) -> pd.DataFrame:
    file, finding = folder / "history.csv", f"it is no history of {', '.join(columns)}"
    if not file.exists():
        return pd.DataFrame(columns=columns)
    text = files.read_text(file, _train_again(folder))
    try:
        # Python's float reads every digit, so that what is written again is what was read.
        table = pd.read_csv(io.StringIO(text), converters=dict.fromkeys(columns[1:], float))
        epochs = [*range(1, len(table) + 1)]
        if list(table) != list(columns) or table["epoch"].tolist() != epochs or text[-1] != "\n":
            raise ValueError("it is torn")
        if not np.isfinite(table.to_numpy("float64")).all():
            raise ValueError("not all numbers are finite")
    except ValueError as error:  # pandas' own are ValueErrors
        finding = f"{finding} ({str(error).strip()[:200]})"
        raise files.invalid(file, finding, _train_again(folder)) from error
    return table


def best_epoch_of(history: pd.DataFrame) -> int:
    """Returns the first epoch with the highest dev CIDEr."""
    return int(history["epoch"][history["dev_cider"].idxmax()])


def read_seconds(folder: Path) -> pd.DataFrame:
    """Reads how long each epoch took; not in the history, which is the same for the same seed."""
    file, columns = folder / "seconds.csv", ["epoch", "seconds"]
    if not file.exists():
        return pd.DataFrame(columns=columns)
    return files.read_table(file, columns, "Delete it: it only says how long the epochs took.")


def seconds_per_epoch(folder: Path) -> float:
    """Median of the seconds that an epoch took."""
    return float(read_seconds(folder)["seconds"].median())


def write_epoch(
    model: keras.Model, folder: Path, history: pd.DataFrame, row: dict, seconds: float
) -> pd.DataFrame:
    """Writes what an epoch came to: weights, then seconds, then the history, which is returned."""
    epoch, timed = row["epoch"], read_seconds(folder)
    timed = timed[timed["epoch"] < epoch]  # a kill can come between these files and the history
    new = {"epoch": epoch, "seconds": round(seconds, 2)}
    history = pd.DataFrame([*history.to_dict("records"), row])
    if is_first():
        with files.atomic_path(weights_file(folder, epoch), size_on_disk(model)) as part:
            model.save_weights(part)
        timed = pd.DataFrame([*timed.to_dict("records"), new])
        files.write_table(folder / "seconds.csv", timed)
        files.write_table(folder / "history.csv", history)
        keep = {weights_file(folder, one) for one in (epoch, best_epoch_of(history))}
        for file in set(folder.glob("epoch-*.weights.h5")) - keep:
            file.unlink()
    else:  # Keras exchanges weights between the processes as it writes them, so all have to
        with tempfile.TemporaryDirectory() as elsewhere:
            model.save_weights(weights_file(Path(elsewhere), epoch))
    wait()  # what comes next may read these files
    return history


def weights_file(folder: Path, epoch: int) -> Path:
    """Where the weights after an epoch lie; kept are those of the best and of the last one."""
    return folder / f"epoch-{epoch:03}.weights.h5"


def load_epoch(model: keras.Model, folder: Path, epoch: int) -> None:
    """Gives a model its weights after an epoch; `StaleArtefactError` if missing or damaged."""
    file, finding = weights_file(folder, epoch), "it holds weights that are no finite numbers"
    try:
        if file.exists() and not file.is_file():
            raise OSError("not a regular file")
        model.load_weights(file)
        if is_finite(model):
            return
    except (OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError) as error:
        finding = f"it holds no weights of this decoder ({str(error).strip()[:100]})"
    remedy = _train_again(folder)
    if earlier := [one for one in range(1, epoch) if weights_file(folder, one).exists()]:
        remedy += f" Or, to go on from epoch {earlier[-1]}, delete all later rows of history.csv."
    raise files.invalid(file, finding if file.exists() else "it is missing", remedy)


def is_finite(model: keras.Model) -> bool:
    """Whether all weights of a model are numbers, and finite."""
    return all(np.isfinite(ops.convert_to_numpy(one)).all() for one in model.weights)


def size_on_disk(model: keras.Model) -> int:
    """Bytes that a model's weights take with those of its optimizer, rather too many."""
    optimizer = getattr(model, "optimizer", None)
    variables = model.variables + (optimizer.variables if optimizer else [])
    return sum(4 * math.prod(variable.shape) + 4096 for variable in variables) + (1 << 16)


def _train_again(folder: Path) -> str:
    return f"Delete the folder {short_path(folder)} and train again."


# Finished decoders

DECODER_FORMAT = 1
_MOST_BYTES = 512 << 20  # of a decoder's arrays together; ours have 10 to 60 MB
_MOST_UNITS = 4096  # of a layer
_MOST_WORDS = 1_000_000
_REMEDY = "Train again with notebook 04, or copy it again."


def save_decoder(
    decoder: keras.Model, file: Path, vocabulary: Vocabulary, half: bool = False
) -> None:
    """Writes a decoder as one `.npz` file, atomically: its settings and its weights, and no code.

    The same decoder gives the same bytes. `numpy.load` reads the file too: "settings" is JSON text,
    every other array is a weight, named after its layer and its place there ("lstm.0"). `half`
    keeps matrices as float16. Vectors stay as they are: they are few, and the variance of a feature
    can be very small.
    """
    settings = {"format": DECODER_FORMAT, **asdict(decoder.decoder)}
    settings["vocabulary"] = files.content_hash(vocabulary.tokens)
    arrays = {"settings": np.array(json.dumps(settings))}
    for name, variable in _named_weights(decoder).items():
        array = ops.convert_to_numpy(variable)
        halve = half and array.ndim > 1 and array.dtype == np.float32
        arrays[name] = array.astype(np.float16) if halve else array
    files.write_arrays(file, arrays)


def load_decoder(file: Path, vocabulary: Vocabulary) -> keras.Model:
    """Builds the decoder that `save_decoder` wrote and gives it its weights.

    The file names settings, and the code here builds the layers: it can neither bring code along
    nor ask for more than `utils.decoder` has. `MissingStageError` if there is no such file,
    `StaleArtefactError` if it is no whole one, or its decoder was trained with other words.
    """
    invalid = partial(files.invalid, file, remedy=_REMEDY)
    file = files.require(file, "notebook 04_train_captioner")
    arrays = files.read_arrays(file, _MOST_BYTES, _REMEDY)
    settings = _decoder_settings(arrays.pop("settings", None), file)
    size, shape = settings["vocabulary_size"], settings["feature_shape"]
    if size != len(vocabulary) or settings["vocabulary"] != files.content_hash(vocabulary.tokens):
        raise StaleArtefactError(
            f"{file} was trained with another vocabulary, of {size:,} words, than the one at hand, "
            f"of {len(vocabulary):,}. Run notebook 04 again, or copy both files from one run."
        )
    try:
        decoder = build_decoder(settings["name"], size, shape, **settings["options"])
    except (TypeError, ValueError, ArithmeticError) as error:
        raise invalid(f"its settings don't fit together ({error})") from error
    weights = _named_weights(decoder)
    if different := ", ".join(sorted(weights.keys() ^ arrays.keys())):
        raise invalid(f"its weights aren't those of its settings ({different})")
    for name, variable in weights.items():
        array, expected = arrays[name], tuple(variable.shape)
        if array.dtype.kind not in "fiu" or array.shape != expected or not np.isfinite(array).all():
            finding = f"{name} has shape {array.shape} and type {array.dtype}"
            raise invalid(f"{finding}, expected {expected} and finite numbers")
        variable.assign(array.astype("float32"))
    decoder.get_layer("standardise").finalize_state()  # which setting weights alone doesn't do
    return decoder


def _named_weights(decoder: keras.Model) -> dict:
    return {
        f"{layer.name}.{place}": variable
        for layer in decoder.layers
        for place, variable in enumerate(layer.weights)
    }


def _decoder_settings(text: np.ndarray | None, file: Path) -> dict:
    """Reads and checks the settings, so that nothing of an unreasonable size is ever built."""
    if text is None or text.dtype.kind != "U" or text.ndim:
        raise files.invalid(file, 'it has no text "settings"', _REMEDY)
    try:
        settings = json.loads(str(text))
    except (ValueError, RecursionError) as error:
        raise files.invalid(file, f"its settings are not JSON ({error})", _REMEDY) from error

    def is_size(value, most=_MOST_UNITS):
        return type(value) is int and 0 < value <= most

    def is_option(name, value):
        if "dropout" in name:
            return type(value) in (int, float) and 0 <= value < 1
        return type(value) is bool or is_size(value)

    fields = {
        "format": DECODER_FORMAT,
        "name": lambda value: isinstance(value, str) and value in DECODERS,
        "vocabulary_size": lambda value: is_size(value, _MOST_WORDS),
        "feature_shape": lambda value: isinstance(value, list) and all(map(is_size, value)),
        "options": lambda value: (
            isinstance(value, dict) and all(map(is_option, value, value.values()))
        ),
        "vocabulary": str,
    }
    return files.check_fields(settings, fields, file, _REMEDY)
