"""The commands of the paper's tables, case studies and page of claims."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.paper import (
    ablations,
    case_studies,
    figures,
    page,
    sensitivity,
    tabular,
    track_figures,
)
from benchmarks.paper.published import TABLE_7
from benchmarks.paper.tables import at, scores_table
from benchmarks.shared.command import (
    DATA_DIR,
    OUTPUT,
    Command,
    Option,
    console,
    count,
    names,
    progress_over,
)
from benchmarks.shared.data import tables as data
from benchmarks.shared.data.dataset import Dataset
from benchmarks.shared.optimizers.defaults import OPTIMIZERS, Optimizer
from benchmarks.shared.records import Records, read
from benchmarks.shared.tables import on_screen, readable

OFFLINE_DATASETS = ("iris", "wine")
PAPER_EPOCHS = 100  # Table 7
TABLE_EPOCHS = (PAPER_EPOCHS, 1000)  # and Fig. 4
SEEDS = 10


def run_tabular(
    output: Path,
    datasets: Sequence[str],
    optimizers: Sequence[str],
    seeds: int,
    epochs: int,
    data_dir: str | None,
) -> None:
    """Table 7, Figs. 3 and 4."""
    loaded = [data.load(name, data_dir) for name in datasets]
    records = Records(output / "tabular.csv.gz")
    chosen = {name: OPTIMIZERS[name] for name in optimizers}
    for dataset in loaded:
        wanted = tabular.recorded_epochs(epochs)
        runs = tabular.run(records, dataset, chosen.items(), seeds=seeds, epochs=wanted)
        progress_over(f"MLP on {dataset.name.upper()}", runs, len(chosen))
    reported = sorted({epoch for epoch in TABLE_EPOCHS if epoch < epochs} | {epochs})
    shown = records.frame[
        records.frame["dataset"].isin(datasets)
        & records.frame["optimizer"].isin(optimizers)
        & (records.frame["seed"] < seeds)
    ]
    for epoch in reported:
        at_epoch = at(shown, "epoch", epoch)
        for name in datasets:
            table = scores_table(at_epoch[at_epoch["dataset"] == name], TABLE_7[name])
            table = table.drop(columns="paper: f1")
            table = table.rename(columns={"paper: accuracy": "paper"})
            if epoch != PAPER_EPOCHS:
                table = table.drop(columns="paper")
            title = f"{name.upper()}, {epoch} epochs, {seeds} seeds, test set, per cent"
            console.print(on_screen(table, title))
        path = output / f"loss_{epoch}_epochs.png"
        figures.loss_trends(shown, dict.fromkeys(figures.AXES, epoch), "the MLP", path)


def run_case_studies(output: Path, optimizers: Sequence[str], seeds: int) -> None:
    """Figs. 5, 6 and 9."""
    records = Records(output / "case_studies.csv.gz")
    runs = case_studies.run(records, optimizers, seeds=seeds)
    progress_over("Case studies", runs, len(case_studies.units(optimizers)))
    for case in case_studies.CASES:
        summary = case_studies.summary(records.frame, case).drop(columns="detour")
        labels = pd.Index(summary.index.map(case_studies.label), name="optimizer")
        title = f"{case}, {case_studies.EPOCHS} epochs; 1e-2, 1e-8 of the first loss"
        console.print(on_screen(readable(summary.set_index(labels)), title))
    track_figures.case_studies(records.frame, output)


def run_sensitivity(output: Path) -> None:
    """Fig. 10."""
    path = output / "sensitivity.csv.gz"
    progress_over("Sensitivity", sensitivity.run(path), sensitivity.UNITS)
    records = read(path)
    summary = sensitivity.summary(records).set_index("varied")
    console.print(on_screen(readable(summary), "DSA's settings"))
    track_figures.sensitivity(records, output)


def run_ablations(
    output: Path, datasets: Sequence[str], seeds: int, data_dir: str | None
) -> None:
    """Variants of DSA, and every optimizer on standardised features."""
    records = Records(output / "ablations.csv.gz")
    raw = [data.load(name, data_dir) for name in datasets]
    scaled = [data.load(name, data_dir, standardize=True) for name in datasets]
    studies: list[tuple[str, list[Dataset], dict[str, Optimizer]]] = [
        (ablations.VARIANTS_EXPERIMENT, raw, dict(ablations.VARIANTS)),
        (ablations.STANDARDIZED_EXPERIMENT, scaled, dict(OPTIMIZERS)),
    ]
    for experiment, loaded, optimizers in studies:
        for dataset in loaded:
            runs = tabular.run(
                records,
                dataset,
                optimizers.items(),
                seeds=seeds,
                epochs=(0, ablations.EPOCHS),
                experiment=experiment,
            )
            title = f"{experiment}, {dataset.name.upper()}"
            progress_over(title, runs, len(optimizers))
    for title, table in ablations.tables(records.frame):
        console.print(on_screen(table, title))


def run_offline(output: Path) -> None:
    """What needs no download: the main job, without a command."""
    every = list(OPTIMIZERS)
    run_tabular(output, OFFLINE_DATASETS, every, SEEDS, PAPER_EPOCHS, None)
    run_case_studies(output, every, SEEDS)
    run_sensitivity(output)
    console.print(
        "Left out: CAR and AGARICUS, which need a download of 0.4 MB, and the 1,000 "
        "epochs of Fig. 4. Get them with: python -m benchmarks tabular --epochs 1000",
        soft_wrap=True,
    )


def run_full(output: Path, seeds: int, data_dir: str | None) -> None:
    """All but the images, and the page of claims."""
    every = list(OPTIMIZERS)
    run_tabular(output, list(data.DATASETS), every, seeds, max(TABLE_EPOCHS), data_dir)
    run_case_studies(output, every, seeds)
    run_sensitivity(output)
    run_ablations(output, ablations.DATASETS, seeds, data_dir)
    page.write(output)


def _tabular(options: argparse.Namespace) -> None:
    run_tabular(
        options.output,
        options.datasets,
        options.optimizers,
        options.seeds,
        options.epochs,
        options.data_dir,
    )


def _datasets(default: Sequence[str]) -> Option:
    text = "which data sets to run, of"
    return names("--datasets", data.DATASETS, default, text=text)


_OPTIMIZERS = names("--optimizers", OPTIMIZERS, text="which optimizers to run, of")
_SEEDS = count(
    "--seeds",
    SEEDS,
    "how many initialisations to train, all at once; figures are means over them",
)

TABULAR = Command(
    "tabular",
    "The paper's MLP on four tables (Table 7, Figs. 3 and 4).",
    _tabular,
    (
        _datasets(tuple(data.DATASETS)),
        _OPTIMIZERS,
        _SEEDS,
        DATA_DIR,
        OUTPUT,
        count(
            "--epochs",
            PAPER_EPOCHS,
            "how many full-batch updates",
            note=", as in Table 7; Fig. 4 has 1000",
        ),
    ),
)
CASE_STUDIES = Command(
    "case-studies",
    "The sum of four numbers (Fig. 5) and tracks in a valley (Figs. 6 and 9).",
    lambda options: run_case_studies(options.output, options.optimizers, options.seeds),
    (_OPTIMIZERS, _SEEDS, OUTPUT),
)
SENSITIVITY = Command(
    "sensitivity",
    "DSA's own hyper-parameters (Fig. 10, Appendix H).",
    lambda options: run_sensitivity(options.output),
    (OUTPUT,),
)
ABLATIONS = Command(
    "ablations",
    "What explains the tables: variants of DSA, and standardised features.",
    lambda options: run_ablations(
        options.output, options.datasets, options.seeds, options.data_dir
    ),
    (_datasets(ablations.DATASETS), _SEEDS, DATA_DIR, OUTPUT),
)
FULL = Command(
    "full",
    "All but the images, with 1,000 epochs on all tables, and the page that goes "
    "through the paper's claims; about an hour on two cores.",
    lambda options: run_full(options.output, options.seeds, options.data_dir),
    (_SEEDS, DATA_DIR, OUTPUT),
)
