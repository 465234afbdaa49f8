"""The files of Flickr8k in both public forms: where they lie, and how the text files are read.

A bad line is skipped and said, by file and line. A file with many of them is refused.
"""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from utils.errors import DatasetError

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
