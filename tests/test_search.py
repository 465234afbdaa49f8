import itertools
import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from tqdm import tqdm

from utils.captions import END, PAD, START, UNKNOWN, Vocabulary
from utils.decoder import DECODERS, build_decoder, decoder_kind, standardise
from utils.machinery.errors import MissingStageError, SettingsError, StaleArtefactError
from utils.machinery.files import write_arrays
from utils.metrics import Cider, all_ngrams
from utils.search import (
    MAX_TOKENS,
    CaptionSampler,
    Consensus,
    Hypothesis,
    Searcher,
    SearchSettings,
    Voters,
    captions_of,
)

VOCABULARY = 7  # four reserved tokens and three words: few enough to try every caption
WORDS = range(4, VOCABULARY)
REGIONS = (2, 3)
SHAPES = {"pooled": (5,), "spatial": (*REGIONS, 5)}
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
    """What the training model's attention layer says of a caption, `(tokens + 1, regions)`."""
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
    assert sorted(hypothesis.token_ids for hypothesis in hypotheses) == sorted(captions)
    assert found == sorted(found, reverse=True)
    np.testing.assert_allclose(
        found, [scores[hypothesis.token_ids] for hypothesis in hypotheses], rtol=1e-4, atol=1e-4
    )


ALL = 3**2 * 4  # a beam that holds the extensions of all captions of two words


@pytest.fixture(scope="module")
def changing(decoder):
    """A decoder whose weights a test changes, and searchers that are compiled for it once."""
    model = make_model(decoder)
    lengths = {1: 5, 2: 5, 5: 5, ALL: 2}
    return model, {beam: Searcher(model, beam, max_tokens=most) for beam, most in lengths.items()}


@settings(max_examples=5)
@given(st.integers(0, 1000))
def test_a_beam_of_one_is_greedy_search(decoder, changing, seed):
    model, searchers = changing
    randomise(model, seed)
    features = make_features(decoder, 3, seed)
    found = searchers[1].best(features)
    assert [hypothesis.token_ids for hypothesis in found] == greedy(model, features, 5)


@settings(max_examples=5)
@given(st.integers(0, 1000), st.floats(0, 1.5))
def test_a_beam_that_keeps_everything_finds_what_exhaustive_search_finds(
    decoder, changing, seed, length_penalty
):
    model, searchers = changing
    randomise(model, seed)
    features, captions, searcher = make_features(decoder, 3, seed), all_captions(2), searchers[ALL]
    searcher.length_penalty = length_penalty
    for row, hypotheses in zip(features, searcher.search(features), strict=True):
        totals = log_probabilities(model, row, captions)
        assert_ranks(hypotheses, captions, totals, length_penalty)


@settings(max_examples=5)
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
        assert len({hypothesis.token_ids for hypothesis in hypotheses}) == len(hypotheses)
        scores = [hypothesis.score for hypothesis in hypotheses]
        assert scores == sorted(scores, reverse=True)
        (finished,) = {hypothesis.finished for hypothesis in hypotheses}
        numbers = [hypothesis.token_ids for hypothesis in hypotheses]
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
        numbers = [hypothesis.token_ids for hypothesis in hypotheses]
        assert list(map(len, numbers)) == [4, 4, 4]
        assert not any(hypothesis.finished for hypothesis in hypotheses)
        np.testing.assert_allclose(
            [hypothesis.log_probability for hypothesis in hypotheses],
            log_probabilities(never_ends, row, numbers, finished=False),
            atol=1e-3,
        )
        if decoder == "attention":
            for hypothesis in hypotheses:
                look = where_it_looks(never_ends, row, hypothesis.token_ids)
                np.testing.assert_allclose(hypothesis.attention, look, atol=1e-4)


@pytest.mark.parametrize("beam", [1, 4])
def test_attention_tells_where_the_decoder_looked_for_each_word_of_the_caption(beam):
    features = make_features("attention", 6)
    model = make_model("attention", seed=3, end_bias=2.0)
    found = Searcher(model, beam, max_tokens=8, batch_size=4).search(features)
    for row, hypotheses in zip(features, found, strict=True):
        for hypothesis in hypotheses:
            look = where_it_looks(model, row, hypothesis.token_ids)
            assert look.shape == (len(hypothesis.token_ids) + 1, REGIONS[0] * REGIONS[1])
            np.testing.assert_allclose(hypothesis.attention, look, atol=1e-4)
    hypotheses = list(itertools.chain(*found))
    assert any(hypothesis.finished for hypothesis in hypotheses)
    # Short captions alone couldn't follow the wrong beam.
    assert max(len(hypothesis.token_ids) for hypothesis in hypotheses if hypothesis.finished) >= 3


