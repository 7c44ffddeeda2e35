"""Binary tables on which tractable density models are compared: from 16 bits a row to 1,359."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxgen.core._checks import check_one_of
from jaxgen.data import _files as files
from jaxgen.data._binarized_mnist import parse_amat
from jaxgen.data._content import KnownFile
from jaxgen.data._data_set import DataSet, Split

_MIRRORS = (
    "https://raw.githubusercontent.com/UCLA-StarAI/Density-Estimation-Datasets/"
    "37d53c1a8ba488d0a39e8c64bd3387577080b143/datasets",
    "https://raw.githubusercontent.com/arranger1044/DEBD/"
    "850908666388f1b1c766a304b37dae14613f1e51/datasets",
)


class BinaryFile(NamedTuple):
    """A split of a set.

    Attributes:
      num_rows: N.
      sha256: as in `KnownFile`.
      is_unordered: as in `KnownFile`.
    """

    num_rows: int
    sha256: str
    is_unordered: bool = False


class BinarySet(NamedTuple):
    """A set of bits: how many a row has, and its three files."""

    num_dims: int
    train: BinaryFile
    valid: BinaryFile
    test: BinaryFile


SETS = {
    "accidents": BinarySet(
        111,
        BinaryFile(12_758, "a76648cf00772c275b4277b21d858e235e3c6d3c5ef30beeb4958189b6bed21c"),
        BinaryFile(1_700, "fd3a80a0f411f157cf3772a057d26980bb166cb89b10cafb818a53f1ec30d46d"),
        BinaryFile(2_551, "df3f1b6c035bf3e306a7d7127320e479d2546ce14a5d6d3043e6be0925b8b414"),
    ),
    "adult": BinarySet(
        123,
        BinaryFile(5_000, "5590ab772dd51ed1b29bb972d2b416a58aee902b88be2f89b8c77f28f3e3db77"),
        BinaryFile(1_414, "dbd7472c04c648e988264b90b76dc086294958ef4b395ee916090b2b82146e59"),
        BinaryFile(
            26_147,
            "2fd59d0f49ba3b946b964d8939394a547f57558dd98bfc396f6b7a05a6149f3a",
            is_unordered=True,
        ),
    ),
    "baudio": BinarySet(
        100,
        BinaryFile(15_000, "b1ec73f4aa9d4ce48b465ded865cc3d22b3f68cf6258f9e15fbef8902138add1"),
        BinaryFile(2_000, "7164d8a4943f74953f0e982002d84693fdf483e17f69e7407dc939c5ce5622fe"),
        BinaryFile(3_000, "1474f3206f1f35e099803a0f40b0cd209bdc8d787825095ef6cb23fd87ed0d05"),
    ),
    "bbc": BinarySet(
        1058,
        BinaryFile(1_670, "a6f0ba467ebf502ba3b37caa1f20e43ff82664dcd580be92010106cf80fb0db1"),
        BinaryFile(225, "f6a37bd58cdb6745725628be19dfd3b9b795082faa8ca771b8f27dbf4a5ff46d"),
        BinaryFile(330, "7116fce92a1f3d610cee673a974c8c9895957ee07ce6f086b431ee296aa7734a"),
    ),
    "bnetflix": BinarySet(
        100,
        BinaryFile(15_000, "73c87cf0635ec734cc0726a5c644b904ff33e81ea51f1049db0e77b787ebad7c"),
        BinaryFile(2_000, "7f0a3e597c6f305f707f9ecd2b2aa523c576cdb17fdc5d902fc832ebea5163de"),
        BinaryFile(3_000, "af73990782fd2f146d96059855c4f3bbb6a7a7caefc417ff620a3ed1415a2395"),
    ),
    "dna": BinarySet(
        180,
        BinaryFile(1_600, "bb8de0ca4b6ad9b610036b7a302962ebecd4b504354b14c02c7d0bee48d207d9"),
        BinaryFile(400, "4b0fc89cda5eaf5c75926e281afb6af99de194a546070d5b81b524ba251f4f3f"),
        BinaryFile(1_186, "fec3ae7b26804020a9c43c99828441c5e08bb76b23719368a74ad2b09af99100"),
    ),
    "jester": BinarySet(
        100,
        BinaryFile(9_000, "dd93578c3359d5b234bb278bf0901c5215d83b910f7d51d7c91951a0a4c244cd"),
        BinaryFile(1_000, "91df833941e189265345898d3f63211560c2456df599f34beee8e95381ee7524"),
        BinaryFile(4_116, "346044fb561cf18f284f7e9d5896178b03048991b6ebb6f7482885fccbc16082"),
    ),
    "moviereview": BinarySet(
        1001,
        BinaryFile(1_600, "195729f0d72e9707abb7a901b57193bd1b1c9108bb261202170eec6c7e5e2ed1"),
        BinaryFile(150, "d887c7726485ca46026c3c9ab511174679cd1c96443c5410ab24fb81c8be38e3"),
        BinaryFile(250, "9fea48ab7422d4a1c0b5d063311e6fd3104e59c11018276f7a9e909685a856d2"),
    ),
    "mushrooms": BinarySet(
        112,
        BinaryFile(2_000, "465c712c066bbbee3ccceded24bbe42b4c379df67b524e28cce9bf3a8b83f27b"),
        BinaryFile(500, "5a067e6854df71623415e6adc8e913cbff766637a324788882ba800907aa5385"),
        BinaryFile(5_624, "313c5f04b5d0a18bee2f2ffa264be265d09f5362aad6f714637acd9552f81aa0"),
    ),
    "nips": BinarySet(
        500,
        BinaryFile(400, "4d744cb1f2c725405bff6ef6878df06eafbbc2a91f0510e0f3d8a508b05ec7bb"),
        BinaryFile(100, "b06acd8e6a701d63d4e58b5076c11c59bcd0343fb9b1fbb5997459d3e6b8ca96"),
        BinaryFile(1_240, "48711bdaffbd43aa439679785e19d9cc80c64a157fa84eadc5dce60ee4edf7bc"),
    ),
    "nltcs": BinarySet(
        16,
        BinaryFile(16_181, "e547a7aedad1dd2f7177030881ab1b92c7e24ae5464c71a0f1f89daecaf52b30"),
        BinaryFile(2_157, "93bbbf5c6febdc9bc6e5b5bfab636f4dc0685ab2896d24b23dd267794c3bfcf6"),
        BinaryFile(3_236, "f9ffa6b74b27dc03bee3203d157ee31079e80b13be40d0c0093d635c25aed523"),
    ),
    "ocr_letters": BinarySet(
        128,
        BinaryFile(
            32_152,
            "882eb4f95b5c2a140520d68111613f6faaba9495154b81eb8015b7ee4810a0e5",
            is_unordered=True,
        ),
        BinaryFile(10_000, "b28ca9c39bb94fc3b0aeb3197304547bb066daaad0a1cce3da9749d068b74133"),
        BinaryFile(10_000, "63c77682a932c5e5e04a429aba8dc7db5f942a87d549a8228fa144ec5ae998fb"),
    ),
    "plants": BinarySet(
        69,
        BinaryFile(17_412, "1fb1219ff94068d12a563f9e81f8889a1885f41e867884cff608669300c6848f"),
        BinaryFile(2_321, "47834ed318b2d74f48e4b083226ef47fd446d41986012ceae19d230574821b34"),
        BinaryFile(3_482, "95f53c033cd1d86467aec2610dc5bfe014534206c2da4919f73bcab246ab8755"),
    ),
    "pumsb_star": BinarySet(
        163,
        BinaryFile(12_262, "27e610b5f9f507f94ebf8a227f8b96cc59d7eed51e06ee5d2fe8353afbc1524c"),
        BinaryFile(1_635, "6a491d1ea64eb0249dddd168fdddeef88aa21001a933eb7309603b6466187af8"),
        BinaryFile(2_452, "b2da195314ac17f9d8d171743c5f98a28ea9583332a52d34aa228ff2e11aa8e7"),
    ),
    "voting": BinarySet(
        1359,
        BinaryFile(1_214, "113c35bd468a0bb97772623634c1b729b76ba90674e62b68c38fe8d5ac08b341"),
        BinaryFile(200, "391bad94351ac4565e2f6628c917607b6e82b82ebdc52d64dd8bfbebcdae12b7"),
        BinaryFile(350, "c77c851edfc1fd5c275e961de3530ae406fc5c3446fa305959720273a5bbe9c8"),
    ),
}
"""The sets by name. Two files are held to their rows in any order: copies differ in it."""


def binary(name: str) -> DataSet:
    """Load one of the binary sets that density models are compared on.

    Most come from Lowd & Davis (2010) and Van Haaren & Davis (2012), where circuits are compared;
    `bbc`, `moviereview` and `voting` from Bekker et al. (2015); `adult`, `dna`, `mushrooms`, `nips`
    and `ocr_letters` from Larochelle & Murray (2011), where NADE is. The splits are the published
    ones. Rows of `ocr_letters` are images, of 16×8 pixels.

    Args:
      name: accidents, adult, baudio, bbc, bnetflix, dna, jester, moviereview, mushrooms, nips,
        nltcs, ocr_letters, plants, pumsb_star or voting.

    Returns:
      A `DataSet` with `x` uint8 `[N, D]` of zeros and ones, without labels.

    Raises:
      ValueError: another name.
      DataNotFoundError: files are neither here nor to be had; it says how to place them.
      DataFormatError: a file is not what it should be.
    """
    check_one_of("name", name, tuple(SETS))
    known = known_files(name)
    train, valid, test = (
        Split(_load(file, path, split, SETS[name].num_dims), None)
        for file, path, split in zip(known, files.find(known), SETS[name][1:], strict=True)
    )
    shape = (16, 8) if name == "ocr_letters" else (SETS[name].num_dims,)
    return DataSet(name, train, valid, test, num_symbols=2, example_shape=shape)


def known_files(name: str) -> tuple[KnownFile, ...]:
    """Return the files of a set: training, validation and test."""
    num_dims, *splits = SETS[name]
    return tuple(
        KnownFile(
            f"debd/{name}",
            f"{name}.{split}.data",
            file.sha256,
            file.num_rows * 2 * num_dims,
            tuple(f"{mirror}/{name}/{name}.{split}.data" for mirror in _MIRRORS),
            is_unordered=file.is_unordered,
        )
        for split, file in zip(("train", "valid", "test"), splits, strict=True)
    )


def _load(file: KnownFile, path: Path, split: BinaryFile, num_dims: int) -> np.ndarray:
    parse = functools.partial(
        parse_amat, num_lines=split.num_rows, num_dims=num_dims, separator=b","
    )
    x = files.load(file, path, parse)
    # Sorted, so that what is trained on them does not depend on the copy.
    return x[np.lexsort(x.T[::-1])] if file.is_unordered else x
