"""The command line: `python -m benchmarks`."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import pandas as pd
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from benchmarks import (
    ablations,
    batch_sizes,
    case_studies,
    data,
    figures,
    fractional_pool_speed,
    full_batch,
    image_data,
    images,
    minibatch_page,
    minibatch_race,
    page,
    race_page,
    race_runs,
    race_scores,
    sensitivity,
    speed,
    speed_page,
    speed_torch,
    tables,
    tabular,
    track_figures,
)
from benchmarks.files import replacing
from benchmarks.nist import page as nist_page
from benchmarks.nist import problems as nist_problems
from benchmarks.nist import runs as nist_runs
from benchmarks.optimizers import OPTIMIZERS, PAPER_OPTIMIZERS, Optimizer
from benchmarks.paper import TABLE_7
from benchmarks.race_contenders import CONTENDERS, RIVALS
from benchmarks.records import Records

OFFLINE_DATASETS = ("iris", "wine")
PAPER_EPOCHS = 100  # Table 7
TABLE_EPOCHS = (PAPER_EPOCHS, 1000)  # and Fig. 4
SEEDS = 10
FEW = 6
"""Columns of times that a screen holds."""

console = Console()


def progress_over(title: str, done: Iterable[str], total: int) -> None:
    """Runs a generator of finished units under a progress bar."""
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[last]}"),
    )
    with Progress(*columns, console=console) as bars:
        bar = bars.add_task(title, total=total, last="")
        for name in done:
            bars.update(bar, advance=1, last=name)


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
    records = Records(output / "tabular.csv")
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
        at_epoch = tables.at(shown, "epoch", epoch)
        for name in datasets:
            of_dataset = at_epoch[at_epoch["dataset"] == name]
            table = tables.scores_table(of_dataset, TABLE_7[name])
            table = table.drop(columns="paper: f1")
            table = table.rename(columns={"paper: accuracy": "paper"})
            if epoch != PAPER_EPOCHS:
                table = table.drop(columns="paper")
            title = f"{name.upper()}, {epoch} epochs, {seeds} seeds, test set, per cent"
            console.print(tables.on_screen(table, title))
        path = output / f"loss_{epoch}_epochs.png"
        figures.loss_trends(shown, dict.fromkeys(figures.AXES, epoch), "the MLP", path)


def run_case_studies(output: Path, optimizers: Sequence[str], seeds: int) -> None:
    """Figs. 5, 6 and 9."""
    records = Records(output / "case_studies.csv")
    runs = case_studies.run(records, optimizers, seeds=seeds)
    progress_over("Case studies", runs, len(case_studies.units(optimizers)))
    for case in case_studies.CASES:
        summary = case_studies.summary(records.frame, case).drop(columns="detour")
        names = pd.Index(summary.index.map(case_studies.label), name="optimizer")
        table = tables.readable(summary.set_index(names))
        title = f"{case}, {case_studies.EPOCHS} epochs; 1e-2, 1e-8 of the first loss"
        console.print(tables.on_screen(table, title))
    track_figures.case_studies(records.frame, output)


def run_sensitivity(output: Path) -> None:
    """Fig. 10."""
    path = output / "sensitivity.csv"
    progress_over("Sensitivity", sensitivity.run(path), sensitivity.UNITS)
    records = pd.read_csv(path)
    summary = sensitivity.summary(records).set_index("varied")
    console.print(tables.on_screen(tables.readable(summary), "DSA's settings"))
    track_figures.sensitivity(records, output)


def run_ablations(
    output: Path, datasets: Sequence[str], seeds: int, data_dir: str | None
) -> None:
    """Variants of DSA, and every optimizer on standardised features."""
    records = Records(output / "ablations.csv")
    raw = [data.load(name, data_dir) for name in datasets]
    scaled = [data.load(name, data_dir, standardize=True) for name in datasets]
    studies: list[tuple[str, list[data.Dataset], dict[str, Optimizer]]] = [
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
        console.print(tables.on_screen(table, title))


def run_images(
    output: Path,
    model: str,
    datasets: Sequence[str],
    optimizers: Sequence[str],
    seeds: int,
    data_dir: str | None,
    schedule: images.Schedule | None,
    width: int | None,
) -> None:
    """Tables 1, 2 and 4 to 6: the convolution nets on images."""
    records = Records(output / "images.csv")
    loaded = [image_data.load(name, data_dir) for name in datasets]
    for dataset in loaded:
        runs = images.run(
            records,
            dataset,
            model,
            optimizers,
            seeds=seeds,
            schedule=schedule,
            width=width,
        )
        title = f"{model.upper()} on {dataset.name.upper()}"
        progress_over(title, runs, len(optimizers) * seeds)
        name = images.run_name(model, dataset.name, schedule, width)
        for title, table in images.tables(records.frame, dataset.name, name):
            console.print(tables.on_screen(table, title))
    images.loss_figure(records.frame, output / "fig8_dnn_loss.png")


def run_batch_sizes(output: Path, seeds: int, data_dir: str | None) -> None:
    """DSA, Rprop and Adamax on MNIST, from mini-batches of 64 to the full batch."""
    records = Records(output / "batch_sizes.csv")
    dataset = image_data.load("mnist", data_dir)
    runs = batch_sizes.run(records, dataset, seeds=seeds)
    total = seeds * len(batch_sizes.SIZES) * len(batch_sizes.NAMES)
    progress_over("Batch sizes on MNIST", runs, total)
    title = (
        f"{batch_sizes.PASSES} passes of gradient evaluations: training loss (test "
        f"accuracy on {len(dataset.y_test)} images)"
    )
    table = batch_sizes.table(records.frame)
    console.print(tables.on_screen(table, title))
    batch_sizes.figure(records.frame, output / "batch_sizes.png")


def run_race(
    output: Path,
    problems: Sequence[str],
    optimizers: Sequence[str],
    seeds: int,
    budget: int,
) -> None:
    """The race on full batches: curves, wall times, scores and their page."""
    made = {name: race_page.PROBLEMS[name] for name in problems}
    chosen = {name: CONTENDERS[name] for name in optimizers}
    cache, costs = race_page.cache(output), output / race_page.COSTS
    runs = race_runs.run(cache, made, chosen, seeds=seeds, budget=budget)
    timed = race_runs.time_steps(costs, made, chosen)
    for title, done in {"Race": runs, "Time of an evaluation": timed}.items():
        progress_over(title, done, len(made) * len(chosen))
    records = race_scores.collect(cache, race_runs.times(costs), made, chosen)
    with replacing(output / race_page.RECORDS) as file:
        records.to_csv(file, index=False, float_format="%.6g")
    race_page.write(output)
    main = "".join(map(race_page.label, race_scores.our_names(records)[:1]))
    for title, table in race_page.screen_tables(records, FEW):
        console.print(tables.on_screen(table, title, main))


def run_minibatch_race(
    output: Path,
    tasks: Sequence[str],
    optimizers: Sequence[str],
    seeds: int,
    data_dir: str | None,
) -> None:
    """The race's mini-batch division: test accuracy at equal epochs."""
    records = Records(output / minibatch_page.RECORDS)
    chosen = {name: minibatch_race.CONTENDERS[name] for name in optimizers}
    loaded = [minibatch_race.TASKS[name](data_dir) for name in tasks]
    runs = minibatch_race.run(records, loaded, chosen, seeds=seeds)
    total = len(tasks) * len(minibatch_race.BATCH_SIZES) * len(chosen)
    progress_over("Mini-batch race", runs, total)
    for title, table in minibatch_page.tables(records.frame):
        console.print(tables.on_screen(table, title))
    minibatch_page.write(output)


