"""Densities of reals: they integrate to one, quantiles invert them, and gradients are right."""

import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from jaxgen.core._quadrature import gauss_legendre
from jaxgen.models.conditionals import _angles
from jaxgen.models.conditionals._angles import Angles
from jaxgen.models.conditionals._bounded_mixtures import FoldedMixture, TruncatedMixture
from jaxgen.models.conditionals._energy import Energy
from jaxgen.models.conditionals._mixture import Mixture
from jaxgen.models.conditionals._spline import Spline

pytestmark = pytest.mark.usefixtures("x64")

HALF, INTERVAL = (0.0, math.inf), (0.0, 3.0)  # at 0 numbers are as close as they get
KINDS = {
    "normals": Mixture(num_components=3),
    "normals_below": Mixture(support=(-math.inf, 0.0), num_components=2),
    "logistics_of_a_half_line": Mixture(support=HALF, num_components=2, family="logistic"),
    "student_ts": Mixture(num_components=2, family="student_t"),
    "spline": Spline(num_bins=5),
    "energies": Energy(num_panels=4),
    "truncated_student_ts": TruncatedMixture(num_components=2, family="student_t"),
    "truncated_logistics": TruncatedMixture(INTERVAL, num_components=2, family="logistic"),
    "folded_normals_below": FoldedMixture((-math.inf, 1.0), num_components=2),
    "folded_logistics": FoldedMixture(INTERVAL, num_components=2, family="logistic"),
    "angles": Angles((0.0, 360.0), num_components=3),
    "energies_of_an_interval": Energy(support=INTERVAL, num_panels=4),
}
ROWS = 3
U = np.concatenate([[1e-9, 1e-3], np.linspace(0.02, 0.98, 9), [1 - 1e-3]])


def random_outputs(conditional, scale=1.0):
    generator = np.random.default_rng(2)
    outputs = scale * generator.normal(size=(ROWS, 1, conditional.num_outputs))
    units = np.broadcast_to([0.4, math.log(1.5)], (ROWS, 1, 2))[..., : conditional.num_units]
    return jnp.asarray(np.concatenate([outputs, units], axis=-1))


def axis(support, num_panels, largest):
    """Nodes and weights over a support: y = sinh(s) reaches heavy tails, then come its ends."""
    lower, upper = support
    is_line = math.isinf(lower) and math.isinf(upper)
    largest = largest if is_line else math.asinh(200.0)
    rule = gauss_legendre(-largest, largest, 8, num_panels)
    y, weights = np.sinh(rule.nodes), rule.weights * np.cosh(rule.nodes)
    if is_line:
        return y, weights
    if math.isinf(upper):
        return lower + np.exp(y), weights * np.exp(y)
    if math.isinf(lower):
        return upper - np.exp(-y), weights * np.exp(-y)
    share = 1 / (1 + np.exp(-y))
    return lower + (upper - lower) * share, weights * (upper - lower) * share * (1 - share)


def total(conditional, outputs):
    """∫ p(x) dx of every row."""
    reaches = 40.0 if getattr(conditional, "family", None) == "student_t" else 12.0
    # The density of a spline has kinks, which Gauss and Legendre's rule does not know of.
    num_panels = 16_000 if isinstance(conditional, Spline) else 4_000
    x, weights = axis(conditional.support, num_panels, reaches)
    is_inside = (x > conditional.support[0]) & (x < conditional.support[1])
    x, weights = x[is_inside], weights[is_inside]

    @jax.jit
    def log_prob(outputs, x):
        shape = (ROWS, x.shape[1])
        outputs = jnp.broadcast_to(outputs, (*shape, outputs.shape[-1]))
        return conditional.log_prob(outputs, jnp.broadcast_to(x, shape))

    return np.exp(log_prob(outputs, x[None])) @ weights


