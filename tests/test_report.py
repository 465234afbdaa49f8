"""The report says what the run's files say, claims no more than they allow, and leaks nothing."""

import importlib.util
import json
import re

import pytest
import typst
from PIL import Image

from tools.free_photographs import LICENCES
from tools.report_charts import DRAWN
from utils.machinery.errors import MissingStageError, StaleArtefactError
from utils.machinery.files import read_json, write_json
from utils.metrics import PROTOCOL
from utils.settings import PROJECT, Settings

REPORT = PROJECT / "report"
CHART = '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="50"><path d="M0 0H9V9z"/></svg>'
HISTORY = """recipe,epoch,loss,dev_loss,dev_cider,learning_rate,reward
original,1,3.1,3.9,21.0,0.001,
original,2,2.31,4.2,27.3,0.001,
ours,1,3.4,3.3,30.0,0.001,
ours,2,3.2,3.1,38.0,0.0005,
self-critical,1,,,39.0,0.00002,51.0
"""


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("report_build", REPORT / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def score_row(name, recipe, beam, length_penalty, cider):
    metrics = {"BLEU-1": 61.3, "BLEU-2": 40.1, "BLEU-3": 26.2, "BLEU-4": 17.4, "ROUGE-L": 43.6}
    return {
        "name": name,
        "recipe": recipe,
        "split": "test",
        "images": 1000,
        "beam": beam,
        "length_penalty": length_penalty,
        "consensus": beam > 10,
        **metrics,
        "CIDEr": cider,
    }


def recipe_numbers(**changes):
    return {
        "parameters": 4_871_321,
        "vocabulary": 7321,
        "epochs": 2,
        "final_loss": 2.31,
        "best_dev_loss": 3.91,
        "best_dev_loss_epoch": 1,
        "final_dev_loss": 4.23,
        "best_dev_cider": 27.3,
        "best_epoch": 2,
        "seconds_per_epoch": 41.2,
        **changes,
    }


def stage_numbers(**changes):
    return {
        "epochs": 5,
        "first_reward": 28.9,
        "final_reward": 53.2,
        "best_dev_cider": 47.1,
        "final_dev_cider": 46.7,
        "best_epoch": 3,
        "seconds_per_epoch": 120.5,
        **changes,
    }


def compared_row(name, cider, **changes):
    return {
        "name": name,
        "decoders": [name],
        "parameters": 3_346_669,
        "beam": 5,
        "length_penalty": 1.0,
        "inverse_temperature": None,
        "dev": {"CIDEr": cider - 2, "BLEU-4": 18.8},
        "test": {"CIDEr": cider, "BLEU-4": 19.9},
        "intervals": {"CIDEr": [cider - 3.3, cider + 3.4], "BLEU-4": [18.7, 21.1]},
        "seconds_per_epoch": 61.0,
        **changes,
    }


COMPARISON = {
    "format": 1,
    "rows": [
        compared_row("attention", 51.2),
        compared_row(
            "all together", 55.5, seconds_per_epoch=None, beam=20, inverse_temperature=0.2
        ),
    ],
    "paired": {"all together over attention": {"CIDEr": 0.973, "BLEU-4": 0.9}},
}


def run_metrics(**changes):
    return {
        "format": 1,
        "run": "flickr8k-mobilenet_v2-merge",
        "dataset": "flickr8k",
        "encoder": {
            "name": "mobilenet_v2",
            "weights": "imagenet",
            "weights_hash": "0" * 64,
            "trained": True,
            "image_size": 224,
        },
        "decoder": "merge",
        "seed": 42,
        "epochs": 2,
        "protocol": "raw references, as in the test",
        "counts": {
            "photographs": {"train": 6000, "dev": 1000, "test": 1000},
            "captions": 40000,
            "vocabulary": 2984,
            "vocabulary_original": 7321,
        },
        "recipes": {
            "original": recipe_numbers(),
            "ours": recipe_numbers(vocabulary=2984),
            "self_critical": stage_numbers(),
        },
        "search_on_dev": [
            {
                "beam": 1,
                "length_penalty": 0.0,
                "inverse_temperature": None,
                "CIDEr": 44.4,
                "BLEU-4": 16.0,
            },
            {
                "beam": 3,
                "length_penalty": 0.7,
                "inverse_temperature": None,
                "CIDEr": 46.6,
                "BLEU-4": 17.0,
            },
        ],
        "stage": "second stage",
        "scores": [
            score_row("original, greedy", "original", 1, 0.0, 35.61),
            score_row("ours, greedy", "ours", 1, 0.0, 44.07),
            score_row("ours, beam 3", "ours", 3, 0.7, 47.85),
        ],
        "control": {"right": 47.85, "shuffled": 7.15},
        "humans": {
            "references": 4,
            "human": {"BLEU-1": 58.2, "BLEU-4": 17.9, "ROUGE-L": 42.2, "CIDEr": 81.7},
            "model": {"BLEU-1": 57.1, "BLEU-4": 16.8, "ROUGE-L": 41.1, "CIDEr": 46.4},
        },
        "captions": {
            "mean_length": 9.31,
            "human_mean_length": 10.84,
            "distinct": 623,
            "images": 1000,
            "words_used": 402,
            "vocabulary": 2984,
            "seen_in_training": 217,
        },
        **changes,
    }


OPTIONS = {"embedding_units": 256, "units": 512, "heads": 8, "tied": False}
OPTIONS |= {"image_dropout": 0.5, "text_dropout": 0.4, "output_dropout": 0.0}
RECIPE = {"cleaning": "full", "min_count": 4, "batch_size": 128, "by_photo": False}
RECIPE |= {"learning_rate": 0.001, "cosine": True, "weight_decay": 0.01, "clip_norm": 5.0}
RECIPE |= {"label_smoothing": 0.1, "mirrored": True, "decoder_options": OPTIONS}
PLAIN = {"cleaning": "original", "min_count": 1, "clip_norm": None, "label_smoothing": 0.0}
RECIPES = {
    "original": {**RECIPE, **PLAIN, "name": "original"},
    "ours": {**RECIPE, "name": "ours"},
    "self_critical": {"epochs": 3, "samples": 5, "batch_size": 64, "learning_rate": 4e-5},
}

SAMPLE = {
    "run": "sample-xception-merge",
    "dataset": "sample",
    "encoder": {"name": "xception", "weights": "none", "trained": False, "image_size": 299},
}


@pytest.fixture
def make_run(build, tmp_path):
    """Makes the folder of a finished run, with metrics as changed."""

    def make(**changes):
        metrics = run_metrics(**changes)
        folder = tmp_path / "runs" / metrics["run"]
        for name in build.NEEDED:
            if name.endswith(".svg"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(CHART)
        (folder / "history.csv").write_text(HISTORY)
        write_json(folder / "metrics.json", metrics)
        write_json(folder / "comparison.json", COMPARISON)
        write_json(folder / "recipes.json", RECIPES)
        write_json(folder / "run.json", {"date": "2026-11-23"})
        (folder / "examples").mkdir()
        Image.new("RGB", (40, 30)).save(folder / "examples" / "one.jpg")
        write_json(
            folder / "examples" / "examples.json",
            [{"file": "one.jpg", "source": "a friend", "licence": "CC0", "caption": "a dog runs"}],
        )
        return folder

    return make


@pytest.fixture
def read_report(build, make_run, tmp_path, monkeypatch):
    """Makes a run, and returns all that its report says, words parted by single spaces."""

    def draw(run_folder, folder):  # takes a second, and no word is read from pictures
        for name in DRAWN:
            (folder / name).write_text(CHART)

    monkeypatch.setattr(build, "draw_run", draw)
    chart = lambda histories, file: file.write_text(CHART)  # noqa: E731
    monkeypatch.setattr(build, "draw_original_recipe", chart)

    def read(**changes):
        source = build.lay_out(make_run(**changes), tmp_path / "laid_out")
        kinds = "selector(par).or(figure).or(heading)"
        found = typst.query(source, kinds, root=source.parent, ignore_system_fonts=True)
        told = [words_of(element) for element in json.loads(found)]
        return re.sub(r"\s+", " ", " ".join(told))

    return read


def words_of(element) -> str:
    """Text in a queried element; what merely describes it (dashes, lengths) isn't text."""
    if isinstance(element, list):
        return "".join(words_of(part) for part in element)
    if not isinstance(element, dict):
        return ""
    if element.get("func") == "space":
        return " "
    parts = [element["text"] if isinstance(element.get("text"), str) else ""]
    parts += [words_of(element[key]) for key in ("children", "child", "body", "caption", "text")
              if isinstance(element.get(key), (dict, list))]  # fmt: skip
    return "".join(parts) + (" " if element.get("func") in ("cell", "par", "figure") else "")


# What it says


def test_every_score_of_the_run_stands_in_the_report(read_report):
    told = read_report()
    for number in ("35.6", "44.1", "47.9", "7.2", "61.3", "17.4", "43.6", "81.7", "46.4", "9.3"):
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d])", told), number
    for number in ("2,984", "7,321", "4,871,321", "623", "22%", "3.91", "4.23"):
        assert number in told, number
    assert "raw references, as in the test" in told
    assert "a dog runs" in told


