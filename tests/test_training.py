import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from utils.captions import PAD, Vocabulary
from utils.settings import PROJECT
from utils.training import (
    CaptionLoss,
    CaptionSet,
    Recipe,
    TokenCrossEntropy,
    train,
    training_identity,
)

COLOURS = ["red", "green", "blue", "white"]
THINGS = ["dog", "boat", "ball"]
RECIPE = Recipe(
    "tiny",
    "full",
    1,
    {"embedding_units": 12, "units": 16, "image_dropout": 0.2, "text_dropout": 0.2},
    batch_size=16,
    learning_rate=0.05,
    cosine=True,
    label_smoothing=0.05,
)

# What a new process runs: training as below, with some seconds an epoch to be killed in.
SCRIPT = """
import sys, time
from pathlib import Path
from tests.test_training import caption_set, RECIPE, VOCABULARY
from utils.training import train, read_history
import utils.training

if len(sys.argv) > 3:
    real = utils.training._Journal.on_train_batch_end
    def slow(self, batch, logs=None):
        time.sleep(float(sys.argv[3]))
        real(self, batch, logs)
    utils.training._Journal.on_train_batch_end = slow
result = train(RECIPE, "merge", VOCABULARY, caption_set(0, 40), caption_set(1, 12),
               Path(sys.argv[1]), epochs=int(sys.argv[2]), seed=5)
print(result.history.to_json(orient="records"))
"""


def caption_set(seed, count):
    """Photographs whose features say colour and thing, each with two captions."""
    random = np.random.default_rng(seed)
    colours, things = random.integers(0, 4, count), random.integers(0, 3, count)
    features = np.concatenate([np.eye(4)[colours], np.eye(3)[things]], axis=1)
    features = (features + random.normal(0, 0.05, features.shape)).astype("float32")
    tokens = [
        [f"a {COLOURS[c]} {THINGS[t]}".split(), f"there is a {THINGS[t]} in {COLOURS[c]}".split()]
        for c, t in zip(colours, things, strict=True)
    ]
    references = [[" ".join(caption) + " ." for caption in group] for group in tokens]
    return CaptionSet([f"{n}.jpg" for n in range(count)], features, tokens, references)


VOCABULARY = Vocabulary.build(caption for group in caption_set(0, 40).tokens for caption in group)


def run_training(folder, epochs, pause=None, backend=None):
    """Starts training in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    if backend:
        environment["KERAS_BACKEND"] = backend
    arguments = [sys.executable, "-c", SCRIPT, str(folder), str(epochs)]
    return subprocess.Popen(
        arguments + ([str(pause)] if pause else []),
        env=environment,
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def only_folder(parent):
    (folder,) = parent.iterdir()
    return folder


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A training of six epochs that nobody disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    result = train(
        RECIPE, "merge", VOCABULARY, caption_set(0, 40), caption_set(1, 12), folder, 6, seed=5
    )
    return folder, result


def test_a_decoder_learns_what_the_features_say(straight):
    _, result = straight
    history = result.history
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert history["loss"].iloc[-1] < 0.75 * history["loss"].iloc[0]
    assert history["dev_cider"].max() > 50 + history["dev_cider"].iloc[0]
    assert result.best_epoch == history["dev_cider"].idxmax() + 1
    assert history["learning_rate"].is_monotonic_decreasing


def test_the_model_returned_is_the_one_of_the_best_epoch(straight):
    _, result = straight
    dev = caption_set(1, 12)
    batches = dev.batches(VOCABULARY)
    metric = TokenCrossEntropy()
    for index in range(len(batches)):
        inputs, targets = batches[index]
        metric.update_state(targets, result.model(list(inputs), training=False))
    row = result.history.iloc[result.best_epoch - 1]
    assert float(metric.result()) == pytest.approx(row["dev_loss"], abs=1e-4)


def test_only_the_weights_of_the_best_and_the_last_epoch_stay_on_disk(straight):
    folder, result = straight
    kept = {file.name for file in only_folder(folder).glob("*.h5")}
    assert kept == {f"epoch-{result.best_epoch:03}.weights.h5", "epoch-006.weights.h5"}


def test_a_finished_training_is_taken_as_it_is(straight, monkeypatch):
    folder, result = straight
    monkeypatch.setattr("keras.Model.fit", lambda *_, **__: pytest.fail("trained again"))
    again = train(
        RECIPE, "merge", VOCABULARY, caption_set(0, 40), caption_set(1, 12), folder, 6, seed=5
    )
    pd.testing.assert_frame_equal(again.history, result.history)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 2},
        {"seed": 6},
        {"recipe": replace(RECIPE, batch_size=40)},
        {"training": caption_set(2, 40)},
        {"dev": caption_set(2, 12)},
        {"vocabulary": Vocabulary.build([["a", "dog"]])},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_training_is_another_identity(change):
    arguments = {
        "recipe": RECIPE,
        "decoder": "merge",
        "vocabulary": VOCABULARY,
        "training": caption_set(0, 40),
        "dev": caption_set(1, 12),
        "epochs": 1,
        "seed": 5,
    }
    same = training_identity(**(arguments | {"training": caption_set(0, 40)}))
    assert training_identity(**arguments) == same
    assert training_identity(**(arguments | change)) != same


def test_a_training_killed_in_mid_epoch_goes_on_and_ends_as_if_nothing_had_happened(
    straight, tmp_path
):
    straight_folder, _ = straight
    process = run_training(tmp_path, 6, pause=0.2)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/epoch-003*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed = pd.read_csv(only_folder(tmp_path) / "history.csv")
    assert 2 <= len(killed) < 6

    output, _ = run_training(tmp_path, 6).communicate()
    resumed = only_folder(tmp_path)
    assert (resumed / "history.csv").read_bytes() == (
        only_folder(straight_folder) / "history.csv"
    ).read_bytes()
    assert len(json.loads(output.splitlines()[-1])) == 6


def test_the_jax_backend_gives_the_same_losses(straight, tmp_path):
    # Dropout draws other numbers on another backend, so the comparison is made without it. The
    # embedding stands still: on TensorFlow, Keras hands Adam the gradients of a word that occurs
    # twice as two, and squares them before it adds them up, so there its steps are others.
    pytest.importorskip("jax")
    script = """