def run_nist(
    output: Path,
    datasets: Sequence[str],
    solvers: Sequence[str],
    dtypes: Sequence[str],
    data_dir: str | None,
) -> None:
    """NIST's nonlinear regressions, against their certified fits."""
    loaded = nist_problems.load(data_dir)
    regressions = {name: loaded[name] for name in datasets}
    chosen = {name: nist_runs.SOLVERS[name] for name in solvers}
    path = output / nist_page.RECORDS
    runs = nist_runs.run(path, regressions, chosen, dtypes)
    progress_over("NIST's regressions", runs, len(datasets) * len(dtypes) * len(chosen))
    for title, table in nist_page.tables(nist_runs.load(path)):
        console.print(tables.on_screen(table, title, "auto_dsa"))
    nist_page.write(output)


def run_costs(output: Path) -> None:
    """What a full-batch gradient in parts costs, and fractional max-pooling."""
    output.mkdir(parents=True, exist_ok=True)
    measured = {
        "full_batch": ("A gradient in parts, beside one call", full_batch.measure()),
        "fractional_pool": (
            "Fractional max-pooling, beside Flax's max_pool",
            fractional_pool_speed.speed(),
        ),
    }
    for name, (title, frame) in measured.items():
        frame = frame.assign(device=jax.devices()[0].device_kind)
        with replacing(output / f"{name}.csv") as file:
            frame.to_csv(file, index=False, float_format="%.3g")
        console.print(tables.on_screen(tables.rounded(frame), title))


