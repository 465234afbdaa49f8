"""Features: every photograph goes through the encoder once, and the result is kept on disk."""

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from tqdm import tqdm

from utils.machinery.devices import agree, is_first, keep_memory, processes, wait
from utils.machinery.errors import (
    DatasetError,
    EncoderError,
    PhotographError,
    StaleArtefactError,
    UnreadablePhotographError,
)
from utils.machinery.files import content_hash, full_disk_reported, quick_hash
from utils.machinery.lock import only_one_in
from utils.machinery.manifests import DTYPES, MADE_BY, FeatureFiles, Progress
from utils.photographs import load_pixels

if TYPE_CHECKING:  # importing Keras takes seconds, which reading finished features needn't cost
    from utils.dataset import Dataset
    from utils.encoder import Encoder

_READ_AHEAD = 3  # batches that are decoded before the CNN asks for them: this bounds the memory
_SAVE_EVERY = 8  # batches between two progress records: what a kill can cost
_MOST_UNREADABLE = 0.05  # of all photographs; more means a broken copy, not a few broken files


class Rows:
    """Chosen rows of a memory-mapped array, read only when they are asked for.

    Is indexed along its first axis as the array of these rows would be, by an index, a slice, or an
    array of indices or of truth values.
    """

    def __init__(self, array: np.ndarray, rows: np.ndarray):
        self._array = array
        self._rows = rows
        self.shape = (len(rows), *array.shape[1:])
        self.dtype = array.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index) -> np.ndarray:
        return self._array[self._rows[index]]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self[:], dtype)


@dataclass(frozen=True)
class Features:
    """Features of photographs, row by row, with the manifest that says what made them."""

    array: np.ndarray  # memory-mapped: (n, width) float32 or (n, grid, grid, width) float16
    manifest: dict[str, Any]
    reused: bool = True  # False if they were computed just now

    @property
    def photos(self) -> list[str]:
        """File names in the order of the rows."""
        return self.manifest["photos"]

    @property
    def unreadable(self) -> dict[str, str]:
        """File names of photographs that have no row, and why."""
        return self.manifest["unreadable"]

    def rows(self, photos: Sequence[str]) -> np.ndarray:
        """Looks up the rows of `photos`: (len(photos),) int64.

        Raises:
            StaleArtefactError: a photograph has no row; the message says whether it was unreadable.
        """
        missing = [photo for photo in photos if photo not in self._row_of]
        if missing:
            reason = self.unreadable.get(missing[0], "it was not in the data set then")
            raise StaleArtefactError(
                f"{len(missing)} of {len(photos)} photographs have no features, first "
                f"{missing[0]!r} ({reason}). Leave out what `features.unreadable` lists, or run "
                f"{MADE_BY} again if the data set has changed."
            )
        return np.array([self._row_of[photo] for photo in photos], np.int64)

    def of(self, photos: Sequence[str], kind: str | None = None) -> np.ndarray:
        """Reads the features of `photos` into memory, as the kind that is asked for.

        Args:
            photos: file names.
            kind: "pooled", `(n, width)` float32, which spatial features are averaged for;
                "spatial", `(n, grid, grid, width)` float16; None takes them as they are.

        Raises:
            StaleArtefactError: a photograph has no row, or spatial features are asked of pooled
                ones.
        """
        rows = self.rows(photos)
        if kind in (None, self.manifest["kind"]):
            return self.array[rows]
        if kind != "pooled":
            raise StaleArtefactError(
                f"The features are {self.manifest['kind']}, and {kind} ones are asked for. Run "
                f"{MADE_BY} again with this version of the project."
            )
        pooled = np.empty((len(rows), self.array.shape[-1]), np.float32)
        for start in range(0, len(rows), 256):  # all regions as floats would fill the memory
            regions = self.array[rows[start : start + 256]]
            pooled[start : start + 256] = regions.mean(axis=(1, 2), dtype=np.float32)
        return pooled

    def view(self, photos: Sequence[str], kind: str | None = None) -> np.ndarray | Rows:
        """As `of`, but what is stored as it is asked for stays on disk until it is used.

        Spatial features of Flickr8k's training split are 0.75 GB, and their mirror images as much.
        """
        if kind in (None, self.manifest["kind"]):
            return Rows(self.array, self.rows(photos))
        return self.of(photos, kind)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {photo: row for row, photo in enumerate(self.photos)}


