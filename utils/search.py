"""Search: the captions that decoders find for photographs, the most probable or random ones."""

import reprlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, product
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from keras import ops

from utils.captions import END, PAD, START, UNKNOWN, Vocabulary
from utils.machinery.errors import SettingsError, StaleArtefactError
from utils.machinery.files import invalid, read_arrays, require, write_arrays
from utils.machinery.progress import ProgressBar
from utils.metrics import MAX_ORDER, Cider, all_ngrams

MAX_TOKENS = 30  # longer captions are one in a thousand on Flickr8k
_NEVER = -1e9  # log-probability of what must not be chosen; finite, so that sums stay finite

SearchModels = tuple[keras.Model, keras.Model]  # of a decoder: its start, and a step
Decoders = keras.Model | Sequence[keras.Model]  # one, or several that say each word together
TokenIds = tuple[int, ...]  # of a caption
Features = np.ndarray | Sequence[np.ndarray]  # `(n, …)`, of each decoder an array

# One step of the decoders


class StartStep(keras.Model):
    """What the decoders compute of photographs before the first word, compiled as a whole."""

    def __init__(self, models: Sequence[SearchModels]):
        super().__init__(dtype="float32")
        self.starts = [start for start, _ in models]

    def call(self, inputs):
        """Takes features for each decoder, and returns the states that `Step` takes.

        Of those that `states_of_hypotheses` names, each hypothesis needs a copy.
        """
        states = {}
        for place, (start, features) in enumerate(zip(self.starts, inputs, strict=True)):
            states |= {f"{place}.{name}": value for name, value in start(features).items()}
        return states


def states_of_hypotheses(models: Sequence[SearchModels]) -> set[str]:
    """The names of those states that a step changes, so that each hypothesis has its own."""
    return {f"{place}.{name}" for place, (_, step) in enumerate(models) for name in step.output}


class Step(keras.Model):
    """One step of one or several decoders, compiled as a whole; a subclass chooses the words.

    It takes and returns "token" `(n, k, 1)`, the last word of each hypothesis of a photograph, and
    the states of each decoder, its place before their names ("0.lstm_hidden").
    """

    def __init__(self, models: Sequence[SearchModels]):
        super().__init__(dtype="float32")
        self.steps = [step for _, step in models]

    def next_words(self, inputs):
        """Asks every decoder, and takes the mean of their log-probabilities.

        Returns logits `(n, k, vocabulary)`; their normaliser `(n, k)`, to be subtracted; states;
        and `(n, k, regions)`, where a single decoder looked, None if it doesn't tell.
        """
        states, logits, normaliser = {}, 0.0, 0.0
        for place, step in enumerate(self.steps):
            named = {name.removeprefix(f"{place}."): value for name, value in inputs.items()}
            outputs = dict(step({name: named[name] for name in step.input}))
            scores = outputs.pop("logits")
            logits += scores / len(self.steps)
            normaliser += ops.logsumexp(scores, axis=-1) / len(self.steps)
            attention = outputs.pop("attention", None)
            states |= {f"{place}.{name}": value for name, value in outputs.items()}
        return logits, normaliser, states, attention if len(self.steps) == 1 else None


