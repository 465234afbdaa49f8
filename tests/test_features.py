"""Features are computed once, survive a kill, and are never taken for those of another encoder."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.test_lock import Holder
from utils.features import extract_features, load_features
from utils.machinery.errors import (
    DatasetError,
    EncoderError,
    FolderInUseError,
    MissingStageError,
    StaleArtefactError,
    UnreadablePhotographError,
)
from utils.machinery.files import write_json
from utils.photographs import load_pixels
from utils.settings import PROJECT

SHARED = PROJECT.parent / "shared"
REAL_PHOTOS = SHARED / "flickr8k" / "Flicker8k_Dataset"
REAL_WEIGHTS = SHARED / "weights" / "mobilenet_v2_imagenet_notop.weights.h5"


@dataclass(frozen=True)
class SlowEncoder:
    """Means of the quarters of a photograph in place of a CNN; notes what it was asked for."""

    calls: Path | None = None
    pause: float = 0.0
    name: str = "quarters"
    weights: str = "imagenet"
    weights_hash: str = "0" * 64
    image_size: int = 8
    factor: float = 1.0
    spec = SimpleNamespace(grid=2, width=3)

    def encode(self, pixels, batch_size):
        return self.encode_spatial(pixels, batch_size).mean(axis=(1, 2))

    def encode_spatial(self, pixels, batch_size):
        assert 0 < len(pixels) <= batch_size
        time.sleep(self.pause)
        if self.calls:
            with self.calls.open("a") as file:
                file.write(f"{len(pixels)}\n")
        quarters = pixels.reshape(-1, 2, 4, 2, 4, 3).astype(np.float32).mean(axis=(2, 4))
        return quarters * self.factor


@dataclass(frozen=True)
class Photos:
    """The part of a data set that the extraction needs."""

    folder: Path
    splits: dict

    def photo_path(self, photo):
        return self.folder / photo


def draw_photos(folder: Path, count: int, size: int = 16) -> Photos:
    """Draws `count` photographs, all different, and splits them 60 : 20 : 20."""
    folder.mkdir(exist_ok=True)
    names = [f"photo{number:03}.png" for number in range(count)]
    random = np.random.default_rng(count)
    for name in names:
        pixels = random.integers(0, 256, (size, size, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
    train, dev = count * 6 // 10, count * 8 // 10
    splits = {"test": names[dev:], "train": names[:train], "dev": names[train:dev]}
    return Photos(folder, splits)


@pytest.fixture
def photos(tmp_path):
    return draw_photos(tmp_path / "photos", 50)


def calls(encoder: SlowEncoder) -> int:
    return sum(map(int, encoder.calls.read_text().split()))


def test_every_row_belongs_to_its_photograph(photos, tmp_path):
    encoder = SlowEncoder()
    features = extract_features(encoder, photos, tmp_path / "features", batch_size=8)
    assert features.array.shape == (50, 3)
    assert features.array.dtype == np.float32
    assert isinstance(features.array, np.memmap)
    assert features.photos == [
        photo for split in ("train", "dev", "test") for photo in photos.splits[split]
    ]
    wanted = ["photo049.png", "photo000.png", "photo031.png"]
    for photo, row in zip(wanted, features.rows(wanted), strict=True):
        with Image.open(photos.photo_path(photo)) as image:
            means = np.asarray(image).mean(axis=(0, 1))
        np.testing.assert_allclose(features.array[row], means, atol=1)


def test_the_manifest_says_what_made_the_features(photos, tmp_path):
    features = extract_features(SlowEncoder(), photos, tmp_path)
    manifest = json.loads((tmp_path / "pooled.json").read_text())
    assert manifest == features.manifest
    expected = {
        "format": 3,
        "kind": "pooled",
        "encoder": "quarters",
        "weights": "imagenet",
        "weights_hash": "0" * 64,
        "image_size": 8,
        "shape": [50, 3],
        "dtype": "float32",
        "mirrored": False,
        "unreadable": {},
    }
    assert expected.items() <= manifest.items()
    assert manifest["seconds"] >= 0
    assert not list(tmp_path.glob(".pooled*"))  # nothing unfinished is left


def test_spatial_features_keep_the_grid_in_half_precision(photos, tmp_path):
    features = extract_features(SlowEncoder(), photos, tmp_path, kind="spatial")
    assert (features.array.shape, features.array.dtype) == ((50, 2, 2, 3), np.float16)
    pooled = extract_features(SlowEncoder(), photos, tmp_path)
    np.testing.assert_allclose(features.array.mean(axis=(1, 2)), pooled.array, rtol=2e-3)


def test_a_view_reads_the_rows_that_are_asked_for_as_an_array_of_them_would(photos, tmp_path):
    features = extract_features(SlowEncoder(), photos, tmp_path / "features", kind="spatial")
    chosen = features.photos[::-3]
    view, array = features.view(chosen), features.of(chosen)
    assert not isinstance(view, np.ndarray)
    assert (view.shape, view.dtype, len(view)) == (array.shape, array.dtype, len(array))
    odd = np.arange(len(array)) % 2 == 1
    for index in (0, -1, slice(1, 3), slice(None), np.array([2, 0, 0]), odd):
        np.testing.assert_array_equal(view[index], array[index])
    np.testing.assert_array_equal(np.asarray(view, "float32"), array)
    np.testing.assert_array_equal(features.view(chosen, "pooled"), features.of(chosen, "pooled"))


def test_mirrored_features_are_those_of_the_training_splits_mirror_images(photos, tmp_path):
    plain = extract_features(SlowEncoder(), photos, tmp_path, "spatial").array
    mirrored = extract_features(SlowEncoder(), photos, tmp_path, "spatial", mirrored=True)
    assert (tmp_path / "spatial_mirrored.npy").exists()
    assert mirrored.manifest["mirrored"] is True
    assert mirrored.photos == photos.splits["train"]
    assert np.array_equal(mirrored.array, plain[: len(mirrored.photos), :, ::-1])
    assert load_features(tmp_path, "spatial", mirrored=True).manifest["mirrored"] is True


def test_finished_features_are_reused_in_silence(photos, tmp_path, capsys):
    encoder = SlowEncoder(calls=tmp_path / "calls")
    first = extract_features(encoder, photos, tmp_path)
    assert "quarters: 100%" in capsys.readouterr().err
    again = extract_features(encoder, photos, tmp_path)
    assert (first.reused, again.reused) == (False, True)
    assert calls(encoder) == 50
    assert np.array_equal(first.array, again.array)
    assert capsys.readouterr() == ("", "")


def test_the_name_of_the_weights_file_does_not_make_features_stale(photos, tmp_path):
    extract_features(SlowEncoder(), photos, tmp_path)
    assert extract_features(SlowEncoder(weights="file mine.h5"), photos, tmp_path).reused


@pytest.mark.parametrize(
    ("change", "sides"),
    [
        ({"name": "xception"}, "by quarters at .*asked for.*by xception at"),
        (
            {"weights": "untrained, seed 42", "weights_hash": "f" * 64},
            r"'imagenet' \(00000000\).*asked for.*'untrained, seed 42' \(ffffffff\)",
        ),
        ({"image_size": 16}, "at 8 pixels.*asked for.*at 16 pixels"),
    ],
)
def test_features_of_another_encoder_are_refused_with_both_sides(photos, tmp_path, change, sides):
    extract_features(SlowEncoder(), photos, tmp_path)
    before = (tmp_path / "pooled.npy").read_bytes()
    with pytest.raises(StaleArtefactError, match=sides) as caught:
        extract_features(replace(SlowEncoder(), **change), photos, tmp_path)
    assert "Delete pooled.npy and pooled.json" in str(caught.value)
    assert (tmp_path / "pooled.npy").read_bytes() == before


def test_other_photographs_and_swapped_ones_are_noticed(photos, tmp_path):
    extract_features(SlowEncoder(), photos, tmp_path)
    fewer = replace(photos, splits={**photos.splits, "test": photos.splits["test"][1:]})
    with pytest.raises(StaleArtefactError, match=r"of 50 photo.*asked for.*of 49 photo"):
        extract_features(SlowEncoder(), fewer, tmp_path)
    Image.new("RGB", (16, 16)).save(photos.photo_path("photo007.png"))
    with pytest.raises(StaleArtefactError, match="photographs_hash"):
        extract_features(SlowEncoder(), photos, tmp_path)


def test_unreadable_photographs_are_listed_and_get_no_row(photos, tmp_path):
    photos.photo_path("photo003.png").write_bytes(b"")
    photos.photo_path("photo044.png").unlink()
    features = extract_features(SlowEncoder(), photos, tmp_path, batch_size=1)
    assert set(features.unreadable) == {"photo003.png", "photo044.png"}
    assert "0 bytes" in features.unreadable["photo003.png"]
    assert features.of(features.photos).shape == (48, 3)
    assert len(features.photos) == 48
    with pytest.raises(StaleArtefactError, match=r"1 of 2 .*'photo003.png' .*0 bytes"):
        features.rows(["photo002.png", "photo003.png"])
    assert extract_features(SlowEncoder(), photos, tmp_path).reused


def test_a_broken_copy_of_the_data_set_stops_early(photos, tmp_path):
    for number in range(10, 13):
        photos.photo_path(f"photo{number:03}.png").write_bytes(b"<html>")
    encoder = SlowEncoder(calls=tmp_path / "calls")
    with pytest.raises(DatasetError, match=r"3 of 50 .*broken copy.*photo010.png is not a pict"):
        extract_features(encoder, photos, tmp_path, batch_size=4)
    assert calls(encoder) < 20
    assert not (tmp_path / "pooled.npy").exists()


def test_no_photographs_at_all_is_said(tmp_path):
    empty = Photos(tmp_path, {"train": [], "dev": [], "test": []})
    with pytest.raises(DatasetError, match="no photographs"):
        extract_features(SlowEncoder(), empty, tmp_path)


@pytest.mark.parametrize("factor", [np.nan, 1e6, 0])
def test_numbers_that_float16_cannot_hold_are_refused(photos, tmp_path, factor):
    with pytest.raises(EncoderError, match="all zero, or no finite float16"):
        extract_features(SlowEncoder(factor=factor), photos, tmp_path, kind="spatial")


def _start(folder: Path, count: int, pause: float) -> subprocess.Popen:
    program = f"""
        from pathlib import Path
        from tests.test_features import SlowEncoder, draw_photos
        from utils.features import extract_features
        folder = Path({str(folder)!r})
        encoder = SlowEncoder(calls=folder / "calls", pause={pause})
        extract_features(encoder, draw_photos(folder / "photos", {count}), folder, batch_size=4)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.DEVNULL)


