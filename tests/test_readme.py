import importlib.util

import pytest

from utils.machinery.files import read_json
from utils.settings import PROJECT


@pytest.fixture(scope="module")
def readme():
    """The script that writes the README's numbers; report/ is no package."""
    spec = importlib.util.spec_from_file_location("readme", PROJECT / "report" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readmes_numbers_are_those_of_the_published_runs(readme):
    text = readme.README.read_text(encoding="utf-8")
    texts = readme.texts()
    assert texts
    for mark, content in texts.items():
        assert readme.between_marks(text, mark, content) == text


def test_every_published_score_stands_in_the_readme(readme):
    text = readme.README.read_text(encoding="utf-8")
    folders = readme.published_runs()
    assert folders
    for folder in folders:
        for row in read_json(folder / "metrics.json")["scores"]:
            assert f"| {row['name']} |" in text
            assert f"{row['CIDEr']:.1f}" in text


def test_only_what_stands_between_the_marks_is_replaced(readme):
    text = "before\n<!-- times: made -->\nold\n<!-- end of times -->\nafter\n"
    changed = readme.between_marks(text, "times", "new")
    assert changed == "before\n<!-- times: made -->\nnew\n<!-- end of times -->\nafter\n"
    with pytest.raises(ValueError, match="no marks for 'scores'"):
        readme.between_marks(text, "scores", "new")
