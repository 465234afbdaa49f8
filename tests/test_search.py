import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from utils.captions import END, PAD, START, UNKNOWN, Vocabulary
from utils.decoder import DECODERS, build_decoder, decoder_kind, standardise
from utils.search import Searcher, captions_of

VOCABULARY = 7  # four reserved tokens and three words: few enough to try every caption
WORDS = range(4, VOCABULARY)
PLACES = (2, 3)
SHAPES = {"pooled": (5,), "spatial": (*PLACES, 5)}
OPTIONS = {"merge": {}, "inject": {"tied": True}, "attention": {"heads": 2}}


def make_features(decoder, count=5, seed=1):
    shape = SHAPES[decoder_kind(decoder).features]
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype("float32")


def make_model(decoder, seed=0, end_bias=0.0, vocabulary_size=VOCABULARY):
    kind = decoder_kind(decoder)
    shape = SHAPES[kind.features]
    sizes = {"embedding_units": 6, "units": 8, "image_dropout": 0.0, "text_dropout": 0.0}
    model = build_decoder(decoder, vocabulary_size, shape, **sizes, **OPTIONS[decoder])
    standardise(model, make_features(decoder, 20, seed))
    return randomise(model, seed, end_bias)


def randomise(model, seed, end_bias=0.0):
    """Gives a decoder opinions strong enough to differ between photographs."""
    random = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(random.normal(0, 0.8, weight.shape))
    layer = model.get_layer("embedding")
    bias = layer.bias if layer.tied else model.get_layer("logits").bias
    bias.assign(np.where(np.arange(bias.shape[0]) == END, end_bias, 0.0))
    return model


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request):
    return request.param


@pytest.fixture(scope="module")
def model(decoder):
    return make_model(decoder)


@pytest.fixture(scope="module")
def features(decoder):
    return make_features(decoder)


@pytest.fixture(scope="module")
def beam_of_three(model):
    return Searcher(model, beam=3, max_tokens=6)


def log_probabilities(model, features, captions, finished=True):
    """The model's own log-probabilities of captions of one photograph, from the training model."""
    length = max(map(len, captions)) + 1
    tokens = np.full((1, len(captions), length), PAD, "int32")
    for place, numbers in enumerate(captions):
        tokens[0, place, : len(numbers) + 1] = [START, *numbers]
    logits = ops.log_softmax(model([features[None], tokens], training=False))
    logits = ops.convert_to_numpy(logits)[0]
    return np.array(
        [
            sum(float(own[place, token]) for place, token in enumerate([*numbers, END][:limit]))
            for own, numbers in zip(logits, captions, strict=True)
            for limit in [len(numbers) + finished]
        ]
    )


def greedy(model, features, max_tokens):
    """The most probable word, again and again, without any search code."""
    tokens = np.full((len(features), 1, max_tokens + 1), PAD, "int32")
    tokens[:, 0, 0] = START
    for place in range(max_tokens):
        logits = ops.convert_to_numpy(model([features, tokens], training=False))[:, 0, place]
        logits[:, [PAD, START, UNKNOWN]] = -np.inf
        tokens[:, 0, place + 1] = logits.argmax(axis=-1)
    captions = [row.tolist()[1:] for row in tokens[:, 0]]
    return [tuple(row[: row.index(END)] if END in row else row) for row in captions]


def where_it_looks(model, features, numbers):
    """What the training model's attention layer says of a whole caption, `(tokens + 1, places)`."""
    inside = keras.Model(model.inputs, model.get_layer("attention").output[1])
    tokens = np.array([[[START, *numbers]]], "int32")
    return ops.convert_to_numpy(inside([features[None], tokens], training=False))[0, 0]


def all_captions(length):
    return [
        numbers for count in range(length + 1) for numbers in itertools.product(WORDS, repeat=count)
    ]


def assert_ranks(hypotheses, captions, totals, length_penalty):
    """Checks that all captions came, ordered and scored by their log-probabilities."""
    scores = {
        numbers: total / (len(numbers) + 1) ** length_penalty
        for numbers, total in zip(captions, totals, strict=True)
    }
    found = [hypothesis.score for hypothesis in hypotheses]
    assert sorted(hypothesis.numbers for hypothesis in hypotheses) == sorted(captions)
    assert found == sorted(found, reverse=True)
    np.testing.assert_allclose(
        found, [scores[hypothesis.numbers] for hypothesis in hypotheses], rtol=1e-4, atol=1e-4
    )


