"""Evaluation: the search is chosen on dev, and test is scored once, beside its controls."""

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, product

import keras
import numpy as np
import pandas as pd

from utils import metrics, search
from utils.batches import CaptionSet
from utils.captions import Vocabulary
from utils.decoder import decoder_kind
from utils.machinery.progress import ProgressBar
from utils.neighbours import Neighbours
from utils.search import Consensus, Searcher, SearchSettings, captions_of

BEAMS, LENGTH_PENALTIES = (1, 3, 5), (0.5, 0.7, 1.0, 1.3)  # what a search is chosen from
ROUNDS = 1000  # of the bootstrap
SHARES = (0.0, 4.0, 8.0, 16.0)  # of the neighbours' captions in a consensus
_CHOSEN = ("beam", "length_penalty", "inverse_temperature", "voters")


def choose_search(
    decoders: search.Decoders,
    vocabulary: Vocabulary,
    features: search.Features,
    references: Sequence[Sequence[str]],
    *,
    beams: Sequence[int] = BEAMS,
    length_penalties: Sequence[float] = LENGTH_PENALTIES,
    consensus: Consensus | None = None,
    voters: Sequence[search.Voters] | None = None,
) -> pd.DataFrame:
    """Scores the captions that every search finds on a split, which is to be dev.

    Args:
        decoders, features: as `Searcher` takes them.
        references: raw captions of the same photographs.
        beams, length_penalties: to choose from; greedy search has no use for a penalty.
        consensus: tried as well, in several inverse temperatures, where there is one.
        voters: of each photograph, from `Neighbours`; tried in the consensus with several shares.

    Returns:
        Best CIDEr first. Columns `beam`, `length_penalty`, `inverse_temperature` (NaN without a
        consensus), `voters` (their share), the scores, x100, and the `seconds` that the search took
        for all penalties of a beam together.
    """
    rows, scorer = [], metrics.Scorer(references)

    def note(begun, ways, found):
        seconds = time.perf_counter() - begun
        for chosen, best in zip(ways, found, strict=True):
            row = dict(zip(_CHOSEN, chosen, strict=True))
            rows.append(row | scorer(captions_of(best, vocabulary)) | {"seconds": seconds})

    searched = Searcher(decoders).begin(features)  # once, for every beam
    total = len(references) * (len(beams) + (consensus is not None))
    with ProgressBar(total=total, desc="searches", unit="photo") as bar:
        for beam in beams:
            begun, penalties = time.perf_counter(), length_penalties if beam > 1 else (1.0,)
            found = Searcher(decoders, beam).best_by_penalty(searched, penalties, bar)
            note(begun, product([beam], penalties, [np.nan], [0.0]), found)
        if consensus is not None:
            begun = time.perf_counter()
            groups = Searcher(decoders, *search.WIDE).search(searched, bar)
            weighing = search.INVERSE_TEMPERATURES, (0.0,) if voters is None else SHARES
            beam, penalty, _ = search.WIDE
            found = consensus.best(groups, *weighing, voters)
            note(begun, product([beam], [penalty], *weighing), found)
    return pd.DataFrame(rows).sort_values("CIDEr", ascending=False, ignore_index=True)


def evaluate_system(
    name: str,
    decoders: Sequence[keras.Model],
    vocabulary: Vocabulary,
    dev: Mapping[str, CaptionSet],
    test: Mapping[str, CaptionSet],
    *,
    seed: int = 42,
    kinds: Sequence[str] | None = None,
    consensus: Consensus | None = None,
    neighbours: Neighbours | None = None,
    **options,
) -> tuple[dict, list[str]]:
    """Chooses the search of a decoder, or of several together, on dev, and scores test with it.

    Args:
        decoders, vocabulary, consensus, options: as `choose_search` takes them.
        dev, test: the split with each kind of features that the decoders read ("pooled").
        seed: of the resamples behind the intervals.
        kinds: which features each decoder reads, where these are those of a fine-tuned CNN.
        neighbours: whose captions vote in the consensus, if dev says so; they go by the pooled
            features.

    Returns:
        A row of `comparison.json`: name, kinds and weights of the decoders, the chosen search, the
        scores of dev and test, x100, and `bootstrap_intervals`; and the captions of test.
    """
    kinds = kinds or [decoder_kind(decoder.name).features for decoder in decoders]

    def of(split):
        voters = None if neighbours is None else neighbours.voters(split["pooled"].features)
        return [split[kind].features for kind in kinds], split[kinds[0]].references, voters

    features, references, voters = of(dev)
    known = {"consensus": consensus, "voters": voters, **options}
    chosen = choose_search(decoders, vocabulary, features, references, **known).iloc[0]
    settings, share = SearchSettings.from_row(chosen), float(chosen["voters"])
    features, references, voters = of(test)
    if share:
        groups = Searcher(decoders, *search.WIDE).search(features)
        (best,) = consensus.best(groups, [settings.inverse_temperature], [share], voters)
    else:
        best = settings.searcher(decoders, consensus).best(features)
    captions = captions_of(best, vocabulary)
    row = {
        "name": name,
        "decoders": [decoder.name for decoder in decoders],
        "parameters": sum(decoder.count_params() for decoder in decoders),
        "beam": settings.beam,
        "length_penalty": settings.length_penalty,
        "inverse_temperature": settings.inverse_temperature,
        "voters": share,
        "dev": {score: float(chosen[score]) for score in chosen.index[len(_CHOSEN) : -1]},
        "test": _all_scores(captions, references),
        "intervals": bootstrap_intervals(captions, references, seed=seed),
    }
    return row, captions


