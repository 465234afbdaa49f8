"""Keeps the captioner of a finished run in `models/<run>/`, with a model card: `make model`.

Matrices are kept in half precision. The card's dev scores are measured with exactly these files;
its test scores are those of the run.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from string import Template

from tools.markdown import ENCODERS, search_words, table
from utils.captioner import BUNDLE_FILE, DECODER_FILE, Captioner
from utils.dataset import load_dataset
from utils.machinery.errors import CaptionProjectError, SettingsError
from utils.machinery.files import file_hash, read_json, require, write_json, write_text
from utils.metrics import PROTOCOL, score_captions
from utils.search import SearchSettings
from utils.settings import PROJECT, Settings, short_path

MODELS = PROJECT / "models"
CARD_FILE = "card.json"
_LARGEST = 25_000_000  # bytes; what everybody downloads who clones the repository
_SHOWN = ("BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr")


def write_model_card(settings: Settings, folder: Path | None = None) -> Path:
    """Writes bundle and card of a finished run, and returns their folder.

    Args:
        settings: of the run.
        folder: where to; default is `models/<run>`.

    Raises:
        MissingStageError: the run has not come to its end.
        SettingsError: the bundle is too large for the repository.
    """
    folder = folder or MODELS / settings.run_name
    metrics = read_json(require(settings.metrics_file, "notebook 05_evaluate_captions"))
    Captioner.load(settings.run_folder, settings.weights).save(folder, half=True)
    size = sum(file.stat().st_size for file in folder.iterdir())
    if size > _LARGEST:
        raise SettingsError(
            f"The bundle in {short_path(folder)} has {size / 1e6:.1f} MB; expected at most "
            f"{_LARGEST / 1e6:.0f} MB. Take a decoder with fewer units or a smaller vocabulary."
        )
    scores = score_split(Captioner.load(folder, settings.weights), settings, "dev")
    card = {"run": settings.run_name, "dev": scores, "protocol": PROTOCOL}
    write_json(folder / CARD_FILE, card)
    write_text(folder / "README.md", card_text(folder, card, metrics, settings))
    return folder


def score_split(captioner: Captioner, settings: Settings, split: str) -> dict[str, float]:
    """Captions every photograph of a split from its file, and scores the captions."""
    dataset = load_dataset(settings)
    captions = captioner.captions(map(dataset.photo_path, dataset.splits[split]))
    return score_captions(captions, dataset.references(dataset.splits[split]))


def card_text(folder: Path, card: dict, metrics: dict, settings: Settings) -> str:
    """Fills the template of a model card: what made it, what it scores, what it can't do."""
    search = SearchSettings(**read_json(folder / BUNDLE_FILE)["search"])
    chosen = [row for row in metrics["scores"] if row["recipe"] == "ours"][-1]
    measured = {"dev, with these files": card["dev"], "test, in the run": chosen}
    rows = [[name, *(f"{of[one]:.1f}" for one in _SHOWN)] for name, of in measured.items()]
    counts, encoder = metrics["counts"], metrics["encoder"]
    names = ("dataset", "encoder", "decoder", "epochs", "seed")
    chosen_settings = " ".join(f"{name.upper()}={getattr(settings, name)}" for name in names)
    return Template((MODELS / "TEMPLATE.md").read_text(encoding="utf-8")).substitute(
        run=card["run"],
        encoder=ENCODERS.get(encoder["name"], encoder["name"]),
        image_size=encoder["image_size"],
        decoder=metrics["decoder"],
        parameters=f"{metrics['recipes']['ours']['parameters']:,}",
        vocabulary=f"{counts['vocabulary']:,}",
        recipe="our recipe (notebook 04)"
        + (", with the self-critical stage" if metrics["stage"] == "second stage" else ""),
        search=search_words(asdict(search)),
        **{split: f"{count:,}" for split, count in counts["photographs"].items()},
        command=f"make run model {chosen_settings}",
        decoder_hash=file_hash(folder / DECODER_FILE),
        size=f"{(folder / DECODER_FILE).stat().st_size / 1e6:.1f}",
        scores=table(["", *_SHOWN], rows),
        protocol=card["protocol"],
    )


def main() -> int:
    """Keeps the captioner of the run that the settings name."""
    try:
        folder = write_model_card(Settings.from_environment())
    except CaptionProjectError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(f"Captioner: {short_path(folder)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
