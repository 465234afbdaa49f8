"""Captions as tokens, and tokens as numbers: two ways of cleaning, and the vocabulary."""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import StaleArtefactError
from utils.files import read_json, require, write_json

PAD, START, END, UNKNOWN = 0, 1, 2, 3
RESERVED = ("<pad>", "<start>", "<end>", "<unknown>")
VOCABULARY_FORMAT = 1

# A word with its inner apostrophes and hyphens ("t-shirt", "don't"), or a number.
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean_published(caption: str) -> list[str]:
    """Tokens as the published recipe makes them.

    Lower-cased; punctuation deleted, so "t-shirt" becomes "tshirt"; tokens of one character dropped,
    which loses the article "a"; tokens with a digit dropped.
    """
    words = caption.lower().translate(_DROP_PUNCTUATION).split()
    return [word for word in words if len(word) > 1 and word.isalpha()]


def clean(caption: str) -> list[str]:
    """Tokens as the metrics will read them: lower-cased words and numbers, articles kept.

    A model can only score on words that it was allowed to learn. Hyphens and apostrophes inside a
    word stay; every other punctuation mark goes, since the metrics drop it too.
    """
    return _WORD.findall(caption.lower())


CLEANINGS: dict[str, Callable[[str], list[str]]] = {"full": clean, "published": clean_published}


@dataclass(frozen=True)
class Vocabulary:
    """The words a decoder knows; a token's number is its place in `tokens`.

    Places 0 to 3 are reserved for padding, start, end and unknown. The other words follow by
    falling frequency, equal ones by the alphabet, so the same captions give the same numbers.
    """

    tokens: tuple[str, ...]
    cleaning: str = "full"
    min_count: int = 1

    def __post_init__(self):
        if tuple(self.tokens[:4]) != RESERVED:
            raise StaleArtefactError(
                f"The vocabulary starts with {list(self.tokens[:4])}; expected {list(RESERVED)}. "
                "Make it again with notebook 02."
            )
        if len(set(self.tokens)) != len(self.tokens):
            twice = [token for token, count in Counter(self.tokens).items() if count > 1]
            raise StaleArtefactError(
                f"The vocabulary names {twice[:5]} more than once; each token must stand once. "
                "Make it again with notebook 02."
            )
        if self.cleaning not in CLEANINGS:
            raise StaleArtefactError(
                f"The vocabulary was made with the cleaning {self.cleaning!r}; "
                f"known ones are {', '.join(CLEANINGS)}."
            )
        numbers = {token: number for number, token in enumerate(self.tokens)}
        object.__setattr__(self, "_numbers", numbers)

    @classmethod
    def build(
        cls, captions: Iterable[Sequence[str]], min_count: int = 1, cleaning: str = "full"
    ) -> "Vocabulary":
        """Collects every token that occurs at least `min_count` times in tokenised `captions`."""
        counts = Counter(token for caption in captions for token in caption)
        kept = [token for token, count in counts.items() if count >= min_count]
        kept = sorted(set(kept) - set(RESERVED), key=lambda token: (-counts[token], token))
        return cls((*RESERVED, *kept), cleaning, min_count)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return token in self._numbers

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Numbers of `tokens` between START and END; words outside the vocabulary are UNKNOWN."""
        return [START, *(self._numbers.get(token, UNKNOWN) for token in tokens), END]

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Words up to the first END; padding and START are left out."""
        words = []
        for number in numbers:
            if number == END:
                break
            if number not in (PAD, START):
                words.append(self.tokens[number])
        return words

    def save(self, path: Path) -> None:
        """Writes the vocabulary as JSON, atomically."""
        content = {
            "format": VOCABULARY_FORMAT,
            "cleaning": self.cleaning,
            "min_count": self.min_count,
            "tokens": list(self.tokens),
        }
        write_json(path, content)

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Reads a vocabulary that `save` wrote.

        Raises:
            MissingStageError: there is no such file.
            StaleArtefactError: the file is of another format or was edited into nonsense.
        """
        content = read_json(require(path, "notebook 02_clean_captions"))
        found = content.get("format") if isinstance(content, dict) else None
        if found != VOCABULARY_FORMAT:
            raise StaleArtefactError(
                f"{path} has the format {found!r}; this version reads {VOCABULARY_FORMAT}. "
                "Make it again with notebook 02."
            )
        return cls(tuple(content["tokens"]), content["cleaning"], content["min_count"])