class BeamStep(Step):
    """Keeps the `beam` most probable extensions of each photograph."""

    def __init__(self, models: Sequence[SearchModels], beam: int):
        super().__init__(models)
        self.beam = beam

    def call(self, inputs):
        """Takes and returns "total" `(n, beam)`, the log-probability so far, as well.

        Returns "parent" `(n, beam)` too, the beam that each one extends, and, if the decoder tells
        it, "attention" `(n, beam, regions)`, where the beams that came in looked.
        """
        logits, normaliser, states, attention = self.next_words(inputs)
        # Three words are forbidden, so these are enough; whatever is done to a whole row of the
        # vocabulary costs more than all else together.
        few = min(self.beam + 3, logits.shape[-1])
        best, words = ops.top_k(logits, few)  # (n, beam, few)
        forbidden = (words == PAD) | (words == START) | (words == UNKNOWN)
        # Forbidden after the softmax: a caption's score stays the decoder's own probability of it.
        totals = ops.expand_dims(inputs["total"] - normaliser, -1) + best
        totals = ops.where(forbidden, totals + _NEVER, totals)
        total, choice = ops.top_k(ops.reshape(totals, (-1, self.beam * few)), self.beam)
        parent = choice // few  # (n, beam), best first
        token = ops.take_along_axis(ops.reshape(words, (-1, self.beam * few)), choice, axis=1)
        first_row = ops.expand_dims(ops.arange(ops.shape(parent)[0]) * self.beam, 1)
        rows = ops.reshape(ops.cast(first_row, parent.dtype) + parent, (-1,))
        for name, value in states.items():  # those of the beams that the new ones grew from
            grown = ops.take(ops.reshape(value, (-1, *value.shape[2:])), rows, axis=0)
            states[name] = ops.reshape(grown, (-1, self.beam, *value.shape[2:]))
        if attention is not None:
            states["attention"] = attention
        return {"token": ops.expand_dims(token, -1), "total": total, "parent": parent, **states}


class SampleStep(Step):
    """Draws the next word of every caption at random, by its probability."""

    def call(self, inputs):
        """Takes "chance" `(n, k)` in [0, 1) as well: NumPy's numbers, the same on every backend."""
        logits, _, states, _ = self.next_words(inputs)
        forbidden = np.zeros(logits.shape[-1], "float32")
        forbidden[[PAD, START, UNKNOWN]] = _NEVER
        reached = ops.cumsum(ops.softmax(logits + forbidden, axis=-1), axis=-1)
        below = reached <= ops.expand_dims(inputs["chance"], -1) * reached[..., -1:]
        token = ops.sum(ops.cast(below, "int32"), axis=-1, keepdims=True)
        return {"token": token, **states}


