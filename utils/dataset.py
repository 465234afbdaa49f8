"""The data set: photographs, five captions for each, and a split into train, dev and test.

Reads both public forms of Flickr8k and draws the sample. What is odd in the files is skipped
and said; what would falsify results is refused.
"""

import csv
import io
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from utils.machinery.archives import download, unpack
from utils.machinery.errors import DatasetError, DownloadError
from utils.machinery.lock import only_one_in
from utils.settings import Settings

# The files of Flickr8k, in both of its public forms


TOKEN_FILE = "Flickr8k.token.txt"  # original form: name.jpg#0<TAB>caption
CSV_FILE = "captions.txt"  # Kaggle form: name.jpg,caption under the header image,caption
# "Flicker8k" is how the archive itself spells it.
PHOTO_FOLDERS = ("flicker8k_dataset", "flickr8k_dataset", "images")  # in any case
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png")  # in any case
TEXT_FOLDER = "Flickr8k_text"
SPLITS = ("train", "dev", "test")
SPLIT_FILES = {split: f"Flickr_8k.{split}Images.txt" for split in SPLITS}
CAPTIONS_PER_PHOTO = 5
MOST_BAD_LINES = 0.05  # of a file; above that it is another file than it seems
MOST_WORDS = 200  # of a caption; Flickr8k's longest has 38, and a batch is padded to its longest

_LETTER_OR_DIGIT = re.compile(r"[^\W_]")


def _places(folder: Path) -> Iterator[Path]:
    """The folder and its subfolders, as archives are often unpacked into one of their own."""
    if folder.is_dir():
        yield folder
        yield from _subfolders(folder)


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."]
    return [folder / name for name in sorted(names)]


def find_photo_folder(folder: Path) -> Path | None:
    """The folder with the photographs, in `folder` or one level down; None if there is none."""
    for place in _places(folder):
        for subfolder in _subfolders(place):
            if subfolder.name.lower() in PHOTO_FOLDERS and photos_in(subfolder):
                return subfolder
    return None


def find_file(folder: Path, name: str) -> Path | None:
    """A text file in `folder`, one level down, or in a text folder there; None if there is none."""
    for place in _places(folder):
        for file in (place / name, place / TEXT_FOLDER / name):
            if file.is_file():
                return file
    return None


def photos_in(folder: Path) -> set[str]:
    """Names of the photographs in a folder, by their endings; nothing is opened."""
    with os.scandir(folder) as entries:
        return {
            entry.name
            for entry in entries
            if entry.name.lower().endswith(PHOTO_SUFFIXES)
            and entry.name[0] != "."
            and entry.is_file()
        }


class _BadLine(ValueError):
    """Says what is wrong with one line of a file."""


def read_captions(caption_file: Path) -> tuple[pd.DataFrame, list[str]]:
    """Reads `Flickr8k.token.txt`, or a CSV file with the header `image,caption`.

    Bad lines are skipped: no tab or number, no word, more than 200 words, a second caption of the
    same number, bytes that are not UTF-8. In the CSV form a photograph's captions are numbered as
    they come.

    Returns:
        Captions with the columns line, photo, number and caption, and a sentence per bad line.

    Raises:
        DatasetError: there is no caption, or more than 5 % of the lines are bad.
    """
    is_csv = caption_file.name == CSV_FILE
    lines = list(_lines(caption_file))
    count = len(lines)
    if is_csv and (not lines or lines.pop(0)[1].replace(" ", "").lower() != "image,caption"):
        raise DatasetError(f"{caption_file}, line 1: expected the header image,caption.")
    rows, bad = _parse(caption_file, lines, _parse_csv_line if is_csv else _parse_token_line)
    good, line_of, seen = [], {}, Counter()
    for line, photo, number, caption in rows:
        number = seen[photo] if is_csv else number
        seen[photo] += 1
        if number >= CAPTIONS_PER_PHOTO:
            problem = "is one too many"
        elif (photo, number) in line_of:
            problem = f"stands in line {line_of[photo, number]} already"
        else:
            line_of[photo, number] = line
            good.append((line, photo, number, caption))
            continue
        bad.append(f"{caption_file.name}, line {line}: {photo}#{number} {problem}; skipped.")
    _require_mostly_good(caption_file, bad, count)
    if not good:
        raise DatasetError(f"{caption_file} holds no captions. Fetch the data set again.")
    return pd.DataFrame(good, columns=["line", "photo", "number", "caption"]), bad


