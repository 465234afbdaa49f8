"""Damages every file that the project reads, thousands of times, in one process with limits.

`python -m tests.fuzzing --grid 0.1 --examples 100 --seed 7` tries a tenth of the fixed damages
(every file truncated at each tenth, each field replaced by each extreme, each array by an
impossible one, the file by a folder) and a hundred that Hypothesis draws. Every one has to be read
as before or refused with an error of the project, in a short sentence, within `SECONDS` and
`MEMORY`. The last line that is printed is JSON: what was tried, and what failed.

The limits need Linux; elsewhere the cases run without them.
"""

import argparse
import contextlib
import faulthandler
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import keras
import nbformat
import numpy as np
import pandas as pd
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st

from tests.test_features import SlowEncoder, draw_photos
from tests.test_summary import METRICS
from tools import run_notebooks
from tools.summary import summary
from utils import captioner as captioner_module
from utils.captioner import (
    BUNDLE_FILE,
    CONSENSUS_FILE,
    DECODER_FILE,
    VOCABULARY_FILE,
    Captioner,
)
from utils.captions import CAPTION_COLUMNS, RESERVED, Vocabulary, read_caption_table
from utils.decoder import build_decoder
from utils.features import extract_features, load_features
from utils.machinery.checkpoints import best_epoch_of, weights_file
from utils.machinery.errors import CaptionProjectError, StaleArtefactError
from utils.machinery.files import file_hash, record_files, write_json
from utils.search import Consensus, SearchSettings
from utils.settings import Settings
from utils.training import train

SECONDS = 5  # of a processor, for one file
HANGS = 60  # seconds after which a reader that waits for something is ended
MEMORY = 2 << 30  # bytes beside what the libraries take, which is below 1 GB
LONGEST_MESSAGE = 2000  # characters
# What no reader may take for a whole file, as far as the file's own format can tell. Where a
# record of what ran is damaged, it just runs again.
RUNS_AGAIN = ("run/completed.json", "run/timings.json")
NEVER_READ = re.compile(
    r"^(?!run/).*json: .*= (?:missing|nan|inf|'deep')$"  # of scores, only what is shown counts
    r"|truncated at [0-8]/10|full of (?:nan|inf)"
    r"|of type (?:complex64|U3|S3|M8\[s\]|V4)|of objects|: empty|zeros of the same length"
    r"|: missing$|folder$|pipe$|link to|of nothing|a header"
)
DEEP = "deep"  # stands for JSON that is nested too deeply to be built from Python's own lists

# What is written in place of a field of JSON or of a cell of a table.
EXTREMES = (
    None,
    True,
    -1,
    0,
    1,
    0.5,
    10**9,
    10**30,
    float("nan"),
    float("inf"),
    -1e308,
    "",
    "..",
    "/dev/zero",
    "a\x00\x1b[31mb",
    "=1+1",
    "x" * 1_000_000,
    "\ud800",
    [],
    [[]],
    ["a"] * 10_000,
    [None, 1, "a"],
    {},
    {"a": 1},
    DEEP,
)
MISSING = object()


@dataclass(frozen=True)
class Target:
    """A file, in a folder of its own with all that its reader needs."""

    folder: Path
    name: str
    read: Callable[[Path], Any]  # given the folder

    @property
    def file(self) -> Path:
        return self.folder / self.name


Damage = tuple[str, Callable[[Path], None]]  # what is done, and the doing, given the file


# Damages of any file


def replace_by(content: bytes) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(content)


def irregular(kind: str) -> Callable[[Path], None]:
    """Puts something that is no regular file, or is endless, in the place of a file."""

    def put(file: Path) -> None:
        file.unlink()
        if kind == "folder":
            file.mkdir()
        elif kind == "pipe":
            os.mkfifo(file)
        elif kind == "link to itself":
            file.symlink_to(file.name)
        elif kind == "link to an endless device":
            file.symlink_to("/dev/zero")
        elif kind == "4 GB of nothing":
            with file.open("wb") as opened:
                opened.truncate(4 << 30)

    return put


