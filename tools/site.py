"""Writes notebooks, report and API pages to build/site/: `python -m tools.site` (`make site`).

The notebooks are those of the run with these settings, else the committed ones, with their outputs;
the report is that of the run, else the published one. All opens from disk, without a server.
"""

import html
import re
import shutil
from pathlib import Path

import nbformat
import pdoc
from nbconvert import HTMLExporter

from tools.run_notebooks import NOTEBOOK_PAGE
from utils.machinery.files import read_text, write_text
from utils.machinery.quiet import quiet_start
from utils.settings import PROJECT, Settings, short_path

SITE = PROJECT / "build" / "site"
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Photograph captions</title>
<style>
body {{ font: 17px/1.5 system-ui, sans-serif; max-width: 42rem; margin: 2rem auto; }}
body {{ padding: 0 1rem; }}
input {{ font: inherit; width: 20rem; max-width: 100%; }}
</style>
<h1>Photograph captions</h1>
<h2>Notebooks</h2>
<ol start="0">{notebooks}</ol>
<p>Without a network, formulas are shown as they were typed.</p>
<h2>Report</h2>
<p><a href="report.pdf">The report of a run (PDF)</a></p>
<h2>Modules</h2>
<form action="api/utils.html">
<label>Search modules, classes and functions <input type="search" name="search"></label>
</form>
<ul>{modules}</ul>
</html>
"""


def build_site(settings: Settings, folder: Path = SITE, modules: tuple[str, ...] = ("utils",)):
    """Writes the site of a run to `folder`, in place of what was there; returns its first page."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    notebooks = [
        write_notebook(path, settings.notebooks_folder, folder / "notebooks")
        for path in sorted((PROJECT / "notebooks").glob("*.ipynb"))
    ]
    for path in [PROJECT / "data" / "README.md", *sorted((PROJECT / "models").glob("*/README.md"))]:
        write_article(path, (folder / path.relative_to(PROJECT)).with_suffix(".html"))
    report = settings.report_file
    published = PROJECT / "report" / "report.pdf"
    shutil.copyfile(report if report.exists() else published, folder / "report.pdf")
    with quiet_start():  # pdoc loads what it describes
        import keras  # noqa: F401
    pdoc.render.configure(docformat="google")
    pdoc.pdoc(*modules, output_directory=folder / "api")
    pages = [path.relative_to(folder / "api") for path in (folder / "api").rglob("*.html")]
    documented = [
        (f"api/{page.as_posix()}", ".".join(page.with_suffix("").parts))
        for page in sorted(pages, key=lambda page: page.with_suffix("").parts)
        if page.name != "index.html"
    ]
    lists = {"notebooks": list_of(notebooks), "modules": list_of(documented)}
    write_text(folder / "index.html", PAGE.format(**lists))
    return folder / "index.html"


def write_notebook(path: Path, executed: Path, folder: Path) -> tuple[str, str]:
    """Writes a notebook as a page, as it ran if it did; returns the page's address and title."""
    ran = executed / path.name
    notebook = nbformat.read(ran if ran.exists() else path, as_version=4)
    _write_page(notebook, path.parent, folder / f"{path.stem}.html")
    title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
    return f"notebooks/{path.stem}.html", title.split("·")[-1].strip()


def write_article(path: Path, page: Path) -> None:
    """Writes a Markdown file, to which notebooks link, as a page that looks like theirs."""
    text = nbformat.v4.new_markdown_cell(read_text(path))
    _write_page(nbformat.v4.new_notebook(cells=[text]), path.parent, page)


def _write_page(notebook: nbformat.NotebookNode, folder: Path, page: Path) -> None:
    """The notebook as HTML, whose links to notebooks and Markdown files lead to their pages."""
    exporter = HTMLExporter(raw_template=NOTEBOOK_PAGE, embed_images=True)
    resources = {"metadata": {"path": str(folder), "name": page.stem}}
    content, _ = exporter.from_notebook_node(notebook, resources)
    write_text(
        page, re.sub(r'href="([^":]+)\.(?:ipynb|md)(#[^"]*)?"', r'href="\1.html\2"', content)
    )


def list_of(links: list[tuple[str, str]]) -> str:
    """Items of a list, a link each."""
    return "".join(
        f'<li><a href="{html.escape(to)}">{html.escape(text)}</a></li>' for to, text in links
    )


if __name__ == "__main__":
    print(f"Open {short_path(build_site(Settings.from_environment()))} in a browser.")