def run_speed(output: Path, sections: Sequence[str]) -> None:
    """Time and memory of every optimizer, beside the least that they could be."""
    for section in sections:
        if section == "torch" and not speed_torch.is_there():
            console.print("Left out: torch, which is not installed")
            continue
        frame = speed.measure(output, section).drop(columns="machine")
        console.print(tables.on_screen(tables.rounded(frame), section))
    speed_page.write(output)


def positive(text: str) -> int:
    """An argument that counts something."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _output_option(default: object) -> argparse.ArgumentParser:
    option = argparse.ArgumentParser(add_help=False)
    option.add_argument(
        "--output",
        type=Path,
        default=default,
        metavar="FOLDER",
        help="where records (CSV) and figures (PNG) go; runs that are there already "
        "are not run again (default: results)",
    )
    return option


def _datasets_option(default: Sequence[str]) -> argparse.ArgumentParser:
    option = argparse.ArgumentParser(add_help=False)
    option.add_argument(
        "--datasets",
        nargs="+",
        choices=list(data.DATASETS),
        default=list(default),
        metavar="NAME",
        help=f"which data sets to run, of: {' '.join(data.DATASETS)} "
        f"(default: {' '.join(default)})",
    )
    return option


def _optimizers_option(default: list[str], described: str) -> argparse.ArgumentParser:
    option = argparse.ArgumentParser(add_help=False)
    option.add_argument(
        "--optimizers",
        nargs="+",
        choices=list(OPTIMIZERS),
        default=default,
        metavar="NAME",
        help=f"which optimizers to run, of: {' '.join(OPTIMIZERS)} "
        f"(default: {described})",
    )
    return option


def _add_names(
    options: argparse.ArgumentParser, option: str, names: Iterable[str]
) -> None:
    """An option that takes some of the names, and all by default."""
    options.add_argument(
        option,
        nargs="+",
        choices=list(names),
        default=list(names),
        metavar="NAME",
        help=f"which of: {' '.join(names)} (default: all)",
    )


def parser() -> argparse.ArgumentParser:
    """The command line's grammar, with its help texts."""
    # A default of a command would override what stands before the command.
    output = _output_option(argparse.SUPPRESS)
    seeds = argparse.ArgumentParser(add_help=False)
    seeds.add_argument(
        "--seeds",
        type=positive,
        default=SEEDS,
        metavar="N",
        help="how many initialisations to train, all at once; figures are means over "
        "them (default: %(default)s)",
    )
    optimizers = _optimizers_option(list(OPTIMIZERS), "all")
    data_dir = argparse.ArgumentParser(add_help=False)
    data_dir.add_argument(
        "--data-dir",
        metavar="FOLDER",
        help="folder with the data files (car.data, mnist/…); what it lacks is "
        f"downloaded into it (default: ${data.DATA_DIR_VARIABLE}, or a cache folder)",
    )

    main = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="DSA against other optimizers: the experiments of the paper. "
        "Without a command: the tables that need no download (IRIS and WINE, 100 "
        "epochs), the case studies and the sensitivity analysis.",
        parents=[_output_option(Path("results"))],
    )
    commands = main.add_subparsers(dest="command", metavar="COMMAND")

    def command(
        name: str, text: str, *options: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=text, description=text, parents=[*options, output]
        )

    tables_command = command(
        "tabular",
        "The paper's MLP on four tables (Table 7, Figs. 3 and 4).",
        _datasets_option(tuple(data.DATASETS)),
        optimizers,
        seeds,
        data_dir,
    )
    tables_command.add_argument(
        "--epochs",
        type=positive,
        default=100,
        metavar="N",
        help="how many full-batch updates (default: %(default)s, as in Table 7; "
        "Fig. 4 has 1000)",
    )
    command(
        "case-studies",
        "The sum of four numbers (Fig. 5) and tracks in a valley (Figs. 6 and 9).",
        optimizers,
        seeds,
    )
    some_seeds = argparse.ArgumentParser(add_help=False)
    some_seeds.add_argument(
        "--seeds",
        type=positive,
        default=3,
        metavar="N",
        help="how many initialisations, one after the other (default: %(default)s)",
    )
    image_options = command(
        "images",
        "Convolution nets on images, by mini-batches and then DSA on the full batch "
        "(Tables 1, 2, 4 to 6, Fig. 8). Hours on two cores; a killed run goes on where "
        "it was.",
        _optimizers_option(list(PAPER_OPTIMIZERS), "the paper's nine"),
        some_seeds,
        data_dir,
    )
    image_options.add_argument(
        "--datasets",
        nargs="+",
        choices=list(image_data.DATASETS),
        default=["mnist"],
        metavar="NAME",
        help=f"which of: {' '.join(image_data.DATASETS)} (default: mnist)",
    )
    image_options.add_argument(
        "--model",
        choices=list(images.MODELS),
        default="dnn",
        help="the light net or the fractional max-pooling net (default: dnn)",
    )
    image_options.add_argument(
        "--width",
        type=positive,
        metavar="N",
        help="channels of the first block of fmp (default: 32, as Graham's)",
    )
    image_options.add_argument(
        "--schedule",
        nargs=3,
        type=positive,
        metavar=("BATCH", "T1", "T2"),
        help="batch size, epochs of mini-batches, full-batch updates by DSA "
        "(default: the paper's, 64 15 15 for dnn on mnist)",
    )
    command(
        "batch-sizes",
        "From which batch size on DSA makes sense: with Rprop and Adamax on MNIST, at "
        "64, 1,024, 8,192 and the full batch. About an hour a seed on two cores.",
        some_seeds,
        data_dir,
    )
    race_options = command(
        "race",
        "The race on full batches: who is the first at a loss that the rivals set, by "
        "gradient evaluations and by wall time? Some two hours on two cores; a killed "
        "run goes on where it was. A part of it takes a minute: race --quick "
        "--problems rosenbrock-2 axes-1e4 --optimizers adam irprop-minus lbfgs. The "
        "records, page and figures are those of the part then; the next whole run "
        "makes them again from what was kept.",
    )
    _add_names(race_options, "--problems", race_page.PROBLEMS)
    _add_names(race_options, "--optimizers", CONTENDERS)
    race_options.add_argument(
        "--seeds",
        type=positive,
        default=race_runs.SEEDS,
        metavar="N",
        help="how many initialisations; scores are medians over them (default: "
        "%(default)s)",
    )
    race_options.add_argument(
        "--quick",
        action="store_const",
        dest="budget",
        const=race_runs.BUDGET,
        default=race_runs.LONG,
        help=f"stop ours too after the {race_runs.BUDGET} gradient evaluations that "
        f"are scored, and don't see what blows up before {race_runs.LONG:,}",
    )
    minibatch_options = command(
        "minibatch-race",
        "The race's mini-batch division: small nets at batch 128 and 1,024, each "
        "optimizer at its default and over a grid. About 35 minutes on one core; a "
        "killed run goes on where it was.",
        some_seeds,
        data_dir,
    )
    _add_names(minibatch_options, "--tasks", minibatch_race.TASKS)
    _add_names(minibatch_options, "--optimizers", minibatch_race.CONTENDERS)
    nist_options = command(
        "nist",
        "NIST's 27 nonlinear regressions from two starts each, beside SciPy's solvers, "
        "in float64 and float32. About a quarter of an hour on two cores; a killed run "
        "goes on where it was.",
        data_dir,
    )
    _add_names(nist_options, "--datasets", nist_problems.MODELS)
    _add_names(nist_options, "--solvers", nist_runs.SOLVERS)
    _add_names(nist_options, "--dtypes", nist_problems.DTYPES)
    command(
        "costs",
        "Memory, time and error of a full-batch gradient in parts, and the time of "
        "fractional max-pooling. Let nothing else run meanwhile.",
    )
    speed_options = command(
        "speed",
        "Time and memory of a step of each optimizer against the least that they could "
        "be, compile time, many seeds at once, growth, and PyTorch where it is "
        "installed. Half an hour on two cores; let nothing else run meanwhile. What is "
        "measured again takes the place of what was there.",
    )
    _add_names(speed_options, "--sections", speed.SECTIONS)
    command("sensitivity", "DSA's own hyper-parameters (Fig. 10, Appendix H).")
    command(
        "ablations",
        "What explains the tables: variants of DSA, and standardised features.",
        _datasets_option(ablations.DATASETS),
        seeds,
        data_dir,
    )
    command(
        "full",
        "All but the images, with 1,000 epochs on all tables, and the page that goes "
        "through the paper's claims; about an hour on two cores.",
        seeds,
        data_dir,
    )
    command(
        "page",
        "Writes the page of claims again from the records of a full run, and those of "
        "the races and of NIST's regressions where there are their records.",
    )
    return main


