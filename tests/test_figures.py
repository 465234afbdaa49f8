"""Figures show the numbers they are given, and the same figure is the same file."""

from io import BytesIO
from itertools import combinations, pairwise
from pathlib import Path

import keras
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tools.architecture import architecture
from utils import figures
from utils.decoder import build_decoder


@pytest.fixture(autouse=True)
def _closed_figures():
    plt.switch_backend("agg")
    with mpl.rc_context():
        figures.use_style()
        yield
    plt.close("all")


@pytest.fixture
def ax():
    return plt.subplots()[1]


def picture(width: int = 60, height: int = 40) -> np.ndarray:
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def texts(figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts if text.get_text()]


def rings(ax) -> list[tuple[float, float]]:
    """The points that are marked as the best of their line."""
    marks = [line for line in ax.lines if line.get_fillstyle() == "none"]
    return [(float(mark.get_xdata()[0]), float(mark.get_ydata()[0])) for mark in marks]


def line(ax, label: str):
    return next(line for line in ax.lines if line.get_label() == label)


# Keeping


def test_the_same_chart_gives_the_same_svg_without_a_date(tmp_path):
    for folder in ("first", "second"):
        _, ax = plt.subplots()
        figures.caption_lengths(ax, [3, 4, 4, 5])
        figures.save(ax.figure, tmp_path / folder / "lengths.svg")
    first, second = (tmp_path / name / "lengths.svg" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    assert "dc:date" not in first.read_text(encoding="utf-8")


def test_text_in_an_svg_needs_no_font_of_the_reader(tmp_path, ax):
    figures.save(figures.caption_lengths(ax, [3, 4]).figure, tmp_path / "lengths.svg")
    assert "<text" not in (tmp_path / "lengths.svg").read_text(encoding="utf-8")


def test_a_grid_of_many_detailed_photographs_stays_small_enough_for_a_notebook(tmp_path):
    smooth = [Image.fromarray(picture(25, 20)).resize((500, 400)) for _ in range(12)]
    path = figures.save(figures.photograph_grid(smooth, ["a dog"] * 12), tmp_path / "grid.jpg")
    assert path.stat().st_size < 500_000
    with Image.open(path) as kept:
        assert kept.width > 700
        assert len(np.unique(np.asarray(kept).reshape(-1, 3), axis=0)) > 5_000


def test_a_chart_has_an_alternative_text(tmp_path, ax):
    figures.save(figures.caption_lengths(ax, [3, 4]).figure, tmp_path / "a.svg", alt="two bars")
    assert "<title>two bars</title>" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_a_figure_that_cannot_be_written_leaves_nothing_behind(tmp_path, ax):
    ax.set_title(r"$\nonsense$", parse_math=True)
    with pytest.raises(ValueError, match="nonsense"):
        figures.save(ax.figure, tmp_path / "chart.svg")
    assert list(tmp_path.iterdir()) == []


def test_dollar_signs_in_captions_are_only_text(tmp_path, ax):
    figures.word_frequencies(ax, {r"$\nonsense$": 2})
    figures.save(ax.figure, tmp_path / "words.svg")
    grid = figures.photograph_grid([picture()], [r"it costs $5\x and $6"])
    figures.save(grid, tmp_path / "grid.jpg")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_picture_comes_back_as_it_was_written_and_the_figure_is_not_shown_twice(tmp_path):
    figure = figures.photograph_grid([picture()], ["a text"])
    shown, about = figures.save_picture(
        figure, tmp_path / "grid.jpg", alt="noise"
    )._repr_mimebundle_()

    assert shown["image/jpeg"] == (tmp_path / "grid.jpg").read_bytes()
    assert about["image/jpeg"] == {"alt": "noise"}
    assert not plt.fignum_exists(figure.number)


def test_a_notebook_shows_a_chart_in_pixels_with_its_alternative_text(tmp_path, ax):
    figures.caption_lengths(ax, [3, 4])
    shown, about = figures.save_picture(
        ax.figure, tmp_path / "lengths.svg", alt="two bars"
    )._repr_mimebundle_()

    with Image.open(BytesIO(shown["image/png"])) as chart:
        assert chart.width > 400
    assert about["image/png"] == {"alt": "two bars"}
    assert "<title>two bars</title>" in (tmp_path / "lengths.svg").read_text(encoding="utf-8")


# Photographs


def test_every_photograph_stands_over_its_text_and_title():
    figure = figures.photograph_grid(
        [picture(), picture(30, 60), picture()],
        ["a dog\na cat", "two men", "snow"],
        columns=2,
        titles=["CIDEr 1", "CIDEr 2", "CIDEr 3"],
    )
    assert len([ax for ax in figure.axes if ax.images]) == 3
    assert texts(figure) == ["CIDEr 1", "a dog\na cat", "CIDEr 2", "two men", "CIDEr 3", "snow"]


def test_no_text_reaches_into_its_neighbour():
    caption = "A woman wearing a wide warm Mammoth jacket sprinting through the woods ."
    figure = figures.photograph_grid([picture()] * 4, ["\n".join([caption] * 5)] * 4)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for ax in figure.axes for text in ax.texts]
    boxes = [box for box in boxes if box.width > 1]
    assert len(boxes) == 4
    assert all(a.x1 <= b.x0 for a, b in pairwise(boxes))
    assert all(box.y0 >= 0 for box in boxes)
    steps = [b.x0 - a.x0 for a, b in pairwise(boxes)]
    assert max(box.width for box in boxes) > 0.85 * steps[0]


