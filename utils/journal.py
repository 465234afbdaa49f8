"""The journal of a training: what every epoch came to, on disk before the next one begins.

After every epoch the weights are written first, then `history.csv`: its last row is the truth about
how far the training came, and what a killed one goes on from. Of several processes only the first
one writes, and the others wait.
"""

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import keras
import pandas as pd
from keras import ops
from tqdm import tqdm

from utils.devices import from_first, is_first, wait
from utils.files import atomic_path, write_json
from utils.lock import only_one_in
from utils.metrics import Cider, tokenize
from utils.search import Searcher, captions_of


@contextmanager
def training_folder(folder: Path, identity: dict) -> Iterator[None]:
    """Keeps a training's folder to this process, and notes in it what the training depends on.

    Raises:
        FolderInUseError: another process trains there.
    """
    with only_one_in(folder, "training a decoder"):
        if is_first():
            for part in folder.glob(".part-*"):
                part.unlink()  # a kill left it, and with the lock nobody else can be at it
            write_json(folder / "training.json", identity)
        yield


def best_epoch_of(history: pd.DataFrame) -> int:
    """Returns the first epoch with the highest dev CIDEr."""
    return int(history["epoch"][history["dev_cider"].idxmax()])


def read_history(folder: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Reads a training's history; empty if it has not finished an epoch."""
    file = folder / "history.csv"
    if not file.exists():
        return pd.DataFrame(columns=columns)
    # Python's float reads every digit, so that what is written again is what was read.
    return pd.read_csv(file, converters=dict.fromkeys(columns[1:], float))


def read_seconds(folder: Path) -> pd.DataFrame:
    """Reads how long each epoch took; not in the history, which is the same for the same seed."""
    file = folder / "seconds.csv"
    return pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["epoch", "seconds"])


def weights_file(folder: Path, epoch: int) -> Path:
    """Where the weights after an epoch lie; kept are those of the best and of the last one."""
    return folder / f"epoch-{epoch:03}.weights.h5"


def size_on_disk(model: keras.Model) -> int:
    """Bytes that a model's weights take with those of its optimizer, rather too many."""
    variables = list(model.variables)
    if getattr(model, "optimizer", None) is not None:
        variables += model.optimizer.variables
    return sum(4 * math.prod(variable.shape) + 4096 for variable in variables) + (1 << 16)


class Journal(keras.callbacks.Callback):
    """Writes every epoch to disk, scores dev, and draws the progress bar.

    Args:
        folder: of the training.
        history: what it came to so far; grows by a row an epoch.
        measure: `logs -> {column: figure}`, what the history shall hold beside the epoch, the dev
            CIDEr and the learning rate.
        features: of dev, as the decoder reads them.
        references: of dev, raw captions by photograph.
        vocabulary: the decoder's.
        steps: batches an epoch.
        seed: of dropout.
    """

    def __init__(self, folder, history, measure, features, references, vocabulary, steps, seed):
        super().__init__()
        self.folder = folder
        self.history = history
        self.measure = measure
        self.features = features
        self.vocabulary = vocabulary
        self.steps = steps
        self.seed = seed
        self.cider = Cider([[tokenize(text) for text in group] for group in references])

    def on_train_begin(self, logs=None):
        self.searcher = Searcher(self.decoder(), beam=1)
        epochs = self.params["epochs"]
        self.bar = tqdm(
            total=epochs * self.steps,
            initial=len(self.history) * self.steps,
            desc=self.folder.name.rsplit("-", 1)[0],
            unit="batch",
            mininterval=1,
            disable=not is_first(),
        )

    def on_train_end(self, logs=None):
        self.bar.close()

    def on_epoch_begin(self, epoch, logs=None):
        self.begun = time.monotonic()
        # Dropout would go on from its first seed after a resume; so every epoch has its own seeds.
        for place, layer in enumerate(self.decoder().layers):
            generator = getattr(layer, "seed_generator", None)
            if generator is not None:
                generator.state.assign([self.seed + place, epoch << 16])

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()

    def on_epoch_end(self, epoch, logs=None):
        row = {
            "epoch": epoch + 1,
            **self.measure(logs),
            "dev_cider": from_first(self.score_dev()),  # so that all find the same epoch best
            "learning_rate": float(ops.convert_to_numpy(self.model.optimizer.learning_rate)),
        }
        seconds = {"epoch": row["epoch"], "seconds": round(time.monotonic() - self.begun, 2)}
        self._save_weights(weights_file(self.folder, row["epoch"]))
        earlier = read_seconds(self.folder)
        earlier = earlier[earlier["epoch"] < row["epoch"]]  # a kill can come before the history
        _write_rows(self.folder / "seconds.csv", earlier, seconds)
        self.history = _write_rows(self.folder / "history.csv", self.history, row)
        if is_first():
            self._remove_weights_except({row["epoch"], best_epoch_of(self.history)})
        wait()  # what comes next may read these files
        shown = ", ".join(
            f"{name.replace('_', ' ')} {row[name]:.3g}"
            for name in row
            if name not in ("epoch", "learning_rate")
        )
        self.bar.set_postfix_str(f"epoch {row['epoch']}: {shown}")

    def decoder(self) -> keras.Model:
        """The decoder in what is trained: all of it, or a part."""
        return self.model

    def dev_features(self):
        """The features of dev as the decoder reads them now."""
        return self.features

    def score_dev(self) -> float:
        """CIDEr of greedy captions of dev."""
        captions = captions_of(self.searcher.best(self.dev_features()), self.vocabulary)
        return float(self.cider.scores([tokenize(text) for text in captions]).mean())

    def _save_weights(self, file: Path) -> None:
        if is_first():
            with atomic_path(file, size_on_disk(self.model)) as part:
                self.model.save_weights(part)
        else:  # Keras exchanges weights between the processes as it writes them, so all have to
            with tempfile.TemporaryDirectory() as folder:
                self.model.save_weights(Path(folder) / file.name)

    def _remove_weights_except(self, epochs: set[int]) -> None:
        keep = {weights_file(self.folder, epoch) for epoch in epochs}
        for file in self.folder.glob("epoch-*.weights.h5"):
            if file not in keep:
                file.unlink()


def _write_rows(file: Path, table: pd.DataFrame, row: dict) -> pd.DataFrame:
    """Writes `table` with one more row, in the first process, and returns it."""
    rows = [table] if len(table) else []  # pandas warns about joining an empty table
    table = pd.concat([*rows, pd.DataFrame([row])], ignore_index=True)
    if is_first():
        with atomic_path(file) as part:
            table.to_csv(part, index=False)
    return table
