import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest

from tests.test_lock import Holder
from utils.batches import CaptionSet
from utils.captions import PAD, Vocabulary
from utils.decoder import copy_decoder
from utils.machinery.checkpoints import weights_file
from utils.machinery.errors import FolderInUseError, StaleArtefactError
from utils.machinery.files import read_json
from utils.settings import PROJECT
from utils.training import (
    CaptionLoss,
    DivergedError,
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
    decoder_options={
        "embedding_units": 12,
        "units": 16,
        "image_dropout": 0.2,
        "text_dropout": 0.2,
    },
    batch_size=16,
    learning_rate=0.05,
    cosine=True,
    label_smoothing=0.05,
)

# What a new process runs: training as below, with some seconds an epoch to be killed in.
SCRIPT = """
import sys, time
from pathlib import Path
from tests.test_training import toy
from utils.training import Journal

real = Journal.on_train_batch_end
def slow(self, batch, logs=None):
    time.sleep(0.2)
    real(self, batch, logs)
Journal.on_train_batch_end = slow
toy(Path(sys.argv[1]), epochs=6)
"""


# What a new process prints: losses and captions of every decoder, trained without dropout, which
# draws other numbers on another backend.
BACKEND_SCRIPT = """
import json
import keras, numpy as np
from tests.test_training import caption_set, VOCABULARY
from utils.decoder import DECODERS, build_decoder, standardise
from utils.search import Searcher, captions_of
from utils.training import Recipe, compile_decoder

results = {"backend": keras.backend.backend()}
for name, options in {"merge": {}, "inject": {"tied": True}, "attention": {"heads": 2}}.items():
    captions = caption_set(0, 40, spatial=name == "attention")
    shape = captions.features.shape[1:]
    sizes = {"embedding_units": 12, "units": 16, "image_dropout": 0.0, "text_dropout": 0.0}
    model = build_decoder(name, len(VOCABULARY), shape, **sizes, **options)
    random = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign(random.normal(0, 0.3, weight.shape))
    standardise(model, captions.features)
    compile_decoder(model, Recipe("plain", "full", 1, learning_rate=0.01, clip_norm=1.0), 10)
    batches = captions.batches(VOCABULARY, batch_size=16, by_photo=name == "attention")
    history = model.fit(batches, epochs=3, shuffle=False, verbose=0).history
    best = Searcher(model, beam=3).best(captions.features[:5])
    results[name] = [history["token_loss"], captions_of(best, VOCABULARY)]
print(json.dumps(results))
"""


def caption_set(seed, count, spatial=False):
    """Photographs whose features say colour and thing, each with two captions.

    In spatial features two of three regions say nothing, and the third is any of them.
    """
    random = np.random.default_rng(seed)
    colours, things = random.integers(0, 4, count), random.integers(0, 3, count)
    features = np.concatenate([np.eye(4)[colours], np.eye(3)[things]], axis=1)
    features = (features + random.normal(0, 0.05, features.shape)).astype("float32")
    if spatial:
        regions = random.normal(0, 0.05, (count, 1, 3, 7))
        regions[range(count), 0, random.integers(0, 3, count)] += features
        features = regions.astype("float16")
    tokens = [
        [f"a {COLOURS[c]} {THINGS[t]}".split(), f"there is a {THINGS[t]} in {COLOURS[c]}".split()]
        for c, t in zip(colours, things, strict=True)
    ]
    references = [[" ".join(caption) + " ." for caption in group] for group in tokens]
    return CaptionSet([f"{n}.jpg" for n in range(count)], features, tokens, references)


VOCABULARY = Vocabulary.build(caption for group in caption_set(0, 40).tokens for caption in group)


def toy(folder, count=40, dev_count=12, recipe=RECIPE, **changes):
    """Trains the merge decoder on toy captions."""
    known = {
        "decoder": "merge",
        "vocabulary": VOCABULARY,
        "training": caption_set(0, count),
        "dev": caption_set(1, dev_count),
        "folder": folder,
        "seed": 5,
    }
    return train(recipe, **(known | changes))


