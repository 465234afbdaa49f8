"""Files that try to run code: none of them gets as far."""

import json
import os
import zipfile
from pathlib import Path

import keras
import numpy as np

from tests.robustness import row
from tests.robustness.artefacts import ONLINE, bundle
from tests.test_features import draw_photos
from utils.captioner import DECODER_FILE
from utils.captions import Vocabulary
from utils.decoder import build_merge
from utils.features import extract_features, load_features
from utils.machinery.checkpoints import load_decoder

WORDS = Vocabulary.build([["a", "dog"]])


@row("Trust", "a model with a Lambda layer")
def _(folder: Path) -> str:
    pixels = keras.Input((3,))
    keras.Model(pixels, keras.layers.Lambda(lambda x: x + 1)(pixels)).save(folder / DECODER_FILE)
    return str(load_decoder(folder / DECODER_FILE, WORDS))


@row("Trust", "a model with a function of Python", "builtins", "exec", None)
@row("Trust", "a model with a function of Keras that lifts its guard", "keras.config", "x", None)
@row("Trust", "a model with a class under the name of ours", "os", "x", "photograph_captions>x")
def _(folder: Path, module: str, name: str, registered: str | None) -> str:
    file = bundle(folder / "bundle") / DECODER_FILE
    with zipfile.ZipFile(file) as archive:
        content = {member: archive.read(member) for member in archive.namelist()}
    config = json.loads(content["config.json"])
    config["config"]["layers"][0] |= {
        "module": module,
        "class_name": name,
        "registered_name": registered,
    }
    content["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for member, data in content.items():
            archive.writestr(member, data)
    return str(load_decoder(file, WORDS))


@row("Trust", "a model that is no .keras archive", b"\x80\x04cos\nsystem\n")
@row("Trust", "a model that is cut short", None)
def _(folder: Path, content: bytes | None) -> str:
    file = bundle(folder / "bundle") / DECODER_FILE
    file.write_bytes(content or file.read_bytes()[:-100])
    return str(load_decoder(file, WORDS))


@row("Trust", "a model whose note of its vocabulary is of another kind")
def _(folder: Path) -> str:
    file = folder / DECODER_FILE
    build_merge(len(WORDS), (48,), 4, 4).save(file)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("made_from.json", "[]")
    return str(load_decoder(file, WORDS))


class _Harmful:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


@row("Trust", "features with a pickled object")
def _(folder: Path) -> str:
    extract_features(ONLINE, draw_photos(folder / "photos", 10), folder)
    np.save(folder / "pooled.npy", np.array([_Harmful()] * 10, object), allow_pickle=True)
    try:
        return str(load_features(folder))
    finally:
        assert not Path("unpickled").exists()
