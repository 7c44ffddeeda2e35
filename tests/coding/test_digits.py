"""Reals on a grid: they come back as they were, at the bits of their cells' masses."""

import math
import struct

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen as jg
from jaxgen.coding import _digits as digits
from jaxgen.coding import _file as file
from jaxgen.models import Bits, Categorical, Mixed, Mixture

POSITIVE = (0.0, math.inf)
COLUMNS = Mixed(
    (Mixture(num_components=2), Bits(), Mixture(POSITIVE, num_components=2), Categorical(3))
)
HEAD = file.HEADER_BYTES + digits._KIND.size
STEPS = [0.1, 1, 0.001, 1]
MODELS = {
    "made": jg.MADE(4, None, (8,), conditional=COLUMNS),
    "transformer": jg.CausalTransformer(4, None, 4, 1, 1, conditional=COLUMNS, block_size=3),
    "recurrence": jg.LinearRecurrence(4, None, width=4, num_layers=1, conditional=COLUMNS),
}


def table(num_rows=300):
    generator = np.random.default_rng(0)
    columns = [
        np.round(generator.normal(100, 20, num_rows), 1),
        generator.integers(0, 2, num_rows),
        np.round(generator.gamma(2, 1, num_rows) + 0.01, 3),
        generator.integers(0, 3, num_rows),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def fitted(model, x):
    params = model.init(jax.random.key(0), jnp.asarray(x[:1]))
    noise = np.random.default_rng(1)
    params = jax.tree.map(lambda a: a + 0.2 * noise.normal(size=a.shape).astype("f4"), params)
    return jg.models.set_output_bias(model, params, x)


def cell_bits(model, params, x, steps):
    """−log2 of the cells' masses, in float64, by a pass over all coordinates."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), params)
        x, half = jnp.asarray(np.float64(x)), jnp.asarray(steps)[None] / 2
        outputs, conditional = model.outputs(wide, x), model.conditional_or_default
        kinds = getattr(conditional, "columns", (conditional,) * x.shape[1])
        is_real = np.array([kind.num_symbols is None for kind in kinds])[None]
        upper, lower = (
            conditional.cdf(outputs, jnp.where(is_real, x + side * half, x), (side + 1.0) / 2)
            for side in (1, -1)
        )
        return float(-jnp.sum(jnp.log2(upper - lower)))


@pytest.mark.parametrize("name", MODELS)
def test_mixed_columns_come_back_at_the_bits_of_their_cells(name):
    model, x = MODELS[name], table()
    params = fitted(model, x)
    data = jg.encode(model, params, x, precision=STEPS)
    back = jg.decode(model, params, data)
    chex.assert_trees_all_equal(back, x)
    assert back.dtype == np.float32
    bits = 8 * (len(data) - HEAD - 4 * digits._COLUMN.size)
    # What a model says beyond the outermost cells counts to them: a little less than their masses.
    assert bits == pytest.approx(cell_bits(model, params, x, STEPS), rel=0.01)
    info = jg.coding.inspect(data)
    assert (info.method, info.num_rows, info.num_symbols) == ("digits", 300, 16)


def test_fine_cells_and_far_values_of_float64():
    """Ten digits behind the point, and a value a thousand deviations out."""
    generator = np.random.default_rng(0)
    x = np.round(generator.normal(size=(400, 1)), 10)
    model = jg.Independent(1, None, Mixture(num_components=1))
    params = jg.models.set_output_bias(model, model.init(jax.random.key(0), x[:1]), x)
    data = jg.encode(model, params, x, precision=1e-10)
    bits = 8 * (len(data) - HEAD - digits._COLUMN.size)
    assert bits == pytest.approx(cell_bits(model, params, x, [1e-10]), rel=0.01)
    x[7] = 1e3
    back = jg.decode(model, params, jg.encode(model, params, x, precision=1e-10))
    chex.assert_trees_all_equal(back, x)
    assert back.dtype == np.float64


@pytest.mark.parametrize("num_rows", [0, 1])
def test_few_rows_are_coded(num_rows):
    x = table()[:num_rows]
    params = fitted(MODELS["made"], table())
    data = jg.encode(MODELS["made"], params, x, precision=STEPS)
    chex.assert_trees_all_equal(jg.decode(MODELS["made"], params, data), x)


def test_what_is_not_on_the_grid_or_no_value_is_refused():
    model, x = MODELS["made"], table(50)
    params = fitted(model, x)

    def encode(change, precision=STEPS, **options):
        other = x.copy()
        for (row, column), value in change.items():
            other[row, column] = value
        return jg.encode(model, params, other, precision=precision, **options)

    with pytest.raises(
        ValueError, match=r"multiples of precision=0.1 in column 0, got 100.25 in r"
    ):
        encode({(3, 0): 100.25})
    with pytest.raises(ValueError, match=r"possible, got -1.0 in row 4, column 2"):
        encode({(4, 2): -1.0})
    with pytest.raises(ValueError, match=r"possible, got nan in row 4, column 0"):
        encode({(4, 0): np.nan})
    with pytest.raises(ValueError, match=r"possible, got 3.0 in row 4, column 3"):
        encode({(4, 3): 3.0})
    with pytest.raises(ValueError, match=r"precision must be 1 in column 1, of symbols, got 0.5"):
        encode({}, [0.1, 0.5, 0.001, 1])
    with pytest.raises(ValueError, match=r"precision must be positive, got -0.1 in column 0"):
        encode({}, [-0.1, 1, 0.001, 1])
    with pytest.raises(ValueError, match=r"precision must be a decimal of few digits, got 1e-17"):
        encode({}, [1e-17, 1, 0.001, 1])
    with pytest.raises(ValueError, match=r"is_portable False where precision is given"):
        encode({}, is_portable=True)
    with pytest.raises(TypeError, match=r"coded, got MADE; a chain over reals is coded on a grid"):
        jg.encode(model, params, x)
    bits = jg.MADE(4, 2, (3,))
    with pytest.raises(TypeError, match=r"precision must be None unless the model is a chain over"):
        jg.encode(bits, {}, x.astype(int), precision=1)


def test_damage_and_forged_columns_are_refused():
    model, x = MODELS["made"], table(50)
    params = fitted(model, x)
    data = jg.encode(model, params, x, precision=STEPS)
    with pytest.raises(jg.coding.CodeError, match="damaged, cut short or goes on"):
        jg.decode(model, params, data[:-1])
    other = jax.tree.map(lambda a: a + 1, params)
    with pytest.raises(jg.coding.CodeError, match="other parameters than those given"):
        jg.decode(model, other, data)
    header, code = data[: file.HEADER_BYTES - 8], data[file.HEADER_BYTES :]
    empty = code[:1] + struct.pack("<QQqQ", 1, 10, 0, 0) + code[33:]
    with pytest.raises(jg.coding.CodeError, match="its columns have no cells, or too many"):
        jg.decode(model, params, header + file.digest(header, empty) + empty)
    short = code[:20]
    with pytest.raises(jg.coding.CodeError, match="its code is cut short"):
        jg.decode(model, params, header + file.digest(header, short) + short)
    bits = jg.MADE(4, 2, (3,))
    with pytest.raises(jg.coding.CodeError, match="data was encoded by digits"):
        jg.decode(bits, params, data)


def test_coarse_cells_have_the_mass_between_their_edges_and_the_outermost_all_beyond():
    model = jg.Independent(1, None, Mixture(num_components=1))
    coded = digits.Digits(model, (digits.Column(1, 2, -3, 7),))  # from -1.5 to 1.5
    edges = np.arange(-2.5, 3)[:, None] / 2

    @jax.jit
    def masses_and_cdf(params):
        logits, _ = coded.step(params, coded.init_cache(params, 1), 0, jnp.zeros(1, int))
        outputs = model.outputs(params, jnp.zeros((6, 1)))
        return jnp.exp(logits[0]), model.conditional_or_default.cdf(outputs, edges, 0.0)[:, 0]

    params = model.init(jax.random.key(0), jnp.zeros((1, 1)))
    with jax.enable_x64(True):
        masses, below = masses_and_cdf(params)
    chex.assert_trees_all_close(masses[:7], np.diff(np.r_[0, below, 1]), rtol=1e-6)
    chex.assert_trees_all_equal(masses[7:], 0)


def test_a_value_that_may_be_the_rounding_of_another_cell_is_refused():
    cells = digits._cells(0, np.array([2.0**53 - 1]), 1.0)[1]
    assert cells.tolist() == [2**53 - 1]
    assert float(2**53 + 1) == 2.0**53
    with pytest.raises(ValueError, match=r"hold multiples of precision=1\.0 in column 0"):
        digits._cells(0, np.array([2.0**53]), 1.0)


def test_a_column_without_rows_has_one_cell():
    assert digits._cells(0, np.zeros(0), 0.1)[0].num_cells == 1
