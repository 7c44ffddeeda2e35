"""Sphinx's settings: MyST pages, and API pages made of the docstrings."""

import importlib.metadata
import pathlib
import pkgutil

import jaxgen

project = "jaxgen"
release = importlib.metadata.version("jaxgen")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = "jaxgen"
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
default_role = "code"  # single backticks are code, as everywhere in the docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give shapes, which say more
autodoc_default_options = {"members": True}
napoleon_use_rtype = False
napoleon_use_ivar = True
nitpicky = False


def write_api_pages(app: object) -> None:
    """Write a page for each package, with a section for each of its modules."""
    folder = pathlib.Path(__file__).parent / "api"
    folder.mkdir(exist_ok=True)
    modules = [m.name for m in pkgutil.walk_packages(jaxgen.__path__, "jaxgen.") if not m.ispkg]
    packages: dict[str, list[str]] = {}
    for name in modules:
        packages.setdefault(".".join(name.split(".")[:2]), []).append(name)
    for package, names in packages.items():
        sections = [f"# {package}\n"]
        for name in names:
            directive = f"```{{eval-rst}}\n.. automodule:: {name}\n```\n"
            sections += [f"## {name}\n", directive] if name != package else [directive]
        page = folder / f"{package}.md"
        text = "\n".join(sections)
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def setup(app: object) -> None:
    """Make the API pages before Sphinx looks for them."""
    app.connect("builder-inited", write_api_pages)  # type: ignore[attr-defined]
