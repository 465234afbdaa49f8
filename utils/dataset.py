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
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path

import pandas as pd

from utils.machinery.archives import download, unpack
from utils.machinery.errors import CaptionProjectError, DatasetError, DownloadError
from utils.machinery.files import content_hash, hash_if_there, invalid, read_json
from utils.machinery.lock import only_one_in
from utils.settings import Settings, short_path

TOKEN_FILE = "Flickr8k.token.txt"  # original form: name.jpg#0<TAB>caption
CSV_FILE = "captions.txt"  # Kaggle form: name.jpg,caption under the header image,caption
# "Flicker8k" is how the archive itself spells it.
PHOTO_FOLDERS = ("flicker8k_dataset", "flickr8k_dataset", "images")  # in any case
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png")  # in any case
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
FLICKR8K_COUNTS = {  # less the one name that has no photograph; the official splits
    "photographs": 8091, "captions": 40455,
    "train photographs": 6000, "dev photographs": 1000, "test photographs": 1000,
}  # fmt: skip


# Reading caption and split files

_COLUMNS = ["line", "photo", "number", "caption"]
_BAD = {UnicodeEncodeError: "not UTF-8 text", csv.Error: "not a line of CSV"}
# How Karpathy's files name the splits; "restval" is more training data of COCO.
_KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "dev", "test": "test"}


def read_captions(caption_file: Path) -> tuple[pd.DataFrame, list[str]]:
    """Reads `Flickr8k.token.txt`, or a CSV file with the columns image and caption.

    Bad lines are skipped: no tab or number, no word, more than 200 words, a word of more than 100
    letters, a second caption of the same number, bytes that are not UTF-8. In the CSV form a
    photograph's captions are numbered as they come, and the first five are taken.

    Returns the columns line, photo, number and caption, and a sentence per bad line; raises
    `DatasetError` if there is no caption, or more than 5 % of the lines are bad.
    """
    lines, bad, parse = _lines(caption_file), [], _parse_token_line
    if is_csv := caption_file.name != TOKEN_FILE:
        header = lines.pop(0)[1].replace(" ", "").lower().split(",") if lines else []
        if not {"image", "caption"} <= set(header):
            raise DatasetError(f"{caption_file}, line 1: expected the header image,caption.")
        parse = partial(_parse_csv_line, header)
    line_of, seen, good, extra = {}, Counter(), [], 0
    for line, photo, number, caption in _parsed(caption_file, lines, parse, bad):
        number = seen[photo] if is_csv else number
        seen[photo] += 1
        first = line_of.setdefault((photo, number), line)
        if number >= CAPTIONS_PER_PHOTO:
            extra += 1
        elif first < line:
            problem = f"{photo}#{number} already appears on line {first}"
            bad.append(f"{caption_file.name}, line {line}: {problem}; skipped.")
        else:
            good.append((line, photo, number, caption))
    _require_mostly_good(caption_file, lines, bad)
    if extra:
        finding = f"holds more than {CAPTIONS_PER_PHOTO} captions of a photograph"
        bad.append(f"{caption_file.name} {finding}: {extra:,} skipped.")
    if not good:
        raise DatasetError(f"{caption_file} holds no captions. Fetch the data set again.")
    return pd.DataFrame(good, columns=_COLUMNS), bad


def read_split(split_file: Path) -> tuple[dict[str, int], list[str]]:
    """Reads the names in a split file: the line of each, and a sentence per line that is skipped.

    Raises `DatasetError` if a name appears twice, or more than 5 % of the lines can't be read.
    """
    lines, bad, line_of = _lines(split_file), [], {}
    for line, name in _parsed(split_file, lines, lambda line: [line.strip()], bad):
        if name in line_of:
            finding = f"{name} already appears on line {line_of[name]}, and would count twice"
            raise DatasetError(f"{split_file}, line {line}: {finding}. Fetch it again.")
        line_of[name] = line
    _require_mostly_good(split_file, lines, bad)
    return line_of, bad


