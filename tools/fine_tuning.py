"""Fine-tuning: the CNN's last blocks learn together with the decoder.

`python -m tools.fine_tuning` does it after notebook 04, with the settings of the run. What the
blocks before make of each photograph doesn't change, so it is computed once and kept on disk; a
step then costs little more than one of the decoder alone, and two cores are enough. The tuned CNN
then stays as it is, and the decoder goes through self-critical training on its features.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from utils.machinery.quiet import quiet_start

with quiet_start():
    import keras
import numpy as np

from utils.batches import CaptionSet, caption_set
from utils.captions import Vocabulary, read_caption_table
from utils.dataset import load_dataset
from utils.decoder import copy_decoder, decoder_kind
from utils.encoder import Encoder, load_encoder, load_encoder_for
from utils.features import extract_features, load_features
from utils.machinery.checkpoints import load_decoder, save_decoder, size_on_disk
from utils.machinery.errors import CaptionProjectError, EncoderError, SettingsError
from utils.machinery.files import atomic_path, content_hash
from utils.self_critical import our_stage, train_self_critical
from utils.settings import Settings, short_path
from utils.training import (
    LOSSES,
    Recipe,
    Training,
    fit_decoder,
    fit_resumably,
    our_recipe,
    train,
)

# In the folder of a fine-tuning; the decoder comes last, when all is done.
ENCODER_FILE, FEATURES, DECODER_FILE = "encoder.weights.h5", "features", "decoder.npz"
# First layer of the blocks that are fine-tuned. In InceptionV3 it has no name of its own.
FIRST_LAYER = {
    "xception": "block13_sepconv1_act",
    "xception_wide": "block13_sepconv1_act",
    "mobilenet_v2": "block_13_expand",
    "vgg16": "block5_conv1",
    "resnet50": "conv5_block1_1_conv",
    "efficientnet_v2_b0": "block6a_expand_conv",
}


@dataclass(frozen=True)
class FineTuning:
    """How the last blocks are trained.

    Attributes:
        epochs: how often every caption is seen.
        learning_rate: of the decoder at the start, falling to zero along a cosine.
        cnn_learning_rate: of the CNN's blocks. Much smaller, as ImageNet taught them with 200 times
            as many photographs.
    """

    epochs: int = 8
    learning_rate: float = 6e-4
    cnn_learning_rate: float = 4e-5


class TwoRates(keras.optimizers.AdamW):
    """AdamW that learns some variables at another rate, and without weight decay.

    Args:
        slow: these variables.
        ratio: of their learning rate to that of the others.
        rates: as AdamW takes them.
    """

    def __init__(self, *rates, slow: Sequence[keras.Variable], ratio: float, **options):
        super().__init__(*rates, **options)
        self._ratio = ratio
        # By name: Keras would take a list of variables for some of the optimizer's own.
        self._slow = {variable.path for variable in slow}
        self.exclude_from_weight_decay(var_list=list(slow))

    def build(self, variables):
        """Learns which variables there are; Keras calls it."""
        super().build(variables)
        self._slow_places = [at for at, one in enumerate(variables) if one.path in self._slow]

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable; Keras calls it."""
        is_slow = self._get_variable_index(variable) in self._slow_places
        ratio = self._ratio if is_slow else 1.0
        super().update_step(gradient, variable, learning_rate * ratio)


def split_encoder(encoder: Encoder) -> tuple[Encoder, keras.Model]:
    """Cuts a CNN before the blocks that are fine-tuned; both parts share its weights.

    Returns:
        An encoder whose `encode_spatial` gives what these blocks read, features of the kind
        "middle", and the blocks as a model, from such features to the spatial ones of `encoder`.

    Raises:
        EncoderError: this CNN has no such blocks.
    """
    if encoder.name not in FIRST_LAYER:
        expected = f"expected one of {', '.join(FIRST_LAYER)}"
        raise EncoderError(f"{encoder.name} can't be fine-tuned; {expected}.")
    cnn, pixels = encoder.cnn, encoder.spatial.inputs[0]
    middle = cnn.get_layer(FIRST_LAYER[encoder.name]).input
    front = keras.Model(cnn.input, middle)(encoder.spec.preprocess(pixels))
    tail = keras.Model(middle, encoder.spec.output_of(cnn), name="tail")
    spec = replace(encoder.spec, grid=middle.shape[1], width=middle.shape[-1])
    return replace(encoder, spec=spec, spatial=keras.Model(pixels, front)), tail


