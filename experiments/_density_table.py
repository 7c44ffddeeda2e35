"""The rows of `experiments.density_estimation`, and what was published before them.

References: HCLT is Liu & Van den Broeck (2021), by the authors' logs; ID-SPN is Rooshenas & Lowd
(2014); SelSPN is as quoted by Dang et al. (2020); MADE is Germain et al. (2015); RWS and BiHM are
Bornschein et al. (2016).
"""

import jaxgen as jg
from experiments._density_real import RealRow
from experiments._density_rows import AnyOrder, BinaryRow, Recipe


def made(
    num_dims: int, hidden_size: int, dropout_rate: float, num_epochs: int, **training: float
) -> Recipe:
    """MADE with direct connections."""
    model = jg.MADE(
        num_dims, 2, (hidden_size,), dropout_rate=dropout_rate, has_direct_connections=True
    )
    return Recipe(model, num_epochs, **training)  # type: ignore[arg-type]


def nade(
    num_dims: int, hidden_size: int, dropout_rate: float, num_epochs: int, **training: float
) -> Recipe:
    """NADE."""
    model = jg.NADE(num_dims, 2, hidden_size, dropout_rate=dropout_rate)
    return Recipe(model, num_epochs, **training)  # type: ignore[arg-type]


def flow(
    num_dims: int,
    num_steps: int,
    hidden_sizes: tuple[int, ...],
    num_bins: int | None,
    dropout_rate: float,
    num_epochs: int,
    **training: float,
) -> Recipe:
    """Masked autoregressive flow, of splines, or affine where there are no bins."""
    steps = jg.models.MaskedAutoregressive(
        num_steps, hidden_sizes, num_bins, dropout_rate=dropout_rate
    )
    model = jg.models.NormalizingFlow(num_dims, steps)
    return Recipe(model, num_epochs, **training)  # type: ignore[arg-type]


def flow_over_mixtures(
    num_dims: int,
    num_steps: int,
    hidden_sizes: tuple[int, ...],
    num_components: int,
    num_epochs: int,
    **training: float,
) -> Recipe:
    """Affine flow whose base is a MADE with mixtures of normals (MAF MoG)."""
    conditional = jg.models.Mixture(num_components=num_components)
    base = jg.MADE(
        num_dims, None, hidden_sizes, has_direct_connections=True, conditional=conditional
    )
    steps = jg.models.MaskedAutoregressive(num_steps, hidden_sizes, None)
    model = jg.models.NormalizingFlow(num_dims, steps, base=base)
    return Recipe(model, num_epochs, **training)  # type: ignore[arg-type]


def made_of_mixtures(
    num_dims: int,
    smallest_log_scale: float,
    dropout_rate: float,
    num_epochs: int,
    **training: float,
) -> Recipe:
    """MADE whose conditionals are mixtures of twenty normals, as those of RNADE are.

    The smallest scale, in standard deviations, is not below the step to which most columns are
    rounded: so hardly a component stands on one rounded value.
    """
    model = jg.MADE(
        num_dims,
        None,
        (128, 128),
        dropout_rate=dropout_rate,
        has_direct_connections=True,
        conditional=jg.models.Mixture(num_components=20, smallest_log_scale=smallest_log_scale),
    )
    return Recipe(model, num_epochs, **training)  # type: ignore[arg-type]


