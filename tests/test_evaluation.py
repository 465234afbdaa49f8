import json

import keras
import numpy as np
import pytest

from tests.test_training import VOCABULARY, caption_set
from utils.decoder import build_decoder, standardise
from utils.evaluation import (
    SHARES,
    bootstrap_intervals,
    choose_search,
    describe_captions,
    evaluate_system,
    paired_bootstrap,
    prediction_rows,
    score_row,
    scores_against_all_but_one,
    shuffled,
)
from utils.metrics import Cider, bleu, score_captions, tokenize
from utils.neighbours import Neighbours
from utils.search import (
    INVERSE_TEMPERATURES,
    WIDE,
    Consensus,
    Searcher,
    SearchSettings,
    captions_of,
)


@pytest.fixture(scope="module")
def dev():
    return caption_set(1, 6)


@pytest.fixture(scope="module")
def decoder(dev):
    keras.utils.set_random_seed(1)
    decoder = build_decoder("merge", len(VOCABULARY), (7,), embedding_units=6, units=8)
    standardise(decoder, dev.features)
    return decoder


@pytest.fixture(scope="module")
def another(dev):
    keras.utils.set_random_seed(2)
    another = build_decoder("inject", len(VOCABULARY), (7,), embedding_units=6, units=8)
    standardise(another, dev.features)
    return another


def test_every_search_is_scored_and_the_best_comes_first(decoder, dev, capsys):
    split = (dev.features, dev.references)
    options = {"beams": (1, 2), "length_penalties": (0.0, 1.0)}
    table = choose_search(decoder, VOCABULARY, *split, **options)
    assert "searches: 100%" in capsys.readouterr().err
    tried = zip(table["beam"], table["length_penalty"], strict=True)
    assert sorted(tried) == [(1, 1.0), (2, 0.0), (2, 1.0)]
    assert table["CIDEr"].is_monotonic_decreasing
    assert (table["seconds"] > 0).all()
    searchers = {beam: Searcher(decoder, beam) for beam in (1, 2)}
    for _, row in table.iterrows():  # each as if it had been searched for alone
        searcher = searchers[row["beam"]]
        searcher.length_penalty = row["length_penalty"]
        captions = captions_of([group[0] for group in searcher.search(dev.features)], VOCABULARY)
        assert row["CIDEr"] == score_captions(captions, dev.references)["CIDEr"]


def test_a_consensus_is_tried_beside_the_beams(decoder, another, dev):
    consensus = Consensus.of(dev.tokens, VOCABULARY)
    decoders, features = [decoder, another], [dev.features, dev.features]
    options = {"beams": (2,), "length_penalties": (1.0,)}
    table = choose_search(
        decoders, VOCABULARY, features, dev.references, consensus=consensus, **options
    )
    assert sorted(table["inverse_temperature"].dropna()) == list(INVERSE_TEMPERATURES)
    tried = table[table["inverse_temperature"] == INVERSE_TEMPERATURES[0]].iloc[0]
    search = SearchSettings.from_row(tried)
    captions = captions_of(search.searcher(decoders, consensus).best(features), VOCABULARY)
    assert tried["CIDEr"] == score_captions(captions, dev.references)["CIDEr"]
    plain = table[table["inverse_temperature"].isna()].iloc[0]
    assert SearchSettings.from_row(plain) == SearchSettings(2, 1.0)


def test_a_row_says_what_was_scored_and_how(decoder, dev, monkeypatch):
    monkeypatch.setattr("utils.metrics.meteor", lambda *_: 12.5)
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


# Comparing systems


@pytest.mark.parametrize("together", [False, True])
def test_a_system_is_searched_as_dev_has_it_and_scored_on_test(decoder, another, dev, together):
    test = caption_set(3, 5)
    decoders = [decoder, another] if together else [decoder]
    options = {"beams": (1, 2), "length_penalties": (0.5, 1.0)}
    splits = {"pooled": dev}, {"pooled": test}
    row, captions = evaluate_system("mine", decoders, VOCABULARY, *splits, **options)

    searcher = Searcher(decoders, row["beam"], row["length_penalty"])
    read = [test.features] * 2 if together else test.features
    assert captions == captions_of(searcher.best(read), VOCABULARY)
    assert row["test"]["CIDEr"] == pytest.approx(score_captions(captions, test.references)["CIDEr"])
    if not together:
        tried = choose_search(decoder, VOCABULARY, dev.features, dev.references, **options)
        assert row["dev"]["CIDEr"] == tried["CIDEr"].max()
    assert row["decoders"] == (["merge", "inject"] if together else ["merge"])
    assert row["parameters"] == sum(one.count_params() for one in decoders)
    low, high = row["intervals"]["CIDEr"]
    assert low <= row["test"]["CIDEr"] <= high
    json.dumps(row)


