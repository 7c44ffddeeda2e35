"""Sphinx's settings: MyST pages, and API pages made of the stubs, the source and the docstrings.

A page for each package: a table of its public names, then each by itself. Signatures are what the
source says, as Sphinx's own show the addresses and the aliases that Python resolves them to.
"""

import ast
import collections
import dataclasses
import functools
import importlib.metadata
import importlib.util
import inspect
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

project = "jaxgen"
release = importlib.metadata.version("jaxgen")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = "jaxgen"
html_static_path = ["_static"]
html_css_files = ["jaxgen.css"]
html_show_copyright = False
html_math_renderer = "mathml"  # browsers draw it themselves, and no script is fetched
exclude_patterns = ["_build"]
myst_enable_extensions = ["attrs_block", "dollarmath"]
myst_heading_anchors = 3
default_role = "code"  # single backticks are code, as everywhere in the docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # `signature` below writes them as the source has them
autodoc_default_options = {"members": True}
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # which Python resolves to private paths; docstrings give shapes
nitpicky = False

THIN_SPACE = '<mspace width="0.1667em"/>'
PACKAGES = (
    "core",
    "samplers",
    "estimators",
    "objectives",
    "models",
    "coding",
    "criticism",
    "training",
    "data",
)


class Name(NamedTuple):
    """A public name.

    Attributes:
      path: where a user finds it, `jaxgen.samplers.alias`.
      module: the module that defines it.
      node: its statement there.
      doc: its docstring; of an assignment, the string below it.
    """

    path: str
    module: str
    node: ast.stmt
    doc: str


def parsed(module: str) -> ast.Module:
    """The syntax tree of a module's source."""
    return _parsed(origin(module))


@functools.cache
def _parsed(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text())


def origin(module: str) -> pathlib.Path:
    """The file of a module."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{module} has no source file")
    return pathlib.Path(spec.origin)


def exported(package: str) -> dict[str, str]:
    """The names of a package's stub, with the module that each comes from."""
    stub = _parsed(origin(package).with_suffix(".pyi"))
    return {
        alias.asname or alias.name: f"{package}.{statement.module}"
        for statement in stub.body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    }


def public_names(package: str) -> list[Name]:
    """What a package defines itself, by name; what it passes on has a page elsewhere."""
    subpackages = {f"jaxgen.{name}" for name in PACKAGES}
    return [
        Name(f"{package}.{name}", module, *definition(module, name))
        for name, module in sorted(exported(package).items(), key=lambda item: item[0].lower())
        if module not in subpackages
    ]


def definition(module: str, name: str) -> tuple[ast.stmt, str]:
    """The statement that defines a name in a module, and its docstring."""
    body = parsed(module).body
    for node, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return node, ast.get_docstring(node) or ""
        if name in targets(node):
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            return node, inspect.cleandoc(after.value.value) if is_text else ""
    for node in body:  # imported, to be exported from here
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return definition(node.module, alias.name)
    raise LookupError(f"{module} does not define {name}")


def targets(node: ast.stmt) -> list[str]:
    """The names that a statement assigns to."""
    assigned = node.targets if isinstance(node, ast.Assign) else []
    assigned = [node.target] if isinstance(node, ast.AnnAssign) else assigned
    return [target.id for target in assigned if isinstance(target, ast.Name)]


def summary(doc: str) -> str:
    """The first sentence of a docstring as a cell of a Markdown table."""
    paragraph = " ".join(doc.split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.:])\s+(?=[A-Z])", paragraph)[0].rstrip(":")
    return re.sub(r":math:`([^`]*)`", r"$\1$", sentence).replace("|", r"\|")


def directive(name: Name) -> str:
    """The directive that documents a name."""
    if isinstance(name.node, ast.FunctionDef):
        return f".. autofunction:: {name.path}"
    if isinstance(name.node, ast.ClassDef):
        return f".. autoclass:: {name.path}"
    value = getattr(name.node, "value", None)
    short = name.path.rpartition(".")[2]  # `automodule` above has set the module
    lines = [f".. py:data:: {short}", "", f"   ``{ast.unparse(value)}``" if value else ""]
    return "\n".join([*lines, "", *(f"   {line}".rstrip() for line in name.doc.split("\n"))])


def returned_classes(names: list[Name]) -> list[Name]:
    """Classes beside what is exported, which its functions return, such as a table of draws."""
    returned = {
        (name.module, word)
        for name in names
        if isinstance(name.node, ast.FunctionDef) and name.node.returns
        for word in re.findall(r"\w+", ast.unparse(name.node.returns))
    }
    shown = {(name.module, getattr(name.node, "name", "")) for name in names}
    return [
        Name(f"{module}.{node.name}", module, node, ast.get_docstring(node) or "")
        for module in sorted({name.module for name in names})
        for node in parsed(module).body
        if isinstance(node, ast.ClassDef) and (module, node.name) in returned - shown
    ]


