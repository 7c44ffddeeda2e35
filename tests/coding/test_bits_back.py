"""Codes of latent-variable models: lossless, and as long as the bound that is known exactly."""

import dataclasses
import math
import time

import chex
import distrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special, stats

import jaxgen as jg
from jaxgen import coding
from jaxgen.coding import _bits_back as bits_back
from jaxgen.coding import _file as file
from jaxgen.coding import _latents as latents

pytestmark = pytest.mark.usefixtures("distrax_broadcasting")
D = 6
STATE_BITS = 48 + 48  # the state at the end, and two counts


@dataclasses.dataclass(frozen=True)
class Enumerable(jg.LatentVariableModel):
    """A mixture of products with its exact posterior: every z gives the weight p(x)."""

    num_dims: int = D
    num_symbols: int = 3

    def prior(self, params, *, context=None):
        return distrax.Independent(distrax.Categorical(params["prior"][None]), 1)

    def posterior(self, params, x, *, context=None):
        log_joint = jax.nn.log_softmax(params["prior"]) + self._log_likelihoods(params, x)
        return distrax.Independent(distrax.Categorical(log_joint[:, None]), 1)

    def likelihood(self, params, z, *, context=None):
        logits = params["table"][z[..., 0]]
        return distrax.Independent(distrax.Categorical(logits), 1)

    def log_prob(self, params, x):
        log_joint = jax.nn.log_softmax(params["prior"]) + self._log_likelihoods(params, x)
        return jax.nn.logsumexp(log_joint, axis=-1)

    def _log_likelihoods(self, params, x):
        log_table = jax.nn.log_softmax(params["table"])
        return jnp.sum(jnp.take_along_axis(log_table[None], x[:, None, :, None], -1)[..., 0], -1)


@dataclasses.dataclass(frozen=True)
class Slope(jg.LatentVariableModel):
    """One normal z, bits with log-odds w z, and a posterior that is wrong by a known amount."""

    num_dims: int = D
    num_symbols: int = 2
    weight: float = 1.0
    mean: float = 0.6
    scale: float = 0.5

    def prior(self, params, *, context=None):
        return distrax.MultivariateNormalDiag(jnp.zeros(1), jnp.ones(1))

    def posterior(self, params, x, *, context=None):
        mean = self.mean * (2.0 * jnp.mean(x, axis=-1, keepdims=True) - 1)
        return distrax.MultivariateNormalDiag(mean, jnp.full_like(mean, self.scale))

    def likelihood(self, params, z, *, context=None):
        logits = jnp.broadcast_to(self.weight * z, (*z.shape[:-1], self.num_dims))
        return distrax.Independent(distrax.Bernoulli(logits), 1)

    def log_weights(self, x, z):
        """log p(x, z) − log q(z | x) in float64, `[B, Q]`, of z in units of q."""
        mean = self.mean * (2.0 * x.mean(-1, keepdims=True) - 1)
        log_q = -0.5 * z**2 - math.log(self.scale)
        z = mean + self.scale * z
        ones = x.sum(-1, keepdims=True)
        log_p = -ones * np.log1p(np.exp(-self.weight * z))
        log_p -= (x.shape[1] - ones) * np.log1p(np.exp(self.weight * z))
        return log_p - 0.5 * z**2 - log_q


def net_bits(data):
    return coding.inspect(data).net_bits


def test_with_the_exact_posterior_the_code_has_the_bits_of_the_likelihood():
    rng = np.random.default_rng(0)
    model = Enumerable()
    params = {
        "prior": jnp.asarray(rng.normal(size=4), jnp.float32),
        "table": jnp.asarray(rng.normal(size=(4, D, 3)), jnp.float32),
    }
    x = rng.integers(0, 3, (60, D)).astype(np.int32)
    data = coding.encode(model, params, x)
    chex.assert_trees_all_equal(coding.decode(model, params, data), x)
    claim = coding.claimed_bits(jax.jit(model.log_prob)(params, x))
    assert claim <= net_bits(data) <= claim + STATE_BITS


def test_latents_that_say_nothing_cost_nothing():
    model = Slope(weight=0.0, mean=0.0, scale=1.0)
    x = np.random.default_rng(1).integers(0, 2, (60, D)).astype(np.int32)
    data = coding.encode(model, {}, x)
    chex.assert_trees_all_equal(coding.decode(model, {}, data), x)
    assert x.size <= net_bits(data) <= x.size + STATE_BITS + 0.01 * len(x)


