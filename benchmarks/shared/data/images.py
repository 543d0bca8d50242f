"""The image data sets of the experiments: MNIST, its kin, SVHN, CIFAR-10, CIFAR-100.

Their files lie in the data folder as they are published, in a folder for each data set,
where pooch downloads those that are missing:

    mnist/, fashion-mnist/  the four .gz files
    svhn/                   train_32x32.mat, test_32x32.mat
    cifar-10-batches-bin/   from cifar-10-binary.tar.gz, which stays beside it
    cifar-100-binary/       from cifar-100-binary.tar.gz, which stays beside it

What is published as a file is checked by hash. What comes out of an archive is checked
by its format, so that it may hold a part of the images: whole records, valid labels.
"""

import gzip
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.io import loadmat

from benchmarks.shared.data.archives import Archive, fetch_members
from benchmarks.shared.data.dataset import Dataset
from benchmarks.shared.data.files import (
    DataDir,
    RemoteFile,
    check_name,
    fetch,
    remote_files,
)

_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_SVHN = "http://ufldl.stanford.edu/housenumbers"
_CIFAR = "https://www.cs.toronto.edu/~kriz"

# Images and labels of the training part, then of the test part.
_MNIST_FILES = """
train-images-idx3-ubyte.gz 9912422
    440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609
train-labels-idx1-ubyte.gz 28881
    3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c
t10k-images-idx3-ubyte.gz 1648877
    8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6
t10k-labels-idx1-ubyte.gz 4542
    f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6
"""
_FASHION_FILES = """
train-images-idx3-ubyte.gz 47040016
    c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888
train-labels-idx1-ubyte.gz 60008
    bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9
t10k-images-idx3-ubyte.gz 7840016
    5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b
t10k-labels-idx1-ubyte.gz 10008
    0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34
"""
_SVHN_FILES = """
train_32x32.mat 182040794
    435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8
test_32x32.mat 64275384
    cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b
"""
_CIFAR_ARCHIVES = """
cifar-10-binary.tar.gz 170052171
    c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd
cifar-100-binary.tar.gz 168513733
    58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec
"""

FILES: dict[str, tuple[RemoteFile, ...]] = {
    "mnist": remote_files(_MNIST_FILES, _MNIST, "mnist/"),
    # Debian has them too, in its package dataset-fashion-mnist, packed anew.
    "fashion-mnist": remote_files(_FASHION_FILES, _FASHION, "fashion-mnist/", True),
    "svhn": remote_files(_SVHN_FILES, _SVHN, "svhn/"),
}

_CIFAR_10, _CIFAR_100 = remote_files(_CIFAR_ARCHIVES, _CIFAR)

ARCHIVES: dict[str, Archive] = {
    "cifar10": Archive(
        _CIFAR_10,
        (
            *(f"cifar-10-batches-bin/data_batch_{batch}.bin" for batch in range(1, 6)),
            "cifar-10-batches-bin/test_batch.bin",
        ),
    ),
    "cifar100": Archive(
        _CIFAR_100, ("cifar-100-binary/train.bin", "cifar-100-binary/test.bin")
    ),
}

