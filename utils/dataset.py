"""The data set: photographs, five captions for each, and a split into train, dev and test.

Reads both public forms of Flickr8k, and folders of your own, and draws the sample. What is odd in
the files is skipped and reported; what would falsify results is refused.
"""

import csv
import io
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path

import pandas as pd

from utils.machinery.archives import download, unpack
from utils.machinery.errors import CaptionProjectError, DatasetError, DownloadError
from utils.machinery.files import content_hash, invalid, quick_hash, read_json
from utils.machinery.lock import only_one_in
from utils.settings import Settings, short_path

TOKEN_FILE = "Flickr8k.token.txt"  # original form: name.jpg#0<TAB>caption
CSV_FILE = "captions.txt"  # Kaggle form: name.jpg,caption under the header image,caption
# "Flicker8k" is how the archive itself spells it.
PHOTO_FOLDERS = ("flicker8k_dataset", "flickr8k_dataset", "images")  # in any case
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png")  # in any case
TEXT_FOLDER = "Flickr8k_text"
SPLITS = ("train", "dev", "test")
SPLIT_FILES = {split: f"Flickr_8k.{split}Images.txt" for split in SPLITS}
ARCHIVES_ADDRESS = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/"
CAPTIONS_PER_PHOTO = 5
MOST_BAD_LINES = 0.05  # of a file; above that it is another file than it seems
MOST_WORDS = 200  # of a caption; Flickr8k's longest has 38, and a batch is padded to its longest
MOST_LETTERS = 100  # of a word
MOST_MISSING = 0.05  # of the photographs that have captions; more means an incomplete copy
MOST_BYTES = 1 << 30  # of a caption file; COCO's has 144 MB
FEWEST_PHOTOS = 2  # in a split: a loss or score of one photograph means nothing
FEWEST_WHEN_LIMITED = 3
# Photographs and captions, less the one name that has no photograph; the official splits.
FLICKR8K_COUNTS = {"photographs": 8091, "captions": 40455, "train photographs": 6000}
FLICKR8K_COUNTS |= {"dev photographs": 1000, "test photographs": 1000}
_COLUMNS = ["line", "photo", "number", "caption"]
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")
# How Karpathy's files name the splits; "restval" is more training data of COCO.
_KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "dev", "test": "test"}


# Reading caption and split files


class _BadLine(ValueError):
    """Tells what is wrong with one line of a file."""


def read_captions(caption_file: Path) -> tuple[pd.DataFrame, list[str]]:
    """Reads `Flickr8k.token.txt`, or a CSV file with the columns image and caption.

    Bad lines are skipped: no tab or number, no word, more than 200 words, a word of more than 100
    letters, a second caption of the same number, bytes that are not UTF-8. In the CSV form a
    photograph's captions are numbered as they come.

    Returns the columns line, photo, number and caption, and a sentence per bad line; raises
    `DatasetError` if there is no caption, or more than 5 % of the lines are bad.
    """
    is_csv = caption_file.name != TOKEN_FILE
    rows, bad, count = _read_lines(caption_file, _parse_csv_line if is_csv else _parse_token_line)
    line_of, seen, good, extra = {}, Counter(), [], 0
    for line, photo, number, caption in rows:
        number = seen[photo] if is_csv else number
        seen[photo] += 1
        if number >= CAPTIONS_PER_PHOTO:
            extra += 1
        elif first := line_of.setdefault((photo, number), 0):
            problem = f"{photo}#{number} already appears on line {first}"
            bad.append(f"{caption_file.name}, line {line}: {problem}; skipped.")
        else:
            line_of[photo, number] = line
            good.append((line, photo, number, caption))
    _require_mostly_good(caption_file, bad, count)
    if extra:
        most = f"more than {CAPTIONS_PER_PHOTO} captions of a photograph"
        bad.append(f"{caption_file.name} holds {most}: {extra:,} skipped.")
    if not good:
        raise DatasetError(f"{caption_file} holds no captions. Fetch the data set again.")
    return pd.DataFrame(good, columns=_COLUMNS), bad


