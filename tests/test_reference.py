"""The pages of the reference, as docs/conf.py makes them: complete, and with types that read."""

import importlib
import importlib.util
import inspect
import pathlib

import pytest

import jaxgen as jg

PATH = pathlib.Path(jg.__file__).parent.parent / "docs" / "conf.py"
SPEC = importlib.util.spec_from_file_location("conf", PATH)
conf = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(conf)
PACKAGES = ["jaxgen", *(f"jaxgen.{name}" for name in conf.PACKAGES)]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_page_has_every_public_name(package):
    module, page = importlib.import_module(package), conf.page(package)
    for name in set(module.__all__) - set(conf.PACKAGES) - {"__version__"}:
        path = conf.documented()[f"{package}.{name}"]
        assert f"| {{py:obj}}`~{path}` |" in page
        if path == f"{package}.{name}":
            assert f":: {path}\n" in page or f".. py:data:: {name}\n" in page


@pytest.mark.parametrize("package", PACKAGES)
def test_signatures_are_the_source_s(package):
    module = importlib.import_module(package)
    for name in conf.public_names(package):
        thing = getattr(module, name.path.rpartition(".")[2])
        shown = conf.signature(thing)
        if inspect.isfunction(thing):
            names = [word.split(":")[0].split("=")[0] for word in shown[0][1:-1].split(", ")]
            assert set(inspect.signature(thing).parameters) <= {word.strip("* ") for word in names}
        assert not any(word in str(shown) for word in ("Sentinel", "_jax", " at 0x", "field("))


def test_signatures_of_some():
    assert conf.signature(jg.core.Estimate)[0] == (
        "(value: Array, standard_error: Array, num_samples: Array)"
    )
    assert conf.signature(jg.MADE)[0].startswith("(num_dims: int, num_symbols: int | None, hidden")
    assert "parent" not in conf.signature(jg.MADE)[0]
    parameters, result = conf.signature(jg.samplers.gamma)
    assert parameters.startswith("(key: Key, concentration: Array | float")
    assert result == "Array"
    assert conf.signature(jg.models.LinenAutoregressiveModel) == ("()", None)


def test_fields_of_tuples_and_flax_s_own_are_left_out():
    def skip(thing, name):
        return conf.skip_member(None, "class", name, thing, False, None)

    assert skip(jg.core.Estimate.value, "value")
    assert skip(None, "parent")
    assert skip(jg.MADE.log_prob, "log_prob") is None


def test_public_names_in_docstrings_are_links():
    text = "See `jg.elbo`, `quantile`, `sample` and `x`; ``quantile``; :math:`quantile`."
    assert conf.linked(text, "jaxgen.samplers.sample") == (
        "See :py:obj:`jg.elbo <jaxgen.objectives.elbo>`, "
        ":py:obj:`quantile <jaxgen.samplers.quantile>`, "
        "`sample` and `x`; ``quantile``; :math:`quantile`."
    )


def test_a_letter_alone_begins_no_list():
    """As docutils would read `N. ` and number what follows."""
    lines = [
        ":param num_rows: N.",
        "                 D. At most 9.",
        ":ivar size: C or more.",
        "1. A",
    ]
    conf.process_docstring(None, "function", "jaxgen.coding.encode", None, None, lines)
    assert lines == [
        ":param num_rows: \\N.",
        "                 \\D. At most 9.",
        ":ivar size: C or more.",
        "1. A",
    ]


def test_formulas_have_the_spaces_that_tex_leaves():
    log, apply, space = "<mi>log</mi>", "<mo>&ApplyFunction;</mo>", conf.THIN_SPACE
    of_p = f"<mi>b</mi>{log}{apply}<mi>p</mi>"
    assert conf.mended(of_p) == f"<mi>b</mi>{space}{log}{space}<mi>p</mi>"
    of_bracket = f'<mo>=</mo>{log}{apply}<mo stretchy="false">(</mo>'
    assert conf.mended(of_bracket) == of_bracket


def test_subscripts_stand_beside_a_letter_with_an_accent():
    bar = '<mo stretchy="false">ˉ</mo>'
    formula = f"<munderover>\n<mi>x</mi>\n<mrow><mi>j</mi></mrow>\n{bar}\n</munderover>"
    assert conf.mended(formula) == (
        f'<msub><mover accent="true"><mi>x</mi>{bar}</mover>\n<mrow><mi>j</mi></mrow>\n</msub>'
    )
    total = "<munderover><mo>∑</mo><mi>i</mi><mi>n</mi></munderover>"
    assert conf.mended(total) == total


def test_a_number_keeps_its_error():
    source = ["| 1.5 ± 0.2 | a ± b |"]
    conf.process_source(None, "results", source)
    assert source == ["| 1.5\u00a0±\u00a00.2 | a ± b |"]
