"""Speed and memory: what is measured, and where it is kept."""

import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import pandas as pd

from benchmarks import (
    race_page,
    speed_allocator,
    speed_blend,
    speed_growth,
    speed_steps,
    speed_torch,
)
from benchmarks.files import replacing

FOLDER = "speed"

SECTIONS: Mapping[str, Callable[[Path], pd.DataFrame]] = {
    "steps": lambda _: speed_steps.steps(),
    "updates": lambda _: speed_steps.updates(),
    "allocator": lambda _: speed_allocator.allocator(),
    "parts": lambda _: speed_blend.parts(),
    "variants": lambda output: speed_blend.variants(race_page.cache(output)),
    "at-once": lambda _: speed_growth.at_once(),
    "parameters": lambda _: speed_growth.parameters(),
    "samples": lambda _: speed_growth.samples(),
    "devices": lambda _: speed_growth.devices(),
    "leaves": lambda _: speed_growth.leaves(),
    "torch": lambda _: speed_torch.beside_torch(),
}
"""From the output folder to a table, in the order of the page."""


def measure(output: Path, section: str) -> pd.DataFrame:
    """Measures a section and keeps its table, with the machine's name, as CSV."""
    frame = SECTIONS[section](output).assign(machine=machine())
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
