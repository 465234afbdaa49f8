"""Features: every photograph goes through the encoder once, and the result is kept on disk.

A finished extraction is an array (`pooled.npy`) and a manifest (`pooled.json`) that tells what made
it. An unfinished one is a hidden folder: the whole array, to be filled, and a record of each chunk
of photographs that is. So a kill costs one chunk, and several processes can take turns.
"""

import os
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.machinery import errors, files
from utils.machinery.devices import is_first, keep_memory, processes, require_same, wait
from utils.machinery.lock import only_one_in
from utils.machinery.progress import ProgressBar
from utils.photographs import pixels_or_error

if TYPE_CHECKING:  # importing Keras takes seconds, which reading finished features needn't cost
    from utils.dataset import Dataset
    from utils.encoder import Encoder

MADE_BY = "notebook 03"
FORMAT = 3  # of the manifest
# Of a whole grid there are 49 to 200 times as many numbers to store as of its mean.
# "middle" is what the blocks that are fine-tuned are given; see tools/fine_tuning.py.
DTYPES = {"pooled": "float32", "spatial": "float16", "middle": "float16"}
_READ_AHEAD = 3  # batches that are decoded before the CNN asks for them: this bounds the memory
_CHUNK = 8  # batches: what a kill can cost
_MOST_UNREADABLE = 0.05  # of all photographs; more means a broken copy, not a few broken files


class Rows:
    """Chosen rows of a memory-mapped array, read only when they are indexed, as the array is."""

    def __init__(self, array: np.ndarray, rows: np.ndarray):
        self._array, self._rows = array, rows
        self.shape, self.dtype = (len(rows), *array.shape[1:]), array.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index) -> np.ndarray:
        return self._array[self._rows[index]]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self[:], dtype)


@dataclass(frozen=True)
class Features:
    """Features of photographs, with the manifest that tells what made them."""

    array: np.ndarray  # memory-mapped: (n, width) float32 or (n, grid, grid, width) float16
    manifest: dict[str, Any]
    reused: bool = True  # False if they were computed just now

    @property
    def unreadable(self) -> dict[str, str]:
        """File names of photographs that have no features, and why; their rows are zero."""
        return self.manifest["unreadable"]

    @cached_property
    def _row_of(self) -> dict[str, int]:
        rows = enumerate(self.manifest["photos"])
        return {photo: row for row, photo in rows if photo not in self.unreadable}

    @property
    def photos(self) -> list[str]:
        """File names of the photographs that have features, in the order of the rows."""
        return list(self._row_of)

    def require_encoder(self, encoder: "Encoder") -> None:
        """Raises `StaleArtefactError` if `encoder` is not the one that computed the features."""
        if encoder.weights_hash != self.manifest["weights_hash"]:
            raise errors.StaleArtefactError(
                "The features come from {encoder} with {weights}; ".format(**self.manifest)
                + f"the settings give {encoder.name} with {encoder.weights}. "
                f"Set ENCODER and WEIGHTS back, or run {MADE_BY} with the new ones."
            )

    def rows(self, photos: Sequence[str]) -> np.ndarray:
        """Looks up the rows of `photos`, int64; `StaleArtefactError` names one without features."""
        if missing := [photo for photo in photos if photo not in self._row_of]:
            reason = self.unreadable.get(missing[0], "it was not in the data set then")
            finding = f"{len(missing)} of {len(photos)} photographs have no features"
            remedy = f"Leave them out, or run {MADE_BY} again."
            raise errors.StaleArtefactError(f"{finding}, first {missing[0]!r} ({reason}). {remedy}")
        return np.array([self._row_of[photo] for photo in photos], np.int64)

    def of(self, photos: Sequence[str], kind: str | None = None) -> np.ndarray:
        """Reads the features of `photos` into memory.

        `kind`: "pooled", `(n, width)` float32, the mean of spatial features; "spatial", `(n, grid,
        grid, width)` float16; None takes them as they are. Raises `StaleArtefactError` if a
        photograph has no features, or they are of another kind.
        """
        return self.view(photos, kind)[:]

    def view(self, photos: Sequence[str], kind: str | None = None) -> np.ndarray | Rows:
        """As `of`, but what is stored as it is asked for stays on disk until it is used.

        Spatial features of Flickr8k's training split are 0.75 GB, and their mirror images as much.
        """
        rows, own = Rows(self.array, self.rows(photos)), self.manifest["kind"]
        if kind in (None, own):
            return rows
        if kind != "pooled":
            finding = f"The features are {own}, not {kind}"
            raise errors.StaleArtefactError(f"{finding}. Run {MADE_BY} again.")
        pooled = np.empty((len(rows), rows.shape[-1]), np.float32)
        for start in range(0, len(rows), 256):  # all regions as floats would fill the memory
            part = slice(start, start + 256)
            pooled[part] = rows[part].mean(axis=(1, 2), dtype=np.float32)
        return pooled


