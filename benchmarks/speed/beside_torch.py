"""The tabular main job beside the same work in PyTorch's eager loop.

PyTorch is no dependency of anything here: where it isn't installed, this is left out.
"""

import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import pandas as pd

from benchmarks.shared.data import tables
from benchmarks.shared.data.dataset import Dataset
from benchmarks.shared.optimizers.defaults import OPTIMIZERS
from benchmarks.shared.problems.classification import classification
from benchmarks.shared.runner import train

NAMES = ("sgd", "momentum", "rmsprop", "adadelta", "adagrad", "adam", "adamw", "adamax")
"""The paper's rivals, which PyTorch has too."""


def is_there() -> bool:
    """Whether PyTorch is installed."""
    return find_spec("torch") is not None


def beside_torch(
    datasets: tuple[str, ...] = ("iris", "wine"), seeds: int = 10, epochs: int = 100
) -> pd.DataFrame:
    """Trains the paper's MLP with each rival, all seeds, in both.

    Returns:
      A row a data set: "dataset", "optimizers", "seeds", "epochs", "compile_seconds"
      and "train_seconds" (ours, of all optimizers), "torch_seconds", "speed_up" (to
      PyTorch's time from ours with compilation) and "train_speed_up" (without).
    """
    rows = []
    for name in datasets:
        dataset = tables.load(name)
        problem = classification(dataset)
        histories = [
            train(problem, OPTIMIZERS[o].make(), range(seeds), [epochs]) for o in NAMES
        ]
        compiling = sum(history.compile_seconds for history in histories)
        training = sum(history.seconds for history in histories)
        eager = sum(_torch_seconds(dataset, o, seeds, epochs) for o in NAMES)
        rows.append(
            {
                "dataset": name,
                "optimizers": len(NAMES),
                "seeds": seeds,
                "epochs": epochs,
                "compile_seconds": compiling,
                "train_seconds": training,
                "torch_seconds": eager,
                "speed_up": eager / (compiling + training),
                "train_speed_up": eager / training,
            }
        )
    return pd.DataFrame(rows)


def _torch_seconds(dataset: Dataset, optimizer: str, seeds: int, epochs: int) -> float:
    import torch
    from torch import nn

    make: Mapping[str, Callable[[Any], Any]] = {
        "sgd": lambda p: torch.optim.SGD(p, 0.01),
        "momentum": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9),
        "rmsprop": lambda p: torch.optim.RMSprop(p),
        "adadelta": lambda p: torch.optim.Adadelta(p),
        "adagrad": lambda p: torch.optim.Adagrad(p),
        "adam": lambda p: torch.optim.Adam(p),
        "adamw": lambda p: torch.optim.AdamW(p),
        "adamax": lambda p: torch.optim.Adamax(p),
    }
    x = torch.from_numpy(dataset.x_train)
    y = torch.from_numpy(dataset.y_train).long()

    def one(seed: int, epochs: int) -> None:
        torch.manual_seed(seed)
        model = nn.Sequential(
            *(nn.Linear(x.shape[1], 32), nn.Sigmoid()),
            *(nn.Linear(32, 64), nn.PReLU()),
            *(nn.Linear(64, 256), nn.Sigmoid()),
            *(nn.Linear(256, 128), nn.PReLU()),
            nn.Linear(128, dataset.n_classes),
        )
        tx = make[optimizer](model.parameters())
        for _ in range(epochs):
            tx.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            tx.step()

    one(0, 3)  # what PyTorch does only once isn't counted
    started = time.perf_counter()
    for seed in range(seeds):
        one(seed, epochs)
    return time.perf_counter() - started
