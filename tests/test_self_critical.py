from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import ops

from tests.test_search import make_features, make_model
from tests.test_training import RECIPE, VOCABULARY, caption_set
from utils.captions import END, PAD, RESERVED, START, Vocabulary
from utils.decoder import copy_decoder
from utils.machinery.checkpoints import weights_file
from utils.metrics import Cider, tokenize
from utils.search import CaptionSampler
from utils.self_critical import (
    CaptionReward,
    SelfCritical,
    WeightedTokenLoss,
    _step,
    advantages,
    train_self_critical,
)
from utils.training import Journal, Training, train

STAGE = SelfCritical(epochs=4, samples=5, batch_size=10, learning_rate=0.02, max_tokens=7)
WORDS = range(4, 7)


REFERENCES = [
    ["A red dog runs.", "The dog is red."],
    ["A blue boat sails.", "One boat on the sea."],
    ["A red boat.", "The boat is red."],
]
REFERENCE_WORDS = Vocabulary((*RESERVED, "a", "red", "dog", "runs", "the", "is", "boat", "'s"))


def test_the_reward_is_the_cider_of_the_caption_and_its_end():
    reward = CaptionReward(REFERENCES, REFERENCE_WORDS)
    cider = Cider([[[*tokenize(text), "<end>"] for text in group] for group in REFERENCES])
    for caption in ("a red dog runs", "the boat is red", "dog dog", "a dog 's boat", ""):
        words = caption.split()
        *token_ids, end = REFERENCE_WORDS.encode(words)[1:]
        for photo in range(3):
            assert reward(photo, [*token_ids, end]) == cider.score([*words, "<end>"], photo)
            assert reward(photo, token_ids) == cider.score(words, photo)
    perfect = REFERENCE_WORDS.encode("a red dog runs".split())[1:]
    assert reward(0, perfect) > reward(0, perfect[:-1]) > reward(1, perfect)


def test_an_advantage_is_what_a_caption_has_over_the_mean_of_the_others():
    np.testing.assert_allclose(
        advantages(np.array([[1.0, 2.0, 6.0], [3.0, 3.0, 3.0]])), [[-3, -1.5, 4.5], [0, 0, 0]]
    )


@given(
    st.tuples(st.integers(1, 4), st.integers(2, 6)).flatmap(
        lambda shape: arrays("float64", shape, elements=st.floats(0, 10))
    )
)
def test_the_advantages_of_a_photograph_sum_to_zero(rewards):
    np.testing.assert_allclose(advantages(rewards).sum(axis=1), 0, atol=1e-9)


def test_a_step_follows_the_gradient_of_the_captions_log_probabilities_times_their_advantage():
    """Of the logits' bias that gradient can be worked out by hand."""
    model, features, learning_rate = make_model("merge"), make_features("merge", 2), 0.01
    drawn = np.array([[[4, END, PAD], [6, 5, 4]], [[END, PAD, PAD], [5, 5, END]]], "int32")
    advantage = np.array([[2.0, -1.0], [0.5, -3.0]])
    layer = model.get_layer("logits")
    before = np.array(ops.convert_to_numpy(layer.bias))
    prefixes = np.where(drawn == END, PAD, drawn)[..., :-1]
    starts = np.full((2, 2, 1), START)
    logits = model([features, np.concatenate([starts, prefixes], axis=-1)], training=False)
    chances = ops.convert_to_numpy(ops.softmax(logits))

    model.compile(keras.optimizers.SGD(learning_rate), WeightedTokenLoss())
    _step(model, features, drawn, advantage)

    gradient = np.zeros(7)
    for photo, caption, place in np.argwhere(drawn != PAD):
        word = np.arange(7) == drawn[photo, caption, place]
        gradient += advantage[photo, caption] * (word - chances[photo, caption, place])
    tokens = (drawn != PAD).sum()
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer.bias) - before, learning_rate * gradient / tokens, atol=1e-6
    )


@pytest.mark.parametrize("decoder", ["merge", "inject", "attention"])
def test_a_step_makes_the_better_caption_more_probable_and_the_worse_one_less(decoder):
    model, features = make_model(decoder), make_features(decoder, 1)
    drawn = np.array([[[4, 5, END], [6, END, PAD]]], "int32")

    def log_probability():
        chances = ops.log_softmax(
            model([features, np.array([[[START, 4, 5], [START, 6, PAD]]])], training=False)
        )
        better, worse = ops.convert_to_numpy(chances)[0]
        return better[[0, 1, 2], [4, 5, END]].sum(), worse[[0, 1], [6, END]].sum()

    before = log_probability()
    model.compile(keras.optimizers.SGD(0.01), WeightedTokenLoss())
    _step(model, features, drawn, advantages(np.array([[3.0, 1.0]])))
    after = log_probability()
    assert after[0] > before[0]
    assert after[1] < before[1]