@pytest.mark.parametrize("name", KINDS)
def test_integrates_to_one_is_inverted_and_differentiated(name):
    conditional = KINDS[name]
    outputs = random_outputs(conditional)
    direction = np.random.default_rng(5).normal(size=outputs.shape)
    u = jnp.asarray(np.broadcast_to(U, (ROWS, U.size)))
    step = 1e-5

    @jax.jit
    def measure(outputs, u):
        x = conditional.quantile(outputs, u)

        def both(outputs, x):
            drawn = jnp.tanh(conditional.quantile(outputs, u))
            wide = jnp.broadcast_to(outputs, (*u.shape, outputs.shape[-1]))
            return drawn, conditional.log_prob(wide, x), conditional.cdf(wide, x)

        tangents = jax.jvp(lambda o: both(o, x), (outputs,), (direction,))[1]
        more, less = both(outputs + step * direction, x), both(outputs - step * direction, x)
        numeric = jax.tree.map(lambda a, b: (a - b) / (2 * step), more, less)
        return x, both(outputs, x)[2], tangents, numeric

    x, cdf, tangents, numeric = measure(outputs, u)
    chex.assert_trees_all_close(cdf, u, rtol=1e-6, atol=1e-11)
    assert conditional.is_value(x).all()
    for ours, theirs in zip(tangents, numeric, strict=True):
        chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-6)
    error = np.asarray(getattr(conditional, "normalization_error", lambda _: 0.0)(outputs))
    chex.assert_trees_all_close(
        total(conditional, outputs), 1.0, atol=1e-6 + error.max(), rtol=1e-7
    )


class WithoutJacobian(Mixture):
    def _forth(self, x):
        z, log_slope = super()._forth(x)
        return z, 0 * log_slope


class WithoutUnits(Mixture):
    def log_prob(self, outputs, x):
        return super().log_prob(outputs, x) + outputs[..., -1]


class NormalizedOnHalf(Energy):
    def _masses(self, outputs, num_nodes):
        masses = super()._masses(outputs, num_nodes)
        return masses * (np.arange(self.num_panels) < self.num_panels // 2).reshape(1, 1, -1)


@pytest.mark.parametrize(
    "broken",
    [
        WithoutJacobian(support=HALF, num_components=2),
        WithoutUnits(num_components=2),
        NormalizedOnHalf(num_panels=4),
    ],
    ids=lambda broken: type(broken).__name__,
)
def test_a_density_that_does_not_integrate_to_one_is_seen(broken):
    assert np.abs(total(broken, random_outputs(broken)) - 1).min() > 0.05


def energy_of(density, num_panels=24, is_line=False):
    """Outputs of an `Energy` that follows a density of t on (0, 1): panels of equal mass."""
    t = np.linspace(0, 1, 400_001)
    values = density(t)
    mass = np.concatenate([[0.0], np.cumsum((values[1:] + values[:-1]) / 2)])
    # Half of the panels go by mass, the rest are even: no valley is left out.
    monitor = 0.5 * mass / mass[-1] + 0.5 * t
    edges = np.interp(np.linspace(0, 1, num_panels + 1), monitor, t)
    energies = np.log(np.maximum(density(edges), 1e-7))
    energies = 20 * np.arctanh(np.clip(energies - energies.max(), -19, 0) / 20)
    slopes = np.gradient(energies)
    return np.concatenate([np.log(np.diff(edges)), energies, slopes])


def bump(t, center, width):
    return np.exp(-0.5 * ((t - center) / width) ** 2)


SHAPES = {
    "two_narrow_modes_far_apart": lambda t: bump(t, 0.02, 1e-3) + bump(t, 0.95, 2e-3) + 1e-6,
    "a_spike_at_a_bound": lambda t: np.exp(-300 * t) + 1e-6,
    "heavy_tails": lambda t: 1 / (1 + (50 * (t - 0.5)) ** 2),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_energies_are_exact_to_what_they_say(shape):
    """The normalizer against an adaptive quadrature of the same cubics, and the quantiles by it."""
    conditional = Energy(support=(0.0, 1.0), num_panels=24)
    outputs = jnp.asarray(np.concatenate([energy_of(SHAPES[shape]), [0.0, 0.0]]))
    u = jnp.asarray([1e-6, 0.01, 0.3, 0.49, 0.51, 0.9, 0.999])

    @jax.jit
    def measure(outputs, u):
        wide = jnp.broadcast_to(outputs, (u.size, outputs.size))
        x = conditional.quantile(wide, u)
        masses = conditional._masses(outputs[:-2], conditional.num_nodes)
        ends = conditional._edges(outputs[:-2]), conditional._widths(outputs[:-2])
        return x, conditional.cdf(wide, x), masses, ends, conditional.normalization_error(outputs)

    x, cdf, masses, ((energies, slopes), widths), error = measure(outputs, u)
    chex.assert_trees_all_close(cdf, u, rtol=1e-9)
    assert np.all(np.diff(x) > 0)

    def exact(i):
        e0, e1, d0, d1 = (float(a) for a in (*energies[i : i + 2], *slopes[i : i + 2]))

        def density(s):
            r = 1 - s
            inner = s * r * ((d0 - (e1 - e0)) * r - (d1 - (e1 - e0)) * s)
            return math.exp(e0 * r + e1 * s + inner)

        points = [k / 8 for k in range(1, 8)]
        return widths[i] * scipy.integrate.quad(density, 0, 1, points=points, epsrel=1e-13)[0]

    by_hand = np.array([exact(i) for i in range(24)])
    relative = abs(masses.sum() / by_hand.sum() - 1)
    assert relative <= max(float(error), 1e-12)
    assert relative <= 1e-8
    assert error <= 1e-3


@pytest.mark.parametrize("concentration", [0.0, 0.3, 8.0, 18.4, 18.6, 300.0, 1e6])
def test_bumps_on_a_circle_have_the_mass_that_quadrature_gives(concentration):
    """To the tolerance that is stated, in both precisions."""
    angles = np.linspace(0.0, 1.0, 9)[1:] * min(math.pi, 8 / math.sqrt(concentration + 1e-9))

    def density(t):
        versine = 2 * math.sin(t / 2) ** 2
        return math.exp(-concentration * versine) / scipy.special.i0e(concentration)

    pieces = [
        scipy.integrate.quad(density, a, b, epsabs=1e-15)[0] / (2 * math.pi)
        for a, b in itertools.pairwise([0.0, *angles])
    ]
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-6)):
        found = _angles._mass(jnp.asarray(angles, dtype), jnp.full(8, concentration, dtype))
        chex.assert_trees_all_close(found, np.cumsum(pieces), atol=tolerance, rtol=0)
        turned = _angles._mass(
            jnp.asarray(angles - 2 * math.pi, "float64"), jnp.full(8, concentration)
        )
        chex.assert_trees_all_close(turned, np.cumsum(pieces) - 1, atol=1e-12, rtol=0)


