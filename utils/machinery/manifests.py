"""Files of one feature extraction, finished or not, so that a kill at any moment costs little.

A finished one is an array (`pooled.npy`) and a manifest (`pooled.json`) that tells what made it. An
unfinished one is a partial array that grows and a progress record that tells how much of it counts,
both hidden. The manifest is written last: where it is, everything is.
"""

import hashlib
import os
import shutil
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from utils.machinery.errors import StaleArtefactError
from utils.machinery.files import (
    content_hash,
    invalid,
    read_json,
    require,
    write_json,
)

# Of a whole grid there are 49 to 200 times as many numbers to store as of its mean.
DTYPES = {"pooled": "float32", "spatial": "float16", "middle": "float16"}
MADE_BY = "notebook 03"
FORMAT = 2
_BLOCK = 1 << 20  # bytes copied at once: constant memory for files of any size
_HASHED_WHOLE = 128 << 20  # bytes of an array up to which all of it is hashed at every load
_HASHED_OF_ROW = 2048  # numbers at the beginning of each row that are hashed of a larger one
_TIMES = {"seconds", "hash"}  # what a manifest's own hash leaves out


@dataclass
class Progress:
    """How far an extraction has come."""

    made_from: dict[str, Any]  # everything that the features depend on
    done: int  # photographs, readable or not
    end: int  # bytes of the partial array that count
    unreadable: dict[str, str]  # file name -> reason
    seconds: float