def test_compared_systems_stand_with_their_intervals_and_shares(read_report):
    told = read_report()
    for number in ("51.2", "47.9–54.6", "55.5", "49.2", "18.7–21.1", "3.3 M"):
        assert number in told, number
    assert "all together has a higher CIDEr than attention in 97% of them" in told
    assert "28.9" in told
    assert "53.2" in told


def test_it_says_when_it_was_run_and_how_often_test_was_scored(read_report):
    told = read_report()
    assert "The photograph-captions project, 23 November 2026" in told
    assert "5 scorings in all" in told  # three rows of scores, and two compared systems
    assert "by Jason Brownlee" in told


def test_hyperparameters_have_names_and_no_keys(read_report):
    told = read_report(decoder="attention", run="flickr8k-x-attention")
    for text in ("Units of the LSTM 512", "Heads no attention 8", "0.5, 0.4, 0"):
        assert text in told, text
    assert not re.findall(
        r"\b(?:min_count|decoder_options|by_photo|clip_norm|search_on_dev)\b", told
    )


def test_every_published_run_still_builds(build, tmp_path):
    for folder in build.PUBLISHED.iterdir():
        report = build.compile_report(folder, tmp_path / f"{folder.name}.pdf")
        assert report.read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(("best_epoch", "says"), [(3, "in epoch 3"), (0, "no epoch was better")])