@pytest.mark.parametrize("decoder", ["merge", "inject"], indirect=True)
def test_decoders_that_look_at_no_regions_tell_no_attention(beam_of_three, features):
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
        numbers = [hypothesis.token_ids for hypothesis in hypotheses]
        (finished,) = {hypothesis.finished for hypothesis in hypotheses}
        own = [
            log_probabilities(model, row, numbers, finished)
            for model, row in zip(models, rows, strict=True)
        ]
        found = [hypothesis.log_probability for hypothesis in hypotheses]
        np.testing.assert_allclose(found, np.mean(own, axis=0), atol=1e-3)


@pytest.mark.parametrize("decoder", ["attention"], indirect=True)
def test_an_ensemble_of_the_same_decoder_twice_finds_what_it_finds_alone(
    model, features, beam_of_three
):
    alone = beam_of_three.search(features)
    twice = Searcher([model, model], beam=3, max_tokens=6).search([features, features])
    assert [[one.token_ids for one in group] for group in twice] == [
        [one.token_ids for one in group] for group in alone
    ]
    np.testing.assert_allclose(
        [one.score for group in twice for one in group],
        [one.score for group in alone for one in group],
        atol=1e-4,
    )


def test_decoders_with_different_vocabularies_are_refused():
    models = [make_model("merge"), make_model("inject", vocabulary_size=9)]
    with pytest.raises(SettingsError, match=r"know \[7, 9\] tokens; expected .* same vocabulary"):
        Searcher(models)


def test_an_ensemble_of_nothing_is_refused():
    with pytest.raises(SettingsError, match="expected one or more"):
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
        assert text.split() == [vocabulary.tokens[number] for number in hypothesis.token_ids]


@settings(max_examples=5)
@given(st.integers(0, 1000), st.sampled_from([1, 2, 5]))
def test_one_search_finds_the_best_by_every_penalty(decoder, changing, seed, beam):
    model, searchers = changing
    randomise(model, seed)
    features, penalties = make_features(decoder, 3, seed), (0.0, 0.7, 1.5)
    together = searchers[beam].best_by_penalty(features, penalties)
    for penalty, best in zip(penalties, together, strict=True):
        searchers[beam].length_penalty = penalty
        assert best == [group[0] for group in searchers[beam].search(features)]
        assert best == searchers[beam].best(features)


@pytest.mark.parametrize("beam", [1, 4])
def test_photographs_that_another_search_began_get_the_same_hypotheses(model, decoder, beam):
    features = make_features(decoder, 7)
    begun = Searcher(model, beam=3, batch_size=5).begin(features)
    searcher = Searcher(model, beam, max_tokens=8, batch_size=5)
    for _ in range(2):  # it can be used again
        for group, expected in zip(searcher.search(begun), searcher.search(features), strict=True):
            assert group == expected


def test_photographs_that_other_decoders_began_are_refused(model, decoder):
    begun = Searcher([model, model]).begin([make_features(decoder, 2)] * 2)
    with pytest.raises(ValueError, match="Other decoders"):
        Searcher(model).search(begun)


def test_photographs_that_wait_for_room_get_the_same_hypotheses(model, decoder):
    features = make_features(decoder, 11)
    alone = Searcher(model, beam=4, max_tokens=8)
    crowded = Searcher(model, beam=4, max_tokens=8, batch_size=3).search(features)
    for row, group in enumerate(crowded):
        (expected,) = alone.search(features[row : row + 1])
        assert [one.token_ids for one in group] == [one.token_ids for one in expected]
        found, scores = ([one.score for one in each] for each in (group, expected))
        np.testing.assert_allclose(found, scores, atol=1e-4)
        if decoder == "attention":
            for one, other in zip(group, expected, strict=True):
                np.testing.assert_allclose(one.attention, other.attention, atol=1e-4)


