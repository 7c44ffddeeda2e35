import sys

import pytest

from jaxgen.core._extras import import_extra


def test_what_is_installed_is_imported():
    assert import_extra("json.decoder", "mcmc") is sys.modules["json.decoder"]


def test_what_is_not_installed_is_named_with_the_extra_that_brings_it():
    with pytest.raises(
        ModuleNotFoundError, match=r'^nowhere is not installed: pip install "jaxgen\[mcmc\]"'
    ):
        import_extra("nowhere.at_all", "mcmc")


def test_what_a_package_lacks_itself_is_no_missing_extra(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import something_else_missing")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'something_else_missing'"):
        import_extra("broken_package", "mcmc")
