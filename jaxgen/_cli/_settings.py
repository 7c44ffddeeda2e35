"""The flags of each command; nothing here computes, so that help comes at once."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

Bundle = Annotated[Positional[Path], arg(metavar="BUNDLE")]
Data = Annotated[Positional[Path], arg(metavar="DATA")]
Out = Annotated[Positional[Path], arg(metavar="OUT")]
OptionalOut = Annotated[Positional[Path | None], arg(metavar="OUT")]
Model = Literal["transformer", "recurrence", "made", "pixelcnn", "vae"]


@dataclasses.dataclass(frozen=True)
class Train:
    """Fit a model to a text file or to gray images, and save it with all it needs as one file.

    Images are a folder of PNG files of one size, a .npy array [N, H, W] or an IDX file. Ctrl-C
    saves the state; the same command then goes on from there.
    """

    data: Data
    """A text file, a folder of PNG files, a .npy or an IDX file."""
    out: Out
    """The bundle to write, a .safetensors file."""
    model: Model | None = None
    """Left out: transformer for text, made for images."""
    unit: Literal["characters", "bytes"] = "characters"
    """Symbols of a text; bytes take any file."""
    gray_levels: int | None = None
    """To how many levels gray is rounded. Left out: 16, or all where there are fewer."""
    max_intensity: int | None = None
    """What white is in a .npy array of integers. Left out: 255, or 65535 where that is too low."""
    context: int = 128
    """Symbols of a text that the model sees at once."""
    width: int | None = None
    """Channels, or hidden units. Left out: 128; made 500, pixelcnn 32, vae 200."""
    num_layers: int | None = None
    """Layers. Left out: 4; made 1, pixelcnn 6, vae 2 in each of its networks."""
    num_latents: int | None = None
    """Latent variables of vae. Left out: 32."""
    dropout_rate: float = 0.0
    """Of hidden units in training, for transformer and made."""
    num_steps: int = 1000
    """Steps at most."""
    batch_size: int = 32
    """Images, or stretches of text, in a step."""
    learning_rate: float | None = None
    """AdamW's highest rate; it falls to nothing along a cosine. Left out: 0.003 for text, 0.001."""
    weight_decay: float = 0.1
    """AdamW's, of kernels alone."""
    valid_fraction: float = 0.1
    """Share that is not trained on, by which the parameters are chosen; 0 keeps the last ones."""
    validate_every: int = 100
    """Steps between validations."""
    patience: int | None = None
    """Validations without improvement after which to stop. Left out: never."""
    seed: int = 0
    """Of initial weights, batches, dropout and which images validate."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Draw images or text from a model."""

    bundle: Bundle
    """What train wrote."""
    out: OptionalOut = None
    """Images: a .png sheet, a .npy array or a folder for PNG files. Text: a file; left out, the
    text is printed."""
    num_samples: int | None = None
    """Left out: 16 images, 1 text."""
    temperature: float = 1.0
    """Below 1 draws what is likely more often, above 1 less."""
    top_p: float = 1.0
    """Draw from the fewest likeliest symbols that hold this probability together."""
    prompt: str = ""
    """How a text begins."""
    length: int = 500
    """Symbols of a text behind the prompt."""
    seed: int = 0
    """Another seed draws others."""


@dataclasses.dataclass(frozen=True)
class Score:
    """Print the negative log-likelihood of each image, or each line of a text, and of all.

    Of a latent-variable model it is bounded from above, by importance samples.
    """

    bundle: Bundle
    """What train wrote."""
    data: Data
    """Files of the kind that it was trained on."""
    csv: bool = False
    """Print comma-separated values."""
    overlap: int | None = None
    """Symbols of a text that a stretch shares with the one before: context for the new ones. Left
    out: half of what the model sees."""
    num_samples: int = 100
    """Importance samples behind the bound of an image, for a latent-variable model; with more of
    them it is tighter."""
    seed: int = 0
    """Of those samples."""


@dataclasses.dataclass(frozen=True)
class Fill:
    """Complete images of which a part is known, or a text of which the beginning is.

    It takes an autoregressive model.
    """

    bundle: Bundle
    """What train wrote."""
    data: Data
    """Images, or a text to go on from."""
    out: OptionalOut = None
    """Images: a .png sheet, with a row for each, or a .npy array. Text: a file; left out, the text
    is printed."""
    observed: Literal["top", "bottom", "left", "right"] = "top"
    """Which part of an image is known."""
    share: float = 0.5
    """How large that part is."""
    num_images: int = 8
    """The first so many images."""
    num_samples: int = 1
    """Completions of each."""
    temperature: float = 1.0
    """Below 1 draws what is likely more often, above 1 less."""
    top_p: float = 1.0
    """Draw from the fewest likeliest symbols that hold this probability together."""
    length: int = 500
    """Symbols of a text behind the known ones."""
    seed: int = 0
    """Another seed draws others."""


@dataclasses.dataclass(frozen=True)
class Compress:
    """Compress files of the kind that the model was trained on, to about as many bits as it scores.

    Only the same bundle restores them, on the same kind of machine with the same JAX unless the
    file is portable. A latent-variable model compresses by bits back, to about the bits of its
    evidence lower bound.
    """

    bundle: Bundle
    """What train wrote."""
    data: Data
    """A text of known characters, or images that the model's gray levels hold exactly. For a model
    of colors a PNG picture of any size, or a folder of them: they are cut into tiles."""
    out: Out
    """The compressed file."""
    portable: bool = False
    """Write a file that other machines and versions of JAX restore too, in a few more bits."""


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Say what a bundle or a compressed file holds, without decoding it."""

    data: Data
    """What train or compress wrote."""


@dataclasses.dataclass(frozen=True)
class Restore:
    """Restore what compress wrote: a text byte for byte, images pixel for pixel."""

    bundle: Bundle
    """The bundle that compressed."""
    data: Data
    """The compressed file."""
    out: Out
    """A text; images as a .npy array, or a folder for PNG files; pictures in color a folder, one
    alone also a .png file."""
