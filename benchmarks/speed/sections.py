"""Speed and memory: what is measured, and where it is kept."""

import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import pandas as pd

from benchmarks.shared.records import code, write
from benchmarks.speed import (
    allocator,
    beside_torch,
    cold,
    grid,
    growth,
    inside,
    leaves,
    parts,
    steps,
)

FOLDER = "speed"

SECTIONS: Mapping[str, Callable[[], pd.DataFrame]] = {
    "cold": cold.cold,
    "leaves": leaves.leaves,
    "inside": inside.inside,
    "steps": steps.steps,
    "updates": steps.updates,
    "allocator": allocator.allocator,
    "grid": grid.grid,
    "parts": parts.parts,
    "at-once": growth.at_once,
    "parameters": growth.parameters,
    "samples": growth.samples,
    "devices": growth.devices,
    "torch": beside_torch.beside_torch,
}
"""What measures each, in the order of the page."""


def measure(output: Path, section: str) -> pd.DataFrame:
    """Measures a section and keeps its table, with the machine's name, as CSV."""
    frame = SECTIONS[section]().assign(machine=machine(), code=code())
    write(path(output, section), frame, digits=4)
    return frame


def path(output: Path, section: str) -> Path:
    """Where the table of a section is."""
    return output / FOLDER / f"{section}.csv.gz"


def machine() -> str:
    """What the figures were measured on, and by which JAX."""
    device = jax.devices()[0]
    kind = device.device_kind
    if device.platform == "cpu":
        kind = f"{os.cpu_count()} cores of a {platform.machine()} CPU"
    return f"{kind}, JAX {jax.__version__}"
