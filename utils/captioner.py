"""A captioner: encoder, decoder, vocabulary and search settings, loaded from a folder and used."""

import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import h5py
import keras
import numpy as np

from utils.captions import Vocabulary
from utils.consensus import Consensus
from utils.decoder import decoder_kind
from utils.encoder import Encoder, load_encoder
from utils.errors import StaleArtefactError
from utils.evaluation import WIDE_TOKENS
from utils.files import atomic_path, content_hash, file_hash, read_json, require, write_json
from utils.journal import size_on_disk
from utils.photographs import load_pixels
from utils.search import MAX_TOKENS, Hypothesis, Searcher, captions_of
from utils.settings import Settings

BUNDLE_FORMAT = 3
BUNDLE_FILE, MODEL_FILE, VOCABULARY_FILE = "captioner.json", "model.keras", "vocabulary.json"
_MADE_FROM = "made_from.json"  # a member of a decoder's file, beside what Keras keeps there
CONSENSUS_FILE = "consensus.npz"
_DESCRIPTION = (  # what every bundle says of itself
    "encoder weights weights_hash probe decoder search model_hash vocabulary_hash"
).split()
# Where the classes of a model may come from, and those among them that hold or load code.
_HARMLESS = ("keras.layers", "keras.initializers", "keras.regularizers", "keras.dtype_policies")
_HARMLESS += ("keras.src.models.functional", "keras.src.ops.")
_CODE = ("Lambda", "__lambda__", "function", "TorchModuleWrapper", "TFSMLayer", "JaxLayer")
_CODE += ("FlaxLayer",)
# How well features of the probe must agree (Pearson) for other weights to be taken as the same:
# rounding to 8 bits leaves 0.99, another training of the same network next to nothing.
_SAME_WEIGHTS = 0.95