def fine_tune(
    encoder: Encoder,
    first: Training,
    *,
    recipe: Recipe,
    tuning: FineTuning,
    vocabulary: Vocabulary,
    training: CaptionSet,
    dev: CaptionSet,
    folder: Path,
    seed: int = 42,
) -> Training:
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
        folder: parent of the training's own folder, in which the tuned encoder's weights come to
            lie (`encoder.weights.h5`, for the setting WEIGHTS).
        seed: of shuffling and dropout.

    Returns:
        Its `model` is the decoder after the best epoch by dev CIDEr.
    """
    identity = {"first": first.folder.name, "best_epoch": first.best_epoch, "seed": seed}
    identity |= {"tuning": asdict(tuning), "encoder": encoder.weights_hash}
    decoder, (_, tail) = copy_decoder(first.model), split_encoder(encoder)
    encoder.cnn.trainable = True
    for layer in tail.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False  # which also keeps it from counting in training
    middle = keras.Input(tail.input_shape[1:], name="middle")
    tokens = keras.Input((None, None), dtype="int32", name="tokens")
    model = keras.Model([middle, tokens], decoder([tail(middle), tokens]))
    both = replace(recipe, learning_rate=tuning.learning_rate, cosine=True, by_photo=True)
    ratio = tuning.cnn_learning_rate / tuning.learning_rate
    optimizer = partial(TwoRates, slow=tail.trainable_variables, ratio=ratio)
    known = {"vocabulary": vocabulary, "dev": dev, "epochs": tuning.epochs, "seed": seed}
    tuned = fit_resumably(
        model,
        lambda journal: fit_decoder(journal, model, both, training, optimizer=optimizer, **known),
        folder=folder / f"fine_tuned-{content_hash(identity)[:8]}",
        identity=identity,
        figures=LOSSES,
        decoder=decoder,
        dev_features=lambda: tuned_features(tail, dev.features),
        **known,
    )
    with atomic_path(tuned.folder / ENCODER_FILE, size_on_disk(encoder.cnn)) as part:
        encoder.cnn.save_weights(part)
    return replace(tuned, model=decoder)


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
        splits: caption sets by name.

    Returns:
        The decoder, and the same splits with the features that it reads.
    """
    features = load_features(folder / FEATURES, "spatial", settings.encoder)
    tuned = {
        name: replace(split, features=features.of(split.photos)) for name, split in splits.items()
    }
    vocabulary = Vocabulary.load(settings.vocabulary_file)
    return load_decoder(folder / DECODER_FILE, vocabulary), tuned


def fine_tune_run(settings: Settings) -> tuple[Training, Training]:
    """Fine-tunes after notebook 04, from the files of the run, and trains the second stage.

    Returns both stages. The decoder of the second lies in the folder of the first, beside the
    encoder that goes with it, and the features that this one gives.

    Raises:
        SettingsError: the run's decoder doesn't look at regions.
        EncoderError: this CNN has no blocks that can be fine-tuned.
    """
    if decoder_kind(settings.decoder).features != "spatial":
        raise SettingsError(
            f"DECODER is {settings.decoder!r}; fine-tuning needs one that reads spatial features. "
            "Run with DECODER=attention."
        )
    recipe = our_recipe(settings.dataset, settings.decoder)
    table = read_caption_table(settings.captions_file)
    encoder, dataset = load_encoder_for(settings), load_dataset(settings)
    front, _ = split_encoder(encoder)
    known = {
        "recipe": recipe,
        "vocabulary": Vocabulary.load(settings.vocabulary_file),
        "seed": settings.seed,
    }
    folder, epochs = settings.training_folder, settings.epochs

    def sets(features_of):
        features = features_of(mirrored=False)
        mirrored = features_of(mirrored=True) if recipe.mirrored else None
        return {
            "training": caption_set(table, features, "train", recipe.cleaning, mirrored),
            "dev": caption_set(table, features, "dev", recipe.cleaning),
        }

    where, decoder = settings.features_folder, settings.decoder
    spatial = sets(partial(load_features, where, "spatial", encoder.name))
    first = train(decoder=decoder, folder=folder, epochs=epochs, **spatial, **known)
    del spatial  # gigabytes
    middle = sets(partial(extract_features, front, dataset, where, "middle"))
    tuning = replace(FineTuning(), epochs=min(FineTuning().epochs, epochs))
    tuned = fine_tune(encoder, first, tuning=tuning, folder=folder, **middle, **known)
    del middle
    encoder = load_encoder(settings.encoder, tuned.folder / ENCODER_FILE)
    own = sets(partial(extract_features, encoder, dataset, tuned.folder / FEATURES, "spatial"))
    stage = our_stage(settings.dataset)
    second = train_self_critical(tuned, stage=stage, epochs=epochs, **own, **known)
    save_decoder(second.model, tuned.folder / DECODER_FILE, known["vocabulary"])
    return tuned, second


def main() -> int:
    """Fine-tunes the run that the environment's settings name."""
    try:
        tuned, second = fine_tune_run(Settings.from_environment())
    except CaptionProjectError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    for stage in (tuned, second):
        print(stage.history.round(3).to_string(index=False))
    print(f"Encoder: WEIGHTS={short_path(tuned.folder / ENCODER_FILE)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