def _lines(file: Path) -> list[tuple[int, str]]:
    """The lines that aren't blank, with their numbers; bytes that aren't UTF-8 as surrogates."""
    if (size := file.stat().st_size) > MOST_BYTES:
        raise DatasetError(f"{file} has {size:,} bytes; expected {MOST_BYTES:,} or fewer.")
    text = io.StringIO(file.read_bytes().decode("utf-8-sig", "surrogateescape"), newline=None)
    return [(number, line.strip("\n")) for number, line in enumerate(text, 1) if line.strip()]


def _parsed(file: Path, lines: list, parse: Callable, bad: list[str]) -> Iterator[tuple]:
    """What each line says, after its number; adds to `bad` a sentence per line that is skipped."""
    for number, line in lines:
        try:
            line.encode()  # which surrogates can't be
            yield number, *parse(line)
        except (*_BAD, DatasetError) as error:
            problem = _BAD.get(type(error), error)
            bad.append(f"{file.name}, line {number}: {problem}; skipped.")


def _require_mostly_good(file: Path, lines: list, bad: list[str]) -> None:
    if len(bad) > MOST_BAD_LINES * len(lines):
        finding = f"{len(bad):,} of {len(lines):,} lines are bad, the first: {bad[0]}"
        raise DatasetError(f"{file}: {finding} Is it the right file? Fetch it again.")


def _parse_token_line(line: str) -> tuple[str, int, str]:
    match = re.fullmatch(r" *(\S[^\t]*)#([0-4])\s*\t(.*)", line)
    if match is None:
        found = line.partition("\t")[0][:60]
        raise DatasetError(f"expected name.jpg#0 to name.jpg#4 before a tab, found {found!r}")
    photo, number, caption = match.groups()
    return photo, int(number), _checked_caption(f"{photo}#{number}", caption)


def _parse_csv_line(header: list[str], line: str) -> tuple[str, int, str]:
    # Line by line and strictly, so that a quote never closed can't swallow what follows.
    fields = next(csv.reader([line], strict=True))
    if len(fields) != len(header):
        raise DatasetError(f"found {len(fields)} fields (a comma outside quotes?)")
    photo = fields[header.index("image")].strip()
    if not photo:
        raise DatasetError("no name of a photograph")
    return photo, 0, _checked_caption(photo, fields[header.index("caption")])


def _checked_caption(name: str, caption: str) -> str:
    # A line break, which JSON can hold, would end the line in captions.csv.
    caption = re.sub(r"[\r\n]+", " ", caption).strip()
    words = caption.split()
    longest = max(map(len, words), default=0)
    if not re.search(r"[^\W_]", caption):  # it would teach that a caption ends at once
        problem = f"no word, only {caption[:20]!r}"
    elif len(words) > MOST_WORDS:
        problem = f"{len(words):,} words, more than {MOST_WORDS}"
    elif longest > MOST_LETTERS:
        problem = f"a word of {longest:,} letters"
    else:
        return caption
    raise DatasetError(f"the caption of {name[:60]} has {problem}")


def _read_karpathy(file: Path) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Captions and splits of a file as Karpathy's `dataset_flickr30k.json`."""
    rows, splits = [], {split: [] for split in SPLITS}
    content = read_json(file, "Fetch it again.", {"images": list})
    try:
        for image in content["images"]:
            photo = "/".join([*filter(None, [image.get("filepath")]), image["filename"]])
            splits[_KARPATHY_SPLITS[image["split"]]].append(photo)
            for number, sentence in enumerate(image["sentences"][:CAPTIONS_PER_PHOTO]):
                rows.append((0, photo, number, _checked_caption(photo, sentence["raw"])))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        finding = f"is not Karpathy's form of a data set ({type(error).__name__}: {error})"
        raise DatasetError(f"{file} {finding}.") from error
    return pd.DataFrame(rows, columns=_COLUMNS), splits


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

    def references(self, photos: Iterable[str]) -> list[list[str]]:
        """Raw captions of each of `photos`, in that order; raises `KeyError` for an unknown one."""
        captions_of = self.captions.groupby("photo")["caption"].agg(list)
        return captions_of.loc[list(photos)].tolist()

    @cached_property
    def made_from(self) -> dict[str, str]:
        """Hashes of all that results depend on, on any machine, for `require_same_data`."""
        photos = [[photo, hash_if_there(self.photo_path(photo))] for photo in self.split_of]
        return {
            "captions": content_hash(self.captions.to_dict("list")),
            "splits": content_hash(self.splits),
            "photographs": content_hash(photos),
        }

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
                raise DatasetError(
                    f"Split {split} has {len(photos)} photographs with captions; expected "
                    f"{FEWEST_PHOTOS} or more. Is the copy in {self.photo_folder} whole?"
                )
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
            from sample import draw_sample, sample_is_current  # which reads names of files here

            if not sample_is_current(folder):
                draw_sample(folder)
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