def test_the_second_stage_is_praised_only_where_it_helped(read_report, best_epoch, says):
    stage = stage_numbers(best_epoch=best_epoch)
    told = read_report(recipes=run_metrics()["recipes"] | {"self_critical": stage})
    assert says in told


def test_another_decoder_than_the_published_one_is_drawn_too(read_report):
    assert "Our decoder" not in read_report()
    assert "Our decoder, attention" in read_report(decoder="attention", run="flickr8k-x-attention")


def test_every_published_score_stands_in_the_report_with_its_system(read_report):
    told = read_report()
    for result in read_json(REPORT / "published_results.json")["results"]:
        assert result["system"] in told
        for name, value in result.items():
            if name in ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr"):
                assert f"{value:.1f}" in told, (result["system"], name)


def test_no_score_is_typed_into_the_report():
    source = (REPORT / "report.typ").read_text(encoding="utf-8")
    source = re.sub(r"//.*", "", source)
    source = re.sub(r"[\d.]+(?:pt|mm|cm|em|fr|%)|numbering: \"1\.1\"", "", source)
    assert re.findall(r"\d+\.\d+", source) == []


def test_every_published_result_names_its_source_and_a_reference_that_exists():
    published = read_json(REPORT / "published_results.json")
    references = (REPORT / "references.bib").read_text(encoding="utf-8")
    for entry in [*published["results"], published["spread"]]:
        assert entry["source"]
        assert f"{{{entry['reference']}," in references


def test_results_of_another_cnn_say_so(read_report):
    told = read_report()
    assert "Features come from MobileNetV2. The loss that is known" in told


def test_nothing_is_missing_once_xception_has_its_weights(read_report):
    encoder = {"name": "xception", "weights": "imagenet", "trained": True, "image_size": 299}
    told = read_report(run="flickr8k-xception-merge", encoder=encoder)
    assert "About this run" not in told


def test_a_run_on_drawings_with_random_filters_says_that_its_scores_compare_with_nothing(
    read_report,
):
    told = read_report(**SAMPLE)
    assert "drawn by a program" in told
    assert "random filters" in told
    assert "compare with no published result" in told
    assert "the figure" not in told
    assert "The original figure is that of an overfitted model" not in told


