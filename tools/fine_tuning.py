"""Fine-tuning: the CNN's last blocks learn together with the decoder.

`python -m tools.fine_tuning` does it after notebook 04, with the settings of the run. What the
blocks before make of each photograph doesn't change, so it is computed once and kept on disk; a
step then costs little more than one of the decoder alone, and two cores are enough.
"""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from utils.batches import CaptionSet, caption_set
from utils.captions import Vocabulary, read_caption_table
from utils.dataset import load_dataset
from utils.decoder import decoder_kind
from utils.encoder import Encoder, load_encoder, load_encoder_for
from utils.features import extract_features, load_features
from utils.machinery.checkpoints import (
    best_epoch_of,
    load_decoder,
    read_history,
    save_decoder,
    size_on_disk,
    training_folder,
    weights_file,
)
from utils.machinery.errors import CaptionProjectError, SettingsError
from utils.machinery.files import atomic_path, content_hash
from utils.settings import Settings, short_path
from utils.training import (
    HISTORY_COLUMNS,
    Journal,
    Recipe,
    Training,
    compile_decoder,
    epoch_losses,
    our_recipe,
    train,
)

ENCODER_FILE, DECODER_FILE = "encoder.weights.h5", "decoder.npz"


@dataclass(frozen=True)
class FineTuning:
    """How the last blocks are trained.

    Attributes:
        epochs: how often every caption is seen.
        learning_rate: of CNN and decoder, falling to zero along a cosine; a tenth of the decoder's
            own, since both know much already.
    """

    epochs: int = 2
    learning_rate: float = 1e-4


@dataclass(frozen=True)
class FineTuned:
    """What came out: the decoder after the best epoch by dev CIDEr, and the folder of all files."""

    decoder: keras.Model
    history: pd.DataFrame
    best_epoch: int
    folder: Path


def fine_tune(
    encoder: Encoder,
    first: Training,
    recipe: Recipe,
    tuning: FineTuning,
    vocabulary: Vocabulary,
    training: CaptionSet,
    dev: CaptionSet,
    folder: Path,
    seed: int = 42,
) -> FineTuned:
    """Trains the encoder's last blocks and a trained attention decoder end to end.

    Batch normalisation stays as ImageNet left it. `encoder` itself is changed, so load one
    for this call. After every epoch all is on disk; a call that was killed goes on.

    Args:
        encoder: with trained weights.
        first: the decoder's finished first stage.
        recipe: of the first stage: dropout, batches, label smoothing and mirroring stay the same.
        tuning: how to train.
        vocabulary: the decoder's.
        training, dev: with features of the kind "middle".
        folder: parent of the training's own folder, in which the tuned encoder's weights
            (`encoder.weights.h5`, for the setting WEIGHTS) and the decoder come to lie.
        seed: of shuffling and dropout.
    """
    identity = {"first": first.folder.name, "best_epoch": first.best_epoch, "seed": seed}
    identity |= {"tuning": asdict(tuning), "encoder": encoder.weights_hash}
    folder = folder / f"fine_tuned-{content_hash(identity)[:8]}"
    decoder, tail = keras.models.clone_model(first.model), encoder.tail
    decoder.set_weights(first.model.get_weights())
    decoder.get_layer("standardise").finalize_state()
    encoder.cnn.trainable = True
    for layer in tail.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False  # which also keeps it from counting in training
    middle = keras.Input(tail.input_shape[1:], name="middle")
    tokens = keras.Input((None, None), dtype="int32", name="tokens")
    model = keras.Model([middle, tokens], decoder([tail(middle), tokens]))

    with training_folder(folder, identity):
        history = read_history(folder, HISTORY_COLUMNS)
        batches = training.batches(
            vocabulary,
            batch_size=recipe.batch_size,
            seed=seed,
            epoch=len(history),
            mirrored=training.mirrored,
            by_photo=True,
        )
        slower = replace(recipe, learning_rate=tuning.learning_rate, cosine=True)
        compile_decoder(model, slower, tuning.epochs * len(batches))
        if len(history) < tuning.epochs:
            if len(history):
                model.load_weights(weights_file(folder, len(history)))
            journal = _TunedJournal(
                folder,
                history,
                epoch_losses,
                dev.features,
                dev.references,
                vocabulary,
                len(batches),
                seed,
            )
            journal.parts = decoder, tail
            model.fit(
                batches,
                epochs=tuning.epochs,
                initial_epoch=len(history),
                validation_data=dev.batches(vocabulary, batch_size=256, by_photo=True),
                callbacks=[journal],
                shuffle=False,
                verbose=0,
            )
            history = journal.history
        best_epoch = best_epoch_of(history)
        model.load_weights(weights_file(folder, best_epoch))
        with atomic_path(folder / ENCODER_FILE, size_on_disk(encoder.cnn)) as part:
            encoder.cnn.save_weights(part)
        save_decoder(decoder, folder / DECODER_FILE, vocabulary)
    return FineTuned(decoder, history, best_epoch, folder)


