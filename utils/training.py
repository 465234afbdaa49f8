"""Training: recipes, the loss over real tokens, and `model.fit` that can be killed at any moment.

A training lies in a folder of its own, named after everything that it depends on, so another
recipe, vocabulary or number of epochs never mixes with it. `Journal` keeps every epoch there.
"""

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from keras import ops

from utils.batches import CaptionSet
from utils.captions import PAD, Vocabulary
from utils.decoder import build_decoder, decoder_kind, standardise
from utils.machinery import checkpoints
from utils.machinery.devices import Devices, distributed, from_first, is_first, keep_memory, share
from utils.machinery.errors import CaptionProjectError
from utils.machinery.files import content_hash
from utils.machinery.progress import ProgressBar
from utils.metrics import Scorer, tokenize
from utils.search import Searcher, captions_of

# What the history keeps of an epoch, and what Keras calls it; losses in nats per token.
LOSSES = {"loss": "token_loss", "dev_loss": "val_token_loss"}


class DivergedError(CaptionProjectError, ArithmeticError):
    """Losses or weights of a training are no longer finite."""


@dataclass(frozen=True)
class Recipe:
    """How a decoder is trained."""

    name: str  # in history, metrics and folder names
    cleaning: str  # a key of `utils.captions.CLEANINGS`
    min_count: int  # words seen less often in the training split are unknown
    epochs: int = 20  # how often every caption is seen; the setting EPOCHS can cut it short
    decoder_options: dict = field(default_factory=dict)  # of `utils.decoder.DecoderOptions`
    batch_size: int = 128  # captions a step
    learning_rate: float = 1e-3  # at the start
    cosine: bool = False  # whether the learning rate falls to zero along a cosine, or stays
    weight_decay: float = 0.0  # of AdamW; 0 is plain Adam
    clip_norm: float | None = None  # largest norm of one weight's gradient, None for any
    label_smoothing: float = 0.0  # share of the target that is spread evenly over the vocabulary
    mirrored: bool = False  # whether half of the photographs are seen as in a mirror
    by_photo: bool = False  # whether the captions of a photograph come together


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


# Of decoders that are there for comparison only; on Flickr8k more would cost an hour.
COMPARED_EPOCHS = {"sample": 20, "flickr8k": 8, "folder": 8}


def our_recipe(dataset: str, decoder: str = "merge") -> Recipe:
    """Returns our recipe in the size that fits the data set.

    A decoder that looks at regions computes much of each photograph, once for all its captions.
    """
    recipe = OURS_ON_SAMPLE if dataset == "sample" else OURS
    return replace(recipe, by_photo=decoder_kind(decoder).features == "spatial")