def extract_features(
    encoder: "Encoder",
    dataset: "Dataset",
    folder: Path,
    kind: str = "pooled",
    batch_size: int = 32,
    mirrored: bool = False,
) -> Features:
    """Computes the features of all photographs, training split first, or takes the finished ones.

    Threads decode photographs while the CNN is at work. Rows are appended to a file, so memory does
    not grow with the data set, and a run that was killed goes on after its last progress record. Of
    several processes each takes a part of the photographs; see `utils.machinery.devices`.

    Args:
        folder: where the files go: `pooled.npy`, `spatial.npy` or `pooled_mirrored.npy`, each with
            its manifest.
        kind: "pooled", (n, width) float32; "spatial", (n, grid, grid, width) float16; or "middle",
            float16, what the blocks that can be fine-tuned are given.
        batch_size: photographs that go through the CNN at once.
        mirrored: take the mirror images of the training split instead, as further training data.

    Raises:
        StaleArtefactError: `folder` holds features made from something else.
        DatasetError: there are no photographs, or more than 5 % of them are damaged.
        UnreadablePhotographError: one can't be read for now; what is done so far is kept.
        EncoderError: the CNN gives numbers that are not finite, or only zeros.
        FolderInUseError: another process extracts into `folder`.
        DiskFullError: there is no room for them; what is done so far is kept.
    """
    files = FeatureFiles(folder, kind, mirrored)
    splits = ["train"] if mirrored else ["train", "dev", "test"]
    photos = [photo for split in splits for photo in dataset.splits[split]]
    if not photos:
        raise DatasetError("The data set has no photographs. Check its folder and split files.")
    made_from = _made_from(encoder, dataset, photos, kind, mirrored)
    agree([made_from | {"weights": None}, files.finished], f"the {kind} features")
    if files.finished:
        files.refuse_stale(made_from)
        return load_features(folder, kind, encoder.name, mirrored)

    with only_one_in(folder, f"extracting {kind} features"), full_disk_reported(files.partial):
        process, count = processes()
        bounds = _bounds(len(photos), batch_size, count)
        parts = [files.part(*part) for part in bounds] if count > 1 else [files]
        own = parts[process]
        keep_memory()
        progress = own.resume(made_from)
        with own.partial.open("r+b") as output:
            output.seek(progress.end)
            _append_rows(
                output, progress, own, encoder, dataset, photos[slice(*bounds[process])], batch_size
            )
        wait()
        if is_first():
            if count > 1:
                progress = files.join(parts)
                _refuse_too_many(progress)
            files.finish(progress, photos)
            files.remove_parts()
        wait()
    return replace(load_features(folder, kind, encoder.name, mirrored), reused=False)


def load_features(
    folder: Path, kind: str = "pooled", encoder: str | None = None, mirrored: bool = False
) -> Features:
    """Opens finished features without reading them into memory.

    Args:
        folder, kind, mirrored: as for `extract_features`.
        encoder: name of the encoder that they must come from; None takes any.

    Raises:
        MissingStageError: they are not there yet.
        StaleArtefactError: they come from another encoder, or array and manifest disagree.
    """
    files = FeatureFiles(folder, kind, mirrored)
    manifest = files.read_manifest()
    if encoder is not None and manifest["encoder"] != encoder:
        raise StaleArtefactError(
            f"{files.array} comes from the encoder {manifest['encoder']!r}; asked for "
            f"{encoder!r}. Run {MADE_BY} with ENCODER={encoder}, or set ENCODER back."
        )
    return Features(files.open(manifest), manifest)


def _made_from(
    encoder: "Encoder", dataset: "Dataset", photos: list[str], kind: str, mirrored: bool
) -> dict[str, Any]:
    """Everything that the features depend on."""
    grid, width = encoder.spec.grid, encoder.spec.width
    try:
        hashes = [quick_hash(dataset.photo_path(photo)) for photo in photos]
    except OSError as error:
        raise UnreadablePhotographError(
            f"{error.filename} could not be read ({error.strerror}). Check its permissions and the "
            "disk, and run this again."
        ) from error
    return {
        "kind": kind,
        "mirrored": mirrored,
        "encoder": encoder.name,
        "weights": encoder.weights,
        "weights_hash": encoder.weights_hash,
        "image_size": encoder.image_size,
        "row_shape": {
            "pooled": [width],
            "spatial": [grid, grid, width],
            "middle": list(encoder.tail.input_shape[1:]) if kind == "middle" else None,
        }[kind],
        "dtype": DTYPES[kind],
        "photographs": len(photos),
        "photographs_hash": content_hash([photos, hashes]),
    }


