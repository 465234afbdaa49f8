"""Kills every stage at random moments, runs the same again, and compares with an undisturbed run.

`python -m tests.kill_and_resume` (or `make kill-test`) writes the log, `report/kill_resume.json`.

One process imports TensorFlow, which takes seconds, and never computes anything; every run is a
fork of it, and gets a SIGKILL: at a random share of the stage's work, in the middle of writing a
checkpoint, or between the checkpoint and the history that makes it count. After each kill the same
call goes on in a new process, up to the next kill; the last one finishes. Then history, weights
(the optimizer's with them), features, captions and files must be the same, bit by bit.
"""

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import h5py
import keras
import numpy as np
from tqdm import tqdm

from tests.test_download import Server
from tests.test_features import draw_photos
from tests.test_training import VOCABULARY, caption_set
from utils.evaluation import choose_search, prediction_rows, score_row
from utils.features import extract_features
from utils.machinery import files
from utils.machinery.archives import download, unpack
from utils.machinery.archives import download as download_module
from utils.machinery.files import atomic_path, write_json
from utils.search import Searcher
from utils.self_critical import SelfCritical, train_self_critical
from utils.settings import PROJECT
from utils.training import ORIGINAL, OURS, Training, train

LOG = PROJECT / "report" / "kill_resume.json"
SEED = 42
ANYWHERE = "anywhere"
IN_CHECKPOINT = "in the middle of writing a checkpoint"
BEFORE_HISTORY = "between checkpoint and history"
_LONGEST_PIECE = 0.5  # seconds between two steps of a progress bar that a kill may fall into

# Both recipes with everything that they switch on, in a size that trains in a second.
_TINY = {"embedding_units": 12, "units": 16}
RECIPES = {
    "original": replace(
        ORIGINAL, epochs=4, batch_size=16, learning_rate=0.02, decoder_options=_TINY
    ),
    "ours": replace(
        OURS,
        epochs=4,
        batch_size=16,
        learning_rate=0.02,
        decoder_options={**OURS.decoder_options, **_TINY},
    ),
}
SECOND_STAGE = SelfCritical(epochs=3, samples=3, batch_size=10, learning_rate=0.01, max_tokens=7)


# The stages. Each is called with a folder that may hold what a killed call left, and returns
# everything that must be the same in the end.


def train_stage(name: str, folder: Path) -> dict:
    return _described(_trained(name, folder))


def self_critical_stage(folder: Path) -> dict:
    first = _trained("ours", folder)
    known = {"recipe": RECIPES["ours"], "stage": SECOND_STAGE, **_captions("ours")}
    return _described(train_self_critical(first, seed=SEED, **known))


def evaluate_stage(folder: Path) -> dict:
    decoder, dev = _trained("original", folder).model, caption_set(1, 24)
    known = {"beams": (1, 3), "length_penalties": (0.7, 1.0)}
    tried = choose_search(decoder, VOCABULARY, dev.features, dev.references, **known)
    tried = tried.drop(columns="seconds")
    searcher = Searcher(decoder, beam=3, length_penalty=0.7, batch_size=4)
    found = searcher.best(dev.features)
    rows = prediction_rows(dev.photos, "dev", "original", 3, found, VOCABULARY)
    with atomic_path(folder / "predictions.csv") as part:
        rows.to_csv(part, index=False)
    scores = score_row(
        "tiny", "original", "dev", searcher, rows["caption"].tolist(), dev.references
    )
    tried = tried.astype(object).where(tried.notna(), None)  # JSON has no NaN
    write_json(folder / "metrics.json", {"tried": tried.to_dict("records"), "scores": scores})
    return {name: (folder / name).read_bytes() for name in ("predictions.csv", "metrics.json")}


def extract_stage(folder: Path) -> dict:
    photos = draw_photos(folder / "photos", 96, size=48)
    spatial = extract_features(_Encoder(), photos, folder / "features", "spatial", batch_size=2)
    return {"features": np.asarray(spatial.array).tobytes(), "photos": spatial.photos}


def download_stage(url: str, folder: Path) -> dict:
    return {"archive": download(url, folder / "archive.zip").read_bytes()}


def unpack_stage(archive: Path, folder: Path) -> dict:
    target = folder / "unpacked"
    if not target.exists():  # all of it or nothing
        unpack(archive, target)
    return {file.name: file.read_bytes() for file in sorted(target.iterdir())}