import keras, numpy as np
from tests.test_training import caption_set, VOCABULARY
from utils.decoder import build_merge, standardise
from utils.search import Searcher, captions_of
from utils.training import Recipe, _compile
captions = caption_set(0, 40)
model = build_merge(len(VOCABULARY), (7,), 12, 16, 0.0, 0.0)
random = np.random.default_rng(0)
for weight in model.trainable_variables:
    weight.assign(random.normal(0, 0.3, weight.shape))
model.get_layer("embedding").trainable = False
standardise(model, captions.features)
_compile(model, Recipe("plain", "full", 1, learning_rate=0.01), 10)
batches = captions.batches(VOCABULARY, batch_size=16)
history = model.fit(batches, epochs=3, shuffle=False, verbose=0).history
best = Searcher(model, beam=3).best(captions.features[:5])
print(keras.backend.backend(), *history["token_loss"], "|", *captions_of(best, VOCABULARY), sep=";")
"""
    results = []
    for backend in ("tensorflow", "jax"):
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "KERAS_BACKEND": backend}
        output = subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[-1]
        name, *losses_and_captions = output.split(";")
        assert name == backend
        middle = losses_and_captions.index("|")
        results.append(
            (
                np.array(losses_and_captions[:middle], float),
                losses_and_captions[middle + 1 :],
            )
        )
    (losses, captions), (jax_losses, jax_captions) = results
    np.testing.assert_allclose(jax_losses, losses, atol=1e-3)
    assert jax_captions == captions


def test_the_loss_is_the_mean_over_real_tokens_and_smoothing_spreads_the_target():
    logits = np.log([[[0.7, 0.1, 0.1, 0.1], [0.1, 0.6, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]]])
    targets = np.array([[3, 1, PAD]])
    expected = -(np.log(0.1) + np.log(0.6)) / 2
    assert float(CaptionLoss()(targets, logits)) == pytest.approx(expected, abs=1e-6)
    evenly = -(np.mean(logits[0, 0]) + np.mean(logits[0, 1])) / 2
    smoothed = 0.9 * expected + 0.1 * evenly
    assert float(CaptionLoss(0.1)(targets, logits)) == pytest.approx(smoothed, abs=1e-6)


def test_the_epochs_loss_weighs_every_token_the_same_whatever_the_batches():
    metric = TokenCrossEntropy()
    even = np.zeros((1, 2, 4))
    sure = np.array([[[0, 0, 0, 50.0], [0, 0, 0, 0]]])
    metric.update_state(np.array([[1, 2]]), even)
    metric.update_state(np.array([[3, PAD]]), sure)
    assert float(metric.result()) == pytest.approx(2 * np.log(4) / 3, abs=1e-6)
