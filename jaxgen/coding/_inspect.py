"""What a file says of itself, without the model that made it."""

from typing import NamedTuple

from jaxgen.coding import _bits_back as bits_back
from jaxgen.coding import _file as file
from jaxgen.coding import _portable as portable
from jaxgen.coding._ans import WORD_BITS


class CodeInfo(NamedTuple):
    """What a compressed file holds, and what its bits were spent on.

    Attributes:
      method: `chain`, `portable`, `digits` for a model over reals, or `bits_back` for a
        latent-variable model.
      num_rows: N.
      num_dims: D; of reals, the digits of a row.
      num_symbols: V; of reals, 16.
      num_samples: posterior samples a data point; 1 for a chain.
      header_bits: of the header.
      initial_bits: random bits that chose the first latents; a file pays for them once, however
        many rows follow.
      net_bits: of the code, without those.
      tolerance: by how much a decoder's log-odds may differ from the encoder's, in nats: 0 where
        they must be the same.
    """

    method: str
    num_rows: int
    num_dims: int
    num_symbols: int
    num_samples: int
    header_bits: int
    initial_bits: int
    net_bits: int
    tolerance: float


def inspect(data: bytes) -> CodeInfo:
    """Return what a file says of itself.

    Args:
      data: the file's content.

    Raises:
      CodeError: it is no such file, is cut short or damaged.
    """
    header, code = file.parse(data)
    num_used, num_samples, tolerance = 0, 1, 0.0
    if header.method == "bits_back" and code:
        num_used, num_samples = bits_back.counts(code)
    if header.method == "portable" and code:
        tolerance = portable.read_settings(code).tolerance
    initial_bits = WORD_BITS * num_used
    return CodeInfo(
        header.method,
        header.num_rows,
        header.num_dims,
        header.num_symbols,
        num_samples,
        8 * file.HEADER_BYTES,
        initial_bits,
        8 * len(code) - initial_bits,
        tolerance,
    )
