"""Lossless compression with any model: the verbs."""

from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxgen.coding import _bits_back as bits_back
from jaxgen.coding import _chain as chain
from jaxgen.coding import _digits as digits
from jaxgen.coding import _file as file
from jaxgen.coding import _portable as portable
from jaxgen.coding import _shares as shares
from jaxgen.core._checks import check_count, check_integer_array, check_shape
from jaxgen.core._contracts import AutoregressiveModel, LatentVariableModel, check_model
from jaxgen.core._types import Params

Model = AutoregressiveModel | LatentVariableModel


_CODERS = {"chain": chain, "bits_back": bits_back, "portable": portable}


def encode(
    model: Model,
    params: Params,
    x: ArrayLike,
    *,
    context: Any = None,
    num_samples: int = 1,
    is_portable: bool = False,
    precision: ArrayLike | None = None,
) -> bytes:
    r"""Compress symbols to the bits that a model claims, a header, and a few bytes.

    An autoregressive model's code has :math:`-\sum \log_2 p(x)` bits, by asymmetric numeral systems
    (Duda 2009): coordinate by coordinate for all rows side by side, with the conditionals that the
    cached `step` gives, exactly those the decoder will compute.

    A latent-variable model's has those of the evidence lower bound, by bits back (Townsend et al.
    2019): z is popped from what has been coded already, and the first z from random bits, which
    `inspect` counts apart. Latents may be symbols, or normals, in one group or in several, each
    given others before it; a prior may also mix normals, or be an autoregressive model of symbols.

    Reals, and mixed columns, are coded on a grid whose steps are `precision`: a value is a cell,
    whose mass is a difference of the conditional's CDF, and the code has the bits of these masses.
    Steps, ranges and the type of the data are part of the file.

    All is computed on the CPU, whatever other devices there are.

    Args:
      model: a model over D coordinates of V symbols, of either contract.
      params: parameters of the model.
      x: integers in [0, V), `[N, D]`; of a model over reals floats, multiples of `precision`.
      context: what the model is conditioned on, for each row or a scalar for all; it is not part of
        the file.
      num_samples: posterior samples a data point of a latent-variable model: with more than one
        the code has the bits of the importance-weighted bound (Ruan et al. 2021), and takes as many
        times as long and as many initial bits.
      is_portable: whether the file must be readable where the last bits of the model's logits are
        others: by another version of JAX, another processor, in other batches. That takes an
        autoregressive model, several times the time, and some thousandths of the bits more.
        `inspect` says how far log-odds may be apart: four times what is found here between steps,
        a pass over all coordinates, and one by weights shaken in their last bits.
      precision: of a model over reals the step of the grid, decimals such as 0.01, one for all or
        `[D]`; 1 for symbols among mixed columns. Values are rounded to it before, as by `np.round`.

    Returns:
      The file's content: `HEADER_BYTES`, then the code, which is empty for one symbol alone (V = 1)
      or no rows.

    Raises:
      TypeError: `x` does not hold integers, or the model has distributions that cannot be coded.
      ValueError: a symbol lies outside [0, V), a shape does not fit, or the model gives NaN, or
        logits of too few bits for a portable file.
    """
    if precision is not None:
        return _encode_reals(model, params, x, precision, context, num_samples, is_portable)
    methods, num_dims, num_symbols = _methods(model)
    symbols = _as_symbols(num_dims, num_symbols, x)
    file.check_context(context, len(symbols))
    check_count("num_samples", num_samples)
    is_latent = isinstance(model, LatentVariableModel)
    most = bits_back.MAX_SAMPLES if is_latent else 1
    if num_samples > most:
        raise ValueError(f"num_samples must be at most {most} for this model, got {num_samples}")
    if is_portable and is_latent:
        raise TypeError(
            "model must be autoregressive for a portable file, as bits back has none; got "
            f"{type(model).__name__}"
        )
    method = "portable" if is_portable else methods[0]
    with jax.default_device(_cpu()):
        params_here, context_here = _on_cpu(params), _on_cpu(context)
        if isinstance(model, LatentVariableModel):
            code = bits_back.encode(model, params_here, symbols, context_here, num_samples)
        else:
            coder = portable if is_portable else chain
            code = coder.encode(model, params_here, symbols, context_here)
    return file.write(method, params, symbols, num_symbols, code)


