"""The commands of the paper's convolution nets."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.paper.images import batch_sizes, runs
from benchmarks.shared.command import (
    DATA_DIR,
    OUTPUT,
    SOME_SEEDS,
    Command,
    UsageError,
    console,
    names,
    option,
    positive,
    progress_over,
)
from benchmarks.shared.data import images as data
from benchmarks.shared.optimizers.defaults import PAPER_OPTIMIZERS, WITH_SCHEDULED
from benchmarks.shared.records import Records
from benchmarks.shared.tables import on_screen


def run_images(
    output: Path,
    model: str,
    datasets: Sequence[str],
    optimizers: Sequence[str],
    seeds: int,
    data_dir: str | None,
    schedule: runs.Schedule | None,
    width: int | None,
) -> None:
    """Tables 1, 2 and 4 to 6: the convolution nets on images."""
    records = Records(output / "images.csv.gz")
    loaded = [data.load(name, data_dir) for name in datasets]
    for dataset in loaded:
        done = runs.run(
            records,
            dataset,
            model,
            optimizers,
            seeds=seeds,
            schedule=schedule,
            width=width,
        )
        title = f"{model.upper()} on {dataset.name.upper()}"
        counts = len(dataset.y_train), len(dataset.y_test)
        console.print(f"{dataset.name.upper()}: {data.size(dataset.name, *counts)}")
        progress_over(title, done, len(optimizers) * seeds)
        name = runs.run_name(model, dataset.name, schedule, width)
        for title, table in runs.tables(records.frame, dataset.name, name):
            console.print(on_screen(table, title))
    runs.loss_figure(records.frame, output / "fig8_dnn_loss.png")


def run_batch_sizes(output: Path, seeds: int, data_dir: str | None) -> None:
    """DSA, Rprop and Adamax on MNIST, from mini-batches of 64 to the full batch."""
    records = Records(output / "batch_sizes.csv.gz")
    dataset = data.load("mnist", data_dir)
    done = batch_sizes.run(records, dataset, seeds=seeds)
    total = seeds * len(batch_sizes.SIZES) * len(batch_sizes.NAMES)
    progress_over("Batch sizes on MNIST", done, total)
    title = (
        f"{batch_sizes.PASSES} passes of gradient evaluations: training loss (test "
        f"accuracy on {len(dataset.y_test)} images)"
    )
    console.print(on_screen(batch_sizes.table(records.frame), title))
    batch_sizes.figure(records.frame, output / "batch_sizes.png")


def _images(options: argparse.Namespace) -> None:
    if options.width and options.model != "fmp":
        raise UsageError("--width is an option of --model fmp alone")
    run_images(
        options.output,
        options.model,
        options.datasets,
        options.optimizers,
        options.seeds,
        options.data_dir,
        options.schedule and runs.Schedule(*options.schedule),
        options.width,
    )


COMMANDS = (
    Command(
        "images",
        "Convolution nets on images, by mini-batches and then DSA on the full batch "
        "(Tables 1, 2, 4 to 6, Fig. 8). Hours on two cores; a killed run goes on where "
        "it was.",
        _images,
        (
            names(
                "--optimizers",
                WITH_SCHEDULED,
                PAPER_OPTIMIZERS,
                text="which optimizers to run, of",
                described="the paper's nine",
            ),
            SOME_SEEDS,
            DATA_DIR,
            OUTPUT,
            names("--datasets", data.DATASETS, ["mnist"]),
            option(
                "--model",
                choices=list(runs.MODELS),
                default="dnn",
                help="the light net or the fractional max-pooling net (default: dnn)",
            ),
            option(
                "--width",
                type=positive,
                metavar="N",
                help="channels of the first block of fmp (default: 32, as Graham's)",
            ),
            option(
                "--schedule",
                nargs=3,
                type=positive,
                metavar=("BATCH", "T1", "T2"),
                help="batch size, epochs of mini-batches, full-batch updates by DSA "
                "(default: the paper's, 64 15 15 for dnn on mnist)",
            ),
        ),
    ),
    Command(
        "batch-sizes",
        "From which batch size on DSA makes sense: with Rprop and Adamax on MNIST, at "
        "64, 1,024, 8,192 and the full batch. About an hour a seed on two cores.",
        lambda options: run_batch_sizes(
            options.output, options.seeds, options.data_dir
        ),
        (SOME_SEEDS, DATA_DIR, OUTPUT),
    ),
)
