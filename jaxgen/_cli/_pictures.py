"""Pictures in color of any size, cut into tiles of the size that a model has, and joined again."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from jaxgen._cli._listing import MOST_PIXELS, Listing, Picture
from jaxgen._cli._progress import progress_bar
from jaxgen.core._files import write_bytes
from jaxgen.data import Colors, DataChangedError, DataFormatError, DataNotFoundError
from jaxgen.data import _png as png


def listing_of(path: Path, colors: Colors) -> Listing:
    """List the PNG files of a folder, or a single one; each is decoded, so that none fails later.

    Raises:
      DataNotFoundError: there is nothing at the path, or no PNG file in the folder.
      DataFormatError: a file that cannot be read, is gray, transparent, animated or too large.
    """
    pictures, paths = list[Picture](), _paths(path)
    with progress_bar("pictures", len(paths)) as update:
        for each in paths:
            height, width, _ = _read(each).shape
            pictures.append(Picture(each.name, height, width))
            update(len(pictures), "looked at")
    return Listing(colors.image_shape, tuple(pictures))


def symbols_of(
    path: Path, listing: Listing, colors: Colors, num_tiles: int
) -> Iterator[np.ndarray]:
    """Yield the symbols of the listed pictures' tiles, int32 `[N, D]`, so many tiles at a time."""
    paths = _paths(path)
    if [each.name for each in paths] != [picture.name for picture in listing.pictures]:
        raise DataChangedError(f"{path}: other files are there than when it was listed")
    tiles = (
        _cut_as_listed(each, picture, listing)
        for each, picture in zip(paths, listing.pictures, strict=True)
    )
    for batch in _dealt(tiles, num_tiles):
        yield colors.encode(batch)


def write(path: Path, listing: Listing, symbols: Iterable[np.ndarray], colors: Colors) -> None:
    """Write pictures, whose tiles' symbols `[N, D]` come in parts, under their names into a folder.

    A single picture may have a .png file of its own.
    """
    dealt = (colors.decode(part) for part in symbols)
    is_file = path.suffix.lower() == ".png"
    for picture, image in _joined(listing, dealt):
        write_bytes(path if is_file else path / picture.name, png.encode(image))


def check_out(path: Path, listing: Listing) -> None:
    """Raise ValueError where pictures cannot be written to a path."""
    if path.suffix and (path.suffix.lower() != ".png" or len(listing.pictures) > 1):
        raise ValueError(
            f"{path}: pictures in color are restored into a folder; one alone, also as a .png file"
        )


def cut(image: np.ndarray, tile_shape: tuple[int, int]) -> np.ndarray:
    """Return the tiles of a picture `[H, W, 3]`, row by row, `[N, height, width, 3]`.

    Tiles that reach beyond the picture are filled up with its last row and its last column.
    """
    height, width = tile_shape
    rows, columns, _ = image.shape
    filled = np.pad(image, ((0, -rows % height), (0, -columns % width), (0, 0)), mode="edge")
    grid = filled.reshape(len(filled) // height, height, -1, width, 3)
    return grid.swapaxes(1, 2).reshape(-1, height, width, 3)


def join(tiles: np.ndarray, picture: Picture) -> np.ndarray:
    """Return the picture that was cut into tiles, `[H, W, 3]`."""
    _, height, width, _ = tiles.shape
    grid = tiles.reshape(-(-picture.height // height), -1, height, width, 3).swapaxes(1, 2)
    filled = grid.reshape(grid.shape[0] * height, grid.shape[2] * width, 3)
    return filled[: picture.height, : picture.width]


def _paths(path: Path) -> list[Path]:
    if path.suffix.lower() == ".png" and not path.is_dir():
        return [path]
    if path.is_file():
        raise DataFormatError(path, "a model of colors takes a PNG file or a folder of them")
    return [path / name for name in png.names_in(path)]


def _read(path: Path) -> np.ndarray:
    """Return the colors of a PNG file, uint8 `[H, W, 3]`."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{path}: there is no such file or folder") from error
    shape = png.kind_of(content[: png.HEADER_BYTES], path).shape
    if len(shape) == 2:
        raise DataFormatError(path, "image is gray, the model's are in color; save it in color")
    if shape[0] * shape[1] > MOST_PIXELS:
        problem = f"image has {shape[0]}x{shape[1]} pixels of at most {MOST_PIXELS:,}; cut it"
        raise DataFormatError(path, problem)
    return png.decode(content, path)


def _cut_as_listed(path: Path, picture: Picture, listing: Listing) -> np.ndarray:
    image = _read(path)
    if image.shape != (picture.height, picture.width, 3):
        raise DataChangedError(f"{path}: the picture has another size than when it was listed")
    return cut(image, listing.tile_shape)


def _dealt(parts: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Yield the rows of arrays again, so many at a time."""
    rest: np.ndarray | None = None
    for part in parts:
        rows = part if rest is None else np.concatenate([rest, part])
        whole = len(rows) - len(rows) % size
        for start in range(0, whole, size):
            yield rows[start : start + size]
        rest = rows[whole:]
    if rest is not None and len(rest):
        yield rest


def _joined(listing: Listing, dealt: Iterator[np.ndarray]) -> Iterator[tuple[Picture, np.ndarray]]:
    """Yield pictures of tiles that come in parts of any length."""
    waiting = np.empty((0, *listing.tile_shape, 3), np.uint8)
    for picture in listing.pictures:
        num_tiles, done = listing.num_tiles_of(picture), 0
        tiles = np.empty((num_tiles, *listing.tile_shape, 3), np.uint8)
        while done < num_tiles:
            waiting = waiting if len(waiting) else next(dealt)
            taken = waiting[: num_tiles - done]
            tiles[done : done + len(taken)] = taken
            waiting, done = waiting[len(taken) :], done + len(taken)
        yield picture, join(tiles, picture)
    assert next(dealt, None) is None  # and so whoever deals comes to an end
