"""Writes the tables and the picture of README.md from the files of the published runs and of the
benchmark: `python -m tools.readme`. A test compares them, so none of their figures is typed in."""

import re
from collections.abc import Sequence
from pathlib import Path

from tools.markdown import ENCODERS, search_words, table
from utils.figures import photograph_grid, save_picture, use_style
from utils.machinery.files import read_json, write_text
from utils.settings import PROJECT

README = PROJECT / "README.md"
PUBLISHED = PROJECT / "report" / "published"
LITERATURE = PROJECT / "report" / "published_results.json"
BENCHMARK = PROJECT / "report" / "benchmark.json"
PICTURE = PROJECT / "report" / "examples.jpg"
SCORES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
HEADLINE = ("BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
PICTURES = 6  # in two rows
NOTEBOOKS = 6  # 01 to 06


def update_readme() -> None:
    """Brings README.md and its picture up to date with the published runs."""
    text = README.read_text(encoding="utf-8")
    for mark, content in texts().items():
        text = between_marks(text, mark, content)
    write_text(README, text)
    draw_examples(best_run() / "examples")


def texts() -> dict[str, str]:
    """What belongs between which marks of the README."""
    return {"results": results_text(), "times": times_text(), "speed": speed_text()}


def between_marks(text: str, mark: str, content: str) -> str:
    """Replaces the text between the comments that open and close `mark`."""
    pattern = rf"(<!-- {mark}:[^>]*-->\n).*?(<!-- end of {mark} -->)"
    replace = re.compile(pattern, re.DOTALL).subn
    changed, count = replace(lambda found: f"{found[1]}{content}\n{found[2]}", text)
    if count != 1:
        raise ValueError(f"README.md has no marks for {mark!r}; restore them from its history.")
    return changed


def published_runs() -> list[Path]:
    """Folders of the published runs, by name."""
    return sorted(file.parent for file in PUBLISHED.glob("*/metrics.json"))


def best_run() -> Path:
    """The published run on Flickr8k that is best on dev."""
    runs = {folder: read_json(folder / "metrics.json") for folder in published_runs()}
    on_dev = {
        folder: max(row["CIDEr"] for row in run["search_on_dev"])
        for folder, run in runs.items()
        if run["dataset"] == "flickr8k"
    }
    return max(on_dev, key=on_dev.get)


def results_text() -> str:
    """The best rows of all runs on Flickr8k beside the literature, then every row of each run."""
    runs = [
        (read_json(folder / "metrics.json"), read_json(folder / "comparison.json")["rows"])
        for folder in published_runs()
    ]
    protocols = dict.fromkeys(metrics["protocol"] for metrics, _ in runs)
    parts = [f"Protocol of our scores: {protocol}." for protocol in protocols]
    parts.append(headline_text([run for run in runs if run[0]["dataset"] == "flickr8k"]))
    parts += [run_text(*run) for run in runs]
    return "\n" + "\n\n".join(part for part in parts if part) + "\n"


def headline_text(runs: list[tuple[dict, list[dict]]]) -> str:
    """One table of all runs on Flickr8k, the original recipe's encoder first, and the literature.

    Args:
        runs: of each run the content of `metrics.json`, and the rows of `comparison.json`.
    """
    if not runs:
        return ""
    literature = read_json(LITERATURE)
    first = literature["recipe"]["encoder"]
    rows = []
    for metrics, compared in sorted(runs, key=lambda run: run[0]["encoder"]["name"] != first):
        encoder = encoder_words(metrics["encoder"])
        rows += [[encoder, *row] for row in headline_rows(metrics, compared)]
    rows += [
        [
            f"*{row['encoder']}*",
            f"*{row['system']}*",
            _published_search(row),
            *_cells(row, HEADLINE),
        ]
        for row in literature["results"]
    ]
    return table(["encoder", "system", "search", *HEADLINE], rows, texts=3)


def headline_rows(metrics: dict, compared: list[dict]) -> list[list[str]]:
    """Of a run the original recipe, ours, the best single decoder on dev, and those with help."""
    rows = system_rows(metrics, compared, HEADLINE)
    by_scores = {tuple(row[2:]): row for row in rows}
    chosen = max(metrics["search_on_dev"], key=lambda row: row["CIDEr"])
    of_ours = [row for row in metrics["scores"] if row["recipe"] == "ours"]
    ours = [
        row
        for row in of_ours
        if (row["beam"], row["length_penalty"]) == (chosen["beam"], chosen["length_penalty"])
    ]
    scores = [
        [row for row in metrics["scores"] if row["recipe"] == "original"][-1],
        (ours or of_ours)[-1],
    ]
    alone = [row for row in compared if len(row["decoders"]) == 1 and not row.get("voters")]
    scores.append(max(alone, key=lambda row: row["dev"]["CIDEr"])["test"])  # of another seed maybe
    scores += [row["test"] for row in compared if row not in alone]
    return list(
        {key: by_scores[key] for key in (tuple(_cells(row, HEADLINE)) for row in scores)}.values()
    )


def run_text(metrics: dict, compared: list[dict]) -> str:
    """Every row of a run, folded away under a line that says how it was made."""
    control, recipes = metrics["control"], metrics["recipes"]
    epochs = (
        f"original recipe {recipes['original']['epochs']} epochs, ours {recipes['ours']['epochs']} "
        f"and {recipes['self_critical']['epochs']} self-critical ones"
    )
    name = {"flickr8k": "Flickr8k", "sample": "the drawn sample"}.get(
        metrics["dataset"], metrics["dataset"]
    )
    return (
        f"<details><summary><b>All rows of {metrics['run']}</b></summary>\n\n"
        f"Test split of {name}, {metrics['scores'][0]['images']:,} photographs; encoder "
        f"{encoder_words(metrics['encoder'])}; {epochs}.\n\n"
        f"{table(['system', 'search', *SCORES], system_rows(metrics, compared), texts=2)}\n\n"
        f"Control: our captions, with the search that dev chose, have CIDEr {control['right']:.1f} "
        f"with the right photographs and {control['shuffled']:.1f} with shuffled ones."
        "\n\n</details>"
    )


def encoder_words(encoder: dict) -> str:
    """The encoder's name for readers, and whether it is untrained."""
    name = ENCODERS.get(encoder["name"], encoder["name"])
    return name if encoder["trained"] else f"{name}, untrained"


def system_rows(
    metrics: dict, compared: list[dict], columns: Sequence[str] = SCORES
) -> list[list[str]]:
    """A row for each system and search of a run; those with equal scores share one row.

    Args:
        metrics: content of `metrics.json`.
        compared: rows of `comparison.json`.
        columns: which scores are shown.
    """
    decoder = metrics["decoder"]
    names = {"original": "original recipe"}
    names |= {stage: f"{decoder}, {stage}" for stage in ("first stage", "second stage")}
    names["ours"] = names[metrics["stage"]]
    found = [(names[row["recipe"]], search_words(row), row) for row in metrics["scores"]]
    for row in compared:
        alone = row["decoders"] == [row["name"]]
        name = f"{row['name']}, first stage" if alone else row["name"]
        found.append((name, search_words(row), row["test"]))
    merged: dict[tuple, list[tuple[str, str]]] = {}
    for name, words, scores in found:
        merged.setdefault(tuple(_cells(scores)), []).append((name, words, scores))
    rows = []
    for same in merged.values():
        name = " = ".join(dict.fromkeys(name for name, *_ in same))
        # Of several descriptions of one search the longest tells most.
        words = max((words for _, words, _ in same), key=len)
        rows.append([name, words, *_cells(same[0][2], columns)])
    return rows


def _published_search(row: dict) -> str:
    return "–" if "beam" not in row else "greedy" if row["beam"] == 1 else f"beam {row['beam']}"


def times_text() -> str:
    """Minutes of each notebook, of all and of an epoch of each stage, a column for each run."""
    runs = [read_json(folder / "metrics.json") for folder in published_runs()]
    timings = [read_json(folder / "timings.json") for folder in published_runs()]
    rows = [
        [name, *(_duration(times[name]) if name in times else "–" for times in timings)]
        for name in sorted(set().union(*timings))
    ]
    whole = [sum(times.values()) if len(times) == NOTEBOOKS else None for times in timings]
    rows.append(["together", *("–" if time is None else _duration(time) for time in whole)])
    stages = {
        "original": "one epoch, original recipe",
        "ours": "one epoch, our recipe",
        "self_critical": "one epoch, self-critical stage",
    }
    for stage, text in stages.items():
        rows.append(
            [text, *(_duration(run["recipes"][stage]["seconds_per_epoch"]) for run in runs)]
        )
    return f"\n{table(['on two CPU cores', *(run['run'] for run in runs)], rows)}\n"


def speed_text() -> str:
    """What the benchmark compared: both sides, and how many times faster ours was."""
    results = read_json(BENCHMARK)
    training, search, extraction = (results[name] for name in ("training", "search", "extraction"))
    rows = []
    for name, side in training.items():
        if isinstance(side, dict) and "share_of_peak" in side:
            sides = training["original, by prefixes"], side
            old, new = (one["seconds_per_epoch"] for one in sides)
            peak = f"{side['share_of_peak']:.0%}"
            rows.append(
                [f"an epoch: {name}", _duration(old), _duration(new), _times(old / new), peak]
            )
    for beam in (1, 3, 5):
        sides = (search[f"{side}, beam {beam}"] for side in ("one predict a word", "ours"))
        rows.append([f"captions a second, beam {beam}", *_rates(*sides), ""])
    sides = (extraction[name] for name in ("one predict a photograph", "ours"))
    rows.append(["photographs a second, extraction", *_rates(*sides), ""])
    share = extraction["ours"]["rate"] / extraction["the CNN alone"]["rate"]
    encoder = results["settings"]["encoder"]
    machine = f"{results['machine']['cores']} cores, {ENCODERS.get(encoder, encoder)}"
    return (
        f"\n{table([machine, 'original', 'ours', 'ratio', 'of the peak'], rows)}\n\n"
        "A ratio of 2x means half the time. The peak is the rate at which the same machine "
        "multiplies float32 matrices. Extraction, which also reads the photographs, reaches "
        f"{share:.0%} of the CNN alone on pixels in memory.\n"
    )


def _rates(original: dict, ours: dict) -> list[str]:
    old, new = original["rate"], ours["rate"]
    return [f"{old:,.1f}", f"{new:,.1f}", _times(new / old)]


def _times(ratio: float) -> str:
    return f"{ratio:,.1f}x" if ratio < 100 else f"{ratio:,.0f}x"


def draw_examples(folder: Path) -> None:
    """Draws the README's picture: examples that everybody may see, with their captions."""
    examples = read_json(folder / "examples.json")
    step = max(1, len(examples) // PICTURES)
    chosen = examples[::step][:PICTURES]
    use_style()
    figure = photograph_grid(
        [folder / example["file"] for example in chosen],
        [f"{one['caption']}\n({one['source']}, {one['licence']})" for one in chosen],
        columns=3,
    )
    save_picture(figure, PICTURE)


def _cells(row: dict, columns: Sequence[str] = SCORES) -> list[str]:
    return [f"{row[score]:.1f}" if score in row else "–" for score in columns]


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


if __name__ == "__main__":
    update_readme()