def read_split(split_file: Path) -> tuple[dict[str, int], list[str]]:
    """Reads the names in a split file, one a line.

    Returns:
        The line of each name, in their order, and a sentence per bad line, which is skipped.

    Raises:
        DatasetError: a name stands twice, or more than 5 % of the lines can't be read.
    """
    lines = list(_lines(split_file))
    rows, bad = _parse(split_file, lines, lambda line: (line.strip(),))
    _require_mostly_good(split_file, bad, len(lines))
    line_of = {}
    for line, name in rows:
        if name in line_of:
            raise DatasetError(
                f"{split_file}, line {line}: {name} stands in line {line_of[name]} already. A "
                "photograph that counts twice shifts every score; fetch the split files again, or "
                "delete the second line."
            )
        line_of[name] = line
    return line_of, bad


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that aren't blank; bytes that aren't UTF-8 become lone surrogates."""
    text = file.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if line.strip():
            yield number, line.removesuffix("\n")


def _parse(
    file: Path, lines: list[tuple[int, str]], parse_line: Callable[[str], tuple]
) -> tuple[list[tuple], list[str]]:
    rows, bad = [], []
    for number, line in lines:
        try:
            line.encode()
            rows.append((number, *parse_line(line)))
        except UnicodeEncodeError:
            bad.append(f"{file.name}, line {number}: not UTF-8 text; skipped.")
        except _BadLine as problem:
            bad.append(f"{file.name}, line {number}: {problem}; skipped.")
    return rows, bad


def _parse_token_line(line: str) -> tuple[str, int, str]:
    key, tab, caption = line.partition("\t")
    if not tab:
        raise _BadLine("no tab between name and caption")
    photo, _, number = key.strip().rpartition("#")
    if not photo or number not in ("0", "1", "2", "3", "4"):
        raise _BadLine(f"expected name.jpg#0 to name.jpg#4 before the tab, found {key[:60]!r}")
    _check_caption(key, caption)
    return photo, int(number), caption.strip()


def _parse_csv_line(line: str) -> tuple[str, int, str]:
    try:
        # Line by line and strictly, so that a quote never closed can't swallow what follows.
        fields = next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise _BadLine(f"not a line of CSV ({error})") from None
    if len(fields) != 2:
        raise _BadLine(
            f"expected name,caption, found {len(fields)} fields (a comma outside quotes?)"
        )
    photo, caption = (field.strip() for field in fields)
    if not photo:
        raise _BadLine("no name before the comma")
    _check_caption(photo, caption)
    return photo, 0, caption


def _check_caption(name: str, caption: str) -> None:
    if not caption.strip():
        raise _BadLine(f"{name} has an empty caption")
    if not _LETTER_OR_DIGIT.search(caption):  # it would teach that a caption ends at once
        raise _BadLine(f"the caption of {name} has no word, only {caption.strip()[:20]!r}")
    if (words := len(caption.split())) > MOST_WORDS:
        raise _BadLine(f"the caption of {name} has {words:,} words; expected {MOST_WORDS} or fewer")


def _require_mostly_good(file: Path, bad: list[str], lines: int) -> None:
    if len(bad) > MOST_BAD_LINES * lines:
        raise DatasetError(
            f"{file}: {len(bad):,} of {lines:,} lines are bad, more than {MOST_BAD_LINES:.0%}. The "
            f"first: {bad[0]} Is it the right file? Fetch it again."
        )


# The data set


ARCHIVES_ADDRESS = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/"
FEWEST_PHOTOS = 2  # in a split: a loss or score of one photograph means nothing
FEWEST_WHEN_LIMITED = 3
MOST_MISSING = 0.05  # of the photographs that have captions; more means an incomplete copy
# Less the one name that has no photograph. The splits are the official ones.
FLICKR8K_COUNTS = {
    "photographs": 8091,
    "captions": 40455,
    "train photographs": 6000,
    "dev photographs": 1000,
    "test photographs": 1000,
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Photographs, captions and splits that fit together.

    Attributes:
        name: "sample" or "flickr8k".
        photo_folder: where the photographs lie; they were seen there, but not opened.
        captions: one row per caption of the photographs in `splits`, by name and number; columns
            `photo` (file name), `number` (0-4) and `caption` (raw text).
        splits: file names of "train", "dev" and "test", in the order of the split files.
        split_source: a sentence that says where the splits are from.
        oddities: sentences about what was skipped or looks wrong, by name, file and line.
    """

    name: str
    photo_folder: Path
    captions: pd.DataFrame
    splits: dict[str, list[str]]
    split_source: str
    oddities: list[str]

    def photo_path(self, photo: str) -> Path:
        return self.photo_folder / photo

    @cached_property
    def split_of(self) -> dict[str, str]:
        """The split of every photograph, in the order train, dev, test."""
        return {photo: split for split, photos in self.splits.items() for photo in photos}

    @cached_property
    def _captions_of(self) -> dict[str, list[str]]:
        captions_of = {}
        for photo, caption in zip(self.captions["photo"], self.captions["caption"], strict=True):
            captions_of.setdefault(photo, []).append(caption)
        return captions_of

    def references(self, photos: Iterable[str]) -> list[list[str]]:
        """Raw captions of each of `photos`, in that order; raises `KeyError` for an unknown one."""
        return [self._captions_of[photo] for photo in photos]

    def without(self, photos: Iterable[str]) -> "Dataset":
        """The data set less some photographs, for example those that turned out unreadable.

        Raises:
            DatasetError: too little would be left of a split.
        """
        dropped = set(photos)
        kept = {
            split: [photo for photo in names if photo not in dropped]
            for split, names in self.splits.items()
        }
        return self._with_splits(kept)

    def limited(self, limit: int) -> "Dataset":
        """The first photographs of every split, `limit` altogether, in the splits' proportions."""
        kept = {split: min(FEWEST_WHEN_LIMITED, len(names)) for split, names in self.splits.items()}
        while sum(kept.values()) < min(limit, len(self.split_of)):
            emptiest = min(SPLITS, key=lambda split: kept[split] / len(self.splits[split]))
            kept[emptiest] += 1
        return self._with_splits(
            {split: names[: kept[split]] for split, names in self.splits.items()}
        )

    def _with_splits(self, splits: dict[str, list[str]]) -> "Dataset":
        _require_enough(splits, self.photo_folder)
        photos = {photo for names in splits.values() for photo in names}
        captions = self.captions[self.captions["photo"].isin(photos)].reset_index(drop=True)
        return replace(self, captions=captions, splits=splits)