def run(script, *arguments, backend=None):
    """Starts a script in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    if backend:
        environment["KERAS_BACKEND"] = backend
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
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
    return folder, toy(folder, epochs=6)


def test_a_decoder_learns_what_the_features_say(straight):
    _, result = straight
    history = result.history
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert history["loss"].iloc[-1] < 0.75 * history["loss"].iloc[0]
    assert history["dev_cider"].max() > 50 + history["dev_cider"].iloc[0]
    assert result.best_epoch == history["dev_cider"].idxmax() + 1
    assert history["learning_rate"].is_monotonic_decreasing


@pytest.mark.parametrize(
    ("decoder", "tied"),
    [pytest.param("inject", False, marks=pytest.mark.slow), ("attention", True)],
)
def test_the_other_decoders_learn_it_too_also_by_photograph(decoder, tied, tmp_path):
    recipe = replace(
        RECIPE,
        epochs=20,
        decoder_options={**RECIPE.decoder_options, "tied": tied},
        by_photo=True,
        clip_norm=5.0,
    )
    training, dev = (
        caption_set(seed, count, decoder == "attention") for seed, count in [(0, 40), (1, 12)]
    )
    if decoder == "attention":
        training = replace(training, mirrored=training.features[:, :, ::-1])
    result = toy(tmp_path, recipe=recipe, decoder=decoder, training=training, dev=dev)
    assert result.model.name == decoder
    assert len(result.history) == 20
    # Who doesn't look at the photograph guesses its captions' first word, colour and thing among
    # their eleven tokens.
    guessing = (2 * np.log(2) + 2 * np.log(4) + 2 * np.log(3)) / 11
    assert result.history["dev_loss"].min() < 0.9 * guessing


def test_the_argument_adds_no_epochs_to_a_recipe(tmp_path):
    assert len(toy(tmp_path, 4, 2, replace(RECIPE, epochs=1), epochs=3).history) == 1


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
    again = toy(folder, epochs=6)
    pd.testing.assert_frame_equal(again.history, result.history)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 2},
        {"seed": 6},
        {"recipe": replace(RECIPE, batch_size=40)},
        {"decoder": "inject"},
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


def test_a_training_that_another_process_is_at_is_not_begun(straight, monkeypatch):
    folder, _ = straight
    monkeypatch.setattr("utils.machinery.lock.PATIENCE", 0.1)
    with Holder(only_folder(folder)), pytest.raises(FolderInUseError, match="tiny_merge"):
        toy(folder, epochs=6)
    assert len(toy(folder, epochs=6).history) == 6


def test_what_a_kill_left_half_written_is_cleared_away(straight, tmp_path):
    _, result = straight
    folder = tmp_path / result.folder.name
    shutil.copytree(result.folder, folder)
    identity = read_json(folder / "training.json")
    (folder / "training.json").write_text('{"recipe"')
    (folder / ".part-1epoch-001.weights.h5").write_bytes(b"half")
    toy(tmp_path, epochs=6)
    assert not list(folder.glob(".part-*"))
    assert read_json(folder / "training.json") == identity


def test_damaged_weights_are_refused_with_two_ways_to_go_on(straight, tmp_path):
    _, result = straight
    folder = tmp_path / result.folder.name
    shutil.copytree(result.folder, folder)
    history, last = folder / "history.csv", weights_file(folder, 4)
    lines = history.read_text().splitlines(keepends=True)
    history.write_text("".join(lines[:5]))  # four epochs, of which the second was the best
    weights_file(folder, 6).rename(weights_file(folder, 2))

    def assert_refused(words):
        with pytest.raises(StaleArtefactError, match=rf"{words}.*Delete the folder.*from epoch 2"):
            toy(tmp_path, epochs=6)

    poisoned = copy_decoder(result.model)
    kernel = poisoned.get_layer("hidden").kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    poisoned.save_weights(last)
    assert_refused("finite")
    last.write_bytes(last.read_bytes()[:3000])
    assert_refused("no weights")
    last.unlink()
    assert_refused("missing")
    history.write_text("".join(lines[:3]))
    assert len(toy(tmp_path, epochs=6).history) == 6


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text[:-1],
        lambda text: text.replace("dev_loss", "loss_on_dev"),
        lambda text: text.replace("\n2,", "\n3,"),
        lambda text: text.replace("\n2,", "\n2,nan,"),
        lambda text: "",
        lambda text: "epoch,loss,dev_loss,dev_cider,learning_rate\n1,nan,2.0,3.0,0.1\n",
    ],
    ids=["half", "no newline", "columns", "epochs", "row", "empty", "not a number"],
)
def test_a_damaged_history_is_refused(straight, change, tmp_path):
    _, result = straight
    shutil.copytree(result.folder, tmp_path / result.folder.name)
    file = tmp_path / result.folder.name / "history.csv"
    file.write_text(change(file.read_text()))
    with pytest.raises(StaleArtefactError, match=r"history\.csv.*Delete the folder"):
        toy(tmp_path, epochs=6)


def test_a_training_that_lost_its_numbers_stops_and_keeps_nothing_of_the_epoch(tmp_path):
    training = caption_set(0, 20)
    training.features[3, 2] = np.nan
    with pytest.raises(DivergedError, match=r"epoch 1.*learning rate.*features"):
        toy(tmp_path, training=training, epochs=2)
    assert {file.name for file in only_folder(tmp_path).glob("[!.]*")} == {"training.json"}


def test_a_training_killed_in_mid_epoch_goes_on_and_ends_as_if_nothing_had_happened(
    straight, tmp_path
):
    straight_folder, _ = straight
    process = run(SCRIPT, tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/epoch-003*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed = pd.read_csv(only_folder(tmp_path) / "history.csv")
    assert 2 <= len(killed) < 6

    toy(tmp_path, epochs=6)
    histories = [only_folder(one) / "history.csv" for one in (tmp_path, straight_folder)]
    assert histories[0].read_bytes() == histories[1].read_bytes()


@pytest.mark.slow
def test_the_jax_backend_gives_the_same_losses_and_captions():
    pytest.importorskip("jax")
    backends = ["tensorflow", "jax"]
    processes = [run(BACKEND_SCRIPT, backend=backend) for backend in backends]
    outputs = [process.communicate()[0] for process in processes]
    results, jax_results = (json.loads(output.splitlines()[-1]) for output in outputs)
    assert [results.pop("backend"), jax_results.pop("backend")] == backends
    for decoder, (losses, captions) in results.items():
        assert losses[-1] < 0.9 * losses[0]
        np.testing.assert_allclose(jax_results[decoder][0], losses, atol=1e-5, err_msg=decoder)
        assert jax_results[decoder][1] == captions


def test_the_loss_is_the_mean_over_real_tokens_and_smoothing_spreads_the_target():
    probabilities = [
        [[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]],
        [[0.1, 0.6, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]],
    ]
    logits = np.log([probabilities])  # one photograph, two captions
    targets = np.array([[[3, PAD], [1, PAD]]])
    expected = -(np.log(0.1) + np.log(0.6)) / 2
    assert float(CaptionLoss()(targets, logits)) == pytest.approx(expected, abs=1e-6)
    evenly = -(np.mean(logits[0, 0, 0]) + np.mean(logits[0, 1, 0])) / 2
    smoothed = 0.9 * expected + 0.1 * evenly
    assert float(CaptionLoss(0.1)(targets, logits)) == pytest.approx(smoothed, abs=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_gradient_of_the_loss_is_probability_minus_target(label_smoothing):
    targets = np.array([[[4, 1, 2, PAD]]])
    logits = np.random.default_rng(0).normal(scale=3, size=(4, 6)).astype("float32")
    # A model whose logits are its weights: a plain step at a rate of 1 subtracts their gradient.
    model = keras.Sequential([keras.Input((1, 4, 4)), keras.layers.Dense(6, use_bias=False)])
    model.set_weights([logits])
    model.compile(keras.optimizers.SGD(1.0), CaptionLoss(label_smoothing))
    model.train_on_batch(np.eye(4, dtype="float32")[None, None], targets)

    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wanted = (1 - label_smoothing) * np.eye(6)[targets[0, 0]] + label_smoothing / 6
    expected = (probabilities - wanted) / 3  # the mean over the real tokens
    expected[3] = 0
    np.testing.assert_allclose(logits - model.get_weights()[0], expected, atol=1e-6)


def test_a_target_that_was_held_impossible_costs_much_and_not_infinitely_much():
    logits = np.array([[[[500.0, 0.0]]]], "float32")
    assert float(CaptionLoss()(np.array([[[1]]]), logits)) == pytest.approx(87.3, abs=0.1)


def test_the_epochs_loss_weighs_every_token_the_same_whatever_the_batches():
    metric = TokenCrossEntropy()
    even = np.zeros((1, 1, 2, 4))
    sure = np.array([[[[0, 0, 0, 50.0], [0, 0, 0, 0]]]])
    metric.update_state(np.array([[[1, 2]]]), even)
    metric.update_state(np.array([[[3, PAD]]]), sure)
    assert float(metric.result()) == pytest.approx(2 * np.log(4) / 3, abs=1e-6)
