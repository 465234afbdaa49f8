"""What a run is made of: data set, encoder, decoder, epochs, seed, and where its files lie.

One frozen `Settings` is read from the environment at the top of every notebook and handed on;
nothing else reads the environment. All paths of the project are defined here and nowhere else.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile

from utils.machinery.errors import SettingsError

PROJECT = Path(__file__).resolve().parents[1]
# Names only, so that settings can be checked without importing Keras.
DATASETS = ("sample", "flickr8k", "folder")
ENCODERS = ("xception", "xception_wide", "mobilenet_v2", "vgg16", "resnet50")
ENCODERS += ("inception_v3", "efficientnet_v2_b0")
DECODERS = ("merge", "inject", "attention")
WEIGHTS = ("imagenet", "none")  # or a file
BACKENDS = ("tensorflow", "jax", "torch")


def _in(folder: str, name: str) -> property:
    return property(lambda settings: getattr(settings, folder) / name)


@dataclass(frozen=True)
class Settings:
    """The choices of one run; every field is also an environment variable and a `make` variable."""

    dataset: str = "sample"  # DATASET: drawn here in seconds, so nobody needs a download to start
    data: Path | None = None  # DATA: folder with an existing copy of the data set
    encoder: str = "xception"  # ENCODER: the CNN, one of ENCODERS
    weights: str = "imagenet"  # WEIGHTS: "imagenet", "none" (untrained) or a local weights file
    decoder: str = "merge"  # DECODER: one of DECODERS
    epochs: int = 20  # EPOCHS: as the original recipe
    seed: int = 42  # SEED: of everything that is drawn at random
    limit: int | None = None  # LIMIT: keep so many photographs only, to try things out
    runs: Path = field(default=PROJECT / "data" / "runs")  # RUNS: where run folders are made
    # Where something is computed, and never what: see utils/machinery/devices.py.
    devices: int = 1  # DEVICES: that share every batch, of all processes together
    processes: int = 1  # PROCESSES: that work together, on one machine or several
    process: int = 0  # PROCESS: the number of this one, counted from 0
    address: str = ""  # ADDRESS: host:port of process 0, for the others to find it

    def __post_init__(self):
        for name, known in (("dataset", DATASETS), ("encoder", ENCODERS), ("decoder", DECODERS)):
            value, expected = getattr(self, name), f"one of {', '.join(known)}"
            _require(value in known, f"{name.upper()} is {value!r}", expected)
        for name, least, most in (("epochs", 1, 10_000), ("seed", 0, 2**32 - 1)):
            value = getattr(self, name)
            expected = f"a number from {least} to {most}"
            _require(least <= value <= most, f"{name.upper()} is {value}", expected)
        enough = self.limit is None or self.limit >= 12
        _require(enough, f"LIMIT is {self.limit}", "12 or more, so that every split keeps some")
        named = self.dataset != "folder" or self.data is not None
        _require(named, "DATASET is 'folder'", "DATA too, the path of that folder")
        counted = f"PROCESSES is {self.processes}, PROCESS is {self.process}"
        one_of_them = 0 <= self.process < self.processes
        _require(one_of_them, counted, "another PROCESS for each of PROCESSES, counted from 0")
        shared = self.devices >= 1 and self.devices % self.processes == 0
        counted = f"DEVICES is {self.devices}, PROCESSES is {self.processes}"
        _require(shared, counted, "the devices of all processes together, equally many in each")
        found = self.processes == 1 or ":" in self.address
        _require(found, f"ADDRESS is {self.address!r}", "host:port of process 0")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Reads the settings that are set and not empty in `environ` (default: `os.environ`).

        Relative paths count from the project's folder, wherever the notebook's kernel was started.

        Raises:
            SettingsError: a value is not of its kind, a file or folder can't be used, or
                KERAS_BACKEND is not installed; the message names the variable.
        """
        environ = os.environ if environ is None else environ
        chosen = {}
        for name, setting in cls.__dataclass_fields__.items():
            text = environ.get(name.upper(), "").strip()
            if not text:
                continue
            if setting.type in (int, int | None):
                whole = re.fullmatch(r"[+-]?\d{1,20}", text)
                _require(whole, f"{name.upper()} is {text[:40]!r}", "a whole number")
                chosen[name] = int(text)
            elif name in ("data", "runs") or (name == "weights" and text.lower() not in WEIGHTS):
                chosen[name] = _project_path(name.upper(), text)
            else:
                chosen[name] = text.lower()
        settings = cls(**chosen | {"weights": str(chosen.get("weights", cls.weights))})
        usable = settings.weights in WEIGHTS or Path(settings.weights).is_file()
        expected = "imagenet, none, or the path of a weights file"
        _require(usable, f"WEIGHTS is {settings.weights}, which is not a file", expected)
        _require_writable(settings.runs)
        backend = environ.get("KERAS_BACKEND", "").strip() or BACKENDS[0]
        usable = backend in BACKENDS and find_spec(backend)
        expected = f"one of {', '.join(BACKENDS)}, and installed"
        _require(usable, f"KERAS_BACKEND is {backend!r}", expected)
        return settings

    @property
    def dataset_folder(self) -> Path:
        return self.data or PROJECT / "data" / self.dataset

    # What depends on data set and encoder only: every run with them shares it.

    @property
    def prepared_folder(self) -> Path:
        return self.runs / f"{self.dataset}-{self.encoder}{self._changed('limit')}"

    dataset_summary_file = _in("prepared_folder", "dataset.json")
    captions_file = _in("prepared_folder", "captions.csv")
    vocabulary_file = _in("prepared_folder", "vocabulary.json")
    original_vocabulary_file = _in("prepared_folder", "vocabulary_original.json")
    features_folder = _in("prepared_folder", "features")

    # Files of this run, in the order in which the notebooks make them.

    @property
    def run_name(self) -> str:
        """Names everything that the results depend on, so no run overwrites another."""
        changed = self._changed("limit", "epochs", "seed")
        return f"{self.dataset}-{self.encoder}-{self.decoder}{changed}"

    def _changed(self, *names: str) -> str:
        changed = [name for name in names if getattr(self, name) != getattr(Settings, name)]
        return "".join(f"-{name}{getattr(self, name)}" for name in changed)

    @property
    def run_folder(self) -> Path:
        return self.runs / self.run_name

    training_folder = _in("run_folder", "training")
    decoder_file = _in("run_folder", "decoder.npz")
    original_decoder_file = _in("run_folder", "decoder_original.npz")
    first_stage_decoder_file = _in("run_folder", "decoder_first_stage.npz")
    second_stage_decoder_file = _in("run_folder", "decoder_second_stage.npz")
    training_file = _in("run_folder", "training.json")
    history_file = _in("run_folder", "history.csv")
    predictions_file = _in("run_folder", "predictions.csv")
    metrics_file = _in("run_folder", "metrics.json")
    consensus_file = _in("run_folder", "consensus.npz")
    comparison_file = _in("run_folder", "comparison.json")
    figures_folder = _in("run_folder", "figures")
    notebooks_folder = _in("run_folder", "notebooks")
    completed_file = _in("run_folder", "notebooks/completed.json")
    timings_file = _in("run_folder", "timings.json")
    report_file = _in("run_folder", "report.pdf")


def short_path(path: Path) -> Path:
    """`path` counted from the project's folder if it lies in it: what is shown names no machine."""
    return path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path


def _require(right: object, finding: str, expected: str) -> None:
    if not right:
        raise SettingsError(f"{finding}; expected {expected}.")


def _require_writable(runs: Path) -> None:
    try:
        existing = next(path for path in (runs, *runs.parents) if path.exists())
        with TemporaryFile(dir=existing):  # what permissions say doesn't hold for root, or in /proc
            pass
    except OSError as error:
        finding = f"RUNS is {runs}, which can't be written into ({error.strerror})"
        raise SettingsError(f"{finding}; expected a folder of yours.") from error


def _project_path(variable: str, text: str) -> Path:
    try:
        return PROJECT / Path(text).expanduser()
    except RuntimeError as error:  # ~somebody who has no home
        raise SettingsError(f"{variable} is {text!r}; expected a path ({error}).") from None
