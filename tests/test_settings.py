from pathlib import Path

import pytest

from utils.machinery.errors import SettingsError
from utils.settings import (
    DECODERS,
    ENCODERS,
    PROJECT,
    Settings,
    short_path,
)


def test_nothing_set_is_the_sample_with_xception():
    settings = Settings.from_environment({})
    assert settings == Settings()
    assert settings.run_name == "sample-xception-merge"


def test_every_setting_is_read_from_its_variable(tmp_path):
    (tmp_path / "weights.h5").touch()
    settings = Settings.from_environment(
        {
            "DATASET": "Flickr8k",
            "DATA": "../photos",
            "ENCODER": "mobilenet_v2",
            "WEIGHTS": str(tmp_path / "weights.h5"),
            "DECODER": "merge",
            "EPOCHS": "3",
            "SEED": "7",
            "LIMIT": "60",
            "RUNS": "build/runs",
        }
    )
    assert settings.dataset == "flickr8k"
    assert settings.data == PROJECT / "../photos"
    assert settings.weights == str(tmp_path / "weights.h5")
    assert (settings.epochs, settings.seed, settings.limit) == (3, 7, 60)
    assert settings.prepared_folder == PROJECT / "build/runs/flickr8k-mobilenet_v2-limit60"
    assert settings.run_folder.name == "flickr8k-mobilenet_v2-merge-limit60-epochs3-seed7"
    assert settings.captions_file.parent == settings.prepared_folder
    assert settings.decoder_file.parent == settings.run_folder


def test_runs_of_one_encoder_share_what_is_prepared_for_them():
    merge, attention = Settings(), Settings(decoder="attention", epochs=3, seed=1)
    assert merge.run_folder != attention.run_folder
    assert merge.features_folder == attention.features_folder
    assert merge.features_folder != Settings(encoder="vgg16").features_folder


def test_the_names_are_those_of_the_encoders_and_decoders_there_are():
    from utils import decoder, encoder

    assert tuple(encoder.ENCODERS) == ENCODERS
    assert tuple(decoder.DECODERS) == DECODERS


def test_an_empty_variable_is_not_set():
    assert Settings.from_environment({"DATA": "", "LIMIT": " "}) == Settings()


@pytest.mark.parametrize("word", ["imagenet", "none", "ImageNet"])
def test_weights_by_name_are_no_path(word):
    assert Settings.from_environment({"WEIGHTS": word}).weights == word.lower()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("DATASET", "coco", r"DATASET is 'coco'.*sample, flickr8k"),
        ("EPOCHS", "many", r"EPOCHS is 'many'.*whole number"),
        ("EPOCHS", "0", r"EPOCHS is 0.*from 1"),
        ("EPOCHS", "10001", r"EPOCHS is 10001.*to 10000"),
        ("SEED", "-1", r"SEED is -1.*from 0"),
        ("SEED", str(2**32), r"SEED is 4294967296.*to 4294967295"),
        ("SEED", "9" * 5000, r"SEED is '9+'.*whole number"),
        ("ENCODER", "../../../esc", r"ENCODER is '../../../esc'.*xception, "),
        ("DECODER", "merge/x", r"DECODER is 'merge/x'.*merge, inject, attention"),
        ("DATASET", "folder", r"DATA too"),
        ("DATA", "~nobody-of-this-name/x", r"DATA is .*expected a path"),
        ("WEIGHTS", "no/such.h5", r"WEIGHTS is .*no/such.h5.*imagenet, none"),
        ("WEIGHTS", str(PROJECT), r"WEIGHTS is .* not a file"),
        ("RUNS", str(Path(__file__) / "runs"), r"RUNS is .*can't be written into \(Not a dir"),
        pytest.param(
            "RUNS",
            "/proc/runs",  # which os.access calls writable for root
            r"RUNS is /proc/runs, which can't be written",
            marks=pytest.mark.skipif(not Path("/proc/self").exists(), reason="no such folder"),
        ),
        ("KERAS_BACKEND", "cuda", r"KERAS_BACKEND is 'cuda'.*tensorflow, jax"),
        ("LIMIT", "3", r"LIMIT is 3.*12 or more"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(variable, value, message):
    with pytest.raises(SettingsError, match=message):
        Settings.from_environment({variable: value})


def test_paths_in_the_project_are_shown_without_the_machine():
    assert short_path(PROJECT / "data" / "runs") == Path("data/runs")
    assert short_path(Path("/elsewhere/file")) == Path("/elsewhere/file")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"DEVICES": "0"}, r"DEVICES is 0"),
        ({"DEVICES": "3", "PROCESSES": "2"}, r"DEVICES is 3, PROCESSES is 2.*equally many"),
        ({"PROCESS": "1"}, r"PROCESSES is 1, PROCESS is 1.*counted from 0"),
        ({"DEVICES": "2", "PROCESSES": "2"}, r"ADDRESS is ''; expected host:port"),
    ],
)
def test_devices_and_processes_that_do_not_fit_are_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        Settings.from_environment(values)


def test_where_it_is_computed_makes_no_other_run():
    together = {"DEVICES": "4", "PROCESSES": "2", "PROCESS": "1", "ADDRESS": "10.0.0.1:5000"}
    settings = Settings.from_environment(together)
    assert (settings.devices, settings.processes, settings.process) == (4, 2, 1)
    assert settings.run_folder == Settings().run_folder
