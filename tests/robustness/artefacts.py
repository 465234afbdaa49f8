"""Files that earlier runs made: of another run, of another version, or edited by hand."""

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pandas as pd

from tests.robustness import row
from tests.test_features import SlowEncoder, draw_photos
from utils import captioner as captioner_module
from utils.captioner import BUNDLE_FILE, DECODER_FILE, VOCABULARY_FILE, Captioner
from utils.captions import CAPTION_COLUMNS, RESERVED, Vocabulary, read_caption_table
from utils.decoder import build_decoder
from utils.encoder import load_encoder
from utils.features import extract_features, load_features
from utils.machinery.errors import UnreadablePhotographError
from utils.machinery.files import file_hash, read_table, record_files, write_table, write_text
from utils.search import SearchSettings

ONLINE = SlowEncoder(name="xception")
OFFLINE = replace(ONLINE, weights="untrained, seed 42", weights_hash="f" * 64)


def edit(file: Path, **changes) -> None:
    """Edits a JSON file by hand; None takes a name out."""
    content = json.loads(file.read_text()) | changes
    kept = {name: value for name, value in content.items() if value is not None}
    file.write_text(json.dumps(kept))


# Features


@row("Features", "extracted offline, asked for online", OFFLINE, ONLINE)
@row("Features", "extracted online, asked for offline", ONLINE, OFFLINE)
@row("Features", "of another encoder", ONLINE, replace(ONLINE, name="vgg16", weights_hash="a" * 64))
@row("Features", "of another image size", ONLINE, replace(ONLINE, image_size=16))
def _(folder: Path, then: SlowEncoder, now: SlowEncoder) -> str:
    photos = draw_photos(folder / "photos", 10)
    extract_features(then, photos, folder / "features")
    before = (folder / "features" / "pooled.npy").read_bytes()
    try:
        return str(extract_features(now, photos, folder / "features"))
    finally:
        assert (folder / "features" / "pooled.npy").read_bytes() == before


@row("Features", "a photograph was added since")
def _(folder: Path) -> str:
    extract_features(ONLINE, draw_photos(folder / "photos", 10), folder / "features")
    more = draw_photos(folder / "photos", 11)
    return str(extract_features(ONLINE, more, folder / "features"))


@row("Features", "loaded for another encoder", "pooled.json", None, "vgg16")
@row("Features", "of another format", "pooled.json", {"format": 0}, None)
@row("Features", "a manifest that lacks its photographs", "pooled.json", {"photos": None}, None)
@row("Features", "a manifest that is no JSON", "pooled.json", b"by hand", None)
@row("Features", "an array that is cut short", "pooled.npy", b"", None)
@row("Features", "a manifest that is missing", "pooled.json", "missing", None)
def _(folder: Path, name: str, change: dict | bytes | str | None, encoder: str | None) -> str:
    extract_features(ONLINE, draw_photos(folder / "photos", 10), folder / "features")
    file = folder / "features" / name
    if isinstance(change, dict):
        edit(file, **change)
    elif isinstance(change, bytes):
        file.write_bytes(change)
    elif change == "missing":
        file.unlink()
    return str(load_features(folder / "features", encoder=encoder))


@row("Features", "a row that was cleared in place")
def _(folder: Path) -> str:
    extract_features(ONLINE, draw_photos(folder / "photos", 10), folder / "features")
    array = np.load(folder / "features" / "pooled.npy", mmap_mode="r+")
    array[3] = 0
    array.flush()
    return str(load_features(folder / "features"))


@row("Features", "one number in the middle that became none")
def _(folder: Path) -> str:
    photos = draw_photos(folder / "photos", 10)
    extract_features(ONLINE, photos, folder / "features", "spatial")
    array = np.load(folder / "features" / "spatial.npy", mmap_mode="r+")
    array[3, 1, 1, 1] = np.nan
    array.flush()
    return str(load_features(folder / "features", "spatial"))


@row("Features", "a manifest whose photographs are in another order")
def _(folder: Path) -> str:
    features = extract_features(ONLINE, draw_photos(folder / "photos", 10), folder / "features")
    edit(folder / "features" / "pooled.json", photos=features.photos[::-1])
    return str(load_features(folder / "features"))