PUBLISHED = {"cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000)}
"""Training and test images in the archives, of which the folder may hold a part."""


def load(name: str, data_dir: DataDir = None) -> Dataset:
    """Load a data set, downloading the files that the data folder lacks.

    Args:
      name: one of the names in `DATASETS`.
      data_dir: an existing folder, in place of that of `shared.data.files`.

    Returns:
      The data set, with as many images as its files have.

    Raises:
      ValueError: if the name is unknown.
      DataError: if the folder doesn't exist, or if a file is damaged (it is then left
        as it is), or missing and not to be downloaded.
    """
    check_name(name, DATASETS)
    return DATASETS[name](data_dir)


def size(name: str, train: int, test: int) -> str:
    """How many images there are, and of how many, where they are a sample.

    Examples:
      >>> size("cifar10", 50_000, 10_000)
      '50,000 training and 10,000 test images'
      >>> size("cifar100", 10_000, 5_000)
      'a sample of 10,000 (of 50,000) training and 5,000 (of 10,000) test images'
    """
    published = PUBLISHED.get(name, (train, test))
    if (train, test) == published:
        return f"{train:,} training and {test:,} test images"
    of_train, of_test = (f"(of {count:,})" for count in published)
    return (
        f"a sample of {train:,} {of_train} training and {test:,} {of_test} test images"
    )


def to_inputs(images: jax.Array | np.ndarray) -> jax.Array:
    """What the nets see of uint8 images: float32 from 0 to 1.

    The paper names no normalisation; this is what PyTorch's `ToTensor` does. The bytes
    are converted on the device, so that it is bytes that travel there.
    """
    return jnp.asarray(images).astype(jnp.float32) / 255


def _mnist(name: str, data_dir: DataDir) -> Dataset:
    """MNIST, or Fashion-MNIST, which has its format."""
    arrays = map(_read_idx, fetch(FILES[name], data_dir))
    x_train, y_train, x_test, y_test = arrays
    return Dataset(
        name,
        x_train[..., None],
        y_train.astype(np.int32),
        x_test[..., None],
        y_test.astype(np.int32),
        n_classes=10,
    )


def _read_idx(path: Path) -> np.ndarray:
    """An idx file: the number of axes in the fourth byte, the shape, the bytes."""
    content = gzip.decompress(path.read_bytes())
    n_axes = content[3]
    shape = np.frombuffer(content, ">i4", count=n_axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_axes).reshape(shape)


def _svhn(data_dir: DataDir) -> Dataset:
    train, test = map(_read_svhn, fetch(FILES["svhn"], data_dir))
    return Dataset("svhn", *train, *test, n_classes=10)


def _read_svhn(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels; the file has the images along the last axis, and 10 for 0."""
    content = loadmat(path)
    x = np.ascontiguousarray(content["X"].transpose(3, 0, 1, 2))
    return x, content["y"].ravel().astype(np.int32) % 10


def _cifar(name: str, n_labels: tuple[int, ...], data_dir: DataDir) -> Dataset:
    """CIFAR-10 or CIFAR-100.

    Args:
      name: the data set.
      n_labels: how many values each label of an image has; the last label counts.
      data_dir: as in `load`.

    Returns:
      The data set.
    """
    archive = ARCHIVES[name]
    paths = fetch_members(archive, data_dir)
    *train, test = (_read_cifar(path, archive, n_labels) for path in paths)
    x_train, y_train = map(np.concatenate, zip(*train, strict=True))
    return Dataset(name, x_train, y_train, *test, n_classes=n_labels[-1])


def _read_cifar(
    path: Path, archive: Archive, n_labels: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels; a record is its labels, then a red, green and blue plane."""
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise archive.error(path, f"can't be read ({error})") from error
    size = len(n_labels) + 3 * 32 * 32
    if not content.size or content.size % size:
        found = f"{content.size} bytes are not a whole number of {size}-byte records"
        raise archive.error(path, f"is damaged: {found}")
    labels, planes = np.split(content.reshape(-1, size), [len(n_labels)], axis=1)
    if (labels >= n_labels).any():
        record, label = np.argwhere(labels >= n_labels)[0]
        found = f"record {record} has the label {labels[record, label]}"
        raise archive.error(path, f"is damaged: {found}, of {n_labels[label]} from 0")
    x = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(x), labels[:, -1].astype(np.int32)


DATASETS: dict[str, Callable[[DataDir], Dataset]] = {
    "mnist": partial(_mnist, "mnist"),
    "fashion-mnist": partial(_mnist, "fashion-mnist"),
    "svhn": _svhn,
    "cifar10": partial(_cifar, "cifar10", (10,)),
    "cifar100": partial(_cifar, "cifar100", (20, 100)),  # coarse, fine
}