def extract_features(
    encoder: "Encoder",
    dataset: "Dataset",
    folder: Path,
    kind: str = "pooled",
    batch_size: int = 32,
    mirrored: bool = False,
) -> Features:
    """Computes the features of all photographs, training split first, or takes the finished ones.

    Threads decode photographs while the CNN is at work. Rows go straight to disk, so memory does
    not grow with the data set, and a run that was killed goes on after its last finished chunk. Of
    several processes each takes some chunks; see `utils.machinery.devices`.

    Args:
        folder: gets `pooled.npy`, `spatial.npy` or `pooled_mirrored.npy`, each with its manifest.
        kind: "pooled" or "spatial", as `Features.of` has them, or "middle", the regions of an
            encoder that is only the front part of one.
        batch_size: photographs that go through the CNN at once.
        mirrored: take the mirror images of the training split instead, as further training data.

    Raises:
        StaleArtefactError: `folder` holds features made from something else.
        DatasetError: there are no photographs, or more than 5 % of them are damaged.
        UnreadablePhotographError: one can't be read for now.
        EncoderError: the CNN gives numbers that are not finite, or only zeros.
        FolderInUseError, DiskFullError: as their names say; what is done so far is kept.
    """
    extraction = _Extraction(folder, kind, mirrored)
    splits = dataset.splits
    photos = [*splits["train"], *([] if mirrored else splits["dev"] + splits["test"])]
    if not photos:
        remedy = "Check its folder and split files."
        raise errors.DatasetError(f"The data set has no photographs. {remedy}")
    made_from = _made_from(encoder, dataset, photos, kind, mirrored)
    require_same([made_from | {"weights": None}, extraction.finished], f"the {kind} features")
    if extraction.finished:
        extraction.refuse_stale(made_from)
        return load_features(folder, kind, encoder.name, mirrored)

    size = _CHUNK * batch_size
    chunks = [photos[start : start + size] for start in range(0, len(photos), size)]
    doing = f"extracting {kind} features"
    with only_one_in(folder, doing), files.full_disk_reported(extraction.array):
        keep_memory()
        work = extraction.begin(made_from, batch_size)
        wait()
        process, count = processes()
        own = {number: chunks[number] for number in range(process, len(chunks), count)}
        _extract(work, own, encoder, dataset, made_from, batch_size)
        wait()
        if is_first():
            extraction.finish(work, made_from, photos, len(chunks))
        wait()
    return replace(load_features(folder, kind, encoder.name, mirrored), reused=False)


def load_features(
    folder: Path, kind: str = "pooled", encoder: str | None = None, mirrored: bool = False
) -> Features:
    """Opens finished features without reading them into memory; arguments as `extract_features`.

    Raises:
        MissingStageError: they are not there yet.
        StaleArtefactError: they come from another encoder than `encoder`, or were changed since.
    """
    extraction = _Extraction(folder, kind, mirrored)
    manifest = extraction.read_manifest()
    if encoder is not None and manifest["encoder"] != encoder:
        finding = f"{extraction.array} comes from the encoder {manifest['encoder']!r}"
        remedy = f"Run {MADE_BY} with ENCODER={encoder}, or set ENCODER back."
        raise errors.StaleArtefactError(f"{finding}; asked for {encoder!r}. {remedy}")
    return Features(extraction.open(manifest), manifest)


def _made_from(
    encoder: "Encoder", dataset: "Dataset", photos: list[str], kind: str, mirrored: bool
) -> dict[str, Any]:
    """Everything that the features depend on."""
    is_pooled, grid, width = kind == "pooled", encoder.spec.grid, encoder.spec.width
    try:
        hashes = [files.hash_if_there(dataset.photo_path(photo)) for photo in photos]
    except OSError as error:
        finding = f"{error.filename} could not be read ({error.strerror})"
        remedy = "Check it and run this again."
        raise errors.UnreadablePhotographError(f"{finding}. {remedy}") from error
    return {
        "kind": kind,
        "mirrored": mirrored,
        "encoder": encoder.name,
        "weights": encoder.weights,
        "weights_hash": encoder.weights_hash,
        "image_size": encoder.image_size,
        "row_shape": [width] if is_pooled else [grid, grid, width],
        "dtype": DTYPES[kind],
        "photographs": len(photos),
        "photographs_hash": files.content_hash([photos, hashes]),
    }


