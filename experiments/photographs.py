"""Compress photographs by tiles with a small model of CIFAR-10, beside PNG, WebP and JPEG XL.

    python -m experiments.photographs

About 20 minutes on two CPU cores. The published Gated PixelCNN of 32×32 images is saved as a bundle
of colors, with which `python -m jaxgen compress` codes each of Kodak's 24 photographs; `restore`
reads it back, and all pixels are compared. Beside stand the bits that the model claims for the
tiles, the same of photographs without their last 16 rows and columns, whose last tiles are half
filled up, the PNG files as they are published, and PNG, WebP and JPEG XL without loss, where they
are installed. Expected: files within a thousandth of the claim; a quarter fewer bits than PNG, a
few hundredths more than WebP, and more than JPEG XL, as tiles begin without context and the model
has seen no photograph of this size.
"""

import dataclasses
import pathlib
import resource
from typing import Any, NamedTuple

import jax
import numpy as np
import PIL.Image

import jaxgen as jg
from experiments import _autoregressive_rows as autoregressive_rows
from experiments import _general_compressors as general
from experiments import _harness as harness
from experiments import _kodak as kodak
from experiments import _mnist as mnist
from experiments import _plots as plots
from experiments import compression
from experiments._harness import Metric
from jaxgen._cli import _pictures as pictures
from jaxgen._cli._main import main as command_line
from jaxgen.core import Params, check_count

NAME = "cifar10/gated_pixelcnn"
CROP = 16  # rows and columns


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    seed: int = 0
    """Not used: nothing is drawn."""
    run_dir: pathlib.Path = pathlib.Path("runs/photographs")
    """Folder of the run."""
    num_coded: int = 24
    """Photographs that are coded and restored, the first ones; of the others bits are claimed."""
    is_smoke: bool = False
    """Use made-up pictures and a small model with random weights."""

    def __post_init__(self) -> None:
        """Check the count."""
        check_count("num_coded", self.num_coded)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds that goes through every part, without the data."""
        return cls(num_coded=2, is_smoke=True)


class Coder(NamedTuple):
    """A model of tiles, and its file.

    Attributes:
      model: the model.
      params: its parameters.
      colors: of its tiles.
      bundle: where all of it is saved.
    """

    model: jg.models.LinenAutoregressiveModel
    params: Params
    colors: jg.data.Colors
    bundle: pathlib.Path


def main(config: Config) -> dict[str, Metric]:
    """Run everything; see the module docstring."""
    run = harness.start(config, "photographs")
    paths = made_up(run.path / "pictures") if config.is_smoke else kodak.copy_to(run.path / "kodak")
    coder = saved(run, is_smoke=config.is_smoke)
    claim = jax.jit(lambda x: coder.model.log_prob(coder.params, x))
    bits: list[dict[str, float]] = []
    for i, path in enumerate(paths):
        image = pixels(path)
        cropped = image[:-CROP, :-CROP]
        here: dict[str, float] = {"colors": image.size, "colors_cropped": cropped.size}
        here |= {name: 8 * size for name, size in general.of_picture(image).items()}
        here["published_png"] = 8 * path.stat().st_size
        here["claimed"] = claimed_bits(coder, claim, image)
        here["claimed_cropped"] = claimed_bits(coder, claim, cropped)
        if i < config.num_coded:
            here |= coded_bits(run, coder, path)
        run.log(stage=path.name, **here)
        bits.append(here)
    run.save_figure(figure(bits), "photographs.png")
    return run.finish(metrics_of(bits))


def saved(run: harness.Run, *, is_smoke: bool) -> Coder:
    """The published model as a bundle of colors; in a smoke run a small one."""
    model = autoregressive_rows.ROWS["cifar10/smoke" if is_smoke else NAME].model
    assert isinstance(model, jg.GatedPixelCNN)
    if is_smoke:
        x = np.zeros((1, model.num_dims), np.int32)
        params = jax.jit(model.init)(jax.random.key(0), x)
    else:
        file = mnist.PRETRAINED / f"{NAME.replace('/', '_')}.safetensors"
        params = compression.load(model, file)
    height, width, _ = model.image_shape
    colors = jg.data.Colors((height, width))
    bundle = run.path / "colors.safetensors"
    jg.save(bundle, model, params, vocabulary=colors, metadata={"weights": NAME})
    run.note("bundle", bundle)
    return Coder(model, params, colors, bundle)


def claimed_bits(coder: Coder, claim: Any, image: np.ndarray) -> float:
    """Bits of the log-likelihood of a picture's tiles, filled up as `compress` fills them."""
    x = coder.colors.encode(pictures.cut(image, coder.colors.image_shape))
    return jg.coding.claimed_bits(jg.training.evaluate(claim, x, batch_size=32))


