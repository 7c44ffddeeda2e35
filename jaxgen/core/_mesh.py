"""What the examples of a batch need to know of the devices that share them."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec


def num_sharing(num_examples: int) -> int:
    """Return over how many devices that many examples are spread: those of the mesh around."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or any(kind != AxisType.Auto for kind in mesh.axis_types):
        return 1
    return mesh.size if num_examples % mesh.size == 0 else 1


def on_own_examples(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, computed by each device for its own examples.

    For functions with a loop inside, which the compiler does not take apart. Where one goes through
    examples, each device would take all turns; where it uses parameters, their gradient would be
    summed over the devices in each turn, and not once.

    Args:
      fn: from what all devices have, such as parameters, and arrays `[B, ...]`, to a pytree of
        arrays `[B, ...]`, each example by itself.
    """

    def on_mesh(shared: Any, *arrays: Any) -> Any:
        if num_sharing(len(arrays[0])) == 1:
            return fn(shared, *arrays)
        examples = PartitionSpec(jax.sharding.get_abstract_mesh().axis_names)
        specs = (PartitionSpec(), *[examples] * len(arrays))
        # Unchecked, what is the same on all devices has its gradient summed behind the loop.
        local = jax.shard_map(fn, in_specs=specs, out_specs=examples, check_vma=False)
        return local(shared, *arrays)

    return on_mesh
