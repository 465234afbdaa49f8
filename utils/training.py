"""Training: recipes, the loss over real tokens, and `model.fit` that can be killed at any moment.

A training lies in a folder of its own, named after everything that it depends on, so another
recipe, vocabulary or number of epochs never mixes with it. `Journal` keeps every epoch there.
"""

import hashlib
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from keras import ops
from tqdm import tqdm

from utils.batches import CaptionSet
from utils.captions import PAD, Vocabulary
from utils.decoder import build_decoder, decoder_kind, standardise
from utils.machinery.checkpoints import (
    best_epoch_of,
    read_history,
    read_seconds,
    size_on_disk,
    training_folder,
    weights_file,
)
from utils.machinery.devices import agree, from_first, is_first, keep_memory, share, spread, wait
from utils.machinery.files import atomic_path, content_hash
from utils.metrics import Cider, tokenize
from utils.search import Searcher, captions_of

HISTORY_COLUMNS = ["epoch", "loss", "dev_loss", "dev_cider", "learning_rate"]


@dataclass(frozen=True)
class Recipe:
    """How a decoder is trained.

    Attributes:
        name: in history, metrics and folder names.
        cleaning: a key of `utils.captions.CLEANINGS`.
        min_count: words seen less often in the training split are unknown.
        epochs: how often every caption is seen; the setting EPOCHS can cut it short.
        decoder_options: keyword arguments of the decoder's build function.
        batch_size: captions a step.
        learning_rate: at the start.
        cosine: whether the learning rate falls to zero along a cosine, or stays.
        weight_decay: of AdamW; 0 is plain Adam.
        clip_norm: largest norm of one weight's gradient, None for any.
        label_smoothing: share of the target that is spread evenly over the vocabulary.
        mirrored: whether half of the photographs are seen as in a mirror.
        by_photo: whether the captions of a photograph come together (`CaptionBatches`).
    """

    name: str
    cleaning: str
    min_count: int
    epochs: int = 20
    decoder_options: dict = field(default_factory=dict)
    batch_size: int = 128
    learning_rate: float = 1e-3
    cosine: bool = False
    weight_decay: float = 0.0
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    mirrored: bool = False
    by_photo: bool = False


ORIGINAL = Recipe("original", cleaning="original", min_count=1)
OURS = Recipe(
    "ours",
    cleaning="full",
    min_count=4,
    epochs=15,
    decoder_options={"units": 512, "output_dropout": 0.5, "tied": True},
    cosine=True,
    weight_decay=1e-2,
    clip_norm=5.0,
    label_smoothing=0.1,
    mirrored=True,
)
# The sample has a fifteenth of Flickr8k's captions: a smaller decoder, and smaller batches so that
# it makes enough steps. A second pass of the CNN would double a newcomer's wait.
OURS_ON_SAMPLE = replace(
    OURS,
    epochs=20,
    decoder_options={"embedding_units": 128, "units": 256, "output_dropout": 0.5},
    batch_size=32,
    learning_rate=2e-3,
    mirrored=False,
)


# Of the decoders in notebook 06 that are there for comparison only; more would cost an hour.
COMPARED_EPOCHS = {"sample": 20, "flickr8k": 8}


def our_recipe(dataset: str, decoder: str = "merge") -> Recipe:
    """Returns our recipe in the size that fits the data set, "sample" or "flickr8k".

    A decoder that looks at places computes much of each photograph, once for all its captions.
    """
    recipe = OURS_ON_SAMPLE if dataset == "sample" else OURS
    return replace(recipe, by_photo=decoder_kind(decoder).features == "spatial")


def recipe_steps(dataset: str, epochs: int = 2) -> list[tuple[str, Recipe]]:
    """Lists the steps from the original recipe to ours, each with all steps before it.

    All are short trainings of the merge decoder, since each further epoch costs every step about a
    minute on Flickr8k; what keeps a decoder from learning by heart pays late, and shows little.

    Returns:
        Pairs of what a step changes, and the recipe as it is then.
    """
    ours = our_recipe(dataset)
    options = ours.decoder_options
    sizes = {name: options[name] for name in ("units", "embedding_units") if name in options}
    changes = [
        ("the original recipe", {}),
        ("articles and digits kept", {"cleaning": ours.cleaning}),
        (f"words seen fewer than {ours.min_count} times unknown", {"min_count": ours.min_count}),
        (
            "our sizes, dropout before the logits, label smoothing, cosine, weight decay",
            {
                "decoder_options": {**sizes, "output_dropout": 0.5},
                "batch_size": ours.batch_size,
                "learning_rate": ours.learning_rate,
                "cosine": True,
                "weight_decay": ours.weight_decay,
                "clip_norm": ours.clip_norm,
                "label_smoothing": ours.label_smoothing,
            },
        ),
        ("embedding and logits share weights", {"decoder_options": options}),
        ("mirrored photographs", {"mirrored": ours.mirrored}),
    ]
    steps, recipe = [], replace(ORIGINAL, epochs=epochs)
    for number, (text, change) in enumerate(changes):
        before, recipe = recipe, replace(recipe, name=f"step_{number}", **change)
        if number == 0 or replace(before, name=recipe.name) != recipe:
            steps.append((text, recipe))
    return steps


