"""Files that try to run code or to exhaust the machine: none of them gets as far."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from tests.robustness import row
from tests.robustness.artefacts import ONLINE, bundle
from tests.test_features import draw_photos
from utils.captioner import DECODER_FILE
from utils.captions import Vocabulary
from utils.features import extract_features, load_features
from utils.machinery.checkpoints import load_decoder

WORDS = Vocabulary.build([["a", "dog"]])


class _Harmful:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def npy(array: np.ndarray) -> bytes:
    """The bytes of a `.npy` file, with pickled objects if the array has some."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def promising(*shape: int) -> bytes:
    """A `.npy` file whose header promises numbers that are not there."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


@row("Trust", "a model of Keras in the place of a decoder")
def _(folder: Path) -> str:
    pixels = keras.Input((3,))
    model = keras.Model(pixels, keras.layers.Lambda(lambda x: x + 1)(pixels))
    model.save(folder / "model.keras")
    file = (folder / "model.keras").rename(folder / DECODER_FILE)
    return str(load_decoder(file, WORDS))


@row("Trust", "a pickle in the place of a decoder", lambda content: b"\x80\x04cos\nsystem\n")
@row("Trust", "a decoder that is cut short", lambda content: content[:-100])
@row("Trust", "a decoder that is not there but a pipe", None)
def _(folder: Path, change: Callable[[bytes], bytes] | None) -> str:
    file = bundle(folder / "bundle") / DECODER_FILE
    content = file.read_bytes()
    if change is None:
        file.unlink()
        os.mkfifo(file)
    else:
        file.write_bytes(change(content))
    return str(load_decoder(file, WORDS))


def with_member(folder: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    """The decoder of a bundle with one of its arrays changed, or added."""
    file = bundle(folder / "bundle") / DECODER_FILE
    with zipfile.ZipFile(file) as archive:
        content = {member: archive.read(member) for member in archive.namelist()}
    content[name] = change(content.get(name, b""))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in content.items():
            archive.writestr(member, data)
    return file


@row(
    "Trust",
    "a decoder with a pickled object",
    "logits.0.npy",
    lambda content: npy(np.array([_Harmful()], object)),
)
@row(
    "Trust",
    "a decoder that promises 4,000 billion weights",
    "logits.0.npy",
    lambda content: promising(10**9, 4000),
)
@row(
    "Trust",
    "a decoder that unpacks to 600 MB",
    "more.npy",
    lambda content: bytes(600 << 20),
)
@row(
    "Trust",
    "a decoder whose weights are no numbers",
    "logits.0.npy",
    lambda content: npy(np.full(np.load(io.BytesIO(content)).shape, np.nan, "float32")),
)
def _(folder: Path, name: str, change: Callable[[bytes], bytes]) -> str:
    file = with_member(folder, name, change)
    try:
        return str(load_decoder(file, WORDS))
    finally:
        assert not Path("unpickled").exists()


@row("Trust", "a decoder that names a function of Python", ("name",), "os.system")
@row("Trust", "a decoder with a setting that is none of ours", ("options", "command"), "ls")
@row("Trust", "a decoder of a billion units", ("options", "units"), 10**9)
@row("Trust", "a decoder of half a unit", ("options", "units"), 0.5)
@row("Trust", "a decoder that reads a billion features", ("feature_shape",), [10**9])
@row("Trust", "a decoder whose note of its vocabulary is of another kind", ("vocabulary",), [])
def _(folder: Path, place: tuple[str, ...], value: object) -> str:
    def change(content: bytes) -> bytes:
        settings = json.loads(str(np.load(io.BytesIO(content))))
        holder = settings if len(place) == 1 else settings[place[0]]
        holder[place[-1]] = value
        return npy(np.array(json.dumps(settings)))

    return str(load_decoder(with_member(folder, "settings.npy", change), WORDS))


@row("Trust", "a decoder whose settings are nested without end")
def _(folder: Path) -> str:
    nested = npy(np.array("[" * 100_000))
    return str(load_decoder(with_member(folder, "settings.npy", lambda _: nested), WORDS))


@row("Trust", "features with a pickled object")
def _(folder: Path) -> str:
    extract_features(ONLINE, draw_photos(folder / "photos", 10), folder)
    np.save(folder / "pooled.npy", np.array([_Harmful()] * 10, object), allow_pickle=True)
    try:
        return str(load_features(folder))
    finally:
        assert not Path("unpickled").exists()
