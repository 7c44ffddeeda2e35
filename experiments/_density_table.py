"""The rows of `experiments.density_estimation`, and what was published before them."""

import jaxgen as jg
from experiments._density_rows import BinaryRow, Recipe

ROWS = {
    "binary/smoke": BinaryRow(
        "nltcs",
        (
            Recipe(jg.MADE(6, 2, (8,), dropout_rate=0.5), num_epochs=2, batch_size=20),
            Recipe(jg.NADE(6, 2, 4), num_epochs=2, batch_size=20),
        ),
        orders=(0, 1),
    ),
}