def test_an_endless_word_is_cut_and_an_endless_caption_too():
    figure = figures.photograph_grid([picture()] * 2, ["x" * 200_000, "a dog " * 50_000], columns=2)
    assert figure.get_figheight() < 12
    assert all(text.endswith("…") for text in texts(figure))


def test_a_photograph_without_text_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        figures.photograph_grid([picture(), picture()], ["a dog"])


def test_the_maps_that_vary_most_are_shown_in_the_proportions_of_the_photograph():
    maps = np.zeros((7, 7, 20), "float32")
    maps[3, 3, [4, 11]] = [1e-6, 2e-6]
    figure = figures.feature_maps(picture(80, 40), maps)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles[:3] == ["photograph", "channel 11", "channel 4"]
    figure.draw_without_rendering()
    box = figure.axes[1].get_window_extent()
    assert box.width / box.height == pytest.approx(2, rel=0.02)


def attention_at(*places: int) -> np.ndarray:
    """Looks of 9 places that go to one place each, and by a quarter to the sentinel."""
    return 0.75 * np.eye(9, dtype="float32")[list(places)]


def test_every_word_has_a_picture_with_its_looks_and_the_share_of_the_sentinel():
    figure = figures.attention_by_word(
        picture(60, 40), ["a", "dog", "<end>"], attention_at(0, 5, 8)
    )
    shown = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title(loc="left") for ax in shown] == ["photograph", "a", "dog", "<end>"]
    assert texts(figure) == ["sentinel 25%"] * 3
    assert [len(ax.images) for ax in shown] == [1, 2, 2, 2]


def test_the_heat_lies_where_the_decoder_looked():
    figure = figures.attention_by_word(picture(60, 40), ["dog"], attention_at(5))
    _, word = (ax for ax in figure.axes if ax.images)
    grey, heat = word.images
    assert heat.get_array().argmax() == 5  # the right one of the middle row
    assert heat.get_array().shape == (3, 3)
    assert heat.get_extent() == grey.get_extent()  # stretched over the whole photograph
    assert heat.get_clim()[0] == 0


def test_looks_that_belong_to_no_word_or_to_no_square_are_refused():
    with pytest.raises(ValueError, match="reshape"):
        figures.attention_by_word(picture(), ["dog"], attention_at(5, 6))
    with pytest.raises(ValueError, match="reshape"):
        figures.attention_by_word(picture(), ["dog"], attention_at(5)[:, :8])


