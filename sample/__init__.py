"""The embedded sample data set: pictures that are drawn here, with captions that are worded here.

It has the layout of Flickr8k, so whatever reads the one reads the other, and it needs no download.
"""

import os
import random
import shutil
from pathlib import Path

from sample.captions import describe_scene
from sample.drawing import draw_scene
from sample.story import Scene, random_scene
from utils.dataset import SPLIT_FILES, TOKEN_FILE
from utils.machinery.errors import DatasetError
from utils.machinery.progress import ProgressBar

__all__ = [
    "SAMPLE_SPLITS",
    "Scene",
    "describe_scene",
    "draw_sample",
    "draw_scene",
    "random_scene",
    "sample_is_current",
]

SAMPLE_SPLITS = {"train": 480, "dev": 60, "test": 60}
DRAWING = 2  # raise it with every change of the pictures or captions: old samples are then redrawn

PHOTO_FOLDER = "Flicker8k_Dataset"  # spelt as in the archive of Flickr8k
README_FILE = "readme.txt"
README_TITLE = "Drawn scenes with five captions each, in the layout of Flickr8k."


def draw_sample(folder: Path, photographs: int = 600, seed: int = 2024) -> Path:
    """Draws the sample into `folder` in the layout of Flickr8k and returns `folder`.

    The folder appears when everything is in it, and takes the place of an older sample. The same
    seed gives the same bytes (with the same version of Pillow). Other numbers of photographs than
    600 are split in the same proportion, with at least one photograph in every split.

    Raises:
        DatasetError: fewer than 3 photographs are asked for, or `folder` holds something else.
    """
    folder = Path(folder)
    if photographs < 3:
        raise DatasetError(
            f"A sample of {photographs} photographs was asked for; expected 3 or more, so that "
            "train, dev and test have one each."
        )
    if folder.exists() and any(folder.iterdir()) and not _is_a_sample(folder):
        raise DatasetError(
            f"{folder} holds files that are not a drawn sample, which drawing would replace; "
            "expected a sample or nothing. If they are Flickr8k, set DATASET=flickr8k too; if they "
            "are your own data, DATASET=folder; else move them away."
        )
    part = folder.with_name(f".{folder.name}-{os.getpid()}.part")
    try:
        _draw_into(part, photographs, seed)
        if folder.exists():
            shutil.rmtree(folder)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def sample_is_current(folder: Path, photographs: int = 600, seed: int = 2024) -> bool:
    """Whether `folder` holds the whole sample as this version of the drawing would make it."""
    folder = Path(folder)
    readme = folder / README_FILE
    files = [TOKEN_FILE, *SPLIT_FILES.values()]
    return (
        readme.is_file()
        and readme.read_bytes() == _readme(photographs, seed).encode()
        and all((folder / name).exists() for name in files)
        and len(list((folder / PHOTO_FOLDER).glob("*.jpg"))) == photographs
    )


def _is_a_sample(folder: Path) -> bool:
    # Flickr8k has files of the same names, and must never be taken for something drawn here; nor
    # must a sample go that somebody has added files to.
    readme, found = folder / README_FILE, {path.name for path in folder.glob("[!.]*")}
    if not found <= {README_FILE, PHOTO_FOLDER, TOKEN_FILE, *SPLIT_FILES.values()}:
        return False
    return readme.is_file() and readme.read_bytes().startswith(README_TITLE.encode())


def _draw_into(folder: Path, photographs: int, seed: int) -> None:
    (folder / PHOTO_FOLDER).mkdir(parents=True)
    names, lines = [], []
    for number in ProgressBar(range(1, photographs + 1), desc="Drawing the sample", unit="photo"):
        rng = random.Random(f"{seed}/{number}")  # a scene doesn't depend on how many there are
        name = f"scene_{number:04d}.jpg"
        scene = random_scene(rng)
        draw_scene(scene).save(folder / PHOTO_FOLDER / name, quality=90)
        captions = describe_scene(scene, rng)
        lines += [f"{name}#{index}\t{caption}" for index, caption in enumerate(captions)]
        names.append(name)
    _write_lines(folder / TOKEN_FILE, lines)
    random.Random(seed).shuffle(names)
    small = {split: _share(split, photographs) for split in ("dev", "test")}
    counts = {"train": photographs - sum(small.values()), **small}
    for split, count in counts.items():
        chosen, names = names[:count], names[count:]
        _write_lines(folder / SPLIT_FILES[split], chosen)
    (folder / README_FILE).write_bytes(_readme(photographs, seed).encode())


def _share(split: str, photographs: int) -> int:
    return max(1, round(photographs * SAMPLE_SPLITS[split] / sum(SAMPLE_SPLITS.values())))


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _readme(photographs: int, seed: int) -> str:
    return (
        f"{README_TITLE}\n"
        "Made by sample; safe to delete, since it is drawn again when it is needed.\n"
        f"Drawing {DRAWING}, {photographs} photographs, seed {seed}.\n"
    )