@pytest.mark.parametrize("is_far_off", [False, True])
def test_bits_are_those_of_the_bound(is_far_off):
    # Where every q is far from p, bits that push one z must not be those that choose the next.
    model = Slope(weight=0.0, mean=1.5, scale=0.3) if is_far_off else Slope()
    x = np.random.default_rng(2).integers(0, 2, (300, D)).astype(np.int32) | is_far_off
    data = coding.encode(model, {}, x)
    chex.assert_trees_all_equal(coding.decode(model, {}, data), x)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / weights.sum()
    log_w = model.log_weights(x.astype(float), nodes[None])
    bound = log_w @ weights
    variance = (log_w**2) @ weights - bound**2
    claim = -bound.sum() / math.log(2)
    # z is drawn once a row, so the sum is off by its deviation; and 1 % of the bound.
    deviation = math.sqrt(variance.sum()) / math.log(2)
    assert abs(net_bits(data) - STATE_BITS - claim) <= 0.01 * claim + 6 * deviation
    assert 6 * deviation < 0.1 * claim


def test_bits_of_several_samples_are_those_of_the_importance_weighted_bound():
    model = Slope(weight=3.0, mean=0.0, scale=1.0)  # q is so far off that weights matter
    x = np.random.default_rng(7).integers(0, 2, (100, D)).astype(np.int32)
    data = coding.encode(model, {}, x, num_samples=4)
    chex.assert_trees_all_equal(coding.decode(model, {}, data), x)
    z = np.random.default_rng(8).normal(size=(4, 1, 2000))
    log_w = np.stack([model.log_weights(x.astype(float), of_one) for of_one in z])
    values = special.logsumexp(log_w, axis=0) - math.log(4)
    bound, elbo = (-a.mean(1).sum() / math.log(2) for a in (values, log_w[0]))
    deviation = math.sqrt(values.var(1).sum()) / math.log(2)
    assert abs(net_bits(data) - STATE_BITS - bound) < 0.01 * bound + 5 * deviation
    assert net_bits(data) < elbo - 10 * deviation
    assert coding.inspect(data).num_samples == 4


def test_a_draw_is_chosen_by_its_importance_weight():
    model = Slope()
    x = np.array([1, 1, 0, 1, 1, 0], np.int32)
    coded = bits_back._planned(model, {}, D, None)
    draws = [(np.array([bucket], np.int32),) for bucket in (6000, 8000, 9000, 12000)]
    ends = np.asarray(bits_back._weights(coded, x, draws, None).ends)[0]
    z = stats.norm.ppf((np.array([draw[0][0] for draw in draws]) + 0.5) / 2**14)
    mean = model.mean * (2 * x.mean() - 1)
    log_w = model.log_weights(x[None].astype(float), (z[None] - mean) / model.scale)
    shares = np.diff(ends.astype(float), prepend=0) / 2**24
    chex.assert_trees_all_close(shares, special.softmax(log_w)[0], rtol=0.02)


PARTS = {"num_dims": D, "num_symbols": 2, "num_latents": 3, "hidden_sizes": (5,)}
MODELS = {
    "vae": jg.VAE(**PARTS),
    "mixture": jg.VAE(**PARTS, prior_family=jg.models.MixtureOfNormals(3)),
    "labels": jg.VAE(**PARTS, conditioning=jg.models.Labels(4)),
    "groups": jg.HierarchicalVAE(D, 2, (3, 2), ((5,), (4,))),
    "deep": jg.models.DeepHierarchicalVAE(D, 2, (2, 3), (jg.models.Scale(1, 3, 2, 2, 1),)),
}