def load_dataset(settings: Settings) -> Dataset:
    """Finds the data set that `settings` name, or makes it, and reads it.

    The sample is drawn if it isn't there. Flickr8k is taken from the folder that DATA names, else
    from `data/flickr8k`, where it is downloaded to if need be. `settings.limit` is applied.

    Raises:
        DatasetError: not to be had, or its files contradict each other; says what to do.
        FolderInUseError: another process is downloading it.
    """
    folder = settings.dataset_folder
    if settings.dataset == "sample":
        _draw_what_is_missing(settings)
    elif settings.data is None:
        _download_what_is_missing(folder)
    photo_folder = find_photo_folder(folder)
    caption_file = find_file(folder, TOKEN_FILE) or find_file(folder, CSV_FILE)
    if photo_folder is None or caption_file is None:
        raise DatasetError(
            f"{folder} doesn't hold a whole data set: photographs "
            f"{photo_folder or 'missing'}, captions {caption_file or 'missing'}.\n"
            f"{how_to_place(folder)}"
        )
    dataset = _read(settings, photo_folder, caption_file)
    return dataset if settings.limit is None else dataset.limited(settings.limit)


# Finding and fetching


def how_to_place(folder: Path) -> str:
    """Says how to put Flickr8k into `folder` by hand, since links to it die often."""
    return (
        f"To place Flickr8k by hand, get Flickr8k_Dataset.zip and Flickr8k_text.zip\n"
        f"({ARCHIVES_ADDRESS}) or the Kaggle form of it, and unpack it so that\n"
        f"{folder} holds either\n"
        f"    Flicker8k_Dataset/ (the photographs), {TOKEN_FILE},\n"
        f"    {', '.join(SPLIT_FILES.values())}\n"
        f"or\n"
        f"    Images/ (the photographs), {CSV_FILE} and, for the official split, the three\n"
        f"    Flickr_8k.*Images.txt files.\n"
        f"The two archives may also be put there as they are; they are then unpacked.\n"
        "If you have it elsewhere: make run DATASET=flickr8k DATA=/that/folder. "
        "More in data/README.md."
    )