@dataclass(frozen=True)
class SearchSettings:
    """How captions are searched for; chosen on the dev split."""

    beam: int = 3
    length_penalty: float = 1.0
    max_tokens: int = MAX_TOKENS
    sharpness: float | None = None  # of the consensus; None takes the most probable caption

    @classmethod
    def from_row(cls, row: Mapping[str, float | None]) -> "SearchSettings":
        """Takes a row of `try_searches` or `judge` in `utils.evaluation`."""
        beam, penalty, sharpness = int(row["beam"]), row["length_penalty"], row["sharpness"]
        if sharpness is None or np.isnan(sharpness):
            return cls(beam, float(penalty))
        return cls(beam, float(penalty), WIDE_TOKENS, float(sharpness))

    @property
    def words(self) -> str:
        """Says it in a word or two, for tables."""
        if self.sharpness is not None:
            return f"consensus of {self.beam}"
        return "greedy" if self.beam == 1 else f"beam {self.beam}"

    def searcher(
        self, decoder: keras.Model, consensus: Consensus | None = None, batch_size: int = 128
    ) -> Searcher:
        """Makes a searcher of these settings; `consensus` is needed if they have a sharpness."""
        rank = None if self.sharpness is None else consensus.sharpened(self.sharpness).rank
        return Searcher(decoder, self.beam, self.length_penalty, self.max_tokens, batch_size, rank)


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
                search = replace(search, beam=beam, sharpness=None, max_tokens=MAX_TOKENS)
            self._searchers[beam] = search.searcher(self.decoder, self.consensus, batch_size=32)
        return self._searchers[beam]

    def save(self, folder: Path, half: bool = False) -> None:
        """Writes the bundle: its files, and a description that holds them together.

        Args:
            folder: where they go.
            half: whether the decoder's matrices are kept in half precision.
        """
        folder = Path(folder)
        save_decoder(self.decoder, folder / MODEL_FILE, self.vocabulary, half)
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
        decoder = load_decoder(folder / MODEL_FILE, vocabulary)
        encoder = load_encoder(description["encoder"], *_weights(description, weights))
        if (width := decoder.input_shape[0][-1]) != encoder.spec.width:
            raise StaleArtefactError(
                f"{folder / MODEL_FILE} reads vectors of {width:,} features, the encoder that "
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
        if search.sharpness is not None:
            consensus = Consensus.load(folder / CONSENSUS_FILE)
        return cls(encoder, decoder, vocabulary, search, consensus)


def _files_of(search: SearchSettings) -> list[str]:
    """The files of a bundle beside its description."""
    return [MODEL_FILE, VOCABULARY_FILE] + [CONSENSUS_FILE] * (search.sharpness is not None)


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


def load_decoder(file: Path, vocabulary: Vocabulary) -> keras.Model:
    """Loads a decoder that `save_decoder` wrote, and nothing that could run code of its own.

    Args:
        file: the `.keras` file.
        vocabulary: whose words its numbers shall stand for.

    Raises:
        StaleArtefactError: it is no whole `.keras` file, it names something other than the layers
            of Keras and of this project, or it was trained with another vocabulary.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            config = json.loads(archive.read("config.json"))
            known = given = content_hash(vocabulary.tokens)
            if _MADE_FROM in archive.namelist():  # a file that Keras alone wrote has none
                known = str(json.loads(archive.read(_MADE_FROM))["vocabulary"])
    except (
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        LookupError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        raise StaleArtefactError(
            f"{file} is no whole .keras file ({error}). Train again with notebook 04, or copy it "
            "again."
        ) from error
    # Keras' safe mode refuses code too, but how much of it has changed from version to version.
    if foreign := sorted(set(_foreign(config))):
        raise StaleArtefactError(
            f"{file} names {', '.join(foreign)}, which may run code of whoever made the file; "
            "expected layers of Keras and of this project only. Get the model from somebody you "
            "trust, or train it with notebook 04."
        )
    try:
        decoder = keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # Keras and h5py raise nearly anything on files they can't use
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise StaleArtefactError(
            f"{file} can't be loaded with Keras {keras.__version__} ({reason}). Train again with "
            "notebook 04, or use the versions in constraints.txt."
        ) from error
    if (words := decoder.output_shape[-1]) != len(vocabulary):
        raise StaleArtefactError(
            f"{file} chooses among {words:,} words, the vocabulary has {len(vocabulary):,}: they "
            "come from two trainings. Copy both from one run."
        )
    if known != given:
        raise StaleArtefactError(
            f"{file} was trained with another vocabulary ({known[:12]}…) than the one at hand "
            f"({given[:12]}…). Run notebook 04 again, or restore the vocabulary that it read."
        )
    return decoder


def _foreign(config) -> Iterator[str]:
    """What a model's description asks Keras to make that is not known to be harmless."""
    if isinstance(config, list):
        for item in config:
            yield from _foreign(item)
    if not isinstance(config, dict):
        return
    for item in config.values():
        yield from _foreign(item)
    if "class_name" in config:
        name, module = str(config["class_name"]), str(config.get("module") or "keras")
        registered = str(config.get("registered_name"))
        ours = registered.startswith("photograph_captions>")
        ours = ours and keras.saving.get_registered_object(registered) is not None
        if name in _CODE or not (ours or module.startswith(_HARMLESS) or module == "keras"):
            yield f"{module}.{name}"


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


def save_decoder(
    decoder: keras.Model, file: Path, vocabulary: Vocabulary, half: bool = False
) -> None:
    """Writes a decoder as one `.keras` file, atomically, with a note of its vocabulary.

    What it was trained with, optimizer and loss, is left out. `half` keeps matrices in float16.
    """
    if decoder.compiled:
        weights = decoder.get_weights()
        decoder = type(decoder).from_config(decoder.get_config())
        decoder.set_weights(weights)
    with atomic_path(file, size_on_disk(decoder)) as part:
        decoder.save(part)
        made_from = json.dumps({"vocabulary": content_hash(vocabulary.tokens)})
        with zipfile.ZipFile(part, "a") as archive:
            archive.writestr(zipfile.ZipInfo(_MADE_FROM), made_from)
        if half:
            _halve(part)


def _halve(file: Path) -> None:
    """Rewrites a `.keras` file with its matrices in float16; Keras loads it as any other.

    Vectors stay as they are: they are few, and the variance of a feature can be very small.
    """
    with tempfile.TemporaryDirectory(dir=file.parent) as name:
        folder = Path(name)
        with zipfile.ZipFile(file) as archive:
            archive.extract("model.weights.h5", folder)
            others = {one: archive.read(one) for one in archive.namelist() if "h5" not in one}
        with (
            h5py.File(folder / "model.weights.h5") as source,
            h5py.File(folder / "half.h5", "w") as target,
        ):

            def copy(name, item):
                if isinstance(item, h5py.Dataset):
                    numbers = item[()]
                    half = numbers.ndim > 1 and numbers.dtype == np.float32
                    copied = target.create_dataset(
                        name, data=numbers.astype(np.float16) if half else numbers
                    )
                else:
                    copied = target.require_group(name)
                copied.attrs.update(item.attrs)

            source.visititems(copy)
            target.attrs.update(source.attrs)
        others["model.weights.h5"] = (folder / "half.h5").read_bytes()
        with zipfile.ZipFile(file, "w") as archive:
            for one, content in others.items():  # a bare ZipInfo has no time: same bytes each time
                archive.writestr(zipfile.ZipInfo(one), content, zipfile.ZIP_DEFLATED)


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