def page(package: str) -> str:
    """The Markdown page of a package."""
    names = public_names(package)
    module = f"```{{eval-rst}}\n.. automodule:: {package}\n   :no-members:\n```"
    parts = [f"# {package}", module, table(names)]
    if package == "jaxgen":
        parts += ["The front door to the packages:", table(front_door())]
    parts += [section(name) for name in names]
    if others := returned_classes(names):
        parts += ["## What they return", *(section(name, level=3) for name in others)]
    return "\n\n".join(parts) + "\n"


def front_door() -> list[Name]:
    """What `jaxgen` passes on, by the path where it is documented."""
    return [
        Name(f"{module}.{name}", module, *definition(exported(module)[name], name))
        for name, module in exported("jaxgen").items()
        if module in {f"jaxgen.{package}" for package in PACKAGES}
    ]


def table(names: list[Name]) -> str:
    """A row for each name: a link, and its first sentence."""
    rows = [f"| {{py:obj}}`~{name.path}` | {summary(name.doc)} |" for name in names]
    return "\n".join(["{.names}", "| name | what it is or does |", "|---|---|", *rows])


def section(name: Name, level: int = 2) -> str:
    """A heading and the directive under it."""
    title = name.path.rpartition(".")[2]
    return f"{'#' * level} {title}\n\n```{{eval-rst}}\n{directive(name)}\n```"


def write_api_pages(app: object) -> None:
    """Write the page of each package, where it differs from what is there."""
    folder = pathlib.Path(__file__).parent / "api"
    folder.mkdir(exist_ok=True)
    pages = {f"{name}.md": page(name) for name in ("jaxgen", *(f"jaxgen.{p}" for p in PACKAGES))}
    for path in folder.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for file, text in pages.items():
        if not (folder / file).exists() or (folder / file).read_text() != text:
            (folder / file).write_text(text)


def signature(thing: Any) -> tuple[str, str | None] | None:
    """Parameters and result of a function or class as its source writes them, if it does."""
    if inspect.isclass(thing):
        fields = list(class_fields(thing))
        if fields or dataclasses.is_dataclass(thing):
            return f"({', '.join(fields)})", None
        if "__init__" not in vars(thing):
            return None
        thing = thing.__init__
    try:
        source = inspect.getsource(inspect.unwrap(thing))
        node = ast.parse(inspect.cleandoc("\n" + source)).body[0]
    except (TypeError, OSError, SyntaxError):
        return None
    if not isinstance(node, ast.FunctionDef):
        return None
    positional = node.args.posonlyargs or node.args.args
    if positional and positional[0].arg in ("self", "cls"):
        positional.pop(0)
    result = ast.unparse(node.returns).strip("'") if node.returns else None  # quoted: defined later
    return f"({ast.unparse(node.args)})", None if result == "None" else result


def class_fields(cls: type) -> Iterator[str]:
    """The fields of a NamedTuple or dataclass; Flax's own are not the model's."""
    is_tuple = issubclass(cls, tuple) and hasattr(cls, "_fields")
    if not is_tuple and not dataclasses.is_dataclass(cls):
        return
    written = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("jaxgen"):
            node, _ = definition(base.__module__, base.__name__)
            assert isinstance(node, ast.ClassDef)
            written |= {n: s for s in node.body for n in targets(s)}
    names = cls._fields if is_tuple else [f.name for f in dataclasses.fields(cls) if f.init]
    for name in names:
        if isinstance(statement := written.get(name), ast.AnnAssign):
            value = "" if statement.value is None else ast.unparse(statement.value)
            if value.startswith("dataclasses.field("):  # how it is kept, not what it is
                value = "..." if "default" in value else ""
            yield f"{name}: {ast.unparse(statement.annotation)}{value and f' = {value}'}"


def process_signature(
    app: object, what: str, name: str, thing: Any, options: object, text: str, result: str
) -> tuple[str, str | None] | None:
    """Sphinx's event: the signature that is shown."""
    return signature(thing) if what in ("function", "method", "class") else None


def skip_member(
    app: object, what: str, name: str, thing: Any, skip: bool, options: object
) -> bool | None:
    """Sphinx's event: fields stand in the class's docstring, and Flax's are nobody's."""
    is_field = isinstance(thing, type(collections.namedtuple("Pair", "a").a))
    return True if is_field or name in ("parent", "name", "scope", "setup") else None