def read_split(split_file: Path) -> tuple[dict[str, int], list[str]]:
    """Reads the names in a split file: the line of each, and a sentence per line that is skipped.

    Raises `DatasetError` if a name appears twice, or more than 5 % of the lines can't be read.
    """
    rows, bad, count = _read_lines(split_file, lambda line: (line.strip(),))
    _require_mostly_good(split_file, bad, count)
    line_of = {}
    for line, name in rows:
        if name in line_of:
            finding = f"{name} already appears on line {line_of[name]}, and would count twice"
            raise DatasetError(f"{split_file}, line {line}: {finding}. Fetch it again.")
        line_of[name] = line
    return line_of, bad


def _read_lines(file: Path, parse: Callable[..., tuple]) -> tuple[list[tuple], list[str], int]:
    """Each line that isn't blank, parsed, after its number; a sentence per bad one; their count."""
    if (size := file.stat().st_size) > MOST_BYTES:
        raise DatasetError(f"{file} has {size:,} bytes; expected {MOST_BYTES:,} or fewer.")
    text = file.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    lines = [(n, line) for n, line in enumerate(io.StringIO(text, newline=None), 1) if line.strip()]
    if parse is _parse_csv_line:
        header = lines[0][1].replace(" ", "").strip().lower().split(",") if lines else []
        if not {"image", "caption"} <= set(header):
            raise DatasetError(f"{file}, line 1: expected the header image,caption.")
        lines, parse = lines[1:], partial(_parse_csv_line, header)
    rows, bad = [], []
    for number, line in lines:
        try:
            line.encode()  # bytes that aren't UTF-8 became lone surrogates, which can't be encoded
            rows.append((number, *parse(line.removesuffix("\n"))))
        except (UnicodeEncodeError, _BadLine) as error:
            problem = error if isinstance(error, _BadLine) else "not UTF-8 text"
            bad.append(f"{file.name}, line {number}: {problem}; skipped.")
    return rows, bad, len(lines)


def _parse_token_line(line: str) -> tuple[str, int, str]:
    key, tab, caption = line.partition("\t")
    if not tab:
        raise _BadLine("no tab between name and caption")
    photo, _, number = key.strip().rpartition("#")
    if not photo or number not in ("0", "1", "2", "3", "4"):
        raise _BadLine(f"expected name.jpg#0 to name.jpg#4 before the tab, found {key[:60]!r}")
    return photo, int(number), _checked_caption(key, caption)


def _parse_csv_line(header: list[str], line: str) -> tuple[str, int, str]:
    try:
        # Line by line and strictly, so that a quote never closed can't swallow what follows.
        fields = next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise _BadLine(f"not a line of CSV ({error})") from None
    if len(fields) != len(header):
        raise _BadLine(f"found {len(fields)} fields (a comma outside quotes?)")
    photo = fields[header.index("image")].strip()
    if not photo:
        raise _BadLine("no name of a photograph")
    return photo, 0, _checked_caption(photo, fields[header.index("caption")])


def _checked_caption(name: str, caption: str) -> str:
    caption, name = caption.strip(), name[:60]
    words = caption.split()
    if not words:
        raise _BadLine(f"{name} has an empty caption")
    if not _LETTER_OR_DIGIT.search(caption):  # it would teach that a caption ends at once
        raise _BadLine(f"the caption of {name} has no word, only {caption[:20]!r}")
    if len(words) > MOST_WORDS:
        raise _BadLine(f"the caption of {name} has {len(words):,} words, more than {MOST_WORDS}")
    if (longest := max(map(len, words))) > MOST_LETTERS:
        raise _BadLine(f"the caption of {name} has a word of {longest:,} letters")
    return caption