TRAINING = replace(caption_set(0, 40), mirrored=caption_set(0, 40).features)
DEV = caption_set(1, 12)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A first stage that has learnt to speak, and a little to look."""
    folder = tmp_path_factory.mktemp("first")
    known = {"vocabulary": VOCABULARY, "training": TRAINING, "dev": DEV}
    return train(RECIPE, decoder="merge", folder=folder, epochs=4, seed=5, **known)


def second_stage(first, folder, stage=STAGE, **options) -> Training:
    """A second stage in a folder of its own."""
    elsewhere = replace(first, folder=Path(folder) / first.folder.name)
    known = {"vocabulary": VOCABULARY, "training": TRAINING, "dev": DEV}
    return train_self_critical(elsewhere, recipe=RECIPE, stage=stage, seed=5, **known, **options)


@pytest.fixture(scope="module")
def straight(first, tmp_path_factory):
    """A second stage that nobody disturbed."""
    return second_stage(first, tmp_path_factory.mktemp("straight"))


def mean_reward(model):
    """Of new captions of the dev photographs, which the second stage hasn't seen."""
    captions = CaptionSampler(model, 40, STAGE.max_tokens).draw(
        DEV.features, np.random.default_rng(9)
    )
    reward = CaptionReward(DEV.references, VOCABULARY)
    return np.mean(
        [
            reward(photo, token_ids[token_ids != PAD])
            for photo, group in enumerate(captions)
            for token_ids in group
        ]
    )


def last_weights(training: Training):
    model = copy_decoder(training.model)
    model.load_weights(weights_file(training.folder, len(training.history)))
    return model.get_weights()


def test_the_second_stage_raises_the_reward_of_what_the_decoder_says(first, straight):
    assert straight.history["epoch"].tolist() == [1, 2, 3, 4]
    assert straight.history["reward"].iloc[-1] > 1.2 * straight.history["reward"].iloc[0]
    assert straight.best_epoch == straight.history["dev_cider"].idxmax() + 1
    assert straight.history["learning_rate"].is_monotonic_decreasing
    assert straight.model.name == "merge"
    assert mean_reward(straight.model) > 1.2 * mean_reward(first.model)


def test_the_decoder_returned_is_the_one_of_the_best_epoch(straight):
    tokens, features = np.array([[[START, *WORDS]]] * len(DEV.photos)), DEV.features
    model = copy_decoder(straight.model)
    model.load_weights(weights_file(straight.folder, straight.best_epoch))
    np.testing.assert_array_equal(
        straight.model([features, tokens], training=False), model([features, tokens])
    )


def test_the_second_stage_trains_without_dropout(straight):
    inputs = [DEV.features, np.array([[[START, *WORDS]]] * len(DEV.photos))]
    judged, trained = (straight.model(inputs, training=training) for training in (False, True))
    np.testing.assert_array_equal(judged, trained)


def test_a_finished_second_stage_is_taken_as_it_is(straight, first, monkeypatch):
    monkeypatch.setattr("keras.Model.train_on_batch", lambda *_, **__: pytest.fail("trained again"))
    again = second_stage(first, straight.folder.parents[1])
    assert again.history.equals(straight.history)
    assert again.best_epoch == straight.best_epoch


class Killed(Exception):
    """What a test kills a training with."""


def test_a_second_stage_killed_before_it_wrote_an_epoch_goes_on_as_if_nothing_had_happened(
    first, straight, tmp_path, monkeypatch
):
    write_epoch = Journal.on_epoch_end

    def kill_in_the_second(journal, epoch, logs=None):
        if epoch == 1:
            raise Killed
        write_epoch(journal, epoch, logs)

    with monkeypatch.context() as patches:
        patches.setattr(Journal, "on_epoch_end", kill_in_the_second)
        with pytest.raises(Killed):
            second_stage(first, tmp_path)
    (history,) = tmp_path.glob("*/*/history.csv")
    assert len(history.read_text().splitlines()) == 2  # the head and one epoch

    resumed = second_stage(first, tmp_path)
    assert resumed.history.equals(straight.history)
    assert history.read_bytes() == (straight.folder / "history.csv").read_bytes()
    for own, other in zip(last_weights(resumed), last_weights(straight), strict=True):
        np.testing.assert_array_equal(own, other)


def test_where_nothing_gets_better_the_first_stage_comes_back(first, tmp_path):
    result = second_stage(first, tmp_path, replace(STAGE, learning_rate=0.0), epochs=1)
    assert result.best_epoch == 0
    assert result.model is first.model
    assert first.history["dev_cider"].max() > 10
    # Without a step the second stage's decoder says on dev what the first one's does.
    assert result.history["dev_cider"].tolist() == [first.history["dev_cider"].max()]
