"""The public files themselves, where JAXGEN_DATA or the cache has them.

What the loaders do is checked on made files in the other tests: here only that the real files are
the ones whose checksums the code holds.
"""

import hashlib
import os

import numpy as np
import pytest

from jaxgen.data import _binarized_mnist as binarized_mnist
from jaxgen.data import _binary as binary
from jaxgen.data import _bsds300 as bsds300
from jaxgen.data import _fashion_mnist as fashion_mnist
from jaxgen.data import _files as files
from jaxgen.data import _mnist as mnist
from jaxgen.data import _text as text
from jaxgen.data import _uci as uci
from jaxgen.data._content import uncompress

MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def needs(*known):
    # Whoever sets JAXGEN_DATA asks for these tests: a wrong folder fails them, and skips nothing.
    is_asked_for = bool(os.environ.get("JAXGEN_DATA"))  # empty is unset, as for the loaders
    is_placed = all(files.locate(file) for file in known)
    return pytest.mark.skipif(
        not (is_asked_for or is_placed), reason="set JAXGEN_DATA to check the real files"
    )


@needs(*mnist.FILES)
def test_mnist_is_the_published_one():
    for file, path in zip(mnist.FILES, files.find(mnist.FILES), strict=True):
        content = uncompress(path.read_bytes(), path, file.max_bytes)
        assert len(content) == file.num_bytes
        assert hashlib.md5(content).hexdigest() == MD5[file.name]
    data = mnist.mnist()
    splits = (data.train, data.valid, data.test)
    assert [len(split.x) for split in splits] == [50_000, 10_000, 10_000]
    assert data.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.test.labels[:5].tolist() == [7, 2, 1, 0, 4]


@needs(*fashion_mnist.FILES)
def test_fashion_mnist_is_whole_and_is_not_mnist():
    data = fashion_mnist.fashion_mnist()
    assert [len(split.x) for split in (data.train, data.valid, data.test)] == [
        50_000,
        10_000,
        10_000,
    ]
    assert (data.name, data.num_symbols) == ("fashion_mnist", 256)
    assert 70 < data.train.x.mean() < 75  # brighter than digits by half


@needs(*binarized_mnist.FILES)
def test_binarized_mnist_has_its_static_split():
    data = binarized_mnist.binarized_mnist()
    splits = (data.train, data.valid, data.test)
    assert [split.x.shape for split in splits] == [(50_000, 784), (10_000, 784), (10_000, 784)]
    assert [round(split.x.mean(), 4) for split in splits] == [0.1306, 0.1311, 0.1325]


@needs(text.KNOWN["tinyshakespeare"])
def test_tinyshakespeare_holds_out_its_last_tenth():
    data = text.text("tinyshakespeare")
    assert (len(data.train), len(data.valid), len(data.test)) == (1_003_854, 55_770, 55_770)
    assert data.vocabulary.num_symbols == 65
    assert data.vocabulary.decode(data.train[:14]) == "First Citizen:"


@needs(text.KNOWN["names"])
def test_names_are_lines_of_small_letters():
    data = text.text("names")
    assert data.vocabulary.num_symbols == 27
    assert data.vocabulary.decode(data.train[:12]) == "emma\nolivia\n"


@needs(*binary.known_files("nltcs"))
def test_the_binary_sets_have_their_published_sizes():
    sizes = {"nltcs": (16_181, 2_157, 3_236), "adult": (5_000, 1_414, 26_147)}
    for name, expected in sizes.items():
        data = binary.binary(name)
        assert tuple(len(split.x) for split in (data.train, data.valid, data.test)) == expected


@needs(*(table.file for table in uci.TABLES.values()))
def test_the_uci_tables_have_the_columns_of_the_protocol():
    shapes = {"red_wine": (1_599, 11), "white_wine": (4_898, 11), "parkinsons": (5_875, 15)}
    for name, shape in shapes.items():
        table = uci.uci(name)
        assert table.x.shape == shape
        correlation = np.corrcoef(table.x.T) - np.eye(shape[1])
        assert name != "parkinsons" or np.abs(correlation).max() < 0.98


@needs(bsds300.ARCHIVE)
def test_the_patches_have_the_spread_of_natural_images():
    parts = bsds300.bsds300(num_train=4_000, num_valid=1_000, num_test=4_000)
    for x in parts:
        assert abs(x.mean()) < 0.01
        assert 0.05 < x.std() < 0.15