def test_a_part_of_flickr8k_compares_with_no_published_result(read_report):
    counts = run_metrics()["counts"] | {"photographs": {"train": 80, "dev": 10, "test": 10}}
    told = read_report(run="flickr8k-mobilenet_v2-merge-limit100", counts=counts)
    assert "Not all of Flickr8k was used" in told
    assert "For orientation, published scores" in told


def test_the_published_loss_is_called_overfitted_where_dev_loss_rose(read_report):
    told = read_report()
    assert "The original figure is that of an overfitted model" in told
    assert "in epoch 2, and to 2.31 in epoch 2" in told


def test_no_overfitting_is_claimed_where_dev_loss_still_falls(read_report):
    falling = recipe_numbers(best_dev_loss_epoch=2, best_dev_loss=4.23)
    stage = stage_numbers()
    told = read_report(recipes={"original": falling, "ours": falling, "self_critical": stage})
    assert "overfits" not in told
    assert "it still falls at the last epoch" in told


def test_a_model_that_scores_with_shuffled_captions_is_not_said_to_look(read_report):
    assert "the model does look" in read_report()


def test_a_blind_model_is_called_one(read_report):
    told = read_report(control={"right": 20.0, "shuffled": 15.0})
    assert "the model looks little" in told
    assert "does look" not in told


def test_metrics_in_which_the_model_beats_people_are_named(read_report):
    humans = run_metrics()["humans"]
    humans["model"] |= {"BLEU-4": 18.8, "ROUGE-L": 43.9}
    assert "The model is ahead in BLEU-4 and ROUGE-L" in read_report(humans=humans)


def test_times_are_told_where_they_were_taken(build, make_run, tmp_path):
    folder = make_run()
    build.compile_report(folder, tmp_path / "without.pdf")
    write_json(folder / "timings.json", {"01_explore": 61.0, "02_clean": 7300.0})
    source = build.lay_out(folder, tmp_path / "laid_out")
    found = typst.query(source, "par", root=source.parent, ignore_system_fonts=True)
    assert "61 s (01) and 2 h 2 min (02)" in re.sub(r"\s+", " ", words_of(json.loads(found)))


# Runs with other encoders beside it


def test_published_runs_with_other_encoders_stand_beside_it(read_report):
    encoder = {"name": "xception", "weights": "imagenet", "trained": True, "image_size": 299}
    told = read_report(run="flickr8k-xception-merge", encoder=encoder, protocol=PROTOCOL)
    assert "The encoder: three published runs" in told
    assert "35.6 (Xception, last block), 32.2 (MobileNetV2) and 33.6 (Xception, last" in told
    assert "flickr8k-xception_wide-attention" in told
    assert "4 decoders together, with neighbours c 50, 0.7, 0.2, 8" in told


def test_both_stages_of_a_published_run_have_a_row_whichever_dev_chose(read_report):
    encoder = {"name": "vgg16", "weights": "imagenet", "trained": True, "image_size": 224}
    told = read_report(run="flickr8k-vgg16-merge", encoder=encoder, protocol=PROTOCOL)
    assert "merge, first stage c 20, 0.7, 0.2 46.7" in told  # of flickr8k-xception-merge: kept
    assert "merge, second stage c 20, 0.7, 0.1 50.1" in told
    assert "attention, second stage c 50, 0.7, 0.2 54.3" in told


def test_a_run_that_compares_with_no_published_one_has_no_such_section(read_report):
    assert "published runs" not in read_report()  # another protocol
    told = read_report(**SAMPLE, protocol=PROTOCOL)
    assert "published runs" not in told


def test_of_two_runs_with_one_encoder_this_one_is_taken(build, make_run):
    encoder = {"name": "xception_wide", "weights": "imagenet", "trained": True, "image_size": 299}
    folder = make_run(run="flickr8k-xception_wide-merge", encoder=encoder, protocol=PROTOCOL)
    runs = [run["metrics"]["run"] for run in build.runs_beside(folder)]
    assert "flickr8k-xception_wide-merge" in runs
    assert "flickr8k-xception_wide-attention" not in runs
    counts = run_metrics()["counts"] | {"photographs": {"train": 80, "dev": 10, "test": 10}}
    part = make_run(run="part", encoder=encoder, protocol=PROTOCOL, counts=counts)
    assert len(build.runs_beside(part)) == 1


# How it is built


