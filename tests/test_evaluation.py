import keras
import numpy as np
import pytest

from tests.test_training import VOCABULARY, caption_set
from utils.decoder import build_merge, standardise
from utils.evaluation import (
    describe_captions,
    prediction_rows,
    score_row,
    scores_against_all_but_one,
    shuffled,
    try_searches,
)
from utils.metrics import score_captions
from utils.search import Searcher, captions_of


@pytest.fixture(scope="module")
def dev():
    return caption_set(1, 6)


@pytest.fixture(scope="module")
def decoder(dev):
    keras.utils.set_random_seed(1)
    decoder = build_merge(len(VOCABULARY), (7,), 6, 8)
    standardise(decoder, dev.features)
    return decoder


def test_every_search_is_scored_and_the_best_comes_first(decoder, dev):
    table = try_searches(decoder, VOCABULARY, dev, beams=(1, 2), length_penalties=(0.0, 1.0))
    assert sorted(zip(table["beam"], table["length_penalty"], strict=True)) == [
        (1, 1.0),
        (2, 0.0),
        (2, 1.0),
    ]
    assert table["CIDEr"].is_monotonic_decreasing
    best = table.iloc[0]
    searcher = Searcher(decoder, int(best["beam"]), best["length_penalty"])
    captions = captions_of(searcher.best(dev.features), VOCABULARY)
    assert best["CIDEr"] == pytest.approx(score_captions(captions, dev.references)["CIDEr"])


def test_a_row_says_what_was_scored_and_how(decoder, dev, monkeypatch):
    monkeypatch.setattr("utils.evaluation.meteor", lambda *_: 12.5)
    captions = [group[0] for group in dev.references]
    row = score_row("perfect", "ours", "dev", Searcher(decoder, 2), captions, dev.references)
    assert (row["split"], row["images"], row["beam"]) == ("dev", 6, 2)
    assert row["BLEU-1"] == pytest.approx(100)
    assert row["METEOR"] == 12.5


def test_predictions_keep_photograph_caption_and_probability(decoder, dev):
    best = Searcher(decoder, 1).best(dev.features)
    rows = prediction_rows(dev.photos, "dev", "ours", 1, best, VOCABULARY)
    assert rows["photo"].tolist() == list(dev.photos)
    assert rows["caption"].tolist() == captions_of(best, VOCABULARY)
    assert rows["log_probability"][0] == pytest.approx(best[0].log_probability, abs=1e-4)


@pytest.mark.parametrize("count", [2, 3, 50])
def test_shuffling_gives_every_photograph_the_features_of_another_one(count):
    features = np.arange(count)[:, None]
    mixed = shuffled(features, seed=1)
    assert sorted(mixed[:, 0]) == list(range(count))
    assert (mixed != features).all()


def test_fewer_references_give_lower_scores():
    references = [["a dog runs", "the dog runs fast", "a dog"], ["a boat", "one boat", "a ship"]]
    captions = ["the dog runs fast", "one boat"]
    fewer = scores_against_all_but_one(captions, references)
    assert fewer["BLEU-1"] < score_captions(captions, references)["BLEU-1"]
    assert fewer["BLEU-1"] == pytest.approx(
        np.mean(
            [
                score_captions(captions, [g[1:] for g in references])["BLEU-1"],
                score_captions(captions, [[g[0], g[2]] for g in references])["BLEU-1"],
                score_captions(captions, [g[:2] for g in references])["BLEU-1"],
            ]
        )
    )


def test_captions_are_counted_by_what_was_said_before():
    described = describe_captions(
        ["a red dog", "a red dog", "a dog in blue"],
        [["A dog ."], ["A red dog runs ."], ["Blue dog"]],
        [["A red dog .", "a boat"]],
        VOCABULARY,
    )
    assert described["distinct"] == 2
    assert described["seen_in_training"] == 2
    assert described["words_used"] == 5
    assert described["mean_length"] == pytest.approx(10 / 3)
    assert described["human_mean_length"] == pytest.approx(8 / 3)
