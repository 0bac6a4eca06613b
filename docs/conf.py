"""Settings of Sphinx for the site that `make docs` builds from this folder into build/site."""

import os
import re
from pathlib import Path

from clippo_kernels import __version__

project = "CLIPPO kernels"
copyright = "the authors of CLIPPO kernels, Apache-2.0"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = "CLIPPO kernels"
html_show_sphinx = False

myst_heading_anchors = 4  # anchors as GitHub gives them to headings

default_role = "py:obj"  # `name` in a docstring is a link where the name is in the reference
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
napoleon_use_ivar = True  # a field that is also an attribute is described once

linkcheck_ignore = [r"https?://127\.0\.0\.1"]

DOCS = Path(__file__).resolve().parent
INCLUDED = {  # files of the repository, and the pages that show them
    DOCS.parent / "CHANGELOG.md": "changelog.md",
    DOCS.parent / "CONTRIBUTING.md": "contributing.md",
    DOCS.parent / "SECURITY.md": "security.md",
    DOCS.parent / "examples/README.md": "examples.md",
    DOCS.parent / "model/pretrained/clippo-dictionary/README.md": "model_card.md",
}
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")


def linked(text, folder):
    """Let links of a page in a folder lead to pages of the site, or else to the files, as downloads."""

    def link(match):
        file = (folder / match[1]).resolve()
        if not file.is_file():
            return match[0]
        if file in INCLUDED:
            return f"](/{INCLUDED[file]}"
        is_of_site = file.is_relative_to(DOCS)
        return f"]({'' if is_of_site else 'path:'}/{os.path.relpath(file, DOCS)}"

    return LINK.sub(link, text)


def link_page(app, name, source):
    source[0] = linked(source[0], (DOCS / name).parent)


def link_included(app, path, name, source):
    source[0] = linked(source[0], (DOCS / path).resolve().parent)


def show_as_code(app, what, name, object_, options, lines):
    """Mark what a docstring indents after a colon and an empty line as a literal block."""
    for line in range(len(lines) - 2):
        if lines[line].endswith(":") and not lines[line + 1] and lines[line + 2].startswith(" "):
            lines[line] += ":"


def setup(app):
    app.connect("source-read", link_page)
    app.connect("include-read", link_included)
    app.connect("autodoc-process-docstring", show_as_code)
