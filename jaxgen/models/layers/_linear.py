"""Linear layers whose gradients are fast for data with several leading axes.

The gradients of weights and biases sum over all leading axes. On a CPU, XLA takes about twice as
long for two of them as for one, so here they are one inside; and it computes the terms of the sum
twice, for the weights and for the bias, unless both are products (see the benchmark `latent`).
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxgen.core._types import Array


def matmul(
    x: Array, kernel: Array, bias: Array | None = None, *, in_float32: bool = False
) -> Array:
    """The product `[..., I] [I, *O] -> [..., *O]`, plus a bias `[*O]`.

    Half precision is summed in float32, and stays in it where that is asked for.
    """
    flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    kernel_2d = kernel.reshape(len(kernel), math.prod(kernel.shape[1:]))
    wide = jnp.promote_types(x.dtype, jnp.float32) if in_float32 else None
    product = jnp.matmul(flat, kernel_2d, preferred_element_type=wide)
    if bias is not None:
        ones = jnp.ones((len(flat), 1), product.dtype)
        product += jnp.matmul(ones, bias.reshape(1, -1), precision="highest")
    return product.reshape(*x.shape[:-1], *kernel.shape[1:])


def product(x: Array, kernel: Array, dtype: Any) -> Array:
    """Return `[..., I] [I, *O]` in float32, of factors in a dtype, or as they are for None."""
    return matmul(*promote_dtype(x, kernel, dtype=dtype), in_float32=True)


class Dense(nn.Module):
    """A linear layer, `[..., I] -> [..., O]`, with the numbers and parameters of Flax's.

    Attributes:
      features: O.
      use_bias: whether a bias is added; it starts at zero.
      dtype: what it computes in; None takes the type of inputs and parameters.
      kernel_init: the initial weights.
      in_float32: whether the result is in float32 at least, whatever the factors are in.
    """

    features: int
    use_bias: bool = True
    dtype: jnp.dtype | None = None
    kernel_init: nn.initializers.Initializer = dataclasses.field(
        default_factory=nn.initializers.lecun_normal
    )
    in_float32: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[..., I]` to `[..., O]`."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if self.in_float32:
            x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
            return matmul(x, kernel, bias, in_float32=True)
        return matmul(*promote_dtype(x, kernel, bias, dtype=self.dtype))