def test_a_system_is_searched_for_a_consensus_where_dev_has_it(decoder, dev):
    consensus = Consensus.of(dev.tokens, VOCABULARY)
    splits = {"pooled": dev}, {"pooled": dev}
    options = {"beams": (), "consensus": consensus}
    row, captions = evaluate_system("mine", [decoder], VOCABULARY, *splits, **options)
    assert row["inverse_temperature"] in INVERSE_TEMPERATURES
    searcher = SearchSettings.from_row(row).searcher(decoder, consensus)
    assert captions == captions_of(searcher.best(dev.features), VOCABULARY)
    assert row["dev"] == pytest.approx({name: row["test"][name] for name in row["dev"]})


def test_captions_of_neighbours_vote_where_dev_has_it(decoder, dev):
    """Of photographs that are their own neighbours, nothing can be said that is better."""
    test = caption_set(3, 5)
    known = {"beams": (), "consensus": Consensus.of(dev.tokens, VOCABULARY)}
    systems = ("mine", [decoder], VOCABULARY, {"pooled": dev}, {"pooled": test})
    alone, _ = evaluate_system(*systems, **known)
    row, captions = evaluate_system(*systems, neighbours=Neighbours(dev, VOCABULARY), **known)
    assert alone["voters"] == 0
    assert row["voters"] in SHARES[1:]
    assert row["dev"]["CIDEr"] > alone["dev"]["CIDEr"]
    found = Searcher(decoder, *WIDE).search(test.features)
    voters = Neighbours(dev, VOCABULARY).voters(test.features)
    ranked = [
        known["consensus"].rankings(group, [row["inverse_temperature"]], own, [row["voters"]])[0]
        for group, own in zip(found, voters, strict=True)
    ]
    assert captions == captions_of([group[0] for group in ranked], VOCABULARY)


def test_a_decoder_can_read_features_of_another_cnn(decoder, dev):
    test = caption_set(3, 5)
    known, splits = ("plain", [decoder], VOCABULARY), ({"pooled": dev}, {"pooled": test})
    row, _ = evaluate_system(*known, *splits, beams=(1,))
    splits = {"tuned": dev}, {"tuned": test}
    tuned, _ = evaluate_system(*known, *splits, beams=(1,), kinds=["tuned"])
    assert tuned == row


PHOTOGRAPHS = 40


@pytest.fixture(scope="module")
def described():
    """References of photographs, and captions that are right in nine cases of ten and in half."""
    random = np.random.default_rng(4)
    groups = caption_set(5, PHOTOGRAPHS).references
    wrong = "the man runs over the grass"
    good, fair = (
        [group[1] if random.random() < share else wrong for group in groups] for share in (0.9, 0.5)
    )
    return groups, good, fair


def test_the_interval_holds_the_score_and_narrows_with_more_photographs(described):
    groups, good, _ = described
    scores = score_captions(good, groups)
    narrow, wide = bootstrap_intervals(good, groups), bootstrap_intervals(good[:10], groups[:10])
    for score, (low, high) in narrow.items():
        assert low < scores[score] < high
        assert wide[score][1] - wide[score][0] > high - low


def test_captions_that_are_all_equally_good_have_no_interval():
    groups = [["a red dog runs"], ["one blue boat swims"]]
    intervals = bootstrap_intervals([group[0] for group in groups], groups)
    assert intervals["BLEU-4"] == pytest.approx((100, 100))
    assert intervals["CIDEr"] == pytest.approx((1000, 1000))


def test_an_interval_is_what_scoring_every_draw_again_gives(described, monkeypatch):
    groups, good, _ = described
    rounds, seed = 9, 3
    tokens = [tokenize(text) for text in good]
    references = [[tokenize(text) for text in group] for group in groups]
    cider = Cider(references).scores(tokens)
    random = np.random.default_rng(seed)
    share = [1 / PHOTOGRAPHS] * PHOTOGRAPHS
    draws = [
        np.repeat(np.arange(PHOTOGRAPHS), random.multinomial(PHOTOGRAPHS, share))
        for _ in range(rounds)
    ]
    drawn = {
        "CIDEr": [cider[places].mean() for places in draws],
        "BLEU-4": [
            bleu([tokens[place] for place in places], [references[place] for place in places])[-1]
            for places in draws
        ],
    }

    monkeypatch.setattr("utils.evaluation.ROUNDS", rounds)
    found = bootstrap_intervals(good, groups, seed)

    assert found["CIDEr"] == pytest.approx(np.percentile(drawn["CIDEr"], [2.5, 97.5]))
    assert found["BLEU-4"] == pytest.approx(np.percentile(drawn["BLEU-4"], [2.5, 97.5]))


def test_the_better_system_wins_in_nearly_every_draw_and_the_same_one_in_half(described):
    groups, good, fair = described
    assert min(paired_bootstrap(good, fair, groups).values()) > 0.99
    assert max(paired_bootstrap(fair, good, groups).values()) < 0.01
    assert paired_bootstrap(good, good, groups) == {"CIDEr": 0.5, "BLEU-4": 0.5}


def test_captions_without_photographs_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        bootstrap_intervals(["a dog", "a cat"], [["a dog"]])
