"""The figure of the benchmark: how many times as fast, and how memory grows."""

from pathlib import Path

import matplotlib.pyplot as plt

from utils.figures import BARS, BLUE, GREEN, ORANGE, RED, save, use_style

LINES = {
    "extraction": (BLUE, "o"),
    "training merge": (RED, "s"),
    "training attention": (GREEN, "^"),
    "search": (ORANGE, "D"),
}


def ratios(results: dict) -> dict[str, float]:
    """How many times as fast ours is as the original recipe, for everything that was compared."""

    def epoch(side: str) -> float:
        return results["training"][side]["seconds_per_epoch"]

    original = epoch("original, by prefixes")
    found = {
        "epoch, same size and vocabulary": original / epoch("same size and vocabulary"),
        "epoch, same size, default vocabulary": original / epoch("same size, default vocabulary"),
        "epoch, default recipe, merge": original / epoch("default recipe, merge"),
    }
    for beam in (1, 3, 5):
        one, ours = (f"{side}, beam {beam}" for side in ("one predict a word", "ours"))
        name = "search, greedy" if beam == 1 else f"search, beam {beam}"
        found[name] = results["search"][ours]["rate"] / results["search"][one]["rate"]
    extraction = results["extraction"]
    found["extraction"] = (
        extraction["ours"]["rate"] / extraction["one predict a photograph"]["rate"]
    )
    return found


def draw(results: dict, file: Path) -> Path:
    """Draws both panels and returns the path of the figure."""
    use_style()
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.3, 2.9), width_ratios=(3, 2))
    found = ratios(results)
    bars = left.barh(list(found), list(found.values()), height=0.7, **BARS)
    labels = [f"{ratio:,.{0 if ratio >= 100 else 1}f}x" for ratio in found.values()]
    left.bar_label(bars, labels, padding=3)
    left.invert_yaxis()
    left.set(xscale="log", xlabel="times as fast as original", xlim=(0.9, 8 * max(found.values())))
    left.xaxis.set_major_formatter("{x:,.0f}")  # no powers, which would need mathematical text
    left.grid(axis="y", visible=False)
    for stage, (colour, marker) in LINES.items():
        rows = results["growth"][stage]
        right.plot(
            [row["photographs"] for row in rows],
            [row["megabytes"] / 1000 for row in rows],
            color=colour,
            marker=marker,
            label=stage,
        )
    right.set(xlabel="photographs", ylabel="peak memory (GB)")
    right.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=4)
    return save(figure, file)