def _folders(folder: Path) -> list[Path]:
    """`folder` and those up to two levels down: archives are often unpacked into their own."""
    return sorted([folder, *folder.glob("[!.]*/"), *folder.glob("[!.]*/[!.]*/")])


def _files(folder: Path, suffixes: tuple[str, ...]) -> set[str]:
    """Names of the files in a folder that end in one of `suffixes`, in any case; none hidden."""
    named = (one for one in os.scandir(folder) if one.name.lower().endswith(suffixes))
    found = {one.name for one in named if one.is_file(follow_symlinks=False) or Path(one).is_file()}
    return {name for name in found if not name.startswith(".")}


def _find_file(folder: Path, name: str) -> Path | None:
    return next((place / name for place in _folders(folder) if (place / name).is_file()), None)


def _find_flickr8k(folder: Path) -> dict[str, Path | None]:
    """Flickr8k's captions and folder of photographs, each by the archive that brings it."""
    named = (place for place in _folders(folder) if place.name.lower() in PHOTO_FOLDERS)
    return {
        "Flickr8k_text": _find_file(folder, TOKEN_FILE) or _find_file(folder, CSV_FILE),
        "Flickr8k_Dataset": next((place for place in named if _files(place, PHOTO_SUFFIXES)), None),
    }


def _how_to_place(folder: Path) -> str:
    """What to do by hand, since links to Flickr8k die often."""
    return (
        f"Put Flickr8k_Dataset.zip and Flickr8k_text.zip from {ARCHIVES_ADDRESS}\n"
        f"into {folder}, packed or not, or the Kaggle form: Images/, {CSV_FILE} and,\n"
        f"for the official split, {', '.join(SPLIT_FILES.values())}.\n"
        "If you have it elsewhere: make run DATASET=flickr8k DATA=/that/folder."
    )


def _download_what_is_missing(folder: Path) -> None:
    if all(_find_flickr8k(folder).values()):
        return
    try:
        with only_one_in(folder, "downloading Flickr8k"):
            for name, found in _find_flickr8k(folder).items():  # another run may have brought it
                if found is None:
                    archive = download(f"{ARCHIVES_ADDRESS}{name}.zip", folder / f"{name}.zip")
                    unpack(archive, folder / name)
                    archive.unlink()
    except DownloadError as error:
        finding = f"Flickr8k is not in {folder} and could not be downloaded: {error}"
        raise DatasetError(f"{finding}\n{_how_to_place(folder)}") from error


# Putting together


def _read(settings: Settings, folder: Path) -> Dataset:
    caption_file, photo_folder = _find(settings, folder)
    splits, oddities = None, []
    if caption_file.suffix.lower() == ".json":
        captions, splits = _read_karpathy(caption_file)
    else:
        captions, oddities = read_captions(caption_file)
    if settings.dataset == "folder" and captions["photo"].str.contains("/").any():
        photo_folder = folder  # names with their folders, as COCO's
    captions = _usable_captions(captions, caption_file, photo_folder, oddities)
    photos = set(captions["photo"])
    found = {"photographs": len(photos), "captions": len(captions)}
    split_files = {split: _find_file(folder, name) for split, name in SPLIT_FILES.items()}
    if splits is not None:
        splits = {split: [name for name in splits[split] if name in photos] for split in SPLITS}
        split_source = "Karpathy's split, which comes with the captions."
    elif any(split_files.values()):
        splits = _splits_from_files(split_files, photos, oddities)
        names = ", ".join(file.name for file in split_files.values())
        split_source = f"The split that comes with the data set, from {names}."
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


