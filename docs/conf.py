"""Settings of Sphinx for the site that `make docs` builds from this folder into build/site."""

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

# Files beside this folder that the site shows as pages, with the pages that include them.
INCLUDED = {
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../SECURITY.md": "security.md",
    "../model/pretrained/clippo-dictionary/README.md": "model_card.md",
}


def link_to_pages(app, name, source):
    """Let links to files that a page includes lead to that page."""
    for file, page in INCLUDED.items():
        source[0] = source[0].replace(f"]({file}", f"]({page}")


def show_as_code(app, what, name, object_, options, lines):
    """Mark what a docstring indents after a colon and an empty line as a literal block."""
    for line in range(len(lines) - 2):
        if lines[line].endswith(":") and not lines[line + 1] and lines[line + 2].startswith(" "):
            lines[line] += ":"


def setup(app):
    app.connect("source-read", link_to_pages)
    app.connect("autodoc-process-docstring", show_as_code)