def test_the_same_run_gives_the_same_bytes(build, make_run, tmp_path):
    folder = make_run()
    first = build.compile_report(folder, tmp_path / "first.pdf").read_bytes()
    assert first.startswith(b"%PDF")
    assert build.compile_report(folder, tmp_path / "second.pdf").read_bytes() == first


def test_all_missing_files_are_named_with_what_makes_them(build, make_run, tmp_path):
    folder = make_run()
    (folder / "history.csv").unlink()
    (folder / "figures" / "caption_statistics.svg").unlink()
    with pytest.raises(MissingStageError) as error:
        build.compile_report(folder, tmp_path / "report.pdf")
    assert "history.csv (notebook 04)" in str(error.value)
    assert "figures/caption_statistics.svg (notebook 05)" in str(error.value)
    assert not (tmp_path / "report.pdf").exists()


def test_a_run_that_has_not_begun_is_refused_before_the_model_is_asked_for(build, tmp_path):
    def describe(pictures):
        raise AssertionError("captions were asked for")

    with pytest.raises(MissingStageError, match=r"metrics\.json"):
        build.build(Settings(runs=tmp_path), describe)


def test_examples_are_pictures_that_everybody_may_see_with_source_and_licence(build, tmp_path):
    settings = Settings(dataset="flickr8k", encoder="mobilenet_v2", runs=tmp_path)
    sizes = []

    def describe(pictures):
        sizes.extend(picture.size for picture in pictures)
        return [f"caption {number}" for number in range(len(pictures))]

    build.make_examples(settings, describe)
    examples = read_json(settings.run_folder / "examples" / "examples.json")
    assert (600, 400) in sizes  # the whole photograph is described, not the small copy
    assert [example["caption"] for example in examples] == [
        f"caption {number}" for number in range(len(sizes))
    ]
    for example in examples:
        assert example["licence"] in LICENCES
        assert example["source"]
        with Image.open(settings.run_folder / "examples" / example["file"]) as picture:
            assert max(picture.size) <= build.EXAMPLE_SIDE


# What is kept of it


@pytest.fixture
def published(build, make_run, tmp_path, monkeypatch):
    """Publishes a run whose folder also holds what may not be passed on."""
    folder = make_run()
    Image.new("RGB", (9, 9)).save(folder / "figures" / "captions_test.png")
    (folder / "predictions.csv").write_text("photo,caption\n1.jpg,a dog\n")
    (folder / "examples" / "stranger.jpg").write_bytes(b"somebody's photograph")
    monkeypatch.setattr(build, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(build, "PUBLISHED_REPORT", tmp_path / "report.pdf")
    monkeypatch.setattr(build, "make_examples", lambda settings, describe: None)
    settings = Settings(dataset="flickr8k", encoder="mobilenet_v2", runs=tmp_path / "runs")
    build.publish(settings)
    return tmp_path / "published" / settings.run_name


def test_only_what_is_listed_is_published(build, published):
    kept = {
        path.relative_to(published).as_posix() for path in published.rglob("*") if path.is_file()
    }
    assert kept == {*build.NEEDED, "timings.json", "examples/one.jpg"}


def test_the_published_report_is_rebuilt_without_the_run(build, published, tmp_path, capsys):
    report = tmp_path / "report.pdf"
    first = report.read_bytes()
    report.unlink()
    assert build.main(["--from", str(published)]) == 0
    assert report.read_bytes() == first
    assert "Report: " in capsys.readouterr().out


def test_a_chart_with_a_photograph_in_it_is_not_published(build, make_run, tmp_path):
    folder = make_run()
    (folder / "figures" / "caption_statistics.svg").write_text(
        CHART.replace("<path", "<image/><path")
    )
    with pytest.raises(StaleArtefactError, match=r"caption_statistics\.svg holds a picture"):
        build.copy_run(folder, tmp_path / "copy")


def test_an_example_without_a_licence_is_not_published(build, make_run, tmp_path):
    folder = make_run()
    examples = read_json(folder / "examples" / "examples.json")
    write_json(folder / "examples" / "examples.json", [examples[0] | {"licence": ""}])
    with pytest.raises(StaleArtefactError, match="no licence"):
        build.copy_run(folder, tmp_path / "copy")


def test_the_command_says_what_is_missing_and_fails(build, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RUNS", str(tmp_path))
    assert build.main([]) == 1
    assert "make run" in capsys.readouterr().err
