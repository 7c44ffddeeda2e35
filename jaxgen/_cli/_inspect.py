"""Say what a file is, without decoding or computing anything."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import jax

import jaxgen as jg
from jaxgen._bundle import field_names
from jaxgen._cli import _listing as listings
from jaxgen._cli import _parts as parts
from jaxgen._cli._settings import Inspect


def inspect(settings: Inspect) -> None:
    """Print what a compressed file or a bundle says of itself.

    Raises:
      CodeError: a compressed file is damaged.
      WeightsError: it is neither a compressed file nor a bundle.
    """
    with settings.data.open("rb") as file:
        lines = _of_code if parts.is_compressed(file.read(16)) else _of_bundle
    for line in lines(settings):
        print(line)


def _of_code(settings: Inspect) -> Iterator[str]:
    with settings.data.open("rb") as file:
        sizes, infos = [], []
        listed = parts.read_listing(file, settings.data)
        for part in parts.read(file, settings.data):
            sizes.append(part.num_symbols)
            infos.append(jg.coding.inspect(part.code))
    info, total = infos[0], sum(sizes)
    rows, net, initial = (
        sum(getattr(each, name) for each in infos)
        for name in ("num_rows", "net_bits", "initial_bits")
    )
    several = "" if len(infos) == 1 else f", in {len(infos):,} parts"
    yield f"{settings.data}: {total:,} symbols, compressed by a model ({info.method}){several}"
    if listed:
        yield _of_listing(listings.from_bytes(listed, settings.data), settings)
    yield f"  rows: {rows:,} of {info.num_dims:,} symbols, of {info.num_symbols} values"
    yield f"  code: {net:,} net bits, and {initial:,} that chose first latents"
    if info.method == "portable":
        least = min(each.tolerance for each in infos)
        yield f"  log-odds may be {least:.1e} nats apart where it is restored"


def _of_listing(listing: listings.Listing, settings: Inspect) -> str:
    (height, width), num = listing.tile_shape, len(listing.pictures)
    filled = 1 - listing.num_values / (3 * height * width * listing.num_tiles)
    bits = 8 * settings.data.stat().st_size / listing.num_values
    return (
        f"  pictures: {num:,} of {listing.num_values:,} colors, in {listing.num_tiles:,} tiles of "
        f"{height}x{width} pixels, {filled:.1%} of them filled up; {bits:.3f} bits for each color"
    )


def _of_bundle(settings: Inspect) -> Iterator[str]:
    bundle = jg.read_bundle(settings.data)
    num_params = sum(leaf.size for leaf in jax.tree.leaves(bundle.params))
    yield f"{settings.data}: a model of {num_params:,} parameters"
    yield f"  model: {_as_made(bundle.model)}"
    vocabulary = bundle.vocabulary
    yield f"  vocabulary: {'none' if vocabulary is None else type(vocabulary).__name__}"
    yield f"  metadata: {json.dumps(bundle.metadata)}"


def _as_made(model: Any) -> str:
    """Return the call that makes a model, of the fields that are not as they are by default."""
    names = field_names(type(model))
    fields = [
        f"{field.name}={getattr(model, field.name)!r}"
        for field in dataclasses.fields(model)
        if field.name in names and getattr(model, field.name) != field.default
    ]
    return f"{type(model).__name__}({', '.join(fields)})"
