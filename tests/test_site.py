"""The site has every notebook, the report and the modules, and all its links lead somewhere."""

import re

import nbformat
import pytest

from tools import site
from utils.settings import PROJECT, Settings


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A site of a run that executed one notebook only, in the place of an older site."""
    folder = tmp_path_factory.mktemp("site")
    settings = Settings(runs=folder / "runs")
    settings.notebooks_folder.mkdir(parents=True)
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell(
                "# 4 · Ran here\n\n[3](03_extract_features.ipynb) [C](http://c/d.ipynb)\n"
                "[data](../data/README.md#runs) [card](../models/one/README.md)"
            )
        ]
    )
    nbformat.write(notebook, settings.notebooks_folder / "04_train_captioner.ipynb")
    patch = pytest.MonkeyPatch()
    few = folder / "project"
    (few / "notebooks").mkdir(parents=True)
    (few / "report").mkdir()
    (few / "report" / "report.pdf").write_bytes(b"%PDF published")
    for article in ("data", "models/one"):
        (few / article).mkdir(parents=True)
        (few / article / "README.md").write_text(f"# About {article}\n\n## Runs\n")
    for name in ("03_extract_features", "04_train_captioner"):
        committed = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 3 · Kept")])
        nbformat.write(committed, few / "notebooks" / f"{name}.ipynb")
    (folder / "old" / "gone").mkdir(parents=True)
    patch.setattr(site, "PROJECT", few)
    try:
        yield site.build_site(
            settings, folder / "old", ("utils.machinery.errors", "utils.machinery.lock")
        ).parent
    finally:
        patch.undo()


def test_every_link_of_the_first_page_leads_to_a_file(built):
    links = re.findall(r'(?:href|action)="([^"]+)"', (built / "index.html").read_text())
    assert "api/utils/machinery/errors.html" in links
    assert "report.pdf" in links
    missing = [link for link in links if not (built / link).is_file()]
    assert missing == ["api/utils.html"]  # only two modules were documented here
    assert not (built / "gone").exists()


def test_notebooks_are_shown_as_they_ran_and_link_to_pages(built):
    page = (built / "notebooks" / "04_train_captioner.html").read_text(encoding="utf-8")
    assert "Ran here" in page
    assert 'href="03_extract_features.html"' in page
    assert 'href="http://c/d.ipynb"' in page
    assert "Kept" in (built / "notebooks" / "03_extract_features.html").read_text(encoding="utf-8")


def test_what_notebooks_link_to_is_there(built):
    folder = built / "notebooks"
    page = (folder / "04_train_captioner.html").read_text(encoding="utf-8")
    links = re.findall(r'href="((?!http)[^"#]+)(#[^"]*)?"', page)
    assert ("../data/README.html", "#runs") in links
    assert [link for link, _ in links if not (folder / link).resolve().is_file()] == []
    assert "About models/one" in (built / "models" / "one" / "README.html").read_text()


def test_arguments_and_errors_of_a_function_are_lists(built):
    page = (built / "api" / "utils" / "machinery" / "lock.html").read_text(encoding="utf-8")
    assert re.search(r"<h6[^>]*>Raises:", page)


def test_the_published_report_stands_in_for_that_of_a_run(built):
    assert (built / "report.pdf").read_bytes() == b"%PDF published"
    assert (PROJECT / "report" / "report.pdf").is_file()
