"""The rows of `experiments.autoregressive_mnist`: model, data and how it is trained."""

import dataclasses
from typing import Literal

import optax
from flax import linen as nn

from jaxgen.models.autoregressive.made import MADE

NUM_DIMS = 784


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    data: Literal["static", "dynamic"]
    """Which binarization."""
    module: nn.Module
    """The model, or each member of an ensemble."""
    reference: str = ""
    """The published number and where it stands."""
    num_orders: int = 1
    """Members of an ensemble, each over an order of its own; 1 is one model, in raster order."""
    num_epochs: int = 100
    """Epochs of training."""
    batch_size: int = 100
    """Images in a step."""
    learning_rate: float = 1e-3
    """The highest rate of Adam; it falls to nothing along a cosine."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    average_decay: float = 0.999
    """Of the moving average of the parameters, which is what is judged and kept."""
    warmup_steps: int = 0
    """Steps over which the rate rises."""
    evaluation_batch_size: int = 500
    """Images evaluated at once."""

    def optimizer(self, num_steps: int) -> optax.GradientTransformation:
        """AdamW with clipped gradients under the row's schedule."""
        rate = optax.warmup_cosine_decay_schedule(
            self.learning_rate if self.warmup_steps == 0 else 0.0,
            self.learning_rate,
            self.warmup_steps,
            num_steps,
        )
        return optax.chain(
            optax.clip_by_global_norm(10.0), optax.adamw(rate, weight_decay=self.weight_decay)
        )


ROWS = {
    "static/made": Row(
        "static",
        MADE(NUM_DIMS, 2, (1500,), dropout_rate=0.3),
        "88.40, MADE with one mask (Germain et al. 2015)",
    ),
    "static/made_ensemble": Row(
        "static",
        MADE(NUM_DIMS, 2, (500, 500), dropout_rate=0.2),
        "86.64, MADE with two layers and 32 masks (Germain et al. 2015)",
        num_orders=8,
    ),
    "dynamic/made": Row(
        "dynamic",
        MADE(NUM_DIMS, 2, (1500,)),
        "84.87 (pytorch-generative)",
    ),
    "dynamic/made_smoke": Row("dynamic", MADE(NUM_DIMS, 2, (8, 8)), num_orders=2),
}