def _require_mostly_good(file: Path, bad: list[str], lines: int) -> None:
    if len(bad) > MOST_BAD_LINES * lines:
        finding = f"{len(bad):,} of {lines:,} lines are bad, the first: {bad[0]}"
        raise DatasetError(f"{file}: {finding} Is it the right file? Fetch it again.")


# The data set


@dataclass(frozen=True, eq=False)
class Dataset:
    """Photographs, captions and splits that fit together.

    Attributes:
        name: "sample", "flickr8k" or "folder".
        photo_folder: where the photographs lie; they were seen there, but not opened.
        captions: one row per caption of the photographs in `splits`, by name and number; columns
            `photo` (file name), `number` (0-4) and `caption` (raw text).
        splits: file names of "train", "dev" and "test", in the order of the split files.
        split_source: a sentence that tells where the splits are from.
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
        return self.captions.groupby("photo")["caption"].agg(list).to_dict()

    @cached_property
    def made_from(self) -> dict[str, str]:
        """Hashes of all that results depend on, on any machine, for `require_same_data`."""
        photos = [[photo, quick_hash(self.photo_path(photo))] for photo in self.split_of]
        return {
            "captions": content_hash(self.captions.to_dict("list")),
            "splits": content_hash(self.splits),
            "photographs": content_hash(photos),
        }

    def references(self, photos: Iterable[str]) -> list[list[str]]:
        """Raw captions of each of `photos`, in that order; raises `KeyError` for an unknown one."""
        return [self._captions_of[photo] for photo in photos]

    def limited(self, limit: int) -> "Dataset":
        """The first photographs of every split, `limit` altogether, in the splits' proportions."""
        kept = {split: min(FEWEST_WHEN_LIMITED, len(names)) for split, names in self.splits.items()}
        while sum(kept.values()) < min(limit, len(self.split_of)):
            emptiest = min(SPLITS, key=lambda split: kept[split] / len(self.splits[split]))
            kept[emptiest] += 1
        return self._with_splits({name: own[: kept[name]] for name, own in self.splits.items()})

    def _with_splits(self, splits: dict[str, list[str]]) -> "Dataset":
        for split, photos in splits.items():
            if len(photos) < FEWEST_PHOTOS:
                finding = f"{len(photos)} photographs with captions in {self.photo_folder}"
                expected = f"expected {FEWEST_PHOTOS} or more. Is the copy whole?"
                raise DatasetError(f"Split {split} has {finding}; {expected}")
        used = self.captions["photo"].isin([*chain(*splits.values())])
        return replace(self, captions=self.captions[used].reset_index(drop=True), splits=splits)


def load_dataset(settings: Settings) -> Dataset:
    """Finds the data set that `settings` name, or makes it, reads it, and applies LIMIT.

    The sample is drawn if it isn't there. Flickr8k is taken from the folder that DATA names, else
    from `data/flickr8k`, where it is downloaded to if need be. DATASET=folder reads any folder of
    photographs with a CSV file (columns image and caption), or Karpathy's JSON file, in it.

    Raises:
        DatasetError: it could not be found or fetched, or its files contradict each other.
        FolderInUseError: another process is downloading it.
    """
    folder = settings.dataset_folder
    try:
        if settings.dataset == "sample":
            _draw_what_is_missing(settings)
        elif settings.dataset == "flickr8k" and settings.data is None:
            _download_what_is_missing(folder)
        dataset = _read(settings, folder)
    except CaptionProjectError:
        raise
    except OSError as error:
        raise DatasetError(f"{folder} can't be read ({error}). Check its permissions.") from error
    return dataset if settings.limit is None else dataset.limited(settings.limit)