@keras.saving.register_keras_serializable("photograph_captions")
class CaptionLoss(keras.losses.Loss):
    """Mean cross-entropy over the real target tokens of a batch, in nats; padding counts nothing.

    Targets are `(n, captions, length)` int with PAD behind the END, predictions are logits
    `(n, captions, length, vocabulary)`. With `label_smoothing` a share of the target is spread
    evenly over the vocabulary (Szegedy et al. 2016).
    """

    def __init__(self, label_smoothing: float = 0.0, name: str = "caption_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        """Returns one number, the batch's mean."""
        real = ops.cast(ops.not_equal(y_true, PAD), "float32")
        return ops.sum(token_losses(y_true, y_pred, self.label_smoothing) * real) / ops.sum(real)

    def get_config(self):
        """Returns what makes the same loss again."""
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


def token_losses(targets, logits, label_smoothing: float = 0.0):
    """Cross-entropy at every place of the captions, float32, padding included.

    A loss ends at 87 nats, where float32 ends. The gradient, probabilities minus target, is written
    out: the one that TensorFlow derives adds every target into zeros of the logits' size on a
    single core, which is a quarter of a training step.
    """
    targets = ops.cast(targets, "int32")  # Keras hands a loss floats
    vocabulary_size = logits.shape[-1]

    @ops.custom_gradient
    def losses_of(logits):
        probabilities = ops.softmax(logits, axis=-1)
        right = _at(targets, probabilities)
        losses = -ops.log(ops.maximum(right, 1.2e-38))
        if label_smoothing:
            losses += label_smoothing * (_at(targets, logits) - ops.mean(logits, axis=-1))

        def gradient(*args, upstream=None):
            weights = args[0] if upstream is None else upstream
            evenly = label_smoothing / vocabulary_size
            slopes = (probabilities - evenly if evenly else probabilities) * weights[..., None]
            at_targets = (right - evenly - (1 - label_smoothing)) * weights
            rows = ops.reshape(slopes, (-1, vocabulary_size))
            numbers = ops.reshape(targets, (-1,))
            places = ops.stack([ops.arange(ops.shape(numbers)[0]), numbers], axis=1)
            rows = ops.scatter_update(rows, places, ops.reshape(at_targets, (-1,)))
            return ops.reshape(rows, ops.shape(slopes))

        return losses, gradient

    return losses_of(ops.cast(logits, "float32"))


def _at(targets, values):
    """Of every row of `values` the one at its target."""
    return ops.squeeze(ops.take_along_axis(values, targets[..., None], axis=-1), -1)


@keras.saving.register_keras_serializable("photograph_captions")
class TokenCrossEntropy(keras.metrics.Mean):
    """Mean cross-entropy per real target token of an epoch, in nats, without label smoothing.

    The loss that Keras reports is a mean of batch means, in which a token of a small batch counts
    more; here every token counts the same, whatever the batches.
    """

    def __init__(self, name: str = "token_loss", **kwargs):
        super().__init__(name=name, **kwargs)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch; `sample_weight` is ignored, as every real token weighs the same."""
        real = ops.cast(ops.not_equal(y_true, PAD), "float32")
        super().update_state(token_losses(y_true, y_pred), sample_weight=real)


@dataclass(frozen=True)
class Training:
    """A finished training.

    Attributes:
        model: the decoder as it was after the best epoch.
        history: one row an epoch; columns as `HISTORY_COLUMNS`, losses in nats per token.
        best_epoch: the epoch with the highest dev CIDEr, counted from 1.
        folder: where history and weights lie.
    """

    model: keras.Model
    history: pd.DataFrame
    best_epoch: int
    folder: Path


@spread()
def train(
    recipe: Recipe,
    decoder: str,
    vocabulary: Vocabulary,
    training: CaptionSet,
    dev: CaptionSet,
    folder: Path,
    epochs: int | None = None,
    seed: int = 42,
) -> Training:
    """Trains a decoder, or goes on where an earlier call with the same arguments was killed.

    On DEVICES devices, if that is set; see `utils.machinery.devices`.

    Args:
        recipe: how to train.
        decoder: a key of `utils.decoder.DECODERS`.
        vocabulary: made with the recipe's cleaning from the training split.
        training: the split to learn from.
        dev: the split that chooses the epoch.
        folder: parent of the training's own folder.
        epochs: cuts the recipe's epochs short.
        seed: of first weights, shuffling and dropout.

    Raises:
        FolderInUseError: another process is at the same training.
        DiskFullError: there is no room for an epoch's weights; the epochs before are kept.
    """
    epochs = min(epochs or recipe.epochs, recipe.epochs)
    identity = training_identity(recipe, decoder, vocabulary, training, dev, epochs, seed)
    folder = folder / f"{recipe.name}_{decoder}-{content_hash(identity)[:8]}"

    def new_decoder() -> keras.Model:
        keras.utils.set_random_seed(seed)
        shape = training.features.shape[1:]
        return build_decoder(decoder, len(vocabulary), shape, **recipe.decoder_options)

    with training_folder(folder, identity):
        history = read_history(folder, HISTORY_COLUMNS)
        agree([identity, len(history)], f"the training {folder.name}")
        if len(history) < epochs:
            model = new_decoder()
            standardise(model, training.features)
            batches = training.batches(
                vocabulary,
                batch_size=recipe.batch_size,
                seed=seed,
                epoch=len(history),
                mirrored=training.mirrored,
                by_photo=recipe.by_photo,
                share=share(),
            )
            compile_decoder(model, recipe, epochs * len(batches))
            if len(history):
                model.load_weights(weights_file(folder, len(history)))
            journal = Journal(
                folder,
                history,
                epoch_losses,
                dev.features,
                dev.references,
                vocabulary,
                len(batches),
                seed,
            )
            model.fit(
                batches,
                epochs=epochs,
                initial_epoch=len(history),
                validation_data=dev.batches(
                    vocabulary, batch_size=256, by_photo=recipe.by_photo, share=share()
                ),
                callbacks=[journal],
                shuffle=False,  # the batches shuffle themselves, the same way after a resume
                verbose=0,
            )
            history = journal.history
    best_epoch = best_epoch_of(history)
    model = new_decoder()
    model.load_weights(weights_file(folder, best_epoch))
    return Training(model, history, best_epoch, folder)


def summarise(training: Training) -> dict:
    """Counts and best values of a training, as `training.json` and the report show them."""
    history = training.history
    best_loss = history.loc[history["dev_loss"].idxmin()]
    return {
        "parameters": training.model.count_params(),
        "vocabulary": training.model.output_shape[-1],
        "epochs": len(history),
        "final_loss": float(history["loss"].iloc[-1]),
        "best_dev_loss": float(best_loss["dev_loss"]),
        "best_dev_loss_epoch": int(best_loss["epoch"]),
        "final_dev_loss": float(history["dev_loss"].iloc[-1]),
        "best_dev_cider": float(history["dev_cider"].max()),
        "best_epoch": training.best_epoch,
        "seconds_per_epoch": float(read_seconds(training.folder)["seconds"].median()),
    }


def training_identity(
    recipe: Recipe,
    decoder: str,
    vocabulary: Vocabulary,
    training: CaptionSet,
    dev: CaptionSet,
    epochs: int,
    seed: int,
) -> dict:
    """Returns everything that a training's result depends on; equal identities, equal results."""
    return {
        "recipe": asdict(recipe),
        "decoder": decoder,
        "epochs": epochs,
        "seed": seed,
        "vocabulary": content_hash(vocabulary.tokens),
        "training": _fingerprint(training),
        "dev": _fingerprint(dev),
    }


def compile_decoder(model: keras.Model, recipe: Recipe, steps: int) -> None:
    """Gives a decoder the loss and the optimizer of a recipe; `steps` is how many there will be."""
    keep_memory()
    rate = recipe.learning_rate
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps) if recipe.cosine else rate
    optimizer = keras.optimizers.AdamW(
        schedule, weight_decay=recipe.weight_decay, clipnorm=recipe.clip_norm
    )
    optimizer.build(model.trainable_variables)  # so that a resumed one has places to load into
    model.compile(optimizer, CaptionLoss(recipe.label_smoothing), metrics=[TokenCrossEntropy()])


def epoch_losses(logs: dict) -> dict[str, float]:
    """What the history keeps of an epoch that Keras reports on, losses in nats per token."""
    return {"loss": float(logs["token_loss"]), "dev_loss": float(logs["val_token_loss"])}


def _fingerprint(captions: CaptionSet) -> str:
    hashes = [content_hash([list(captions.photos), captions.tokens, captions.references])]
    for features in (captions.features, captions.mirrored):
        if features is not None:
            digest = hashlib.sha256(str(features.shape).encode())
            for start in range(0, len(features), 256):
                digest.update(np.ascontiguousarray(features[start : start + 256]))
            hashes.append(digest.hexdigest())
    return content_hash(hashes)


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
