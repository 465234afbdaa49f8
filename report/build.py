"""Builds the report of a run: `python report/build.py`, with the settings of the run.

Everything in the report is read from files of the run. `--publish` also keeps those files (numbers,
charts and pictures that may be shown to everybody) in report/published/ and builds
report/report.pdf from them; `--from report/published/<run>` builds that again without any run.
"""

import argparse
import csv
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typst
from PIL import Image

from tools.markdown import ENCODERS
from tools.report_charts import draw_attention, draw_original_recipe, draw_run
from utils.machinery.errors import CaptionProjectError, MissingStageError, StaleArtefactError
from utils.machinery.files import atomic_path, read_json, write_json
from utils.machinery.quiet import quiet_start
from utils.settings import PROJECT, Settings, short_path

if TYPE_CHECKING:
    from utils.captioner import Captioner

REPORT = PROJECT / "report"
PUBLISHED = REPORT / "published"
PUBLISHED_REPORT = REPORT / "report.pdf"
SOURCES = ("report.typ", "references.bib", "published_results.json", "robustness.json")
SOURCES += ("kill_resume.json", "benchmark.json", "benchmark.svg", "features_on_dev.json")

# What the report reads of a run and may be published, and what makes it. Charts only: pictures in
# a run's figures folder can show photographs of Flickr8k, which nobody here may pass on.
NEEDED = {
    "metrics.json": "notebook 05",
    "history.csv": "notebook 04",
    "figures/vocabulary_threshold.svg": "notebook 02",
    "figures/architecture.svg": "notebook 04",
    "figures/architecture_ours.svg": "notebook 04",
    "figures/caption_statistics.svg": "notebook 05",
    "comparison.json": "notebook 06",
    "recipes.json": "report/build.py without --from",
    "run.json": "report/build.py without --from",
    "examples/examples.json": "report/build.py without --from",
}
TIMINGS = "timings.json"  # may be missing: only `make run` takes the time

EXAMPLE_SIDE = 480  # pixels: sharp enough at a third of a page's width
SCENES = 6  # of the sample

Describe = Callable[[Sequence[Image.Image]], list[str]]


def build(settings: Settings, describe: Describe | None = None) -> Path:
    """Captions the examples of a run, builds its report and returns the path of the PDF.

    Args:
        settings: of a finished run.
        describe: captions pictures; default is the run's captioner.

    Raises:
        MissingStageError: a file of the run is missing; the message names all of them, and what
            makes each.
    """
    made_here = {name for name, maker in NEEDED.items() if maker.startswith("report/")}
    _require(settings.run_folder, set(NEEDED) - made_here)
    make_examples(settings, describe)
    return compile_report(settings.run_folder, settings.report_file)


