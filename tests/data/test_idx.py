import gzip
import struct
import tracemalloc

import chex
import numpy as np
import pytest

from jaxgen.data import _idx as idx
from jaxgen.data._content import uncompress
from jaxgen.data._errors import DataFormatError


def idx_bytes(array):
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


ARRAY = np.arange(24).reshape(2, 3, 4)
CONTENT = idx_bytes(ARRAY)
HEADER = 4 + 3 * 4


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0, 28, 28), (1, 1, 1, 1)])
def test_an_array_is_read_back(shape):
    array = np.arange(np.prod(shape)).reshape(shape)
    parsed = idx.parse(idx_bytes(array), "a")
    assert parsed.dtype == np.uint8
    chex.assert_trees_all_equal(parsed, array)


@pytest.mark.parametrize(
    ("content", "offset", "words"),
    [
        (b"", 0, "magic"),
        (CONTENT[:3], 3, "magic"),
        (b"\x01" + CONTENT[1:], 0, "01 00 08 03"),
        (b"\0\0\x0d" + CONTENT[3:], 2, "unsigned byte"),
        (b"\0\0\x08\0", 3, "dimension"),
        (CONTENT[:9], 9, "sizes"),
        (CONTENT[:HEADER], HEADER, "24 bytes short"),
        (CONTENT[:-1], len(CONTENT) - 1, "1 bytes short"),
        (CONTENT + b"xy", len(CONTENT), "2 bytes follow"),
        (b"\0\0\x08\x03" + b"\xff" * 12, 16, "short"),
        (b"\0\0\x08\x41" + b"\0\0\0\1" * 65 + b"x", 3, "at most 64 dimensions, got 65"),
        (b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"x", 3, "at most 64 dimensions, got 255"),
        (b"\0\0\x08\x04" + bytes(4) + b"\xff" * 12, 4, r"no array has the sizes \(0, 4294967295,"),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else None,
)
def test_a_malformed_file_is_refused_with_its_name_and_the_byte(content, offset, words):
    with pytest.raises(DataFormatError, match=rf"folder/a-file: .*{words}.*at byte {offset}$") as e:
        idx.parse(content, "folder/a-file")
    assert e.value.offset == offset
    assert e.value.path == "folder/a-file"


def test_gzip_is_uncompressed_and_other_bytes_are_left_alone():
    assert uncompress(CONTENT, "a", 10**6) == CONTENT
    assert uncompress(gzip.compress(CONTENT), "a", 10**6) == CONTENT
    assert uncompress(gzip.compress(b"one ") + gzip.compress(b"two"), "a", 10**6) == b"one two"
    large = np.random.default_rng(0).bytes(300_000)
    assert uncompress(gzip.compress(large) + gzip.compress(large), "a", 10**6) == 2 * large


@pytest.mark.parametrize("missing", [1, 8, 20])
def test_a_gzip_stream_cut_short_is_refused_at_its_end(missing):
    cut = gzip.compress(CONTENT)[:-missing]
    with pytest.raises(DataFormatError, match=rf"a\.gz: .*cut short.*at byte {len(cut)}"):
        uncompress(cut, "a.gz", 10**6)


def test_corrupt_gzip_is_refused_near_the_byte():
    data = bytearray(gzip.compress(np.random.default_rng(0).bytes(200_000)))
    data[-5] ^= 1  # the checksum of the content, in the last of four pieces
    with pytest.raises(DataFormatError, match=r"a\.gz: corrupt gzip data") as e:
        uncompress(bytes(data), "a.gz", 10**6)
    assert e.value.offset == 3 * 65536
    with pytest.raises(DataFormatError, match="corrupt gzip data"):
        uncompress(gzip.compress(CONTENT) + b"rubbish", "a.gz", 10**6)


def test_gzip_data_that_hold_more_than_expected_are_cut_off_there():
    zeros = gzip.compress(bytes(50_000_000))
    for bomb in (zeros, gzip.compress(b"") * 3 + zeros, zeros[:-8]):
        tracemalloc.start()
        with pytest.raises(DataFormatError, match=r"hold more than the 200000 bytes expected"):
            uncompress(bomb, "a.gz", 200_000)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
        tracemalloc.stop()
    whole = bytes(200_000)
    assert (
        uncompress(gzip.compress(whole[1:]) + gzip.compress(b"1"), "a", 200_000)[:-1] == whole[1:]
    )
    assert uncompress(gzip.compress(whole), "a", 200_000) == whole