class FeatureFiles:
    """Where one extraction lies, and the steps from nothing over a partial array to a whole one."""

    def __init__(self, folder: Path | str, kind: str, mirrored: bool):
        if kind not in DTYPES:
            raise ValueError(f"kind is {kind!r}; expected one of {', '.join(DTYPES)}.")
        folder, stem = Path(folder), f"{kind}_mirrored" if mirrored else kind
        self.array = folder / f"{stem}.npy"
        self.manifest = folder / f"{stem}.json"
        self.partial = folder / f".{stem}.part.npy"
        self.progress = folder / f".{stem}.part.json"
        self.remedy = f"Delete {self.array.name} and {self.manifest.name} and run {MADE_BY} again"

    def part(self, start: int, stop: int) -> "FeatureFiles":
        """Where one of several processes keeps the rows of photographs `start` to `stop`."""
        part, stem = copy(self), f".{self.array.stem}-{start}-{stop}"
        part.array = self.array.with_name(f"{stem}.npy")
        part.partial = self.array.with_name(f"{stem}.part.npy")
        part.progress = self.array.with_name(f"{stem}.part.json")
        return part

    @property
    def finished(self) -> bool:
        return self.array.exists() and self.manifest.exists()

    def read_manifest(self) -> dict[str, Any]:
        """Reads the manifest.

        Raises:
            MissingStageError: it is not there.
            StaleArtefactError: it was written by another version, or changed since.
        """
        texts = dict.fromkeys(("kind", "encoder", "weights", "weights_hash", "dtype"), str)
        numbers = {"image_size": int, "photographs": int, "unreadable": dict, "array_hash": str}
        fields = {"format": FORMAT, "photos": list, "shape": list}
        manifest = read_json(
            require(self.manifest, MADE_BY), f"{self.remedy}.", fields | texts | numbers
        )
        if manifest.get("hash") != _manifest_hash(manifest):
            raise self.stale(f"{self.manifest.name} was changed since {MADE_BY} wrote it")
        return manifest

    def open(self, manifest: dict[str, Any]) -> np.ndarray:
        """Maps the array into memory, and checks that it is the one that the manifest was made for.

        Raises:
            MissingStageError: it is not there.
            StaleArtefactError: it was changed since.
        """
        try:
            array = np.load(require(self.array, MADE_BY), mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            if isinstance(error, StaleArtefactError):
                raise
            raise self.stale(f"it is no whole array ({error})") from error
        if (list(array.shape), array.dtype) != (manifest["shape"], np.dtype(manifest["dtype"])):
            raise self.stale(
                f"it has shape {list(array.shape)} and type {array.dtype}, its manifest says "
                f"{manifest['shape']} and {manifest['dtype']}"
            )
        if array_hash(array) != manifest["array_hash"]:
            raise self.stale(f"it was changed since {MADE_BY} wrote it")
        return array

    def refuse_stale(self, made_from: dict[str, Any]) -> None:
        """Raises `StaleArtefactError` if the finished array was made from something else."""
        manifest = self.read_manifest()
        differing = [name for name, value in made_from.items() if manifest.get(name) != value]
        # The same weights may lie in a file of another name; their hash decides.
        if set(differing) - {"weights"}:
            raise self.stale(
                f"it holds {_in_words(manifest)}; asked for are {_in_words(made_from)} (different: "
                f"{', '.join(differing)})",
                _way_back(manifest, made_from),
            )

    def stale(self, finding: str, way_back: str = "") -> StaleArtefactError:
        return invalid(self.array, finding, f"{self.remedy}{way_back}.")

    def resume(self, made_from: dict[str, Any]) -> Progress:
        """Cuts the partial array back to its progress record; without a fitting one, starts again.

        Rows after the record may be torn, and a partial array of something else is worth nothing.
        """
        if self.progress.exists() and self.array.exists() and not self.partial.exists():
            self.array.replace(self.partial)  # the kill came between the array and its manifest
        try:
            progress = self.read_progress()
            if progress.made_from == made_from and progress.end <= self.partial.stat().st_size:
                os.truncate(self.partial, progress.end)
                return progress
        except (FileNotFoundError, StaleArtefactError):
            pass  # nothing was begun, or by another version of this module
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        with self.partial.open("wb") as output:
            _write_header(output, made_from["dtype"], [0, *made_from["row_shape"]])
        return Progress(made_from, 0, self.partial.stat().st_size, {}, 0.0)

    def read_progress(self) -> Progress:
        kinds = {"made_from": dict, "done": int, "end": int, "unreadable": dict, "seconds": float}
        content = read_json(self.progress, fields=kinds)
        return Progress(**{name: content[name] for name in kinds})

    def save_progress(self, output: BinaryIO, progress: Progress) -> None:
        """Makes the rows written so far count."""
        _to_disk(output)  # first, so that the record never promises what is not there
        progress.end = output.tell()
        write_json(self.progress, asdict(progress))

    def join(self, parts: list["FeatureFiles"]) -> Progress:
        """Puts the complete partial arrays of several processes behind each other, into one."""
        records = [part.read_progress() for part in parts]
        made_from = records[0].made_from
        whole = Progress(made_from, 0, 0, {}, max(record.seconds for record in records))
        with self.partial.open("wb") as output:
            _write_header(output, made_from["dtype"], [0, *made_from["row_shape"]])
            header = output.tell()
            for part, record in zip(parts, records, strict=True):
                whole.done += record.done
                whole.unreadable |= record.unreadable
                with part.partial.open("rb") as rows:
                    rows.seek(header)
                    shutil.copyfileobj(rows, output, _BLOCK)
            self.save_progress(output, whole)
        return whole

    def remove_parts(self) -> None:
        """Removes what `part` names, also what processes left that were killed."""
        # Records first: one without its array is a beginning, an array without its record nothing.
        for ending in ("json", "npy"):
            for file in self.array.parent.glob(f".{self.array.stem}-*-*.part.{ending}"):
                file.unlink()

    def finish(self, progress: Progress, photos: list[str]) -> None:
        """Turns the complete partial array into the finished one; `photos` are all photographs."""
        readable = [photo for photo in photos if photo not in progress.unreadable]
        shape = [len(readable), *progress.made_from["row_shape"]]
        with self.partial.open("r+b") as output:
            _write_header(output, progress.made_from["dtype"], shape)
            _to_disk(output)
        self.partial.replace(self.array)
        manifest = {
            "format": FORMAT,
            **progress.made_from,
            "shape": shape,
            "photos": readable,
            "unreadable": progress.unreadable,
            "array_hash": array_hash(np.load(self.array, mmap_mode="r")),
            "seconds": round(progress.seconds, 1),
        }
        write_json(self.manifest, manifest | {"hash": _manifest_hash(manifest)})
        self.progress.unlink()


def array_hash(array: np.ndarray) -> str:
    """Hash of an array of features: all of a small one, of a large one the beginning of each row.

    So a row that was cleared, doubled or exchanged is noticed, and opening 2 GB takes no seconds.
    """
    rows = array.reshape(len(array), -1)
    if array.nbytes > _HASHED_WHOLE:
        rows = rows[:, :_HASHED_OF_ROW]
    digest = hashlib.sha256()
    for start in range(0, len(rows), 256):
        digest.update(np.ascontiguousarray(rows[start : start + 256]))
    return digest.hexdigest()


def _manifest_hash(manifest: dict[str, Any]) -> str:
    return content_hash({name: value for name, value in manifest.items() if name not in _TIMES})


def _in_words(made_from: dict[str, Any]) -> str:
    return (
        "features of {photographs} photographs ({photographs_hash:.8}) by {encoder} at "
        "{image_size} pixels with the weights {weights!r} ({weights_hash:.8})"
    ).format(**made_from)


def _way_back(manifest: dict[str, Any], made_from: dict[str, Any]) -> str:
    """How to keep the array instead of making it again."""
    untrained = [one["weights"].startswith("untrained") for one in (manifest, made_from)]
    if untrained == [True, False]:  # made without a network, which is there now
        return ", or set WEIGHTS=none to go on with the untrained encoder"
    if untrained == [False, True]:
        return ", or go back to the trained encoder (a missing network may be why it isn't there)"
    return ", or go back to the settings that it was made with"


def _write_header(output: BinaryIO, dtype: str, shape: list[int]) -> None:
    # NumPy pads the header, so it can be written again over itself once the rows are counted.
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(output, header)


def _to_disk(output: BinaryIO) -> None:
    output.flush()
    os.fsync(output.fileno())