ROWS: dict[str, BinaryRow | RealRow] = {
    "binary/nltcs/committees": BinaryRow(
        "nltcs",
        (made(16, 500, 0.5, 25, num_copies=2), nade(16, 100, 0.2, 25, num_copies=2)),
        "-6.00 (HCLT; LearnPSDD-BEM -5.99)",
        orders=(0, 1, 2),
    ),
    "binary/plants/committees": BinaryRow(
        "plants", (made(69, 500, 0.2, 40, num_copies=2),), "-12.54 (ID-SPN)", orders=(0, 1, 2)
    ),
    "binary/baudio/committees": BinaryRow(
        "baudio", (made(100, 500, 0.5, 16, num_copies=2),), "-39.77 (HCLT)", orders=(0, 1, 2)
    ),
    "binary/jester/committees": BinaryRow(
        "jester",
        (made(100, 500, 0.5, 20, num_copies=2),),
        "-52.46 (HCLT; LearnPSDD-BEM -51.29)",
        orders=(0, 1, 2),
    ),
    "binary/bnetflix/committees": BinaryRow(
        "bnetflix",
        (made(100, 500, 0.5, 16, num_copies=2),),
        "-56.28 (HCLT; LearnPSDD-BEM -55.71)",
        orders=(0, 1, 2),
    ),
    "binary/accidents/committees": BinaryRow(
        "accidents", (made(111, 500, 0.3, 60, num_copies=2),), "-26.74 (HCLT)", orders=(0, 1)
    ),
    "binary/pumsb_star/committees": BinaryRow(
        "pumsb_star", (made(163, 500, 0.3, 50, num_copies=2),), "-22.66 (SelSPN)", orders=(0, 1)
    ),
    "binary/dna/any_order": BinaryRow(
        "dna",
        (
            Recipe(
                AnyOrder(jg.MADE(180, 2, (1000,), dropout_rate=0.5, has_direct_connections=True)),
                num_epochs=800,
                learning_rate=4e-3,
                weight_decay=0.03,
                num_copies=2,
            ),
        ),
        "-79.06 (HCLT)",
        orders=tuple(range(32)),
    ),
    "binary/bbc/committees": BinaryRow(
        "bbc",
        (made(1058, 500, 0.5, 12, batch_size=50, learning_rate=3e-3, num_copies=2),),
        "-251.05 (HCLT)",
        orders=(0, 1, 2),
    ),
    "binary/adult/committees": BinaryRow(
        "adult",
        (nade(123, 200, 0.3, 30, batch_size=50, learning_rate=4e-3, num_copies=2),),
        "-13.12 (MADE)",
        orders=(0, 1),
    ),
    "binary/mushrooms/committees": BinaryRow(
        "mushrooms",
        (
            nade(
                112,
                1000,
                dropout_rate=0.85,
                num_epochs=60,
                batch_size=50,
                learning_rate=0.02,
                weight_decay=0.01,
                num_copies=2,
            ),
        ),
        "-9.40 (BiHM)",
        orders=(-1, 0),
    ),
    "binary/nips/committees": BinaryRow(
        "nips",
        (made(500, 2000, 0.8, 14, batch_size=20, learning_rate=3e-3, weight_decay=1.0),),
        "-271.11 (RWS-NADE)",
        orders=tuple(range(12)),
    ),
    "binary/ocr_letters/committees": BinaryRow(
        "ocr_letters",
        (
            nade(
                128,
                1000,
                dropout_rate=0.5,
                num_epochs=14,
                learning_rate=0.016,
                weight_decay=0.01,
                num_copies=2,
            ),
        ),
        "-26.43 (RWS-NADE)",
        orders=(0, -1),
    ),
    "uci/red_wine/normal": RealRow("red_wine", reference="-13.18 (Uria et al. 2014)"),
    "uci/white_wine/normal": RealRow("white_wine", reference="-13.20 (Uria et al. 2014)"),
    "uci/parkinsons/normal": RealRow("parkinsons", reference="-10.85 (Uria et al. 2014)"),
    "bsds300/normal": RealRow("bsds300", reference="96.67 (Papamakarios et al. 2017)"),
    "uci/red_wine/spline_flows": RealRow(
        "red_wine",
        flow(11, 2, (64,), 8, 0.2, 45, batch_size=64, learning_rate=3e-3),
        "-8.76 (16 RNADEs of 3 layers, Uria et al. 2014)",
        num_members=6,
    ),
    "uci/white_wine/spline_flows": RealRow(
        "white_wine",
        flow(11, 2, (64,), 8, 0.1, 30, batch_size=100, learning_rate=3e-3),
        "-9.67 (16 RNADEs of 3 layers, Uria et al. 2014)",
        num_members=2,
    ),
    "uci/red_wine/mixtures": RealRow(
        "red_wine",
        made_of_mixtures(11, -3.0, 0.3, 25, batch_size=50, learning_rate=0.01, weight_decay=0.03),
        "-8.76 (16 RNADEs of 3 layers, Uria et al. 2014)",
        num_members=9,
    ),
    "uci/white_wine/mixtures": RealRow(
        "white_wine",
        made_of_mixtures(11, -3.0, 0.2, 40, learning_rate=0.01, weight_decay=0.03),
        "-9.67 (16 RNADEs of 3 layers, Uria et al. 2014)",
        num_members=8,
    ),
    "uci/parkinsons/mixtures": RealRow(
        "parkinsons",
        made_of_mixtures(15, -4.5, 0.1, 40, learning_rate=0.01, weight_decay=0.03),
        "-0.90 (RNADE), -1.13 (16 RNADEs of 3 layers, Uria et al. 2014)",
        num_members=2,
    ),
    "bsds300/affine_flow": RealRow(
        "bsds300",
        flow(63, 5, (256, 256), None, 0.0, 4, batch_size=500, weight_decay=0.0, is_whitened=True),
        "155.69 (MAF of 5 layers, Papamakarios et al. 2017); 159.80 (TAN)",
        num_train=500_000,
    ),
    "bsds300/flow_over_mixtures": RealRow(
        "bsds300",
        flow_over_mixtures(
            63,
            4,
            (256, 256),
            8,
            9,
            batch_size=500,
            learning_rate=3e-3,
            weight_decay=0.0,
            average_decay=0.999,
            is_whitened=True,
        ),
        "156.36 (MAF MoG of 5 layers, Papamakarios et al. 2017); 157.0 (32 RNADEs); 159.80 (TAN)",
        num_train=4_000_000,
    ),
    "bsds300/eight_views": RealRow(
        "bsds300",
        reference="157.0 (32 RNADEs of 6 layers, Uria et al. 2014); 159.80 (TAN)",
        published="bsds300/flow_over_mixtures",
    ),
    "uci/smoke": RealRow(
        "red_wine",
        flow(3, 1, (4,), 2, 0.5, 2, batch_size=20),
    ),
    "binary/smoke": BinaryRow(
        "nltcs",
        (
            Recipe(jg.MADE(6, 2, (8,), dropout_rate=0.5), num_epochs=2, batch_size=20),
            Recipe(jg.NADE(6, 2, 4), num_epochs=2, batch_size=20),
        ),
        orders=(0, 1),
    ),
}
