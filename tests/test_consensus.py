import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.captions import Vocabulary
from utils.machinery.errors import MissingStageError
from utils.metrics import Cider, all_ngrams
from utils.search import Consensus, Hypothesis

WORDS = "a dog cat runs sits on the red grass snow".split()
TRAINING = [
    [text.split() for text in group]
    for group in (
        ["a dog runs on the grass", "the dog runs"],
        ["a cat sits on the snow", "a red cat"],
        ["a dog sits on the red grass", "the dog sits"],
    )
]
VOCABULARY = Vocabulary.build([tokens for group in TRAINING for tokens in group], 1, "full")


def hypothesis(text, probability=0.1):
    numbers = tuple(VOCABULARY.encode(text.split())[1:-1])
    return Hypothesis(numbers, math.log(probability), 0.0, True)


def said(hypotheses):
    return [" ".join(VOCABULARY.decode(one.numbers)) for one in hypotheses]


@pytest.fixture
def consensus():
    return Consensus.of(TRAINING, VOCABULARY)


def test_what_most_agree_with_beats_what_is_most_probable(consensus):
    hypotheses = [
        hypothesis("a cat sits on the snow", 0.2),
        hypothesis("a dog runs on the grass", 0.15),
        hypothesis("the dog runs on the grass", 0.15),
        hypothesis("a dog runs on the red grass", 0.15),
    ]
    assert said(consensus.rank(hypotheses))[0] == "a dog runs on the grass"


def test_the_sharper_the_more_the_probable_ones_count(consensus):
    hypotheses = [
        hypothesis("a cat sits on the snow", 0.9),
        hypothesis("a dog runs on the grass", 0.01),
        hypothesis("the dog runs on the grass", 0.01),
    ]
    flat, sharp = (
        consensus.with_inverse_temperature(inverse_temperature).rank(hypotheses)
        for inverse_temperature in (0, 3)
    )
    assert "dog" in said(flat)[0]
    assert "cat" in said(sharp)[0]


captions = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join), min_size=3, max_size=6
)


@settings(deadline=None)
@given(captions)
def test_agreement_is_the_cider_that_captions_are_scored_by(texts):
    """With the document frequencies of the training split, each other caption the reference."""
    consensus = Consensus.of(TRAINING, VOCABULARY)
    hypotheses = [hypothesis(text) for text in texts]
    numbers = [one.numbers for one in hypotheses]
    encoded = [[VOCABULARY.encode(one)[1:-1] for one in group] for group in TRAINING]
    found = consensus._similarities(numbers)
    for row, candidate in enumerate(numbers):
        for column, reference in enumerate(numbers):
            scorer = Cider(encoded)
            scorer._references = [[scorer._vector(all_ngrams(reference))]]
            assert found[row, column] == pytest.approx(scorer.score(candidate, 0), abs=1e-9)


@settings(deadline=None)
@given(captions, st.floats(0, 2))
def test_ranking_loses_nothing(texts, inverse_temperature):
    hypotheses = [hypothesis(text) for text in texts]
    ranked = (
        Consensus.of(TRAINING, VOCABULARY)
        .with_inverse_temperature(inverse_temperature)
        .rank(hypotheses)
    )
    assert sorted(map(id, ranked)) == sorted(map(id, hypotheses))


def test_few_or_empty_hypotheses_keep_their_order(consensus):
    two = [hypothesis("a dog"), hypothesis("a cat")]
    assert consensus.rank(two) == two
    nothing = [hypothesis("")] * 3
    assert consensus.rank(nothing) == nothing


def test_what_was_counted_survives_the_disk(consensus, tmp_path):
    consensus.save(tmp_path / "consensus.npz")
    loaded = Consensus.load(tmp_path / "consensus.npz", inverse_temperature=0.3)
    assert loaded.frequencies == consensus.frequencies
    assert loaded.photographs == consensus.photographs == 3
    assert loaded.inverse_temperature == 0.3
    a, dog = VOCABULARY.encode(["a", "dog"])[1:-1]
    assert loaded.frequencies[(a, dog)] == 2
    assert all(count > 1 for count in loaded.frequencies.values())
    assert np.load(tmp_path / "consensus.npz", allow_pickle=False)["counts"].dtype == np.int32


def test_a_missing_file_names_what_makes_it(tmp_path):
    with pytest.raises(MissingStageError, match="05_evaluate_captions"):
        Consensus.load(tmp_path / "consensus.npz")
