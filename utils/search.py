"""Search: the best captions that decoders find, greedily or with a beam, for many photographs."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import keras
import numpy as np
from keras import ops
from tqdm import tqdm

from utils.captions import END, PAD, START, UNKNOWN, Vocabulary
from utils.decoder import SearchModels, search_models
from utils.machinery.files import atomic_path, require
from utils.metrics import MAX_ORDER, Cider, all_ngrams

MAX_TOKENS = 30  # longer captions are one in a thousand on Flickr8k
_NEVER = -1e9  # log-probability of what must not be chosen; finite, so that sums stay finite


@dataclass(frozen=True)
class Hypothesis:
    """A caption that search found.

    Attributes:
        numbers: its tokens without START and END.
        log_probability: natural logarithm of the caption's probability, END included if finished.
        score: the log-probability divided by (tokens + 1) ** length_penalty; search maximises it.
        finished: whether it came to an END.
        attention: where an attention decoder looked for each token and for the END, `(tokens + 1,
            places)` in [0, 1], places row by row; None if the decoder doesn't tell.
    """

    numbers: tuple[int, ...]
    log_probability: float
    score: float
    finished: bool
    attention: np.ndarray | None = field(default=None, repr=False, compare=False)


class Step(keras.Model):
    """One step of one or several decoders, compiled as a whole; a subclass chooses the words.

    Its inputs and outputs are dictionaries: "token" `(n, k, 1)`, the last word of each of the `k`
    hypotheses of a photograph, and what each decoder's step keeps, with the decoder's place before
    its name ("0.lstm_hidden").
    """

    def __init__(self, steps: Sequence[keras.Model], **kwargs):
        super().__init__(**kwargs)
        self.steps = list(steps)

    def next_words(self, inputs):
        """Asks every decoder, and takes the mean of their log-probabilities.

        Returns:
            Logits `(n, k, vocabulary)` and their normaliser `(n, k)`, whose difference are the
            log-probabilities; the new states; and `(n, k, regions)`, where a single decoder looked,
            or None if it doesn't tell.
        """
        states, logits, normaliser = {}, 0.0, 0.0
        for place, step in enumerate(self.steps):
            prefix = f"{place}."
            own = {
                name.removeprefix(prefix): value
                for name, value in inputs.items()
                if name.startswith(prefix)
            }
            outputs = dict(step({"token": inputs["token"], **own}))
            scores = outputs.pop("logits")
            logits += scores / len(self.steps)
            normaliser += ops.logsumexp(scores, axis=-1) / len(self.steps)
            attention = outputs.pop("attention", None)
            states |= {prefix + name: value for name, value in outputs.items()}
        return logits, normaliser, states, attention if len(self.steps) == 1 else None


class BeamStep(Step):
    """Keeps the `beam` most probable extensions of each photograph."""

    def __init__(self, steps: Sequence[keras.Model], beam: int, **kwargs):
        super().__init__(steps, **kwargs)
        self.beam = beam

    def call(self, inputs):
        """Extends every hypothesis by a word.

        Args:
            inputs: as `Step` says, and "total": `(n, beam)`, the log-probability so far.

        Returns:
            The new tokens, totals and states under the same names; "parent": `(n, beam)`, the beam
            each one grew from; and, if the decoder tells it, "attention" `(n, beam, regions)`,
            where the beams that came in looked.
        """
        logits, normaliser, states, attention = self.next_words(inputs)
        # Only the best words of each beam are looked at further: whatever is done to a whole row of
        # the vocabulary costs more than all else together. Forbidden are three words at most.
        few = min(self.beam + 3, logits.shape[-1])
        best, words = ops.top_k(logits, few)  # (n, beam, few)
        forbidden = (words == PAD) | (words == START) | (words == UNKNOWN)
        # Forbidden after the softmax: a caption's score stays the decoder's own probability of it.
        totals = ops.expand_dims(inputs["total"] - normaliser, -1) + best
        totals = ops.where(forbidden, totals + _NEVER, totals)
        total, choice = ops.top_k(ops.reshape(totals, (-1, self.beam * few)), self.beam)
        parent = choice // few  # (n, beam), best first
        token = ops.take_along_axis(ops.reshape(words, (-1, self.beam * few)), choice, axis=1)
        token = ops.expand_dims(token, -1)
        grown = {name: self._of_parents(value, parent) for name, value in states.items()}
        if attention is not None:
            grown["attention"] = attention
        return {"token": token, "total": total, "parent": parent, **grown}

    def _of_parents(self, values, parent):
        """The rows of `values` `(n, beam, …)` that the new beams grew from."""
        first_row = ops.expand_dims(ops.arange(ops.shape(parent)[0]) * self.beam, 1)
        rows = ops.reshape(ops.cast(first_row, parent.dtype) + parent, (-1,))
        flat = ops.reshape(values, (-1, *values.shape[2:]))
        return ops.reshape(ops.take(flat, rows, axis=0), (-1, self.beam, *values.shape[2:]))


class SampleStep(Step):
    """Draws the next word of every caption at random, by its probability."""

    def call(self, inputs):
        """Takes what `Step` says and "chance" `(n, k)` in [0, 1); returns tokens and states.

        The word is the one at which the summed probabilities pass `chance`, so that NumPy's numbers
        decide, the same ones on every backend.
        """
        logits, _, states, _ = self.next_words(inputs)
        forbidden = np.zeros(logits.shape[-1], "float32")
        forbidden[[PAD, START, UNKNOWN]] = _NEVER
        reached = ops.cumsum(ops.softmax(logits + forbidden, axis=-1), axis=-1)
        below = reached <= ops.expand_dims(inputs["chance"], -1) * reached[..., -1:]
        token = ops.sum(ops.cast(below, "int32"), axis=-1, keepdims=True)
        return {"token": token, **states}


def _first_states(models: Sequence[SearchModels], features: Sequence[np.ndarray], width: int):
    """What the first step needs of photographs with `width` hypotheses each, but for the token."""
    states = {}
    for place, (pair, rows) in enumerate(zip(models, features, strict=True)):
        changing = set(pair.step.output)  # what else there is serves all hypotheses of a photograph
        for name, value in pair.start.predict_on_batch(rows).items():
            value = np.repeat(value, width, axis=1) if name in changing else value
            states[f"{place}.{name}"] = ops.convert_to_tensor(value)
    return states


class CaptionSampler:
    """Draws captions from a decoder; keeps its compiled step.

    Args:
        model: a decoder from `utils.decoder`.
        samples: captions of each photograph.
        max_tokens: where a caption is cut off.
    """

    def __init__(self, model: keras.Model, samples: int, max_tokens: int):
        self._models = [search_models(model)]
        self._step = SampleStep([pair.step for pair in self._models])
        self._samples = samples
        self._max_tokens = max_tokens

    def draw(self, features: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Draws captions: `(n, samples, length)` int32, each to its END or cut off, then PAD."""
        states = _first_states(self._models, [features], self._samples)
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