# Charts


def test_lengths_are_counted_and_their_median_is_marked(ax):
    figures.caption_lengths(ax, [4, 5, 5, 9])
    assert {bar.get_x() + bar.get_width() / 2: bar.get_height() for bar in ax.patches}[5] == 2
    assert texts(ax.figure) == ["median 5"]


def test_the_most_frequent_words_come_first(ax):
    figures.word_frequencies(ax, {"dog": 3, "a": 9, "cat": 3, "zebra": 1}, top=3)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "cat", "dog"]
    assert ax.yaxis_inverted()


def test_agreement_counts_every_photograph(ax):
    figures.agreement(ax, [0, 12, 13, 100])
    assert sum(bar.get_height() for bar in ax.patches) == 4
    assert texts(ax.figure) == ["mean 31"]


def test_the_threshold_chart_shows_a_share_in_percent(ax):
    table = pd.DataFrame({"min_count": [1, 2], "words": [7000, 5000], "unknown_share": [0.0, 0.02]})
    figures.vocabulary_threshold(ax, table, chosen=2)
    share = next(other for other in ax.figure.axes if other is not ax)
    assert list(share.lines[0].get_ydata()) == [0, 2]
    assert texts(ax.figure) == ["chosen: 2"]


def test_rings_mark_the_epoch_of_least_dev_loss_and_of_highest_cider():
    history = pd.DataFrame(
        {
            "recipe": ["original"] * 3 + ["ours"] * 3,
            "epoch": [1, 2, 3] * 2,
            "loss": [4.0, 3.0, 2.0, 4.0, 3.5, 3.0],
            "dev_loss": [4.0, 3.8, 4.1, 3.9, 3.3, 3.2],
            "dev_cider": [20.0, 30.0, 35.0, 25.0, 41.0, 40.0],
        }
    )
    left, right = figures.training_curves(plt.subplots(1, 2)[1], history)
    assert rings(left) == [(2, 3.8), (3, 3.2)]
    assert rings(right) == [(3, 35), (2, 41)]
    assert list(line(left, "original, training").get_ydata()) == [4, 3, 2]


def test_recipes_differ_in_more_than_colour():
    history = pd.DataFrame(
        {"recipe": ["original", "ours"], "epoch": 1, "loss": 3, "dev_loss": 3, "dev_cider": 1}
    )
    left, _ = figures.training_curves(plt.subplots(1, 2)[1], history)
    looks = {
        (line.get_marker(), line.get_linestyle())
        for line in left.lines
        if line.get_fillstyle() != "none"
    }
    assert len(looks) == 4


def test_the_best_search_is_ringed_and_greedy_search_has_no_length_penalty(ax):
    rows = [{"beam": 1, "length_penalty": 0.0, "inverse_temperature": None, "CIDEr": 40.0}]
    rows += [
        {"beam": 3, "length_penalty": penalty, "inverse_temperature": None, "CIDEr": 41 + penalty}
        for penalty in (0.0, 0.5, 1.0)
    ]
    rows += [
        {
            "beam": 20,
            "length_penalty": 0.7,
            "inverse_temperature": inverse_temperature,
            "CIDEr": 50 - inverse_temperature,
        }
        for inverse_temperature in (0.1, 0.3)
    ]
    figures.search_on_dev(ax, rows)
    assert rings(ax) == [(1, 42)]
    assert list(line(ax, "greedy").get_ydata()) == [40, 40]
    assert list(line(ax, "consensus of 20").get_ydata()) == [49.9, 49.9]


