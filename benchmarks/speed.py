"""Speed and memory: what is measured, and where it is kept."""

import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import pandas as pd

from benchmarks import (
    speed_allocator,
    speed_blend,
    speed_cold,
    speed_grid,
    speed_growth,
    speed_leaves,
    speed_steps,
    speed_torch,
)
from benchmarks.files import replacing

FOLDER = "speed"

SECTIONS: Mapping[str, Callable[[], pd.DataFrame]] = {
    "cold": speed_cold.cold,
    "leaves": speed_leaves.leaves,
    "steps": speed_steps.steps,
    "updates": speed_steps.updates,
    "allocator": speed_allocator.allocator,
    "grid": speed_grid.grid,
    "parts": speed_blend.parts,
    "at-once": speed_growth.at_once,
    "parameters": speed_growth.parameters,
    "samples": speed_growth.samples,
    "devices": speed_growth.devices,
    "torch": speed_torch.beside_torch,
}
"""What measures each, in the order of the page."""


def measure(output: Path, section: str) -> pd.DataFrame:
    """Measures a section and keeps its table, with the machine's name, as CSV."""
    frame = SECTIONS[section]().assign(machine=machine())
    with replacing(path(output, section)) as file:
        frame.to_csv(file, index=False, float_format="%.4g")
    return frame


def path(output: Path, section: str) -> Path:
    """Where the table of a section is."""
    return output / FOLDER / f"{section}.csv"


def machine() -> str:
    """What the figures were measured on, and by which JAX."""
    device = jax.devices()[0]
    kind = device.device_kind
    if device.platform == "cpu":
        kind = f"{os.cpu_count()} cores of a {platform.machine()} CPU"
    return f"{kind}, JAX {jax.__version__}"