def require_same_data(dataset: Dataset, summary_file: Path) -> None:
    """Refuses data other than what the results in a folder were made from: `StaleArtefactError`.

    `summary_file`: `dataset.json`, with `dataset.made_from` under "made_from"; may be missing.
    """
    if not summary_file.exists():
        return
    folder = short_path(summary_file.parent)
    remedy = f"Move {folder} away, set another RUNS, or go back to the data (DATA, LIMIT, SEED)."
    known = read_json(summary_file, remedy, {"made_from": dict})["made_from"]
    if other := [what for what, found in dataset.made_from.items() if known.get(what) != found]:
        raise invalid(summary_file, f"it was made from other {' and '.join(other)}", remedy)


# Finding and fetching


def how_to_place(folder: Path) -> str:
    """Tells how to put Flickr8k into `folder` by hand, since links to it die often."""
    return (
        "To place Flickr8k by hand, get Flickr8k_Dataset.zip and Flickr8k_text.zip\n"
        f"({ARCHIVES_ADDRESS}) and put or unpack them in\n"
        f"{folder}, or get its Kaggle form: Images/, {CSV_FILE} and, for the official split,\n"
        f"{', '.join(SPLIT_FILES.values())}.\n"
        "If you have it elsewhere: make run DATASET=flickr8k DATA=/that/folder."
    )


def _entries(folder: Path, kind: Callable[[os.DirEntry], bool]) -> list[str]:
    """Sorted names in a folder of files or of folders, less hidden ones and links to themselves."""
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                names += [entry.name] if entry.name[0] != "." and kind(entry) else []
    return sorted(names)


def _with_subfolders(folder: Path, depth: int = 1) -> Iterator[Path]:
    """The folder and its subfolders, as archives are often unpacked into one of their own."""
    if folder.is_dir():
        yield folder
        for name in _entries(folder, os.DirEntry.is_dir) if depth else ():
            yield from _with_subfolders(folder / name, depth - 1)


def photos_in(folder: Path) -> set[str]:
    """Names of the photographs in a folder, by their endings; nothing is opened."""
    names = _entries(folder, os.DirEntry.is_file)
    return {name for name in names if name.lower().endswith(PHOTO_SUFFIXES)}


def find_photo_folder(folder: Path) -> Path | None:
    """Flickr8k's folder of photographs, in `folder` or one level down; None if there is none."""
    for place in _with_subfolders(folder, 2):
        if place != folder and place.name.lower() in PHOTO_FOLDERS and photos_in(place):
            return place
    return None


def find_file(folder: Path, name: str) -> Path | None:
    """A text file in `folder`, one level down, or in a text folder there; None if there is none."""
    places = _with_subfolders(folder)
    files = (file for place in places for file in (place / name, place / TEXT_FOLDER / name))
    return next((file for file in files if file.is_file()), None)


def _draw_what_is_missing(settings: Settings) -> None:
    from sample import draw_sample, sample_is_current  # reads the names of files from here

    folder = settings.dataset_folder
    if sample_is_current(folder):
        return
    if settings.data is not None and folder.exists() and any(folder.iterdir()):
        # Somebody's own folder: drawing over what is in it could cost them their data.
        raise DatasetError(
            f"DATA is {folder}, which holds something other than the drawn sample. If it is "
            "Flickr8k, set DATASET=flickr8k too; if it is your own, DATASET=folder."
        )
    draw_sample(folder)


def _download_what_is_missing(folder: Path) -> None:
    if not _missing_archives(folder):
        return
    try:
        with only_one_in(folder, "downloading Flickr8k"):
            for name in _missing_archives(folder):  # another run may have just brought them
                archive = download(f"{ARCHIVES_ADDRESS}{name}.zip", folder / f"{name}.zip")
                unpack(archive, folder / name)
                archive.unlink()
    except DownloadError as error:
        finding = f"Flickr8k is not in {folder} and could not be downloaded: {error}"
        raise DatasetError(f"{finding}\n{how_to_place(folder)}") from error


def _missing_archives(folder: Path) -> list[str]:
    there = {
        "Flickr8k_text": find_file(folder, TOKEN_FILE) or find_file(folder, CSV_FILE),
        "Flickr8k_Dataset": find_photo_folder(folder),
    }
    return [name for name, found in there.items() if found is None]


