"""Captions as tokens, and tokens as ids: two ways of cleaning, and the vocabulary."""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from utils.machinery.files import invalid, read_json, read_table, require, write_json

if TYPE_CHECKING:  # only its shape is used here, and captions are cleaned without a data set too
    from utils.dataset import Dataset

PAD, START, END, UNKNOWN = 0, 1, 2, 3
RESERVED = ("<pad>", "<start>", "<end>", "<unknown>")
VOCABULARY_FORMAT = 1
MADE_BY = "notebook 02_clean_captions"
REMEDY = "Make it again with notebook 02."
CAPTION_COLUMNS = ["photo", "split", "number", "caption", "tokens", "original_tokens"]
TOKEN_COLUMNS = {"full": "tokens", "original": "original_tokens"}  # by cleaning

# A word with its inner apostrophes and hyphens ("t-shirt", "don't"), or a number; and the "'s" that
# Flickr8k sets apart, which the metrics read as a word too.
_WORD = re.compile(r"(?<!\S)'s\b|[^\W_]+(?:['’-][^\W_]+)*")
_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean_original(caption: str) -> list[str]:
    """Tokens as the original recipe makes them: lower-cased letters only.

    Punctuation is deleted, so "t-shirt" becomes "tshirt"; tokens of one character, and so the
    article "a", and tokens with a digit are dropped.
    """
    words = caption.lower().translate(_DROP_PUNCTUATION).split()
    return [word for word in words if len(word) > 1 and word.isalpha()]


def clean(caption: str) -> list[str]:
    """Tokens as the metrics will read them: lower-cased words and numbers, articles kept.

    A model can only score on words that it was allowed to learn.
    """
    return _WORD.findall(caption.lower())


CLEANINGS: dict[str, Callable[[str], list[str]]] = {"full": clean, "original": clean_original}


@dataclass(frozen=True)
class Vocabulary:
    """The words a decoder knows; a token's id is its index in `tokens`.

    Ids 0 to 3 are reserved for padding, start, end and unknown. The other words follow by falling
    frequency, equal ones by the alphabet, so the same captions give the same ids.
    """

    tokens: tuple[str, ...]
    cleaning: str = "full"
    min_count: int = 1

    @cached_property
    def _token_ids(self) -> dict[str, int]:
        return {token: token_id for token_id, token in enumerate(self.tokens)}

    @classmethod
    def build(
        cls, captions: Iterable[Sequence[str]], min_count: int = 1, cleaning: str = "full"
    ) -> "Vocabulary":
        """Collects every token that occurs at least `min_count` times in tokenised `captions`."""
        counts = Counter(chain.from_iterable(captions))
        kept = {token for token, count in counts.items() if count >= min_count} - {*RESERVED}
        ordered = sorted(kept, key=lambda token: (-counts[token], token))
        return cls((*RESERVED, *ordered), cleaning, min_count)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return token in self._token_ids

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Ids of `tokens` between START and END; words outside the vocabulary are UNKNOWN."""
        return [START, *(self._token_ids.get(token, UNKNOWN) for token in tokens), END]

    def decode(self, token_ids: Iterable[int]) -> list[str]:
        """Words up to the first END; padding and START are left out."""
        words = takewhile(lambda token_id: token_id != END, token_ids)
        return [self.tokens[token_id] for token_id in words if token_id not in (PAD, START)]

    def save(self, path: Path) -> None:
        """Writes the vocabulary as JSON, atomically."""
        kept = {"cleaning": self.cleaning, "min_count": self.min_count, "tokens": self.tokens}
        write_json(path, {"format": VOCABULARY_FORMAT, **kept})

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Reads a vocabulary that `save` wrote.

        `MissingStageError` if there is no such file; `StaleArtefactError` if it is of another
        format, edited, or changed since it was recorded.
        """
        fields = {"format": VOCABULARY_FORMAT, "tokens": _are_tokens, "min_count": int}
        fields["cleaning"] = list(CLEANINGS).__contains__
        content = read_json(require(path, MADE_BY), REMEDY, fields)
        tokens = tuple(content["tokens"])
        if tokens[:4] != RESERVED:
            finding = f"it starts with {list(tokens[:4])}; expected {list(RESERVED)}"
            raise invalid(path, finding, REMEDY)
        if twice := [token for token, count in Counter(tokens).items() if count > 1]:
            raise invalid(path, f"it names {twice[:5]} more than once", REMEDY)
        return cls(tokens, content["cleaning"], content["min_count"])


def _are_tokens(values: object) -> bool:
    kept = isinstance(values, list) and all(isinstance(one, str) for one in values)
    return kept and all(re.fullmatch(r"\S{1,1000}", one) for one in values)


def caption_table(dataset: "Dataset") -> pd.DataFrame:
    """Every caption with its split and its tokens, joined by spaces: `captions.csv`.

    Columns `CAPTION_COLUMNS`, a row per caption as in `dataset.captions`.
    """
    table = dataset.captions.assign(split=dataset.captions["photo"].map(dataset.split_of))
    for cleaning, column in TOKEN_COLUMNS.items():
        table[column] = table["caption"].map(CLEANINGS[cleaning]).map(" ".join)
    return table[CAPTION_COLUMNS]


def read_caption_table(path: Path) -> pd.DataFrame:
    """Reads `captions.csv`; a caption without tokens is "", and the word "none" is a word.

    `MissingStageError` if notebook 02 has not made it; `StaleArtefactError` if it is no table of
    captions, of another version, or changed since.
    """
    types = dict.fromkeys(CAPTION_COLUMNS, str) | {"number": int}
    table = read_table(require(path, MADE_BY), types, REMEDY)
    if not (len(table) and set(table["split"]) <= {"train", "dev", "test"}):
        raise invalid(path, "it has no captions, or of an unknown split", REMEDY)
    return table[CAPTION_COLUMNS]


def threshold_table(
    training: Iterable[Sequence[str]],
    dev: Iterable[Sequence[str]],
    thresholds: Sequence[int],
    units: int,
) -> pd.DataFrame:
    """What each of `thresholds` costs and buys, where the vocabulary comes from `training` only.

    Args:
        training, dev: tokenised captions.
        thresholds: values of `min_count`.
        units: inputs of the softmax layer, or length of a word's embedding where the layer shares
            its weights with the embedding (tied weights).

    Returns:
        Columns `min_count`, `words` (in the vocabulary, reserved ones included), `unknown_share`
        and `unknown_share_dev` (of all tokens, in [0, 1]) and `softmax_parameters`.
    """
    known = [Vocabulary.build(training, min_count) for min_count in thresholds]
    table = pd.DataFrame({"min_count": [*thresholds], "words": [*map(len, known)]})
    for column, split in (("unknown_share", training), ("unknown_share_dev", dev)):
        tokens = [*chain.from_iterable(split)]
        table[column] = [sum(one not in words for one in tokens) / len(tokens) for words in known]
    return table.assign(softmax_parameters=(units + 1) * table["words"])
