import math
import random
import shutil
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import corpus_bleu

from utils import metrics
from utils.dataset import load_dataset
from utils.machinery.errors import DatasetError
from utils.settings import PROJECT, Settings

FLICKR8K = PROJECT.parent / "shared" / "flickr8k"
needs_flickr8k = pytest.mark.skipif(not FLICKR8K.is_dir(), reason="needs ../shared/flickr8k")
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
WORDS = "a dog the man runs jumps over grass ball in on with red".split()
SENTENCES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12)
CORPORA = st.lists(
    st.tuples(SENTENCES, st.lists(SENTENCES, min_size=1, max_size=5)), min_size=1, max_size=8
)
# Raw captions and the tokens that our tokenizer and the official one in Java agree on.
AWKWARD = {
    "A man's dog isn't on the kids' sofa .": "a man 's dog is n't on the kids sofa",
    "A dog runs. It jumps!": "a dog runs it jumps",
    'A girl says "hello" to her friend .': "a girl says hello to her friend",
    "The sign says 'stop'.": "the sign says stop",
    "'Don't run', says a sign": "do n't run says a sign",
    'He calls "A dog runs." loudly': "he calls a dog runs loudly",
    "He calls 'A dog runs.' loudly": "he calls a dog runs loudly",
    "“It’s an ‘old’ car.” They’re in it.": "it 's an old car they 're in it",
    "A well-known black-and-white T-shirt , size 12": (
        "a well-known black-and-white t-shirt size 12"
    ),
    "Two 2-year-olds at 3:30 on the 4th of July": "two 2-year-olds at 3:30 on the 4th of july",
    "1,000 people walk 3.5 miles for $20": "1,000 people walk 3.5 miles for $ 20",
    "A man ... then a dog; a cat: a ball": "a man then a dog a cat a ball",
    "A man -- a dog - a cat – a ball—a net…": "a man a dog a cat a ball a net",
    "rock n' roll of the '90s": "rock n roll of the '90s",
    "stay 'til noon 'cause we 've won": "stay 'til noon 'cause we 've won",
    "She'll cannot, he's gonna": "she 'll can not he 's gon na",
    "A black/white dog , and a cat?": "a black/white dog and a cat",
}
# Where they part: our tokens, then those of the official program.
PARTED = {
    "A dog (brown) .": ("a dog brown", "a dog -lrb- brown -rrb-"),  # it seeks -LRB- in lower case
    "Mr. Brown in Washington D.C. today": (
        "mr brown in washington d.c today",
        "mr. brown in washington d.c. today",
    ),
    "A dog runs?!": ("a dog runs", "a dog runs ?!"),
}


def by_photograph(corpus):
    return [candidate for candidate, _ in corpus], [references for _, references in corpus]


def as_pycocoevalcap(corpus):
    """The same corpus as two dictionaries of joined sentences."""
    references = {place: list(map(" ".join, group)) for place, (_, group) in enumerate(corpus)}
    candidates = {place: [" ".join(tokens)] for place, (tokens, _) in enumerate(corpus)}
    return references, candidates


def official_tokens(groups):
    """Tokens of groups of raw captions, by pycocoevalcap's tokenizer in Java."""
    tokenizer = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer").PTBTokenizer()
    raw = {place: [{"caption": text} for text in group] for place, group in enumerate(groups)}
    tokens_of = tokenizer.tokenize(raw)
    return [[text.split() for text in tokens_of[place]] for place in raw]


