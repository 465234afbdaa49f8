"""A captioner: encoder, decoder, vocabulary and search settings, loaded from a folder and used.

`python -m utils.captioner photo.jpg holiday/` describes photographs and folders of photographs.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the command, which imports this module again
    from tools import describe

    sys.exit(describe.main())

from utils.machinery.quiet import quiet_start

with quiet_start():
    import keras
import numpy as np

from utils.captions import Vocabulary
from utils.decoder import DECODERS, decoder_kind
from utils.encoder import ENCODERS, Encoder, load_encoder
from utils.machinery import files
from utils.machinery.checkpoints import load_decoder, save_decoder
from utils.machinery.errors import (
    CaptionProjectError,
    MissingStageError,
    PhotographError,
    SettingsError,
    StaleArtefactError,
)
from utils.photographs import Source, pixels_or_error
from utils.search import MAX_TOKENS, Consensus, Hypothesis, Searcher, SearchSettings, captions_of
from utils.settings import PROJECT, short_path

BUNDLE_FORMAT = 4
BUNDLE_FILE, DECODER_FILE, VOCABULARY_FILE = "captioner.json", "decoder.npz", "vocabulary.json"
CONSENSUS_FILE = "consensus.npz"
MODELS = PROJECT / "models"  # the captioners that come with the project
SHIPPED = "flickr8k-mobilenet_v2-attention"  # the one that the command line takes
_AT_ONCE = 32  # photographs, whatever their number, so that they take a constant memory
# How well features of the probe must agree (Pearson) for other weights to be taken as the same:
# rounding to 8 bits leaves 0.99, another training of the same network next to nothing.
_SAME_WEIGHTS = 0.95
_REMEDY = "Make it again with notebook 05, or copy the whole folder again."


class Captioner:
    """Describes photographs; make one with `Captioner.load`, and keep it.

    The first call compiles the models and takes seconds, later ones take a fraction of one.
    """

    _process: int | None = None  # in which process captioners are used

    def __init__(
        self,
        encoder: Encoder,
        decoder: keras.Model,
        vocabulary: Vocabulary,
        search: SearchSettings | None = None,
        consensus: Consensus | None = None,
    ):
        self.encoder, self.decoder, self.vocabulary = encoder, decoder, vocabulary
        self.search, self.consensus = search or SearchSettings(), consensus
        self._kind = decoder_kind(decoder.name).features
        self._searchers: dict[int | None, Searcher] = {}
        self._check_process()

    def caption(self, photo: Source, beam: int | None = None) -> str:
        """Describes one photograph; see `captions`."""
        return self.captions([photo], beam)[0]

    def captions(
        self, photos: Source | Iterable[Source], beam: int | None = None, errors: str = "raise"
    ) -> list[str | None]:
        """Describes photographs, several at once, in constant memory whatever their number.

        Args:
            photos: one photograph or any iterable of them: each a path, a PIL picture or an array
                `(height, width[, 3 or 4])` uint8; an array `(n, height, width, 3 or 4)` is n.
            beam: hypotheses to search with for the most probable caption, 1 to 100, 1 is greedy;
                default is the search that was chosen on dev.
            errors: "raise", or "skip" to have None for a photograph that can't be read.

        Raises:
            PhotographError: a photograph can't be read as a picture.
            SettingsError: `beam` or `errors` is something else.
        """
        captions = []
        for _, found in self.each(photos, beam, errors):
            skipped = isinstance(found, PhotographError)
            captions += [None] if skipped else captions_of(found[:1], self.vocabulary)
        return captions

    def hypotheses(
        self, photos: Source | Iterable[Source], beam: int | None = None
    ) -> list[list[Hypothesis]]:
        """Returns all captions that the beam ended with for each photograph, best first.

        Their words are `vocabulary.decode(hypothesis.token_ids)`; see `Hypothesis` for the scores.
        """
        return [found for _, found in self.each(photos, beam)]

    def each(
        self, photos: Source | Iterable[Source], beam: int | None = None, errors: str = "raise"
    ) -> Iterator[tuple[Source, list[Hypothesis] | PhotographError]]:
        """Yields every photograph with its hypotheses, or with why it was skipped."""
        if errors not in ("raise", "skip"):
            raise SettingsError(f"errors is {errors!r}; expected 'raise' or 'skip'.")
        searcher = self._searcher(beam)
        encode = self.encoder.encode if self._kind == "pooled" else self.encoder.encode_spatial
        is_picture = isinstance(photos, np.ndarray) and photos.ndim not in (1, 4)
        if is_picture or isinstance(photos, (str, bytes)) or not isinstance(photos, Iterable):
            photos = [photos]
        waiting = iter(photos)
        while chunk := list(islice(waiting, _AT_ONCE)):
            self._check_process()
            read = [pixels_or_error(photo, self.encoder.image_size) for photo in chunk]
            bad = [found for found in read if isinstance(found, PhotographError)]
            if bad and errors == "raise":
                raise bad[0]
            pixels = [found for found in read if isinstance(found, np.ndarray)]
            searched = iter(searcher.search(encode(np.stack(pixels))) if pixels else [])
            for photo, found in zip(chunk, read, strict=True):
                yield photo, next(searched) if isinstance(found, np.ndarray) else found

    def _searcher(self, beam: int | None) -> Searcher:
        if beam not in self._searchers:
            search = self.search
            if beam is not None:  # the most probable captions
                search = replace(search, beam=beam, inverse_temperature=None, max_tokens=MAX_TOKENS)
            self._searchers[beam] = search.searcher(self.decoder, self.consensus, _AT_ONCE)
        return self._searchers[beam]

    def _check_process(self) -> None:
        Captioner._process = Captioner._process or os.getpid()
        if Captioner._process != os.getpid():  # its threads are gone, and it would wait for ever
            raise CaptionProjectError(
                "A captioner can't be used after a fork. Start processes with "
                "multiprocessing.get_context('spawn'), and load one in each."
            )

    def save(self, folder: Path, half: bool = False) -> None:
        """Writes the bundle into `folder`, with `half` the matrices in half precision."""
        folder = Path(folder)
        save_decoder(self.decoder, folder / DECODER_FILE, self.vocabulary, half)
        self.vocabulary.save(folder / VOCABULARY_FILE)
        if self.consensus is not None:
            self.consensus.save(folder / CONSENSUS_FILE)
        description = {
            "format": BUNDLE_FORMAT,
            "encoder": self.encoder.name,
            "weights": self.encoder.weights,
            "weights_hash": self.encoder.weights_hash,
            "probe": [round(float(feature), 5) for feature in self.encoder.probe()],
            "decoder": self.decoder.name,
            "search": asdict(self.search),
        }
        for name in _files_of(self.search):
            description[f"{Path(name).stem}_hash"] = files.file_hash(folder / name)
        files.write_json(folder / BUNDLE_FILE, description)

    @classmethod
    def load(
        cls, folder: Path | str, weights: Path | str | None = "imagenet", check_encoder: bool = True
    ) -> "Captioner":
        """Loads a bundle that `save` wrote.

        Args:
            folder: a run's folder, or the name of a captioner in `models/`, from anywhere.
            weights: of the encoder: "imagenet", downloaded once, or a weights file. If the
                decoder was trained with an untrained encoder, "imagenet" and "none" mean that one.
            check_encoder: whether the encoder must give the features that the decoder was trained
                with; without them captions say nothing about a photograph.

        Raises:
            MissingStageError: there is no such folder, or a file of the bundle is missing.
            StaleArtefactError: the files are damaged or don't belong together, or the encoder has
                other weights than the decoder was trained with.
            EncoderError: the encoder's weights could not be downloaded or don't fit.
        """
        folder = _find(folder)
        description = _read_description(folder / BUNDLE_FILE)
        search: SearchSettings = description["search"]
        for name in _files_of(search):
            file = files.require(folder / name, "notebook 05_evaluate_captions")
            expected = description.get(f"{file.stem}_hash")
            if (found := files.file_hash(file)) != expected:
                finding = f"{BUNDLE_FILE} describes another ({found[:12]}…, {str(expected)[:12]}…)"
                raise files.invalid(file, finding, _REMEDY)
        vocabulary = Vocabulary.load(folder / VOCABULARY_FILE)
        decoder = load_decoder(folder / DECODER_FILE, vocabulary)
        trained_with, _, seed = description["weights"].partition(", seed ")
        if trained_with == "untrained" and weights in (None, "imagenet", "none"):
            encoder = load_encoder(description["encoder"], "none", int(seed))
        else:
            encoder = load_encoder(description["encoder"], weights or "imagenet")
        spec, found = encoder.spec, decoder.input_shape[0][1:]
        if found != ((spec.width,) if len(found) == 1 else (spec.grid, spec.grid, spec.width)):
            finding = f"it reads features of shape {found}, and {encoder.name} gives others"
            raise files.invalid(folder / DECODER_FILE, finding, _REMEDY)
        if check_encoder and not _same_weights(encoder, description):
            raise StaleArtefactError(
                f"The decoder in {short_path(folder)} was trained on features of {encoder.name} "
                f"with {description['weights']} ({description['weights_hash'][:12]}…); found are "
                f"{encoder.weights} ({encoder.weights_hash[:12]}…). Pass weights=… with those "
                "that it was trained with, or check_encoder=False."
            )
        consensus = None
        if search.inverse_temperature is not None:
            consensus = Consensus.load(folder / CONSENSUS_FILE)
        return cls(encoder, decoder, vocabulary, search, consensus)


def _find(folder: Path | str) -> Path:
    given = Path(folder).expanduser()
    for place in (given, MODELS / given, PROJECT / given):
        if place.is_dir():
            return place
    shipped = ", ".join(sorted(file.parent.name for file in MODELS.glob(f"*/{BUNDLE_FILE}")))
    raise MissingStageError(
        f"There is no captioner {str(folder)!r}. Give the folder of a run (notebook 05 completes "
        f"it), or one that comes with the project: {shipped}."
    )


def _files_of(search: SearchSettings) -> list[str]:
    """The files of a bundle beside its description."""
    with_consensus = search.inverse_temperature is not None
    return [DECODER_FILE, VOCABULARY_FILE] + [CONSENSUS_FILE] * with_consensus


def _read_description(file: Path) -> dict:
    """Reads `captioner.json`; a `StaleArtefactError` says what is wrong with it."""
    description = files.read_json(file, _REMEDY, _FIELDS)
    try:
        if description["search"].keys() != SearchSettings.__dataclass_fields__.keys():
            raise SettingsError(f"it has {', '.join(description['search'])}")
        description["search"] = SearchSettings(**description["search"])
    except SettingsError as error:
        raise files.invalid(file, f"'search' is wrong: {str(error)[:200]}", _REMEDY) from error
    return description


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and bool(re.fullmatch(pattern, value))


def _is_probe(value: Any) -> bool:
    listed = isinstance(value, list) and 1 < len(value) < 10_000
    numbers = listed and all(type(one) in (int, float) and abs(one) < 1e6 for one in value)
    return numbers and len({*value}) > 1


_HASH = _matches("[0-9a-f]{64}")
_FIELDS = {
    "format": BUNDLE_FORMAT,
    "encoder": _matches("|".join(ENCODERS)),
    "weights": _matches(r"imagenet|untrained, seed \d{1,10}|file [^\x00-\x1f\x7f]{1,255}"),
    "weights_hash": _HASH,
    "probe": _is_probe,
    "decoder": _matches("|".join(DECODERS)),
    "search": dict,
    "decoder_hash": _HASH,
    "vocabulary_hash": _HASH,
}


def _same_weights(encoder: Encoder, description: dict) -> bool:
    """Whether the encoder gives the features that the decoder was trained with."""
    if len(description["probe"]) != encoder.spec.width:
        return False
    if encoder.weights_hash == description["weights_hash"]:
        return True
    # The same weights come in several shapes: rounded, or with the batch normalisation folded in.
    found, expected = encoder.probe(), np.array(description["probe"])
    if not np.isfinite(found).all() or np.ptp(found) == 0:
        return False
    return np.corrcoef(found, expected)[0, 1] > _SAME_WEIGHTS
