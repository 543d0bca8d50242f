"""The data sets of the experiments, split into a training and a test part.

IRIS and WINE come with scikit-learn. The files of CAR and AGARICUS lie in the data
folder, where pooch downloads those that are missing.
"""

from collections.abc import Callable

import numpy as np
from sklearn.datasets import load_iris, load_wine
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from benchmarks.shared.data.dataset import Dataset
from benchmarks.shared.data.files import (
    DataDir,
    RemoteFile,
    check_name,
    fetch,
    remote_files,
)

_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases"

_CAR = """
car.data 51867
    b703a9ac69f11e64ce8c223c0a40de4d2e9d769f7fb20be5f8f2e8a619893d83
"""
_AGARICUS = """
agaricus-lepiota.data 373704
    e65d082030501a3ebcbcd7c9f7c71aa9d28fdfff463bf4cf4716a3fe13ac360e
"""

FILES: dict[str, tuple[RemoteFile, ...]] = {
    "iris": (),
    "wine": (),
    "car": remote_files(_CAR, f"{_UCI}/car"),
    "agaricus": remote_files(_AGARICUS, f"{_UCI}/mushroom"),
}


def load(name: str, data_dir: DataDir = None, standardize: bool = False) -> Dataset:
    """Load a data set, downloading the files that the data folder lacks.

    Args:
      name: one of the names in `DATASETS`.
      data_dir: an existing folder, in place of that of `shared.data.files`.
      standardize: whether to shift and scale each feature to mean 0 and variance 1
        over the training part; by default the features are raw.

    Returns:
      The data set.

    Raises:
      ValueError: if the name is unknown.
      DataError: if the folder doesn't exist, or if a file is damaged (it is then left
        as it is), or missing and not to be downloaded.
    """
    check_name(name, DATASETS)
    dataset = DATASETS[name](data_dir)
    return _standardize(dataset) if standardize else dataset


def _split(name: str, x: np.ndarray, y: np.ndarray) -> Dataset:
    x_train, x_test, y_train, y_test = train_test_split(
        x.astype(np.float32), y.astype(np.int32), test_size=0.2, random_state=0
    )
    return Dataset(name, x_train, y_train, x_test, y_test, n_classes=int(y.max()) + 1)


def _standardize(dataset: Dataset) -> Dataset:
    scaler = StandardScaler().fit(dataset.x_train)
    return dataset._replace(
        x_train=scaler.transform(dataset.x_train),
        x_test=scaler.transform(dataset.x_test),
    )


def _iris(data_dir: DataDir) -> Dataset:
    return _split("iris", *load_iris(return_X_y=True))


def _wine(data_dir: DataDir) -> Dataset:
    return _split("wine", *load_wine(return_X_y=True))


# Each column's values in their natural order: six attributes, then the class.
_CAR_VALUES = (
    ("low", "med", "high", "vhigh"),  # buying
    ("low", "med", "high", "vhigh"),  # maint
    ("2", "3", "4", "5more"),  # doors
    ("2", "4", "more"),  # persons
    ("small", "med", "big"),  # lug_boot
    ("low", "med", "high"),  # safety
    ("unacc", "acc", "good", "vgood"),
)


def _car(data_dir: DataDir) -> Dataset:
    """The attributes and the class are coded 0, 1, 2, ... in their natural order."""
    [path] = fetch(FILES["car"], data_dir)
    columns = np.loadtxt(path, dtype=str, delimiter=",", unpack=True)
    *x, y = (
        [values.index(value) for value in column]
        for values, column in zip(_CAR_VALUES, columns, strict=True)
    )
    return _split("car", np.transpose(x), np.array(y))


def _agaricus(data_dir: DataDir) -> Dataset:
    """The attributes are one-hot, all zero where the value is unknown ('?')."""
    [path] = fetch(FILES["agaricus"], data_dir)
    label, *columns = np.loadtxt(path, dtype=str, delimiter=",", unpack=True)
    x = [column[:, None] == np.setdiff1d(column, ["?"]) for column in columns]
    return _split("agaricus", np.hstack(x), label == "p")


DATASETS: dict[str, Callable[[DataDir], Dataset]] = {
    "iris": _iris,
    "wine": _wine,
    "car": _car,
    "agaricus": _agaricus,
}