def _bounds(photographs: int, batch_size: int, processes: int) -> list[tuple[int, int]]:
    """First and last photograph of every process: whole batches, the same as one process makes."""
    batches = -(-photographs // batch_size)
    starts = [batch_size * (batches * number // processes) for number in range(processes)]
    return list(zip(starts, [*starts[1:], photographs], strict=True))


def _append_rows(
    output: BinaryIO,
    progress: Progress,
    files: FeatureFiles,
    encoder: "Encoder",
    dataset: "Dataset",
    photos: list[str],
    batch_size: int,
) -> None:
    paths = [dataset.photo_path(photo) for photo in photos[progress.done :]]
    batches = _read_ahead(paths, encoder.image_size, batch_size)
    bar = tqdm(total=len(photos), initial=progress.done, desc=encoder.name, unit="photo")
    with bar:
        clock = time.monotonic()
        for number, batch in enumerate(batches, 1):
            readable = []
            for photo, pixels in zip(photos[progress.done :], batch, strict=False):
                if isinstance(pixels, UnreadablePhotographError):
                    raise pixels  # it may be readable the next time, so it is not recorded
                if isinstance(pixels, PhotographError):
                    progress.unreadable[photo] = str(pixels)
                else:
                    readable.append(pixels)
            _refuse_too_many(progress)
            if readable:
                output.write(_rows(np.stack(readable), encoder, progress.made_from, batch_size))
            progress.done += len(batch)
            progress.seconds += time.monotonic() - clock
            clock = time.monotonic()
            bar.update(len(batch))
            if number % _SAVE_EVERY == 0:
                files.save_progress(output, progress)
    files.save_progress(output, progress)


def _read_ahead(
    paths: list[Path], image_size: int, batch_size: int
) -> Iterator[list[np.ndarray | PhotographError]]:
    """Yields pixels in the order of `paths`, batch by batch, decoded by threads in advance."""

    def read(path: Path) -> np.ndarray | PhotographError:
        try:
            return load_pixels(path, image_size)
        except PhotographError as error:
            return error

    pool = ThreadPoolExecutor(max_workers=os.cpu_count())
    try:
        ahead = deque()
        for start in range(0, len(paths), batch_size):
            ahead.append([pool.submit(read, path) for path in paths[start : start + batch_size]])
            if len(ahead) > _READ_AHEAD:
                yield [future.result() for future in ahead.popleft()]
        while ahead:
            yield [future.result() for future in ahead.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


def _rows(
    pixels: np.ndarray, encoder: "Encoder", made_from: dict[str, Any], batch_size: int
) -> np.ndarray:
    if made_from["mirrored"]:
        pixels = pixels[:, :, ::-1]
    method = {"pooled": "encode", "spatial": "encode_spatial", "middle": "encode_middle"}
    encode = getattr(encoder, method[made_from["kind"]])
    features = encode(pixels, batch_size)
    with np.errstate(over="ignore"):  # reported below, and for NaN too
        rows = np.ascontiguousarray(features, made_from["dtype"])
    if not (np.isfinite(rows).all() and rows.reshape(len(rows), -1).any(axis=1).all()):
        raise EncoderError(
            f"{encoder.name} gives features that are all zero, or no finite {made_from['dtype']} "
            f"numbers (the largest is {np.abs(features).max():.4g}). Check its weights; those of "
            'an untrained encoder may be too large for float16, then take kind="pooled".'
        )
    return rows


def _refuse_too_many(progress: Progress) -> None:
    unreadable, photographs = progress.unreadable, progress.made_from["photographs"]
    if len(unreadable) > _MOST_UNREADABLE * photographs:
        raise DatasetError(
            f"{len(unreadable)} of {photographs} photographs can't be read, more than "
            f"{_MOST_UNREADABLE:.0%}; that looks like a broken copy of the data set. Copy or "
            f"download it again. The first ones: {' '.join(list(unreadable.values())[:3])}"
        )
