"""Batches of whole captions: bucketed by length, right-padded, the same for the same seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
import pandas as pd

from utils.captions import PAD, TOKEN_COLUMNS, Vocabulary
from utils.features import Features, Rows
from utils.machinery.devices import Devices

# Lengths that batches are padded to: few, as JAX and GPUs compile each once, and close where most
# captions are. A bucket for every length would save 5 % of the padding, but a batch of captions of
# one length teaches worse: our recipe lost 9 points of CIDEr on the sample.
BUCKETS = (8, 10, 12, 14, 16, 20, 26, 40)


def bucket_length(length: int) -> int:
    """Smallest bucket that holds `length` tokens; a longer caption gets a multiple of the last."""
    longer = -(-length // BUCKETS[-1]) * BUCKETS[-1]
    return next((bucket for bucket in BUCKETS if length <= bucket), longer)


class CaptionBatches(keras.utils.PyDataset):
    """Teacher-forced batches `((features, tokens), targets)` for `model.fit` and `model.evaluate`.

    A batch holds `n` photographs with `k` captions each, in one bucket. `tokens` starts with START
    and `targets` is the same caption one token further, ending with END; both are `(n, k, bucket)`
    int32, padded with PAD on the right. `features` is `(n, ...)` as stored, one row per photograph.

    Every caption comes exactly once an epoch. The order depends on `seed` and the epoch only, so a
    training that was killed goes on with the batches that it would have seen.

    Args:
        features: `(photographs, ...)`, an array or `utils.features.Rows`; read batch by batch.
        rows: for every caption the row of its photograph in `features`.
        captions: for every caption its token ids, START and END included.
        batch_size: captions a batch; the last batch of a bucket can be smaller.
        seed: of the shuffling and mirroring; None keeps a fixed order, for evaluation.
        epoch: the first epoch to come, counted from 0.
        mirrored: as `features`, of the mirror images. Each photograph then comes as it is or as its
            mirror image, at random in each epoch.
        by_photo: whether the captions of a photograph come together, which is computed once for
            all of them then; one by one (`k` is 1) they waste less padding.
        share: which part of every batch to give, where several devices share it. Captions of
            nothing but PAD fill up what is short of captions or photographs.
    """

    def __init__(
        self,
        features: np.ndarray,
        rows: Sequence[int],
        captions: Sequence[Sequence[int]],
        batch_size: int = 128,
        seed: int | None = None,
        epoch: int = 0,
        mirrored: np.ndarray | None = None,
        by_photo: bool = False,
        share: Devices | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.features, self.mirrored, self.captions = features, mirrored, captions
        self.seed, self.epoch = seed, epoch
        self.share = share or Devices()
        members: dict[int, list[int]] = {}
        for caption, row in enumerate(rows):
            members.setdefault(int(row) if by_photo else caption, []).append(caption)
        self._groups = list(members.values())  # captions that come together
        self._rows = np.array([rows[group[0]] for group in self._groups])
        self._together = max(map(len, self._groups))
        self._most = max(1, batch_size // self._together)  # groups a batch
        longest = [max(len(captions[one]) for one in group) for group in self._groups]
        self._bucket_of = np.array([bucket_length(length - 1) for length in longest])
        self._batches = self._arrange()

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int):
        groups = self._batches[index]
        places = self.share.places(len(groups))
        shape = (len(places), self._together, self._bucket_of[groups[0]])
        tokens, targets = np.full(shape, PAD, "int32"), np.full(shape, PAD, "int32")
        for photo in np.flatnonzero(places >= 0):
            for place, member in enumerate(self._groups[groups[places[photo]]]):
                caption = self.captions[member]
                tokens[photo, place, : len(caption) - 1] = caption[:-1]
                targets[photo, place, : len(caption) - 1] = caption[1:]
        rows = self._rows[groups[places]]
        features = np.array(self.features[rows])
        if self.mirrored is not None:
            random = np.random.default_rng([self.seed, self.epoch, index])
            swapped = (random.random(len(groups)) < 0.5)[places]
            features[swapped] = self.mirrored[rows[swapped]]
        return (features, tokens), targets

    def on_epoch_end(self) -> None:
        """Arranges the batches of the next epoch; Keras calls it."""
        self.epoch += 1
        self._batches = self._arrange()

    def _arrange(self) -> list[np.ndarray]:
        random = None if self.seed is None else np.random.default_rng([self.seed, self.epoch])
        batches = []
        for bucket in np.unique(self._bucket_of):
            groups = np.flatnonzero(self._bucket_of == bucket)
            if random is not None:
                random.shuffle(groups)
            batches += np.split(groups, range(self._most, len(groups), self._most))
        if random is not None:
            random.shuffle(batches)
        # Keras on TensorFlow reads from the first two batches which axes vary, and refuses others.
        buckets = [self._bucket_of[batch[0]] for batch in batches]
        other = next((place for place, one in enumerate(buckets) if one != buckets[0]), None)
        if other is not None:
            batches[1], batches[other] = batches[other], batches[1]
        return batches


@dataclass(frozen=True)
class CaptionSet:
    """One split, ready for a decoder."""

    photos: Sequence[str]  # names of the photographs
    features: np.ndarray | Rows  # `(photographs, ...)`, one row per name, in memory or on disk
    tokens: Sequence[Sequence[Sequence[str]]]  # for each photograph its captions, tokens each
    references: Sequence[Sequence[str]]  # for each photograph its raw captions, for the metrics
    mirrored: np.ndarray | Rows | None = None  # features of the mirror images, to train on as well

    def batches(self, vocabulary: Vocabulary, **options) -> CaptionBatches:
        """Makes batches of every caption; `options` go to `CaptionBatches`."""
        rows = [row for row, captions in enumerate(self.tokens) for _ in captions]
        captions = [vocabulary.encode(tokens) for group in self.tokens for tokens in group]
        return CaptionBatches(self.features, rows, captions, **options)


def caption_set(
    captions: pd.DataFrame,
    features: Features,
    split: str,
    cleaning: str,
    mirrored: Features | None = None,
    kind: str | None = None,
) -> CaptionSet:
    """Collects one split from what notebooks 02 and 03 made.

    Args:
        captions: the table of `captions.csv`; photographs without features are left out.
        features: of all photographs; `mirrored` of the mirror images of at least this split.
        split: "train", "dev" or "test".
        cleaning: a key of `utils.captions.CLEANINGS`, whose tokens are taken.
        kind: "pooled" or "spatial", what the decoder reads; default is what `features` are.
    """
    chosen = captions[(captions["split"] == split) & ~captions["photo"].isin(features.unreadable)]
    groups = chosen.groupby("photo", sort=False)
    photos = list(groups.groups)
    return CaptionSet(
        photos,
        features.view(photos, kind),
        [[text.split() for text in group] for _, group in groups[TOKEN_COLUMNS[cleaning]]],
        [group.tolist() for _, group in groups["caption"]],
        None if mirrored is None else mirrored.view(photos, kind),
    )