def publish(settings: Settings, describe: Describe | None = None) -> Path:
    """Builds a run's report, keeps what it is made of, and builds report/report.pdf from that."""
    build(settings, describe)
    kept = PUBLISHED / settings.run_name
    part = kept.with_name(f".{kept.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    copy_run(settings.run_folder, part)
    shutil.rmtree(kept, ignore_errors=True)
    part.rename(kept)
    return compile_report(kept, PUBLISHED_REPORT)


def compile_report(run_folder: Path, target: Path) -> Path:
    """Typesets the report of a run folder, or of what was kept of one, into `target`.

    The same files give the same bytes: the date is that of the run, and the fonts are Typst's own.

    Raises:
        MissingStageError: a file of the run is missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = lay_out(run_folder, Path(folder))
        pdf = typst.compile(source, root=folder, format="pdf", ignore_system_fonts=True)
    with atomic_path(target) as part:
        part.write_bytes(pdf)
    return target


def lay_out(run_folder: Path, folder: Path) -> Path:
    """Puts all that Typst reads into `folder`, and returns the path of the source there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SOURCES:
        shutil.copy(REPORT / name, folder)
    copy_run(run_folder, folder / "run")
    draw_run(run_folder, folder / "run" / "figures")
    runs = runs_beside(run_folder)
    write_json(folder / "beside.json", runs)
    if len(runs) > 1:
        histories = {run["encoder"]: run["original_history"] for run in runs}
        draw_original_recipe(histories, folder / "original_recipe.svg")
    return folder / "report.typ"


def runs_beside(run_folder: Path) -> list[dict]:
    """The published runs on the same test photographs, one for each encoder, this run among them.

    Each holds what its `metrics.json` and `comparison.json` do, the encoder's name for readers, and
    the original recipe's losses and dev CIDEr by epoch. The encoder of the original recipe comes
    first. Of two published runs with the same encoder the one that is better on dev is taken. A run
    whose encoder is untrained has no others beside it.
    """
    this = _compared(run_folder)
    of_encoder = {}
    published = sorted(PUBLISHED.glob("*/metrics.json"))
    for file in published if this["metrics"]["encoder"]["trained"] else ():
        other = _compared(file.parent)
        name = other["metrics"]["encoder"]["name"]
        if _conditions(other) == _conditions(this) and _on_dev(other) > _on_dev(
            of_encoder.get(name)
        ):
            of_encoder[name] = other
    of_encoder[this["metrics"]["encoder"]["name"]] = this
    first = read_json(REPORT / "published_results.json")["recipe"]["encoder"]
    return [of_encoder[name] for name in sorted(of_encoder, key=lambda name: (name != first, name))]


def _compared(run_folder: Path) -> dict:
    metrics = read_json(run_folder / "metrics.json")
    with (run_folder / "history.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["recipe"] == "original"]
    name = metrics["encoder"]["name"]
    return {
        "metrics": metrics,
        "comparison": read_json(run_folder / "comparison.json"),
        "encoder": ENCODERS.get(name, name),
        "original_history": [
            {key: float(row[key]) for key in ("epoch", "loss", "dev_loss", "dev_cider")}
            for row in rows
        ],
    }


def _conditions(run: dict) -> tuple:
    """What two runs must share for their scores to compare."""
    metrics = run["metrics"]
    counts = metrics["counts"]["photographs"]
    return (
        metrics["dataset"],
        metrics["protocol"],
        counts,
        metrics["encoder"]["trained"] or object(),
    )


def _on_dev(run: dict | None) -> float:
    return max(row["CIDEr"] for row in run["metrics"]["search_on_dev"]) if run else 0.0


def copy_run(run_folder: Path, folder: Path) -> None:
    """Copies of a run what the report reads, and nothing else.

    Raises:
        MissingStageError: a file of the run is missing.
        StaleArtefactError: a chart holds a picture, or an example has no licence.
    """
    _require(run_folder, NEEDED)
    examples = read_json(run_folder / "examples" / "examples.json")
    pictures = [
        f"examples/{Path(example[kind]).name}"
        for example in examples
        for kind in ("file", "attention")
        if kind in example
    ]
    _require(run_folder, pictures)
    for example in examples:
        if not (example["source"] and example["licence"]):
            raise StaleArtefactError(
                f"The example {example['file']} names no source or no licence; only pictures that "
                "may be shown to everybody go into the report. Delete examples/ and build again."
            )
    for name in (*NEEDED, *pictures):
        if name.endswith(".svg") and "<image" in (run_folder / name).read_text(encoding="utf-8"):
            raise StaleArtefactError(
                f"{name} holds a picture made of pixels, expected a chart: it can show a "
                "photograph that may not be passed on. Run the notebook that makes it again."
            )
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run_folder / name, target)
    timed = run_folder / TIMINGS
    write_json(folder / TIMINGS, read_json(timed) if timed.exists() else {})


def make_examples(settings: Settings, describe: Describe | None = None) -> None:
    """Writes pictures that everybody may see, with the model's captions, recipes and the date."""
    # Imports Keras, which typesetting alone needn't wait for.
    with quiet_start():
        import keras  # noqa: F401
    from utils.decoder import DecoderOptions
    from utils.self_critical import our_stage
    from utils.training import ORIGINAL, our_recipe

    captioner = None
    if describe is None:
        from utils.captioner import Captioner

        captioner = Captioner.load(settings.run_folder, settings.weights)
        describe = captioner.captions
    folder = settings.run_folder / "examples"
    pictures, examples = _pictures(settings)
    for number, (picture, example, caption) in enumerate(
        zip(pictures, examples, describe(pictures), strict=True), start=1
    ):
        example |= {"file": f"example_{number:02}.jpg", "caption": caption}
        small = picture.copy()
        small.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE))
        with atomic_path(folder / example["file"]) as part:
            small.save(part, quality=88)
    if captioner is not None and settings.decoder == "attention":
        add_attention(captioner, pictures, examples, folder)
    write_json(folder / "examples.json", examples)
    both = (ORIGINAL, our_recipe(settings.dataset, settings.decoder))
    recipes = {
        recipe.name: asdict(recipe)
        | {"decoder_options": asdict(DecoderOptions(**recipe.decoder_options))}
        for recipe in both
    }
    recipes["self_critical"] = asdict(our_stage(settings.dataset))
    write_json(settings.run_folder / "recipes.json", recipes)
    ended = settings.metrics_file.stat().st_mtime if settings.metrics_file.exists() else time.time()
    date = datetime.fromtimestamp(ended, UTC).date().isoformat()
    write_json(settings.run_folder / "run.json", {"date": date})