# Putting together


def _read(settings: Settings, folder: Path) -> Dataset:
    oddities, splits = [], None
    if settings.dataset == "folder":
        captions, photo_folder, splits = _read_own(folder, oddities)
        caption_file = folder
    else:
        photo_folder = find_photo_folder(folder)
        caption_file = find_file(folder, TOKEN_FILE) or find_file(folder, CSV_FILE)
        if photo_folder is None or caption_file is None:
            raise DatasetError(
                f"{folder} doesn't hold a whole data set: photographs {photo_folder or 'missing'}, "
                f"captions {caption_file or 'missing'}.\n{how_to_place(folder)}"
            )
        captions, bad = read_captions(caption_file)
        oddities += bad
    captions = _usable_captions(captions, caption_file, photo_folder, oddities)
    photos = set(captions["photo"])
    split_files = {split: find_file(folder, SPLIT_FILES[split]) for split in SPLITS}
    found = {"photographs": len(photos), "captions": len(captions)}
    if splits is not None:
        splits = {split: [name for name in splits[split] if name in photos] for split in SPLITS}
        split_source = "Karpathy's split, which comes with the captions."
    elif any(split_files.values()):
        splits, split_source = _splits_from_files(split_files, photos, oddities)
        found |= {f"{split} photographs": len(names) for split, names in splits.items()}
    else:
        names, eighth = sorted(photos), round(len(photos) / 8)  # 6 : 1 : 1, as the official split
        random.Random(settings.seed).shuffle(names)
        dev, test, train = names[:eighth], names[eighth : 2 * eighth], names[2 * eighth :]
        splits = {"train": train, "dev": dev, "test": test}
        split_source = f"A split in 6 : 1 : 1, drawn with seed {settings.seed}, since there are no "
        split_source += "split files: scores on it don't compare with published ones."
    if settings.dataset == "flickr8k":
        for what, count in found.items():
            if count != (usual := FLICKR8K_COUNTS[what]):
                oddities.append(f"Flickr8k has {usual:,} usable {what}, this copy has {count:,}.")
    if left := len(photos) - sum(map(len, splits.values())):
        oddities.append(f"{left:,} photographs are in no split and are not used.")
    dataset = Dataset(settings.dataset, photo_folder, captions, splits, split_source, oddities)
    return dataset._with_splits(splits)


def _read_own(folder: Path, oddities: list[str]) -> tuple[pd.DataFrame, Path, dict | None]:
    """Captions, folder of the photographs, and splits if the file has them, of one's own data."""
    places = list(_with_subfolders(folder))
    names = _entries(folder, os.DirEntry.is_file) if places else []
    names = [name for name in names if name.lower().endswith((".csv", ".json"))]
    if len(names) != 1:
        expected = "one, with the columns image and caption or in Karpathy's form"
        finding = f"{len(names)} CSV or JSON files ({_some(names)})"
        raise DatasetError(f"{folder} holds {finding}; expected {expected}.")
    if names[0].lower().endswith(".csv"):
        (captions, bad), splits = read_captions(folder / names[0]), None
        oddities += bad
    else:
        captions, splits = _read_karpathy(folder / names[0])
    if captions["photo"].str.contains("/").any():  # names with their folders, as COCO's
        return captions, folder, splits
    return captions, max(places, key=lambda place: len(photos_in(place))), splits


def _read_karpathy(file: Path) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Captions and splits of a file as Karpathy's `dataset_flickr30k.json`."""
    rows, splits = [], {split: [] for split in SPLITS}
    try:
        for image in read_json(file, "Fetch it again.", {"images": list})["images"]:
            photo = "/".join([*filter(None, [image.get("filepath")]), image["filename"]])
            splits[_KARPATHY_SPLITS[image["split"]]].append(photo)
            for number, sentence in enumerate(image["sentences"][:CAPTIONS_PER_PHOTO]):
                rows.append((0, photo, number, _checked_caption(photo, sentence["raw"])))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        finding = f"is not Karpathy's form of a data set ({type(error).__name__}: {error})"
        raise DatasetError(f"{file} {finding}.") from error
    return pd.DataFrame(rows, columns=_COLUMNS), splits


