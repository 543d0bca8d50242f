"""The commands that measure time and memory."""

from collections.abc import Sequence
from pathlib import Path

import jax

from benchmarks.shared.command import OUTPUT, Command, console, names
from benchmarks.shared.records import code, without_origin, write
from benchmarks.shared.tables import on_screen, rounded
from benchmarks.speed import beside_torch, gradients_in_parts, page, pooling, sections


def run_costs(output: Path) -> None:
    """What a full-batch gradient in parts costs, and fractional max-pooling."""
    output.mkdir(parents=True, exist_ok=True)
    measured = {
        "full_batch": (
            "A gradient in parts, beside one call",
            gradients_in_parts.measure(),
        ),
        "fractional_pool": (
            "Fractional max-pooling, beside Flax's max_pool",
            pooling.speed(),
        ),
    }
    for name, (title, frame) in measured.items():
        about = {"device": jax.devices()[0].device_kind, "code": code()}
        write(output / f"{name}.csv.gz", frame.assign(**about), digits=3)
        console.print(on_screen(rounded(frame), title))


def run_speed(output: Path, chosen: Sequence[str]) -> None:
    """Time and memory of every optimizer, beside the least that they could be."""
    for section in chosen:
        if section == "torch" and not beside_torch.is_there():
            console.print("Left out: torch, which is not installed")
            continue
        frame = without_origin(sections.measure(output, section))
        console.print(on_screen(rounded(frame), section))
    page.write(output)


COMMANDS = (
    Command(
        "costs",
        "Memory, time and error of a full-batch gradient in parts, and the time of "
        "fractional max-pooling. Let nothing else run meanwhile.",
        lambda options: run_costs(options.output),
        (OUTPUT,),
    ),
    Command(
        "speed",
        "Time and memory of a step of each optimizer against the least that they could "
        "be, compile time, many seeds at once, growth, and PyTorch where it is "
        "installed. Half an hour on two cores; let nothing else run meanwhile. What is "
        "measured again takes the place of what was there.",
        lambda options: run_speed(options.output, options.sections),
        (OUTPUT, names("--sections", sections.SECTIONS)),
    ),
)
