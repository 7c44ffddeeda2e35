"""Fashion-MNIST: 70,000 pictures of clothes of 28×28 pixels in 256 gray levels."""

from jaxgen.data import _mnist
from jaxgen.data._data_set import DataSet

_MIRRORS = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
)


FILES = _mnist.known_files(
    "fashion_mnist",
    _MIRRORS,
    (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
)


def fashion_mnist(num_valid: int = 10_000) -> DataSet:
    """Load Fashion-MNIST (Xiao, Rasul & Vollgraf 2017), from this machine or over the network.

    Args:
      num_valid: how many of the last of the 60,000 training images are for validation; 0 trains on
        all of them and leaves the validation split empty.

    Returns:
      `DataSet` of gray levels, uint8 `[N, 784]`, with labels int32 `[N]` in [0, 10).

    Raises:
      DataNotFoundError: files are neither here nor to be had; it says how to place them.
      DataFormatError: a file is not what it should be.
    """
    return _mnist.load("fashion_mnist", FILES, num_valid)