def official_scores(candidates, references):
    """What pycocoevalcap makes of tokens, x100."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    corpus = as_pycocoevalcap(list(zip(candidates, references, strict=True)))
    orders, _ = Bleu(4).compute_score(*corpus, verbose=0)
    scores = {f"BLEU-{order}": score for order, score in enumerate(orders, start=1)}
    scores["ROUGE-L"], _ = Rouge().compute_score(*corpus)
    scores["CIDEr"], _ = Cider().compute_score(*corpus)
    return {name: 100 * score for name, score in scores.items()}


@given(CORPORA)
def test_bleu_equals_pycocoevalcap_where_it_does_not_smooth(corpus):
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu")
    expected, _ = bleu.Bleu(4).compute_score(*as_pycocoevalcap(corpus), verbose=0)
    for ours, theirs in zip(metrics.bleu(*by_photograph(corpus)), expected, strict=True):
        if ours:  # theirs puts a tiny number where no n-gram matches, ours 0
            assert ours == pytest.approx(100 * theirs, rel=1e-6)
        else:
            assert theirs < 0.05


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


@given(CORPORA)
def test_rouge_equals_pycocoevalcap(corpus):
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge")
    expected, _ = rouge.Rouge().compute_score(*as_pycocoevalcap(corpus))
    assert metrics.rouge_l(*by_photograph(corpus)) == pytest.approx(100 * expected, abs=1e-6)


@given(CORPORA)
def test_cider_equals_pycocoevalcap_photograph_by_photograph(corpus):
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    _, expected = cider.Cider().compute_score(*as_pycocoevalcap(corpus))
    candidates, references = by_photograph(corpus)
    ours = metrics.Cider(references).scores(candidates)
    np.testing.assert_allclose(ours, 100 * np.array(expected), atol=1e-6)


@settings(max_examples=50)
@given(CORPORA, st.data())
def test_rewards_equal_pycocoevalcap_with_the_document_frequencies_of_the_training_corpus(
    corpus, data
):
    # Self-critical training draws several captions of a photograph, in any order, with words that
    # no reference has, and none of them may count in the document frequencies.
    theirs = pytest.importorskip("pycocoevalcap.cider.cider_scorer")
    _, references = by_photograph(corpus)
    rows = st.integers(0, len(references) - 1)
    words = st.lists(st.sampled_from([*WORDS, "zebra", "quickly"]), max_size=12)
    drawn = data.draw(st.lists(st.tuples(rows, words), min_size=1, max_size=6))
    cider = metrics.Cider(references)
    rewards = [cider.score(tokens, row) for row, tokens in drawn]

    scorer = theirs.CiderScorer()
    for group in references:
        scorer += ("", list(map(" ".join, group)))
    scorer.compute_doc_freq()
    expected = []
    for row, tokens in drawn:
        scorer.ctest[row] = theirs.cook_test(" ".join(tokens))
        expected.append(scorer.compute_cider()[row])
    np.testing.assert_allclose(rewards, expected, atol=1e-8)


def test_bleu_of_a_hand_computed_corpus():
    # 5 of 6 words, 3 of 5 pairs, 1 of 4 triples match; candidate and reference have 6 words.
    candidate = "the cat sat on a mat".split()
    reference = "the cat lay on a mat".split()
    one, two, three, four = metrics.bleu([candidate], [[reference]])
    assert one == pytest.approx(100 * 5 / 6)
    assert two == pytest.approx(100 * math.sqrt(5 / 6 * 3 / 5))
    assert three == pytest.approx(100 * (5 / 6 * 3 / 5 * 1 / 4) ** (1 / 3))
    assert four == 0.0


def test_bleu_4_of_a_hand_computed_pair():
    # "green" is too much: 6 of 7 words, 4 of 6 pairs, 3 of 5 triples and 2 of 4 quadruples match.
    candidate = "a dog runs on the green grass".split()
    reference = "a dog runs on the grass".split()
    *_, four = metrics.bleu([candidate], [[reference]])
    assert four == pytest.approx(100 * (6 / 7 * 4 / 6 * 3 / 5 * 2 / 4) ** (1 / 4))


def test_bleu_is_short_of_full_for_a_short_caption_by_the_brevity_penalty():
    # All n-grams match; 4 words for 6.
    reference = "a dog runs over the grass".split()
    expected = [100 * math.exp(1 - 6 / 4)] * 4
    assert metrics.bleu([reference[:4]], [[reference]]) == pytest.approx(expected)


def test_bleu_counts_a_repeated_word_as_often_as_the_reference_that_has_most_of_it():
    # "dog" stands 2 times in one reference and 1 time in another: 2 of 4 match, not 3 or 4.
    references = ["dog meets a dog".split(), "one dog".split()]
    assert metrics.bleu([["dog"] * 4], [references]) == pytest.approx([50, 0, 0, 0])


def test_bleu_takes_the_shorter_of_two_references_that_are_as_close():
    # 5 words; 4 and 6 are as close. With 6 there would be a penalty of exp(1 - 6/5).
    candidate = "a dog runs on grass".split()
    references = ["a dog runs on the grass".split(), "a dog runs fast".split()]
    assert metrics.bleu([candidate], [references])[0] == pytest.approx(100)


def test_bleu_adds_up_the_corpus_before_it_divides():
    # 1 of 2 and 6 of 6 words are 7 of 8, where the mean of both would be 3/4; 0 of 1 and 5 of 5
    # pairs are 5 of 6.
    six = "two men sit on a bench".split()
    one, two, *_ = metrics.bleu(["a cat".split(), six], [["a dog".split()], [six]])
    assert one == pytest.approx(100 * 7 / 8)
    assert two == pytest.approx(100 * math.sqrt(7 / 8 * 5 / 6))


def test_rouge_of_a_hand_computed_pair():
    # Common subsequence of 4 words; precision 4/5, recall 4/6, beta 1.2.
    candidate = "a dog on the grass".split()
    reference = "a dog runs over the grass".split()
    expected = 100 * (1 + 1.44) * 0.8 * (4 / 6) / (4 / 6 + 1.44 * 0.8)
    assert metrics.rouge_l([candidate], [[reference]]) == pytest.approx(expected)


def test_rouge_takes_the_best_precision_and_the_best_recall_of_all_references():
    # Precision 3/3 with the long reference, recall 2/2 with the short one.
    candidate = "a dog runs".split()
    references = ["a dog runs over the wet grass".split(), "a dog".split()]
    assert metrics.rouge_l([candidate], [references]) == pytest.approx(100)


def test_rouge_minds_the_order_of_words_and_is_a_mean_over_photographs():
    # Backwards a subsequence of 1 in 3 words is left: precision and recall 1/3. The other is right.
    words = "on the grass".split()
    score = metrics.rouge_l([words[::-1], words], [[words], [words]])
    assert score == pytest.approx(100 * (1 / 3 + 1) / 2)


def test_cider_of_a_hand_computed_pair_is_ten_times_the_mean_cosine():
    # One photograph's words are in no other one, so all weights are equal: 1-grams give 1/2, and
    # no longer n-gram is shared. Over four orders that is a mean of 1/8, times 10, times 100.
    corpus = [("a b".split(), ["a c".split()]), ("x y".split(), ["x y".split()])]
    candidates, references = by_photograph(corpus)
    scores = metrics.Cider(references).scores(candidates)
    assert scores[0] == pytest.approx(125.0)
    assert scores[1] == pytest.approx(500.0)  # all of two orders, nothing of the longer ones


def test_cider_weighs_a_word_by_how_few_photographs_have_it():
    # Of 4 photographs 2 have "red" and 1 has "dog" or "cat": log(4/2) and log(4/1) = 2 log(4/2).
    # (1, 2, 0) and (1, 0, 2) have the cosine 1/5; no pair matches. 10 x mean of 4 orders, x100.
    references = [[text.split()] for text in ("red dog", "red cat", "two men", "six boys")]
    cider = metrics.Cider(references)
    assert 100 * cider.score("red cat".split(), 0) == pytest.approx(1000 * (1 / 5) / 4)


def test_cider_gives_nothing_for_a_word_that_every_photograph_has():
    cider = metrics.Cider([["a dog".split()], ["a cat".split()]])
    assert cider.score(["a"], 0) == 0


def test_cider_clips_repeated_words_and_punishes_another_length():
    # Three times "dog" for one: min(3, 1) x 1 / (3 x 1) = 1/3, where the cosine alone would be 1;
    # 2 pairs more than the reference: exp(-2^2 / (2 x 6^2)).
    cider = metrics.Cider([[["dog"]], [["cat"]]])
    expected = 10 / 4 * (1 / 3) * math.exp(-4 / 72)
    assert cider.score(["dog"] * 3, 0) == pytest.approx(expected)


def test_cider_is_the_mean_over_references():
    # One reference is the caption itself, in one order of four; the other shares nothing.
    cider = metrics.Cider([[["dog"], ["puppy"]], [["cat"]]])
    assert cider.score(["dog"], 0) == pytest.approx(10 * (1 + 0) / 2 / 4)


def test_tokens_are_lower_case_without_punctuation_and_keep_articles_and_digits():
    raw = 'A man\'s dog -- "Rex" (brown) , age 2 ; runs ... Then: it jumps!'
    expected = "a man 's dog rex brown age 2 runs then it jumps".split()
    assert metrics.tokenize(raw) == expected


@pytest.mark.parametrize("raw", AWKWARD)
def test_awkward_captions_are_split_as_in_the_penn_treebank(raw):
    assert metrics.tokenize(raw) == AWKWARD[raw].split()


@pytest.mark.parametrize("raw", PARTED)
def test_brackets_and_every_full_stop_are_dropped(raw):
    assert metrics.tokenize(raw) == PARTED[raw][0].split()


@needs_java
def test_awkward_captions_have_the_tokens_of_the_official_tokenizer_but_for_those_we_name():
    expected = list(AWKWARD.values()) + [theirs for _, theirs in PARTED.values()]
    (theirs,) = official_tokens([[*AWKWARD, *PARTED]])
    assert [" ".join(tokens) for tokens in theirs] == expected


@needs_java
def test_awkward_captions_have_the_scores_of_the_official_pipeline():
    pairs = list(pairwise(AWKWARD))
    captions = [f"{first} {second}" for first, second in pairs]
    references = [[second, f"{first} Then: {second}"] for first, second in pairs]
    candidates, *groups = official_tokens([captions, *references])
    ours = metrics.score_captions(captions, references)
    assert min(ours.values()) > 10
    assert ours == pytest.approx(official_scores(candidates, groups), abs=1e-4)


@needs_java
@needs_flickr8k
def test_flickr8k_has_the_official_tokens_in_all_test_captions_and_but_few_dev_captions():
    dataset = load_dataset(Settings(dataset="flickr8k", data=FLICKR8K))
    differing = {}
    for split in ("dev", "test"):
        captions = list(chain.from_iterable(dataset.references(dataset.splits[split])))
        (theirs,) = official_tokens([captions])
        assert len(theirs) == len(captions)
        differing[split] = sum(
            metrics.tokenize(text) != tokens for text, tokens in zip(captions, theirs, strict=True)
        )
    assert differing["test"] == 0
    assert differing["dev"] <= 4


@needs_java
@needs_flickr8k
def test_flickr8k_has_the_official_scores_to_a_hundredth_of_a_point():
    # The first caption of every dev photograph against the others; dev has captions that the two
    # tokenizers split differently, test has none.
    dataset = load_dataset(Settings(dataset="flickr8k", data=FLICKR8K))
    groups = dataset.references(dataset.splits["dev"])
    ours = metrics.score_captions([group[0] for group in groups], [group[1:] for group in groups])
    tokens = official_tokens(groups)
    theirs = official_scores([group[0] for group in tokens], [group[1:] for group in tokens])
    assert ours == pytest.approx(theirs, abs=0.01, rel=0)


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
    with pytest.raises(ValueError, match="longer"):
        metrics.score_captions(["a dog"], [["a dog"], ["a cat"]])
    with pytest.raises(ValueError, match="needs a reference"):
        metrics.score_captions(["a dog", "a cat"], [["a dog"], []])


def test_meteor_is_left_out_where_java_is_missing(monkeypatch):
    not_started = metrics._java_meteor.__wrapped__  # whatever other tests did
    monkeypatch.setattr(metrics, "_java_meteor", not_started)
    monkeypatch.setattr(metrics.shutil, "which", lambda name: None)
    assert metrics.meteor(["a dog"], [["a dog"]]) is None


@needs_java
def test_meteor_of_the_java_program_prefers_the_right_caption():
    pytest.importorskip("pycocoevalcap.meteor.meteor")
    references = [["a dog runs over the grass"], ["two men sit on a bench"]]
    right = metrics.meteor(["A dog runs over the grass .", "Two men sit on a bench ."], references)
    wrong = metrics.meteor(["two men sit on a bench", "a dog runs over the grass"], references)
    assert right == pytest.approx(100)
    assert 0 <= wrong < right / 2


# How much people agree


AGREEING = [
    ["A dog runs over the grass .", "A dog runs .", "The brown dog runs over a meadow ."],
    ["Two men sit on a bench .", "Two men sit on a bench in a park .", "Men on a bench ."],
]


def test_it_is_the_mean_of_the_scores_of_captions_that_are_held_out():
    rounds = [
        metrics.score_captions(
            [group[held_out] for group in AGREEING],
            [group[:held_out] + group[held_out + 1 :] for group in AGREEING],
        )
        for held_out in range(3)
    ]
    scores = metrics.leave_one_out(AGREEING).scores
    assert scores == pytest.approx(
        {name: np.mean([one[name] for one in rounds]) for name in scores}
    )


def test_those_who_say_the_same_agree_most():
    same, different = ["A dog runs ."] * 2, ["A dog runs .", "Nobody is there ."]
    assert metrics.leave_one_out([same, different]).rouge_of.tolist() == pytest.approx([100, 0])


def test_rewriting_changes_the_held_out_caption_and_not_what_it_is_compared_with():
    scores = metrics.leave_one_out(
        [["A dog runs ."] * 5], rewrite=lambda text: text.replace("A ", "")
    ).scores
    assert scores["BLEU-1"] == pytest.approx(100 * np.exp(1 - 3 / 2))


def test_a_photograph_with_one_caption_has_no_agreement_and_does_not_stop_the_others():
    agreement = metrics.leave_one_out([["A dog ."], ["A dog ."] * 3, ["A cat ."] * 5])
    assert np.isnan(agreement.rouge_of[0])
    assert agreement.rouge_of[1:].tolist() == pytest.approx([100, 100])


def test_captions_without_company_are_refused():
    with pytest.raises(DatasetError, match="No photograph has two captions"):
        metrics.leave_one_out([["A dog ."], ["A cat ."]])
