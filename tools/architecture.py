"""The architecture figure: any functional Keras model's graph, drawn from the model itself.

Layers are boxes and stand in rows: each one row above the layers that it feeds. An arrow over more
than one row goes through empty places of the rows between, so that it meets no box (Sugiyama et al.
1981, "Methods for visual understanding of hierarchical system structures", much simplified).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

if TYPE_CHECKING:  # importing Keras takes seconds, which charts of captions needn't cost
    import keras

BOX_WIDTH, BOX_HEIGHT = 1.72, 0.66  # inches, as are all measures of the figure
COLUMN_WIDTH, ROW_HEIGHT = 1.94, 0.92
ARRIVAL_GAP = 0.4  # between the heads of arrows that come to the same box
INPUT_COLOUR, TRAINED_COLOUR, PLAIN_COLOUR = "#e6e6e6", "#cfe3f5", "#ffffff"
LINE_COLOUR = "#333333"

Call = tuple[str, int]  # a layer's name and which of its calls: a layer can be used more than once
_FOLDED = ("Dropout", "Reshape")  # stand in the box of the layer before, where nothing branches off


@dataclass(frozen=True)
class Graph:
    """Where every call of a layer stands.

    Attributes:
        places: column (may be a fraction) and row of each call, row 0 at the top.
        routes: the places that each arrow visits, from a call to the call that it feeds.
    """

    places: dict[Call, tuple[float, int]]
    routes: list[list[tuple[float, int]]]


def architecture(model: "keras.Model", ax: Axes | None = None) -> Axes:
    """Draws a functional model: name, class, output shape and parameters of every layer.

    Layers with trained weights are tinted, inputs are grey; dropout and reshaping stand in the box
    of the layer before. In a shape, `n` is the number of photographs in a batch, `k` that of
    captions each has, and `length` that of their tokens; all three are free.

    Args:
        ax: where to draw, text being scaled to it; without it a figure is made that is as large as
            the model needs.

    Raises:
        ValueError: the model is not functional, so it has no graph to draw.
    """
    feeds = _feeds(model)
    folded = _fold(feeds, model)
    graph = _graph(feeds)
    columns = [column for route in graph.routes for column, _ in route]
    columns += [column for column, _ in graph.places.values()]
    left, right = min(columns), max(columns)
    rows = 1 + max(row for _, row in graph.places.values())
    width, height = (right - left) * COLUMN_WIDTH + BOX_WIDTH, (rows - 1) * ROW_HEIGHT + BOX_HEIGHT
    if ax is None:
        _, ax = plt.subplots(figsize=(width + 0.2, height + 0.2), layout="constrained")

    def position(place: tuple[float, int]) -> tuple[float, float]:
        return (place[0] - left) * COLUMN_WIDTH + BOX_WIDTH / 2, -place[1] * ROW_HEIGHT

    ax.set(xlim=(-0.05, width + 0.05), ylim=(BOX_HEIGHT / 2 - height - 0.05, BOX_HEIGHT / 2 + 0.05))
    ax.set_aspect("equal")
    ax.axis("off")
    ax.figure.draw_without_rendering()  # settles how large the axes are
    scale = ax.get_position().width * ax.figure.get_figwidth() / (width + 0.1)
    for call, place in graph.places.items():
        _draw_box(ax, _texts(model, call, folded[call]), *position(place), scale)
        arriving = sorted(
            (route for route in graph.routes if route[-1] == place), key=lambda route: route[-2]
        )
        for number, route in enumerate(arriving):
            *points, (x, y) = map(position, route)
            aside = (number - (len(arriving) - 1) / 2) * ARRIVAL_GAP
            _draw_arrow(ax, [*points, (x + aside, y)])
    return ax


def _feeds(model: "keras.Model") -> dict[Call, list[Call]]:
    """Every call of a layer in the model, with the calls whose outputs it takes."""
    layers = model.get_config().get("layers", [])
    if not layers or not all("inbound_nodes" in layer for layer in layers):
        raise ValueError(
            f"The model {model.name!r} is a {type(model).__name__} without a graph of layers; "
            "expected a functional one: keras.Model(inputs, outputs)."
        )
    return {
        (layer["name"], number): list(dict.fromkeys(_sources(node)))
        for layer in layers
        for number, node in enumerate(layer["inbound_nodes"] or [{}])  # an Input has no node
    }


def _fold(feeds: dict[Call, list[Call]], model: "keras.Model") -> dict[Call, list[Call]]:
    """Takes small layers out of `feeds`; returns which ones now stand in the box of each call."""
    folded = {call: [] for call in feeds}
    for call, sources in list(feeds.items()):
        small = type(model.get_layer(call[0])).__name__ in _FOLDED and len(sources) == 1
        before = next((box for box in feeds if sources and sources[0] in [box, *folded[box]]), None)
        users = [other for other in feeds if sources and sources[0] in feeds[other]]
        if small and feeds[before] and users == [call]:
            folded[before] += [call, *folded.pop(call)]
            del feeds[call]
    for call, sources in feeds.items():
        feeds[call] = [next(box for box in feeds if one in [box, *folded[box]]) for one in sources]
    return folded


def _sources(node) -> Iterator[Call]:
    """Finds the tensors in the arguments of a call, wherever they are nested."""
    if isinstance(node, dict):
        if "keras_history" in node:
            name, number, _ = node["keras_history"]
            yield name, number
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            yield from _sources(part)


def _graph(feeds: dict[Call, list[Call]]) -> Graph:
    row_of = _rows(feeds)
    # An arrow is cut at every row that it passes; the places between are reserved for it alone.
    parents = {call: [] for call in feeds}
    routes = []
    for call, sources in feeds.items():
        for source in sources:
            between = [(source, call, row) for row in range(row_of[source] + 1, row_of[call])]
            route = [source, *between, call]
            for upper, lower in pairwise(route):
                parents.setdefault(lower, []).append(upper)
            row_of |= {step: step[2] for step in between}
            routes.append(route)
    column_of = _columns(parents, row_of)
    places = {call: (column_of[call], row_of[call]) for call in feeds}
    return Graph(places, [[(column_of[step], row_of[step]) for step in route] for route in routes])


def _rows(feeds: dict[Call, list[Call]]) -> dict[Call, int]:
    """Row of each call: one above the highest that it feeds; what is fed by nothing is on top."""
    height: dict[Call, int] = {}

    def raise_to(call: Call, least: int) -> None:
        if height.get(call, -1) < least:
            height[call] = least
            for source in feeds[call]:
                raise_to(source, least + 1)

    for call in feeds:
        raise_to(call, 0)
    top = max(height.values())
    return {call: top - height[call] if feeds[call] else 0 for call in feeds}


def _columns(parents: dict, row_of: dict) -> dict:
    """Column of each step: the mean of those above it, moved aside where two would overlap."""
    column_of = {}
    for row in range(1 + max(row_of.values())):
        steps = [step for step in parents if row_of[step] == row]
        wish = {
            step: sum(column_of[parent] for parent in parents[step]) / len(parents[step])
            if parents[step]
            else float(place)
            for place, step in enumerate(steps)
        }
        steps.sort(key=wish.get)
        columns = []
        for step in steps:
            columns.append(max(wish[step], columns[-1] + 1) if columns else wish[step])
        shift = sum(wish[step] for step in steps) - sum(columns)
        for step, column in zip(steps, columns, strict=True):
            column_of[step] = column + shift / len(steps)
    return column_of


def _draw_arrow(ax: Axes, points: list[tuple[float, float]]) -> None:
    """Draws from the lower edge of the first box to the upper edge of the last one.

    Curves between rows, not corners: arrows that share a stretch of line can't be told apart.
    """
    half = BOX_HEIGHT / 2
    corners, codes = [(points[0][0], points[0][1] - half)], [Path.MOVETO]
    for (x, y), (next_x, next_y) in pairwise(points):
        middle = (y + next_y) / 2
        corners += [(x, middle), (next_x, middle), (next_x, next_y + half)]
        codes += [Path.CURVE4] * 3
        if (next_x, next_y) != points[-1]:
            corners.append((next_x, next_y - half))
            codes.append(Path.LINETO)
    ax.add_patch(
        FancyArrowPatch(
            path=Path(corners, codes),
            arrowstyle="-|>",
            mutation_scale=11,
            color=LINE_COLOUR,
            linewidth=1.1,
            capstyle="butt",
            shrinkA=0,
            shrinkB=0,
        )
    )


def _draw_box(ax: Axes, texts: tuple[str, list[str], str], x: float, y: float, scale: float):
    """Draws a layer: its name in bold type, and a line for each of the other texts."""
    name, lines, kind = texts
    colour = {"input": INPUT_COLOUR, "trained": TRAINED_COLOUR, "plain": PLAIN_COLOUR}[kind]
    ax.add_patch(
        FancyBboxPatch(
            (x - BOX_WIDTH / 2, y - BOX_HEIGHT / 2),
            BOX_WIDTH,
            BOX_HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=colour,
            edgecolor=LINE_COLOUR,
            linewidth=1.4 if kind == "trained" else 0.8,
        )
    )
    step = BOX_HEIGHT / 4.3
    top = y + step * len(lines) / 2
    place = {"ha": "center", "va": "center_baseline", "parse_math": False}
    ax.text(x, top, name, fontsize=8 * scale, fontweight="bold", **place)
    for number, line in enumerate(lines, start=1):
        ax.text(x, top - number * step, line, fontsize=7.5 * scale, color=LINE_COLOUR, **place)


def _texts(model: "keras.Model", call: Call, folded: list[Call]) -> tuple[str, list[str], str]:
    """Name, further lines and kind ("input", "trained", "plain") of a box."""
    name, number = call
    layers = [model.get_layer(one) for one, _ in (call, *folded)]
    outputs = [tuple(output[:2]) for output in _listed(model.get_config()["output_layers"])]
    is_output = (call, *folded)[-1] in outputs
    title = "logits" if is_output and number else name  # the embedding, used in reverse
    classes = [type(layer).__name__ for layer in layers]
    first = classes[0].removesuffix("Layer") + (" in reverse" if title != name else "")
    count = layers[0].count_params()
    weights = f"weights of {name}" if title != name else "same weights"
    trained = bool(layers[0].trainable_weights)
    if not number:
        weights = f"{count:,} parameters" if trained else f"{count:,} fixed values"
    lines = [
        " + ".join([first, *classes[1:]]),
        _shape(model if is_output and len(outputs) == 1 else layers[-1]),
        *([weights] if count else []),
    ]
    return title, lines, "input" if first == "Input" else "trained" if trained else "plain"


def _listed(outputs: list) -> list:
    return [outputs] if outputs and isinstance(outputs[0], str) else outputs


def _shape(layer: "keras.Layer") -> str:
    """The shape of a layer's first output, at its first call."""
    output = layer.output
    while not hasattr(output, "shape"):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    shape = output.shape
    free = ["n", "k"] + ["length"] * (len(shape) - 2)
    sizes = [name if size is None else f"{size:,}" for name, size in zip(free, shape, strict=True)]
    return " × ".join(sizes)