def test_a_killed_extraction_goes_on_where_it_was(tmp_path):
    process = _start(tmp_path, 200, pause=0.01)
    patience = time.monotonic() + 60
    while len(list(tmp_path.glob(".pooled-*/?.json"))) < 2:
        assert process.poll() is None, "the extraction ended before it could be killed"
        assert time.monotonic() < patience
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "pooled.npy").exists()
    with pytest.raises(MissingStageError, match="notebook 03"):
        load_features(tmp_path)
    done = 32 * len(list(tmp_path.glob(".pooled-*/?.json")))

    photos = draw_photos(tmp_path / "photos", 200)
    encoder = SlowEncoder(calls=tmp_path / "calls after the kill")
    resumed = extract_features(encoder, photos, tmp_path, batch_size=4)
    assert calls(encoder) == 200 - done
    whole = extract_features(SlowEncoder(), photos, tmp_path / "uninterrupted", batch_size=4)
    assert np.array_equal(resumed.array, whole.array)
    assert resumed.photos == whole.photos


def test_a_kill_just_before_the_end_costs_nothing(photos, tmp_path, monkeypatch):
    whole = extract_features(SlowEncoder(), photos, tmp_path / "uninterrupted")

    def interrupt(path, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        rename = Path.replace
        patch.setattr(
            Path,
            "replace",
            lambda path, target: (interrupt if path.name == "rows.npy" else rename)(path, target),
        )
        with pytest.raises(KeyboardInterrupt):
            extract_features(SlowEncoder(), photos, tmp_path)
    with pytest.raises(MissingStageError, match=r"pooled\.npy"):
        load_features(tmp_path)
    encoder = SlowEncoder(calls=tmp_path / "calls")
    resumed = extract_features(encoder, photos, tmp_path)
    assert not encoder.calls.exists()
    assert np.array_equal(resumed.array, whole.array)
    assert resumed.photos == whole.photos


def _interrupt_after(photographs: int, photos: Photos, folder: Path, **options) -> None:
    class Interrupted(SlowEncoder):
        def encode_spatial(self, pixels, batch_size):
            if self.calls.exists() and calls(self) >= photographs:
                raise KeyboardInterrupt
            return super().encode_spatial(pixels, batch_size)

    with pytest.raises(KeyboardInterrupt):
        extract_features(Interrupted(folder / "first calls"), photos, folder, **options)


def test_rows_torn_by_a_kill_are_written_again(photos, tmp_path):
    photos.photo_path("photo001.png").write_bytes(b"no picture")
    whole = extract_features(SlowEncoder(), photos, tmp_path / "uninterrupted", batch_size=2)
    _interrupt_after(40, photos, tmp_path, batch_size=2)
    (rows,) = tmp_path.glob(".pooled-*/rows.npy")
    array = np.load(rows, mmap_mode="r+")
    array[35] = np.nan
    array.flush()
    resumed = extract_features(SlowEncoder(), photos, tmp_path, batch_size=2)
    assert np.array_equal(resumed.array, whole.array)
    assert set(resumed.unreadable) == {"photo001.png"}


@pytest.mark.parametrize("damage", ["other encoder", "shorter than recorded"])
def test_rows_that_are_of_no_use_are_begun_again(photos, tmp_path, damage):
    _interrupt_after(40, photos, tmp_path, batch_size=2)
    encoder = SlowEncoder(calls=tmp_path / "calls")
    (rows,) = tmp_path.glob(".pooled-*/rows.npy")
    if damage == "other encoder":
        encoder = replace(encoder, weights_hash="f" * 64, factor=0.5)
    else:
        os.truncate(rows, 200)
    features = extract_features(encoder, photos, tmp_path, batch_size=2)
    assert calls(encoder) == 50
    fresh = extract_features(replace(encoder, calls=None), photos, tmp_path / "fresh")
    assert np.array_equal(features.array, fresh.array)
    assert not list(tmp_path.glob(".pooled-*"))


def test_features_that_another_process_extracts_are_not_begun_and_finished_ones_are_read(
    photos, tmp_path, monkeypatch
):
    monkeypatch.setattr("utils.machinery.lock.PATIENCE", 0.1)
    with Holder(tmp_path), pytest.raises(FolderInUseError, match="run this again"):
        extract_features(SlowEncoder(), photos, tmp_path)
    extract_features(SlowEncoder(), photos, tmp_path)
    with Holder(tmp_path):
        assert extract_features(SlowEncoder(), photos, tmp_path).reused


def test_photographs_are_read_ahead_but_only_a_few(tmp_path, monkeypatch):
    """Memory must not grow with the data set, so reading waits for the encoder."""
    photos = draw_photos(tmp_path / "photos", 100)
    read = []
    monkeypatch.setattr(
        "utils.photographs.load_pixels",
        lambda path, size: read.append(path) or np.ones((size, size, 3), np.uint8),
    )
    ahead = []

    class Watching(SlowEncoder):
        def encode(self, pixels, batch_size):
            time.sleep(0.02)  # the threads have time to read as far as they are let
            ahead.append(len(read) - 5 * (len(ahead) + 1))
            return super().encode(pixels, batch_size)

    extract_features(Watching(), photos, tmp_path, batch_size=5)
    assert 5 <= max(ahead) <= 15


def test_missing_features_name_the_notebook_that_makes_them(tmp_path):
    with pytest.raises(MissingStageError, match=r"pooled\.json is missing. Run notebook 03"):
        load_features(tmp_path)


def test_an_encoder_with_other_weights_than_the_features_is_refused(photos, tmp_path):
    features = extract_features(SlowEncoder(), photos, tmp_path)
    features.require_encoder(SlowEncoder())
    with pytest.raises(StaleArtefactError, match="WEIGHTS"):
        features.require_encoder(replace(SlowEncoder(), weights_hash="other"))


def test_features_of_another_encoder_are_not_loaded_by_mistake(photos, tmp_path):
    extract_features(SlowEncoder(), photos, tmp_path)
    assert load_features(tmp_path, encoder="quarters").reused
    with pytest.raises(StaleArtefactError, match=r"'quarters'; asked for 'vgg16'.*ENCODER=vgg16"):
        load_features(tmp_path, encoder="vgg16")


def test_an_array_or_a_manifest_of_something_else_is_refused(photos, tmp_path):
    extract_features(SlowEncoder(), photos, tmp_path)
    array = tmp_path / "pooled.npy"
    content = array.read_bytes()
    for other in (np.zeros((50, 4), np.float32), content[:-4]):
        np.save(array, other) if isinstance(other, np.ndarray) else array.write_bytes(other)
        with pytest.raises(StaleArtefactError, match=r"pooled\.npy .*changed since notebook 03"):
            load_features(tmp_path)
    array.write_bytes(content)
    load_features(tmp_path)
    (tmp_path / "pooled.json").write_text('{"format": 0}')
    with pytest.raises(StaleArtefactError, match=r"pooled\.json .*'format' is 0"):
        load_features(tmp_path)


@pytest.mark.parametrize("change", ["zeroed", "not a number", "exchanged", "one bit"])
def test_an_array_that_was_changed_in_place_is_refused(photos, tmp_path, change):
    extract_features(SlowEncoder(), photos, tmp_path, "spatial")
    load_features(tmp_path, "spatial")
    array = np.load(tmp_path / "spatial.npy", mmap_mode="r+")
    if change == "one bit":
        array.view(np.uint8)[7, -1, -1, -1] ^= 1
    else:
        array[7] = {"zeroed": 0, "not a number": np.nan, "exchanged": array[8].copy()}[change]
    array.flush()
    with pytest.raises(StaleArtefactError, match=r"spatial\.npy.*changed since notebook 03"):
        load_features(tmp_path, "spatial")


@pytest.mark.parametrize("change", [lambda photos: photos[::-1], lambda photos: photos[:1] * 50])
def test_photographs_reversed_or_doubled_in_the_manifest_are_refused(photos, tmp_path, change):
    extract_features(SlowEncoder(), photos, tmp_path)
    manifest = json.loads((tmp_path / "pooled.json").read_text())
    manifest["photos"] = change(manifest["photos"])
    write_json(tmp_path / "pooled.json", manifest)
    with pytest.raises(StaleArtefactError, match=r"pooled\.json was changed since"):
        load_features(tmp_path)


def test_a_photograph_that_differs_in_its_middle_only_is_noticed(photos, tmp_path):
    path = photos.photo_path("photo007.png")
    path.write_bytes(path.read_bytes() + bytes(100_000))  # as large as a photograph
    extract_features(SlowEncoder(), photos, tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StaleArtefactError, match="photographs_hash"):
        extract_features(SlowEncoder(), photos, tmp_path)


def test_what_can_not_be_read_for_now_is_not_taken_for_damaged(photos, tmp_path, monkeypatch):
    whole = extract_features(SlowEncoder(), photos, tmp_path / "uninterrupted", batch_size=2)

    def fail(path, size):
        if path.name == "photo040.png":
            raise UnreadablePhotographError(f"{path} could not be read (input/output error).")
        return load_pixels(path, size)

    monkeypatch.setattr("utils.photographs.load_pixels", fail)
    with pytest.raises(UnreadablePhotographError, match="photo040"):
        extract_features(SlowEncoder(), photos, tmp_path, batch_size=2)
    monkeypatch.undo()
    encoder = SlowEncoder(calls=tmp_path / "calls")
    resumed = extract_features(encoder, photos, tmp_path, batch_size=2)
    assert calls(encoder) < 50
    assert resumed.unreadable == {}
    assert np.array_equal(resumed.array, whole.array)


def test_a_photograph_that_can_not_be_opened_stops_the_extraction(photos, tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("utils.features.files.hash_if_there", refuse)
    with pytest.raises(UnreadablePhotographError, match=r"photo000.png .*Permission denied"):
        extract_features(SlowEncoder(), photos, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(
    not (REAL_PHOTOS.is_dir() and REAL_WEIGHTS.is_file()), reason="no real photographs here"
)
def test_real_photographs_get_distinct_and_sensible_features(tmp_path):
    from utils.encoder import load_encoder

    names = [path.name for path in sorted(REAL_PHOTOS.glob("*.jpg"))[::200]]
    splits = {"train": names[:-10], "dev": names[-10:-5], "test": names[-5:]}
    encoder = load_encoder("mobilenet_v2", str(REAL_WEIGHTS))
    features = extract_features(encoder, Photos(REAL_PHOTOS, splits), tmp_path)
    assert features.array.shape == (len(names), 1280)
    unit = features.array / np.linalg.norm(features.array, axis=1, keepdims=True)
    likeness = unit @ unit.T - 2 * np.eye(len(names))
    assert likeness.max() < 0.98
    assert len(set(likeness.argmax(axis=1))) > len(names) / 3