def test_angles_are_smooth_through_uniform_and_across_their_ends():
    angles = Angles((0.0, 360.0), num_components=1)
    x = jnp.asarray([0.0, 90.0, 200.0, 360.0])
    bump = jnp.asarray([[0.0, -2.0, 0.1]] * 4)  # on the ends

    @jax.jit
    def measure(x, bump):
        near = jax.vmap(jax.value_and_grad(angles.log_prob))(0 * bump, x)
        beside = angles.log_prob(bump, jnp.array([-1.0, 361.0, 90.0, 90.0]))
        said = angles.log_prob(bump, x), angles.cdf(bump, x), beside
        at_ends = jax.grad(lambda o: jnp.sum(angles.quantile(o, jnp.array([0.0, 1e-9, 1, 0.5]))))
        return *near, *said, angles.features(x), at_ends(bump)

    log_prob, gradient, found, cdf, beside, features, moved = map(np.asarray, measure(x, bump))
    assert np.isfinite(moved).all()
    chex.assert_trees_all_close(log_prob, -math.log(360), rtol=1e-9)
    along = -np.stack([0 * x, np.cos(np.deg2rad(x)), np.sin(np.deg2rad(x))], axis=-1)
    chex.assert_trees_all_close(gradient, along, atol=1e-9, rtol=1e-7)  # 0 and 360 are −π and π
    assert found[0] == pytest.approx(found[3], abs=1e-9)
    assert found[0] > found[1]
    chex.assert_trees_all_close(cdf[[0, 3]], np.array([0, 1]), atol=1e-12, rtol=1e-7)
    chex.assert_trees_all_close(features[0], features[3], atol=1e-12, rtol=1e-7)
    chex.assert_trees_all_equal(np.isnan(beside), np.array([True, True, False, False]))


def test_the_mean_of_angles_is_a_direction_and_bumps_begin_among_the_data():
    angles = Angles((0.0, 360.0), num_components=4)
    generator = np.random.default_rng(0)
    data = (generator.normal(5.0, 20.0, (500, 1)) % 360.0).astype(np.float32)
    outputs = jnp.asarray(angles.marginal_outputs(data))
    off = (float(angles.mean(outputs)[0]) - 5.0 + 180.0) % 360.0 - 180.0
    assert abs(off) < 5.0
    directions = np.rad2deg(np.arctan2(outputs[0, 8:], outputs[0, 4:8])) + 180.0
    assert (np.abs((directions - 5.0 + 180.0) % 360.0 - 180.0) < 60.0).all()


