import os
import stat

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.machinery.errors import MissingStageError, SettingsError, StaleArtefactError
from utils.machinery.files import (
    atomic_path,
    check_fields,
    content_hash,
    file_hash,
    read_arrays,
    read_json,
    read_table,
    record_files,
    require,
    write_arrays,
    write_json,
    write_table,
    write_text,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    def fail_halfway():
        with atomic_path(tmp_path / "file.txt") as part:
            part.write_text("half")
            raise RuntimeError("no more space")

    write_text(tmp_path / "file.txt", "old")
    with pytest.raises(RuntimeError, match="no more space"):
        fail_halfway()
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]
    assert (tmp_path / "file.txt").read_text() == "old"


def test_a_file_appears_whole_in_a_new_folder_and_keeps_its_ending(tmp_path):
    target = tmp_path / "new" / "model.weights.h5"
    with atomic_path(target) as part:
        assert part.name.endswith(".weights.h5")
        part.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_others_may_read_what_is_written_as_with_any_file(tmp_path):
    write_text(tmp_path / "atomic", "x")
    (tmp_path / "plain").write_text("x")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("atomic", "plain")}
    assert len(modes) == 1


def test_a_folder_that_may_not_be_written_into_is_a_matter_of_settings(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(SettingsError, match=r"file\.txt can't be written .*RUNS"):
        write_text(tmp_path / "file.txt", "x")


@given(JSON)
def test_json_comes_back_as_it_went(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("json") / "content.json"
    write_json(file, content)
    assert read_json(file) == content


def test_numbers_that_other_readers_refuse_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file.json", {"score": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_named_with_what_makes_it(tmp_path):
    with pytest.raises(MissingStageError, match=r"captions\.csv is missing. Run notebook 02 first"):
        require(tmp_path / "captions.csv", "notebook 02")


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (b"", "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b'{"a": "\\ud800"}', "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "not an object"),
        (b"{}", "no 'a'"),
        (b'{"a": true}', "'a' is true"),
        (b'{"a": "1"}', "'a' is \"1\""),
        (b'{"a": 1, "b": 1e999}', "'b' is Infinity"),
        (b'{"a": 1, "b": NaN}', "'b' is NaN"),
        (b'{"a": 1, "b": 2, "c": []}', "'c' is"),
    ],
)
def test_json_that_is_not_what_it_should_be_is_refused_with_finding_and_remedy(
    tmp_path, content, finding
):
    file = tmp_path / "file.json"
    file.write_bytes(content)
    fields = {"a": int, "b": float, "c": lambda value: value != []}
    with pytest.raises(StaleArtefactError, match=f"file.json.*{finding}.*Make it again"):
        read_json(file, "Make it again.", fields)


def test_json_with_the_right_fields_is_read():
    content = {"a": 1, "b": 2, "c": [3], "more": None}
    assert check_fields(content, {"a": int, "b": float, "c": list}, "file.json") is content


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_a_pipe_or_a_folder_in_place_of_a_file_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        for read in (read_json, lambda file: read_table(file, []), lambda file: require(file, "x")):
            with pytest.raises(StaleArtefactError, match="not a regular file"):
                read(path)
        with pytest.raises(StaleArtefactError, match="not a regular file"):
            read_arrays(path, 1000, "")


def test_a_file_too_large_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "file.json").open("wb") as file:
        file.truncate(1 << 40)  # takes no room
    with pytest.raises(StaleArtefactError, match=r"1,099,511,627,776 bytes"):
        read_json(tmp_path / "file.json")


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ("", "no table"),
        ("a,c\n1,2\n", "no column 'b', only a, c"),
        ("a,b\n1,2\n3", "last line is cut"),
        ('a,b\n1,"2\n', "no table"),
    ],
)
def test_a_table_that_is_cut_or_another_is_refused(tmp_path, content, finding):
    (tmp_path / "table.csv").write_text(content)
    with pytest.raises(StaleArtefactError, match=finding):
        read_table(tmp_path / "table.csv", ["a", "b"])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"))))
def test_texts_come_back_from_a_table_and_none_is_a_formula(tmp_path_factory, texts):
    file = tmp_path_factory.mktemp("table") / "table.csv"
    texts = [*texts, "=1+1", "'=1+1", "+1", "-1", "@a", "\t1"]
    write_table(file, pd.DataFrame({"a": texts, "b": range(len(texts))}))
    table = read_table(file, {"a": str, "b": int})
    assert table["a"].tolist() == texts
    cells = [line.lstrip('"') for line in file.read_text().splitlines()[-6:]]
    assert all(cell.startswith("'") for cell in cells)


def test_arrays_come_back_and_too_many_of_them_are_refused(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(["x"])}
    write_arrays(tmp_path / "arrays.npz", arrays)
    read = read_arrays(tmp_path / "arrays.npz", 1000, "")
    assert all(np.array_equal(read[name], arrays[name]) for name in arrays)
    with pytest.raises(StaleArtefactError, match="at most 10 are"):
        read_arrays(tmp_path / "arrays.npz", 10, "")


def test_a_recorded_file_that_was_changed_is_refused_with_what_makes_it(tmp_path):
    for name in ("one", "two", "three"):
        (tmp_path / name).write_text(name)
    record_files("notebook 02", tmp_path / "one")
    record_files("notebook 03", tmp_path / "two")
    assert require(tmp_path / "one", "notebook 02") == tmp_path / "one"
    for name in ("one", "three"):
        (tmp_path / name).write_text("edited")
    with pytest.raises(StaleArtefactError, match="changed since notebook 02 wrote it"):
        require(tmp_path / "one", "notebook 02")
    require(tmp_path / "three", "notebook 04")  # nobody recorded it
    with pytest.raises(StaleArtefactError, match=r"stages.json does not tell.*notebook 04 wrote"):
        require(tmp_path / "three", "notebook 04", recorded=True)
    record_files("notebook 02", tmp_path / "one")
    require(tmp_path / "one", "notebook 02")


def test_a_torn_record_is_named(tmp_path):
    (tmp_path / "one").touch()
    (tmp_path / "stages.json").write_text('{"format": 1, "files": {"one": 5}}')
    with pytest.raises(StaleArtefactError, match=r"stages\.json.*Delete it"):
        require(tmp_path / "one", "notebook 02")


def test_hashes_tell_contents_apart_and_not_orders_of_keys(tmp_path):
    (tmp_path / "one").write_bytes(b"a" * (1 << 20) + b"b")
    (tmp_path / "two").write_bytes(b"a" * (1 << 20) + b"c")
    assert file_hash(tmp_path / "one") != file_hash(tmp_path / "two")
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    assert content_hash([1, 2]) != content_hash([2, 1])