class _Extraction:
    """Where one extraction lies, and the steps from nothing to a finished array."""

    def __init__(self, folder: Path | str, kind: str, mirrored: bool):
        if kind not in DTYPES:
            raise ValueError(f"kind is {kind!r}; expected one of {', '.join(DTYPES)}.")
        stem = f"{kind}_mirrored" if mirrored else kind
        self.array, self.manifest = Path(folder, f"{stem}.npy"), Path(folder, f"{stem}.json")
        self.remedy = f"Delete {self.array.name} and {self.manifest.name} and run {MADE_BY} again"

    @property
    def finished(self) -> bool:
        return self.array.exists() and self.manifest.exists()

    def stale(self, finding: str, way_back: str = "") -> errors.StaleArtefactError:
        return files.invalid(self.array, finding, f"{self.remedy}{way_back}.")

    def read_manifest(self) -> dict[str, Any]:
        fields = {"format": FORMAT, "seconds": float}
        manifest = files.read_json(files.require(self.manifest, MADE_BY), f"{self.remedy}.", fields)
        if manifest.get("hash") != _manifest_hash(manifest):  # the rest is as it was written
            raise self.stale(f"{self.manifest.name} was changed since {MADE_BY} wrote it")
        return manifest

    def open(self, manifest: dict[str, Any]) -> np.ndarray:
        size = files.require(self.array, MADE_BY).stat().st_size
        if size != manifest["bytes"] or files.file_hash(self.array, size) != manifest["array_hash"]:
            raise self.stale(f"it was changed since {MADE_BY} wrote it")
        return np.load(self.array, mmap_mode="r", allow_pickle=False)

    def refuse_stale(self, made_from: dict[str, Any]) -> None:
        """Raises `StaleArtefactError` if the finished array was made from something else."""
        manifest = self.read_manifest()
        differing = [name for name, value in made_from.items() if manifest.get(name) != value]
        if not set(differing) - {"weights"}:  # the same weights may lie in a file of another name
            return
        way_back = ", or go back to the settings that it was made with"
        if manifest["weights"].startswith("untrained"):  # without a network, which is there now
            way_back = ", or set WEIGHTS=none to go on with the untrained encoder"
        told = "features of {photographs} photographs ({photographs_hash:.8}) by {encoder} at "
        told += "{image_size} pixels with the weights {weights!r} ({weights_hash:.8})"
        finding = f"it holds {told.format(**manifest)}; asked for are {told.format(**made_from)}"
        raise self.stale(f"{finding}: other {', '.join(differing)}", way_back)

    def begin(self, made_from: dict[str, Any], batch_size: int) -> Path:
        """The hidden folder of what is done so far; one of something else is removed."""
        identity = files.content_hash([made_from | {"weights": None}, batch_size])[:8]
        work = self.array.with_name(f".{self.array.stem}-{identity}")
        rows, shape = work / "rows.npy", (made_from["photographs"], *made_from["row_shape"])
        if is_first():
            for other in self.array.parent.glob(f".{self.array.stem}-*"):
                if other != work or not _has_shape(rows, shape):
                    shutil.rmtree(other, ignore_errors=True)
            if not rows.exists():
                work.mkdir(parents=True, exist_ok=True)
                np.lib.format.open_memmap(rows, "w+", made_from["dtype"], shape)
        return work

    def finish(self, work: Path, made_from: dict[str, Any], photos: list[str], chunks: int) -> None:
        fields = {"unreadable": dict, "seconds": float}
        records = [files.read_json(work / f"{n}.json", "Delete it.", fields) for n in range(chunks)]
        unreadable = {name: text for one in records for name, text in one["unreadable"].items()}
        _refuse_too_many(unreadable, len(photos))
        array = np.load(work / "rows.npy", mmap_mode="r")
        manifest = {
            "format": FORMAT,
            **made_from,
            "shape": list(array.shape),
            "photos": photos,
            "unreadable": unreadable,
            "bytes": (size := (work / "rows.npy").stat().st_size),
            "array_hash": files.file_hash(work / "rows.npy", size),
            "seconds": round(sum(one["seconds"] for one in records), 1),
        }
        files.write_json(self.manifest, manifest | {"hash": _manifest_hash(manifest)})
        (work / "rows.npy").replace(self.array)  # last: without it the manifest counts nothing
        shutil.rmtree(work)


