"""Read the files of `experiments.portable_files` in a process of its own settings.

python -m experiments._portable_reader FOLDER [--one-at-a-time]
"""

import dataclasses
import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgen as jg
from jaxgen.core import Array, Params


@dataclasses.dataclass(frozen=True)
class OneAtATime(jg.AutoregressiveModel):
    """A model whose every step computes the rows of a batch one after the other."""

    model: Any
    num_dims: int
    num_symbols: int

    def init_cache(self, params: Params, batch_size: int, *, context: Any = None) -> Any:
        """Return a cache for each row."""
        cache = self.model.init_cache(params, 1)
        if self.model.block_size is not None:
            cache = self.model.resize(params, cache, self.num_dims)
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * batch_size), cache)

    def logits(self, params: Params, x: Any, *, context: Any = None) -> Array:
        """Return the logits by teacher forcing."""
        return self.model.logits(params, x)

    def step(self, params: Params, cache: Any, index: Array, previous: Array) -> tuple[Array, Any]:
        """Return the logits of a coordinate."""

        def one(inputs: tuple[Any, Array]) -> tuple[Array, Any]:
            outputs, cache = self.model.step(params, inputs[0], index, inputs[1][None])
            return self.model.conditional_or_default.at(index).logits(outputs)[0], cache

        return jax.lax.map(one, (cache, previous))


def main(folder: pathlib.Path, is_one_at_a_time: bool) -> None:
    """Print, for each file, whether it was read as it was written, refused, or read wrongly."""
    read = {}
    for path in sorted(folder.glob("*.jxg")):
        name, _ = path.stem.rsplit(".", 1)
        model, params = jg.load(folder / f"{name}.safetensors")
        if is_one_at_a_time:
            model = OneAtATime(model, model.num_dims, model.num_symbols)
        try:
            x = jg.decode(model, params, path.read_bytes())
            read[path.stem] = (
                "same" if np.array_equal(x, np.load(folder / f"{name}.npy")) else "wrong"
            )
        except jg.coding.CodeError:
            read[path.stem] = "refused"
    print(json.dumps({"jax": jax.__version__, "read": read}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), "--one-at-a-time" in sys.argv)
