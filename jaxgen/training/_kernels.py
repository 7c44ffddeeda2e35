"""Which parameters weight decay is for."""

import jax

from jaxgen.core._types import Params


def kernel_mask(params: Params) -> Params:
    """Return which leaves are kernels, for the `mask` of `optax.adamw`.

    A kernel multiplies activations, and drawing it towards zero makes a function smoother. Biases,
    scales, embeddings and tables say what is so without any activation: a pixel that is off in
    every image needs a bias far from zero, and decay of it puts ink where no image has any.

    Args:
      params: a pytree whose kernels have "kernel" in their name, as those of `jaxgen.models` and of
        Flax have.

    Returns:
      A pytree of booleans like `params`.

    Raises:
      ValueError: no leaf is a kernel.

    >>> kernel_mask({"params": {"outputs": {"kernel": 1.0, "bias": 2.0}}})
    {'params': {'outputs': {'bias': False, 'kernel': True}}}
    """

    def is_kernel(path: tuple, _: object) -> bool:
        return "kernel" in jax.tree_util.keystr(path[-1:], simple=True)

    mask = jax.tree.map_with_path(is_kernel, params)
    if not any(jax.tree.leaves(mask)):
        raise ValueError("params must have leaves with 'kernel' in their name, got none")
    return mask
