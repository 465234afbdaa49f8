"""Colab's part of a notebook works twice, after a refusal, and from one notebook to the next."""

import base64
import io
import os
import sys
import zipfile
from types import SimpleNamespace

import pytest
from PIL import Image

from tools import colab as colab_module
from tools.colab import bring_photograph, fetch_data_once, keep_settings, set_up
from utils.machinery.errors import SettingsError
from utils.settings import Settings


def leave_on_drive(monkeypatch, free):
    monkeypatch.setattr(colab_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


@pytest.fixture
def colab(monkeypatch, tmp_path):
    """Stands in for Colab's own package, with a Drive in `tmp_path`."""

    def mount(folder):
        mounted.append(folder)
        (tmp_path / "drive" / "MyDrive").mkdir(parents=True, exist_ok=True)

    mounted = []
    package = SimpleNamespace(
        drive=SimpleNamespace(mount=mount),
        files=SimpleNamespace(upload=dict),
        output=SimpleNamespace(),
        mounted=mounted,
    )
    monkeypatch.setitem(sys.modules, "google.colab", package)
    monkeypatch.setattr(colab_module, "DRIVE", tmp_path / "drive")
    folder = tmp_path / "drive" / "MyDrive" / "photograph-captions"
    monkeypatch.setattr(colab_module, "FOLDER", folder)
    leave_on_drive(monkeypatch, 100 * 10**9)  # whatever the disk of this machine has left
    for name in ("RUNS", "DATASET", "EPOCHS", "ENCODER", "DATA", "SEED"):
        monkeypatch.setenv(name, "")  # so that monkeypatch puts back whatever the test leaves
    return package


def test_results_go_to_the_drive_that_was_connected_and_it_may_be_done_twice(colab, capsys):
    for _ in range(2):
        set_up()
        assert Settings.from_environment().runs == colab_module.FOLDER / "runs"
        assert "photograph-captions/runs" in capsys.readouterr().out


def test_a_folder_that_the_user_chose_stays(colab, monkeypatch, tmp_path):
    monkeypatch.setenv("RUNS", str(tmp_path / "elsewhere"))
    set_up()
    assert colab.mounted == []
    assert os.environ["RUNS"] == str(tmp_path / "elsewhere")


def test_a_user_who_declines_is_told_what_that_means_and_can_change_their_mind(
    colab, capsys, monkeypatch
):
    def decline(folder):
        raise ValueError("mount failed")

    agree = colab.drive.mount
    monkeypatch.setattr(colab.drive, "mount", decline)
    set_up()
    assert "next one won't find its results" in capsys.readouterr().out
    assert not os.environ["RUNS"]
    assert keep_settings(EPOCHS=3).epochs == 3
    assert "EPOCHS is 3, for this notebook only" in capsys.readouterr().out

    monkeypatch.setattr(colab.drive, "mount", agree)
    set_up()
    assert os.environ["RUNS"] == str(colab_module.FOLDER / "runs")


def test_settings_last_from_notebook_to_notebook(colab, monkeypatch, capsys):
    set_up()
    keep_settings(DATASET="flickr8k", EPOCHS=5, ENCODER="")
    assert "EPOCHS is 5, for this notebook and the next ones" in capsys.readouterr().out
    keep_settings(EPOCHS=6)
    for name in ("RUNS", "DATASET", "EPOCHS", "ENCODER"):  # another machine
        monkeypatch.setenv(name, "")
    set_up()
    settings = Settings.from_environment()
    assert (settings.dataset, settings.epochs, settings.encoder) == ("flickr8k", 6, "xception")


def test_settings_that_are_wrong_are_refused_and_not_kept(colab):
    set_up()
    with pytest.raises(SettingsError, match="EPOCHS"):
        keep_settings(EPOCHS=0)
    assert not (colab_module.FOLDER / "settings.json").exists()
    (colab_module.FOLDER).mkdir(exist_ok=True)
    (colab_module.FOLDER / "settings.json").write_text('{"PATH": "/nowhere", "EPOCHS": ')
    set_up()
    assert os.environ["PATH"] != "/nowhere"


def test_archives_are_fetched_to_drive_once_and_unpacked_on_each_machine(
    colab, monkeypatch, tmp_path, capsys
):
    fetched = []

    def download(address, target):
        if not target.exists():
            fetched.append(target.name)
            target.parent.mkdir(exist_ok=True)
            with zipfile.ZipFile(target, "w") as archive:
                archive.writestr("inside.txt", "")
        return target

    monkeypatch.setattr(colab_module, "download", download)
    set_up()
    for machine in ("one", "two"):
        place = tmp_path / machine
        monkeypatch.setattr(Settings, "dataset_folder", property(lambda _, place=place: place))
        fetch_data_once(Settings(dataset="flickr8k"))
        fetch_data_once(Settings(dataset="flickr8k"))
        assert (place / "Flickr8k_Dataset" / "inside.txt").exists()
    assert fetched == ["Flickr8k_text.zip", "Flickr8k_Dataset.zip"]
    assert "1.1 GB and its features up to 5.8 GB" in capsys.readouterr().out


def test_without_room_on_drive_nothing_is_fetched_there(colab, monkeypatch, capsys):
    leave_on_drive(monkeypatch, 10**9)
    set_up()
    fetch_data_once(Settings(dataset="flickr8k", encoder="xception_wide"))
    said = capsys.readouterr().out
    assert "up to 8.6 GB" in said
    assert "too little" in said
    assert not (colab_module.FOLDER / "Flickr8k_text.zip").exists()


def test_a_photograph_comes_by_upload_or_webcam(colab, monkeypatch):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(buffer, "JPEG")
    address = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    assert bring_photograph() is None
    colab.files.upload = lambda: {"my photo.jpg": buffer.getvalue()}
    colab.output.eval_js = lambda code: address
    assert bring_photograph().size == bring_photograph(webcam=True).size == (4, 3)
