"""What takes long, without notebooks, by several processes: `python -m tools.several_processes`.

Extracts the features of notebook 03 and trains the decoders of notebook 04, with the settings of
the run. Each process is started with a PROCESS of its own (`utils.machinery.devices`). The
notebooks find all of it finished and go on from there, in one process.
"""

import sys

from utils.batches import caption_set
from utils.captions import Vocabulary, read_caption_table
from utils.dataset import load_dataset
from utils.decoder import decoder_kind
from utils.encoder import load_encoder_for
from utils.features import extract_features
from utils.machinery.devices import Devices, is_first, start, wait
from utils.machinery.errors import CaptionProjectError
from utils.machinery.files import require
from utils.self_critical import our_stage, train_self_critical
from utils.settings import Settings, short_path
from utils.training import ORIGINAL, our_recipe, train


def run_stages(settings: Settings) -> None:
    """Extracts and trains as notebooks 03 and 04 do, or takes what is finished.

    Raises:
        MissingStageError: notebook 02 has not run.
        SettingsError: as `start` and `distributed` of `utils.machinery.devices`.
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

    def known(recipe, file, kind, mirrored=None):
        return {
            "vocabulary": Vocabulary.load(file),
            "training": caption_set(captions, features, "train", recipe.cleaning, mirrored, kind),
            "dev": caption_set(captions, features, "dev", recipe.cleaning, kind=kind),
            "epochs": settings.epochs,
            "seed": settings.seed,
            "devices": Devices.of(settings),
        }

    where = settings.training_folder
    originals = known(ORIGINAL, settings.original_vocabulary_file, "pooled")
    train(ORIGINAL, decoder="merge", folder=where, **originals)
    ours = known(
        recipe, settings.vocabulary_file, decoder_kind(settings.decoder).features, mirrored
    )
    first = train(recipe, decoder=settings.decoder, folder=where, **ours)
    train_self_critical(first, recipe=recipe, stage=our_stage(settings.dataset), **ours)
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
