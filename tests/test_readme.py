import re
import shutil

import pytest
from PIL import Image

from tools import readme
from tools.markdown import search_words, table
from utils.machinery.files import read_json, write_json
from utils.training import COMPARED_EPOCHS

PUBLISHED = readme.PUBLISHED


def test_the_readmes_tables_are_those_of_the_published_runs():
    text = readme.README.read_text(encoding="utf-8")
    texts = readme.texts()
    assert set(texts) == {"results", "times", "speed"}
    for mark, content in texts.items():
        assert readme.between_marks(text, mark, content) == text


def test_every_published_score_is_in_the_readme():
    text = readme.README.read_text(encoding="utf-8")
    folders = readme.published_runs()
    assert folders
    for folder in folders:
        scores = read_json(folder / "metrics.json")["scores"]
        scores += [row["test"] for row in read_json(folder / "comparison.json")["rows"]]
        for row in scores:
            assert f"| {row['ROUGE-L']:.1f} | {row['CIDEr']:.1f} |" in text


def test_only_what_is_between_the_marks_is_replaced():
    text = "before\n<!-- times: made -->\nold\n<!-- end of times -->\nafter\n"
    changed = readme.between_marks(text, "times", "new")
    assert changed == "before\n<!-- times: made -->\nnew\n<!-- end of times -->\nafter\n"
    with pytest.raises(ValueError, match="no marks for 'scores'"):
        readme.between_marks(text, "scores", "new")


def test_the_picture_is_one_that_browsers_show():
    assert f"]({readme.PICTURE.relative_to(readme.PROJECT).as_posix()})" in (
        readme.README.read_text(encoding="utf-8")
    )
    with Image.open(readme.PICTURE) as picture:
        assert picture.format == "JPEG"


def test_a_second_stage_that_equals_the_first_gets_no_rows_of_its_own():
    greedy = {"beam": 1, "length_penalty": 1.0, "consensus": False, "CIDEr": 40.0}
    wide = {"beam": 20, "length_penalty": 0.7, "consensus": True, "CIDEr": 50.0}
    stages = [
        {"recipe": recipe, **row} for recipe in ("first stage", "ours") for row in (greedy, wide)
    ]
    metrics = {"decoder": "merge", "stage": "second stage", "scores": stages}
    chosen = {"beam": 20, "length_penalty": 0.7, "inverse_temperature": 0.1}
    compared = [
        {"name": "merge", "decoders": ["merge"], **chosen, "test": {"CIDEr": 50.0}},
        {"name": "both", "decoders": ["merge", "inject"], **chosen, "test": {"CIDEr": 60.0}},
    ]
    rows = readme.system_rows(metrics, compared)
    assert [row[0] for row in rows] == [*["merge, first stage = merge, second stage"] * 2, "both"]
    assert [row[1].split(",")[0] for row in rows] == [
        "greedy",
        "consensus of 20",
        "consensus of 20",
    ]
    assert "inverse temperature 0.1" in rows[1][1]
    assert [row[-1] for row in rows] == ["40.0", "50.0", "60.0"]


def test_a_search_is_described_in_full():
    beam = {"beam": 5, "length_penalty": 0.7, "inverse_temperature": None}
    assert search_words(beam) == "beam 5, length penalty 0.7"
    assert search_words(beam | {"beam": 1}) == "greedy"
    wide = beam | {"beam": 20, "inverse_temperature": 0.1}
    assert search_words(wide) == "consensus of 20, length penalty 0.7, inverse temperature 0.1"


def test_columns_of_numbers_are_aligned_to_the_right():
    assert table(["a", "b", "c"], [["x", "y", "1"]], texts=2).splitlines() == [
        "| a | b | c |",
        "| --- | --- | ---: |",
        "| x | y | 1 |",
    ]


# Several runs


@pytest.fixture
def publish_as(tmp_path, monkeypatch):
    """Makes copies of a published run under other encoders' names, the only ones that there are."""
    monkeypatch.setattr(readme, "PUBLISHED", tmp_path)

    def publish(run, encoder, **changes):
        name = f"flickr8k-{encoder}-merge"
        shutil.copytree(PUBLISHED / run, tmp_path / name)
        metrics = read_json(tmp_path / name / "metrics.json")
        metrics |= {"run": name, "encoder": metrics["encoder"] | {"name": encoder}} | changes
        write_json(tmp_path / name / "metrics.json", metrics)

    return publish


def rows_of(text):
    return [line for line in text.splitlines() if line.startswith("|")]


def test_a_run_with_the_original_encoder_comes_first_and_without_it_there_is_no_row(publish_as):
    publish_as("flickr8k-mobilenet_v2-attention", "mobilenet_v2")
    publish_as("flickr8k-xception_wide-attention", "xception_wide")
    text = readme.results_text()
    assert "Xception, last block |" not in text
    assert rows_of(text)[2].startswith("| MobileNetV2 | original recipe | consensus of 50")
    publish_as("flickr8k-xception_wide-attention", "xception")
    rows = rows_of(readme.results_text())
    assert rows[2].startswith("| Xception, last block | original recipe | consensus of 50")
    assert all(cell.strip() for row in rows for cell in row.strip("|").split("|"))
    assert readme.results_text().count("All rows of flickr8k-xception-merge") == 1


def test_the_literature_and_the_protocol_are_told_once():
    text = readme.results_text()
    assert text.count("*Show and Tell (NIC)*") == 1
    assert text.count("Protocol of our scores") == 1


def test_an_untrained_encoder_is_called_so():
    assert readme.encoder_words({"name": "xception", "trained": True}) == "Xception, last block"
    assert readme.encoder_words({"name": "vgg16", "trained": False}) == "VGG16, untrained"


def test_published_times_are_those_of_whole_notebooks():
    for folder in readme.published_runs():
        times, metrics = read_json(folder / "timings.json"), read_json(folder / "metrics.json")
        trained = sum(of["epochs"] * of["seconds_per_epoch"] for of in metrics["recipes"].values())
        assert times.get("04_train_captioner", trained) >= 0.9 * trained, folder.name


def test_what_the_readme_says_of_epochs_and_a_caption_is_true():
    text = readme.README.read_text(encoding="utf-8")
    epochs = int(re.search(r"the others of that run, which got (\d+)\s+epochs", text)[1])
    assert epochs == COMPARED_EPOCHS["flickr8k"]
    caption = re.search(r"prints a line such as `my_photo\.jpg: (.+?)`", text)[1]
    notebook = readme.PROJECT / "notebooks" / "00_caption_your_photo.ipynb"  # shows what it says
    assert caption in notebook.read_text(encoding="utf-8")
