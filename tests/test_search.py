import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from utils.captions import END, PAD, START, UNKNOWN, Vocabulary
from utils.decoder import build_merge, standardise
from utils.search import Searcher, captions_of

VOCABULARY = 7  # four reserved tokens and three words: few enough to try every caption
WORDS = range(4, VOCABULARY)


def make_model(seed=0, end_bias=0.0):
    """A decoder with random weights, and opinions strong enough to differ between photographs."""
    keras.utils.set_random_seed(seed)
    model = build_merge(VOCABULARY, (5,), embedding_units=6, units=8)
    random = np.random.default_rng(seed)
    kernel, bias = model.get_layer("logits").get_weights()
    bias[END] = end_bias
    model.get_layer("logits").set_weights([random.normal(0, 2, kernel.shape), bias])
    standardise(model, random.normal(size=(20, 5)).astype("float32"))
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(1).normal(size=(5, 5)).astype("float32")


def log_probability(model, features, numbers, finished=True):
    """The model's own log-probability of a caption, from the training model."""
    tokens = np.array([[START, *numbers]], "int32")
    logits = ops.log_softmax(model([features[None], tokens], training=False))[0]
    targets = [*numbers, END] if finished else numbers
    return sum(float(logits[place, token]) for place, token in enumerate(targets))


def greedy(model, features, max_tokens):
    """The most probable word, again and again, without any search code."""
    numbers = []
    while True:
        tokens = np.array([[START, *numbers]], "int32")
        logits = ops.convert_to_numpy(model([features[None], tokens], training=False))[0, -1]
        logits[[PAD, START, UNKNOWN]] = -np.inf
        word = int(logits.argmax())
        if word == END or len(numbers) == max_tokens:
            return tuple(numbers)
        numbers.append(word)


def test_a_beam_of_one_is_greedy_search(model, features):
    found = Searcher(model, beam=1, max_tokens=6).best(features)
    assert [hypothesis.numbers for hypothesis in found] == [
        greedy(model, row, 6) for row in features
    ]


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0])
def test_a_beam_that_keeps_everything_finds_what_exhaustive_search_finds(
    model, features, length_penalty
):
    captions = [
        numbers for length in range(4) for numbers in itertools.product(WORDS, repeat=length)
    ]
    everything = 3**3 * 4  # extensions of all captions of three words
    searcher = Searcher(model, everything, length_penalty, max_tokens=3)
    for row, hypotheses in zip(features, searcher.search(features), strict=True):
        scores = {
            numbers: log_probability(model, row, numbers) / (len(numbers) + 1) ** length_penalty
            for numbers in captions
        }
        ranked = sorted(captions, key=lambda numbers: -scores[numbers])
        assert [hypothesis.numbers for hypothesis in hypotheses] == ranked
        np.testing.assert_allclose(
            [hypothesis.score for hypothesis in hypotheses],
            [scores[numbers] for numbers in ranked],
            rtol=1e-4,
        )


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 1000), st.sampled_from([2, 3, 5]), st.floats(0, 1.5))
def test_scores_are_the_models_own_and_no_hypothesis_comes_twice(seed, beam, length_penalty):
    model = make_model(seed)
    features = np.random.default_rng(seed).normal(size=(3, 5)).astype("float32")
    searcher = Searcher(model, beam, length_penalty, max_tokens=5)
    for row, hypotheses in zip(features, searcher.search(features), strict=True):
        assert 1 <= len(hypotheses) <= beam
        assert len({hypothesis.numbers for hypothesis in hypotheses}) == len(hypotheses)
        scores = [hypothesis.score for hypothesis in hypotheses]
        assert scores == sorted(scores, reverse=True)
        for hypothesis in hypotheses:
            own = log_probability(model, row, hypothesis.numbers, hypothesis.finished)
            assert hypothesis.log_probability == pytest.approx(own, abs=1e-3)
            assert not set(hypothesis.numbers) & {PAD, START, END, UNKNOWN}


def test_without_an_end_the_growing_captions_are_the_fallback(features):
    never_ends = make_model(end_bias=-1000.0)
    for hypotheses in Searcher(never_ends, beam=3, max_tokens=4).search(features):
        assert len(hypotheses) == 3
        assert not any(hypothesis.finished for hypothesis in hypotheses)
        assert all(len(hypothesis.numbers) == 4 for hypothesis in hypotheses)


def test_the_batch_size_changes_no_caption(model, features):
    whole = Searcher(model, beam=3, max_tokens=6).best(features)
    in_pairs = Searcher(model, beam=3, max_tokens=6, batch_size=2).best(features)
    assert [one.numbers for one in whole] == [one.numbers for one in in_pairs]


def test_captions_are_spelt_out_in_words(model, features):
    vocabulary = Vocabulary(("<pad>", "<start>", "<end>", "<unknown>", "a", "dog", "runs"))
    best = Searcher(model, beam=2, max_tokens=6).best(features)
    for text, hypothesis in zip(captions_of(best, vocabulary), best, strict=True):
        assert text.split() == [vocabulary.tokens[number] for number in hypothesis.numbers]


def test_a_beam_of_nothing_is_refused(model):
    with pytest.raises(ValueError, match="beam is 0"):
        Searcher(model, beam=0)
