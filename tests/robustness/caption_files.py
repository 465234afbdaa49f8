"""Caption and split files with everything that may be wrong in them."""

import os
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

from PIL import Image

from tests.robustness import row
from tests.test_dataset import PHOTOS, SPLITS, load, write_kaggle, write_photos, write_texts
from utils.captions import TOKEN_COLUMNS, Vocabulary, caption_table, read_caption_table
from utils.dataset import SPLIT_FILES, Dataset, load_dataset, require_same_data
from utils.machinery.files import write_json, write_table
from utils.metrics import leave_one_out
from utils.photographs import load_pixels
from utils.settings import Settings

FIRST = PHOTOS[0]


def read(folder: Path) -> str:
    """Reads a tiny copy of Flickr8k and tells what is odd, apart from its being so tiny."""
    dataset = load(folder)
    odd = [oddity for oddity in dataset.oddities if "this copy has" not in oddity]
    assert dataset.captions["caption"].str.startswith("Caption ").all()
    return f"skipped and listed: {' '.join(odd)}" if odd else "read as it is meant"


def write(folder: Path) -> Path:
    write_photos(folder / "Flicker8k_Dataset")
    write_texts(folder)
    return folder / "Flickr8k.token.txt"


@row("Caption files", "no tab", f"{FIRST}#2 Caption 2")
@row("Caption files", "no number", f"{FIRST}\tCaption 2")
@row("Caption files", "a number too high", f"{FIRST}#5\tCaption 2")
@row("Caption files", "the same number twice", f"{FIRST}#1\tCaption 2")
@row("Caption files", "an empty caption", f"{FIRST}#2\t ")
@row("Caption files", "only punctuation", f"{FIRST}#2\t... !")
@row("Caption files", "bytes in Latin-1", f"{FIRST}#2\tCaption of a café")
@row("Caption files", "10,000 words", f"{FIRST}#2\t{'Caption ' * 10_000}")
@row("Caption files", "a word of 200,000 letters", f"{FIRST}#2\tCaption {'o' * 200_000}")
@row("Caption files", "a name that no photograph has", "elsewhere.jpg#2\tCaption 2")
@row("Caption files", "a name that leads out of the folder", "../../secret.jpg#2\tCaption 2")
def _(folder: Path, line: str) -> str:
    file = write(folder)
    lines = file.read_bytes().splitlines()
    lines[2] = line.encode("latin-1")
    file.write_bytes(b"\n".join(lines))
    return read(folder)


@row("Caption files", "a byte order mark", lambda content: b"\xef\xbb\xbf" + content)
@row("Caption files", "line ends of Windows", lambda content: content.replace(b"\n", b"\r\n"))
@row("Caption files", "line ends of old Macs", lambda content: content.replace(b"\n", b"\r"))
@row("Caption files", "no line end at the end", lambda content: content.rstrip())
@row("Caption files", "UTF-16", lambda content: content.decode().encode("utf-16"))
@row("Caption files", "spaces instead of all tabs", lambda content: content.replace(b"\t", b" "))
@row("Caption files", "empty", lambda content: b"")
@row("Caption files", "cut in the middle of a line", lambda content: content[:-40])
def _(folder: Path, change: Callable[[bytes], bytes]) -> str:
    file = write(folder)
    file.write_bytes(change(file.read_bytes()))
    return read(folder)


@row("Caption files", "CSV: a comma outside quotes", f"{FIRST},Caption 2 , unquoted")
@row("Caption files", "CSV: a quote that is never closed", f'{FIRST},"Caption 2')
@row("Caption files", "CSV: a sixth caption", f"{PHOTOS[1]},Caption 5")
def _(folder: Path, line: str) -> str:
    write_kaggle(folder)
    file = folder / "captions.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:3], line, *lines[4:]]))
    return read(folder)


@row("Caption files", "CSV: no header")
def _(folder: Path) -> str:
    write_kaggle(folder)
    file = folder / "captions.txt"
    file.write_text(file.read_text().removeprefix("image,caption\n"))
    return read(folder)


@row("Caption files", "a photograph that no caption has")
def _(folder: Path) -> str:
    write(folder)
    (folder / "Flicker8k_Dataset" / "silent.jpg").touch()
    return read(folder)


@row("Caption files", "1 of 24 photographs is missing", 1)
@row("Caption files", "2 of 24 photographs are missing", 2)
def _(folder: Path, count: int) -> str:
    write(folder)
    for photo in PHOTOS[:count]:
        (folder / "Flicker8k_Dataset" / photo).unlink()
    return read(folder)


@row("Caption files", "photographs that end in .JPG and not in .jpg")
def _(folder: Path) -> str:
    write(folder)
    for photo in PHOTOS[:3]:
        path = folder / "Flicker8k_Dataset" / photo
        path.rename(path.with_suffix(".JPG"))
    return read(folder)