class _Encoder:
    """An untrained CNN of two layers, with what the extraction asks of an encoder."""

    name, weights, weights_hash, image_size = "tiny", "none", "0" * 64, 32

    def __init__(self):
        keras.utils.set_random_seed(SEED)
        self.cnn = keras.Sequential(
            [
                keras.Input((32, 32, 3)),
                keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
                keras.layers.Conv2D(12, 3, strides=3, activation="relu"),
            ]
        )

        class Spec:
            grid, width = 5, 12

        self.spec = Spec

    def encode_spatial(self, pixels, batch_size):
        return self.cnn.predict_on_batch(pixels.astype("float32") / 255)


def _captions(name: str):
    training = caption_set(0, 40)
    if RECIPES[name].mirrored:
        training = replace(training, mirrored=training.features[:, ::-1].copy())
    return {"vocabulary": VOCABULARY, "training": training, "dev": caption_set(1, 12)}


def _trained(name: str, folder: Path) -> Training:
    return train(RECIPES[name], decoder="merge", folder=folder, seed=SEED, **_captions(name))


def _described(training: Training) -> dict:
    """History, best epoch, weights with the optimizer's state, and the captions of dev."""
    described = {"best epoch": training.best_epoch}
    described["history"] = (training.folder / "history.csv").read_bytes()
    for file in sorted(training.folder.glob("epoch-*.weights.h5")):
        arrays = {}
        with h5py.File(file) as opened:
            opened.visititems(
                lambda name, item, arrays=arrays: (
                    arrays.update({name: np.asarray(item).tobytes().hex()})
                    if isinstance(item, h5py.Dataset)
                    else None
                )
            )
        described[file.name] = arrays
    best = Searcher(training.model, beam=2, max_tokens=8).best(caption_set(1, 12).features)
    described["captions"] = [[one.token_ids, one.log_probability] for one in best]
    return described


# In a forked child, which tells how far it is, and is killed where it was said.


@dataclass(frozen=True)
class Kill:
    """When a run is killed.

    Attributes:
        share: of the stage's work that is done by then.
        moment: what it must be doing.
        delay: how much of the next piece of work is done too, in [0, 1).
    """

    share: float
    moment: str = ANYWHERE
    delay: float = 0.0


class Progress:
    """Tells every share of the work that a progress bar reaches; kills this process at one."""

    def __init__(self, pipe: int, kill: Kill | None, photographs: int):
        self.pipe, self.kill, self.reached = pipe, kill, 0.0
        self.clock, self.armed = time.monotonic(), False
        update = tqdm.update

        searched = []

        def telling(bar, n=1):
            update(bar, n)
            if photographs:  # evaluation: its bars are off, and each is of one search
                searched.append(n)
                self.tell(len(searched) / photographs)
            elif bar.total and not bar.disable:
                self.tell(bar.n / bar.total)

        tqdm.update = telling
        if kill is not None and kill.moment == IN_CHECKPOINT:
            create, written = h5py.Group.create_dataset, []

            def creating(group, *arguments, **options):
                dataset = create(group, *arguments, **options)
                if self.reached >= kill.share:
                    written.append(dataset)
                if len(written) == 5:
                    group.file.flush()
                    die()
                return dataset

            h5py.Group.create_dataset = creating
        elif kill is not None and kill.moment == BEFORE_HISTORY:
            write = files.atomic_path

            def writing(file, size=0):
                if file.name == "history.csv" and self.reached >= kill.share:
                    die()
                return write(file, size)

            files.atomic_path = writing

    def tell(self, share: float) -> None:
        self.reached = min(share, 1.0)
        os.write(self.pipe, struct.pack("d", self.reached))
        now = time.monotonic()
        piece, self.clock = now - self.clock, now
        kill = self.kill
        if kill and kill.moment == ANYWHERE and self.reached >= kill.share and not self.armed:
            self.armed = True
            timer = threading.Timer(kill.delay * min(piece, _LONGEST_PIECE), die)
            timer.daemon = True
            timer.start()

    def end(self) -> None:
        """Lets the kill come that is on its way."""
        if self.armed:
            time.sleep(2 * _LONGEST_PIECE)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hash(content) -> str:
    if not isinstance(content, bytes):
        content = json.dumps(content, sort_keys=True, default=float).encode()
    return hashlib.sha256(content).hexdigest()


def _child(stage: Callable, folder: Path, pipe: int, kill: Kill | None, photographs: int) -> None:
    with (folder / "output.txt").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        try:
            progress = Progress(pipe, kill, photographs)
            results = stage(folder)
            progress.end()
            write_json(folder / "result.json", {name: _hash(one) for name, one in results.items()})
        except BaseException:
            traceback.print_exc()
            output.flush()
            os._exit(1)
    os._exit(0)


