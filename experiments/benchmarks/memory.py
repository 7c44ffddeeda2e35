"""Memory of a large transformer: a training step, a prompt, and the programs that sampling takes.

    python -m experiments.benchmarks.memory

About 5 minutes on two CPU cores, and 5 GiB of memory. What XLA plans for is read off the
compiled program, so nothing of that size is allocated; then one step is taken for real, on one
sequence. Expected: the step on 64 sequences of 1,024 tokens out of 50,257, by 12 layers of 768
channels, takes an eighth of the memory with neither all logits nor all activations kept; 64 prompts
of 8,000 tokens take a fifth more than their cache, read and scored in blocks, and six times as much
with all logits; sampling takes a program for each size of its cache, few in all.
"""

import dataclasses
import functools
import pathlib
import resource
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgen as jg
from experiments import _harness as harness
from jaxgen.core import Array, Params, check_count
from jaxgen.training._plan import peak_bytes

OPTIMIZER = optax.adam(3e-4)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Seed of the weights and tokens of the step that is taken."""
    run_dir: pathlib.Path = pathlib.Path("runs/benchmarks_memory")
    """Folder of the run."""
    num_symbols: int = 50_257
    """Tokens that there are."""
    num_dims: int = 1024
    """Tokens of a training sequence."""
    num_layers: int = 12
    """Layers."""
    width: int = 768
    """Channels."""
    num_heads: int = 12
    """Attention heads."""
    batch_size: int = 64
    """Sequences in a step, and prompts."""
    prompt_length: int = 8000
    """Tokens of a prompt."""
    sampled_length: int = 1184
    """Tokens of the sequences whose sampling is compiled; the cache has room for 32 at first."""

    def __post_init__(self) -> None:
        """Check the counts."""
        check_count("seed", self.seed, minimum=0)
        for field in dataclasses.fields(self):
            if field.name not in ("seed", "run_dir"):
                check_count(field.name, getattr(self, field.name))

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(
            num_symbols=50,
            num_dims=8,
            num_layers=3,
            width=8,
            num_heads=2,
            batch_size=2,
            prompt_length=6,
            sampled_length=40,
        )

    def model(self, **fields: Any) -> jg.CausalTransformer:
        """The transformer, with some fields set."""
        fields = {"num_dims": self.num_dims, **fields}
        sizes = self.num_symbols, self.width, self.num_layers, self.num_heads
        return jg.CausalTransformer(fields.pop("num_dims"), *sizes, **fields)


def main(config: Config) -> dict[str, harness.Metric]:
    """Compile, read off the memory, take a step, and print the table."""
    run = harness.start(config, "benchmarks.memory")
    metrics: dict[str, float] = {}
    for measure in (training_memory, prompt_memory, sampling_programs, one_step):
        metrics |= measure(config)
        run.log(stage="measured", step=len(metrics))
    return run.finish({name: harness.Metric(value) for name, value in metrics.items()})


def training_memory(config: Config) -> dict[str, float]:
    """What a step of Adam needs: all kept, logits in blocks, and layers computed again as well."""
    kinds: dict[str, tuple[jg.CausalTransformer, Callable]] = {
        "all_kept": (config.model(), log_prob_of_outputs),
        "logits_in_blocks": (config.model(), jg.log_prob),
        "remat": (config.model(remat=True), jg.log_prob),
        "remat_bfloat16": (config.model(remat=True, dtype=jnp.bfloat16), jg.log_prob),
    }
    return {
        f"step_{name}/gib": needed(training_step(*kind), *step_shapes(config, kind[0]))
        for name, kind in kinds.items()
    }


def prompt_memory(config: Config) -> dict[str, float]:
    """What reading and scoring prompts needs, cache included: with all logits, and in blocks."""
    model = config.model(num_dims=config.prompt_length + 1, dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((config.batch_size, config.prompt_length), jnp.int32)
    params = shapes_of(model)
    log_prob = model.conditional_or_default.log_prob

    def at_once(params: Params, x: Array) -> Any:
        outputs, cache = model.prefill(params, x)
        return log_prob(outputs, x), cache

    def in_blocks(params: Params, x: Array) -> Any:
        return model.prefill(params, x, score_fn=log_prob)

    return {
        "prompt_all_logits/gib": needed(jax.jit(at_once), params, x),
        "prompt_in_blocks/gib": needed(jax.jit(in_blocks), params, x),
        "prompt_cache/gib": num_bytes(jax.eval_shape(in_blocks, params, x)[1]) / 2**30,
    }


def sampling_programs(config: Config) -> dict[str, float]:
    """Loops that sampling with a cache of 32 positions at first compiles, and the CPU seconds."""
    model = jg.CausalTransformer(config.sampled_length, 2, 128, 4, 4, block_size=32)
    u = jax.ShapeDtypeStruct((8, config.sampled_length), jnp.float32)
    start = time.process_time()
    lowered = jax.jit(lambda params, u: jg.samplers.quantile(model, params, u)).lower(
        shapes_of(model), u
    )
    lowered.compile()
    return {
        "sampling/programs": lowered.as_text().count("stablehlo.while"),
        "sampling/cpu_seconds_to_compile": time.process_time() - start,
    }


def one_step(config: Config) -> dict[str, float]:
    """Take the step on one sequence; the most memory that this process ever had."""
    model = config.model(remat=True)
    x = np.random.default_rng(config.seed).integers(0, config.num_symbols, (1, config.num_dims))
    params = jax.jit(model.init)(jax.random.key(config.seed), x)
    step, state = training_step(model, jg.log_prob), OPTIMIZER.init(params)
    params, state, before = step(params, state, x)
    start = time.perf_counter()
    params, state, after = step(params, state, x)
    if not float(after) < float(before) < float("inf"):
        raise RuntimeError(f"a step of Adam took the loss from {before} to {after}")
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "one_sequence/seconds": time.perf_counter() - start,
        "one_sequence/gib": kibibytes / 2**20,
    }


def log_prob_of_outputs(model: jg.CausalTransformer, params: Params, x: Array) -> Array:
    """Return log p(x) with the logits of all positions held at once."""
    outputs = model.outputs(params, x)
    return jnp.sum(model.conditional_or_default.log_prob(outputs, x), axis=-1)


def training_step(model: jg.CausalTransformer, log_prob: Callable) -> Any:
    """A compiled step of Adam that writes over the parameters and the optimizer's state."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, state: Any, x: Array) -> tuple[Params, Any, Array]:
        loss, gradient = jax.value_and_grad(lambda params: -jnp.mean(log_prob(model, params, x)))(
            params
        )
        updates, state = OPTIMIZER.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    return step


def num_bytes(tree: Any) -> int:
    """Bytes of arrays, or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def shapes_of(model: jg.CausalTransformer) -> Params:
    """The parameters' shapes."""
    x = jax.ShapeDtypeStruct((1, model.num_dims), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), x)


def step_shapes(config: Config, model: jg.CausalTransformer) -> tuple[Params, Any, Any]:
    """What a step takes, as shapes."""
    params = shapes_of(model)
    x = jax.ShapeDtypeStruct((config.batch_size, config.num_dims), jnp.int32)
    return params, jax.eval_shape(OPTIMIZER.init, params), x


def needed(compiled: Any, *shapes: Any) -> float:
    """GiB of a program: what it is given, what it returns, and what it needs in between."""
    return peak_bytes(compiled.lower(*shapes).compile()) / 2**30


if __name__ == "__main__":
    # What comes from the cache takes no time to compile.
    jax.config.update("jax_enable_compilation_cache", False)
    harness.run_experiment(Config, main)
