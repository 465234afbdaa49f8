"""Several devices and processes: together they do what one does, and nothing twice."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_batches import captions_in, photographs_with_captions
from tests.test_features import SlowEncoder, draw_photos
from utils.batches import CaptionBatches
from utils.features import extract_features
from utils.machinery.devices import Devices, distributed, share
from utils.machinery.errors import SettingsError
from utils.machinery.files import read_json
from utils.settings import PROJECT, Settings

shares = st.tuples(st.integers(1, 4), st.integers(1, 3)).map(
    lambda counts: [
        Devices(counts[0] * counts[1], counts[0], process) for process in range(counts[0])
    ]
)


# What each process runs, with one shape of batch each, as each is compiled. Neither the batches of
# 15 captions nor those of 9 and of 45 photographs divide by the numbers of devices.
SCRIPT = """
import json, sys
from dataclasses import replace
from pathlib import Path
from tests.test_features import Photos, SlowEncoder
from tests.test_training import RECIPE, VOCABULARY, caption_set
from utils.machinery.devices import Devices, distributed, require_same, start
from utils.machinery.errors import SettingsError
from utils.features import extract_features
from utils.self_critical import SelfCritical, train_self_critical
from utils.settings import Settings
from utils.training import train

folder, settings = Path(sys.argv[1]), Settings.from_environment()
start(settings)
found = {}
recipe = replace(RECIPE, batch_size=15)
options = {**RECIPE.decoder_options, "tied": True}
by_photo = replace(recipe, decoder_options=options, batch_size=90, by_photo=True)
results = {}
for name, one in {"merge": recipe, "attention": by_photo}.items():
    training, dev = (caption_set(seed, n, one.by_photo) for seed, n in ((0, 45), (1, 13)))
    training = replace(training, mirrored=training.features[:, ..., ::-1])
    known = {"vocabulary": VOCABULARY, "training": training, "dev": dev, "seed": 5}
    known["devices"] = Devices.of(settings)
    results[name] = train(one, decoder=name, folder=folder / "training", epochs=2, **known)
    if name == "merge":
        stage = SelfCritical(epochs=2, batch_size=9, learning_rate=0.02, max_tokens=7)
        results["second"] = train_self_critical(results[name], recipe=one, stage=stage, **known)
for name, result in results.items():
    found[name] = {"history": result.history.to_dict("list"), "folder": str(result.folder)}
photos = Photos((folder.parent / "photos").resolve(), json.loads(sys.argv[2]))
features = extract_features(SlowEncoder(), photos, folder / "features", batch_size=8)
found["unreadable"] = features.unreadable
try:
    require_same(settings.process, "a number")
    with distributed(Devices(8)):
        pass
except SettingsError as error:
    found["error"] = str(error)
print(json.dumps(found))
"""


def begin(folder, splits, environment) -> subprocess.Popen:
    known = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), json.dumps(splits)],
        env={**os.environ, **known, **environment},
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Fifty photographs, two of them broken."""
    drawn = draw_photos(tmp_path_factory.mktemp("devices") / "photos", 50)
    for name in ("photo003.png", "photo041.png"):
        drawn.photo_path(name).write_bytes(b"")
    return drawn


@dataclass(frozen=True)
class Found:
    """What one device, and others, came to: `{way: [of each process]}`."""

    folder: Path
    results: dict[str, list[dict]]

    @property
    def one(self) -> dict:
        return self.results["one"][0]


TRAININGS = ("merge", "second", "attention")


@pytest.fixture(scope="module")
def found(photos, tmp_path_factory):
    pytest.importorskip("jax")
    quick = "--xla_backend_optimization_level=0"  # to compile; there is little to compute
    four = f"{quick} --xla_force_host_platform_device_count=4"
    together = {
        "XLA_FLAGS": quick,
        "DEVICES": "2",
        "PROCESSES": "2",
        "ADDRESS": f"127.0.0.1:{free_port()}",
    }
    environments = {
        "one": [{"XLA_FLAGS": quick}],
        "four devices": [{"XLA_FLAGS": four, "DEVICES": "4"}],
        "two processes": [together | {"PROCESS": str(process)} for process in range(2)],
    }
    folder = tmp_path_factory.mktemp("found")
    (folder / "photos").symlink_to(photos.folder)
    processes = {
        way: [begin(folder / way, photos.splits, environment) for environment in own]
        for way, own in environments.items()
    }
    results = {}
    for way, started in processes.items():
        outputs = [process.communicate() for process in started]
        for process, (_, errors) in zip(started, outputs, strict=True):
            assert process.returncode == 0, errors[-3000:]
        results[way] = [json.loads(output.splitlines()[-1]) for output, _ in outputs]
    return Found(folder, results)