def test_the_second_stage_is_drawn_beside_the_line_of_the_first():
    history = pd.DataFrame(
        {"epoch": [1, 2, 3], "reward": [30.0, 33.0, 35.0], "dev_cider": [50.0, 54.0, 52.0]}
    )
    left, right = figures.self_critical_curves(plt.subplots(1, 2)[1], history, 51.0)
    assert list(left.lines[0].get_ydata()) == [30, 33, 35]
    assert rings(left) == []
    assert rings(right) == [(2, 54)]
    assert list(line(right, "first stage").get_ydata()) == [51, 51]


def chart_of_a_search():
    rows = [
        {
            "beam": beam,
            "length_penalty": penalty,
            "inverse_temperature": None,
            "CIDEr": 50 + penalty,
        }
        for beam in (3, 5)
        for penalty in (0.5, 1.0)
    ]
    ax = plt.subplots()[1]
    figures.search_on_dev(ax, rows)
    return [ax]


def chart_of_a_training():
    history = {"recipe": ["ours"] * 2, "epoch": [1, 2], "loss": [4, 3], "dev_loss": [4, 3]}
    axes = plt.subplots(1, 2, figsize=(6.25, 2.9))[1]
    return figures.training_curves(axes, pd.DataFrame({**history, "dev_cider": [40, 41]}))


@pytest.mark.parametrize("draw", [chart_of_a_search, chart_of_a_training])
def test_a_legend_covers_no_chart_and_no_text_is_small(draw):
    axes = draw()
    figure = axes[0].figure
    figure.draw_without_rendering()
    (legend,) = figure.legends
    for ax in axes:
        assert not ax.get_window_extent().overlaps(legend.get_window_extent())
        assert min(label.get_fontsize() for label in ax.get_xticklabels()) >= 8
    assert min(text.get_fontsize() for text in legend.get_texts()) >= 8


def test_a_point_of_cider_does_not_look_like_a_trend():
    (search,) = chart_of_a_search()
    low, high = search.get_ylim()
    assert high - low > 12
    assert chart_of_a_training()[1].get_ylim()[0] == 0


def test_systems_stand_in_order_with_whiskers_and_those_of_several_decoders_look_different(ax):
    rows = [
        {
            "name": name,
            "decoders": decoders,
            "test": {"CIDEr": 50.0 + place},
            "intervals": {"CIDEr": [48.0, 53.0]},
        }
        for place, (name, decoders) in enumerate(
            [("one", ["merge"]), ("both", ["merge", "inject"])]
        )
    ]
    figures.compared_scores(ax, rows, "CIDEr")

    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "both"]
    assert ax.yaxis_inverted()
    assert texts(ax.figure) == ["50.0", "51.0"]
    whiskers, dots = ax.lines[::2], ax.lines[1::2]
    assert [whisker.get_xydata().tolist() for whisker in whiskers] == [
        [[48, 0], [53, 0]],
        [[48, 1], [53, 1]],
    ]
    assert [dot.get_xydata().tolist() for dot in dots] == [[[50, 0]], [[51, 1]]]
    assert dots[0].get_marker() != dots[1].get_marker()


def test_words_and_lengths_of_model_and_people_are_shares_of_their_own_captions():
    model = [["a", "dog"], ["a", "cat"]]
    human = [["a", "dog", "runs", "home"]]
    left, right = figures.caption_statistics(plt.subplots(1, 2)[1], model, human, top=1)
    assert [max(bar.get_height() for bar in bars) for bars in left.containers] == [100, 100]
    assert [bar.get_width() for bars in right.containers for bar in bars] == [50, 25]


# The architecture


def arrows(ax) -> int:
    return sum(isinstance(patch, mpl.patches.FancyArrowPatch) for patch in ax.patches)


def boxes(ax) -> dict[str, tuple[float, float]]:
    """Name of each layer and the centre of its box."""
    names = [text.get_text() for text in ax.texts if text.get_fontweight() == "bold"]
    patches = [patch for patch in ax.patches if isinstance(patch, mpl.patches.FancyBboxPatch)]
    centres = [
        (patch.get_x() + patch.get_width() / 2, patch.get_y() + patch.get_height() / 2)
        for patch in patches
    ]
    return dict(zip(names, centres, strict=True))