IRREGULAR = (
    "missing",
    "folder",
    "pipe",
    "link to itself",
    "link to an endless device",
    "4 GB of nothing",
)


def of_any_file(content: bytes) -> Iterator[Damage]:
    for tenth in range(10):
        yield f"truncated at {tenth}/10", replace_by(content[: len(content) * tenth // 10])
    yield "one byte short", replace_by(content[:-1])
    yield "doubled", replace_by(content + content)
    yield "zeros of the same length", replace_by(bytes(len(content)))
    yield "in UTF-16", replace_by(content.decode("latin-1").encode("utf-16"))
    yield "with a byte order mark", replace_by(b"\xef\xbb\xbf" + content)
    yield "30 MB of blanks behind it", replace_by(content + b" " * 30_000_000)
    for kind in IRREGULAR:
        yield kind, irregular(kind)


def flipped(content: bytes, position: int, bit: int) -> bytes:
    changed = bytearray(content)
    if changed:
        changed[position % len(changed)] ^= 1 << bit
    return bytes(changed)


# Damages of JSON


def places(content: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths to all that a JSON document holds; of a long list the ends."""
    yield path
    if isinstance(content, dict):
        for name in content:
            yield from places(content[name], (*path, name))
    elif isinstance(content, list):
        for position in sorted({*range(len(content))[:2], *range(len(content))[-1:]}):
            yield from places(content[position], (*path, position))


def changed(content: Any, path: tuple, value: Any) -> bytes:
    """The JSON document with `value` at `path`, or without what stands there."""
    content = json.loads(json.dumps(content))
    if not path:
        content = {} if value is MISSING else value
    else:
        holder = content
        for step in path[:-1]:
            holder = holder[step]
        if value is MISSING:
            del holder[path[-1]]
        else:
            holder[path[-1]] = value
    text = json.dumps(content)
    return text.replace(json.dumps(DEEP), "[" * 100_000 + "]" * 100_000).encode()


def shown(value: Any) -> str:
    return "missing" if value is MISSING else repr(value)[:40]


def of_json(text: bytes, write: Callable[[bytes], Callable[[Path], None]]) -> Iterator[Damage]:
    content = json.loads(text)
    for path in places(content):
        for value in (MISSING, *EXTREMES):
            name = f"{'.'.join(map(str, path)) or 'all'} = {shown(value)}"
            yield name, write(changed(content, path, value))
    if isinstance(content, dict):
        yield "an unknown field", write(changed(content, ("unknown",), 1))
        double = text.rstrip().removesuffix(b"}") + b", " + json.dumps(content).encode()[1:]
        yield "every field twice", write(double)


# Damages of tables


def of_table(text: bytes) -> Iterator[Damage]:
    def write(table: pd.DataFrame, **options) -> Callable[[Path], None]:
        return replace_by(table.to_csv(index=False, **options).encode("utf-8", "surrogatepass"))

    table = pd.read_csv(io.BytesIO(text), dtype=str, keep_default_na=False)
    yield "without rows", write(table[:0])
    yield "every row twice", write(pd.concat([table, table]))
    yield "backwards", write(table[::-1])
    yield "without a header", write(table, header=False)
    yield "semicolons", write(table, sep=";")
    yield "an open quote", replace_by(text + b'"open')
    yield "a NUL", replace_by(text.replace(b",", b",\x00", 3))
    yield "a row of another width", replace_by(text + b"1,2,3,4,5,6,7,8,9,10,11,12\n")
    for column in table.columns:
        yield f"without {column}", write(table.drop(columns=column))
        yield f"{column} renamed", write(table.rename(columns={column: "other"}))
        for row in {0, len(table) - 1}:
            for value in (MISSING, *EXTREMES):
                if value is DEEP or isinstance(value, list | dict):
                    continue
                edited = table.copy()
                edited.loc[row, column] = "" if value is MISSING else str(value)
                yield f"{column} of row {row} = {shown(value)}", write(edited)


# Damages of arrays


def other_arrays(array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for value in (float("nan"), float("inf"), -1, 0, 1e9, 1e38):
        if array.dtype.kind != "f" and not abs(value) < 1e30:
            continue
        with np.errstate(all="ignore"), contextlib.suppress(TypeError, ValueError):
            yield f"full of {value}", np.full(array.shape, value).astype(array.dtype)
    for kind in ("float64", "int64", "complex64", "bool", "U3", "S3", "M8[s]"):
        with np.errstate(all="ignore"), contextlib.suppress(TypeError, ValueError):
            yield f"of type {kind}", array.astype(kind)
    yield "of type V4", np.zeros(array.shape, "V4")
    yield "of objects", np.full(array.shape, {"a": 1}, object)
    yield "empty", np.zeros((0,), array.dtype)
    yield "with an axis more", array[None]
    yield "in one row", array.ravel()
    yield "transposed", np.asfortranarray(array.T)
    if array.ndim:
        yield "one row less", array[:-1]
        yield "a row twice", np.concatenate([array, array[-1:]])
    yield "a number", np.float32(1)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asanyarray(array), allow_pickle=True)
    return buffer.getvalue()


def huge_npy(shape: tuple[int, ...]) -> bytes:
    """A header that promises more than any machine has, and nothing behind it."""
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + bytes(64)


HUGE = {
    "a header of 4e12 numbers": huge_npy((10**9, 4000)),
    "a header of 1e60 numbers": huge_npy((10**20, 10**20, 10**20)),
    "a header of a negative number": huge_npy((-1, 4)),
    "a header that is no Python": b"\x93NUMPY\x01\x00\x76\x00" + b"{" * 118 + bytes(64),
}


def of_npy(content: bytes) -> Iterator[Damage]:
    for name, array in other_arrays(np.load(io.BytesIO(content))):
        yield name, replace_by(npy(array))
    for name, data in HUGE.items():
        yield name, replace_by(data)


def of_npz(content: bytes) -> Iterator[Damage]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def write(edited: dict[str, bytes], level: int = 1) -> Callable[[Path], None]:
        def put(file: Path) -> None:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
                for name, data in edited.items():
                    archive.writestr(name, data)

        return put

    yield "no arrays", write({})
    yield "something that is no array", write({**members, "a.txt": b"text"})
    yield "a member outside", write({**members, "../../outside.npy": npy(np.zeros(3))})
    yield "10,000 arrays more", write({**members, **{f"a{i}.npy": b"" for i in range(10_000)}})
    few = sorted(members)[:2] + sorted(members)[-2:]
    for name in dict.fromkeys(few):
        rest = {other: data for other, data in members.items() if other != name}
        yield f"without {name}", write(rest)
        yield f"{name} as text", write({**rest, name: b"text"})
        for what, data in HUGE.items():
            yield f"{name}: {what}", write({**rest, name: data})
        array = np.load(io.BytesIO(members[name]))
        bomb = npy(np.zeros(1, "S1"))[:-1] + bytes(300_000_000)
        yield f"{name}: 300 MB of zeros", write({**rest, name: bomb})
        for what, other in other_arrays(array):
            yield f"{name}: {what}", write({**rest, name: npy(other)})
        if array.dtype.kind == "U" and array.ndim == 0:  # JSON in an array
            yield from of_json(
                str(array).encode(),
                lambda text, rest=rest, name=name: write(
                    {**rest, name: npy(np.array(text.decode()))}
                ),
            )


def grid(target: Target) -> Iterator[Damage]:
    """All fixed damages of a file."""
    content = target.file.read_bytes()
    yield from of_any_file(content)
    for position in range(0, len(content), max(1, len(content) // 40)):
        yield f"bit {position}", replace_by(flipped(content, position, position % 8))
    kinds = {".csv": of_table, ".npy": of_npy, ".npz": of_npz}
    suffix = target.file.suffix
    if suffix == ".json":
        yield from of_json(content, replace_by)
    elif suffix in kinds:
        yield from kinds[suffix](content)


# Damages that Hypothesis draws

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just(DEEP)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)


@st.composite
def drawn_damages(draw, target: Target) -> Damage:
    """Bits, pieces and lengths of a file, and in JSON any value in the place of any other."""
    content = target.file.read_bytes()
    kinds = ["bits", "piece", "length"] + ["value"] * 3 * (target.file.suffix == ".json")
    kind = draw(st.sampled_from(kinds))
    if kind == "bits":
        spots = draw(
            st.lists(st.tuples(st.integers(0, len(content)), st.integers(0, 7)), max_size=9)
        )
        edited = content
        for position, bit in spots:
            edited = flipped(edited, position, bit)
        return f"bits {spots}", replace_by(edited)
    if kind == "piece":
        start = draw(st.integers(0, len(content)))
        piece = draw(st.binary(max_size=30))
        stop = draw(st.integers(start, min(len(content), start + 40)))
        return f"{piece!r} at {start}:{stop}", replace_by(content[:start] + piece + content[stop:])
    if kind == "length":
        length = draw(st.integers(0, len(content)))
        return f"truncated at {length}", replace_by(content[:length])
    known = json.loads(content)
    path = draw(st.sampled_from(list(places(known))))
    value = draw(values)
    return f"{path} = {shown(value)}", replace_by(changed(known, path, value))


# The files, each with what reads it


def encoder_of(width: int) -> SimpleNamespace:
    """Stands for Xception with its weights, which every bundle here was made with."""
    return SimpleNamespace(
        name="xception",
        weights="imagenet",
        weights_hash="0" * 64,
        image_size=8,
        probe=lambda: np.arange(float(width)),
        encode=lambda pixels, batch_size=32: np.ones((len(pixels), width), "float32"),
        spec=SimpleNamespace(width=width),
    )


def make_bundle(folder: Path) -> None:
    """A captioner that chooses by consensus, with a decoder of 600 weights."""
    vocabulary = Vocabulary((*RESERVED, "a", "dog", "runs"))
    captions = [[["a", "dog"], ["a", "dog", "runs"]], [["a", "dog"]]]
    consensus = Consensus.of(captions, vocabulary)
    decoder = build_decoder("merge", len(vocabulary), (6,), embedding_units=4, units=4)
    search = SearchSettings(4, 0.7, 4, inverse_temperature=0.2)
    Captioner(encoder_of(6), decoder, vocabulary, search, consensus).save(folder)


def caption_with(folder: Path) -> None:
    """Loads the bundle and describes a photograph."""
    with patch.object(captioner_module, "load_encoder", return_value=encoder_of(6)):
        loaded = Captioner.load(folder, weights="imagenet")
    (caption,) = loaded.captions([np.zeros((8, 8, 3), "uint8")])
    assert caption.isprintable()


def caption_with_hash_made_to_fit(name: str) -> Callable[[Path], None]:
    """As `caption_with`, for a file whose hash in the description somebody made to fit it."""

    def read(folder: Path) -> None:
        description = json.loads((folder / BUNDLE_FILE).read_text())
        if (folder / name).is_file() and (folder / name).stat().st_size < 1e9:
            description[f"{Path(name).stem}_hash"] = file_hash(folder / name)
        write_json(folder / BUNDLE_FILE, description)
        caption_with(folder)

    return read


def make_captions(folder: Path) -> None:
    rows = [
        (f"{photo}.jpg", split, 0, "A dog runs.", "a dog runs", "dog runs")
        for photo, split in enumerate(("train", "train", "dev", "test"))
    ]
    table = pd.DataFrame(rows, columns=CAPTION_COLUMNS)
    table.to_csv(folder / "captions.csv", index=False)


def make_features(folder: Path) -> None:
    extract_features(SlowEncoder(name="xception"), draw_photos(folder / "photos", 10), folder)


def train_on(folder: Path) -> None:
    """A training of two epochs, which goes on from the files in `folder` if there are some."""
    from tests.test_training import RECIPE, VOCABULARY, caption_set

    sets = {"training": caption_set(0, 12), "dev": caption_set(1, 6)}
    found = train(
        RECIPE, decoder="merge", vocabulary=VOCABULARY, **sets, folder=folder, epochs=2, seed=5
    )
    assert np.isfinite(found.history["loss"]).all()


def go_on_training(folder: Path) -> None:
    """Takes the training as it is; to train again would be right as well, but takes long."""
    with patch.object(keras.Model, "fit", side_effect=StaleArtefactError("trains again")):
        train_on(folder)


def make_run(folder: Path) -> None:
    """A run of two notebooks, and scores."""
    settings = Settings(runs=folder / "runs")
    write_json(settings.metrics_file, METRICS)
    (folder / "notebooks").mkdir()
    for name in ("01_one", "02_two"):
        cells = [nbformat.v4.new_code_cell("1")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"notebooks/{name}.ipynb")
    run_all_of(folder)


def run_all_of(folder: Path) -> None:
    """Brings two notebooks up to date, without starting a kernel."""
    with (
        patch.object(run_notebooks, "_execute"),
        patch.object(run_notebooks, "HTMLExporter") as exporter,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        exporter.return_value.from_notebook_node.return_value = ("", None)
        run_notebooks.run_all(Settings(runs=folder / "runs"), folder / "notebooks")


def run_all_again(folder: Path) -> None:
    Settings(runs=folder / "runs").completed_file.unlink(missing_ok=True)
    run_all_of(folder)


def show_scores(folder: Path) -> None:
    settings = Settings(runs=folder / "runs")
    if settings.metrics_file.is_file():  # else its hash would refuse it before it is read
        record_files("notebook 05_evaluate_captions", settings.metrics_file)
    assert summary(settings)


def targets(folder: Path) -> list[Target]:
    """Makes every file in `folder`, and says what reads it."""
    found = []

    def add(place: str, make: Callable[[Path], Any], readers: dict[str, Callable]) -> None:
        (folder / place).mkdir()
        make(folder / place)
        found.extend(Target(folder / place, name, read) for name, read in readers.items())

    bundle = (DECODER_FILE, VOCABULARY_FILE, CONSENSUS_FILE)
    whole = dict.fromkeys((BUNDLE_FILE, *bundle), caption_with)
    add("bundle", make_bundle, whole)
    for name in bundle:
        read = caption_with_hash_made_to_fit(name)
        add(f"edited-{Path(name).stem}", make_bundle, {name: read})
    read = {"captions.csv": lambda at: read_caption_table(at / "captions.csv")}
    add("captions", make_captions, read)
    add("features", make_features, dict.fromkeys(("pooled.json", "pooled.npy"), load_features))
    add("training", train_on, {})
    (history,) = (folder / "training").glob("*/history.csv")
    best = best_epoch_of(pd.read_csv(history))
    for file in (history, weights_file(history.parent, best)):
        name = str(file.relative_to(folder / "training"))
        found.append(Target(folder / "training", name, go_on_training))
    add("run", make_run, {})
    run = Settings(runs=folder / "run" / "runs")
    readers = {
        run.completed_file: run_all_of,
        run.timings_file: run_all_again,
        run.metrics_file: show_scores,
    }
    for file, read in readers.items():
        found.append(Target(folder / "run", str(file.relative_to(folder / "run")), read))
    return found


# Trying


@dataclass
class Tally:
    """What came of the cases so far."""

    cases: Counter
    refused: Counter
    failures: list[dict]
    seconds: float = 0.0
    slowest: str = ""


class _TooSlow(BaseException):
    """Not an Exception, so that no reader takes it for what a library raised."""


def _too_slow(*_) -> None:
    raise _TooSlow


def limit() -> None:
    """Gives this process `MEMORY` bytes beside what it has."""
    if sys.platform != "linux":
        return
    import resource

    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    most = int(status["VmData"].split()[0]) * 1024 + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def catch_time() -> None:
    """Lets the clocks of `attempt` end a slow reader."""
    if sys.platform == "linux":
        signal.signal(signal.SIGPROF, _too_slow)
        signal.signal(signal.SIGALRM, _too_slow)


def _clock(seconds: float, hangs: float) -> None:
    if sys.platform == "linux":
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, hangs)


def attempt(target: Target, damage: Damage, tally: Tally) -> None:
    """Reads the damaged file, notes what came of it, and puts the whole one back."""
    what, damage_it = damage
    whole = target.file.read_bytes()
    name = f"{target.folder.name}/{target.file.name}: {what}"
    damage_it(target.file)
    faulthandler.dump_traceback_later(2 * HANGS, exit=True)  # in case no signal gets through
    print(name, end=": ", file=sys.stderr, flush=True)
    began, problem, outcome = time.process_time(), None, "read"
    tally.cases[target.file.name] += 1
    try:
        _clock(SECONDS, HANGS)
        target.read(target.folder)
        if NEVER_READ.search(name) and not name.startswith(RUNS_AGAIN):
            problem = "was read"
    except CaptionProjectError as error:
        tally.refused[target.file.name] += 1
        outcome = message = str(error)
        if len(message) > LONGEST_MESSAGE:
            problem = f"a message of {len(message):,} characters: {message[:120]}…"
        elif unprintable := set(message) - set(filter(str.isprintable, message)) - {"\n"}:
            problem = f"a message with the control characters {sorted(unprintable)[:5]}"
    except _TooSlow:
        problem = f"no answer in {SECONDS} s of a processor or {HANGS} s"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(step.filename).name}:{step.lineno}" for step in where if "/utils/" in
                step.filename or "/tools/" in step.filename]  # fmt: skip
        problem = f"{type(error).__name__}: {str(error)[:160]} ({' '.join(ours[-2:])})"
    finally:
        _clock(0, 0)
        faulthandler.cancel_dump_traceback_later()
    seconds = time.process_time() - began
    if seconds > tally.seconds:
        tally.seconds, tally.slowest = seconds, name
    print(problem or outcome[:200], file=sys.stderr)
    if problem:
        tally.failures.append({"case": name, "problem": problem})
    if target.file.is_dir() and not target.file.is_symlink():
        target.file.rmdir()
    target.file.unlink(missing_ok=True)
    target.file.write_bytes(whole)


def try_drawn(target: Target, examples: int, seed: int, tally: Tally) -> None:
    """Lets Hypothesis draw damages of a file; the seed decides which."""

    @hypothesis_seed(seed)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn_damages(target))
    def draw(damage):
        attempt(target, damage, tally)

    draw()


def run(share: float, examples: int, seed: int, only: str = "") -> dict:
    """Tries `share` of the fixed damages and `examples` drawn ones of each file."""
    choice = random.Random(seed)
    tally = Tally(Counter(), Counter(), [])
    folder = Path(tempfile.mkdtemp())
    try:
        known = [one for one in targets(folder) if only in f"{one.folder.name}/{one.name}"]
        for target in known:
            target.read(target.folder)  # whole files are read
        limit()
        catch_time()
        for target in known:
            for damage in grid(target):
                if share >= 1 or choice.random() < share:
                    attempt(target, damage, tally)

            if examples:
                try_drawn(target, examples, seed, tally)
    finally:
        shutil.rmtree(folder)
    result = {
        "cases": sum(tally.cases.values()),
        "refused": sum(tally.refused.values()),
        "by_file": dict(tally.cases),
        "slowest": f"{tally.seconds:.1f} s: {tally.slowest}",
        "failures": tally.failures,
    }
    if sys.platform == "linux":
        import resource

        result["peak_MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("--grid", type=float, default=1.0, help="share of the fixed damages")
    parser.add_argument("--examples", type=int, default=100, help="drawn damages of each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of a file's name")
    asked = parser.parse_args()
    result = run(asked.grid, asked.examples, asked.seed, asked.only)
    print(json.dumps(result))
    return bool(result["failures"])


if __name__ == "__main__":
    sys.exit(main())
