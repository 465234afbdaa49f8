"""Evaluation: the search is chosen on dev, and test is scored once, beside its controls."""

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, product

import keras
import numpy as np
import pandas as pd

from utils.batches import CaptionSet
from utils.captions import Vocabulary
from utils.decoder import decoder_kind
from utils.machinery.progress import ProgressBar
from utils.metrics import Scorer, bleu_counts, bleu_of_counts, meteor, score_captions, tokenize
from utils.neighbours import Neighbours
from utils.search import (
    INVERSE_TEMPERATURES,
    WIDE,
    Consensus,
    Decoders,
    Features,
    Hypothesis,
    Searcher,
    SearchSettings,
    Voters,
    captions_of,
)

BEAMS, LENGTH_PENALTIES = (1, 3, 5), (0.5, 0.7, 1.0, 1.3)  # what a search is chosen from
ROUNDS = 1000  # of the bootstrap
SHARES = (0.0, 4.0, 8.0, 16.0)  # of the neighbours' captions in a consensus
_CHOSEN = ("beam", "length_penalty", "inverse_temperature", "voters")


def choose_search(
    decoders: Decoders,
    vocabulary: Vocabulary,
    features: Features,
    references: Sequence[Sequence[str]],
    *,
    beams: Sequence[int] = BEAMS,
    length_penalties: Sequence[float] = LENGTH_PENALTIES,
    consensus: Consensus | None = None,
    voters: Sequence[Voters] | None = None,
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
    searches = []
    total = len(references) * (len(beams) + (consensus is not None))
    with ProgressBar(total=total, desc="searches", unit="photo") as bar:
        for beam in beams:
            begun, penalties = time.perf_counter(), length_penalties if beam > 1 else (1.0,)
            found = Searcher(decoders, beam).best_by_penalty(features, penalties, bar)
            seconds = time.perf_counter() - begun
            for penalty, best in zip(penalties, found, strict=True):
                searches.append((beam, penalty, np.nan, 0.0, best, seconds))
        if consensus is not None:
            begun, found = time.perf_counter(), Searcher(decoders, *WIDE).search(features, bar)
            shares = (0.0,) if voters is None else SHARES
            ranked = [
                consensus.rankings(group, INVERSE_TEMPERATURES, own, shares)
                for group, own in zip(found, voters or [None] * len(found), strict=True)
            ]
            seconds = time.perf_counter() - begun
            for place, weighing in enumerate(product(INVERSE_TEMPERATURES, shares)):
                best = [groups[place][0] for groups in ranked]
                searches.append((*WIDE[:2], *weighing, best, seconds))
    scorer, rows = Scorer(references), []
    for *chosen, best, seconds in searches:
        row = dict(zip(_CHOSEN, chosen, strict=True))
        rows.append(row | scorer(captions_of(best, vocabulary)) | {"seconds": seconds})
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

    def features_of(split):
        arrays = [split[kind].features for kind in kinds]
        return arrays if len(arrays) > 1 else arrays[0]

    splits = {"dev": dev, "test": test}
    of_dev = decoders, vocabulary, features_of(dev), dev[kinds[0]].references
    voters_of = dict.fromkeys(splits)
    if neighbours is not None:
        voters_of = {name: neighbours.voters(of["pooled"].features) for name, of in splits.items()}
    known = {"consensus": consensus, "voters": voters_of["dev"]}
    chosen = choose_search(*of_dev, **known, **options).iloc[0]
    search, share = SearchSettings.from_row(chosen), float(chosen["voters"])
    if share:
        groups = Searcher(decoders, *WIDE).search(features_of(test))
        best = [
            consensus.rankings(group, [search.inverse_temperature], own, [share])[0][0]
            for group, own in zip(groups, voters_of["test"], strict=True)
        ]
    else:
        best = search.searcher(decoders, consensus).best(features_of(test))
    captions, references = captions_of(best, vocabulary), test[kinds[0]].references
    row = {
        "name": name,
        "decoders": [decoder.name for decoder in decoders],
        "parameters": sum(decoder.count_params() for decoder in decoders),
        "beam": search.beam,
        "length_penalty": search.length_penalty,
        "inverse_temperature": search.inverse_temperature,
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
    scores = score_captions(captions, references)
    if (java_score := meteor(captions, references)) is not None:
        scores["METEOR"] = java_score
    return scores


def prediction_rows(
    photos: Sequence[str],
    split: str,
    recipe: str,
    beam: int,
    hypotheses: Sequence[Hypothesis],
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
        score_captions(captions, [group[:out] + group[out + 1 :] for group in references])
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
    words = [tokenize(caption) for caption in captions]
    human = [len(tokenize(caption)) for caption in chain.from_iterable(references)]
    known = {tuple(tokenize(caption)) for caption in chain.from_iterable(training)}
    return {
        "images": len(captions),
        "distinct": len(set(map(tuple, words))),
        "mean_length": float(np.mean([len(tokens) for tokens in words])),
        "human_mean_length": float(np.mean(human)),
        "words_used": len(set(chain.from_iterable(words))),
        "vocabulary": len(vocabulary) - 4,
        "seen_in_training": sum(tuple(tokens) in known for tokens in words),
    }


# How sure a score is


def bootstrap_intervals(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    rounds: int = ROUNDS,
    seed: int = 42,
) -> dict[str, tuple[float, float]]:
    """Bootstrap 95 % confidence intervals (Koehn 2004): {"CIDEr": (low, high), "BLEU-4": …}, x100.

    As many photographs are drawn from the set as it has, with replacement, `rounds` times, and each
    draw is scored. That tells what the choice of photographs does, not what another seed would. A
    photograph's CIDEr stays what it is in the whole set, which gives the n-grams their weights.
    """
    return {
        score: tuple(np.percentile(values, [2.5, 97.5]).tolist())
        for score, values in _resampled_scores(captions, references, rounds, seed).items()
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
    left, right = (_resampled_scores(one, references, ROUNDS, seed) for one in (captions, others))
    return {
        score: float(np.mean((left[score] > right[score]) + 0.5 * (left[score] == right[score])))
        for score in left
    }


def _resampled_scores(captions, references, rounds: int, seed: int) -> dict[str, np.ndarray]:
    """Scores of each draw, `(rounds,)`: both are sums over photographs, or made from such sums."""
    scorer, candidates = Scorer(references), [tokenize(caption) for caption in captions]
    cider, counts = scorer.cider.scores(candidates), bleu_counts(candidates, scorer.references)
    count = len(candidates)
    times_drawn = np.random.default_rng(seed).multinomial(count, [1 / count] * count, size=rounds)
    return {
        "CIDEr": times_drawn @ cider / count,
        "BLEU-4": bleu_of_counts(times_drawn @ counts)[:, -1],
    }