def decode(model: Model, params: Params, data: bytes, *, context: Any = None) -> np.ndarray:
    """Read back what `encode` wrote with the same parameters.

    The conditionals must come out bit for bit as they did in `encode`: same parameters, same kind
    of processor, same version of XLA; those of a portable file only as near as it asks for. Where
    they do not, the checksum of the symbols tells.

    Args:
      model: the model that encoded.
      params: parameters of the model.
      data: the file's content.
      context: what it was given when it encoded.

    Returns:
      Symbols, int32 `[N, D]`; of a model over reals, floats as they were.

    Raises:
      CodeError: the data is no such file, is cut short or damaged, or belongs to another model.
      ValueError: `context` has another number of rows than the data.
    """
    if isinstance(model, AutoregressiveModel) and model.num_symbols is None:
        with jax.default_device(_cpu()):
            return digits.decode(model, _on_cpu(params), data, _on_cpu(context))
    methods, num_dims, num_symbols = _methods(model)
    header, code = file.read(methods, params, num_dims, num_symbols, data)
    file.check_context(context, header.num_rows)
    coder: Any = _CODERS[header.method]
    shape = header.num_rows, header.num_dims
    with jax.default_device(_cpu()):
        symbols = coder.decode(model, _on_cpu(params), shape, code, _on_cpu(context))
    file.check_symbols(symbols, header.checksum)
    return symbols


def _encode_reals(
    model: Any,
    params: Params,
    x: ArrayLike,
    precision: ArrayLike,
    context: Any,
    num_samples: int,
    is_portable: bool,
) -> bytes:
    if not isinstance(model, AutoregressiveModel) or model.num_symbols is not None:
        raise TypeError("precision must be None unless the model is a chain over reals")
    if num_samples != 1 or is_portable:
        raise ValueError("num_samples must be 1 and is_portable False where precision is given")
    with jax.default_device(_cpu()):
        return digits.encode(model, _on_cpu(params), x, precision, _on_cpu(context))


def _methods(model: Any) -> tuple[tuple[str, ...], int, int]:
    """Return the ways in which a model codes, D and V; refuse one that does not."""
    is_latent = isinstance(model, LatentVariableModel)
    check_model(model, LatentVariableModel if is_latent else AutoregressiveModel)
    if getattr(model, "num_symbols", None) is None:
        raise TypeError(
            f"model must be over symbols to be coded, got {type(model).__name__}; a chain over "
            "reals is coded on a grid, by precision"
        )
    check_count("num_symbols", model.num_symbols)
    if model.num_symbols > shares.MAX_SYMBOLS:
        raise ValueError(
            f"num_symbols must be at most {shares.MAX_SYMBOLS} to be coded, got {model.num_symbols}"
        )
    methods = ("bits_back",) if is_latent else ("chain", "portable")
    return methods, model.num_dims, model.num_symbols


def _as_symbols(num_dims: int, num_symbols: int, x: ArrayLike) -> np.ndarray:
    x = np.asarray(x)
    x = x.astype(np.uint8) if x.dtype == bool else x
    check_integer_array("x", x)
    check_shape("x", x, (None, num_dims))
    if len(x) > file.MAX_ROWS:
        raise ValueError(f"x must have at most {file.MAX_ROWS} rows, got {len(x)}")
    if x.size and not (x.min() >= 0 and x.max() < num_symbols):
        raise ValueError(f"x must hold symbols in [0, {num_symbols}), got [{x.min()}, {x.max()}]")
    return np.ascontiguousarray(x, np.int32)


def _cpu() -> jax.Device:
    return jax.local_devices(backend="cpu")[0]


def _on_cpu(tree: Any) -> Any:
    return jax.device_put(tree, _cpu())