def test_bumps_are_cut_off_or_folded_as_others_do_it():
    """Against SciPy's truncated normal, far outside too, and its folded one; ends are values."""
    near, far = [0.3, -0.7, math.log(0.8)], [0.0, -15.0, 0.0]
    x = np.array([0.0, 0.2, 1.0, 1.75, 2.0])
    outputs = jnp.asarray([*near, 0.4, 0.0]), jnp.asarray([*far, 0.0, 0.0])
    cut = TruncatedMixture((0.0, 2.0), num_components=1)
    folded = FoldedMixture(num_components=1)
    bent = FoldedMixture((0.0, 2.0), num_components=1)

    @jax.jit
    def measure(outputs, x):
        wide = [jnp.broadcast_to(a, (x.size, a.size)) for a in outputs]
        said = [cut.log_prob(a, x) for a in wide], folded.log_prob(wide[0], x)
        moved = wide[0].at[:, 1].add(4.0)  # by a whole turn
        return *said, bent.log_prob(wide[0], x), bent.log_prob(moved, x)

    (at_near, at_far), at_folded, at_bent, at_moved = measure(outputs, x)
    center = 0.4 - 0.7
    ends = np.array([0.0 - center, 2.0 - center]) / 0.8
    normal = scipy.stats.norm(center, 0.8)
    expected = scipy.stats.truncnorm(*ends, center, 0.8).logpdf(x)
    chex.assert_trees_all_close(at_near, expected, rtol=1e-9)
    whole = scipy.stats.norm.logsf(15.0)
    chex.assert_trees_all_close(at_far, scipy.stats.norm.logpdf(x + 15.0) - whole, rtol=1e-9)
    chex.assert_trees_all_close(at_folded, np.log(normal.pdf(x) + normal.pdf(-x)), rtol=1e-9)
    images = np.concatenate(
        [x + 4.0 * np.arange(-9, 10)[:, None], -x - 4.0 * np.arange(-9, 10)[:, None]]
    )
    chex.assert_trees_all_close(at_bent, np.log(normal.pdf(images).sum(0)), rtol=1e-9)
    chex.assert_trees_all_close(at_moved, at_bent, rtol=1e-9)
    assert not cut.is_value(jnp.array([-1e-9, 2.1])).any()


def test_bad_fields_are_refused():
    with pytest.raises(ValueError, match="support must have a finite end"):
        TruncatedMixture((-math.inf, math.inf))
    with pytest.raises(ValueError, match="family must be one of normal, logistic between two"):
        FoldedMixture((0.0, 1.0), family="student_t")
    with pytest.raises(ValueError, match=r"x must be finite and from 0.0 to inf, got values"):
        FoldedMixture().units(np.array([[-1.0], [1.0]]))
    with pytest.raises(ValueError, match="support must be one turn with finite ends"):
        Angles((0.0, math.inf))
    with pytest.raises(ValueError, match="outputs must have 6 numbers a coordinate, got 8"):
        Angles(num_components=2).log_prob(jnp.zeros((1, 8)), jnp.zeros(1))
    with pytest.raises(ValueError, match=r"x must lie on the turn \(0.0, 360.0\), got values"):
        Angles((0.0, 360.0)).units(np.array([[361.0], [1.0]]))
    with pytest.raises(ValueError, match=r"support must be a tuple \(a, b\) with a < b"):
        Mixture(support=(1.0, 0.0))
    with pytest.raises(ValueError, match="family must be one of normal, logistic, student_t"):
        Mixture(family="cauchy")
    with pytest.raises(ValueError, match="num_nodes must be a multiple of 2"):
        Energy(num_nodes=7)
    with pytest.raises(ValueError, match="outputs must have 8 numbers a coordinate, 6 and 2 of"):
        Mixture(num_components=2).log_prob(jnp.zeros((1, 6)), jnp.zeros(1))
    with pytest.raises(ValueError, match=r"x must be finite and inside the support \(0.0, inf\)"):
        Mixture(support=(0.0, math.inf)).units(np.array([[0.0], [1.0]]))