@row("Features", "a photograph was replaced by one of equal size")
def _(folder: Path) -> str:
    photos = draw_photos(folder / "photos", 10)
    extract_features(ONLINE, photos, folder / "features")
    path = photos.photo_path("photo007.png")
    path.write_bytes(bytes(path.stat().st_size))
    return str(extract_features(ONLINE, photos, folder / "features"))


@row("Features", "a photograph was changed in its middle only")
def _(folder: Path) -> str:
    photos = draw_photos(folder / "photos", 10)
    path = photos.photo_path("photo007.png")
    path.write_bytes(path.read_bytes() + bytes(100_000))
    extract_features(ONLINE, photos, folder / "features")
    with path.open("r+b") as file:
        file.seek(50_000)
        file.write(b"other")
    return str(extract_features(ONLINE, photos, folder / "features"))


@row("Features", "a photograph that can't be read for now")
def _(folder: Path) -> str:
    busy = UnreadablePhotographError("photo.png could not be read (input/output error).")
    with patch("utils.photographs.load_pixels", side_effect=busy):
        return str(extract_features(ONLINE, draw_photos(folder / "photos", 10), folder / "f"))


@row("Features", "an array of another shape than its manifest says")
def _(folder: Path) -> str:
    extract_features(ONLINE, draw_photos(folder / "photos", 10), folder / "features")
    np.save(folder / "features" / "pooled.npy", np.zeros((10, 4), np.float32))
    return str(load_features(folder / "features"))


@row("Features", "weights of the CNN that are not there")
def _(folder: Path) -> str:
    return str(load_encoder("mobilenet_v2", str(folder / "mine.weights.h5")))


# Captions and vocabulary


@row("Vocabulary", "of another format", {"format": 0})
@row("Vocabulary", "edited: a word stands twice", {"tokens": [*RESERVED, "dog", "dog"]})
@row("Vocabulary", "edited: the reserved words are gone", {"tokens": ["a", "dog"]})
@row("Vocabulary", "edited: no list of words", {"tokens": "a dog"})
@row("Vocabulary", "edited: a number among the words", {"tokens": [*RESERVED, 7]})
@row("Vocabulary", "edited: the threshold is gone", {"min_count": None})
@row("Vocabulary", "of a cleaning that is unknown", {"cleaning": "thorough"})
def _(folder: Path, change: dict) -> str:
    Vocabulary.build([["a", "dog"]]).save(folder / "vocabulary.json")
    edit(folder / "vocabulary.json", **change)
    return str(Vocabulary.load(folder / "vocabulary.json"))


@row("Vocabulary", "no JSON", b"a dog")
@row("Vocabulary", "a list and no vocabulary", b'["a", "dog"]')
@row("Vocabulary", "missing", None)
def _(folder: Path, content: bytes | None) -> str:
    if content:
        (folder / "vocabulary.json").write_bytes(content)
    return str(Vocabulary.load(folder / "vocabulary.json"))


@row("Table of captions", "of another version", b"photo,caption\na.jpg,A dog\n")
@row("Table of captions", "empty", b"")
@row(
    "Table of captions",
    "cut in the middle of a line",
    f"{','.join(CAPTION_COLUMNS)}\na,de".encode(),
)
@row("Table of captions", "missing", None)
def _(folder: Path, content: bytes | None) -> str:
    if content is not None:
        (folder / "captions.csv").write_bytes(content)
    return str(read_caption_table(folder / "captions.csv"))


@row("Table of captions", "changed since notebook 02 wrote it")
def _(folder: Path) -> str:
    table = f"{','.join(CAPTION_COLUMNS)}\na.jpg,dev,0,A dog,a dog,dog\n"
    write_text(folder / "captions.csv", table)
    record_files("notebook 02", folder / "captions.csv")
    write_text(folder / "captions.csv", table.replace("dog", "cat"))
    return str(read_caption_table(folder / "captions.csv"))