ALL = 3**3 * 4  # a beam that holds the extensions of all captions of three words


@pytest.fixture(scope="module")
def changing(decoder):
    """A decoder whose weights a test changes, and searchers that are compiled for it once."""
    model = make_model(decoder)
    lengths = {1: 5, 2: 5, 5: 5, ALL: 3}
    return model, {beam: Searcher(model, beam, max_tokens=most) for beam, most in lengths.items()}


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000))
def test_a_beam_of_one_is_greedy_search(decoder, changing, seed):
    model, searchers = changing
    randomise(model, seed)
    features = make_features(decoder, 3, seed)
    found = searchers[1].best(features)
    assert [hypothesis.numbers for hypothesis in found] == greedy(model, features, 5)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000), st.floats(0, 1.5))
def test_a_beam_that_keeps_everything_finds_what_exhaustive_search_finds(
    decoder, changing, seed, length_penalty
):
    model, searchers = changing
    randomise(model, seed)
    features, captions, searcher = make_features(decoder, 3, seed), all_captions(3), searchers[ALL]
    searcher.length_penalty = length_penalty
    for row, hypotheses in zip(features, searcher.search(features), strict=True):
        totals = log_probabilities(model, row, captions)
        assert_ranks(hypotheses, captions, totals, length_penalty)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000), st.sampled_from([2, 5]), st.floats(0, 1.5))
def test_scores_are_the_models_own_and_no_hypothesis_comes_twice(
    decoder, changing, seed, beam, length_penalty
):
    model, searchers = changing
    randomise(model, seed)
    features = make_features(decoder, 3, seed)
    searcher = searchers[beam]
    searcher.length_penalty = length_penalty
    for row, hypotheses in zip(features, searcher.search(features), strict=True):
        assert 1 <= len(hypotheses) <= beam
        assert len({hypothesis.numbers for hypothesis in hypotheses}) == len(hypotheses)
        scores = [hypothesis.score for hypothesis in hypotheses]
        assert scores == sorted(scores, reverse=True)
        (finished,) = {hypothesis.finished for hypothesis in hypotheses}
        numbers = [hypothesis.numbers for hypothesis in hypotheses]
        np.testing.assert_allclose(
            [hypothesis.log_probability for hypothesis in hypotheses],
            log_probabilities(model, row, numbers, finished),
            atol=1e-3,
        )
        assert not set(itertools.chain(*numbers)) & {PAD, START, END, UNKNOWN}


def test_without_an_end_the_growing_captions_are_the_fallback(decoder, features):
    never_ends = make_model(decoder, end_bias=-1000.0)
    for row, hypotheses in zip(
        features, Searcher(never_ends, beam=3, max_tokens=4).search(features), strict=True
    ):
        numbers = [hypothesis.numbers for hypothesis in hypotheses]
        assert list(map(len, numbers)) == [4, 4, 4]
        assert not any(hypothesis.finished for hypothesis in hypotheses)
        np.testing.assert_allclose(
            [hypothesis.log_probability for hypothesis in hypotheses],
            log_probabilities(never_ends, row, numbers, finished=False),
            atol=1e-3,
        )
        if decoder == "attention":
            for hypothesis in hypotheses:
                look = where_it_looks(never_ends, row, hypothesis.numbers)
                np.testing.assert_allclose(hypothesis.attention, look, atol=1e-4)


def test_the_batch_size_changes_no_caption(model, features, beam_of_three):
    whole = beam_of_three.best(features)
    in_pairs = Searcher(model, beam=3, max_tokens=6, batch_size=2).best(features)
    assert [one.numbers for one in whole] == [one.numbers for one in in_pairs]


@pytest.mark.parametrize("beam", [1, 4])
def test_attention_tells_where_the_decoder_looked_for_each_word_of_the_caption(beam):
    features = make_features("attention", 6)
    model = make_model("attention", seed=3, end_bias=2.0)
    found = Searcher(model, beam, max_tokens=8, batch_size=4).search(features)
    for row, hypotheses in zip(features, found, strict=True):
        for hypothesis in hypotheses:
            look = where_it_looks(model, row, hypothesis.numbers)
            assert look.shape == (len(hypothesis.numbers) + 1, PLACES[0] * PLACES[1])
            np.testing.assert_allclose(hypothesis.attention, look, atol=1e-4)
    hypotheses = list(itertools.chain(*found))
    assert any(hypothesis.finished for hypothesis in hypotheses)
    # Short captions alone couldn't follow the wrong beam.
    assert max(len(hypothesis.numbers) for hypothesis in hypotheses if hypothesis.finished) >= 3


