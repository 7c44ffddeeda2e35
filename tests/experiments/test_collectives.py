"""Arithmetic and bytes of compiled programs that can be counted by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from experiments._collectives import work

GROUPS = "replica_groups={{0,1,2,3}}"
LOOP = """HloModule loop

%body (p: (s32[], f32[6])) -> (s32[], f32[6]) {{
  %p = (s32[], f32[6]{{0}}) parameter(0)
  ROOT %one = {one}
}}

%other (p: f32[6]) -> f32[6] {{
  ROOT %p.1 = f32[6]{{0}} parameter(0)
}}

ENTRY %main (x: (s32[], f32[6])) -> (s32[], f32[6]) {{
  %x = (s32[], f32[6]{{0}}) parameter(0)
  %left = f32[4,5]{{1,0}} constant(0)
  ROOT %again = {again}
}}
"""
WHILE = "(s32[], f32[6]{0}) while(%x), condition=%other, body=%body"
THREE = ', backend_config={"known_trip_count":{"n":"3"}}'


@pytest.mark.parametrize(
    ("one", "sent"),
    [
        (f"f32[6]{{0}} all-reduce(%p), {GROUPS}, to_apply=%other", 2 * 3 / 4 * 24),
        (f"(f32[6]{{0}}, s8[4]{{0}}) all-reduce(%p, %p), {GROUPS}", 2 * 3 / 4 * 28),
        (f"bf16[2,6]{{1,0}} all-gather(%p), {GROUPS}, dimensions={{0}}", 3 / 4 * 24),
        (f"(f32[3]{{0}}, f32[6]{{0}}) all-gather-start(%p), {GROUPS}", 3 / 4 * 24),
        (f"f32[6]{{0}} reduce-scatter(%p), {GROUPS}", 3 * 24),
        ("f32[6]{0} all-to-all(%p), replica_groups=[2,8]<=[16]", 7 / 8 * 24),
        ("f32[6]{0} collective-permute(%p), source_target_pairs={{0,1}}", 24),
        ("f32[6]{0} all-to-all(%p), replica_groups=mesh['a'=2,'b'=4] {'b'}", 3 / 4 * 24),
        ("f32[6]{0} all-gather(%p), replica_groups=mesh['a'=8], device_ids=([8]) {'a'}", 21),
        ("f32[6]{0} all-gather(%p), replica_groups=mesh['a'=8] {'a':(1)2}", 12),
    ],
)
def test_a_collective_counts_as_often_as_its_loop_runs(one, sent):
    assert work(LOOP.format(one=one, again=WHILE + THREE)).sent.total() == 3 * sent
    assert work(LOOP.format(one=one, again=WHILE)).sent.total() == sent


def test_of_a_conditional_the_branch_with_most_work_counts():
    one = f"f32[6]{{0}} all-reduce(%p), {GROUPS}"
    for order in ("%other, %body", "%body, %other"):
        again = f"f32[6]{{0}} conditional(%x, %x, %x), branch_computations={{{order}}}"
        assert work(LOOP.format(one=one, again=again)).sent.total() == 36


def test_products_count_twice_their_terms():
    dot = "f32[4,7]{1,0} dot(%left, %left), lhs_contracting_dims={1}, rhs_contracting_dims={0}"
    again = f"{dot}\n  %more = f32[] fusion(%x), kind=kLoop, calls=%body"
    assert work(LOOP.format(one="f32[] add(%p, %p)", again=again)).flops == 2 * 4 * 7 * 5


@pytest.mark.parametrize("text", ["", "HloModule loop\n"])
def test_what_is_no_program_is_refused(text):
    with pytest.raises(ValueError, match="compiled program"):
        work(text)


def test_groups_of_another_form_are_refused():
    with pytest.raises(ValueError, match="replica_groups must be"):
        work(LOOP.format(one="f32[6]{0} all-reduce(%p), replica_groups=all", again=WHILE))


def test_a_product_over_what_is_spread_is_summed_over_the_devices():
    """Eight devices have 16 of 128 columns and rows each; five products, one after the other."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    columns = NamedSharding(mesh, PartitionSpec(None, "data"))
    rows = NamedSharding(mesh, PartitionSpec("data", None))
    whole = NamedSharding(mesh, PartitionSpec())

    def powers(left, right):
        def body(left, _):
            product = jax.lax.with_sharding_constraint(left @ right, whole)
            return jax.lax.with_sharding_constraint(product, columns), None

        return jax.lax.scan(body, left, None, length=5)[0]

    left = jax.ShapeDtypeStruct((32, 128), jnp.float32, sharding=columns)
    right = jax.ShapeDtypeStruct((128, 128), jnp.float32, sharding=rows)
    found = work(jax.jit(powers).lower(left, right).compile().as_text())
    assert found.flops == 5 * 2 * 32 * 128 * 16
    assert dict(found.sent) == {"all-reduce": 5 * 2 * 7 / 8 * 32 * 128 * 4}
    assert dict(found.calls) == {"all-reduce": 5}