@pytest.mark.parametrize("decoder", ["merge"], indirect=True)
def test_no_photograph_has_no_caption(beam_of_three, features):
    assert beam_of_three.search(features[:0]) == []


@pytest.mark.parametrize("decoder", ["merge"], indirect=True)
def test_a_bar_moves_on_by_each_photograph(beam_of_three, features, capsys):
    with tqdm(total=5) as bar:
        beam_of_three.search(features, bar)
    assert "5/5" in capsys.readouterr().err
    beam_of_three.best(features)
    assert not capsys.readouterr().err


def test_a_decoder_without_numbers_is_refused():
    broken = make_model("merge")
    broken.get_layer("logits").bias.assign(np.full(VOCABULARY, np.nan))
    with pytest.raises(StaleArtefactError, match="NaN"):
        Searcher(broken, beam=2, max_tokens=3).best(make_features("merge"))


# Sampling


def padded(captions, length):
    return np.array([[*numbers, *[PAD] * (length - len(numbers))] for numbers in captions], "int32")


def probabilities_of_next(model, features, prefixes):
    """Probabilities of the word after each prefix `(…, tokens)`, among those that may be drawn."""
    starts = np.full((*prefixes.shape[:2], 1), START, "int32")
    logits = model([features, np.concatenate([starts, prefixes], axis=-1)], training=False)
    logits = np.array(ops.convert_to_numpy(logits), "float64")
    logits[..., [PAD, START, UNKNOWN]] = -np.inf
    powers = np.exp(logits)
    return powers / powers.sum(axis=-1, keepdims=True)


def test_captions_are_drawn_with_the_probabilities_that_the_decoder_gives_them(decoder):
    model, features, samples = make_model(decoder), make_features(decoder, 2), 6000
    # Of two tokens at most there are 13: the END, a word and the END, and two words cut off.
    captions = padded([[END], *([w, v] for w in WORDS for v in (END, *WORDS))], 2)
    prefixes = np.broadcast_to(captions[None, :, :1], (2, 13, 1))
    chances = probabilities_of_next(model, features, prefixes)
    expected = chances[:, range(13), 0, captions[:, 0]]
    expected[:, 1:] *= chances[:, range(1, 13), 1, captions[1:, 1]]
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-5)

    drawn = CaptionSampler(model, samples, max_tokens=2).draw(features, np.random.default_rng(7))
    counts = (drawn[:, :, None] == captions).all(axis=-1).sum(axis=1)
    assert counts.sum() == 2 * samples
    deviation = np.sqrt(samples * expected * (1 - expected))
    assert (abs(counts - samples * expected) < 3.5 * deviation + 1).all()


@pytest.fixture(scope="module")
def drawn():
    """Captions of some photographs, most with an END and some cut off, and what drew them."""
    sampler = CaptionSampler(make_model("attention", end_bias=1.0), samples=50, max_tokens=6)
    features = make_features("attention", 4)
    return sampler.draw(features, np.random.default_rng(3)), sampler, features


def test_a_drawn_caption_goes_to_its_end_or_is_cut_off_and_padding_follows(drawn):
    captions, _, _ = drawn
    assert captions.shape == (4, 50, 6)
    ended = 0
    for numbers in captions.reshape(-1, 6).tolist():
        length = numbers.index(END) + 1 if END in numbers else 6
        ended += END in numbers
        assert not {PAD, START, UNKNOWN} & set(numbers[:length])
        assert set(numbers[length:]) <= {PAD}
    assert 0 < ended < 200


def test_drawing_stops_when_every_caption_has_its_end():
    sampler = CaptionSampler(make_model("merge", end_bias=1000.0), samples=3, max_tokens=6)
    captions = sampler.draw(make_features("merge", 2), np.random.default_rng(1))
    np.testing.assert_array_equal(captions, np.full((2, 3, 1), END))


def test_the_same_random_numbers_draw_the_same_captions_and_others_draw_others(drawn):
    captions, sampler, features = drawn
    again = sampler.draw(features, np.random.default_rng(3))
    np.testing.assert_array_equal(again, captions)
    others = sampler.draw(features, np.random.default_rng(4))
    assert others.shape != captions.shape or (others != captions).any()