class Searcher:
    """Finds captions; keeps its compiled step, so make it once and use it often.

    Args:
        model: a decoder from `utils.decoder`, or several with the same vocabulary, which then
            decide together: a word's score is the mean of their log-probabilities.
        beam: hypotheses kept per photograph; 1 is greedy search.
        length_penalty: exponent of the length that a log-probability is divided by. 0 prefers short
            captions, 1 compares the mean per token.
        max_tokens: where search gives up on a hypothesis.
        batch_size: photographs searched at once.
        rank: orders the hypotheses of a photograph anew, `utils.search.Consensus.rank` for
            example; default is by their score.
    """

    def __init__(
        self,
        model: keras.Model | Sequence[keras.Model],
        beam: int = 3,
        length_penalty: float = 1.0,
        max_tokens: int = MAX_TOKENS,
        batch_size: int = 128,
        rank: Callable[[list[Hypothesis]], list[Hypothesis]] | None = None,
    ):
        if beam < 1 or max_tokens < 1:
            raise ValueError(
                f"beam is {beam} and max_tokens {max_tokens}; expected 1 or more of both."
            )
        decoders = [model] if isinstance(model, keras.Model) else list(model)
        sizes = [decoder.output_shape[-1] for decoder in decoders]
        if len(set(sizes)) != 1:
            raise ValueError(
                f"The decoders know {sizes} tokens; expected one or more with the same vocabulary."
            )
        self._models = [search_models(decoder) for decoder in decoders]
        self.beam = beam
        self.length_penalty = length_penalty
        self.max_tokens = max_tokens
        self.batch_size = batch_size
        self.rank = rank
        self._step = BeamStep([pair.step for pair in self._models], beam)

    def search(
        self, features: np.ndarray | Sequence[np.ndarray], progress: bool = False
    ) -> list[list[Hypothesis]]:
        """Returns up to `beam` different hypotheses for each photograph, best first.

        Args:
            features: `(n, …)`, one row per photograph as the decoder was trained on; for several
                decoders a list of such arrays, in their order.
            progress: whether to draw a progress bar.
        """
        arrays = [features] if len(self._models) == 1 else features
        if len(arrays) != len(self._models) or len({len(array) for array in arrays}) != 1:
            raise ValueError(
                f"There are {len(self._models)} decoders and features of "
                f"{[len(array) for array in arrays]} photographs; expected one array for each "
                "decoder, all of the same photographs."
            )
        found = []
        starts = range(0, len(arrays[0]), self.batch_size)
        for start in tqdm(starts, desc="captions", unit="batch", disable=not progress):
            batches = [np.asarray(array[start : start + self.batch_size]) for array in arrays]
            count = len(batches[0])
            missing = self.batch_size - count if start else 0  # a second shape would compile
            padded = [np.concatenate([rows, np.repeat(rows[-1:], missing, 0)]) for rows in batches]
            found += self._search_batch(padded)[:count]
        return found if self.rank is None else list(map(self.rank, found))

    def best(
        self, features: np.ndarray | Sequence[np.ndarray], progress: bool = False
    ) -> list[Hypothesis]:
        """Returns the best hypothesis for each row of `features`."""
        return [hypotheses[0] for hypotheses in self.search(features, progress)]

    def _search_batch(self, features: list[np.ndarray]) -> list[list[Hypothesis]]:
        count, beam = len(features[0]), self.beam
        inputs = _first_states(self._models, features, beam)
        total = np.full((count, beam), _NEVER, "float32")
        total[:, 0] = 0.0  # all beams start equal: only the first may grow at the first step
        token = np.full((count, beam, 1), START, "int32")
        prefixes = np.zeros((count, beam, 0), "int32")
        looks = None  # where each hypothesis looked so far, (count, beam, tokens, places)
        finished: list[list[Hypothesis]] = [[] for _ in range(count)]
        photos = np.arange(count)[:, None]

        for length in range(self.max_tokens + 1):  # one step more, for the END of the longest
            outputs = self._step.predict_on_batch({"token": token, "total": total, **inputs})
            token, new_total = outputs.pop("token"), np.array(outputs.pop("total"))
            parent = outputs.pop("parent")
            grown_from = prefixes[photos, parent]
            if "attention" in outputs:
                look = outputs.pop("attention")[:, :, None]
                looks = look if looks is None else np.concatenate([looks, look], axis=2)
            inputs |= outputs
            words = token[:, :, 0]
            ends = (words == END) & (new_total > _NEVER / 2)
            for photo, place in np.argwhere(ends):
                look = None if looks is None else looks[photo, parent[photo, place]]
                finished[photo].append(
                    self._hypothesis(grown_from[photo, place], new_total[photo, place], True, look)
                )
            if length == self.max_tokens:
                break  # what is still growing stays without the word that is one too many
            total = np.where(words == END, np.float32(_NEVER), new_total)
            prefixes = np.concatenate([grown_from, words[:, :, None]], axis=2)
            looks = None if looks is None else looks[photos, parent]
            if not any(map(self._can_improve, finished, total)):
                break
        return [
            self._ranked(
                finished[photo],
                [
                    self._hypothesis(
                        prefixes[photo, place],
                        total[photo, place],
                        False,
                        None if looks is None else looks[photo, place],
                    )
                    for place in range(beam)
                    if total[photo, place] > _NEVER / 2
                ],
            )
            for photo in range(count)
        ]

    def _hypothesis(
        self, numbers: np.ndarray, total: float, finished: bool, attention: np.ndarray | None
    ) -> Hypothesis:
        score = float(total) / (len(numbers) + 1) ** self.length_penalty
        return Hypothesis(tuple(numbers.tolist()), float(total), score, finished, attention)

    def _can_improve(self, finished: list[Hypothesis], total: np.ndarray) -> bool:
        """Whether a hypothesis still growing can come to be among the best `beam` finished ones."""
        best = total.max()
        if best <= _NEVER / 2:
            return False
        if len(finished) < self.beam:
            return True
        worst = sorted((hypothesis.score for hypothesis in finished), reverse=True)[self.beam - 1]
        return best / (self.max_tokens + 1) ** self.length_penalty > worst

    def _ranked(self, finished, growing) -> list[Hypothesis]:
        # If no hypothesis came to an END, the growing ones are better than no caption.
        ranked = sorted(finished or growing, key=lambda hypothesis: -hypothesis.score)
        return ranked[: self.beam]


