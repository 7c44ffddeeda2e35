"""Compress files by a model, and restore them."""

import hashlib
import struct
from pathlib import Path

import numpy as np

import jaxgen as jg
from jaxgen._cli import _images as images
from jaxgen._cli import _text as text
from jaxgen._cli._open import open_bundle
from jaxgen._cli._settings import Compress, Restore
from jaxgen.coding import CodeError
from jaxgen.core._files import write_bytes
from jaxgen.data import DataFormatError, GrayLevels

# Magic; symbols of a text, as the last row of the code is padded; a digest of these and the code.
_HEADER = struct.Struct("<4sQ8s")
_MAGIC = b"jxgF"


def compress(settings: Compress) -> None:
    """Write a file's code.

    Raises:
      WeightsError: the bundle is damaged, or none.
      DataNotFoundError, DataFormatError: the files are not there, not of the bundle's kind, or not
        to be restored exactly.
      ValueError: the model has distributions that cannot be coded.
    """
    bundle = open_bundle(settings.bundle)
    vocabulary, size = bundle.vocabulary, bundle.model.num_dims
    if isinstance(vocabulary, GrayLevels):
        found = images.read(settings.data)
        x = images.encode(vocabulary, found, settings.data)
        if (vocabulary.decode(x) != found.pixels).any():
            raise DataFormatError(
                settings.data,
                f"images have other gray levels than the model's {vocabulary.num_symbols}: what is "
                "compressed would not come back",
            )
        num_symbols = x.size
    else:
        assert vocabulary is not None
        symbols = text.read(settings.data, vocabulary)
        num_symbols = len(symbols)
        x = np.pad(symbols, (0, -num_symbols % size)).reshape(-1, size)
    try:
        code = jg.encode(bundle.model, bundle.params, x, is_portable=settings.portable)
    except TypeError as error:
        raise ValueError(f"{settings.bundle}: {error}") from error
    content = _HEADER.pack(_MAGIC, num_symbols, _digest(num_symbols, code)) + code
    write_bytes(settings.out, content)
    print(
        f"{settings.out}: {len(content):,} bytes, {8 * len(content) / num_symbols:.3f} bits for "
        f"each of {num_symbols:,} symbols{_spent(code, num_symbols)}"
    )


def _spent(code: bytes, num_symbols: int) -> str:
    """Say how many bits of a code by bits back were of its data, and how many chose latents."""
    info = jg.coding.inspect(code)
    if info.method != "bits_back":
        return ""
    return (
        f"; {info.net_bits / num_symbols:.3f} of them net, and {info.initial_bits:,} initial bits "
        "in all, which chose the first latents"
    )


def _digest(num_symbols: int, code: bytes) -> bytes:
    return hashlib.blake2b(struct.pack("<Q", num_symbols) + code, digest_size=8).digest()


def is_compressed(content: bytes) -> bool:
    """Return whether a file that begins so is one that `compress` wrote."""
    return content.startswith(_MAGIC)


def opened(path: Path) -> tuple[int, bytes]:
    """Return how many symbols a compressed file holds, and their code.

    Raises:
      CodeError: the file is damaged, or none.
    """
    content = path.read_bytes()
    if len(content) < _HEADER.size or not is_compressed(content):
        raise CodeError(f"{path}: not a file that compress wrote")
    _, num_symbols, digest = _HEADER.unpack_from(content)
    code = content[_HEADER.size :]
    if digest != _digest(num_symbols, code):
        raise CodeError(f"{path}: damaged, its digest is that of another file")
    return num_symbols, code


def restore(settings: Restore) -> None:
    """Write back what `compress` read.

    Raises:
      WeightsError: the bundle is damaged, or none.
      CodeError: the file is damaged, or of another bundle.
    """
    bundle = open_bundle(settings.bundle)
    vocabulary = bundle.vocabulary
    num_symbols, code = opened(settings.data)
    x = jg.decode(bundle.model, bundle.params, code)
    if not 0 <= x.size - num_symbols < x.shape[1]:
        raise CodeError(f"{settings.data}: damaged, its header says {num_symbols} symbols")
    if not isinstance(vocabulary, GrayLevels):
        assert vocabulary is not None
        return write_bytes(settings.out, text.as_bytes(x.ravel()[:num_symbols], vocabulary))
    is_exact = settings.out.suffix == ".npy" or vocabulary.max_intensity == 255
    if settings.out.suffix.lower() == ".png" or not is_exact:
        raise ValueError(
            f"{settings.out}: these images are restored as a .npy array, or, of 255 "
            "intensities, into a folder"
        )
    return images.write(settings.out, vocabulary.decode(x), vocabulary)
