"""What a run is made of: data set, encoder, decoder, epochs, seed, and where its files lie.

One frozen `Settings` is read from the environment at the top of every notebook. All paths of the
project are spelt here and nowhere else.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from utils.machinery.errors import SettingsError

PROJECT = Path(__file__).resolve().parents[1]
DATASETS = ("sample", "flickr8k")


@dataclass(frozen=True)
class Settings:
    """The choices of one run; every field is also an environment variable and a `make` variable."""

    dataset: str = "sample"  # DATASET: drawn here in seconds, so nobody needs a download to start
    data: Path | None = None  # DATA: folder with an existing copy of the data set
    encoder: str = "xception"  # ENCODER: the CNN, a key of utils.encoder.ENCODERS
    weights: str = "imagenet"  # WEIGHTS: "imagenet", "none" (untrained) or a local weights file
    decoder: str = "merge"  # DECODER: a key of utils.decoder.DECODERS
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
        if self.dataset not in DATASETS:
            raise SettingsError(
                f"DATASET is {self.dataset!r}; expected one of {', '.join(DATASETS)}."
            )
        if self.epochs < 1:
            raise SettingsError(f"EPOCHS is {self.epochs}; expected 1 or more (20 as published).")
        if self.limit is not None and self.limit < 12:
            raise SettingsError(
                f"LIMIT is {self.limit}; expected 12 photographs or more, so that every split "
                "keeps some, or nothing for all of them."
            )
        if self.processes < 1 or not 0 <= self.process < self.processes:
            raise SettingsError(
                f"PROCESS is {self.process} and PROCESSES {self.processes}; expected 1 or more "
                "PROCESSES, and for each of them another PROCESS, counted from 0."
            )
        if self.devices < 1 or self.devices % self.processes:
            raise SettingsError(
                f"DEVICES is {self.devices} and PROCESSES {self.processes}; expected the devices "
                "of all processes together, equally many in each."
            )
        if self.processes > 1 and ":" not in self.address:
            raise SettingsError(
                f"ADDRESS is {self.address!r}; expected host:port of process 0, such as "
                "10.0.0.1:5000, where the other processes find it."
            )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Reads the settings that are set and not empty in `environ` (default: `os.environ`).

        Relative paths count from the project's folder, wherever the notebook's kernel was started.

        Raises:
            SettingsError: a value is not of its kind; the message names the variable.
        """
        environ = os.environ if environ is None else environ
        convert = {
            "data": _project_path,
            "weights": _weights,
            "runs": _project_path,
            "epochs": _whole_number,
            "seed": _whole_number,
            "limit": _whole_number,
            "devices": _whole_number,
            "processes": _whole_number,
            "process": _whole_number,
        }
        chosen = {}
        for name in cls.__dataclass_fields__:
            text = environ.get(name.upper(), "").strip()
            if text:
                chosen[name] = convert.get(name, _name)(name.upper(), text)
        return cls(**chosen)

    @property
    def dataset_folder(self) -> Path:
        return self.data or PROJECT / "data" / self.dataset

    # Files of this run, in the order in which the notebooks make them.

    @property
    def run_name(self) -> str:
        name = f"{self.dataset}-{self.encoder}-{self.decoder}"
        return name if self.limit is None else f"{name}-limit{self.limit}"

    @property
    def run_folder(self) -> Path:
        return self.runs / self.run_name

    @property
    def dataset_summary_file(self) -> Path:
        return self.run_folder / "dataset.json"

    @property
    def captions_file(self) -> Path:
        return self.run_folder / "captions.csv"

    @property
    def vocabulary_file(self) -> Path:
        return self.run_folder / "vocabulary.json"

    @property
    def original_vocabulary_file(self) -> Path:
        return self.run_folder / "vocabulary_original.json"

    @property
    def features_folder(self) -> Path:
        return self.run_folder / "features"

    @property
    def training_folder(self) -> Path:
        return self.run_folder / "training"

    @property
    def decoder_file(self) -> Path:
        return self.run_folder / "decoder.npz"

    @property
    def original_decoder_file(self) -> Path:
        return self.run_folder / "decoder_original.npz"

    @property
    def first_stage_decoder_file(self) -> Path:
        return self.run_folder / "decoder_first_stage.npz"

    @property
    def second_stage_decoder_file(self) -> Path:
        return self.run_folder / "decoder_second_stage.npz"

    @property
    def training_file(self) -> Path:
        return self.run_folder / "training.json"

    @property
    def history_file(self) -> Path:
        return self.run_folder / "history.csv"

    @property
    def captioner_file(self) -> Path:
        return self.run_folder / "captioner.json"

    @property
    def predictions_file(self) -> Path:
        return self.run_folder / "predictions.csv"

    @property
    def metrics_file(self) -> Path:
        return self.run_folder / "metrics.json"

    @property
    def consensus_file(self) -> Path:
        return self.run_folder / "consensus.npz"

    @property
    def comparison_file(self) -> Path:
        return self.run_folder / "comparison.json"

    @property
    def figures_folder(self) -> Path:
        return self.run_folder / "figures"

    @property
    def notebooks_folder(self) -> Path:
        return self.run_folder / "notebooks"

    @property
    def completed_file(self) -> Path:
        return self.notebooks_folder / "completed.json"

    @property
    def timings_file(self) -> Path:
        return self.run_folder / "timings.json"

    @property
    def report_file(self) -> Path:
        return self.run_folder / "report.pdf"


def short_path(path: Path) -> Path:
    """`path` counted from the project's folder if it lies in it: what is shown names no machine."""
    return path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path


def _name(variable: str, text: str) -> str:
    return text.lower()


def _whole_number(variable: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise SettingsError(f"{variable} is {text!r}; expected a whole number.") from None


def _project_path(variable: str, text: str) -> Path:
    return PROJECT / Path(text).expanduser()


def _weights(variable: str, text: str) -> str:
    return text.lower() if text.lower() in ("imagenet", "none") else str(_project_path("", text))