def _draw_what_is_missing(settings: Settings) -> None:
    from sample import draw_sample, sample_is_current  # reads the names of files from here

    folder = settings.dataset_folder
    if sample_is_current(folder):
        return
    if settings.data is not None and folder.exists() and any(folder.iterdir()):
        # Somebody's own folder: drawing over what is in it could cost them their data.
        raise DatasetError(
            f"DATA is {folder}, which has something in it that is not this version's drawn sample. "
            "If it is Flickr8k, set DATASET=flickr8k too; else name a new folder or leave DATA out."
        )
    draw_sample(folder)


def _download_what_is_missing(folder: Path) -> None:
    if not _missing_archives(folder):
        return
    try:
        with only_one_in(folder, "downloading Flickr8k"):
            for name in _missing_archives(folder):  # another run may have just brought them
                _fetch(name, folder)
    except DownloadError as error:
        raise DatasetError(
            f"Flickr8k is not in {folder} and can't be had: {error}\n{how_to_place(folder)}"
        ) from error


def _missing_archives(folder: Path) -> list[str]:
    missing = []
    if find_file(folder, TOKEN_FILE) is None and find_file(folder, CSV_FILE) is None:
        missing.append("Flickr8k_text")
    if find_photo_folder(folder) is None:
        missing.append("Flickr8k_Dataset")
    return missing


def _fetch(name: str, folder: Path) -> None:
    archive = download(f"{ARCHIVES_ADDRESS}{name}.zip", folder / f"{name}.zip")
    unpack(archive, folder / name)
    archive.unlink()


# Putting together


