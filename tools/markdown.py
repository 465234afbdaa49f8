"""What README, report and model cards show in the same way: encoders, tables, and the search."""

from collections.abc import Iterable, Sequence

ENCODERS = {
    "xception": "Xception, last block",
    "xception_wide": "Xception, last two blocks",
    "mobilenet_v2": "MobileNetV2",
    "vgg16": "VGG16",
    "resnet50": "ResNet50",
    "inception_v3": "InceptionV3",
    "efficientnet_v2_b0": "EfficientNetV2-B0",
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """A Markdown table; the first `texts` columns are text, the others right-aligned numbers."""
    rule = ["---"] * texts + ["---:"] * (len(head) - texts)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))


def search_words(row: dict) -> str:
    """The search that a row was made with: "beam 5, length penalty 0.7"."""
    beam, temperature = row["beam"], row.get("inverse_temperature")
    if row.get("consensus") or temperature is not None:
        words = f"consensus of {beam}, length penalty {row['length_penalty']:g}"
        words += "" if temperature is None else f", inverse temperature {temperature:g}"
        return words + (f", neighbours' share {row['voters']:g}" if row.get("voters") else "")
    return "greedy" if beam == 1 else f"beam {beam}, length penalty {row['length_penalty']:g}"
