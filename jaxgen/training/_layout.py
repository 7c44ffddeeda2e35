"""Where the parts of a training lie: on one device, or over a mesh of them."""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxgen.core._checks import check_one_of
from jaxgen.core._types import Params

ParamSharding = Literal["replicated", "fully_sharded"]
"""Whether each device holds all parameters, or a part of each (Rajbhandari et al. 2020)."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Say which sharding batches and parameters have; without a mesh, none.

    The examples of a batch are spread over all devices of the mesh. Fully sharded, so is the
    largest axis of each array of parameters, optimizer's state and average that their number
    divides; arrays that have none, and scalars, are on every device.
    """

    mesh: Mesh | None = None
    param_sharding: ParamSharding = "replicated"

    def __post_init__(self) -> None:
        """Check the fields, and let the compiler alone choose what moves between devices."""
        check_one_of("param_sharding", self.param_sharding, ("replicated", "fully_sharded"))
        if self.mesh is None:
            return
        if not isinstance(self.mesh, Mesh):
            raise TypeError(
                f"mesh must be a jax.sharding.Mesh, got {type(self.mesh).__name__}: "
                'jax.make_mesh((8,), ("data",)) makes one of 8 devices'
            )
        axis_types = (AxisType.Auto,) * len(self.mesh.axis_names)
        mesh = Mesh(self.mesh.devices, self.mesh.axis_names, axis_types=axis_types)
        object.__setattr__(self, "mesh", mesh)

    @property
    def num_devices(self) -> int:
        """Return over how many devices a batch is spread."""
        return 1 if self.mesh is None else self.mesh.size

    def check_batch(self, batch_size: int) -> None:
        """Raise ValueError unless each device has as many examples as any other."""
        if batch_size % self.num_devices:
            raise ValueError(
                f"batch_size must be a multiple of the mesh's {self.num_devices} devices, "
                f"got {batch_size}"
            )

    def everywhere(self) -> NamedSharding | None:
        """Return the sharding of what every device holds."""
        return self._sharding(PartitionSpec())

    def examples(self, axis: int = 0) -> NamedSharding | None:
        """Return the sharding of arrays with examples along an axis."""
        if self.mesh is None:
            return None
        return self._sharding(PartitionSpec(*[None] * axis, self.mesh.axis_names))

    def of_params(self, tree: Any) -> Any:
        """Return the sharding of each array of parameters, or of what has their shapes."""
        return jax.tree.map(self._of_array, tree)

    def constrain(self, batch: Any) -> Any:
        """Let each device compute its own examples of a traced batch."""
        if self.mesh is None:
            return batch
        return jax.lax.with_sharding_constraint(batch, self.examples())

    def spread(self, loss_fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return the loss with parameters whole on each device, their gradient again in parts.

        Left to itself, the compiler spreads what is computed as parameters are spread: every device
        then has a part of the channels of all examples, and sends activations at every layer.
        """
        if self.mesh is None or self.param_sharding == "replicated":
            return loss_fn

        @jax.custom_vjp
        def gather(params: Params) -> Params:
            return jax.lax.with_sharding_constraint(params, self.everywhere())

        def scatter(_: None, gradient: Params) -> tuple[Params]:
            return (jax.lax.with_sharding_constraint(gradient, self.of_params(gradient)),)

        gather.defvjp(lambda params: (gather(params), None), scatter)
        return lambda key, params, *rest: loss_fn(key, gather(params), *rest)

    def calling(self) -> contextlib.AbstractContextManager:
        """Let functions that are called know the mesh: their loops go over a device's examples."""
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def tracing(self) -> contextlib.AbstractContextManager:
        """Let what is being traced know the mesh."""
        if self.mesh is None:
            return contextlib.nullcontext()
        return jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh)

    def put(self, tree: Any, shardings: Any = None) -> Any:
        """Place arrays that every process has whole; by default, on every device."""
        if self.mesh is None:
            return jax.tree.map(jax.numpy.asarray, tree)
        if shardings is None:
            shardings = jax.tree.map(lambda _: self.everywhere(), tree)
        return jax.tree.map(place, tree, shardings)

    def put_examples(self, tree: Any) -> Any:
        """Place a batch that every process has whole: on each device its examples."""
        return self.put(tree, jax.tree.map(lambda _: self.examples(), tree))

    def _of_array(self, leaf: Any) -> NamedSharding | None:
        if self.mesh is None:
            return None
        shape = np.shape(leaf)
        axes = [i for i, size in enumerate(shape) if size and size % self.num_devices == 0]
        if self.param_sharding == "replicated" or not axes:
            return self.everywhere()
        return self.examples(max(axes, key=lambda i: shape[i]))

    def _sharding(self, spec: PartitionSpec) -> NamedSharding | None:
        return None if self.mesh is None else NamedSharding(self.mesh, spec)


def place(leaf: Any, sharding: Any) -> jax.Array:
    """Place an array that every process has whole, each its own part of it."""
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    array = np.asarray(leaf)
    array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def whole(leaf: Any) -> Any:
    """Return an array of which every process can read all, gathered where it is spread."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return leaf
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(leaf, tiled=True)


def any_process(flag: bool) -> bool:
    """Return whether the flag is true in any process; all ask together."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def num_bytes(tree: Any) -> int:
    """Return how many bytes the arrays of a pytree hold."""
    return sum(math.prod(np.shape(leaf)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
