"""People are scored against each other, with the caption's own text never among the references."""

import numpy as np
import pytest

from utils.metrics import leave_one_out, score_captions

REFERENCES = [
    ["A dog runs over the grass .", "A dog runs .", "The brown dog runs over a meadow ."],
    ["Two men sit on a bench .", "Two men sit on a bench in a park .", "Men on a bench ."],
]


def test_it_is_the_mean_of_the_scores_of_captions_that_are_held_out():
    rounds = [
        score_captions(
            [group[held_out] for group in REFERENCES],
            [group[:held_out] + group[held_out + 1 :] for group in REFERENCES],
        )
        for held_out in range(3)
    ]
    scores = leave_one_out(REFERENCES).scores
    assert scores == pytest.approx(
        {name: np.mean([one[name] for one in rounds]) for name in scores}
    )


def test_those_who_say_the_same_agree_most():
    same, different = ["A dog runs ."] * 2, ["A dog runs .", "Nobody is there ."]
    assert leave_one_out([same, different]).rouge_of.tolist() == pytest.approx([100, 0])


def test_rewriting_changes_the_held_out_caption_and_not_what_it_is_compared_with():
    scores = leave_one_out(
        [["A dog runs ."] * 5], rewrite=lambda text: text.replace("A ", "")
    ).scores
    assert scores["BLEU-1"] == pytest.approx(100 * np.exp(1 - 3 / 2))


def test_a_photograph_with_one_caption_has_no_agreement_and_does_not_stop_the_others():
    agreement = leave_one_out([["A dog ."], ["A dog ."] * 3, ["A cat ."] * 5])
    assert np.isnan(agreement.rouge_of[0])
    assert agreement.rouge_of[1:].tolist() == pytest.approx([100, 100])


def test_captions_without_company_are_refused():
    with pytest.raises(ValueError, match="No photograph has two captions"):
        leave_one_out([["A dog ."], ["A cat ."]])
