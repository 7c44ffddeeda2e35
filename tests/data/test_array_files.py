import os
import resource
import zipfile

import chex
import numpy as np
import pytest

from jaxgen.data._array_files import ArrayFiles
from jaxgen.data._errors import DataChangedError, DataFormatError, DataNotFoundError

X = np.arange(60, dtype=np.float32).reshape(10, 2, 3)
LABELS = np.arange(10, dtype=np.int64)


@pytest.fixture
def place(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "pair.npz", x=X, labels=LABELS)
    return tmp_path


@pytest.mark.parametrize("dtype", [bool, np.uint8, ">i2", np.int64, np.float16, "<f8", ">f4"])
def test_an_array_is_read_by_rows(tmp_path, dtype):
    array = X.astype(dtype)
    np.save(tmp_path / "a.npy", array)
    source = ArrayFiles(tmp_path / "a.npy")
    rows = np.array([9, 0, 9])
    assert len(source) == 10
    assert source[rows].dtype == np.dtype(dtype).newbyteorder("=")
    assert source[rows].flags.writeable  # a copy, not the file
    chex.assert_trees_all_equal(source[rows], array[rows])
    chex.assert_trees_all_equal(source[3], array[3])
    assert source[[]].shape == (0, 2, 3)


def test_several_files_are_one_source(tmp_path):
    sizes, paths = [4, 1, 5], []
    for i, part in enumerate(np.split(X, np.cumsum(sizes)[:-1])):
        paths.append(tmp_path / f"{i}.npy")
        np.save(paths[-1], part)
    source = ArrayFiles(paths)
    assert len(source) == 10
    for rows in (np.arange(10), np.random.default_rng(0).integers(0, 10, 40)):
        chex.assert_trees_all_equal(source[rows], X[rows])
    chex.assert_trees_all_equal(ArrayFiles(paths[::-1])[np.arange(5)], X[5:])


def test_the_arrays_of_npz_files_are_a_dict(place):
    source = ArrayFiles([place / "pair.npz", place / "pair.npz"])
    assert len(source) == 20
    rows = np.array([3, 19, 10])
    batch = source[rows]
    assert set(batch) == {"x", "labels"}
    chex.assert_trees_all_equal(batch["x"], X[rows % 10])
    chex.assert_trees_all_equal(batch["labels"], rows % 10)
    assert source[13]["labels"] == 3


def test_a_large_file_is_not_read_whole(tmp_path):
    sparse = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (2**22, 2**10))
    sparse[-1] = 7
    sparse.flush()
    source = ArrayFiles(tmp_path / "a.npy")
    assert len(source) == 2**22
    assert source[np.array([0, -1])].sum() == 7 * 2**10


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.asfortranarray(X), r"Fortran order.*numpy\.ascontiguousarray"),
        (np.array([None, "a"]), "array of numbers, got object"),
        (np.array(["a"]), "array of numbers, got <U1"),
        (np.zeros(2, complex), "array of numbers, got complex"),
        (np.zeros(2, [("a", "i4")]), "array of numbers, got"),
        (np.float32(3), "one number of rows, got"),
        (X[:0], "one number of rows, got"),
    ],
    ids=str,
)
def test_an_array_that_is_no_data_is_refused(tmp_path, array, words):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(DataFormatError, match=rf"a\.npy: .*{words}"):
        ArrayFiles(tmp_path / "a.npy")