def tuned_features(tail: keras.Model, middle: np.ndarray, batch_size: int = 50) -> np.ndarray:
    """Spatial features `(n, grid, grid, width)` float32 that the last blocks make of `middle`."""
    starts = range(0, len(middle), batch_size)
    return np.concatenate(
        [tail.predict_on_batch(np.asarray(middle[at : at + batch_size], "f4")) for at in starts]
    )


def find_fine_tuned(settings: Settings) -> Path | None:
    """Returns the folder of the run's finished fine-tuning, the latest one, or None."""
    found = settings.training_folder.glob(f"fine_tuned-*/{DECODER_FILE}")
    return max((file.parent for file in found), key=lambda one: one.stat().st_mtime, default=None)


def load_fine_tuned(
    folder: Path, settings: Settings, splits: Mapping[str, CaptionSet]
) -> tuple[keras.Model, dict[str, CaptionSet]]:
    """Loads a fine-tuned decoder, and puts the tuned CNN's features into the place of others.

    Args:
        folder: from `find_fine_tuned`.
        settings: of the run.
        splits: caption sets by name, of photographs that have "middle" features.

    Returns:
        The decoder, and the same splits with the features that it reads.
    """
    encoder = load_encoder(settings.encoder, str(folder / ENCODER_FILE))
    middle = load_features(settings.features_folder, "middle", settings.encoder)
    tuned = {
        name: replace(split, features=tuned_features(encoder.tail, middle.of(split.photos)))
        for name, split in splits.items()
    }
    vocabulary = Vocabulary.load(settings.vocabulary_file)
    return load_decoder(folder / DECODER_FILE, vocabulary), tuned


class _TunedJournal(Journal):
    """Scores a decoder on the features of a CNN that changes from epoch to epoch."""

    def decoder(self):
        return self.parts[0]

    def dev_features(self):
        return tuned_features(self.parts[1], self.features)


def fine_tune_run(settings: Settings) -> FineTuned:
    """Fine-tunes after notebook 04, from the files of the run.

    Raises:
        SettingsError: the run's decoder doesn't look at places.
        EncoderError: this CNN has no blocks that can be fine-tuned.
    """
    kind = decoder_kind(settings.decoder).features
    if kind != "spatial":
        raise SettingsError(
            f"DECODER is {settings.decoder!r}; fine-tuning needs one that reads spatial features. "
            "Run with DECODER=attention."
        )
    recipe = our_recipe(settings.dataset, settings.decoder)
    table = read_caption_table(settings.captions_file)
    vocabulary = Vocabulary.load(settings.vocabulary_file)
    encoder, dataset = load_encoder_for(settings), load_dataset(settings)

    def sets(features, mirrored):
        return (
            caption_set(table, features, "train", recipe.cleaning, mirrored),
            caption_set(table, features, "dev", recipe.cleaning),
        )

    def mirror(load):
        return load() if recipe.mirrored else None

    where = settings.features_folder
    spatial = sets(
        load_features(where, "spatial", encoder.name),
        mirror(lambda: load_features(where, "spatial", encoder.name, mirrored=True)),
    )
    first = train(
        recipe,
        settings.decoder,
        vocabulary,
        *spatial,
        settings.training_folder,
        settings.epochs,
        settings.seed,
    )
    del spatial  # gigabytes
    middle = sets(
        extract_features(encoder, dataset, where, "middle"),
        mirror(lambda: extract_features(encoder, dataset, where, "middle", mirrored=True)),
    )
    tuning = replace(FineTuning(), epochs=min(FineTuning().epochs, settings.epochs))
    return fine_tune(
        encoder,
        first,
        recipe,
        tuning,
        vocabulary,
        *middle,
        settings.training_folder,
        settings.seed,
    )


def main() -> int:
    """Fine-tunes the run that the environment's settings name."""
    try:
        tuned = fine_tune_run(Settings.from_environment())
    except CaptionProjectError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(tuned.history.round(3).to_string(index=False))
    print(f"Encoder: WEIGHTS={short_path(tuned.folder / ENCODER_FILE)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
