import pytest
from PIL import Image

from tools import readme
from tools.markdown import search_words, table
from utils.machinery.files import read_json


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