@row("Caption files", "a photograph that links to itself, and a name that is no text")
def _(folder: Path) -> str:
    write(folder)
    (folder / "Flicker8k_Dataset" / "loop.jpg").symlink_to("loop.jpg")
    Path(os.fsdecode(os.fsencode(folder) + b"/Flicker8k_Dataset/caf\xe9.jpg")).touch()
    return read(folder)


@row("Caption files", "results were made from other captions")
def _(folder: Path) -> str:
    file = write(folder)
    write_json(folder / "dataset.json", {"made_from": load(folder).made_from})
    file.write_text(file.read_text().replace("Caption 0", "Caption nought", 1))
    require_same_data(load(folder), folder / "dataset.json")
    return "taken"


# Split files


@row("Split files", "a photograph twice in one split", {"dev": [*SPLITS["dev"], PHOTOS[17]]})
@row("Split files", "a photograph in two splits: a leak", {"test": [*SPLITS["test"], FIRST]})
@row("Split files", "a name that nothing has", {"test": [*SPLITS["test"], "elsewhere.jpg"]})
@row("Split files", "a split that is empty", {"dev": []})
def _(folder: Path, change: dict) -> str:
    write_photos(folder / "Flicker8k_Dataset")
    write_texts(folder, SPLITS | change)
    return read(folder)


@row("Split files", "one of three is missing")
def _(folder: Path) -> str:
    write(folder)
    (folder / SPLIT_FILES["dev"]).unlink()
    return read(folder)


@row("Split files", "bytes that are no text")
def _(folder: Path) -> str:
    write(folder)
    (folder / SPLIT_FILES["dev"]).write_bytes(b"\xff\xfe\x00\xd8")
    return read(folder)


@row("Split files", "line ends of Windows and a byte order mark")
def _(folder: Path) -> str:
    write(folder)
    for name in SPLIT_FILES.values():
        content = (folder / name).read_bytes().replace(b"\n", b"\r\n")
        (folder / name).write_bytes(b"\xef\xbb\xbf" + content)
    return read(folder)


# Data of one's own


def own(folder: Path, captions: dict[str, list[str]]) -> Dataset:
    """Reads a folder of photographs of these names with Karpathy's file of their captions."""
    (folder / "images").mkdir(exist_ok=True)
    for name in captions:
        Image.new("RGB", (9, 9), "red").save(folder / "images" / name)
    images = [
        {"filename": name, "split": split, "sentences": [{"raw": text} for text in texts]}
        for (name, texts), split in zip(captions.items(), cycle(SPLIT_NAMES), strict=False)
    ]
    write_json(folder / "dataset.json", {"images": images})
    return load_dataset(Settings(dataset="folder", data=folder))


SPLIT_NAMES = ("train", "val", "test")  # as Karpathy's files have them
NUMBERED = [f"{number}.jpg" for number in range(12)]


@row("Data of one's own", "names with &#, %, =, $, quotes, spaces and control characters")
def _(folder: Path) -> str:
    odd = [
        "a&#35;.jpg",
        "50%20.jpg",
        "=1+1.jpg",
        "$x_1$.jpg",
        "q'\".jpg",
        "sp ace é写.jpg",
        "\x1b[2J.jpg",
    ]
    dataset = own(folder, {name: [f"A dog in {name} ."] for name in [*NUMBERED, *odd]})
    assert set(odd) < dataset.split_of.keys()
    assert all(load_pixels(dataset.photo_path(name), 8).any() for name in odd)
    return f"all {len(dataset.split_of)} are read"


@row("Data of one's own", "a name that is no text, and links that lead to themselves")
def _(folder: Path) -> str:
    (folder / "images").mkdir()
    (folder / "images" / "self.jpg").symlink_to("self.jpg")
    (folder / "images" / "loop").symlink_to(folder / "images")
    with open(os.fsencode(folder / "images") + b"/\xff\xfe.jpg", "wb"):  # noqa: PTH123 it takes bytes
        pass
    dataset = own(folder, {name: ["A dog runs .", "A dog ."] for name in NUMBERED})
    return f"skipped and listed: {' '.join(dataset.oddities)}"


@row("Data of one's own", "captions that are all numbers")
def _(folder: Path) -> str:
    table = caption_table(own(folder, {name: ["12 007", "3 4"] for name in NUMBERED}))
    sizes = [len(Vocabulary.build(map(str.split, table[name]))) for name in TOKEN_COLUMNS.values()]
    return "read; vocabularies, full and as in the original recipe: {} and {}".format(*sizes)


@row("Data of one's own", "one caption for each photograph")
def _(folder: Path) -> str:
    dataset = own(folder, {name: ["A dog runs ."] for name in NUMBERED})
    return str(leave_one_out(dataset.references(dataset.splits["dev"])))


@row("Data of one's own", "line breaks within a caption")
def _(folder: Path) -> str:
    table = caption_table(own(folder, {name: ["A dog\r\nruns\rhere ."] for name in NUMBERED}))
    write_table(folder / "captions.csv", table)
    assert read_caption_table(folder / "captions.csv").equals(table)
    return f"read as {table['caption'][0]!r}"
