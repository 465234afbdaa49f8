import math
import random
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import corpus_bleu

from utils import metrics

WORDS = "a dog the man runs jumps over grass ball in on with red".split()
SENTENCES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12)
CORPORA = st.lists(
    st.tuples(SENTENCES, st.lists(SENTENCES, min_size=1, max_size=5)), min_size=1, max_size=8
)


def by_photograph(corpus):
    return [candidate for candidate, _ in corpus], [references for _, references in corpus]


def as_pycocoevalcap(corpus):
    """The same corpus as two dictionaries of joined sentences."""
    references = {place: list(map(" ".join, group)) for place, (_, group) in enumerate(corpus)}
    candidates = {place: [" ".join(tokens)] for place, (tokens, _) in enumerate(corpus)}
    return references, candidates


@settings(deadline=None)
@given(CORPORA)
def test_bleu_equals_pycocoevalcap_where_it_does_not_smooth(corpus):
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu")
    expected, _ = bleu.Bleu(4).compute_score(*as_pycocoevalcap(corpus), verbose=0)
    for ours, theirs in zip(metrics.bleu(*by_photograph(corpus)), expected, strict=True):
        if ours:  # theirs puts a tiny number where no n-gram matches, ours 0
            assert ours == pytest.approx(100 * theirs, rel=1e-6)
        else:
            assert theirs < 0.05


@settings(deadline=None)
@given(CORPORA)
def test_bleu_equals_nltk(corpus):
    # NLTK counts an n-gram too many for each sentence shorter than n, so there is none here.
    corpus = [(tokens + tokens[:1] * 3, references) for tokens, references in corpus]
    candidates, references = by_photograph(corpus)
    ours = metrics.bleu(candidates, references)
    for order in range(1, 5):
        if ours[order - 1]:
            weights = [1 / order] * order
            theirs = corpus_bleu(references, candidates, weights=weights)
            assert ours[order - 1] == pytest.approx(100 * theirs, rel=1e-6)


@settings(deadline=None)
@given(CORPORA)
def test_rouge_equals_pycocoevalcap(corpus):
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge")
    expected, _ = rouge.Rouge().compute_score(*as_pycocoevalcap(corpus))
    assert metrics.rouge_l(*by_photograph(corpus)) == pytest.approx(100 * expected, abs=1e-6)


@settings(deadline=None)
@given(CORPORA)
def test_cider_equals_pycocoevalcap_photograph_by_photograph(corpus):
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    _, expected = cider.Cider().compute_score(*as_pycocoevalcap(corpus))
    candidates, references = by_photograph(corpus)
    ours = metrics.Cider(references).scores(candidates)
    np.testing.assert_allclose(ours, 100 * np.array(expected), atol=1e-6)


def test_bleu_of_a_hand_computed_corpus():
    # 5 of 6 words, 3 of 5 pairs, 1 of 4 triples match; candidate and reference have 6 words.
    candidate = "the cat sat on a mat".split()
    reference = "the cat lay on a mat".split()
    one, two, three, four = metrics.bleu([candidate], [[reference]])
    assert one == pytest.approx(100 * 5 / 6)
    assert two == pytest.approx(100 * math.sqrt(5 / 6 * 3 / 5))
    assert three == pytest.approx(100 * (5 / 6 * 3 / 5 * 1 / 4) ** (1 / 3))
    assert four == 0.0


def test_bleu_is_short_of_full_for_a_short_caption_by_the_brevity_penalty():
    reference = "a dog runs over the grass".split()
    assert metrics.bleu([reference[:3]], [[reference]])[0] == pytest.approx(100 * math.exp(1 - 2))


def test_rouge_of_a_hand_computed_pair():
    # Common subsequence of 4 words; precision 4/5, recall 4/6, beta 1.2.
    candidate = "a dog on the grass".split()
    reference = "a dog runs over the grass".split()
    expected = 100 * (1 + 1.44) * 0.8 * (4 / 6) / (4 / 6 + 1.44 * 0.8)
    assert metrics.rouge_l([candidate], [[reference]]) == pytest.approx(expected)


def test_cider_of_a_hand_computed_pair_is_ten_times_the_mean_cosine():
    # One photograph's words are in no other one, so all weights are equal: 1-grams give 1/2, and
    # no longer n-gram is shared. Over four orders that is a mean of 1/8, times 10, times 100.
    corpus = [("a b".split(), ["a c".split()]), ("x y".split(), ["x y".split()])]
    candidates, references = by_photograph(corpus)
    scores = metrics.Cider(references).scores(candidates)
    assert scores[0] == pytest.approx(125.0)
    assert scores[1] == pytest.approx(500.0)  # all of two orders, nothing of the longer ones


def test_tokens_are_lower_case_without_punctuation_and_keep_articles_and_digits():
    raw = 'A man\'s dog -- "Rex" (brown) , age 2 ; runs ... Then: it jumps!'
    expected = "a man 's dog rex brown age 2 runs then it jumps".split()
    assert metrics.tokenize(raw) == expected


def test_a_full_stop_within_a_caption_is_dropped_too():
    assert metrics.tokenize("A dog runs. It jumps .") == "a dog runs it jumps".split()


@given(st.text())
def test_any_text_can_be_tokenized(text):
    assert all(token and not token.isspace() for token in metrics.tokenize(text))


def test_perfect_captions_score_a_hundred_and_case_does_not_matter():
    references = [["A dog runs over the grass .", "x"], ["Two men sit on a bench .", "y"]]
    scores = metrics.score_captions([group[0].upper() for group in references], references)
    assert scores["BLEU-4"] == pytest.approx(100)
    assert scores["ROUGE-L"] == pytest.approx(100)
    assert scores["CIDEr"] > 100


def test_captions_of_other_photographs_score_lower():
    generator = random.Random(0)
    references = [[" ".join(generator.sample(WORDS, 8)) for _ in range(5)] for _ in range(30)]
    captions = [group[0] for group in references]
    right = metrics.score_captions(captions, references)
    shifted = metrics.score_captions(captions[1:] + captions[:1], references)
    assert all(right[name] > shifted[name] for name in right)


def test_missing_captions_or_references_are_refused():
    with pytest.raises(ValueError, match="1 captions and references for 2"):
        metrics.score_captions(["a dog"], [["a dog"], ["a cat"]])
    with pytest.raises(ValueError, match="no reference"):
        metrics.score_captions(["a dog", "a cat"], [["a dog"], []])


@pytest.fixture
def fresh_meteor():
    """No Java program from an earlier test, and none left for a later one."""
    metrics._java_meteor.cache_clear()
    yield
    metrics._java_meteor.cache_clear()


def test_meteor_is_left_out_where_java_is_missing(monkeypatch, fresh_meteor):
    monkeypatch.setattr(metrics.shutil, "which", lambda name: None)
    assert metrics.meteor(["a dog"], [["a dog"]]) is None


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_meteor_of_the_java_program_prefers_the_right_caption(fresh_meteor):
    pytest.importorskip("pycocoevalcap.meteor.meteor")
    references = [["a dog runs over the grass"], ["two men sit on a bench"]]
    right = metrics.meteor(["A dog runs over the grass .", "Two men sit on a bench ."], references)
    wrong = metrics.meteor(["two men sit on a bench", "a dog runs over the grass"], references)
    assert right == pytest.approx(100)
    assert 0 <= wrong < right / 2
