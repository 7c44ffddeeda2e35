"""Trainings on several devices give the numbers of one."""

import socket
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from orbax.checkpoint import v1 as ocp

import jaxgen as jg
from jaxgen.training._checkpoint import CheckpointError
from jaxgen.training._dispatch import Start, build_dispatch
from jaxgen.training._feed import feed
from jaxgen.training._layout import Layout, whole
from jaxgen.training._loop import NonFiniteError, fit
from jaxgen.training._step import build_step

RNG = np.random.default_rng(0)
DATA = {"x": RNG.normal(size=(64, 16)).astype(np.float32)}
START = {"w": RNG.normal(size=(16, 24)).astype(np.float32) / 10, "b": np.zeros(3, np.float32)}


class Stream:
    """The same data, read by indices."""

    def __init__(self):
        self.num_read = 0

    def __len__(self):
        return len(DATA["x"])

    def __getitem__(self, indices):
        self.num_read += len(indices)
        return {"x": DATA["x"][indices]}


def loss_fn(key, params, batch, step):
    noise = 0.1 * jax.random.normal(key, batch["x"].shape)  # the same on any number of devices
    hidden = jnp.tanh((batch["x"] + noise) @ params["w"])
    residual = hidden @ params["w"].T - batch["x"]
    return jnp.mean(residual**2) + jnp.sum((params["b"] - 1) ** 2)


def validate_fn(params):
    return jnp.sum(params["w"] ** 2)


def mesh_of(num_devices):
    return jax.make_mesh((num_devices,), ("data",), devices=jax.devices()[:num_devices])


def run(**kwargs):
    losses = []
    arguments = {
        "source": DATA,
        "num_steps": 60,
        "validate_fn": validate_fn,
        "report_fn": lambda step, numbers: losses.append(numbers["loss"]),
        **kwargs,
    }
    source = arguments.pop("source")
    result = fit(
        jax.random.key(0),
        START,
        loss_fn,
        source,
        optax.adam(0.01),
        batch_size=16,
        validate_every=20,
        average_decay=0.9,
        **arguments,
    )
    return losses, jax.tree.map(lambda leaf: np.asarray(whole(leaf)), result.params)


@pytest.fixture(scope="module")
def straight():
    """What one device gives."""
    return run()


@pytest.mark.parametrize("param_sharding", ["replicated", "fully_sharded"])
@pytest.mark.parametrize("num_devices", [1, 4, 8])
def test_any_layout_gives_the_numbers_of_one_device(straight, num_devices, param_sharding):
    found = run(mesh=mesh_of(num_devices), param_sharding=param_sharding)
    chex.assert_trees_all_close(found, straight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_devices", [None, 8])
def test_what_is_read_gives_the_numbers_of_what_is_in_memory(straight, num_devices):
    source = Stream()
    mesh = None if num_devices is None else mesh_of(num_devices)
    chex.assert_trees_all_close(run(source=source, mesh=mesh), straight, rtol=1e-5, atol=1e-6)
    assert source.num_read == 60 * 16 + 1  # no example twice, and one for the shapes


def test_a_checkpoint_of_one_layout_goes_on_in_another(straight, tmp_path):
    checkpointer = jg.training.Checkpointer(tmp_path)
    run(num_steps=20, mesh=mesh_of(8), param_sharding="fully_sharded", checkpointer=checkpointer)
    middle, _ = run(num_steps=40, mesh=mesh_of(2), checkpointer=checkpointer)
    losses, params = run(checkpointer=checkpointer)
    chex.assert_trees_all_close((middle, losses), (straight[0][1:2], straight[0][2:]), rtol=1e-5)
    chex.assert_trees_all_close(params, straight[1], rtol=1e-5, atol=1e-6)


def dispatch_of(layout, batch_size=64):
    """The compiled dispatch of a training with large products, and the bytes of its parameters."""
    params = {"w": np.zeros((256, 512), np.float32)}

    def loss_fn(key, params, batch, step):
        return jnp.mean((jnp.tanh(batch @ params["w"]) @ params["w"].T - batch) ** 2)

    optimizer = optax.adam(0.01)
    source = np.zeros((128, 256), np.float32)
    batches = feed(source, jax.random.key(0), batch_size, layout)
    state = Start(params, optimizer, False, False, layout).state()
    rows = batches.batches(0, lambda step: 3)
    program = build_dispatch(build_step(loss_fn, optimizer), batches, 0, layout)
    compiled = program.lower(jax.random.key(0), state.train, batches.data, rows, 3).compile()
    return compiled, params["w"].nbytes, source.nbytes


def test_an_update_of_sharded_parameters_that_overflows_is_undone(tmp_path):
    """The entry that overflows is on one device alone."""
    is_spoiled = START["w"] == START["w"].max()

    def loss(key, params, batch, step):
        return jnp.sum(params["w"] * (1.0 + is_spoiled * (step >= 37)))

    def update(gradient, params):
        return jax.tree.map(lambda g: jnp.where(g > 1.5, jnp.inf, -0.01 * g), gradient)

    def trained(num_steps):
        return fit(
            *(jax.random.key(0), START, loss, DATA, optax.stateless(update)),
            num_steps=num_steps,
            batch_size=16,
            mesh=mesh_of(8),
            param_sharding="fully_sharded",
            checkpointer=jg.training.Checkpointer(tmp_path / str(num_steps)),
        )

    with pytest.raises(NonFiniteError, match="params/w is not finite after the update") as info:
        trained(60)
    state = info.value.state.train
    assert int(state.step) == 37
    assert state.params["w"].sharding.spec == PartitionSpec(None, "data")
    expected = trained(37).params
    chex.assert_trees_all_equal(jax.device_get(state.params), jax.device_get(expected))


def test_digests_and_dtypes_are_of_sharded_arrays_too(tmp_path):
    layout = Layout(mesh_of(8), "fully_sharded")
    state = {"w": jax.device_put(START["w"], layout.of_params(START["w"]))}
    checkpointer = jg.training.Checkpointer(tmp_path)
    for step in (1, 2):
        checkpointer.save(step, state)
    assert checkpointer.load(state)[1]["w"].sharding == state["w"].sharding
    with pytest.raises(CheckpointError, match="w"):
        checkpointer.load({"w": state["w"].astype(jnp.bfloat16)})
    content = ocp.load(tmp_path / "2")
    content["leaves/w"] = content["leaves/w"] + (START["w"] == START["w"].max())
    checkpointer._checkpointer.save(3, content, force=True)
    with pytest.warns(UserWarning, match="step 3 .*: its digests are not those of w$"):
        step, found = checkpointer.load(state)
    assert step == 2
    chex.assert_trees_all_equal(jax.device_get(found), jax.device_get(state))


def test_each_device_computes_its_part_of_a_batch(optimized):
    (one, *_), (eight, *_) = (dispatch_of(Layout(mesh)) for mesh in (None, mesh_of(8)))
    ratio = eight.cost_analysis()["flops"] / one.cost_analysis()["flops"]
    assert 1 / 8 < ratio < 0.25  # the optimizer's part is everyone's


def test_memory_is_that_of_a_few_copies_of_the_parameters_and_a_part_where_they_are_sharded(
    optimized,
):
    def peak(layout):
        compiled, num_bytes, data = dispatch_of(layout, batch_size=8)
        found = compiled.memory_analysis()
        total = found.argument_size_in_bytes + found.output_size_in_bytes
        return (total + found.temp_size_in_bytes - found.alias_size_in_bytes - data) / num_bytes

    assert peak(Layout()) < 8
    assert peak(Layout(mesh_of(8), "fully_sharded")) < 0.5 * peak(Layout(mesh_of(8)))


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((), PartitionSpec()),
        ((3,), PartitionSpec()),
        ((0, 3), PartitionSpec()),
        ((16, 24), PartitionSpec(None, "data")),
        ((32, 24), PartitionSpec("data")),
        ((3, 8, 9), PartitionSpec(None, "data")),
    ],
)
def test_the_largest_axis_that_divides_is_sharded(shape, spec):
    def same(found):
        return PartitionSpec(*[axis[0] if isinstance(axis, tuple) else axis for axis in found])

    layout = Layout(mesh_of(8), "fully_sharded")
    assert same(layout.of_params(np.zeros(shape)).spec) == spec
    assert same(Layout(mesh_of(8)).of_params(np.zeros(shape)).spec) == PartitionSpec()