def test_the_merge_model_is_drawn_in_two_branches_with_dropout_in_the_box_before():
    model = build_decoder("merge", 50, (8,), embedding_units=6, units=6)
    ax = architecture(model)
    places = boxes(ax)

    small = {layer.name for layer in model.layers if not layer.count_params()}
    assert set(places) == {layer.name for layer in model.layers} - small | {
        "features",
        "tokens",
        "merge",
    }
    assert arrows(ax) == 8  # 8 layers with one input each but the merge, which has two
    image, text, merge = places["image"], places["lstm"], places["merge"]
    assert image[0] < merge[0] < text[0]
    assert places["features"][1] == places["tokens"][1] == max(y for _, y in places.values())
    assert places["logits"][1] == min(y for _, y in places.values())
    shown = [text.get_text() for text in ax.texts]
    assert f"{model.get_layer('lstm').count_params():,} parameters" in shown
    assert "n × k × length × 50" in shown
    assert "Dense + Reshape" in shown


def test_tied_weights_end_in_logits_as_wide_as_the_vocabulary():
    ax = architecture(build_decoder("attention", 2632, (7, 7, 1280), units=384, tied=True))
    places = boxes(ax)
    assert places["logits"][1] == min(y for _, y in places.values())
    shown = [text.get_text() for text in ax.texts]
    assert shown.count("n × k × length × 2,632") == 1
    assert shown.count("weights of embedding") == 1


@pytest.mark.parametrize("decoder", ["merge", "attention"])
def test_text_stays_in_its_box_can_be_read_in_print_and_reaches_into_no_other(decoder):
    shape = (7, 7, 1280) if decoder == "attention" else (1280,)
    ax = architecture(build_decoder(decoder, 2632, shape, units=384, tied=True))
    assert ax.figure.get_figwidth() <= 6.5  # inches: the text width of the report
    assert min(text.get_fontsize() for text in ax.texts) >= 7
    ax.figure.draw_without_rendering()
    box = next(patch for patch in ax.patches if isinstance(patch, mpl.patches.FancyBboxPatch))
    written = [text.get_window_extent() for text in ax.texts if text.get_text()]
    assert max(text.width for text in written) < box.get_window_extent().width
    assert not [(a, b) for a, b in combinations(written, 2) if a.overlaps(b)]


def test_no_two_boxes_overlap_and_arrows_go_down_in_a_model_with_skips_and_shared_layers():
    inputs = keras.Input((4,), name="inputs")
    shared = keras.layers.Dense(4, name="shared")
    deep = shared(shared(inputs))
    sides = [keras.layers.Dense(4, name=f"side_{number}")(inputs) for number in range(3)]
    outputs = keras.layers.Concatenate(name="joined")([inputs, deep, *sides])
    ax = architecture(keras.Model(inputs, outputs))

    patches = [patch for patch in ax.patches if isinstance(patch, mpl.patches.FancyBboxPatch)]
    assert len(patches) == 7  # the shared layer is called, and drawn, twice
    for number, one in enumerate(patches):
        for other in patches[:number]:
            same_row = one.get_y() == other.get_y()
            assert not same_row or abs(one.get_x() - other.get_x()) > one.get_width()
    assert "same weights" in [text.get_text() for text in ax.texts]
    assert arrows(ax) == 10


def test_a_model_without_a_graph_is_refused_by_name():
    class Subclassed(keras.Model):
        pass

    with pytest.raises(ValueError, match="Subclassed without a graph"):
        architecture(Subclassed(name="mine"))


def test_the_architecture_can_be_kept_as_a_chart(tmp_path: Path):
    ax = architecture(build_decoder("merge", 50, (8,), embedding_units=6, units=6))
    figures.save(ax.figure, tmp_path / "architecture.svg")
    assert (tmp_path / "architecture.svg").read_text(encoding="utf-8").rstrip().endswith("</svg>")