@pytest.mark.parametrize("decoder", ["merge", "inject"], indirect=True)
def test_decoders_that_look_at_no_places_tell_no_attention(beam_of_three, features):
    assert all(hypothesis.attention is None for hypothesis in beam_of_three.best(features))


@pytest.fixture(scope="module")
def ensemble():
    """Three decoders, and features that each can read, of the same photographs."""
    return [make_model(decoder) for decoder in DECODERS], [make_features(one) for one in DECODERS]


def test_an_ensemble_scores_every_caption_with_the_mean_of_its_decoders(ensemble):
    models, features = ensemble
    captions = all_captions(2)
    searcher = Searcher(models, beam=3**2 * 4, length_penalty=0.5, max_tokens=2)
    for *rows, hypotheses in zip(*features, searcher.search(features), strict=True):
        own = [
            log_probabilities(model, row, captions) for model, row in zip(models, rows, strict=True)
        ]
        assert_ranks(hypotheses, captions, np.mean(own, axis=0), 0.5)
        assert all(one.attention is None for one in hypotheses)


def test_with_a_small_beam_every_decoder_of_an_ensemble_follows_its_own_states(ensemble):
    models, features = ensemble
    searcher = Searcher(models, beam=3, max_tokens=6)
    for *rows, hypotheses in zip(*features, searcher.search(features), strict=True):
        numbers = [hypothesis.numbers for hypothesis in hypotheses]
        (finished,) = {hypothesis.finished for hypothesis in hypotheses}
        own = [
            log_probabilities(model, row, numbers, finished)
            for model, row in zip(models, rows, strict=True)
        ]
        found = [hypothesis.log_probability for hypothesis in hypotheses]
        np.testing.assert_allclose(found, np.mean(own, axis=0), atol=1e-3)


def test_an_ensemble_of_the_same_decoder_twice_finds_what_it_finds_alone(
    model, features, beam_of_three
):
    alone = beam_of_three.search(features)
    twice = Searcher([model, model], beam=3, max_tokens=6).search([features, features])
    assert [[one.numbers for one in group] for group in twice] == [
        [one.numbers for one in group] for group in alone
    ]
    np.testing.assert_allclose(
        [one.score for group in twice for one in group],
        [one.score for group in alone for one in group],
        atol=1e-4,
    )


def test_decoders_with_different_vocabularies_are_refused():
    models = [make_model("merge"), make_model("inject", vocabulary_size=9)]
    with pytest.raises(ValueError, match=r"know \[7, 9\] tokens; expected .* same vocabulary"):
        Searcher(models)


def test_an_ensemble_of_nothing_is_refused():
    with pytest.raises(ValueError, match="expected one or more"):
        Searcher([])


def test_features_that_do_not_fit_the_ensemble_are_refused(ensemble):
    models, features = ensemble
    searcher = Searcher(models)
    with pytest.raises(ValueError, match=r"3 decoders and features of .* expected one array"):
        searcher.best(features[:2])
    with pytest.raises(ValueError, match=r"\[5, 5, 4\] photographs; expected .* same photographs"):
        searcher.best([*features[:2], features[2][:4]])


@pytest.mark.parametrize("decoder", ["merge"], indirect=True)
def test_captions_are_spelt_out_in_words(beam_of_three, features):
    vocabulary = Vocabulary(("<pad>", "<start>", "<end>", "<unknown>", "a", "dog", "runs"))
    best = beam_of_three.best(features)
    for text, hypothesis in zip(captions_of(best, vocabulary), best, strict=True):
        assert text.split() == [vocabulary.tokens[number] for number in hypothesis.numbers]


@pytest.mark.parametrize("decoder", ["merge"], indirect=True)
def test_a_beam_of_nothing_is_refused(model):
    with pytest.raises(ValueError, match="beam is 0"):
        Searcher(model, beam=0)