# Consensus


SPOKEN = "a dog cat runs sits on the red grass snow".split()
TRAINED_ON = [
    [text.split() for text in group]
    for group in (
        ["a dog runs on the grass", "the dog runs"],
        ["a cat sits on the snow", "a red cat"],
        ["a dog sits on the red grass", "the dog sits"],
    )
]
KNOWN = Vocabulary.build([tokens for group in TRAINED_ON for tokens in group], 1, "full")


def hypothesis(text, probability=0.1):
    token_ids = tuple(KNOWN.encode(text.split())[1:-1])
    return Hypothesis(token_ids, math.log(probability), 0.0, True)


def said(hypotheses):
    return [" ".join(KNOWN.decode(one.token_ids)) for one in hypotheses]


@pytest.fixture
def consensus():
    return Consensus.of(TRAINED_ON, KNOWN)


def test_what_most_agree_with_beats_what_is_most_probable(consensus):
    hypotheses = [
        hypothesis("a cat sits on the snow", 0.2),
        hypothesis("a dog runs on the grass", 0.15),
        hypothesis("the dog runs on the grass", 0.15),
        hypothesis("a dog runs on the red grass", 0.15),
    ]
    assert said(consensus.rank(hypotheses, 0.2))[0] == "a dog runs on the grass"


def test_the_sharper_the_more_the_probable_ones_count(consensus):
    hypotheses = [
        hypothesis("a cat sits on the snow", 0.9),
        hypothesis("a dog runs on the grass", 0.01),
        hypothesis("the dog runs on the grass", 0.01),
    ]
    flat, sharp = (consensus.rank(hypotheses, temperature) for temperature in (0, 3))
    assert "dog" in said(flat)[0]
    assert "cat" in said(sharp)[0]


captions = st.lists(
    st.lists(st.sampled_from(SPOKEN), min_size=1, max_size=9).map(" ".join), min_size=3, max_size=6
)


@settings(max_examples=30)
@given(captions)
def test_agreement_is_the_cider_that_captions_are_scored_by(texts):
    """With the document frequencies of the training split, each other caption the reference."""
    consensus = Consensus.of(TRAINED_ON, KNOWN)
    hypotheses = [hypothesis(text) for text in texts]
    token_ids = [one.token_ids for one in hypotheses]
    encoded = [[KNOWN.encode(one)[1:-1] for one in group] for group in TRAINED_ON]
    found = consensus.similarities(token_ids)
    among_others = consensus.similarities(token_ids[:2], token_ids)
    np.testing.assert_allclose(among_others, found[:2], atol=1e-9)
    for row, candidate in enumerate(token_ids):
        for column, reference in enumerate(token_ids):
            scorer = Cider(encoded)
            scorer._references = [[scorer._vector(all_ngrams(reference))]]
            assert found[row, column] == pytest.approx(scorer.score(candidate, 0), abs=1e-9)


def test_voters_can_outvote_the_hypotheses():
    consensus = Consensus.of(TRAINED_ON, KNOWN)
    group = [hypothesis(" ".join(texts[0])) for texts in TRAINED_ON[:3]]
    wanted = consensus.rank(group, 0)[-1]
    voters = Voters([wanted.token_ids], np.ones(1))
    alone, outvoted = consensus.rankings(group, [0], voters, [0.0, 100.0])
    assert alone == consensus.rank(group, 0)
    assert outvoted[0] == wanted != alone[0]


@settings(max_examples=30)
@given(captions, st.floats(0, 2))
def test_ranking_loses_nothing(texts, inverse_temperature):
    hypotheses = [hypothesis(text) for text in texts]
    ranked = Consensus.of(TRAINED_ON, KNOWN).rank(hypotheses, inverse_temperature)
    assert sorted(map(id, ranked)) == sorted(map(id, hypotheses))


def test_few_or_empty_hypotheses_keep_their_order(consensus):
    two = [hypothesis("a dog"), hypothesis("a cat")]
    assert consensus.rank(two, 0.2) == two
    nothing = [hypothesis("")] * 3
    assert consensus.rank(nothing, 0.2) == nothing