def run(options: argparse.Namespace) -> None:
    """Carries out a parsed command line."""
    every = list(OPTIMIZERS)
    output: Path = options.output
    match options.command:
        case None:
            run_tabular(output, OFFLINE_DATASETS, every, SEEDS, 100, None)
            run_case_studies(output, every, SEEDS)
            run_sensitivity(output)
            console.print(
                "Left out: CAR and AGARICUS, which need a download of 0.4 MB, and the "
                "1,000 epochs of Fig. 4. Get them with: python -m benchmarks tabular "
                "--epochs 1000",
                soft_wrap=True,
            )
        case "tabular":
            run_tabular(
                output,
                options.datasets,
                options.optimizers,
                options.seeds,
                options.epochs,
                options.data_dir,
            )
        case "case-studies":
            run_case_studies(output, options.optimizers, options.seeds)
        case "images":
            schedule = options.schedule and images.Schedule(*options.schedule)
            run_images(
                output,
                options.model,
                options.datasets,
                options.optimizers,
                options.seeds,
                options.data_dir,
                schedule,
                options.width,
            )
        case "batch-sizes":
            run_batch_sizes(output, options.seeds, options.data_dir)
        case "race":
            run_race(
                output,
                options.problems,
                options.optimizers,
                options.seeds,
                options.budget,
            )
        case "minibatch-race":
            run_minibatch_race(
                output,
                options.tasks,
                options.optimizers,
                options.seeds,
                options.data_dir,
            )
        case "nist":
            run_nist(
                output,
                options.datasets,
                options.solvers,
                options.dtypes,
                options.data_dir,
            )
        case "costs":
            run_costs(output)
        case "speed":
            run_speed(output, options.sections)
        case "sensitivity":
            run_sensitivity(output)
        case "ablations":
            run_ablations(output, options.datasets, options.seeds, options.data_dir)
        case "full":
            seeds, data_dir = options.seeds, options.data_dir
            run_tabular(output, list(data.DATASETS), every, seeds, 1000, data_dir)
            run_case_studies(output, every, seeds)
            run_sensitivity(output)
            run_ablations(output, ablations.DATASETS, seeds, data_dir)
            page.write(output)
        case "page":
            page.write(output)
            for other in (race_page, minibatch_page, nist_page):
                if (output / other.RECORDS).exists():
                    other.write(output)
    console.print(f"Records and figures: {output}/", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    options = parser().parse_args(arguments)
    if options.command == "images" and options.width and options.model != "fmp":
        parser().error("--width is an option of --model fmp alone")
    if options.command == "race" and not RIVALS.keys() & options.optimizers:
        parser().error("--optimizers needs a rival, which sets the targets")
    try:
        run(options)
    except (data.DataError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