def _usable_captions(
    captions: pd.DataFrame, file: Path, photo_folder: Path, oddities: list[str]
) -> pd.DataFrame:
    """Captions whose photograph is there; adds to `oddities` what doesn't fit together."""
    there = photos_in(photo_folder)
    first_lines = captions.groupby("photo")["line"].min().to_dict()
    for name in (name for name in first_lines if "/" in name):  # in a folder of its own
        path = (photo_folder / name).resolve()
        if path.is_relative_to(photo_folder.resolve()) and path.is_file():
            there.add(name)
    if lost := {photo: line for photo, line in first_lines.items() if photo not in there}:
        named = _some([f"{photo} (line {line})" for photo, line in lost.items()])
        if len(lost) > MOST_MISSING * len(first_lines):
            cause = "The copy is incomplete: copy the photographs again, or set LIMIT to use fewer"
            if {name.lower() for name in there} & {name.lower() for name in lost}:
                cause = "Some are there in other letters, such as .JPG for .jpg: rename them"
            finding = f"{file} names {len(first_lines):,} photographs, and {len(lost):,} of them"
            raise DatasetError(f"{finding} are not in {photo_folder}: {named}. {cause}.")
        oddities.append(f"{file.name} names {len(lost):,} without a photograph: {named}; skipped.")
        captions = captions[captions["photo"].isin(there)]
    if uncaptioned := sorted(there - first_lines.keys()):
        named = f"{len(uncaptioned):,} without a caption: {_some(uncaptioned)}"
        oddities.append(f"{photo_folder.name} holds {named}; skipped.")
    counts = captions["photo"].value_counts()
    if short := sorted(counts.index[counts < CAPTIONS_PER_PHOTO]):
        fewer = f"fewer than {CAPTIONS_PER_PHOTO} captions"
        oddities.append(f"{len(short):,} photographs have {fewer}: {_some(short)}.")
    return captions.sort_values(["photo", "number"])[["photo", "number", "caption"]]


def _splits_from_files(
    split_files: dict[str, Path | None], usable: set[str], oddities: list[str]
) -> tuple[dict[str, list[str]], str]:
    """Reads the three split files; adds to `oddities` what they name that is not `usable`."""
    if absent := [SPLIT_FILES[split] for split, file in split_files.items() if file is None]:
        remedy = "Put all three beside the captions, or none for a split at random."
        raise DatasetError(f"{' and '.join(absent)} missing, others are there. {remedy}")
    splits, place_of = {}, {}
    for split, file in split_files.items():
        lines, bad = read_split(file)
        oddities += bad
        if shared := [name for name in lines if name in place_of]:
            named = [f"line {lines[name]}: {name} ({place_of[name]})" for name in shared]
            finding = f"names {len(shared):,} that are in another split too, {_some(named)}"
            raise DatasetError(f"{file} {finding}. Fetch the split files again.")
        place_of |= {name: f"{file.name}, line {line}" for name, line in lines.items()}
        splits[split] = [name for name in lines if name in usable]
        if unusable := [f"{name} (line {lines[name]})" for name in lines if name not in usable]:
            named = f"{len(unusable):,} without photograph or caption: {_some(unusable)}"
            oddities.append(f"{file.name} names {named}; skipped.")
    names = [file.name for file in split_files.values()]
    return splits, f"The split that comes with the data set, from {', '.join(names)}."


def _some(names: list[str], most: int = 5) -> str:
    more = len(names) - most
    told = ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")
    return told.encode("utf-8", "backslashreplace").decode()  # names of files may be no text
