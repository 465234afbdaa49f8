"""The neighbours of a photograph are those that look like it, and their captions vote."""

import numpy as np

from utils.batches import CaptionSet
from utils.captions import Vocabulary
from utils.neighbours import COUNT, Neighbours

RANDOM = np.random.default_rng(4)
WORDS = [[[f"word{photo}"], ["a", f"word{photo}", "runs"]] for photo in range(30)]
VOCABULARY = Vocabulary.build([tokens for group in WORDS for tokens in group], 1)


def training(features):
    photos = [f"{number}.jpg" for number in range(len(features))]
    return CaptionSet(photos, features, WORDS, [["a photograph"]] * len(features))


def test_a_photograph_that_looks_the_same_is_the_nearest_one_and_counts_most():
    features = RANDOM.gamma(0.3, size=(30, 50)).astype("float32")
    neighbours = Neighbours(training(features), VOCABULARY)
    found = neighbours.voters(features[[7, 12]] * 1.01)
    for photo, voters in zip((7, 12), found, strict=True):
        expected = [tuple(VOCABULARY.encode(tokens)[1:-1]) for tokens in WORDS[photo]]
        assert voters.captions[:2] == expected
        assert voters.weights.argmax() in (0, 1)
        assert len(voters.captions) == len(voters.weights) == 2 * COUNT
        assert np.isclose(voters.weights.sum(), 1)


def test_one_large_channel_does_not_decide_alone():
    features = RANDOM.uniform(0, 1, (30, 50)).astype("float32")
    features[:, 0] = 10 * RANDOM.uniform(0, 1, 30)
    query = features[3].copy()
    query[0] = features[9, 0]
    neighbours = Neighbours(training(features), VOCABULARY)
    assert neighbours.likeness(query[None])[0].argmax() == 3
    dots = features - features.mean(axis=0)
    plain = dots @ (query - features.mean(axis=0)) / np.linalg.norm(dots, axis=1)
    assert plain.argmax() != 3


def test_features_with_signs_and_constant_channels_give_numbers():
    features = RANDOM.normal(size=(30, 5)).astype("float32")
    features[:, 2] = 0
    likeness = Neighbours(training(features), VOCABULARY).likeness(features)
    np.testing.assert_allclose(np.diag(likeness), 1, atol=1e-5)