def _find(settings: Settings, folder: Path) -> tuple[Path, Path]:
    """The file of captions, and the folder of photographs, in the folder of a data set."""
    if settings.dataset != "folder":
        caption_file, photo_folder = _find_flickr8k(folder).values()
        if photo_folder is None or caption_file is None:
            raise DatasetError(
                f"{folder} doesn't hold a whole data set: photographs {photo_folder or 'missing'}, "
                f"captions {caption_file or 'missing'}.\n{_how_to_place(folder)}"
            )
        return caption_file, photo_folder
    files = sorted(_files(folder, (".csv", ".json")))
    if len(files) != 1:
        finding = f"{len(files)} CSV or JSON files ({_some(files)})"
        expected = "one, with the columns image and caption or in Karpathy's form"
        raise DatasetError(f"{folder} holds {finding}; expected {expected}.")
    return folder / files[0], max(
        _folders(folder), key=lambda place: len(_files(place, PHOTO_SUFFIXES))
    )


def _usable_captions(
    captions: pd.DataFrame, file: Path, photo_folder: Path, oddities: list[str]
) -> pd.DataFrame:
    """Captions whose photograph is there; adds to `oddities` what doesn't fit together."""
    line_of = captions.groupby("photo")["line"].min().to_dict()
    there = _files(photo_folder, PHOTO_SUFFIXES)
    for name in (name for name in line_of if "/" in name):  # in a folder of its own
        path = (photo_folder / name).resolve()
        if path.is_relative_to(photo_folder.resolve()) and path.is_file():
            there.add(name)
    lost = [name for name in line_of if name not in there]
    named = [f"{name} (line {line_of[name]})" for name in lost]
    if len(lost) > MOST_MISSING * len(line_of):
        cause = "The copy is incomplete: copy the photographs again, or set LIMIT to use fewer"
        if {name.lower() for name in there} & {name.lower() for name in lost}:
            cause = "Some are there in other letters, such as .JPG for .jpg: rename them"
        finding = f"{file} names {len(line_of):,} photographs, and {len(lost):,} of them"
        raise DatasetError(f"{finding} are not in {photo_folder}: {_some(named)}. {cause}.")
    oddities += _skipped(f"{file.name} names", named, "without a photograph")
    uncaptioned = sorted(there - line_of.keys())
    oddities += _skipped(f"{photo_folder.name} holds", uncaptioned, "without a caption")
    captions = captions[captions["photo"].isin(there)]
    counts = captions["photo"].value_counts()
    if few := sorted(counts.index[counts < CAPTIONS_PER_PHOTO]):
        finding = f"photographs have fewer than {CAPTIONS_PER_PHOTO} captions"
        oddities.append(f"{len(few):,} {finding}: {_some(few)}.")
    return captions.sort_values(["photo", "number"])[["photo", "number", "caption"]]


def _splits_from_files(
    split_files: dict[str, Path | None], usable: set[str], oddities: list[str]
) -> dict[str, list[str]]:
    """Reads the three split files; adds to `oddities` what they name that is not `usable`."""
    if absent := [SPLIT_FILES[split] for split, file in split_files.items() if file is None]:
        remedy = "Put all three beside the captions, or none for a split at random."
        raise DatasetError(f"{' and '.join(absent)} missing, others are there. {remedy}")
    splits, place_of = {}, {}
    for split, file in split_files.items():
        line_of, bad = read_split(file)
        if shared := [name for name in line_of if name in place_of]:
            named = [f"line {line_of[name]}: {name} ({place_of[name]})" for name in shared]
            finding = f"names {len(shared):,} that are in another split too, {_some(named)}"
            raise DatasetError(f"{file} {finding}. Fetch the split files again.")
        place_of |= {name: f"{file.name}, line {line}" for name, line in line_of.items()}
        splits[split] = [name for name in line_of if name in usable]
        unusable = [f"{name} (line {line_of[name]})" for name in line_of if name not in usable]
        oddities += bad + _skipped(f"{file.name} names", unusable, "without photograph or caption")
    return splits


def _skipped(who: str, names: list[str], why: str) -> list[str]:
    return [f"{who} {len(names):,} {why}: {_some(names)}; skipped."] if names else []


def _some(names: list[str], most: int = 5) -> str:
    more = len(names) - most
    told = ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")
    return told.encode("utf-8", "backslashreplace").decode()  # names of files may be no text