class CaptionSampler:
    """Draws `samples` captions of each photograph from a decoder; keeps its compiled step."""

    def __init__(self, model: keras.Model, samples: int, max_tokens: int):
        models = [model.decoder.search_models()]
        self._start, self._step = StartStep(models), SampleStep(models)
        self._own = states_of_hypotheses(models)
        self._samples, self._max_tokens = samples, max_tokens

    def draw(self, features: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Draws captions: `(n, samples, length)` int32, each to its END or cut off, then PAD."""
        states = self._start.predict_on_batch([features])
        for name in self._own & states.keys():
            states[name] = np.repeat(states[name], self._samples, axis=1)
        states = keras.tree.map_structure(ops.convert_to_tensor, states)  # to the device, once
        shape = (len(features), self._samples)
        token = np.full((*shape, 1), START, "int32")
        ended = np.zeros(shape, bool)
        columns = []
        while len(columns) < self._max_tokens and not ended.all():
            chance = random.random(shape, "float32")
            outputs = self._step.predict_on_batch({"token": token, "chance": chance, **states})
            token = outputs.pop("token")
            columns.append(np.where(ended, PAD, token[..., 0]))
            ended |= token[..., 0] == END
            states |= outputs
        return np.stack(columns, axis=-1)


# Beam search


@dataclass(frozen=True)
class Hypothesis:
    """A caption that search found."""

    token_ids: tuple[int, ...]  # without START and END
    log_probability: float  # natural logarithm, END included if finished
    score: float  # log_probability / (tokens + 1) ** length_penalty, which search maximises
    finished: bool  # whether it came to an END
    # Where an attention decoder looked for each token and for the END, `(tokens + 1, regions)` in
    # [0, 1], regions row by row; None if the decoder doesn't tell.
    attention: np.ndarray | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Begun:
    """Photographs as far as every search comes before the first word; `Searcher.begin` makes it."""

    decoders: Sequence[keras.Model]  # that computed it
    states: list[dict[str, np.ndarray]]  # of each photograph


class Searcher:
    """Finds captions; keeps its compiled step, so make it once and use it often.

    `SettingsError` if a setting is out of range, or the decoders have different vocabularies.

    Args:
        model: a decoder, or several with the same vocabulary, which then decide together: a word's
            score is the mean of their log-probabilities.
        beam: hypotheses kept per photograph, 1 to 100; 1 is greedy search.
        length_penalty: exponent of the length that a log-probability is divided by. 0 prefers short
            captions, 1 compares the mean per token.
        max_tokens: where search gives up on a hypothesis, 1 to 200.
        batch_size: photographs searched at once.
        rank: orders the hypotheses of a photograph, as `Consensus.rank` does; None: by their score.
    """

    def __init__(
        self,
        model: Decoders,
        beam: int = 3,
        length_penalty: float = 1.0,
        max_tokens: int = MAX_TOKENS,
        batch_size: int = 128,
        rank: Callable[[list[Hypothesis]], list[Hypothesis]] | None = None,
    ):
        SearchSettings(beam, length_penalty, max_tokens)  # checks them
        decoders = [model] if isinstance(model, keras.Model) else list(model)
        sizes = [decoder.output_shape[-1] for decoder in decoders]
        if len(set(sizes)) != 1:
            expected = "expected one or more with the same vocabulary"
            raise SettingsError(f"The decoders know {sizes} tokens; {expected}.")
        self.beam, self.length_penalty, self.max_tokens = beam, length_penalty, max_tokens
        self.batch_size, self.rank = batch_size, rank
        self._decoders = decoders
        models = [decoder.decoder.search_models() for decoder in decoders]
        self._start, self._step = StartStep(models), BeamStep(models, beam)
        self._own = states_of_hypotheses(models)

    def begin(self, features: Features) -> Begun:
        """Computes what the decoders make of photographs before the first word.

        Other searchers of the same decoders take it in the place of features, and needn't compute
        it again. Of attention on 1,000 photographs with 100 regions it takes 0.25 GB.
        """
        return Begun(self._decoders, list(self._begin(features)))

    def search(
        self, features: Features | Begun, bar: ProgressBar | None = None
    ) -> list[list[Hypothesis]]:
        """Returns up to `beam` different hypotheses for each photograph, best first.

        `features` are `(n, ...)`, as the decoder was trained on; for several a list of arrays.
        """
        found = self._find(features, [self.length_penalty], self.beam, bar)
        return [group if self.rank is None else self.rank(group) for (group,) in found]

    def best(self, features: Features | Begun) -> list[Hypothesis]:
        """Returns the best hypothesis for each photograph."""
        if self.rank is not None:
            return [hypotheses[0] for hypotheses in self.search(features)]
        return self.best_by_penalty(features, [self.length_penalty])[0]

    def best_by_penalty(
        self,
        features: Features | Begun,
        length_penalties: Sequence[float],
        bar: ProgressBar | None = None,
    ) -> list[list[Hypothesis]]:
        """Returns what `best` would with each of the penalties, after one search.

        The beams grow by log-probability alone; a penalty orders what came to its END.
        """
        found = self._find(features, length_penalties, 1, bar)
        return [[own[place][0] for own in found] for place in range(len(length_penalties))]

    def _find(self, features, penalties: Sequence[float], most: int, bar: ProgressBar | None):
        """Searches until the `most` best hypotheses of each photograph by each penalty are certain.

        A photograph that is done makes room for the next: few have long captions.
        """
        if isinstance(features, Begun):
            if list(map(id, features.decoders)) != list(map(id, self._decoders)):
                raise ValueError("Other decoders began these photographs; expected the same ones.")
            count, waiting = len(features.states), enumerate(features.states)
        else:
            count, waiting = len(self._arrays(features)[0]), enumerate(self._begin(features))
        batch = min(self.batch_size, count)
        histories = _Histories((batch, self.max_tokens + 1, self.beam), penalties, most)
        photos = np.full(batch, -1)  # which one each row of the batch is about; -1: none
        token = np.full((batch, self.beam, 1), START, "int32")
        total = np.full((batch, self.beam), _NEVER, "float32")
        states, found = {}, {}
        while len(found) < count:
            free = np.flatnonzero(photos < 0)
            if len(free) >= batch / 4:  # letting them in costs as much as a step of a small beam
                states = {name: np.array(value) for name, value in states.items()}
                for row, (photo, started) in zip(free, waiting, strict=False):
                    photos[row], token[row], total[row] = photo, START, _NEVER
                    total[row, 0] = 0.0  # all beams start equal: only the first may grow at first
                    for name, value in started.items():
                        if name not in states:
                            own = (self.beam,) if name in self._own else value.shape[:1]
                            states[name] = np.empty((batch, *own, *value.shape[1:]), value.dtype)
                        states[name][row] = value
                states = keras.tree.map_structure(ops.convert_to_tensor, states)
            outputs = self._step.predict_on_batch({"token": token, "total": total, **states})
            token, new_total = np.array(outputs.pop("token")), outputs.pop("total")
            parent, look = outputs.pop("parent"), outputs.pop("attention", None)
            states |= outputs
            growing = np.where(token[..., 0] == END, np.float32(_NEVER), new_total)
            rows = np.flatnonzero(photos >= 0)
            for row in histories.grow(rows, token[..., 0], parent, new_total, growing, look):
                found[int(photos[row])] = histories.hypotheses(row, total[row])
                photos[row] = -1
                if bar is not None:
                    bar.update()
            total = growing
        return [found[photo] for photo in range(count)]

    def _arrays(self, features: Features) -> Sequence[np.ndarray]:
        """Features as a list, an array for each decoder, all of the same photographs."""
        decoders = len(self._decoders)
        arrays = features if isinstance(features, (list, tuple)) else [features]
        counts = [len(array) for array in arrays]
        if len(counts) != decoders or len(set(counts)) != 1:
            given = f"There are {decoders} decoders and features of {counts} photographs"
            raise ValueError(f"{given}; expected one array for each, of the same photographs.")
        return arrays

    def _begin(self, features: Features) -> Iterator[dict]:
        """Yields what each photograph starts with; computed a batch at a time."""
        arrays = self._arrays(features)
        batch = max(min(self.batch_size, len(arrays[0])), 1)
        for first in range(0, len(arrays[0]), batch):
            # TensorFlow would do it too, and first complain of half precision.
            rows = [np.asarray(array[first : first + batch], "float32") for array in arrays]
            count = len(rows[0])  # of a whole batch: another shape would compile again
            rows = [np.concatenate([own, np.repeat(own[-1:], batch - count, 0)]) for own in rows]
            states = self._start.predict_on_batch(rows)
            yield from ({name: states[name][row] for name in states} for row in range(count))


class _Histories:
    """What search did so far with each photograph of a batch, and what it found by that."""

    def __init__(self, shape: tuple[int, int, int], penalties: Sequence[float], most: int):
        # `shape`: photographs, steps and beam
        self._tokens, self._parents = np.zeros(shape, "int32"), np.zeros(shape, "int32")
        self._ended = np.full(shape, -np.inf)  # log-probabilities of what came to its END
        self._looks = None
        self._taken = np.zeros(shape[0], int)  # steps
        # The length at each step, the END included, to the power of each penalty.
        self._divisors = np.array(
            [[length**penalty for length in range(1, shape[1] + 1)] for penalty in penalties]
        )
        self._most = most

    def grow(self, rows, token, parent, total, growing, look) -> np.ndarray:
        """Notes a step, and returns those of `rows` that are done."""
        at = rows, self._taken[rows]
        self._tokens[at], self._parents[at] = token[rows], parent[rows]
        ends = (token == END) & (total > _NEVER / 2)
        self._ended[at] = np.where(ends, total, -np.inf)[rows]
        if look is not None:
            if self._looks is None:
                self._looks = np.zeros((*self._tokens.shape, look.shape[-1]), look.dtype)
            self._looks[at] = look[rows]
        self._taken[rows] += 1
        scores = self._ended[rows, None] / self._divisors[None, :, :, None]
        scores = scores.reshape(len(rows), len(self._divisors), -1)
        least = np.partition(scores, -self._most, axis=-1)[..., -self._most]
        # A hypothesis can only lose probability, and not become longer than the longest.
        best = growing[rows].max(axis=1).astype("float64")
        if np.isnan(best).any():
            remedy = "Its weights are damaged: restore its file, or train it again."
            raise StaleArtefactError(f"The decoder gives no probabilities but NaN. {remedy}")
        improves = (best[:, None] / self._divisors[:, -1] > least).any(axis=1)
        longest = self._taken[rows] == self._tokens.shape[1]
        return rows[longest | ~improves | (best <= _NEVER / 2)]

    def hypotheses(self, row: int, total: np.ndarray) -> list[list[Hypothesis]]:
        """The best hypotheses of a photograph by each penalty; `total`: before the last step."""
        steps, places = np.nonzero(self._ended[row] > -np.inf)
        totals, beams = self._ended[row, steps, places], self._parents[row, steps, places]
        finished = bool(len(steps))
        if not finished:  # what is still growing, without the word that is one too many
            beams = np.flatnonzero(total > _NEVER / 2)
            totals = total[beams].astype("float64")
            steps = np.full(len(beams), self._taken[row] - 1)
        self._ended[row], self._taken[row] = -np.inf, 0  # for the next photograph
        found = []
        for divisors in self._divisors:
            scores = totals / divisors[steps]
            order = np.argsort(-scores, kind="stable")[: self._most]
            each = zip(steps[order], beams[order], totals[order], scores[order], strict=True)
            found.append([self._hypothesis(row, *one, finished) for one in each])
        return found

    def _hypothesis(self, row, step, beam, total, score, finished: bool) -> Hypothesis:
        """Follows a hypothesis back from the beam that came into a step."""
        token_ids, path = [], [beam]
        for before in range(step - 1, -1, -1):
            token_ids.append(int(self._tokens[row, before, beam]))
            beam = self._parents[row, before, beam]
            path.append(beam)
        looks = None if self._looks is None else self._looks[row, np.arange(step + 1), path[::-1]]
        return Hypothesis(tuple(token_ids[::-1]), float(total), float(score), finished, looks)


def captions_of(hypotheses: Sequence[Hypothesis], vocabulary: Vocabulary) -> list[str]:
    """Spells out hypotheses as captions, words joined by spaces."""
    return [" ".join(vocabulary.decode(hypothesis.token_ids)) for hypothesis in hypotheses]


# Consensus

_ABSENT = -1  # fills up the rows of shorter n-grams in the file
_MOST_BYTES = 1 << 28  # of a consensus file's arrays; Flickr8k's have 3 MB


@dataclass(frozen=True)
class Voters:
    """Captions that vote on the hypotheses of a photograph, though no decoder wrote them."""

    captions: Sequence[TokenIds]  # without START and END
    weights: np.ndarray  # `(captions,)`, 1 in all


class Consensus:
    """Ranks hypotheses by how much the others agree with them.

    `frequencies`: of how many photographs the captions hold an n-gram of token ids, if of several;
    `photographs`: of how many.
    """

    def __init__(self, frequencies: dict[tuple[int, ...], int], photographs: int):
        self.frequencies, self.photographs = frequencies, photographs

    @classmethod
    def of(cls, captions: Sequence[Sequence[Sequence[str]]], vocabulary: Vocabulary) -> "Consensus":
        """Counts n-grams of a training split: for each photograph the tokens of its captions."""
        counted = Counter()
        for group in captions:
            token_ids = [vocabulary.encode(tokens)[1:-1] for tokens in group]  # no START, no END
            counted.update(set(chain.from_iterable(map(all_ngrams, token_ids))))
        return cls({ngram: count for ngram, count in counted.items() if count > 1}, len(captions))

    def rank(self, group: Sequence[Hypothesis], inverse_temperature: float) -> list[Hypothesis]:
        """Orders the hypotheses of a photograph, the one that the others agree with most first.

        `inverse_temperature`: exponent of their probabilities; with 0 all count the same.
        """
        return self.rankings(group, [inverse_temperature])[0]

    def best(
        self,
        groups: Sequence[Sequence[Hypothesis]],
        inverse_temperatures: Sequence[float],
        shares: Sequence[float] = (0.0,),
        voters: Sequence[Voters] | None = None,
    ) -> list[list[Hypothesis]]:
        """What `rankings` puts first of each photograph, for each temperature with each share."""
        each = zip(groups, voters or [None] * len(groups), strict=True)
        ranked = [self.rankings(group, inverse_temperatures, own, shares) for group, own in each]
        return [[group[0] for group in way] for way in zip(*ranked, strict=True)]

    def rankings(
        self,
        group: Sequence[Hypothesis],
        inverse_temperatures: Sequence[float],
        voters: Voters | None = None,
        shares: Sequence[float] = (0.0,),
    ) -> list[list[Hypothesis]]:
        """What `rank` returns with each of the temperatures; compares the hypotheses once.

        With `voters`, for each temperature it returns a ranking for each of `shares`: how much all
        voters together count, where all hypotheses together count 1.
        """
        if len(group) < 3 and voters is None:  # two agree with each other as much
            return [list(group) for _ in inverse_temperatures]
        captions = [hypothesis.token_ids for hypothesis in group]
        totals = np.array([hypothesis.log_probability for hypothesis in group])
        similarities, voted, ranked = self.similarities(captions), np.zeros(len(group)), []
        if voters is not None:
            voted = self.similarities(captions, voters.captions) @ voters.weights
        for inverse_temperature, share in product(inverse_temperatures, shares):
            weights = np.exp(inverse_temperature * (totals - totals.max()))
            agreement = similarities @ (weights / weights.sum()) + share * voted
            ranked.append([group[place] for place in np.argsort(-agreement, kind="stable")])
        return ranked

    def similarities(
        self, captions: Sequence[TokenIds], references: Sequence[TokenIds] | None = None
    ) -> np.ndarray:
        """CIDEr-D of each caption (rows) against each reference alone (columns), 0 to 10.

        Without references the captions are compared with one another.
        """
        references = captions if references is None else references
        counts = [all_ngrams(caption) for caption in (*captions, *references)]
        columns = {ngram: place for place, ngram in enumerate(dict.fromkeys(chain(*counts)))}
        frequencies = [self.frequencies.get(ngram, 1) for ngram in columns] or [1]
        rarity = np.log(self.photographs) - np.log(frequencies)
        orders = np.array([len(ngram) for ngram in columns])
        vectors = np.zeros((len(counts), len(columns)))
        for vector, count in zip(vectors, counts, strict=True):
            for ngram, times in count.items():
                vector[columns[ngram]] = times * rarity[columns[ngram]]
        bigrams = np.array([max(len(caption) - 1, 0) for caption in (*captions, *references)])
        ours, theirs = slice(len(captions)), slice(len(captions), None)
        result = np.zeros((len(captions), len(references)))
        for order in range(1, MAX_ORDER + 1):
            part = vectors[:, orders == order]
            products = np.array([np.minimum(part[ours], row) @ row for row in part[theirs]]).T
            norms = np.sqrt((part**2).sum(1))
            norms = np.outer(norms[ours], norms[theirs])
            result += np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
        gap = np.subtract.outer(bigrams[ours], bigrams[theirs])
        return 10 / MAX_ORDER * result * np.exp(-(gap**2) / (2 * Cider.SIGMA**2))

    def save(self, file: Path) -> None:
        """Writes what was counted, atomically; the same counts give the same bytes."""
        kept = sorted(self.frequencies)
        filled = [(*ngram, *[_ABSENT] * (MAX_ORDER - len(ngram))) for ngram in kept]
        ngrams = np.array(filled, "int32").reshape(-1, MAX_ORDER)
        counts = np.array([self.frequencies[ngram] for ngram in kept], "int32")
        photographs = np.array(self.photographs, "int32")
        write_arrays(file, {"ngrams": ngrams, "counts": counts, "photographs": photographs})

    @classmethod
    def load(cls, file: Path) -> "Consensus":
        """Reads what `save` wrote; raises `StaleArtefactError` if it is something else."""
        made_by = "notebook 05_evaluate_captions"
        remedy = f"Run {made_by} again, or restore the file."
        arrays = read_arrays(require(file, made_by), _MOST_BYTES, remedy)
        names = ("ngrams", "counts", "photographs")
        ngrams, counts, photographs = known = [arrays.get(name, np.zeros(())) for name in names]
        if not (
            all(array.dtype.kind == "i" for array in known)
            and (ngrams.ndim, ngrams.shape[1:], photographs.shape) == (2, (MAX_ORDER,), ())
            and counts.shape == ngrams.shape[:1]
            and ((counts >= 1) & (counts <= photographs) & (ngrams[:, 0] >= 0)).all()
            and (np.diff((ngrams < 0).astype(int), axis=1) >= 0).all()
            and photographs >= 1
        ):
            raise invalid(file, "it holds no counts of n-grams, 1 to that of photographs", remedy)
        keys = (tuple(one for one in ngram if one >= 0) for ngram in ngrams.tolist())
        return cls(dict(zip(keys, counts.tolist(), strict=True)), int(photographs))


# Settings

# A consensus is found in a wide beam: its size, length penalty and longest caption, which cuts off
# one in a hundred; without it search goes on for long for nothing. On Flickr8k's dev split 20, 40
# and 80 captions came to a CIDEr of 56.1, 57.1 and 57.7 (attention on Xception's last two blocks)
# and 50.0, 50.3 and 50.8 (on MobileNetV2), in times of 1, 2 and 4.
WIDE = (50, 0.7, 20)
INVERSE_TEMPERATURES = (0.1, 0.2, 0.3)
_RANGES = {  # more only fills the memory
    "beam": (int, 1, 100),
    "max_tokens": (int, 1, 200),
    "length_penalty": (int | float, 0, 10),
    "inverse_temperature": (int | float | None, 0, 10),
}


@dataclass(frozen=True)
class SearchSettings:
    """How captions are searched for; chosen on the dev split.

    `beam`, `length_penalty` and `max_tokens` are those of `Searcher`, `inverse_temperature` that of
    the consensus; None takes the most probable caption. `SettingsError` if one is out of range.
    """

    beam: int = 3
    length_penalty: float = 1.0
    max_tokens: int = MAX_TOKENS
    inverse_temperature: float | None = None

    def __post_init__(self):
        for name, (kind, least, most) in _RANGES.items():
            value = getattr(self, name)
            known = isinstance(value, kind) and not isinstance(value, bool)
            if not known or not (value is None or least <= value <= most):
                number = "whole number" if kind is int else "number"
                found = reprlib.repr(value)
                raise SettingsError(f"{name} is {found}; expected a {number}, {least} to {most}.")

    @classmethod
    def from_row(cls, row: Mapping[str, float | None]) -> "SearchSettings":
        """Takes a row of `choose_search` or `evaluate_system` in `utils.evaluation`."""
        beam, penalty = int(row["beam"]), float(row["length_penalty"])
        if pd.isna(row["inverse_temperature"]):
            return cls(beam, penalty)
        return cls(beam, penalty, WIDE[2], float(row["inverse_temperature"]))

    @property
    def words(self) -> str:
        """Says it in a word or two, for tables."""
        if self.inverse_temperature is not None:
            return f"consensus of {self.beam}"
        return "greedy" if self.beam == 1 else f"beam {self.beam}"

    def searcher(
        self, decoder: Decoders, consensus: Consensus | None = None, batch_size: int = 128
    ) -> Searcher:
        """Makes a searcher of these settings; an inverse temperature needs the consensus."""
        rank = None
        if self.inverse_temperature is not None:
            if consensus is None:
                raise SettingsError("Captions are chosen by a consensus, and none was given.")
            rank = partial(consensus.rank, inverse_temperature=self.inverse_temperature)
        return Searcher(decoder, self.beam, self.length_penalty, self.max_tokens, batch_size, rank)