def test_what_was_counted_survives_the_disk_with_the_same_bytes(consensus, tmp_path):
    consensus.save(tmp_path / "one.npz")
    loaded = Consensus.load(tmp_path / "one.npz")
    assert (loaded.frequencies, loaded.photographs) == (consensus.frequencies, 3)
    a, dog = KNOWN.encode(["a", "dog"])[1:-1]
    assert loaded.frequencies[(a, dog)] == 2
    assert all(count > 1 for count in loaded.frequencies.values())
    backwards = Consensus(dict(reversed(consensus.frequencies.items())), 3)
    backwards.save(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_a_missing_file_names_what_makes_it(tmp_path):
    with pytest.raises(MissingStageError, match="05_evaluate_captions"):
        Consensus.load(tmp_path / "consensus.npz")


COUNTED = {
    "ngrams": np.array([[4, -1, -1, -1], [4, 5, -1, -1]], "int32"),
    "counts": np.array([3, 2], "int32"),
    "photographs": np.array(3, "int32"),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("photographs", np.array(0, "int32")),
        ("photographs", np.array([3], "int32")),
        ("photographs", np.array(np.nan)),
        ("counts", np.array([3, -2], "int32")),
        ("counts", np.array([3, 9], "int32")),
        ("counts", np.array([3], "int32")),
        ("counts", np.array([3, np.nan])),
        ("ngrams", np.array([[4, -1, 5, -1], [4, 5, -1, -1]], "int32")),
        ("ngrams", np.full((2, 4), -1, "int32")),
        ("ngrams", np.array([4, 5], "int32")),
        ("ngrams", np.array([["a"] * 4] * 2)),
        ("ngrams", None),
    ],
)
def test_counts_that_cannot_be_are_refused(name, value, tmp_path):
    file = tmp_path / "consensus.npz"
    write_arrays(file, COUNTED)
    assert Consensus.load(file).frequencies == {(4,): 3, (4, 5): 2}
    write_arrays(
        file, {key: one for key, one in {**COUNTED, name: value}.items() if one is not None}
    )
    with pytest.raises(StaleArtefactError, match=r"counts of n-grams.*notebook 05"):
        Consensus.load(file)


def test_a_torn_file_of_counts_is_refused(consensus, tmp_path):
    file = tmp_path / "consensus.npz"
    consensus.save(file)
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(StaleArtefactError, match="notebook 05"):
        Consensus.load(file)


# Settings


@pytest.mark.parametrize("beam", [0, -1, 101, 2.5, "5", True, None])
def test_a_beam_that_cannot_be_is_refused(beam, model):
    with pytest.raises(SettingsError, match=r"beam is .* whole number, 1 to 100"):
        SearchSettings(beam)
    with pytest.raises(SettingsError, match="beam is"):
        Searcher(model, beam)


@pytest.mark.parametrize("max_tokens", [0, 201, 1e7, float("nan")])
def test_a_length_that_cannot_be_is_refused(max_tokens):
    with pytest.raises(SettingsError, match=r"max_tokens is .*whole number, 1 to 200"):
        SearchSettings(max_tokens=max_tokens)


@pytest.mark.parametrize("name", ["length_penalty", "inverse_temperature"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "1"])
def test_an_exponent_that_cannot_be_is_refused(name, value):
    with pytest.raises(SettingsError, match=f"{name} is .* expected a number, 0 to 10"):
        SearchSettings(**{name: value})


@pytest.mark.parametrize("decoder", ["merge"], indirect=True)
def test_settings_make_the_searcher_that_they_describe(model, features, consensus):
    row = {"beam": 3, "length_penalty": 0.5, "inverse_temperature": np.nan}
    plain = SearchSettings.from_row(row)
    assert (plain, plain.words) == (SearchSettings(3, 0.5, MAX_TOKENS), "beam 3")
    ranked = SearchSettings.from_row(row | {"inverse_temperature": 0.2})
    assert (ranked.inverse_temperature, ranked.words) == (0.2, "consensus of 3")
    groups = plain.searcher(model).search(features)
    found = SearchSettings(3, 0.5, MAX_TOKENS, 0.2).searcher(model, consensus).search(features)
    assert found == [consensus.rank(group, 0.2) for group in groups]
    with pytest.raises(SettingsError, match="consensus"):
        ranked.searcher(model)