def add_attention(
    captioner: "Captioner", pictures: Sequence[Image.Image], examples: list[dict], folder: Path
) -> None:
    """Draws where an attention decoder looked at the first and the last picture.

    `examples`, in the order of `pictures`, get the name of the picture under "attention".
    """
    for place in (0, len(pictures) - 1):
        found = captioner.hypotheses([pictures[place]])[0][0]
        words = [*captioner.vocabulary.decode(found.token_ids), "<end>"]
        name = f"attention_{place + 1:02}.jpg"
        draw_attention(pictures[place], words, found.attention, folder / name)
        examples[place]["attention"] = name


def _pictures(settings: Settings) -> tuple[list[Image.Image], list[dict]]:
    """Pictures that the run's decoder can speak of, and for each what has to be said beside it."""
    from tools.free_photographs import free_photographs
    from utils.dataset import load_dataset
    from utils.photographs import open_photograph

    if settings.dataset != "sample":
        free = free_photographs()
        return [one.open() for one in free], [
            {"source": one.source, "licence": one.licence, "familiar": one.familiar} for one in free
        ]
    dataset = load_dataset(settings)
    scenes = [dataset.photo_path(photo) for photo in dataset.splits["test"][:SCENES]]
    return [open_photograph(scene) for scene in scenes], [
        {"source": f"drawn: {scene.stem}", "licence": "MIT", "familiar": True} for scene in scenes
    ]


def _require(run_folder: Path, names: Iterable[str]) -> None:
    missing = [name for name in names if not (run_folder / name).exists()]
    if missing:
        listed = "\n".join(f"  {name} ({NEEDED.get(name, 'report/build.py')})" for name in missing)
        raise MissingStageError(
            f"The report needs files that {short_path(run_folder)} doesn't have; in brackets is "
            f"what makes them:\n{listed}\n`make run` with the settings of the run makes them all."
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python report/build.py", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--publish", action="store_true", help="keep the run's files in report/")
    what.add_argument(
        "--from", dest="kept", type=Path, metavar="FOLDER", help="build report/report.pdf of FOLDER"
    )
    options = parser.parse_args(arguments)
    try:
        if options.kept:
            report = compile_report(options.kept.resolve(), PUBLISHED_REPORT)
        elif options.publish:
            report = publish(Settings.from_environment())
        else:
            report = build(Settings.from_environment())
    except CaptionProjectError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(f"Report: {short_path(report)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