def test_a_file_cut_short_or_too_long_is_refused(place):
    content = (place / "x.npy").read_bytes()
    for size in (1, 8, 20, 127, 128, len(content) - 1):
        (place / "a.npy").write_bytes(content[:size])
        with pytest.raises(DataFormatError, match=r"a\.npy: (unreadable .npy array|array of)"):
            ArrayFiles(place / "a.npy")
    (place / "a.npy").write_bytes(content + b"x")
    with pytest.raises(DataFormatError, match="takes 240 bytes, the file has 241"):
        ArrayFiles(place / "a.npy")
    (place / "a.npy").write_bytes(b"")
    with pytest.raises(DataFormatError, match="file is empty"):
        ArrayFiles(place / "a.npy")
    archive = (place / "pair.npz").read_bytes()
    (place / "a.npz").write_bytes(archive[: len(archive) // 2])
    with pytest.raises(DataFormatError, match=r"a\.npz: unreadable .npz file"):
        ArrayFiles(place / "a.npz")


def test_an_archive_that_is_no_data_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=X)
    with pytest.raises(DataFormatError, match=r"array x is compressed.*with numpy\.savez"):
        ArrayFiles(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x=X, labels=LABELS[:9])
    with pytest.raises(DataFormatError, match=r"one number of rows, got .*\(10,\).*\(9,\)"):
        ArrayFiles(tmp_path / "b.npz")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("x.txt", "text")
    with pytest.raises(DataFormatError, match=r"unreadable \.npy array"):
        ArrayFiles(tmp_path / "c.npz")


@pytest.mark.parametrize(
    "other", [X[:, :1], X.astype(np.float64), {"x": X}], ids=["shape", "dtype", "names"]
)
def test_files_of_two_kinds_are_refused(place, other):
    path = place / "y.npy"
    if isinstance(other, dict):
        path = place / "y.npz"
        np.savez(path, **other)
    else:
        np.save(path, other)
    with pytest.raises(DataFormatError, match=r"y\.np.: rows are .*, those of x\.npy float32"):
        ArrayFiles([place / "x.npy", path])


def test_what_is_no_file_is_refused(place):
    with pytest.raises(DataNotFoundError, match=r"none\.npy: there is no such file"):
        ArrayFiles([place / "x.npy", place / "none.npy"])
    with pytest.raises(DataNotFoundError, match=r"is a folder; name its files"):
        ArrayFiles(place)
    with pytest.raises(DataNotFoundError, match="paths must name at least one file"):
        ArrayFiles([])
    (place / "a.txt").write_text("text")
    with pytest.raises(DataFormatError, match=r"unreadable \.npy array"):
        ArrayFiles(place / "a.txt")


@pytest.mark.parametrize("change", ["gone", "other", "shorter"])
def test_a_file_that_has_changed_is_refused(place, change):
    path = place / "x.npy"
    source = ArrayFiles(path)
    assert source[0].sum() == X[0].sum()
    if change == "gone":
        path.unlink()
    elif change == "other":
        np.save(path, X + 1)
        os.utime(path, ns=(0, 0))
    else:
        os.truncate(path, 100)  # reading beyond would end the process
    with pytest.raises(DataChangedError, match=r"x\.npy: the file (is gone|has changed) since"):
        source[np.arange(10)]


def test_the_fingerprint_is_of_the_data(place):
    same, other = place / "same.npy", place / "other.npy"
    np.save(same, X)
    np.save(other, np.where(X == 59, 0, X))
    assert ArrayFiles(same).fingerprint == ArrayFiles(place / "x.npy").fingerprint
    found = [[same], [other], [same, same], [same, other], [other, same], [place / "pair.npz"]]
    assert len({ArrayFiles(paths).fingerprint for paths in found}) == len(found)
    assert ArrayFiles(same) == ArrayFiles([str(same)])


def test_the_fingerprint_of_a_large_file_is_of_both_its_ends(tmp_path):
    found = set()
    for place in (0, 150_000, 299_999):
        array = np.zeros(300_000, np.uint8)
        array[place] = 1
        np.save(tmp_path / "a.npy", array)
        found.add(ArrayFiles(tmp_path / "a.npy").fingerprint)
    np.save(tmp_path / "a.npy", 0 * array)
    unchanged = ArrayFiles(tmp_path / "a.npy").fingerprint
    assert len(found - {unchanged}) >= 2  # what lies between the pieces is not seen


def test_more_files_than_a_process_may_open_are_read(tmp_path):
    paths = [tmp_path / f"{i}.npy" for i in range(600)]
    np.save(paths[0], X[:1])
    for path in paths[1:]:
        os.link(paths[0], path)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, limit[1]))
    try:
        batch = ArrayFiles(paths)[np.arange(600)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    chex.assert_trees_all_equal(batch, X[:1].repeat(600, axis=0))
