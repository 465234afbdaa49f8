"""Batches of whole captions: bucketed by length, right-padded, the same for the same seed."""

from collections.abc import Sequence

import keras
import numpy as np

from utils.captions import PAD

# Lengths that batches are padded to. Every length is compiled once, so there are only a few; real
# captions are short, so the steps are fine where most captions lie.
BUCKETS = (8, 10, 12, 14, 16, 20, 26, 40)


def bucket_length(length: int, buckets: Sequence[int] = BUCKETS) -> int:
    """Smallest bucket that holds `length` tokens; a longer caption gets a multiple of the last."""
    for bucket in buckets:
        if length <= bucket:
            return bucket
    return -(-length // buckets[-1]) * buckets[-1]


class CaptionBatches(keras.utils.PyDataset):
    """Teacher-forced batches `((features, tokens), targets)` for `model.fit` and `model.evaluate`.

    A batch holds captions of one bucket. `tokens` starts with START and `targets` is the same
    caption one place further, ending with END; both are `(batch, bucket)` int32, padded with PAD
    on the right. `features` is `(batch, …)` as stored, one row per caption.

    Every caption comes exactly once an epoch. The order depends on `seed` and the epoch only, so a
    training that was killed goes on with the batches that it would have seen.

    Args:
        features: array `(photographs, …)`; a memory map is read batch by batch.
        rows: for every caption the row of its photograph in `features`.
        captions: for every caption its numbers, START and END included.
        batch_size: captions a batch; the last batch of a bucket can be smaller.
        seed: of the shuffling; None keeps a fixed order, for evaluation.
        epoch: the first epoch to come, counted from 0.
        mirrored: features of the mirror images, same shape as `features`. Each caption then comes
            with its photograph or with the mirror image, by a throw of the seed for each epoch.
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
        **kwargs,
    ):
        super().__init__(**kwargs)
        if len(rows) != len(captions) or not len(captions):
            raise ValueError(
                f"There are {len(rows)} photograph rows and {len(captions)} captions; expected the "
                "same number of both, at least one."
            )
        if mirrored is not None and (seed is None or mirrored.shape != features.shape):
            raise ValueError(
                f"Mirrored features have the shape {mirrored.shape} and the seed is {seed}; "
                f"expected the shape of the features, {features.shape}, and a seed."
            )
        self.features = features
        self.mirrored = mirrored
        self.rows = np.asarray(rows)
        self.captions = captions
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = epoch
        self._bucket_of = np.array([bucket_length(len(caption) - 1) for caption in captions])
        self._batches = self._arrange()

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int):
        members = self._batches[index]
        length = self._bucket_of[members[0]]
        tokens = np.full((len(members), length), PAD, "int32")
        targets = np.full((len(members), length), PAD, "int32")
        for place, member in enumerate(members):
            caption = self.captions[member]
            tokens[place, : len(caption) - 1] = caption[:-1]
            targets[place, : len(caption) - 1] = caption[1:]
        return (self._features_of(members, index), tokens), targets

    def _features_of(self, members: np.ndarray, index: int) -> np.ndarray:
        rows = self.rows[members]
        features = np.array(self.features[rows])
        if self.mirrored is not None:
            random = np.random.default_rng([self.seed, self.epoch, index])
            swapped = random.random(len(members)) < 0.5
            features[swapped] = self.mirrored[rows[swapped]]
        return features

    def on_epoch_end(self) -> None:
        """Arranges the batches of the next epoch; Keras calls it."""
        self.epoch += 1
        self._batches = self._arrange()

    def _arrange(self) -> list[np.ndarray]:
        random = None if self.seed is None else np.random.default_rng([self.seed, self.epoch])
        batches = []
        for bucket in np.unique(self._bucket_of):
            members = np.flatnonzero(self._bucket_of == bucket)
            if random is not None:
                random.shuffle(members)
            batches += np.split(members, range(self.batch_size, len(members), self.batch_size))
        if random is not None:
            random.shuffle(batches)
        # Keras on TensorFlow reads from the first two batches which axes vary, and refuses others.
        for place in range(1, len(batches)):
            if self._bucket_of[batches[place][0]] != self._bucket_of[batches[0][0]]:
                batches[1], batches[place] = batches[place], batches[1]
                break
        return batches