def process_docstring(
    app: object, what: str, name: str, thing: Any, options: object, lines: list[str]
) -> None:
    """Sphinx's event: link the public names in a docstring; a letter begins no numbered list."""
    letter = re.compile(r"^(:\w+ \w+: | *)([A-Za-z]\.)(?= |$)")
    lines[:] = [linked(letter.sub(r"\1\\\2", line), name) for line in lines]


def hide_private_paths(app: object, domain: str, kind: str, content: Any) -> None:
    """Sphinx's event: what functions return, but no package exports, is shown by name alone."""
    from sphinx import addnodes

    for node in list(content.parent.findall(addnodes.desc_addname)):
        if "._" in node.astext():
            node.parent.remove(node)


def process_source(app: object, name: str, source: list[str]) -> None:
    """Sphinx's event: a number and its error stay on one line."""
    source[0] = re.sub(r"(?<=\d) ± (?=\d)", "\u00a0±\u00a0", source[0])


def linked(line: str, name: str) -> str:
    """A line of a docstring with single-backtick names of functions and classes as links."""
    package = ".".join(name.split(".")[:2])

    def link(match: re.Match) -> str:
        text = match[1]
        places = (f"{package}.{text}", re.sub(r"^jg\.", "jaxgen.", text), f"jaxgen.{text}")
        path = next((documented()[place] for place in places if place in documented()), None)
        own = path is not None and path.rpartition(".")[2] == name.rpartition(".")[2]
        return match[0] if path is None or own else f":py:obj:`{text} <{path}>`"

    return re.sub(r"(?<![`:\w])`([A-Za-z_.]+)`(?!`)", link, line)


@functools.cache
def documented() -> dict[str, str]:
    """Every public path, and the one under which it is documented."""
    packages = [f"jaxgen.{package}" for package in PACKAGES]
    paths = {name.path: name.path for package in packages for name in public_names(package)}
    front = {f"jaxgen.{n.path.rpartition('.')[2]}": n.path for n in front_door()}
    return paths | front | {name.path: name.path for name in public_names("jaxgen")}


def visit_math(translator: Any, node: Any) -> None:
    """Write a formula as MathML, by the converter that comes with docutils."""
    from docutils import nodes

    is_block = isinstance(node, nodes.math_block)
    tag = "div" if is_block else "span"
    opening = translator.starttag(node, tag, "", CLASS="math notranslate nohighlight")
    try:
        formula = mathml(node.astext(), is_block)
    except (SyntaxError, ValueError):  # by version; a formula that is not understood is shown
        formula = f"<code>{translator.encode(node.astext())}</code>"
    translator.body.append(f"{opening}{formula}</{tag}>" + ("\n" if is_block else ""))
    raise nodes.SkipNode


def mathml(formula: str, is_block: bool) -> str:
    """MathML of a LaTeX formula; brackets grow by themselves there, so sizes are left out."""
    from docutils.utils.math import latex2mathml

    formula = re.sub(r"\\[bB]igg?[lr]?(?![a-zA-Z])", "", formula)
    formula = re.sub(r"\\dots(?![a-zA-Z])", r"\\ldots", formula)
    formula = re.sub(r"\\([dt]?frac)(\w)(\w)", r"\\\1{\2}{\3}", formula)
    formula = formula.replace(r"\|", r"\parallel ")
    return mended(latex2mathml.tex2mathml(formula, as_block=is_block))


def mended(formula: str) -> str:
    """MathML with subscripts beside a letter that has an accent, and spaces where TeX leaves them.

    That is around a function such as log, and not inside bars.
    """
    accented = r'<munderover>\s*(<mi>.</mi>)(.*?)(<mo stretchy="false">.</mo>)\s*</munderover>'
    beside = r'<msub><mover accent="true">\1\3</mover>\2</msub>'
    formula = re.sub(accented, beside, formula, flags=re.DOTALL)
    formula = re.sub(r"<mo>&ApplyFunction;</mo>(?!\s*<mo[^>]*>[(\[{|])", THIN_SPACE, formula)
    before = r"(</m(?:i|n|sub|sup|subsup|frac|sqrt)>|<mo[^>]*>[)\]}]</mo>)"
    function = r"(\s*<mi>(?:log|exp|det|sin|cos|tanh)</mi>)"
    formula = re.sub(before + function, rf"\1{THIN_SPACE}\2", formula)
    bar = r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>'
    return re.sub(r'<mo(?: stretchy="false"| class="mathopen")?>([|‖])</mo>', bar, formula)


def setup(app: Any) -> None:
    """Make the API pages before Sphinx looks for them, and say how they are to be written."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
    app.connect("builder-inited", write_api_pages)
    app.connect("source-read", process_source)
    app.connect("object-description-transform", hide_private_paths)
    app.connect("autodoc-process-signature", process_signature)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("autodoc-process-docstring", process_docstring)