def _usable_captions(caption_file: Path, photo_folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """Captions whose photograph is there, with a sentence about all that doesn't fit together."""
    captions, oddities = read_captions(caption_file)
    there = photos_in(photo_folder)
    first_lines = captions.groupby("photo")["line"].min().to_dict()
    if lost := {photo: line for photo, line in first_lines.items() if photo not in there}:
        named = _some([f"{photo} (line {line})" for photo, line in lost.items()])
        if len(lost) > MOST_MISSING * len(first_lines):
            raise DatasetError(
                f"{caption_file} names {len(first_lines):,} photographs, and {len(lost):,} of them "
                f"are not in {photo_folder}, more than {MOST_MISSING:.0%}: {named}. The copy is "
                "incomplete: unpack or copy the photographs again. To use fewer, set LIMIT."
            )
        oddities.append(
            f"{caption_file.name} names {len(lost):,} without a photograph in {photo_folder.name}: "
            f"{named}; the captions are skipped."
        )
        captions = captions[captions["photo"].isin(there)]
    if mute := sorted(there - first_lines.keys()):
        oddities.append(
            f"{photo_folder.name} holds {len(mute):,} without a caption: {_some(mute)}; skipped."
        )
    counts = captions["photo"].value_counts()
    if short := sorted(counts.index[counts < CAPTIONS_PER_PHOTO]):
        oddities.append(
            f"{len(short):,} photographs have fewer than {CAPTIONS_PER_PHOTO} captions: "
            f"{_some(short)}."
        )
    captions = captions.sort_values(["photo", "number"])[["photo", "number", "caption"]]
    return captions, oddities


def _read(settings: Settings, photo_folder: Path, caption_file: Path) -> Dataset:
    captions, oddities = _usable_captions(caption_file, photo_folder)
    photos = set(captions["photo"])
    found = {"photographs": len(photos), "captions": len(captions)}
    split_files = {
        split: find_file(settings.dataset_folder, SPLIT_FILES[split]) for split in SPLITS
    }
    if any(split_files.values()):
        splits, split_source = _splits_from_files(split_files, photos, oddities)
        found |= {f"{split} photographs": len(names) for split, names in splits.items()}
    else:
        splits = _seeded_splits(photos, settings.seed)
        split_source = (
            f"A split in 6 : 1 : 1, drawn with seed {settings.seed}, since there are no split "
            "files: scores on it don't compare with published ones."
        )
    if settings.dataset == "flickr8k":
        oddities += [
            f"Flickr8k has {FLICKR8K_COUNTS[what]:,} usable {what}, this copy has {count:,}."
            for what, count in found.items()
            if count != FLICKR8K_COUNTS[what]
        ]
    if left := len(photos) - sum(map(len, splits.values())):
        oddities.append(f"{left:,} photographs are in no split and are not used.")
    dataset = Dataset(settings.dataset, photo_folder, captions, splits, split_source, oddities)
    return dataset._with_splits(splits)


def _splits_from_files(
    split_files: dict[str, Path | None], usable: set[str], oddities: list[str]
) -> tuple[dict[str, list[str]], str]:
    """Reads the three split files; adds to `oddities` what they say of photographs not `usable`."""
    if absent := [SPLIT_FILES[split] for split, file in split_files.items() if file is None]:
        raise DatasetError(
            f"{' and '.join(absent)} missing, while other split files are there. Put all three "
            "beside the captions, or none for a split at random."
        )
    splits, place_of = {}, {}
    for split, file in split_files.items():
        lines, bad = read_split(file)
        oddities += bad
        if shared := [name for name in lines if name in place_of]:
            named = [f"line {lines[name]}: {name} ({place_of[name]})" for name in shared]
            raise DatasetError(
                f"{file} names {len(shared):,} that are in another split too, {_some(named)}. A "
                "photograph in two splits would be tested on what it taught; fetch the split files "
                "again."
            )
        place_of |= {name: f"{file.name}, line {line}" for name, line in lines.items()}
        splits[split] = [name for name in lines if name in usable]
        if unusable := [f"{name} (line {lines[name]})" for name in lines if name not in usable]:
            oddities.append(
                f"{file.name} names {len(unusable):,} without photograph or caption: "
                f"{_some(unusable)}; skipped."
            )
    names = [file.name for file in split_files.values()]
    return splits, f"The split that comes with the data set, from {', '.join(names)}."


def _seeded_splits(photos: Iterable[str], seed: int) -> dict[str, list[str]]:
    shuffled = sorted(photos)
    random.Random(seed).shuffle(shuffled)
    eighth = round(len(shuffled) / 8)  # 6 : 1 : 1, as the official split
    return {
        "train": shuffled[2 * eighth :],
        "dev": shuffled[:eighth],
        "test": shuffled[eighth : 2 * eighth],
    }


def _require_enough(splits: dict[str, list[str]], photo_folder: Path) -> None:
    for split, photos in splits.items():
        if len(photos) < FEWEST_PHOTOS:
            raise DatasetError(
                f"Split {split} has {len(photos)} photographs that are in {photo_folder} and have "
                f"captions; expected {FEWEST_PHOTOS} or more. Is the data set complete?"
            )


def _some(names: list[str], most: int = 5) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")
