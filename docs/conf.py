"""How the pages in this folder become a site: `make docs`."""

from __future__ import annotations

from importlib.metadata import version as _version
from typing import Any

project = "Weav3R"
author = "The Weav3R authors"
copyright = "The Weav3R authors; Apache-2.0"
release = version = _version("weav3r")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
default_role = "code"  # single backticks in docstrings are code
napoleon_use_ivar = True
python_use_unqualified_type_names = True

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["drawings.css"]
html_title = f"Weav3R {release}"
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#2468c9", "color-brand-content": "#2468c9"},
    "dark_css_variables": {"color-brand-primary": "#8ab4f8", "color-brand-content": "#8ab4f8"},
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def _escape(
    _app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    """Docstrings are plain text: bars are no substitutions, and lists need no blank line above."""
    escaped: list[str] = []
    for line in lines:
        indent = len(line) - len(line.lstrip())
        before = escaped[-1] if escaped else ""
        is_first = line.lstrip().startswith("- ") and not before.lstrip().startswith("- ")
        if is_first and before.strip() and len(before) - len(before.lstrip()) <= indent:
            escaped.append("")
        escaped.append(line.replace("|", "\\|"))
    lines[:] = escaped


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _escape, priority=100)  # before napoleon