def coded_bits(run: harness.Run, coder: Coder, path: pathlib.Path) -> dict[str, float]:
    """Compress and restore a picture by the commands; bits of the file, and CPU seconds."""
    file, restored = run.path / f"{path.stem}.jxg", run.path / "restored.png"
    start = cpu_seconds()
    command_line(["compress", str(coder.bundle), str(path), str(file)])
    middle = cpu_seconds()
    command_line(["restore", str(coder.bundle), str(file), str(restored)])
    end = cpu_seconds()
    if (pixels(restored) != pixels(path)).any():
        raise ArithmeticError(f"{path.name} comes back with other pixels")
    return {
        "file": 8 * file.stat().st_size,
        "compress_cpu_seconds": middle - start,
        "restore_cpu_seconds": end - middle,
    }


def cpu_seconds() -> float:
    """What this process has used of all cores."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def pixels(path: pathlib.Path) -> np.ndarray:
    """The colors of a picture, uint8 `[H, W, 3]`."""
    with PIL.Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def made_up(folder: pathlib.Path) -> list[pathlib.Path]:
    """Three pictures of noise on a slope."""
    folder.mkdir(exist_ok=True)
    rng, paths = np.random.default_rng(0), [folder / f"{i}.png" for i in range(3)]
    for path, height in zip(paths, (18, 20, 23), strict=True):
        image = 5 * np.arange(height)[:, None, None] + rng.integers(0, 9, (height, 21, 3))
        PIL.Image.fromarray(image.astype(np.uint8)).save(path)
    return paths


def metrics_of(bits: list[dict[str, float]]) -> dict[str, Metric]:
    """Bits for each color of all photographs together, and seconds for one."""

    def rate(name: str, of: str = "colors") -> Metric:
        have = [here for here in bits if name in here]
        total = sum(here[name] for here in have) / sum(here[of] for here in have)
        return Metric(total, None, len(have), "kodak")

    coded = [here for here in bits if "file" in here]
    seconds = {
        f"{NAME}/{name}": harness.mean_metric(np.array([here[name] for here in coded]), "kodak")
        for name in ("compress_cpu_seconds", "restore_cpu_seconds")
    }
    of_peers = [name for name in ("published_png", *general.FORMATS) if name in bits[0]]
    return {
        f"{NAME}/claimed_bits_per_dim": rate("claimed"),
        f"{NAME}/file_bits_per_dim": rate("file"),
        f"{NAME}/half_filled/claimed_bits_per_dim": rate("claimed_cropped", "colors_cropped"),
        **seconds,
        **{f"{name}/file_bits_per_dim": rate(name) for name in of_peers},
    }


def figure(bits: list[dict[str, float]]) -> Any:
    """Bits for each color, photograph by photograph, from the one that takes fewest."""
    panel, axis = plots.subplots(figsize=(7, 4))
    order = sorted(bits, key=lambda here: here["claimed"])
    names = {"png": "PNG", "webp": "WebP", "jpeg_xl": "JPEG XL", "file": "our files"}
    for (name, label), marker, color in zip(names.items(), "sv^o", plots.COLORS, strict=False):
        points = [(i, here[name] / here["colors"]) for i, here in enumerate(order) if name in here]
        if points:
            axis.plot(*zip(*points, strict=True), marker, color=color, label=label)
    claimed = [here["claimed"] / here["colors"] for here in order]
    axis.plot(range(len(order)), claimed, color=plots.COLORS[6], linewidth=0.8, label="claimed")
    axis.set(xlabel="photographs, in the order of what the model claims", ylabel="bits a color")
    axis.legend(fontsize=8)
    return panel


if __name__ == "__main__":
    harness.run_experiment(Config, main)
