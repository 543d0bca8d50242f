"""The results page's sections on images, batch sizes and costs."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from benchmarks.paper.images import batch_sizes, runs
from benchmarks.paper.tables import at, label
from benchmarks.shared.records import read, without_origin
from benchmarks.shared.tables import in_markdown, rounded, spread


def image_sections(output: Path) -> Iterator[str]:
    """What the records in `output` have on images; nothing where there are none."""
    if (path := output / "images.csv.gz").exists():
        yield from _nets(read(path))
    if (path := output / "batch_sizes.csv.gz").exists():
        yield from _batch_sizes(read(path))
    if (path := output / "full_batch.csv.gz").exists():
        yield from _full_batch(read(path))
    if (path := output / "fractional_pool.csv.gz").exists():
        yield from _fractional_pool(read(path))


def glance(records: pd.DataFrame) -> str:
    """The table of docs/claims.md: the paper's nets at DSA's gradient evaluations."""
    columns = {
        f"{model}, {str(dataset).upper()}": _accuracies(here, model, str(dataset))
        for (model, dataset), here in records.groupby(["model", "dataset"], sort=False)
        if model in runs.SCHEDULES
    }
    table = pd.DataFrame(columns).rename_axis("test accuracy")
    return in_markdown(table.reset_index())


def _accuracies(records: pd.DataFrame, model: str, dataset: str) -> dict[str, str]:
    """What the paper's method is compared with, on a net and a data set."""
    first = runs.SCHEDULES[model][dataset].first
    switched = at(records[records["optimizer"] == "dsa"], "epoch", first)
    axis = "gradient_evaluations"
    final = at(records, axis, runs.last_of_dsa(records, axis))
    accuracies = {
        str(name): spread(seeds["accuracy"], 2)
        for name, seeds in final.groupby("optimizer")
    }
    others = final[~final["optimizer"].isin(["dsa", "adamax", "adamax-cosine"])]
    means = others.groupby("optimizer")["accuracy"].mean()
    best = str(means.idxmax()) if len(means) else None
    return {
        "Adamax, at the switch": spread(switched["accuracy"], 2),
        "**DSA** from there": accuracies["dsa"],
        "Adamax all the way": accuracies["adamax"],
        "Adamax, cosine": accuracies.get("adamax-cosine", ""),
        "the best other": f"{accuracies[best]} ({label(best)})" if best else "",
        "the paper's DSA": f"{runs.published(model, dataset)['dsa'].accuracy:.2f}",
    }


def _nets(records: pd.DataFrame) -> Iterator[str]:
    yield "## Images (Tables 1, 2, 4 to 6, Fig. 8)"
    yield """\
By `python -m benchmarks images --seeds 3 --output benchmarks/results`, for the light
net (dnn) with `--datasets mnist cifar10`, for the fractional max-pooling net (fmp) with
`--model fmp` and `--datasets mnist cifar10 cifar100`, and with `--optimizers` for those
of a table. DSA is the paper's method: epochs of mini-batches with Adamax, then
full-batch updates with DSA, one an "epoch". The rivals take mini-batches all the way,
at constant rates as in the paper, but for Adamax with a cosine over all its epochs (not
the paper's). A gradient evaluation is a pass over the training set. Scores are per cent
on the test images. The fmp has Graham's width and the paper's length where its name has
no numbers (else the width of its first block, and batch size, T₁ and T₂). On a GPU a
product of matrices is in JAX's default precision there, TF32. SVHN (Tables 1, 2, 5) is
not here, for want of its files: `python -m benchmarks images --datasets svhn` downloads
and runs it."""
    for (dataset, model), here in records.groupby(["dataset", "model"], sort=False):
        for title, table in runs.tables(records, str(dataset), str(model)):
            yield f"### {title}"
            yield in_markdown(table)
        yield _devices(here)
    if (records["model"] == "dnn").any():
        yield "![Training loss of the light net](fig8_dnn_loss.png)"


def _devices(records: pd.DataFrame) -> str:
    """What the runs of a net on a data set were run on."""
    by_device = records.groupby("device", sort=False)["optimizer"].unique()
    if len(by_device) == 1:
        return f"Run on: {by_device.index[0]}."
    return " ".join(
        f"Run on {device}: {'; '.join(label(name) for name in optimizers)}."
        for device, optimizers in by_device.items()
    )


def _batch_sizes(records: pd.DataFrame) -> Iterator[str]:
    yield "## From which batch size on DSA makes sense"
    yield f"""\
The light net on {records["dataset"].iloc[0].upper()}, each optimizer at its default,
{records["gradient_evaluations"].max()} passes of gradient evaluations at every batch
size (seeds: {records["seed"].nunique()}): training loss (test accuracy)."""
    yield in_markdown(batch_sizes.table(records))
    yield "![Training loss by batch size](batch_sizes.png)"


def _full_batch(records: pd.DataFrame) -> Iterator[str]:
    yield "## What a full-batch gradient in parts costs"
    device = records["device"].iloc[0]
    yield f"""\
By `python -m benchmarks costs --output benchmarks/results` ({device}): a net of one
hidden layer, batches of 256 rows, the last of 200. `temp_bytes` is the memory that XLA
sets aside besides arguments and results, ratio the time beside one call's, error the
largest difference from the gradient in float64, relative to its leaf's largest."""
    yield in_markdown(rounded(without_origin(records)))


def _fractional_pool(records: pd.DataFrame) -> Iterator[str]:
    yield "## Fractional max-pooling beside Flax's max_pool"
    yield f"""\
By the same command ({records["device"].iloc[0]}): 64 float32 images of 28×28 with 32
channels; ratio is the time beside `flax.linen.max_pool`'s, to 14×14."""
    yield in_markdown(rounded(without_origin(records)))