def score_row(
    name: str, recipe: str, split: str, searcher: Searcher, captions: Sequence[str], references
) -> dict:
    """Scores captions, and tells what was scored: a row of `metrics.json`."""
    return {
        "name": name,
        "recipe": recipe,
        "split": split,
        "images": len(captions),
        "beam": searcher.beam,
        "length_penalty": searcher.length_penalty,
        "consensus": searcher.rank is not None,
        **_all_scores(captions, references),
    }


def _all_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    scores = metrics.score_captions(captions, references)
    if (java_score := metrics.meteor(captions, references)) is not None:
        scores["METEOR"] = java_score
    return scores


def prediction_rows(
    photos: Sequence[str],
    split: str,
    recipe: str,
    beam: int,
    hypotheses: Sequence[search.Hypothesis],
    vocabulary: Vocabulary,
) -> pd.DataFrame:
    """The captions of a split as `predictions.csv` keeps them, a row for each photograph."""
    return pd.DataFrame(
        {
            "photo": photos,
            "split": split,
            "recipe": recipe,
            "beam": beam,
            "caption": captions_of(hypotheses, vocabulary),
            "log_probability": [round(one.log_probability, 4) for one in hypotheses],
            "score": [round(one.score, 4) for one in hypotheses],
        }
    )


# Controls


def scores_against_all_but_one(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Mean score against all references but one, each left out in turn, as people are scored.

    See `utils.metrics.leave_one_out`: against fewer references captions score lower.
    """
    rounds = [
        metrics.score_captions(captions, [group[:out] + group[out + 1 :] for group in references])
        for out in range(min(map(len, references)))
    ]
    return pd.DataFrame(rounds).mean().to_dict()


def shuffled(features: np.ndarray, seed: int) -> np.ndarray:
    """Gives every photograph the features of another one: who ignores them scores as well so."""
    order = np.random.default_rng(seed).permutation(len(features))
    swapped = np.empty(len(features), int)
    swapped[order] = np.roll(order, 1)
    return np.asarray(features)[swapped]


def describe_captions(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    training: Iterable[Sequence[str]],
    vocabulary: Vocabulary,
) -> dict[str, float]:
    """Counts what shows whether a decoder speaks freely or repeats its `training` captions."""
    words = list(map(metrics.tokenize, captions))
    human = [len(metrics.tokenize(caption)) for caption in chain(*references)]
    known = {tuple(metrics.tokenize(caption)) for caption in chain(*training)}
    return {
        "images": len(captions),
        "distinct": len(set(map(tuple, words))),
        "mean_length": float(np.mean([len(tokens) for tokens in words])),
        "human_mean_length": float(np.mean(human)),
        "words_used": len(set(chain(*words))),
        "vocabulary": len(vocabulary) - 4,
        "seen_in_training": sum(tuple(tokens) in known for tokens in words),
    }


# How sure a score is


def bootstrap_intervals(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    seed: int = 42,
) -> dict[str, tuple[float, float]]:
    """Bootstrap 95 % confidence intervals (Koehn 2004): {"CIDEr": (low, high), "BLEU-4": …}, x100.

    As many photographs are drawn from the set as it has, with replacement, `ROUNDS` times, and each
    draw is scored. That tells what the choice of photographs does, not what another seed would. A
    photograph's CIDEr stays what it is in the whole set, which gives the n-grams their weights.
    """
    return {
        score: tuple(np.percentile(values, [2.5, 97.5]).tolist())
        for score, values in _resampled_scores(captions, references, seed).items()
    }


def paired_bootstrap(
    captions: Sequence[str],
    others: Sequence[str],
    references: Sequence[Sequence[str]],
    seed: int = 42,
) -> dict[str, float]:
    """Share of the draws, in [0, 1], in which CIDEr and BLEU-4 of `captions` are the higher ones.

    Both are scored on the same photographs in each draw (Koehn 2004, "Statistical significance
    tests for machine translation evaluation"), so a difference can be significant where their
    intervals overlap. 0.95 or more is commonly asked for; a tie counts half.
    """
    left, right = (_resampled_scores(one, references, seed) for one in (captions, others))
    return {
        score: float(np.mean((left[score] > right[score]) + 0.5 * (left[score] == right[score])))
        for score in left
    }


def _resampled_scores(captions, references, seed: int) -> dict[str, np.ndarray]:
    """Scores of each draw, `(ROUNDS,)`: both are sums over photographs, or made from such sums."""
    scorer, candidates = metrics.Scorer(references), list(map(metrics.tokenize, captions))
    counts, number = metrics.bleu_counts(candidates, scorer.references), len(candidates)
    random = np.random.default_rng(seed)
    times_drawn = random.multinomial(number, [1 / number] * number, size=ROUNDS)
    return {
        "CIDEr": times_drawn @ scorer.cider.scores(candidates) / number,
        "BLEU-4": metrics.bleu_of_counts(times_drawn @ counts)[:, -1],
    }
