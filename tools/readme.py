"""Writes numbers and picture of README.md from report/published/: `python tools/readme.py`.

Between two marks each, the README holds tables of scores, of times and of speed. They are made of
the files of the published runs and of the benchmark, so that no number in the README is typed in; a
test compares them.
"""

import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from utils.figures import photograph_grid, save, use_style
from utils.machinery.files import read_json, write_text
from utils.settings import PROJECT

README = PROJECT / "README.md"
PUBLISHED = PROJECT / "report" / "original"
LITERATURE = PROJECT / "report" / "published_results.json"
BENCHMARK = PROJECT / "report" / "benchmark.json"
PICTURE = PROJECT / "report" / "examples.png"
SCORES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
PICTURES = 6  # in two rows


def update_readme() -> None:
    """Brings README.md and its picture up to date with the published runs."""
    text = README.read_text(encoding="utf-8")
    for mark, content in texts().items():
        text = between_marks(text, mark, content)
    write_text(README, text)
    # The sample's, since that is what a newcomer gets; the report shows those of Flickr8k.
    runs = published_runs()
    folder = next((run for run in runs if run.name.startswith("sample")), runs[0])
    draw_examples(folder / "examples")


def texts() -> dict[str, str]:
    """What stands in the README between which marks."""
    return {"results": results_text(), "times": times_text(), "speed": speed_text()}


def between_marks(text: str, mark: str, content: str) -> str:
    """Replaces what stands between the two comments that begin with `mark` and end it."""
    pattern = rf"(<!-- {mark}:[^>]*-->\n).*?(<!-- end of {mark} -->)"
    replace = re.compile(pattern, re.DOTALL).subn
    changed, count = replace(lambda found: f"{found[1]}{content}\n{found[2]}", text)
    if count != 1:
        raise ValueError(f"README.md has no marks for {mark!r}; restore them from its history.")
    return changed


def published_runs() -> list[Path]:
    """Folders of the published runs, by name."""
    return sorted(file.parent for file in PUBLISHED.glob("*/metrics.json"))


def results_text() -> str:
    """A table for each published run, with how it was measured, and the literature below."""
    parts = []
    for folder in published_runs():
        metrics = read_json(folder / "metrics.json")
        encoder = metrics["encoder"]
        weights = "ImageNet weights" if encoder["trained"] else "untrained"
        images = metrics["scores"][0]["images"]
        control = metrics["control"]
        rows = [[row["name"], *_cells(row)] for row in metrics["scores"]]
        compared = read_json(folder / "comparison.json")["rows"]
        rows += [[f"compared: {row['name']}", *_cells(row["test"])] for row in compared]
        if metrics["dataset"] == "flickr8k":
            literature = read_json(LITERATURE)["results"]
            rows += [[f"*{row['system']}, {row['encoder']}*", *_cells(row)] for row in literature]
        parts.append(
            f"**{metrics['run']}**: test split of `{metrics['dataset']}`, {images:,} images; "
            f"encoder {encoder['name']} ({weights}), decoder {metrics['decoder']}, "
            f"{metrics['epochs']} epochs. Protocol: {metrics['protocol']}.\n\n"
            + _table(["", *SCORES], rows)
            + "\n\nControl: CIDEr "
            f"{control['right']:.1f} with the right photographs, {control['shuffled']:.1f} with "
            "shuffled ones."
        )
    return "\n" + "\n\n".join(parts) + "\n"


def times_text() -> str:
    """Minutes of each notebook and seconds of each epoch, a column for each published run."""
    runs = [read_json(folder / "metrics.json") for folder in published_runs()]
    timings = [read_json(folder / "timings.json") for folder in published_runs()]
    notebooks = sorted(set().union(*timings))
    rows = [
        [name, *(_duration(times[name]) if name in times else "" for times in timings)]
        for name in notebooks
    ]
    stages = {
        "original": "one epoch, original recipe",
        "ours": "one epoch, our recipe",
        "self_critical": "one epoch, self-critical stage",
    }
    for stage, text in stages.items():
        seconds = [run["recipes"][stage]["seconds_per_epoch"] for run in runs]
        rows.append([text, *map(_duration, seconds)])
    return "\n" + _table(["on two CPU cores", *(run["run"] for run in runs)], rows) + "\n"


def speed_text() -> str:
    """What the benchmark compared, and how many times as fast ours was in the same run."""
    results = read_json(BENCHMARK)
    training, search, extraction = (results[name] for name in ("training", "search", "extraction"))
    original = "original, by prefixes"
    rows = []
    for name, side in training.items():
        if isinstance(side, dict) and "share_of_peak" in side:
            old, new = (training[one]["seconds_per_epoch"] for one in (original, name))
            peak = f"{side['share_of_peak']:.0%}"
            times = _duration(old), _duration(new)
            rows.append([f"an epoch: {name}", *times, f"{old / new:.1f}x", peak])
    for beam in (1, 3, 5):
        one, ours = (search[f"{side}, beam {beam}"] for side in ("one predict a word", "ours"))
        rows.append([f"captions a second, beam {beam}", *_rates(one, ours), ""])
    sides = [extraction[name] for name in ("one predict a photograph", "ours")]
    rows.append(["photographs a second, extraction", *_rates(*sides), ""])
    share = extraction["ours"]["rate"] / extraction["the CNN alone"]["rate"]
    head = [
        f"{results['machine']['cores']} cores, {results['settings']['encoder']}",
        "original",
        "ours",
        "as fast",
        "of the peak",
    ]
    return (
        "\n"
        + _table(head, rows)
        + "\n\nThe peak is what the same machine multiplies matrices with, in float32. Extraction, "
        f"which reads the photographs too, reaches {share:.0%} of the CNN alone on pixels in "
        "memory.\n"
    )


def _rates(published: dict, ours: dict) -> list[str]:
    old, new = published["rate"], ours["rate"]
    return [f"{old:,.1f}", f"{new:,.1f}", f"{new / old:,.1f}x"]


def draw_examples(folder: Path) -> None:
    """Draws the README's picture: examples that everybody may see, with their captions."""
    examples = read_json(folder / "examples.json")
    step = max(1, len(examples) // PICTURES)
    chosen = examples[::step][:PICTURES]
    use_style()
    figure = photograph_grid(
        [folder / example["file"] for example in chosen],
        [example["caption"] for example in chosen],
        columns=3,
    )
    save(figure, PICTURE)
    plt.close(figure)


def _cells(row: dict) -> list[str]:
    return [f"{row[score]:.1f}" if score in row else "" for score in SCORES]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


if __name__ == "__main__":
    sys.exit(update_readme())