def initial(model, context=None):
    x = jnp.zeros((1, model.num_dims), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(0), x, context)
    keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params)))
    leaves, structure = jax.tree.flatten(params)
    moved = [a + 0.3 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


@pytest.mark.parametrize("name", MODELS)
def test_round_trip_of_every_kind_of_latents(name):
    model = MODELS[name]
    context = np.arange(25) % 4 if name == "labels" else None
    params = initial(model, None if context is None else context[:1])
    x = np.random.default_rng(3).integers(0, model.num_symbols, (25, D)).astype(np.uint8)
    data = coding.encode(model, params, x, context=context)
    chex.assert_trees_all_equal(coding.decode(model, params, data, context=context), x)
    key = jax.random.key(2)

    @jax.jit
    def bound(params):
        drawn = {"num_samples": 50, "kl": "monte_carlo"}
        return jg.elbo(key, model, params, x, context=context, **drawn).value

    claim = coding.claimed_bits(bound(params))
    assert abs(net_bits(data) - STATE_BITS - claim) < 0.25 * claim  # the code has one z a row


def test_round_trip_of_codes_under_their_prior():
    convolutions = jg.models.Convolutions((4, 4), (3,))
    autoencoder = jg.VectorQuantizedVAE(16, 2, convolutions, num_codes=5, code_size=2)
    prior = jg.Independent(autoencoder.num_positions, 5)
    model = jg.models.VectorQuantizedModel(autoencoder, prior)
    x = np.random.default_rng(4).integers(0, 2, (9, 16)).astype(np.int32)
    params = {
        "autoencoder": jax.jit(autoencoder.init)(jax.random.key(0), x[:1]),
        "code_prior": jax.jit(prior.init)(jax.random.key(1), jnp.zeros((1, 4), jnp.int32)),
    }
    data = coding.encode(model, params, x)
    chex.assert_trees_all_equal(coding.decode(model, params, data), x)
    elbo = jax.jit(lambda params: jg.elbo(jax.random.key(0), model, params, x, kl="monte_carlo"))
    claim = coding.claimed_bits(elbo(params).value)
    info = coding.inspect(data)
    assert info.initial_bits == 0
    assert claim <= info.net_bits <= claim + STATE_BITS


def test_a_trained_model_has_the_bits_of_its_bound():
    rng = np.random.default_rng(5)
    model = jg.VAE(16, 2, num_latents=2, hidden_sizes=(16,))
    prototypes = rng.random((3, 16)) < 0.5
    flips = rng.random((1000, 16)) < 0.1
    x = (prototypes[rng.integers(0, 3, 1000)] ^ flips).astype(np.int32)
    params = jax.jit(model.init)(jax.random.key(0), x[:1])
    optimizer = optax.adam(0.02)

    def loss(params, key):
        return -jnp.mean(jg.elbo(key, model, params, x).value)

    def step(carry, key):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(1), 200)
    (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, keys))(
        (params, optimizer.init(params))
    )
    data = coding.encode(model, params, x[:400])
    chex.assert_trees_all_equal(coding.decode(model, params, data), x[:400])
    many = jax.jit(lambda p: jg.elbo(jax.random.key(2), model, p, x[:400], num_samples=100))(params)
    claim = coding.claimed_bits(many.value)
    assert claim < 0.8 * 16 * 400
    assert abs(net_bits(data) - STATE_BITS - claim) < 0.01 * claim


MODEL = MODELS["vae"]
with jax.numpy_rank_promotion("allow"):
    PARAMS = initial(MODEL)
X = np.random.default_rng(6).integers(0, 2, (8, D)).astype(np.int32)
with jax.numpy_rank_promotion("allow"):
    DATA = coding.encode(MODEL, PARAMS, X)


def forged(num_rows, code):
    """A file whose header and digest agree, though its code has not what the header says."""
    sums = file.checksum(X), file.fingerprint(PARAMS)
    header = file._HEADER.pack(b"jxgC", file._VERSION, 1, num_rows, D, 2, *sums)
    return header + file.digest(header, code) + code


@pytest.mark.parametrize("num_rows", [0, 7, 9, 2**32 - 1])
def test_a_header_with_another_number_of_rows_is_refused_at_once(num_rows):
    coding.decode(MODEL, PARAMS, DATA)  # compiles
    start = time.process_time()
    with pytest.raises(coding.CodeError, match="damaged"):
        coding.decode(MODEL, PARAMS, forged(num_rows, DATA[coding.HEADER_BYTES :]))
    assert time.process_time() - start < 1


@pytest.mark.parametrize(("at", "count"), [(0, 2**16), (0, 2**32 - 1), (4, 2**16 - 1), (4, 0)])
def test_counts_that_the_code_has_no_room_for_are_refused_at_once(at, count, monkeypatch):
    monkeypatch.setattr(bits_back, "_planned", lambda *_: pytest.fail("begun"))
    size, code = 4 if at == 0 else 2, DATA[coding.HEADER_BYTES :]
    code = code[:at] + count.to_bytes(size, "little") + code[at + size :]
    with pytest.raises(coding.CodeError, match="damaged: it says that it has"):
        coding.decode(MODEL, PARAMS, forged(8, code))


def test_a_code_of_few_bits_has_as_many_bytes_as_rows_and_samples_must_have():
    model = Slope(num_dims=1, weight=0.0, mean=40.0, scale=1e-6)  # the bucket is always the last
    x = np.zeros((3, 1), np.int32)
    data = coding.encode(model, {}, x, num_samples=200)
    chex.assert_trees_all_equal(coding.decode(model, {}, data), x)
    assert len(data) - coding.HEADER_BYTES - 6 in (200, 201)


