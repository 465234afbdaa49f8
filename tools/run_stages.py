"""What takes long, without notebooks and on many machines: `python -m tools.run_stages`.

Extracts the features of notebook 03 and trains the decoders of notebook 04, with the settings of
the run. Several processes do it together, each started with a PROCESS
of its own (`utils.machinery.devices`).
The notebooks find all of it finished and go on from there, in one process.
"""

import sys

from utils.batches import caption_set
from utils.captions import Vocabulary, read_caption_table
from utils.dataset import load_dataset
from utils.decoder import decoder_kind
from utils.encoder import load_encoder_for
from utils.features import extract_features
from utils.machinery.devices import is_first, start, wait
from utils.machinery.errors import CaptionProjectError
from utils.machinery.files import require
from utils.self_critical import our_stage, train_self_critical
from utils.settings import Settings, short_path
from utils.training import ORIGINAL, our_recipe, train


def run_stages(settings: Settings) -> None:
    """Extracts and trains as notebooks 03 and 04 do, or takes what is finished.

    Raises:
        MissingStageError: notebook 02 has not run.
        SettingsError: as `utils.machinery.devices.start` and `utils.machinery.devices.spread`.
    """
    captions = read_caption_table(require(settings.captions_file, "notebook 02_clean_captions"))
    dataset = load_dataset(settings)
    recipe = our_recipe(settings.dataset, settings.decoder)
    if not is_first():
        wait()  # two that download the same weights would write the same file
    encoder = load_encoder_for(settings)
    if is_first():
        wait()
    mirrored, folder = None, settings.features_folder
    features = extract_features(encoder, dataset, folder, "spatial")
    if recipe.mirrored:
        mirrored = extract_features(encoder, dataset, folder, "spatial", mirrored=True)

    where = (settings.training_folder, settings.epochs, settings.seed)
    pooled = [
        caption_set(captions, features, split, ORIGINAL.cleaning, kind="pooled")
        for split in ("train", "dev")
    ]
    vocabulary = Vocabulary.load(settings.original_vocabulary_file)
    train(ORIGINAL, "merge", vocabulary, *pooled, *where)

    kind = decoder_kind(settings.decoder).features
    training = caption_set(captions, features, "train", recipe.cleaning, mirrored, kind)
    dev = caption_set(captions, features, "dev", recipe.cleaning, kind=kind)
    known = (settings.decoder, Vocabulary.load(settings.vocabulary_file), training, dev)
    first = train(recipe, *known, *where)
    train_self_critical(
        first, recipe, our_stage(settings.dataset), *known, settings.epochs, settings.seed
    )
    if is_first():
        print(f"Features and trainings lie in {short_path(settings.run_folder)}.")


def main() -> int:
    """Does it for the run that the environment's settings name."""
    try:
        settings = Settings.from_environment()
        start(settings)
        run_stages(settings)
    except CaptionProjectError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