@pytest.mark.slow
def test_several_devices_train_as_one_does(found):
    for way, training in product(found.results, TRAININGS):
        expected = found.one[training]
        assert len(expected["history"]["epoch"]) == 2
        for process in found.results[way]:
            for column, values in expected["history"].items():
                np.testing.assert_allclose(
                    process[training]["history"][column],
                    values,
                    atol=1e-5,
                    err_msg=f"{way}, {training}, {column}",
                )


@pytest.mark.slow
def test_processes_share_one_folder_that_holds_what_one_would_write(found):
    for training in TRAININGS:
        (folder,) = {process[training]["folder"] for process in found.results["two processes"]}
        together, one = (
            {file.name for file in (found.folder / place).glob("*.*")}
            for place in (folder, found.one[training]["folder"])
        )
        assert together == one
        assert "history.csv" in together
        history = pd.read_csv(found.folder / folder / "history.csv", float_precision="round_trip")
        expected = found.results["two processes"][0][training]["history"]
        assert history.to_dict("list") == expected


@pytest.mark.slow
def test_processes_extract_what_one_does(found, photos, tmp_path):
    whole = extract_features(SlowEncoder(), photos, tmp_path, batch_size=8)
    folder = found.folder / "two processes" / "features"
    assert (folder / "pooled.npy").read_bytes() == (tmp_path / "pooled.npy").read_bytes()
    manifest = read_json(folder / "pooled.json")
    assert manifest | {"seconds": 0} == whole.manifest | {"seconds": 0}
    assert {file.name for file in folder.iterdir()} == {"pooled.npy", "pooled.json", ".lock"}
    for process in found.results["two processes"]:
        assert process["unreadable"] == whole.unreadable
    assert len(whole.unreadable) == 2


@pytest.mark.slow
def test_processes_that_would_do_different_things_are_stopped(found):
    for process in found.results["two processes"]:
        assert "For a number, process 1 has other settings" in process["error"]


@pytest.mark.slow
def test_devices_that_are_not_there_are_asked_for_in_vain(found):
    for way in found.results.keys() - {"two processes"}:
        there = {"one": 1, "four devices": 4}[way]
        message = found.results[way][0]["error"]
        assert f"DEVICES is 8: each process needs 8, and process 0 has {there}" in message


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="is about the other backends")
def test_other_backends_are_refused_and_one_device_needs_none():
    devices = Devices.of(Settings(devices=2))
    refused = pytest.raises(SettingsError, match=r"DEVICES is 2.*KERAS_BACKEND=jax")
    with refused, distributed(devices):
        pass
    with distributed(Devices.of(Settings())):
        assert share() == Devices()


# The shares of a batch


@given(shares, st.integers(1, 40))
def test_the_shares_make_up_the_batch_and_are_equally_large(shares, count):
    places = [share.places(count) for share in shares]
    assert len({len(part) for part in places}) == 1
    assert len(np.concatenate(places)) % shares[0].count == 0
    together = np.concatenate(places)
    assert together[together >= 0].tolist() == list(range(count))
    assert (together < 0).sum() < shares[0].count


@settings(deadline=None)
@given(
    photographs_with_captions(),
    st.integers(1, 9),
    st.one_of(st.none(), st.integers(0, 5)),
    st.booleans(),
    shares,
)
def test_over_all_processes_every_caption_comes_exactly_once_an_epoch(
    photographs, batch_size, seed, by_photo, shares
):
    rows, captions = photographs
    features = np.arange(13, dtype="float32")[:, None]
    known = (features, rows, captions, batch_size, seed)
    parts = [CaptionBatches(*known, by_photo=by_photo, share=share) for share in shares]
    expected = sorted(((row,), caption) for row, caption in zip(rows, captions, strict=True))
    for _ in range(2):
        assert sorted(found for part in parts for found in captions_in(part)) == expected
        for part in parts:
            part.on_epoch_end()


@settings(deadline=None)
@given(photographs_with_captions(), st.integers(1, 9), st.booleans(), shares)
def test_the_parts_of_a_batch_put_together_are_the_batch_of_one_process(
    photographs, batch_size, by_photo, shares
):
    rows, captions = photographs
    features = np.arange(13, dtype="float32")[:, None]
    known = (features, rows, captions, batch_size)
    options = {"seed": 3, "mirrored": -1 - features, "by_photo": by_photo}
    whole = CaptionBatches(*known, **options)
    parts = [CaptionBatches(*known, **options, share=replace(share)) for share in shares]
    for index in range(len(whole)):
        (of_photos, tokens), targets = whole[index]
        inputs, outputs = zip(*(part[index] for part in parts), strict=True)
        together = [np.concatenate(arrays) for arrays in (*zip(*inputs, strict=True), outputs)]
        for part, wanted in zip(together, (of_photos, tokens, targets), strict=True):
            np.testing.assert_array_equal(part[: len(wanted)], wanted)
        for filling in together[1:]:
            assert not filling[len(tokens) :].any()
