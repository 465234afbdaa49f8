"""Measures what grows with the data, without a CNN: `python -m benchmarks.growth`.

A data set of 100,000 photographs with five captions each is made up: invented words, drawn as
often as the words of a language are, and files that are no pictures, since none is opened. Its
features are zeros that take no room. So captions, vocabulary and batches are as large as real ones;
computing features and reading them from a disk is not measured.

Each step runs in a process of its own, so that its peak memory is its own. What "nothing" holds are
Python's packages, with Keras among them, and no data. Seconds are those of the processor.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from utils.machinery.quiet import quiet_start

with quiet_start():
    from benchmarks.measure import peak_memory  # which loads Keras

from utils.batches import caption_set
from utils.captions import Vocabulary, caption_table, read_caption_table
from utils.dataset import load_dataset, require_same_data
from utils.encoder import ENCODERS
from utils.features import DTYPES, Features
from utils.machinery.files import read_json, write_json
from utils.settings import PROJECT, Settings
from utils.training import OURS

WORDS = 30_000  # invented; the training captions of Flickr30k have about 20,000
CAPTIONS = 5  # of each photograph
ENCODER = ENCODERS["xception"]  # of the original recipe


def main() -> None:
    """Runs all steps, or with `--step` one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=int, default=100_000)
    parser.add_argument("--step", choices=STEPS, help="run it here, with the data in --folder")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.step:
        seconds = STEPS[options.step](options.folder)
        measured = {"seconds": seconds, "megabytes": peak_memory()}
        write_json(options.folder / "measured.json", measured)
        return
    print(table_of_features(options.photographs))
    with tempfile.TemporaryDirectory() as folder:
        make_data(Path(folder), options.photographs)
        for step in STEPS:
            command = [sys.executable, "-m", "benchmarks.growth", "--step", step]
            subprocess.run([*command, "--folder", folder], check=True, cwd=PROJECT)
            measured = read_json(Path(folder, "measured.json"))
            print(
                "{:<20}{seconds:8.1f} s{megabytes:10,.0f} MB".format(step, **measured), flush=True
            )


def table_of_features(photographs: int) -> str:
    """What the features take on disk, a line for each encoder."""
    lines = [f"{'on disk':<20}{'pooled':>10}{'spatial':>10}"]
    for name, spec in ENCODERS.items():
        pooled, spatial = (
            photographs * np.dtype(DTYPES[kind]).itemsize * spec.width * places / 1e9
            for kind, places in (("pooled", 1), ("spatial", spec.grid**2))
        )
        lines.append(f"{name:<20}{pooled:7.1f} GB{spatial:7.1f} GB")
    return "\n".join(lines)


def make_data(folder: Path, photographs: int) -> None:
    """Writes captions and files in place of photographs, as `DATASET=folder` takes them."""
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    lengths = random.integers(2, 10, WORDS)
    words = np.array(["".join(random.choice(letters, length)) for length in lengths])
    odds = np.cumsum(1 / np.arange(1, WORDS + 1))  # Zipf's law
    (folder / "data" / "images").mkdir(parents=True)
    with (folder / "data" / "captions.csv").open("w", encoding="utf-8") as file:
        print("image,caption", file=file)
        for number in range(photographs):
            name = f"{number:06}.jpg"
            (folder / "data" / "images" / name).write_text(name)
            for length in random.poisson(9, CAPTIONS) + 3:
                drawn = words[np.searchsorted(odds, random.random(length) * odds[-1])]
                print(f"{name},{' '.join(drawn).capitalize()}.", file=file)


def _settings(folder: Path) -> Settings:
    return Settings(dataset="folder", data=folder / "data", runs=folder / "runs")


def _nothing(folder: Path) -> float:
    return 0.0


def _read(folder: Path) -> float:
    begun, settings = time.process_time(), _settings(folder)
    dataset = load_dataset(settings)
    write_json(folder / "dataset.json", {"made_from": dataset.made_from})
    require_same_data(dataset, folder / "dataset.json")
    return time.process_time() - begun


def _clean(folder: Path) -> float:
    dataset = load_dataset(_settings(folder))
    begun = time.process_time()
    caption_table(dataset).to_csv(folder / "captions.csv", index=False)
    return time.process_time() - begun


def _vocabulary(folder: Path) -> float:
    begun, table = time.process_time(), read_caption_table(folder / "captions.csv")
    texts = table[table["split"] == "train"]["tokens"]
    vocabulary = Vocabulary.build([text.split() for text in texts], OURS.min_count, OURS.cleaning)
    vocabulary.save(folder / "vocabulary.json")
    return time.process_time() - begun


def _batches(folder: Path, kind: str) -> float:
    """An epoch of training batches, as the loss of the recipe takes them."""
    begun, table = time.process_time(), read_caption_table(folder / "captions.csv")
    photos = table["photo"].unique().tolist()
    row = np.zeros((ENCODER.grid, ENCODER.grid, ENCODER.width), DTYPES["spatial"])
    manifest = {"kind": "spatial", "photos": photos, "unreadable": {}}
    features = Features(np.broadcast_to(row, (len(photos), *row.shape)), manifest)
    training = caption_set(table, features, "train", OURS.cleaning, kind=kind)
    vocabulary = Vocabulary.load(folder / "vocabulary.json")
    options = {"batch_size": OURS.batch_size, "by_photo": kind == "spatial", "seed": 0}
    batches = training.batches(vocabulary, **options)
    for index in range(len(batches)):
        batches[index]
    return time.process_time() - begun


STEPS = {
    "nothing": _nothing,
    "read": _read,
    "clean": _clean,
    "vocabulary": _vocabulary,
    "pooled batches": lambda folder: _batches(folder, "pooled"),
    "spatial batches": lambda folder: _batches(folder, "spatial"),
}

if __name__ == "__main__":
    main()
