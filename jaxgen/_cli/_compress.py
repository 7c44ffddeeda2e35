"""Compress files by a model, and restore them, a part at a time."""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

import jaxgen as jg
from jaxgen import Bundle
from jaxgen._cli import _files as files
from jaxgen._cli import _images as images
from jaxgen._cli import _listing as listings
from jaxgen._cli import _parts as parts
from jaxgen._cli import _pictures as pictures
from jaxgen._cli import _text as text
from jaxgen._cli._listing import Listing
from jaxgen._cli._open import open_bundle
from jaxgen._cli._parts import Part
from jaxgen._cli._progress import progress_bar
from jaxgen._cli._settings import Compress, Restore
from jaxgen.coding import CodeError
from jaxgen.core._files import writing
from jaxgen.data import Colors, DataFormatError, GrayLevels


class _Totals(NamedTuple):
    """What parts hold together.

    Attributes:
      num_symbols: of the data.
      num_bytes: of the codes.
      net_bits: of the codes.
      initial_bits: random bits that chose first latents.
    """

    num_symbols: int = 0
    num_bytes: int = 0
    net_bits: int = 0
    initial_bits: int = 0

    def and_of(self, part: Part) -> "_Totals":
        info = jg.coding.inspect(part.code)
        added = (part.num_symbols, len(part.code), info.net_bits, info.initial_bits)
        return _Totals(*(a + b for a, b in zip(self, added, strict=True)))


def compress(settings: Compress) -> None:
    """Write a file's code, part by part.

    Raises:
      WeightsError: the bundle is damaged, or none.
      DataNotFoundError, DataFormatError: the files are not there, not of the bundle's kind, or not
        to be restored exactly.
      ValueError: the model has distributions that cannot be coded.
    """
    bundle = open_bundle(settings.bundle, takes_colors=True)
    if bundle.model.num_dims > parts.MOST_SYMBOLS:
        raise ValueError(
            f"{settings.bundle}: the model's data points have {bundle.model.num_dims:,} symbols; "
            f"compress takes at most {parts.MOST_SYMBOLS:,}"
        )
    listing = None
    if isinstance(bundle.vocabulary, Colors):
        listing = pictures.listing_of(settings.data, bundle.vocabulary)
    totals = _Totals()

    def coded() -> Iterator[Part]:
        nonlocal totals
        for symbols in _symbols(settings, bundle, listing):
            part = parts.encode(bundle, symbols, is_portable=settings.portable)
            totals = totals.and_of(part)
            yield part

    try:
        with writing(settings.out) as file:
            parts.write(file, coded(), listings.to_bytes(listing) if listing else b"")
            size = file.tell()
    except TypeError as error:
        raise ValueError(f"{settings.bundle}: {error}") from error
    num, what = totals.num_symbols, "symbols"
    if listing:
        num = listing.num_values
        what = f"colors, of {_counted('picture', len(listing.pictures))} in "
        what += _counted("tile", listing.num_tiles)
    print(
        f"{settings.out}: {size:,} bytes, {8 * size / num:.3f} bits for each of {num:,} {what}"
        f"{_spent(totals, num)}"
    )


def _counted(what: str, num: int) -> str:
    return f"{num:,} {what}{'s' if num > 1 else ''}"


def _symbols(settings: Compress, bundle: Bundle, listing: Listing | None) -> Iterator[np.ndarray]:
    """Yield the symbols of files, int32 `[N]` each, whole rows but for the last ones."""
    vocabulary, num_dims = bundle.vocabulary, bundle.model.num_dims
    num_rows = parts.MOST_SYMBOLS // num_dims
    if isinstance(vocabulary, Colors):
        assert listing is not None
        num_rows = 1 << (num_rows.bit_length() - 1)  # so many lanes are coded side by side
        with progress_bar("tiles", listing.num_tiles) as update:
            done = 0
            for x in pictures.symbols_of(settings.data, listing, vocabulary, num_rows):
                yield x.ravel()
                done += len(x)
                update(done, "")
        return
    if isinstance(vocabulary, GrayLevels):
        found = images.in_parts(settings.data, num_rows)
        with progress_bar("images", found.num_images) as update:
            done = 0
            for part in found.parts:
                yield _exact_levels(settings, vocabulary, part).ravel()
                done += len(part.pixels)
                update(done, "")
        return
    assert vocabulary is not None
    with progress_bar("bytes", files.size_of(settings.data)) as update:
        yield from text.in_parts(settings.data, vocabulary, num_rows * num_dims, update)


