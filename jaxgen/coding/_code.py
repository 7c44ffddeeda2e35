"""Lossless compression with any model: the verbs."""

from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxgen.coding import _chain as chain
from jaxgen.coding import _file as file
from jaxgen.coding import _shares as shares
from jaxgen.core._checks import check_in_range, check_integer_array, check_shape
from jaxgen.core._contracts import AutoregressiveModel, check_model
from jaxgen.core._types import Params


def encode(
    model: AutoregressiveModel, params: Params, x: ArrayLike, *, context: Any = None
) -> bytes:
    r"""Compress symbols to :math:`-\sum \log_2 p(x)` bits, a header, and at most 6 bytes.

    Asymmetric numeral systems (Duda 2009), coordinate by coordinate for all rows side by side, with
    the conditionals that the cached `step` gives: exactly those the decoder will compute. All is
    computed on the CPU, whatever other devices there are.

    Args:
      model: an autoregressive model over D coordinates of V symbols.
      params: parameters of the model.
      x: integers in [0, V), `[N, D]`.
      context: what the model is conditioned on, for each row or a scalar for all; it is not part of
        the file.

    Returns:
      The file's content: `HEADER_BYTES`, then the code, which is empty for one symbol alone (V = 1)
      or no rows.

    Raises:
      TypeError: `x` does not hold integers.
      ValueError: a symbol lies outside [0, V), a shape does not fit, or the model gives NaN.
    """
    num_symbols = _checked_symbols(model)
    symbols = _as_symbols(model, x)
    file.check_context(context, len(symbols))
    with jax.default_device(_cpu()):
        code = chain.encode(model, _on_cpu(params), symbols, _on_cpu(context))
    return file.write("chain", params, symbols, num_symbols, code)


def decode(
    model: AutoregressiveModel, params: Params, data: bytes, *, context: Any = None
) -> np.ndarray:
    """Read back what `encode` wrote with the same parameters.

    The conditionals must come out bit for bit as they did in `encode`: same parameters, same kind
    of processor, same version of XLA. Where they do not, the checksum of the symbols tells.

    Args:
      model: the model that encoded.
      params: parameters of the model.
      data: the file's content.
      context: what it was given when it encoded.

    Returns:
      Symbols, int32 `[N, D]`.

    Raises:
      CodeError: the data is no such file, is cut short or damaged, or belongs to another model.
      ValueError: `context` has another number of rows than the data.
    """
    content = file.read("chain", params, model.num_dims, _checked_symbols(model), data)
    file.check_context(context, content.num_rows)
    with jax.default_device(_cpu()):
        rows, code = content.num_rows, content.code
        symbols = chain.decode(model, _on_cpu(params), rows, code, _on_cpu(context))
    file.check_symbols(symbols, content.checksum)
    return symbols


def _checked_symbols(model: Any) -> int:
    """Return V of a model that can code."""
    check_model(model, AutoregressiveModel)
    if model.num_symbols is None:
        raise ValueError("model must be over symbols of one alphabet, got num_symbols=None")
    check_in_range("num_symbols", model.num_symbols, 1, shares.MAX_SYMBOLS)
    return int(model.num_symbols)


def _as_symbols(model: Any, x: ArrayLike) -> np.ndarray:
    x = np.asarray(x)
    x = x.astype(np.uint8) if x.dtype == bool else x
    check_integer_array("x", x)
    check_shape("x", x, (None, model.num_dims))
    if len(x) > file.MAX_ROWS:
        raise ValueError(f"x must have at most {file.MAX_ROWS} rows, got {len(x)}")
    if x.size and not (x.min() >= 0 and x.max() < model.num_symbols):
        raise ValueError(
            f"x must hold symbols in [0, {model.num_symbols}), got [{x.min()}, {x.max()}]"
        )
    return np.ascontiguousarray(x, np.int32)


def _cpu() -> jax.Device:
    return jax.local_devices(backend="cpu")[0]


def _on_cpu(tree: Any) -> Any:
    return jax.device_put(tree, _cpu())
