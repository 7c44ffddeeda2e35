"""Damage compressed files in every way, and count what decoding makes of them.

    python -m experiments.damaged_files

About 7 minutes on two CPU cores. For each kind of model, 10,000 files with flipped bits, bytes
changed, parts cut out, doubled, or taken from another file, and 1,000 more whose digest has been
made to agree again, as no accident would. Each must be refused by a `CodeError`, or be the file as
it was. Expected: no file decodes to other data, none raises anything else, and none takes a second
of processor time or 64 MiB, once there are the programs that files of the model want: a chain has
one for each power of two up to 1,024 rows. `parts` are what `python -m jaxgen compress` writes.
"""

import dataclasses
import io
import pathlib
import resource
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxgen as jg
from experiments import _harness as harness
from experiments._harness import Metric
from jaxgen._cli import _parts as parts
from jaxgen.coding import _file as file
from jaxgen.core import Params, check_count

NUM_DIMS, NUM_ROWS = 6, 8
MODELS: dict[str, Any] = {
    "chain": jg.MADE(NUM_DIMS, 4, (8,)),
    "growing_cache": jg.CausalTransformer(NUM_DIMS, 4, 8, 1, 2, block_size=4),
    "vae": jg.VAE(NUM_DIMS, 2, 3, (5,)),
    "mixture": jg.VAE(NUM_DIMS, 2, 3, (5,), prior_family=jg.models.MixtureOfNormals(3)),
    "groups": jg.HierarchicalVAE(NUM_DIMS, 2, (3, 2), ((5,), (4,))),
    "discrete": jg.DiscreteVAE(NUM_DIMS, 2, 4, 2, hidden_sizes=(5,)),
    "portable": jg.MADE(NUM_DIMS, 4, (8,)),
    "parts": jg.MADE(NUM_DIMS, 4, (8,)),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    seed: int = 0
    """Seed of data and damage."""
    run_dir: pathlib.Path = pathlib.Path("runs/damaged_files")
    """Folder of the run."""
    num_files: int = 10_000
    """Damaged files of each kind of model."""
    num_forged: int = 1000
    """Those whose digest agrees, of each kind of model."""
    kinds: tuple[str, ...] = ()
    """Kinds of models; none takes all."""

    def __post_init__(self) -> None:
        """Check the counts."""
        check_count("num_files", self.num_files)
        check_count("num_forged", self.num_forged)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(num_files=200, num_forged=20, kinds=("chain", "parts"))


class Known(NamedTuple):
    """A model, its data, and two files of a kind that it made."""

    kind: str
    model: Any
    params: Params
    x: np.ndarray
    content: bytes
    other: bytes


def main(config: Config) -> dict[str, Metric]:
    """Run everything; see the module docstring."""
    run = harness.start(config, "damaged_files")
    metrics: dict[str, Metric] = {}
    rng = np.random.default_rng(config.seed)
    for kind in config.kinds or MODELS:
        known = known_files(rng, kind)
        for name, num_files in (("", config.num_files), ("_forged", config.num_forged)):
            counts = dict.fromkeys(("refused", "unchanged", "wrong", "raised_otherwise"), 0)
            slowest, resident = 0.0, peak_mebibytes()
            for _ in range(num_files):
                content = damaged(rng, known)
                content = forged(kind, content) if name else content
                start = time.process_time()
                counts[outcome(known, content)] += 1
                slowest = max(slowest, time.process_time() - start)
            costs = {
                "slowest_cpu_seconds": slowest,
                "added_mebibytes": peak_mebibytes() - resident,
            }
            run.log(stage=kind + name, **counts, **costs)
            for what, value in (counts | costs).items():
                metrics[f"{kind}{name}/{what}"] = Metric(value, None, num_files)
    return run.finish(metrics)


def peak_mebibytes() -> float:
    """The most memory that the process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def known_files(rng: np.random.Generator, kind: str) -> Known:
    """Two files of random symbols, by random weights."""
    model = MODELS[kind]
    x = rng.integers(0, model.num_symbols, (2, NUM_ROWS, NUM_DIMS)).astype(np.int32)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, NUM_DIMS), jnp.int32))
    content, other = (file_of(kind, model, params, each) for each in x)
    is_latent = isinstance(model, jg.LatentVariableModel)
    for log_rows in range(1 if is_latent else 11):  # compiles
        rows = np.resize(x[0], (2**log_rows, NUM_DIMS))
        options = {"num_samples": 2} if is_latent else {"is_portable": kind == "portable"}
        jg.decode(model, params, jg.encode(model, params, rows, **options))
    known = Known(kind, model, params, x[0], content, other)
    if outcome(known, content) != "unchanged":
        raise ArithmeticError(f"the file of {kind} is not read back")
    return known


def file_of(kind: str, model: Any, params: Params, x: np.ndarray) -> bytes:
    """A file of a kind; parts are of three rows."""
    if kind != "parts":
        return jg.encode(model, params, x, **({"is_portable": True} if kind == "portable" else {}))
    written, few = io.BytesIO(), (x[i : i + 3] for i in range(0, len(x), 3))
    parts.write(written, (parts.Part(each.size, jg.encode(model, params, each)) for each in few))
    return written.getvalue()


def read_back(known: Known, content: bytes) -> np.ndarray:
    """The symbols of a file, `[N, D]`."""
    if known.kind != "parts":
        return jg.decode(known.model, known.params, content)
    bundle = jg.Bundle(known.model, known.params, None, {})
    read = parts.read(io.BytesIO(content), "file")
    symbols = [parts.decode(bundle, part, "file") for part in read]
    return np.concatenate(symbols).reshape(-1, NUM_DIMS)


def damaged(rng: np.random.Generator, known: Known) -> bytes:
    """The file with one to three things done to it."""
    content = bytearray(known.content)
    for _ in range(rng.integers(1, 4)):
        size = max(1, len(content))
        at, length = int(rng.integers(size)), int(rng.integers(1, 9))
        part = content[at : at + length]
        match rng.integers(7):
            case 0 if content:
                content[at] ^= 1 << int(rng.integers(8))
            case 1:
                content[at : at + length] = rng.bytes(len(part))
            case 2:
                del content[at:]
            case 3:
                del content[at : at + length]
            case 4:
                content[at:at] = part
            case 5:
                content[at : at + length] = known.other[at : at + length]
            case _:
                content += rng.bytes(length)
    return bytes(content)


def forged(kind: str, content: bytes) -> bytes:
    """The file with digests that agree, where it is long enough to have some."""
    if kind == "parts":
        return forged_parts(content)
    if len(content) < file.HEADER_BYTES:
        return content
    header, code = content[: file.HEADER_BYTES - 8], content[file.HEADER_BYTES :]
    return header + file.digest(header, code) + code


def forged_parts(content: bytes) -> bytes:
    """A file of parts whose digests agree, and those of the codes in them."""
    pieces, digest, at = [content[:4]], content[:4], 4
    size = parts.HEADER.size + len(parts.digest_of(b"", b"", b""))
    while at + size <= len(content):
        header = content[at : at + parts.HEADER.size]
        length = parts.HEADER.unpack(header)[2]
        code = forged("chain", content[at + size : at + size + length])
        digest = parts.digest_of(digest, header, code)
        pieces += [header, digest, code]
        at += size + length
    return b"".join([*pieces, content[at:]])


def outcome(known: Known, content: bytes) -> str:
    """What decoding makes of a file."""
    try:
        x = read_back(known, content)
    except jg.coding.CodeError:
        return "refused"
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
        return "raised_otherwise"
    return "unchanged" if np.array_equal(x, known.x) else "wrong"


if __name__ == "__main__":
    harness.run_experiment(Config, main)