def captions_of(hypotheses: Sequence[Hypothesis], vocabulary) -> list[str]:
    """Spells out hypotheses as captions, words joined by spaces."""
    return [" ".join(vocabulary.decode(hypothesis.numbers)) for hypothesis in hypotheses]


# Consensus


_ABSENT = -1  # fills up the rows of shorter n-grams in the file


class Consensus:
    """Ranks hypotheses by how much the others agree with them.

    Args:
        frequencies: in how many photographs' captions an n-gram of tokens occurs, for those in two
            or more.
        photographs: of how many.
        inverse_temperature: exponent of the hypotheses' probabilities: 0 lets all count the same,
            1 as much as they are probable.
    """

    def __init__(self, frequencies: dict, photographs: int, inverse_temperature: float = 0.2):
        self.frequencies = frequencies
        self.photographs = photographs
        self.inverse_temperature = inverse_temperature

    @classmethod
    def of(cls, captions: Iterable[Sequence[Sequence[str]]], vocabulary: Vocabulary) -> "Consensus":
        """Counts n-grams of a training split: for each photograph the tokens of its captions."""
        counted, photographs = Counter(), 0
        for group in captions:
            numbers = [vocabulary.encode(tokens)[1:-1] for tokens in group]  # no START, no END
            counted.update(set(chain.from_iterable(map(all_ngrams, numbers))))
            photographs += 1
        frequencies = {ngram: count for ngram, count in counted.items() if count > 1}
        return cls(frequencies, photographs)

    def with_inverse_temperature(self, inverse_temperature: float) -> "Consensus":
        """The same counts with another inverse_temperature."""
        return Consensus(self.frequencies, self.photographs, inverse_temperature)

    def rank(self, hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
        """Orders the hypotheses of a photograph, the one that the others agree with most first."""
        if len(hypotheses) < 3:  # two agree with each other as much
            return list(hypotheses)
        totals = np.array([hypothesis.log_probability for hypothesis in hypotheses])
        weights = np.exp(self.inverse_temperature * (totals - totals.max()))
        agreement = self._similarities([hypothesis.numbers for hypothesis in hypotheses]) @ (
            weights / weights.sum()
        )
        return [hypotheses[place] for place in np.argsort(-agreement, kind="stable")]

    def _similarities(self, captions: Sequence[Sequence[int]]) -> np.ndarray:
        """CIDEr-D of each caption (rows) against each as its only reference (columns), 0 to 10."""
        counts = [all_ngrams(caption) for caption in captions]
        columns = {ngram: place for place, ngram in enumerate(dict.fromkeys(chain(*counts)))}
        rarity = np.log(self.photographs) - np.log(
            [self.frequencies.get(ngram, 1) for ngram in columns] or [1]
        )
        orders = np.array([len(ngram) for ngram in columns])
        vectors = np.zeros((len(captions), len(columns)))
        for row, count in enumerate(counts):
            for ngram, times in count.items():
                vectors[row, columns[ngram]] = times * rarity[columns[ngram]]
        bigrams = np.array([max(len(caption) - 1, 0) for caption in captions])
        result = np.zeros((len(captions), len(captions)))
        for order in range(1, MAX_ORDER + 1):
            part = vectors[:, orders == order]
            norms = np.sqrt((part**2).sum(1))
            products = np.array([np.minimum(part, row) @ row for row in part]).T
            norms = norms[:, None] * norms
            result += np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
        gap = bigrams[:, None] - bigrams
        return 10 / MAX_ORDER * result * np.exp(-(gap**2) / (2 * Cider.SIGMA**2))

    def save(self, file: Path) -> None:
        """Writes what was counted as plain arrays, atomically; the inverse temperature is a
        setting."""
        ngrams = np.full((len(self.frequencies), MAX_ORDER), _ABSENT, "int32")
        for row, ngram in enumerate(self.frequencies):
            ngrams[row, : len(ngram)] = ngram
        counts = np.fromiter(self.frequencies.values(), "int32", len(self.frequencies))
        with atomic_path(file) as part, part.open("wb") as output:
            np.savez_compressed(
                output, ngrams=ngrams, counts=counts, photographs=np.int32(self.photographs)
            )

    @classmethod
    def load(cls, file: Path, inverse_temperature: float = 0.2) -> "Consensus":
        """Reads what `save` wrote."""
        with np.load(require(file, "notebook 05_evaluate_captions"), allow_pickle=False) as kept:
            frequencies = {
                tuple(number for number in ngram if number != _ABSENT): count
                for ngram, count in zip(
                    kept["ngrams"].tolist(), kept["counts"].tolist(), strict=True
                )
            }
            return cls(frequencies, int(kept["photographs"]), inverse_temperature)


# How search is set


# A consensus is found among the hypotheses of a wide beam. It is cut off where one caption in a
# hundred is, since a wide beam otherwise goes on for a long time for nothing.
WIDE_BEAM, WIDE_PENALTY, WIDE_TOKENS = 20, 0.7, 20


INVERSE_TEMPERATURES = (0.1, 0.2, 0.3)


@dataclass(frozen=True)
class SearchSettings:
    """How captions are searched for; chosen on the dev split."""

    beam: int = 3
    length_penalty: float = 1.0
    max_tokens: int = MAX_TOKENS
    inverse_temperature: float | None = (
        None  # of the consensus; None takes the most probable caption
    )

    @classmethod
    def from_row(cls, row: Mapping[str, float | None]) -> "SearchSettings":
        """Takes a row of `try_searches` or `judge` in `utils.evaluation`."""
        beam, penalty, inverse_temperature = (
            int(row["beam"]),
            row["length_penalty"],
            row["inverse_temperature"],
        )
        if inverse_temperature is None or np.isnan(inverse_temperature):
            return cls(beam, float(penalty))
        return cls(beam, float(penalty), WIDE_TOKENS, float(inverse_temperature))

    @property
    def words(self) -> str:
        """Says it in a word or two, for tables."""
        if self.inverse_temperature is not None:
            return f"consensus of {self.beam}"
        return "greedy" if self.beam == 1 else f"beam {self.beam}"

    def searcher(
        self, decoder: keras.Model, consensus: Consensus | None = None, batch_size: int = 128
    ) -> Searcher:
        """Makes a searcher of these settings; `consensus` is needed if they have an inverse
        temperature."""
        rank = (
            None
            if self.inverse_temperature is None
            else consensus.with_inverse_temperature(self.inverse_temperature).rank
        )
        return Searcher(decoder, self.beam, self.length_penalty, self.max_tokens, batch_size, rank)
