"""A captioner: encoder, decoder, vocabulary and search settings, loaded from a folder and used."""

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import keras
import numpy as np

from utils.captions import Vocabulary
from utils.decoder import decoder_kind
from utils.encoder import Encoder, load_encoder
from utils.machinery.checkpoints import load_decoder, save_decoder
from utils.machinery.errors import StaleArtefactError
from utils.machinery.files import (
    file_hash,
    read_json,
    require,
    write_json,
)
from utils.photographs import load_pixels
from utils.search import MAX_TOKENS, Consensus, Hypothesis, Searcher, SearchSettings, captions_of
from utils.settings import Settings

BUNDLE_FORMAT = 4
BUNDLE_FILE, DECODER_FILE, VOCABULARY_FILE = "captioner.json", "decoder.npz", "vocabulary.json"
CONSENSUS_FILE = "consensus.npz"
_DESCRIPTION = (  # what every bundle says of itself
    "encoder weights weights_hash probe decoder search decoder_hash vocabulary_hash"
).split()
# How well features of the probe must agree (Pearson) for other weights to be taken as the same:
# rounding to 8 bits leaves 0.99, another training of the same network next to nothing.
_SAME_WEIGHTS = 0.95


class Captioner:
    """Describes photographs.

    Make one with `Captioner.load`, keep it, and call `caption` as often as you like: the first call
    compiles the models and takes seconds, later ones take a fraction of one.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: keras.Model,
        vocabulary: Vocabulary,
        search: SearchSettings | None = None,
        consensus: Consensus | None = None,
    ):
        self.encoder = encoder
        self.decoder = decoder
        self.vocabulary = vocabulary
        self.search = search or SearchSettings()
        self.consensus = consensus
        self._kind = decoder_kind(decoder.name).features
        self._searchers: dict[int | None, Searcher] = {}

    def caption(self, photo, beam: int | None = None) -> str:
        """Describes one photograph.

        Args:
            photo: a path, a PIL image, or an array `(height, width[, 3 or 4])` uint8.
            beam: hypotheses to search with for the most probable caption, 1 is greedy; default is
                the search that was chosen on dev.

        Raises:
            PhotographError: `photo` can't be read as a picture.
        """
        return self.captions([photo], beam)[0]

    def captions(self, photos: Sequence, beam: int | None = None) -> list[str]:
        """Describes several photographs at once, which is faster than one by one."""
        best = [hypotheses[0] for hypotheses in self.hypotheses(photos, beam)]
        return captions_of(best, self.vocabulary)

    def hypotheses(self, photos: Sequence, beam: int | None = None) -> list[list[Hypothesis]]:
        """Returns all captions that the beam ended with for each photograph, best first.

        Their words are `vocabulary.decode(hypothesis.numbers)`; see `Hypothesis` for the scores.
        """
        if not len(photos):
            return []
        pixels = np.stack([load_pixels(photo, self.encoder.image_size) for photo in photos])
        encode = self.encoder.encode if self._kind == "pooled" else self.encoder.encode_spatial
        return self._searcher(beam).search(encode(pixels))

    def _searcher(self, beam: int | None) -> Searcher:
        if beam not in self._searchers:
            search = self.search
            if beam is not None:  # the most probable captions
                search = replace(search, beam=beam, inverse_temperature=None, max_tokens=MAX_TOKENS)
            self._searchers[beam] = search.searcher(self.decoder, self.consensus, batch_size=32)
        return self._searchers[beam]

    def save(self, folder: Path, half: bool = False) -> None:
        """Writes the bundle: its files, and a description that holds them together.

        Args:
            folder: where they go.
            half: whether the decoder's matrices are kept in half precision.
        """
        folder = Path(folder)
        save_decoder(self.decoder, folder / DECODER_FILE, self.vocabulary, half)
        self.vocabulary.save(folder / VOCABULARY_FILE)
        if self.consensus is not None:
            self.consensus.save(folder / CONSENSUS_FILE)
        describe_bundle(folder, self.encoder, self.decoder.name, self.search)

    @classmethod
    def load(cls, folder: Path | str, weights: str | None = None) -> "Captioner":
        """Loads a bundle that `save` wrote.

        Args:
            folder: a run folder, or any other folder with the files of a bundle.
            weights: of the encoder: "imagenet" or a weights file, which are then taken as they are.
                Default: untrained ones if the decoder was trained with those, else the setting
                WEIGHTS, which must give the features that the decoder was trained with.

        Raises:
            MissingStageError: a file of the bundle is missing.
            StaleArtefactError: the files don't belong together, or the encoder has other weights
                than the decoder was trained with.
            EncoderError: the encoder's weights can't be had.
        """
        folder = Path(folder)
        description = _read_description(folder / BUNDLE_FILE)
        search = SearchSettings(**description["search"])
        for name in _files_of(search):
            file = require(folder / name, "notebook 04_train_captioner")
            expected = description[f"{file.stem}_hash"]
            if (found := file_hash(file)) != expected:
                raise StaleArtefactError(
                    f"{file} (SHA-256 {found[:12]}…) is not the one that {BUNDLE_FILE} describes "
                    f"({expected[:12]}…). Run notebooks 04 and 05 again, or restore the file."
                )
        vocabulary = Vocabulary.load(folder / VOCABULARY_FILE)
        decoder = load_decoder(folder / DECODER_FILE, vocabulary)
        encoder = load_encoder(description["encoder"], *_weights(description, weights))
        if (width := decoder.input_shape[0][-1]) != encoder.spec.width:
            raise StaleArtefactError(
                f"{folder / DECODER_FILE} reads vectors of {width:,} features, the encoder that "
                f"{BUNDLE_FILE} names, {encoder.name}, gives {encoder.spec.width:,}: they come "
                "from two trainings. Copy both from one run."
            )
        if not weights and not _same_weights(encoder, description):
            raise StaleArtefactError(
                f"The decoder in {folder} was trained on features of {encoder.name} with "
                f"{description['weights']} (SHA-256 {description['weights_hash'][:12]}…); found "
                f"are {encoder.weights} ({encoder.weights_hash[:12]}…). Set WEIGHTS to the weights "
                "it was trained with, or pass weights=… to use others in their place."
            )
        consensus = None
        if search.inverse_temperature is not None:
            consensus = Consensus.load(folder / CONSENSUS_FILE)
        return cls(encoder, decoder, vocabulary, search, consensus)


def _files_of(search: SearchSettings) -> list[str]:
    """The files of a bundle beside its description."""
    return [DECODER_FILE, VOCABULARY_FILE] + [CONSENSUS_FILE] * (
        search.inverse_temperature is not None
    )


def _read_description(file: Path) -> dict:
    """Reads `captioner.json`; a `StaleArtefactError` says what is wrong with it."""
    try:
        description = read_json(require(file, "notebook 05_evaluate_captions"))
    except ValueError as error:  # no JSON, or no text at all
        raise StaleArtefactError(
            f"{file} is not JSON ({error}). Make it again with notebook 05."
        ) from error
    found = description.get("format") if isinstance(description, dict) else None
    if found != BUNDLE_FORMAT:
        raise StaleArtefactError(
            f"{file} has the format {found}; this version reads {BUNDLE_FORMAT}. Make it again "
            "with notebook 05, or use the version of the project that it came with."
        )
    if lacking := [name for name in _DESCRIPTION if name not in description]:
        raise StaleArtefactError(
            f"{file} lacks {', '.join(lacking)}. Make it again with notebook 05."
        )
    wanted = [setting.name for setting in fields(SearchSettings)]
    if not isinstance(search := description["search"], dict) or sorted(search) != sorted(wanted):
        raise StaleArtefactError(
            f"{file} searches with {search}; expected {', '.join(wanted)}. Make it again with "
            "notebook 05."
        )
    return description


def describe_bundle(folder: Path, encoder: Encoder, decoder: str, search: SearchSettings) -> Path:
    """Writes `captioner.json`, which makes a folder with model and vocabulary a bundle.

    Returns:
        The path of the description: encoder, its weights, search, and the hashes of both files.
    """
    description = {
        "format": BUNDLE_FORMAT,
        "encoder": encoder.name,
        "weights": encoder.weights,
        "weights_hash": encoder.weights_hash,
        "probe": [round(float(feature), 5) for feature in encoder.probe()],
        "decoder": decoder,
        "search": asdict(search),
        **{f"{Path(name).stem}_hash": file_hash(folder / name) for name in _files_of(search)},
    }
    write_json(folder / BUNDLE_FILE, description)
    return folder / BUNDLE_FILE


def _same_weights(encoder: Encoder, description: dict) -> bool:
    """Whether the encoder gives the features that the decoder was trained with."""
    if encoder.weights_hash == description["weights_hash"]:
        return True
    # The same weights come in several shapes: rounded, or with the batch normalisation folded in.
    return np.corrcoef(encoder.probe(), description["probe"])[0, 1] > _SAME_WEIGHTS


def _weights(description: dict, weights: str | None) -> tuple:
    """Arguments of `load_encoder` after the name: which weights, and the seed of untrained ones."""
    known = description["weights"]
    if known.startswith("untrained"):
        return weights or "none", int(known.rsplit(" ", 1)[-1])
    return (weights or Settings.from_environment().weights,)