@row("Table of captions", "captions that a spreadsheet would take for formulas")
def _(folder: Path) -> str:
    said = ["=1+1", "+1 dog", "-1 dog", "@dog", "\t=dog", "'=dog", "'s dog", "a dog"]
    table = pd.DataFrame({"caption": said})
    write_table(folder / "captions.csv", table)
    written = (folder / "captions.csv").read_text().splitlines()[1:]
    assert not any(line.startswith(tuple("=+-@\t")) for line in written)
    assert read_table(folder / "captions.csv", {"caption": str}).equals(table)
    return f"written as text, such as {written[0]}, and read as they were"


# A captioner's three files


def bundle(folder: Path, words: tuple[str, ...] = ("a", "dog")) -> Path:
    """Writes the files of a captioner whose encoder gives 48 features."""
    return Path(shutil.copytree(_made_once(words), folder))


@cache
def _made_once(words: tuple[str, ...]) -> str:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    encoder = SimpleNamespace(
        name="xception",
        weights="imagenet",
        weights_hash="0" * 64,
        probe=lambda: np.arange(48.0),
        spec=SimpleNamespace(width=48),
    )
    vocabulary = Vocabulary((*RESERVED, *words))
    decoder = build_decoder("merge", len(vocabulary), (48,), embedding_units=4, units=4)
    Captioner(encoder, decoder, vocabulary, SearchSettings(2, 1.0, 4)).save(folder)
    return str(folder)


def load(folder: Path, **encoder) -> str:
    """Loads a bundle; the encoder that is found is Xception with its weights and `encoder`."""
    found = {"name": "xception", "weights": "imagenet", "weights_hash": "0" * 64, "width": 48}
    found |= encoder
    found["spec"] = SimpleNamespace(width=found.pop("width"))
    found["probe"] = lambda: np.random.default_rng(0).normal(size=48)
    with patch.object(captioner_module, "load_encoder", return_value=SimpleNamespace(**found)):
        return f"loaded: {Captioner.load(folder).decoder.name}"


@row("Captioner", "as it was saved", {})
@row(
    "Captioner",
    "the encoder has other weights",
    {"weights": "untrained, seed 42", "weights_hash": "f" * 64},
)
@row("Captioner", "the encoder gives other features", {"name": "vgg16", "width": 512})
def _(folder: Path, encoder: dict) -> str:
    return load(bundle(folder / "bundle"), **encoder)


@row("Captioner", "an older format", {"format": 1})
@row("Captioner", "a newer format", {"format": 99})
@row("Captioner", "edited: the hashes are gone", {"decoder_hash": None, "vocabulary_hash": None})
@row("Captioner", "edited: an unknown setting of the search", {"search": {"width": 3}})
def _(folder: Path, change: dict) -> str:
    bundle(folder / "bundle")
    edit(folder / "bundle" / BUNDLE_FILE, **change)
    return load(folder / "bundle")


@row("Captioner", "a description that is no JSON", BUNDLE_FILE, lambda text: b"by hand")
@row(
    "Captioner",
    "a vocabulary edited by hand",
    VOCABULARY_FILE,
    lambda text: text.replace(b"dog", b"cat"),
)
def _(folder: Path, name: str, change: Callable[[bytes], bytes]) -> str:
    file = bundle(folder / "bundle") / name
    file.write_bytes(change(file.read_bytes()))
    return load(folder / "bundle")


@row("Captioner", "the vocabulary of another training", VOCABULARY_FILE)
@row("Captioner", "the description of another training", BUNDLE_FILE)
@row("Captioner", "a file is missing", None)
def _(folder: Path, name: str | None) -> str:
    mine = bundle(folder / "bundle")
    if name is None:
        (mine / DECODER_FILE).unlink()
    else:
        other = bundle(folder / "other", ("a", "dog", "runs"))
        (mine / name).write_bytes((other / name).read_bytes())
    return load(mine)


@row("Captioner", "another vocabulary, and the description made to fit it", ("a", "dog", "runs"))
@row("Captioner", "other words, as many, and the description made to fit them", ("dog", "a"))
def _(folder: Path, words: tuple[str, ...]) -> str:
    mine = bundle(folder / "bundle")
    Vocabulary((*RESERVED, *words)).save(mine / VOCABULARY_FILE)
    edit(mine / BUNDLE_FILE, vocabulary_hash=file_hash(mine / VOCABULARY_FILE))
    return load(mine)