def test_evaluation_is_spread_and_draws_the_same():
    @jax.jit
    def fn(key, batch):
        return batch["x"].sum(1) + jax.random.normal(key, (len(batch["x"]),)), batch["x"]

    def evaluate(data, mesh):
        return jg.training.evaluate(fn, data, batch_size=24, key=jax.random.key(0), mesh=mesh)

    expected = evaluate(DATA, None)
    for data in (DATA, Stream()):
        chex.assert_trees_all_close(evaluate(data, mesh_of(8)), expected, rtol=1e-6, atol=1e-6)
    assert expected[1].shape == (64, 16)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mesh": mesh_of(3)}, ValueError, "multiple of the mesh's 3 devices, got 16"),
        ({"mesh": 8}, TypeError, r"must be a jax.sharding.Mesh, got int: .*make_mesh"),
        ({"param_sharding": "some"}, ValueError, "param_sharding must be one of"),
        ({"source": object()}, ValueError, "source must be arrays"),
    ],
)
def test_bad_layouts_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        run(**change)


def test_a_source_that_gives_another_number_of_examples_is_refused():
    class Short(Stream):
        def __getitem__(self, indices):
            return super().__getitem__(indices[: max(1, len(indices) - 1)])

    with pytest.raises(ValueError, match=r"source\[indices\] must give 320 examples, got 319"):
        run(source=Short())


def test_an_example_that_is_not_finite_is_named_by_its_place_in_the_source():
    class Spoiled(Stream):
        def __getitem__(self, indices):
            x = DATA["x"][indices]
            return {"x": np.where((indices == 41)[:, None] & (np.arange(16) == 3), np.nan, x)}

    with pytest.raises(NonFiniteError, match=r"source x holds nan at \(41, 3\)"):
        run(source=Spoiled())


PROCESS = """
import sys
sys.path[:0] = {path!r}
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
address, number, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(address, 2, number, coordinator_bind_address=address)
import numpy as np
from training.test_mesh import Stream, jg, mesh_of, run
checkpointer = jg.training.Checkpointer(folder)
arguments = dict(mesh=mesh_of(4), param_sharding="fully_sharded", checkpointer=checkpointer)
source = Stream()
first, _ = run(num_steps=20, source=source, **arguments)
assert source.num_read == 20 * 8 + 1, source.num_read  # half of each batch
second, _ = run(source=source, **arguments)
print(*first, *second)
"""


def test_two_processes_give_the_numbers_of_one_and_go_on(straight, tmp_path):
    with_port = f"127.0.0.1:{free_port()}"
    script = PROCESS.format(path=sys.path)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, with_port, str(number), str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    for output in outputs:
        losses = [float(word) for word in output.split("\n")[-2].split()]
        chex.assert_trees_all_close(losses, straight[0], rtol=1e-5)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