@pytest.mark.parametrize(
    "code", [b"", b"abc", bytes(4), bytes(11), bytes(13), bytes(100), b"\xff" * 60]
)
def test_a_code_that_is_none_is_refused(code):
    with pytest.raises(coding.CodeError):
        coding.decode(MODEL, PARAMS, forged(8, code))


def test_what_the_file_says_of_itself():
    info = coding.inspect(DATA)
    assert info[:4] == ("bits_back", 8, D, 2)
    assert info.num_samples == 1
    assert info.header_bits + info.initial_bits + info.net_bits == 8 * len(DATA)
    assert 0 < info.initial_bits <= 3 * 24 + 16
    empty = coding.encode(MODEL, PARAMS, X[:0])
    assert coding.inspect(empty)[4:] == (1, 8 * coding.HEADER_BYTES, 0, 0, 0.0)
    assert coding.decode(MODEL, PARAMS, empty).shape == (0, D)


def test_the_random_words_are_used_from_the_top_and_no_more_than_needed():
    supply = bits_back._Supply(b"seed")
    first = supply.top(2).copy()
    supply.drop(supply.state, 3)
    assert supply.num_used == 3
    chex.assert_trees_all_equal(supply.top(1)[0], first[3])
    supply.put(supply.state, np.array([1, 2], np.uint16))
    supply.drop(supply.state, 1)
    assert supply.num_used == 3
    assert len(supply.to_bytes(supply.num_words - supply.num_used)) == 6 + 2


def test_the_random_words_are_the_same_in_every_version():
    """Files are decoded with them: they belong to the format."""
    supply = bits_back._Supply(b"seed")
    assert (supply.num_words, supply.num_used) == (0, 0)
    chex.assert_trees_all_equal(supply.top(2), np.array([22475, 38986, 53099, 55755]))
    assert supply.to_bytes(2).hex() == "8e5175000100cb574a98"


@pytest.mark.parametrize(("mean", "scale"), [(np.nan, 1), (np.inf, 1), (0, 0), (0, np.nan)])
def test_a_normal_without_a_mean_or_a_scale_is_none(mean, scale):
    reference = jnp.zeros(2), jnp.ones(2)

    def is_valid(mean, scale):
        row = [jnp.array([[0.0, value]], jnp.float32) for value in (mean, scale)]
        return latents._normals(row[0], row[1].at[0, 0].set(1), reference, 0)[1]

    assert is_valid(0, 1)
    assert not is_valid(mean, scale)


def test_what_cannot_be_coded_is_refused():
    x = X[:1]
    with pytest.raises(TypeError, match=r"independent symbols, or of normals.*got Laplace"):
        latents._factor(distrax.Laplace(jnp.zeros(3), jnp.ones(3)), None, 0)
    wider = dataclasses.replace(Slope(), num_symbols=3)
    with pytest.raises(
        ValueError, match=r"6 coordinates of 3 symbols in its likelihood, got \(6, 2"
    ):
        coding.encode(wider, {}, x)
    with pytest.raises(ValueError, match="num_samples must be at most 1 for this model, got 2"):
        coding.encode(jg.Independent(D, 2), {}, x, num_samples=2)
    with pytest.raises(TypeError, match="model must be over symbols to be coded, got VAE"):
        coding.encode(jg.VAE(D, None), {}, x)
    chain = jg.Independent(D, 2)
    with pytest.raises(
        coding.CodeError, match="encoded by bits_back, the model's contract has chain"
    ):
        coding.decode(chain, PARAMS, DATA)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, PARAMS)
    with pytest.raises(ValueError, match="model gives NaN in its posterior"):
        coding.encode(MODEL, broken, x)


def test_counts_for_which_there_is_just_room_are_read():
    code = bytes(6)
    for num_used, num_samples in ((3, 1), (0, 6)):
        head = bits_back._COUNTS.pack(num_used, num_samples)
        assert bits_back.counts(head + code) == (num_used, num_samples)
        with pytest.raises(coding.CodeError, match="it says that it has"):
            bits_back.counts(head + code[:-1])


def test_a_bucket_where_a_component_hardly_is_has_the_least_share_that_there_is():
    model = MODELS["mixture"]
    reference = (jnp.zeros(3), jnp.ones(3)), None
    groups = np.zeros(3, np.int32), np.zeros(1, np.int32)
    factor, is_valid = latents.prior(model, initial(model), reference, groups, None, group=0)
    assert is_valid
    far = factor._replace(position=jnp.full(3, 20 << 20))  # twenty deviations above
    assert latents.interval(far, groups[0])[1].tolist() == [1, 1, 1]