# In the parent


def run(
    stage: Callable, folder: Path, kill: Kill | None = None, photographs: int = 0
) -> float | None:
    """Runs a stage in a fork; returns the share of the work at which it was killed, else None.

    Raises:
        RuntimeError: it failed of itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(stage, folder, writing, kill, photographs)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        shares = [0.0, *(share for (share,) in struct.iter_unpack("d", told.read()))]
    _, status = os.waitpid(child, 0)
    if kill is not None and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return shares[-1]
    if status:
        raise RuntimeError((folder / "output.txt").read_text()[-3000:])
    return None


def disturb(
    name: str,
    stage: Callable,
    work: Path,
    kills: list[Kill],
    needs: str | None = None,
    photographs: int = 0,
) -> dict:
    """Runs a stage undisturbed and killed again and again; returns its entry of the log.

    Args:
        needs: an earlier stage, whose undisturbed result the folders begin with.
        photographs: of an evaluation, how many it searches captions for.
    """
    straight, killed = work / name, work / f"{name} killed"
    for folder in (straight, killed):
        if needs:
            shutil.copytree(work / needs, folder)
    run(stage, straight)
    log = []
    for kill in kills:
        share = run(stage, killed, kill, photographs)
        if share is None:
            break  # no such moment came again: it has finished
        log.append({"at": round(share, 3), "moment": kill.moment})
    else:
        run(stage, killed)
    expected, found = (
        json.loads((folder / "result.json").read_text()) for folder in (straight, killed)
    )
    equal = expected == found
    entry = {"stage": name, "kills": log, "compared": sorted(expected), "equal": equal}
    print(f"{name}: {len(log)} kills, {'equal' if equal else 'DIFFERENT'}", flush=True)
    return entry


def kills_of(chance: random.Random, count: int, *places: str) -> list[Kill]:
    """Draws `count` kills at rising shares of the work; `places` are moments that some must hit."""
    shares = sorted(chance.uniform(0.02, 0.98) for _ in range(count))
    moments = [*places, *[ANYWHERE] * (count - len(places))]
    chance.shuffle(moments)
    return [
        Kill(share, moment, chance.random()) for share, moment in zip(shares, moments, strict=True)
    ]


def _serve() -> tuple[int, str, bytes]:
    """Serves an archive from a process of its own; returns its id, the address and the archive."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number in range(8):
            archive.writestr(f"{number}.bin", random.Random(number).randbytes(100_000))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with Server() as server:
            server.payload = content.getvalue()
            os.write(writing, server.url.encode())
            os.close(writing)
            server.serve_forever()
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        return child, told.read().decode(), content.getvalue()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kill_and_resume")
    parser.add_argument("--kills", type=int, default=5, help="of each stage")
    parser.add_argument("--stages", nargs="*", help="only these, with those that they need")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--log", type=Path, default=LOG)
    options = parser.parse_args(arguments)

    os.environ["no_proxy"] = "*"
    download_module._BLOCK = 1 << 12  # the archive comes in 200 blocks, to be killed between
    chance = random.Random(options.seed)
    server, url, archive = _serve()
    begun = time.monotonic()
    entries = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "archive.zip").write_bytes(archive)
        checkpoint = (IN_CHECKPOINT, BEFORE_HISTORY)
        stages = {
            "download": (partial(download_stage, url), (), {}),
            "unpacking": (partial(unpack_stage, work / "archive.zip"), (), {}),
            "extraction": (extract_stage, (), {}),
            "training, original recipe": (partial(train_stage, "original"), checkpoint, {}),
            "training, our recipe": (partial(train_stage, "ours"), checkpoint, {}),
            "self-critical training": (
                self_critical_stage,
                checkpoint,
                {"needs": "training, our recipe"},
            ),
            "evaluation": (
                evaluate_stage,
                (),
                {"needs": "training, original recipe", "photographs": 72},
            ),
        }
        try:
            for name, (stage, places, more) in stages.items():
                if options.stages and name not in options.stages:
                    continue
                kills = kills_of(chance, options.kills, *places[: options.kills])
                entries.append(disturb(name, stage, work, kills, **more))
        finally:
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
    log = {
        "format": 1,
        "seed": options.seed,
        "seconds": round(time.monotonic() - begun),
        "kills": sum(len(entry["kills"]) for entry in entries),
        "equal": all(entry["equal"] for entry in entries),
        "stages": entries,
    }
    write_json(options.log, log)
    print(f"{log['kills']} kills in {log['seconds']} s: {options.log.name}")
    return 0 if log["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
