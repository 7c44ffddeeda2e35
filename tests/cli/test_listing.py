import struct

import pytest

from jaxgen._cli import _listing as listings
from jaxgen._cli._listing import Listing, Picture
from jaxgen.coding import CodeError

LISTING = Listing((4, 5), (Picture("a.png", 4, 5), Picture("ß.PNG", 9, 1)))
CONTENT = listings.to_bytes(LISTING)


def test_a_listing_is_read_back():
    assert listings.from_bytes(CONTENT, "file") == LISTING
    assert LISTING.num_tiles == 1 + 3
    assert LISTING.num_values == 3 * (20 + 9)


def test_what_no_file_may_hold_is_refused():
    for size in range(len(CONTENT)):
        if size != len(CONTENT) - len("ß.PNG".encode()) - 10:  # the first picture alone
            with pytest.raises(CodeError, match="file: damaged, its listing of pictures is none"):
                listings.from_bytes(CONTENT[:size], "file")
    pictures = {
        "the name of a PNG file, got '../a.png'": Picture("../a.png", 1, 1),
        r"the name of a PNG file, got 'b\\\\a.png'": Picture(r"b\a.png", 1, 1),
        r"the name of a PNG file, got 'a\\x00.png'": Picture("a\0.png", 1, 1),
        "the name of a PNG file, got 'a.exe'": Picture("a.exe", 1, 1),
        "b.png: picture must have at most 67,108,864 pixels, got 0x5": Picture("b.png", 0, 5),
        "b.png: picture must have at most .* got 65536x1025": Picture("b.png", 65536, 1025),
        "names of their own, got one twice": Picture("a.png", 1, 1),
    }
    for message, picture in pictures.items():
        listing = LISTING._replace(pictures=(*LISTING.pictures, picture))
        with pytest.raises(ValueError, match=message):
            listings.to_bytes(listing)
        name = picture.name.encode()
        more = struct.pack("<IIH", picture.height, picture.width, len(name)) + name
        with pytest.raises(CodeError, match=message):
            listings.from_bytes(CONTENT + more, "file")
    for listing in (LISTING._replace(tile_shape=(0, 5)), LISTING._replace(pictures=())):
        with pytest.raises(ValueError, match="listing must have tiles and pictures"):
            listings.to_bytes(listing)


def test_a_listing_of_too_many_names_is_refused(monkeypatch):
    monkeypatch.setattr(listings, "MOST_BYTES", len(CONTENT) - 1)
    with pytest.raises(ValueError, match="2 pictures are too many for one file"):
        listings.to_bytes(LISTING)
