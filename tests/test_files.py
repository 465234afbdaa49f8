import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.machinery.errors import MissingStageError
from utils.machinery.files import (
    atomic_path,
    content_hash,
    file_hash,
    read_json,
    require,
    write_json,
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


def test_hashes_tell_contents_apart_and_not_orders_of_keys(tmp_path):
    (tmp_path / "one").write_bytes(b"a" * (1 << 20) + b"b")
    (tmp_path / "two").write_bytes(b"a" * (1 << 20) + b"c")
    assert file_hash(tmp_path / "one") != file_hash(tmp_path / "two")
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    assert content_hash([1, 2]) != content_hash([2, 1])