def _has_shape(rows: Path, shape: tuple[int, ...]) -> bool:
    try:
        return np.load(rows, mmap_mode="r").shape == shape
    except Exception:  # not there, cut short, or not whole when a kill came
        return False


def _manifest_hash(manifest: dict[str, Any]) -> str:
    lasting = manifest.keys() - {"seconds", "hash"}
    return files.content_hash({name: manifest[name] for name in lasting})


def _extract(
    work: Path,
    chunks: dict[int, list[str]],
    encoder: "Encoder",
    dataset: "Dataset",
    made_from: dict[str, Any],
    batch_size: int,
) -> None:
    """Fills in the rows of these chunks, by their numbers, less those that have a record."""
    todo = {n: photos for n, photos in chunks.items() if not (work / f"{n}.json").exists()}
    paths = [dataset.photo_path(photo) for photos in todo.values() for photo in photos]
    batches = _read_ahead(paths, encoder.image_size, batch_size)
    total, damaged = sum(map(len, chunks.values())), {}
    first_row = np.load(work / "rows.npy", mmap_mode="r").offset
    bar = ProgressBar(total=total, initial=total - len(paths), desc=encoder.name, unit="photo")
    with bar, (work / "rows.npy").open("r+b") as output:
        for number, photos in todo.items():
            clock, unreadable = time.monotonic(), {}
            for start in range(0, len(photos), batch_size):
                names, readable = photos[start : start + batch_size], {}
                for index, pixels in enumerate(next(batches)):
                    if isinstance(pixels, errors.UnreadablePhotographError):
                        raise pixels  # it may be readable the next time, so it is not recorded
                    if isinstance(pixels, errors.PhotographError):
                        unreadable[names[index]] = str(pixels)
                    else:
                        readable[number * _CHUNK * batch_size + start + index] = pixels
                _refuse_too_many(damaged | unreadable, made_from["photographs"])
                if readable:
                    rows = _rows(np.stack([*readable.values()]), encoder, made_from, batch_size)
                    for place, row in zip(readable, rows, strict=True):
                        output.seek(first_row + place * row.nbytes)
                        output.write(row)
                bar.update(len(names))
            output.flush()
            os.fsync(output.fileno())  # first, so that the record never promises what is not there
            damaged |= unreadable
            record = {"unreadable": unreadable, "seconds": time.monotonic() - clock}
            files.write_json(work / f"{number}.json", record)


def _read_ahead(paths: list[Path], image_size: int, batch_size: int) -> Iterator[list]:
    """Yields `pixels_or_error` of `paths`, batch by batch, decoded by threads in advance."""
    pool, ahead = ThreadPoolExecutor(max_workers=os.cpu_count()), deque()
    try:
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            ahead.append([pool.submit(pixels_or_error, path, image_size) for path in batch])
            if len(ahead) > _READ_AHEAD:
                yield [future.result() for future in ahead.popleft()]
        for futures in ahead:
            yield [future.result() for future in futures]
    finally:
        # Memory may be cleared, and so this be run, while threading holds the lock of such a wait.
        pool.shutdown(wait=False, cancel_futures=True)


def _rows(
    pixels: np.ndarray, encoder: "Encoder", made_from: dict[str, Any], batch_size: int
) -> np.ndarray:
    if made_from["mirrored"]:
        pixels = pixels[:, :, ::-1]
    encode = encoder.encode if made_from["kind"] == "pooled" else encoder.encode_spatial
    features = encode(pixels, batch_size)
    with np.errstate(over="ignore"):  # reported below, and for NaN too
        rows = np.ascontiguousarray(features, made_from["dtype"])
    if not (np.isfinite(rows).all() and rows.reshape(len(rows), -1).any(axis=1).all()):
        raise errors.EncoderError(
            f"{encoder.name} gives features that are all zero, or no finite {made_from['dtype']} "
            f"numbers (the largest is {np.abs(features).max():.4g}). Check its weights."
        )
    return rows


def _refuse_too_many(unreadable: dict[str, str], photographs: int) -> None:
    if len(unreadable) > _MOST_UNREADABLE * photographs:
        finding = f"{len(unreadable)} of {photographs} can't be read, as in a broken copy"
        first = " ".join([*unreadable.values()][:3])
        raise errors.DatasetError(f"{finding}. Copy the data set again. The first ones: {first}")
