"""A full disk in each stage: said plainly, nothing lost, and the run goes on once there is room."""

import errno
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.test_features import SlowEncoder, draw_photos
from tests.test_training import RECIPE, VOCABULARY, caption_set, toy
from utils.features import extract_features
from utils.machinery.checkpoints import size_on_disk, weights_file
from utils.machinery.errors import DiskFullError
from utils.machinery.files import atomic_path, write_json, write_text
from utils.self_critical import SelfCritical, train_self_critical
from utils.training import Journal

FULL = Path("/dev/full")  # every write to it finds the disk full


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A disk of four megabytes, in memory."""
    folder = tmp_path_factory.mktemp("small")
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root on Linux can make a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def disk(small_disk):
    """The small disk, empty again after the test."""
    yield small_disk
    for path in small_disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def fill(disk: Path, leave: int = 0) -> Path:
    """Fills the disk up to `leave` bytes; deleting the file that is returned makes room again."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        free = shutil.disk_usage(disk).free
        with suppress(OSError):
            file.write(bytes(max(free - leave, 0)))
    return ballast


def test_a_file_that_does_not_fit_is_said_and_the_old_one_stays(disk):
    write_text(disk / "scores.json", "old")
    ballast = fill(disk, leave=50_000)
    with pytest.raises(DiskFullError, match=r"no room for .*scores\.json .*Make room"):
        write_text(disk / "scores.json", "x" * 100_000)
    with pytest.raises(DiskFullError), atomic_path(disk / "array.npy") as part:
        np.save(part, np.zeros(20_000))
    assert {path.name for path in disk.iterdir()} == {"scores.json", "ballast"}
    assert (disk / "scores.json").read_text() == "old"
    ballast.unlink()
    write_text(disk / "scores.json", "x" * 100_000)


def test_what_is_known_to_be_too_large_is_not_begun(tmp_path):
    with pytest.raises(DiskFullError), atomic_path(tmp_path / "model", size=1 << 60):
        pytest.fail("began to write")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_the_systems_own_error_is_turned_into_the_plain_one(tmp_path):
    with pytest.raises(DiskFullError) as said, atomic_path(tmp_path / "table.csv"):
        FULL.write_text("x")
    assert said.value.__cause__.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "table.csv"):
        (tmp_path / "missing").read_text()


def test_an_extraction_goes_on_with_what_it_had(disk, tmp_path):
    photos = draw_photos(tmp_path / "photos", 120)
    whole = extract_features(SlowEncoder(), photos, tmp_path / "whole", "spatial", batch_size=2)

    class Filling(SlowEncoder):
        """Fills the disk before the 60th photograph."""

        def encode_spatial(self, pixels, batch_size):
            if self.calls.exists() and self.calls.read_text().count("\n") == 30:
                fill(disk)
            return super().encode_spatial(pixels, batch_size)

    with pytest.raises(DiskFullError, match=r"spatial.*it goes on"):
        extract_features(Filling(tmp_path / "calls"), photos, disk, "spatial", batch_size=2)
    assert not (disk / "spatial.npy").exists()
    (disk / "ballast").unlink()
    encoder = SlowEncoder(tmp_path / "calls after")
    resumed = extract_features(encoder, photos, disk, "spatial", batch_size=2)
    assert encoder.calls.read_text().count("\n") < 60 - 16  # of 60 batches, some were kept
    np.testing.assert_array_equal(resumed.array, whole.array)
    assert resumed.photos == whole.photos


def fill_before_epoch(monkeypatch, disk, epoch):
    """Fills the disk as soon as the epochs before `epoch` are written."""
    begin = Journal.on_epoch_begin

    def filling(journal, number, logs=None):
        if number + 1 == epoch:
            fill(disk)
        begin(journal, number, logs)

    monkeypatch.setattr(Journal, "on_epoch_begin", filling)


@pytest.mark.slow
def test_a_training_and_its_second_stage_keep_their_epochs(disk, tmp_path, monkeypatch):
    recipe, stage = replace(RECIPE, epochs=2), SelfCritical(2, 3, 20, 0.01, 7)

    def second_stage(first):
        return train_self_critical(
            first,
            recipe=recipe,
            stage=stage,
            vocabulary=VOCABULARY,
            training=caption_set(0, 20),
            dev=caption_set(1, 6),
            seed=5,
        )

    whole_first = toy(tmp_path, 20, 6, recipe)
    whole_second = second_stage(whole_first)

    def disturbed(run):
        with monkeypatch.context() as patches:
            fill_before_epoch(patches, disk, 2)
            with pytest.raises(DiskFullError, match=r"epoch-002\.weights\.h5"):
                run()
        (disk / "ballast").unlink()
        return run()

    first = disturbed(lambda: toy(disk, 20, 6, recipe))
    assert first.history.equals(whole_first.history)
    second = disturbed(lambda: second_stage(first))
    assert second.history.equals(whole_second.history)
    for one, other in ((first, whole_first), (second, whole_second)):
        for own, theirs in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
            np.testing.assert_array_equal(own, theirs)


def test_a_checkpoint_takes_no_more_room_than_is_asked_for(tmp_path):
    sizes = []

    class Measuring(Journal):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            sizes.append(size_on_disk(self.model))

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr("utils.training.Journal", Measuring)
        trained = toy(tmp_path, 20, 6, epochs=1)
    written = weights_file(trained.folder, 1).stat().st_size
    assert written <= sizes[0] <= 4 * written + 500_000
    assert len(trained.history) == 1


def test_scores_that_do_not_fit_leave_the_earlier_ones(disk):
    write_json(disk / "metrics.json", {"CIDEr": 1.0})
    ballast = fill(disk)
    with pytest.raises(DiskFullError, match=r"metrics\.json"):
        write_json(disk / "metrics.json", {"CIDEr": [2.0] * 5000})
    assert "1.0" in (disk / "metrics.json").read_text()
    ballast.unlink()
    write_json(disk / "metrics.json", {"CIDEr": [2.0] * 5000})
