import pytest

from jaxgen.core._files import write_bytes


def test_a_file_is_there_whole_in_a_folder_that_was_not(tmp_path):
    path = tmp_path / "new" / "file"
    write_bytes(path, b"first")
    write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert [one.name for one in path.parent.iterdir()] == ["file"]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        write_bytes(path, "text")
    assert path.read_bytes() == b"old"
