"""The pictures that a compressed file holds: what they are called, how large, and in what tiles."""

import struct
from typing import NamedTuple

from jaxgen.coding import CodeError

# Height and width of a tile; then of each picture its own, the bytes of its name, and the name.
_TILE, _PICTURE = struct.Struct("<II"), struct.Struct("<IIH")
MOST_PIXELS = 2**26
"""Of a picture, which is in memory as a whole."""
MOST_BYTES = 2**22
"""Of a listing."""


class Picture(NamedTuple):
    """A picture of a file.

    Attributes:
      name: of its PNG file.
      height: in pixels.
      width: in pixels.
    """

    name: str
    height: int
    width: int


class Listing(NamedTuple):
    """The pictures of a file, in the order in which their tiles stand there.

    Attributes:
      tile_shape: height and width of a tile.
      pictures: one at least.
    """

    tile_shape: tuple[int, int]
    pictures: tuple[Picture, ...]

    @property
    def num_tiles(self) -> int:
        """Return the tiles of all pictures."""
        return sum(map(self.num_tiles_of, self.pictures))

    @property
    def num_values(self) -> int:
        """Return the colors of all pixels, three each, without what fills tiles up."""
        return sum(3 * picture.height * picture.width for picture in self.pictures)

    def num_tiles_of(self, picture: Picture) -> int:
        """Return the tiles of a picture: row by row, the last ones filled up."""
        height, width = self.tile_shape
        return -(-picture.height // height) * -(-picture.width // width)

    def check(self) -> None:
        """Raise ValueError for what no file may hold, such as a name of another folder's file."""
        if 0 in self.tile_shape or not self.pictures:
            raise ValueError(f"listing must have tiles and pictures, got {self}")
        for name, height, width in self.pictures:
            if not name.lower().endswith(".png") or any(one in name for one in "/\\\0"):
                raise ValueError(f"picture must have the name of a PNG file, got {name!r}")
            if not 0 < height * width <= MOST_PIXELS:
                raise ValueError(
                    f"{name}: picture must have at most {MOST_PIXELS:,} pixels, got "
                    f"{height}x{width}"
                )
        if len({picture.name for picture in self.pictures}) < len(self.pictures):
            raise ValueError("pictures must have names of their own, got one twice")


def to_bytes(listing: Listing) -> bytes:
    """Return the bytes of a listing.

    Raises:
      ValueError: it is one that no file may hold.
    """
    listing.check()
    content = bytearray(_TILE.pack(*listing.tile_shape))
    for picture in listing.pictures:
        name = picture.name.encode()
        content += _PICTURE.pack(picture.height, picture.width, len(name)) + name
    if len(content) > MOST_BYTES:
        raise ValueError(
            f"{len(listing.pictures):,} pictures are too many for one file: their names take "
            f"{len(content):,} bytes of at most {MOST_BYTES:,}"
        )
    return bytes(content)


def from_bytes(content: bytes, name: object) -> Listing:
    """Read what `to_bytes` wrote.

    Raises:
      CodeError: the listing, of a file that is called by its name, is damaged.
    """
    try:
        tile_shape, place, pictures = _TILE.unpack_from(content), _TILE.size, []
        while place < len(content):
            height, width, size = _PICTURE.unpack_from(content, place)
            place += _PICTURE.size + size
            pictures.append(Picture(_text(content, place - size, place), height, width))
        listing = Listing(tile_shape, tuple(pictures))
        listing.check()
    except (struct.error, ValueError) as error:
        raise CodeError(f"{name}: damaged, its listing of pictures is none ({error})") from error
    return listing


def _text(content: bytes, start: int, end: int) -> str:
    if end > len(content):
        raise ValueError("a name goes on behind the end")
    return content[start:end].decode()