class CaptionLoss(keras.losses.Loss):
    """Mean cross-entropy over the real target tokens of a batch, in nats; padding counts nothing.

    Targets are `(n, k, length)` int with PAD behind the END, predictions are logits `(n, k, length,
    vocabulary)`. With `label_smoothing` a share of the target is spread evenly over the vocabulary
    (Szegedy et al. 2016).
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__(name="caption_loss")
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        real = ops.cast(ops.not_equal(y_true, PAD), "float32")
        return ops.sum(token_losses(y_true, y_pred, self.label_smoothing) * real) / ops.sum(real)


def token_losses(targets, logits, label_smoothing: float = 0.0):
    """Cross-entropy `-log softmax(logits)[target]` of every token, float32, padding included.

    A loss ends at 87 nats, where float32 ends. The gradient, probabilities minus target, is written
    out: what TensorFlow derives takes a quarter of a training step, on a single core.
    """
    targets = ops.cast(targets, "int32")  # Keras hands a loss floats
    vocabulary_size = logits.shape[-1]
    evenly = label_smoothing / vocabulary_size  # what every token gets of the target

    @ops.custom_gradient
    def losses_of(logits):
        probabilities = ops.softmax(logits, axis=-1)
        right = _at(targets, probabilities)
        losses = -ops.log(ops.maximum(right, 1.2e-38))
        if label_smoothing:
            losses += label_smoothing * (_at(targets, logits) - ops.mean(logits, axis=-1))

        def gradient(*args, upstream=None):
            weights = args[0] if upstream is None else upstream  # as the backend hands it over
            slopes = (probabilities - evenly if evenly else probabilities) * weights[..., None]
            at_targets = (right - evenly - (1 - label_smoothing)) * weights
            rows = ops.reshape(slopes, (-1, vocabulary_size))
            token_ids = ops.reshape(targets, (-1,))
            where = ops.stack([ops.arange(ops.shape(token_ids)[0]), token_ids], axis=1)
            rows = ops.scatter_update(rows, where, ops.reshape(at_targets, (-1,)))
            return ops.reshape(rows, ops.shape(slopes))

        return losses, gradient

    return losses_of(ops.cast(logits, "float32"))


def _at(targets, values):
    """Of every row of `values` the one at its target."""
    return ops.squeeze(ops.take_along_axis(values, targets[..., None], axis=-1), -1)


class TokenCrossEntropy(keras.metrics.Mean):
    """Mean cross-entropy per real target token of an epoch, in nats, without label smoothing.

    The loss that Keras reports is a mean of batch means, in which a token of a small batch counts
    more.
    """

    def __init__(self):
        super().__init__(name="token_loss")

    def update_state(self, y_true, y_pred, sample_weight=None):
        real = ops.cast(ops.not_equal(y_true, PAD), "float32")
        super().update_state(token_losses(y_true, y_pred), sample_weight=real)


@dataclass(frozen=True)
class Training:
    """A finished training."""

    model: keras.Model  # the decoder as it was after the best epoch
    history: pd.DataFrame  # one row an epoch: `epoch`, figures, `dev_cider`, `learning_rate`
    best_epoch: int  # the one with the highest dev CIDEr, counted from 1
    folder: Path  # where history and weights lie


def train(
    recipe: Recipe,
    *,
    decoder: str,
    vocabulary: Vocabulary,
    training: CaptionSet,
    dev: CaptionSet,
    folder: Path,
    epochs: int | None = None,
    seed: int = 42,
    devices: Devices | None = None,
) -> Training:
    """Trains a decoder, or goes on where an earlier call with the same arguments was killed.

    Args:
        decoder: a key of `utils.decoder.DECODERS`.
        vocabulary: made with the recipe's cleaning from the training split.
        training, dev: the split to learn from, and the one that chooses the epoch.
        folder: parent of the training's own folder.
        epochs: cuts the recipe's epochs short.
        seed: of first weights, shuffling and dropout.
        devices: over what to distribute it; None: one device.

    Raises what `fit_resumably` does.
    """
    epochs = min(epochs or recipe.epochs, recipe.epochs)
    known = {"vocabulary": vocabulary, "dev": dev, "epochs": epochs, "seed": seed}
    identity = training_identity(recipe, decoder, training=training, **known)
    with distributed(devices):
        keras.utils.set_random_seed(seed)
        shape = training.features.shape[1:]
        model = build_decoder(decoder, len(vocabulary), shape, **recipe.decoder_options)

        def fit(journal):
            standardise(model, training.features)
            fit_decoder(journal, model, recipe, training, **known)

        own = folder / f"{recipe.name}_{decoder}-{content_hash(identity)[:8]}"
        return fit_resumably(model, fit, folder=own, identity=identity, figures=LOSSES, **known)


def fit_decoder(
    journal: "Journal",
    model: keras.Model,
    recipe: Recipe,
    training: CaptionSet,
    *,
    vocabulary: Vocabulary,
    dev: CaptionSet,
    epochs: int,
    seed: int,
    optimizer: Callable = keras.optimizers.AdamW,
) -> None:
    """Compiles a model for a recipe and trains it, as `fit` of `fit_resumably` has to."""
    done, options = len(journal.history), {"by_photo": recipe.by_photo, "share": share()}
    shuffling = {"seed": seed, "epoch": done, "mirrored": training.mirrored}
    batches = training.batches(vocabulary, batch_size=recipe.batch_size, **shuffling, **options)
    dev_batches = dev.batches(vocabulary, batch_size=256, **options)
    compile_decoder(model, recipe, epochs * len(batches), optimizer)
    # Keras shuffles nothing: the batches do it themselves, the same way after a resume.
    options = {"epochs": epochs, "initial_epoch": done, "shuffle": False, "verbose": 0}
    model.fit(batches, validation_data=dev_batches, callbacks=[journal], **options)


def compile_decoder(
    model: keras.Model, recipe: Recipe, steps: int, optimizer: Callable = keras.optimizers.AdamW
) -> None:
    """Gives a decoder the loss and the optimizer of a recipe; `steps` is how many there will be."""
    rate = recipe.learning_rate
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps) if recipe.cosine else rate
    optimizer = optimizer(schedule, weight_decay=recipe.weight_decay, clipnorm=recipe.clip_norm)
    optimizer.build(model.trainable_variables)  # so that a resumed one can load its state
    model.compile(optimizer, CaptionLoss(recipe.label_smoothing), metrics=[TokenCrossEntropy()])


def fit_resumably(
    model: keras.Model,
    fit: Callable[["Journal"], None],
    *,
    folder: Path,
    identity: dict,
    figures: Mapping[str, str],
    epochs: int,
    vocabulary: Vocabulary,
    dev: CaptionSet,
    seed: int,
    decoder: keras.Model | None = None,
    dev_features: Callable | None = None,
) -> Training:
    """Trains a model in a folder that keeps every epoch, or goes on where it was killed there.

    The whole process keeps the memory that it frees from then on (`keep_memory`).

    Args:
        model: what learns; with the weights of its best epoch afterwards.
        fit: compiles it and trains the epochs that the `history` of its callback lacks.
        folder: of this training alone.
        identity: all that the result depends on; kept in the folder.
        figures: of an epoch, for each column of the history the name in Keras's logs.
        epochs: in all.
        vocabulary, dev: for the dev CIDEr of greedy captions, which chooses the best epoch.
        seed: of dropout.
        decoder: the part of the model that makes captions, if it is not all of it.
        dev_features: makes what it reads, if that is not `dev.features`.

    Raises:
        FolderInUseError: another process is at the same training.
        DiskFullError: there is no room for an epoch's weights; the epochs before are kept.
        StaleArtefactError: history or weights in the folder are damaged.
        DivergedError: losses or weights are no longer finite.
    """
    columns = ["epoch", *figures, "dev_cider", "learning_rate"]
    with checkpoints.training_folder(folder, identity, columns) as history:
        if len(history) < epochs:
            keep_memory()
            decoder = decoder or model
            searcher, cider = Searcher(decoder, beam=1), Scorer(dev.references).cider

            def score() -> float:
                features = dev.features if dev_features is None else dev_features()
                captions = captions_of(searcher.best(features), vocabulary)
                return float(cider.scores([tokenize(text) for text in captions]).mean())

            journal = Journal(folder, history, figures, decoder, score, seed)
            fit(journal)
            history = journal.history
        best_epoch = checkpoints.best_epoch_of(history)
        checkpoints.load_epoch(model, folder, best_epoch)
    return Training(model, history, best_epoch, folder)


class Journal(keras.callbacks.Callback):
    """Loads the last epoch, writes those to come, scores dev, and draws the progress bar.

    See `fit_resumably`; `history` has a row for each epoch so far.
    """

    def __init__(self, folder, history, figures, decoder, score, seed):
        super().__init__()
        self.folder, self.history, self.figures = folder, history, figures
        self.decoder, self.score, self.seed = decoder, score, seed

    def on_train_begin(self, logs=None):
        done, steps = len(self.history), self.params["steps"]
        if done:
            checkpoints.load_epoch(self.model, self.folder, done)
        self.bar = ProgressBar(
            total=self.params["epochs"] * steps,
            initial=done * steps,
            desc=self.folder.name.rsplit("-", 1)[0],
            bar_format="{desc}: {percentage:.0f}% |{bar:6}| [{elapsed}<{remaining}{postfix}]",
            mininterval=1,
            disable=not is_first(),
        )

    def on_train_end(self, logs=None):
        self.bar.close()

    def on_epoch_begin(self, epoch, logs=None):
        self.begun = time.monotonic()
        # Dropout would go on from its first seed after a resume; so every epoch has its own seeds.
        for place, layer in enumerate(self.decoder.layers):
            generator = getattr(layer, "seed_generator", None)
            if generator is not None:
                generator.state.assign([self.seed + place, epoch << 16])

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()

    def on_epoch_end(self, epoch, logs=None):
        figures = {column: float(logs[name]) for column, name in self.figures.items()}
        # A lost loss can look finite: `token_losses` ends where float32 does.
        finite = all(map(math.isfinite, figures.values()))
        if not (finite and checkpoints.is_finite(self.model)):
            raise DivergedError(
                f"In epoch {epoch + 1} weights or losses ({figures}) are not finite; it was not "
                "kept. Lower the learning rate, or look for features that are no numbers."
            )
        row = {
            "epoch": epoch + 1,
            **figures,
            "dev_cider": from_first(self.score()),  # so that all find the same epoch best
            "learning_rate": float(ops.convert_to_numpy(self.model.optimizer.learning_rate)),
        }
        seconds = time.monotonic() - self.begun
        self.history = checkpoints.write_epoch(self.model, self.folder, self.history, row, seconds)
        shown = [f"{name.replace('_', ' ')} {row[name]:.3g}" for name in (*figures, "dev_cider")]
        self.bar.set_postfix_str(f"epoch {epoch + 1}: {', '.join(shown)}")


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
        "seconds_per_epoch": checkpoints.seconds_per_epoch(training.folder),
    }


def training_identity(recipe, decoder, *, vocabulary, training, dev, epochs, seed) -> dict:
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


def _fingerprint(captions: CaptionSet) -> str:
    hashes = [content_hash([list(captions.photos), captions.tokens, captions.references])]
    for features in (captions.features, captions.mirrored):
        if features is not None:
            digest = hashlib.sha256(str(features.shape).encode())
            for start in range(0, len(features), 256):
                digest.update(np.ascontiguousarray(features[start : start + 256]))
            hashes.append(digest.hexdigest())
    return content_hash(hashes)
