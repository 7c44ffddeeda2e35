"""The rows of `experiments.autoregressive_images`: model, data and how it is trained."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import optax

import jaxgen as jg

NUM_DIMS, SHAPE = 784, (28, 28)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    data: Literal["static", "dynamic", "mnist", "fashion_mnist", "cifar10"]
    """Which images: MNIST in one of two binarizations, or gray levels and colors as they are."""
    model: jg.models.LinenAutoregressiveModel
    """The model, or each member of an ensemble."""
    reference: str = ""
    """The published number and where it stands."""
    num_orders: int = 1
    """Members of an ensemble, at most 12, each in its own order; 1 is one, in raster order."""
    num_epochs: int = 100
    """Epochs of training."""
    batch_size: int = 100
    """Images in a step."""
    learning_rate: float = 1e-3
    """The highest rate; it falls to nothing along a cosine."""
    weight_decay: float = 0.0
    """Decoupled weight decay, of kernels alone."""
    uses_soap: bool = False
    """Whether SOAP takes the steps, in place of Adam."""
    average_decay: float = 0.999
    """Of the moving average of the parameters, which is what is judged and kept."""
    warmup_steps: int = 0
    """Steps over which the rate rises, at most half of all."""
    evaluation_batch_size: int = 500
    """Images evaluated at once."""

    def optimizer(self, num_steps: int) -> optax.GradientTransformation:
        """AdamW, or SOAP, with clipped gradients under the row's schedule."""
        rate = optax.warmup_cosine_decay_schedule(
            self.learning_rate if self.warmup_steps == 0 else 0.0,
            self.learning_rate,
            min(self.warmup_steps, num_steps // 2),
            num_steps,
        )
        method = (
            jg.training.soap(rate)
            if self.uses_soap
            else optax.adamw(rate, weight_decay=self.weight_decay, mask=jg.training.kernel_mask)
        )
        return optax.chain(optax.clip_by_global_norm(10.0), method)


GRAY: dict[Literal["mnist", "fashion_mnist"], str] = {
    "mnist": "none found; ours",
    "fashion_mnist": "none found; ours",
}

SNAILS: tuple[tuple[Literal["static", "dynamic"], int, str], ...] = (
    ("static", 7, "79.20, PixelRNN (van den Oord et al. 2016)"),
    ("dynamic", 6, "78.61 (pytorch-generative)"),
)

ROWS = {
    "static/made": Row(
        "static",
        jg.MADE(NUM_DIMS, 2, (6000,), dropout_rate=0.35, has_direct_connections=True),
        "88.40, MADE with one mask (Germain et al. 2015)",
        num_epochs=20,
    ),
    "static/made_ensemble": Row(
        "static",
        jg.MADE(NUM_DIMS, 2, (6000, 300), dropout_rate=0.45, has_direct_connections=True),
        "86.64, MADE with two layers and 32 masks (Germain et al. 2015)",
        num_orders=12,
        num_epochs=12,
        batch_size=200,
        learning_rate=4e-3,
    ),
    "dynamic/made": Row(
        "dynamic",
        jg.MADE(NUM_DIMS, 2, (4000,), dropout_rate=0.1, has_direct_connections=True),
        "84.87 (pytorch-generative)",
        num_epochs=60,
    ),
    "static/nade": Row(
        "static",
        jg.NADE(NUM_DIMS, 2, 500, dropout_rate=0.2),
        "88.33, NADE (Larochelle & Murray 2011; as in Germain et al. 2015)",
        num_epochs=24,
    ),
    "dynamic/nade": Row(
        "dynamic",
        jg.NADE(NUM_DIMS, 2, 500),
        "85.65 (pytorch-generative)",
        num_epochs=32,
    ),
    "dynamic/gated_pixelcnn": Row(
        "dynamic",
        jg.GatedPixelCNN(SHAPE, 2, width=16, num_layers=7, kernel_size=5),
        "81.50 (pytorch-generative, 11 layers of 128 channels, 457 epochs)",
        num_epochs=9,
        batch_size=25,
        learning_rate=5e-3,
        warmup_steps=200,
        evaluation_batch_size=100,
    ),
    **{
        f"{data}/pixelsnail": Row(
            data,
            jg.PixelSNAIL(SHAPE, 2, width=24, num_blocks=2, num_layers=4, num_heads=1),
            reference,
            num_epochs=num_epochs,
            batch_size=25,
            learning_rate=6e-3,
            warmup_steps=200,
            uses_soap=True,
            evaluation_batch_size=100,
        )
        for data, num_epochs, reference in SNAILS
    },
    "dynamic/gated_pixelcnn_large": Row(  # for a GPU
        "dynamic",
        jg.GatedPixelCNN(SHAPE, 2, width=96, num_layers=12, kernel_size=5),
        "81.50 (pytorch-generative, 11 layers of 128 channels, 457 epochs)",
        num_epochs=80,
        learning_rate=2e-3,
        warmup_steps=500,
    ),
    "dynamic/transformer": Row(  # for a GPU
        "dynamic",
        jg.CausalTransformer(
            NUM_DIMS,
            2,
            width=256,
            num_layers=8,
            num_heads=8,
            image_shape=SHAPE,
            dropout_rate=0.1,
            dtype=jnp.bfloat16,
        ),
        "79.17, ImageGPT (pytorch-generative)",
        num_epochs=100,
        learning_rate=1e-3,
        weight_decay=0.1,
        warmup_steps=1000,
        evaluation_batch_size=100,
    ),
    **{
        f"{data}/gated_pixelcnn": Row(
            data,
            jg.GatedPixelCNN(
                SHAPE,
                256,
                width=16,
                num_layers=7,
                kernel_size=5,
                conditional=jg.models.LogisticMixture(256, 10),
            ),
            reference,
            num_epochs=6,
            batch_size=25,
            learning_rate=5e-3,
            warmup_steps=200,
            evaluation_batch_size=100,
        )
        for data, reference in GRAY.items()
    },
    "cifar10/gated_pixelcnn": Row(
        "cifar10",
        jg.GatedPixelCNN(
            (32, 32, 3),
            256,
            width=24,
            num_layers=7,
            kernel_size=5,
            conditional=jg.models.LogisticMixture(256, 5),
        ),
        "2.92, PixelCNN++ on 50,000 images (Salimans et al. 2017)",
        num_epochs=16,
        batch_size=20,
        learning_rate=4e-3,
        warmup_steps=300,
        evaluation_batch_size=50,
    ),
    "dynamic/made_smoke": Row("dynamic", jg.MADE(NUM_DIMS, 2, (8, 8)), num_orders=2),
    "cifar10/smoke": Row(
        "cifar10",
        jg.GatedPixelCNN((4, 4, 3), 256, 4, 1, conditional=jg.models.LogisticMixture(256, 2)),
        batch_size=8,
    ),
}