def _exact_levels(settings: Compress, levels: GrayLevels, found: images.Images) -> np.ndarray:
    """Return the levels of images that come back from them as they are."""
    x = images.encode(levels, found, settings.data)
    if (levels.decode(x) != found.pixels).any():
        raise DataFormatError(
            settings.data,
            f"images have other gray levels than the model's {levels.num_symbols}: what is "
            "compressed would not come back",
        )
    return x


def _spent(totals: _Totals, num: int) -> str:
    """Say how many bits of a code by bits back were of its data, and how many chose latents."""
    if not totals.initial_bits:
        return ""
    return (
        f"; {totals.net_bits / num:.3f} of them net, and {totals.initial_bits:,} "
        "initial bits in all, which chose the first latents"
    )


def restore(settings: Restore) -> None:
    """Write back what `compress` read, part by part, once all of the file has been checked.

    Raises:
      WeightsError: the bundle is damaged, or none.
      CodeError: the file is damaged, or of another bundle.
    """
    bundle = open_bundle(settings.bundle, takes_colors=True)
    vocabulary = bundle.vocabulary
    with settings.data.open("rb") as file:
        listed = parts.read_listing(file, settings.data)
        total = sum(part.num_symbols for part in parts.read(file, settings.data))
        if bool(listed) != isinstance(vocabulary, Colors):
            raise CodeError(
                f"{settings.data}: it holds {'pictures in color' if listed else 'none in color'}, "
                f"the bundle's model is of {type(vocabulary).__name__}"
            )
        decoded = _decoded(settings, bundle, file, total)
        if isinstance(vocabulary, Colors):
            listing = listings.from_bytes(listed, settings.data)
            _restore_pictures(settings, listing, vocabulary, decoded, total)
        elif isinstance(vocabulary, GrayLevels):
            _restore_images(settings, vocabulary, decoded, total)
        else:
            assert vocabulary is not None
            with writing(settings.out) as out:
                for symbols in decoded:
                    out.write(text.as_bytes(symbols, vocabulary))


def _restore_pictures(
    settings: Restore, listing: Listing, colors: Colors, decoded: Iterator[np.ndarray], total: int
) -> None:
    if (listing.tile_shape, listing.num_tiles * colors.num_dims) != (colors.image_shape, total):
        raise CodeError(f"{settings.data}: damaged, its pictures are not of its tiles")
    pictures.check_out(settings.out, listing)
    x = (_whole_rows(settings, symbols, colors.num_dims) for symbols in decoded)
    pictures.write(settings.out, listing, x, colors)


def _restore_images(
    settings: Restore, levels: GrayLevels, decoded: Iterator[np.ndarray], total: int
) -> None:
    is_exact = settings.out.suffix == ".npy" or levels.max_intensity == 255
    if settings.out.suffix.lower() == ".png" or not is_exact:
        raise ValueError(
            f"{settings.out}: these images are restored as a .npy array, or, of 255 "
            "intensities, into a folder"
        )
    pixels = (levels.decode(_whole_rows(settings, x, levels.num_dims)) for x in decoded)
    images.write_parts(settings.out, pixels, total // levels.num_dims, levels)


def _whole_rows(settings: Restore, symbols: np.ndarray, num_dims: int) -> np.ndarray:
    """Return the symbols of images `[N, D]`, of those of a part `[N D]`."""
    if len(symbols) % num_dims:
        raise CodeError(f"{settings.data}: damaged, its images are not whole")
    return symbols.reshape(-1, num_dims)


def _decoded(settings: Restore, bundle: Bundle, file: BinaryIO, total: int) -> Iterator[np.ndarray]:
    """Yield the symbols of parts, int32 `[N]` each."""
    with progress_bar("symbols", total) as update:
        done = 0
        for part in parts.read(file, settings.data):
            yield parts.decode(bundle, part, settings.data)
            done += part.num_symbols
            update(done, "")
