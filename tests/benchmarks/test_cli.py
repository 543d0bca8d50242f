"""The command line of the benchmarks, and the page of claims."""

import shutil
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import __main__ as cli
from benchmarks.paper import ablations, page
from benchmarks.paper import command as paper
from benchmarks.paper.case_claims import CASE_CLAIMS
from benchmarks.paper.images.page import image_sections
from benchmarks.paper.tabular import recorded_epochs
from benchmarks.paper.tabular_claims import CLAIMS as TABULAR_CLAIMS
from benchmarks.shared.data import tables
from benchmarks.shared.optimizers.defaults import OPTIMIZERS
from benchmarks.shared.records import RUN
from benchmarks.speed import gradients_in_parts, pooling

RESULTS = Path(cli.__file__).parent / "results"

pytestmark = pytest.mark.usefixtures("as_users_run_it")


def test_tabular_writes_records_figures_and_a_table(tmp_path, capsys):
    arguments = "tabular --datasets iris --optimizers sgd dsa --seeds 2 --epochs 3"
    assert cli.main([*arguments.split(), "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "IRIS, 3 epochs, 2 seeds" in printed
    assert "DSA" in printed
    frame = pd.read_csv(tmp_path / "tabular.csv.gz")
    assert set(frame["optimizer"]) == {"sgd", "dsa"}
    assert (tmp_path / "loss_3_epochs.png").stat().st_size > 10_000


def test_output_may_stand_before_the_command(tmp_path):
    options = cli.parser().parse_args(["--output", str(tmp_path), "sensitivity"])
    assert options.output == tmp_path
    assert cli.parser().parse_args(["sensitivity"]).output.name == "results"


def test_no_arguments_runs_what_needs_no_download(monkeypatch, tmp_path, capsys):
    called = []
    monkeypatch.setattr(paper, "run_tabular", lambda *a: called.append(a[1:]))
    monkeypatch.setattr(paper, "run_case_studies", lambda *a: called.append("cases"))
    monkeypatch.setattr(paper, "run_sensitivity", lambda *a: called.append("sens"))
    assert cli.main(["--output", str(tmp_path)]) == 0
    assert called == [
        (("iris", "wine"), list(OPTIMIZERS), 10, 100, None),
        "cases",
        "sens",
    ]
    assert "Left out: CAR and AGARICUS" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "listed"),
    [
        (["tabular", "--datasets", "irish"], "agaricus"),
        (["tabular", "--optimizers", "sdg"], "irprop-minus"),
        (["table"], "case-studies"),
        (["tabular", "--seeds", "0"], "--seeds"),
        (["tabular", "--epochs", "many"], "--epochs"),
    ],
)
def test_a_wrong_name_lists_the_right_ones(arguments, listed, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert listed in capsys.readouterr().err


def test_missing_data_is_one_clear_error(tmp_path, capsys, monkeypatch):
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("pooch.retrieve", offline)
    arguments = ["tabular", "--datasets", "car", "--data-dir", str(tmp_path)]
    assert cli.main([*arguments, "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    for part in ("car.data", "51867 bytes", "sha256", "https://", "--data-dir"):
        assert part in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["", "tabular", "case-studies", "full"])
def test_every_option_has_a_help_text(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--help"])
    printed = capsys.readouterr().out
    assert "--output FOLDER" in printed
    assert "not run again" in " ".join(printed.split())


def made_up_records(experiment, optimizers, datasets, epochs):
    """Records in which an optimizer's loss falls the faster, the later it is named."""
    rows = []
    for dataset in datasets:
        for rank, (name, optimizer) in enumerate(optimizers.items()):
            for seed in range(2):
                for epoch in recorded_epochs(epochs):
                    run = (experiment, dataset, "mlp", name)
                    rows.append(
                        dict(zip(RUN, run, strict=True))
                        | {
                            "seed": seed,
                            "epoch": epoch,
                            "gradient_evaluations": epoch
                            * optimizer.gradients_per_step,
                            "train_loss": 2.0 ** (-0.01 * (rank + 1) * epoch),
                            **dict.fromkeys(
                                ("accuracy", "f1", "recall", "precision"), 50.0 + rank
                            ),
                            "seconds": 1.0,
                        }
                    )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    """A folder as a full run leaves it, its tables made up, its cases real."""
    folder = tmp_path_factory.mktemp("full")
    for name in ("case_studies.csv.gz", "sensitivity.csv.gz"):
        shutil.copy(RESULTS / name, folder)
    tabular = made_up_records("tabular", OPTIMIZERS, tables.DATASETS, 1000)
    tabular.to_csv(folder / "tabular.csv.gz", index=False)
    pd.concat(
        made_up_records(experiment, optimizers, ablations.DATASETS, ablations.EPOCHS)
        for experiment, optimizers in (
            (ablations.VARIANTS_EXPERIMENT, ablations.VARIANTS),
            (ablations.STANDARDIZED_EXPERIMENT, OPTIMIZERS),
        )
    ).to_csv(folder / "ablations.csv.gz", index=False)
    return folder


def test_page_judges_every_claim_on_both_axes(full_run):
    page.write(full_run)
    text = (full_run / "README.md").read_text()
    claims = [line for line in text.splitlines() if line.startswith("| ")]
    judged = [line for line in claims if line.count("**") >= 4]
    assert len(judged) == 7 + 7 + 3
    # In the made-up records DSA, the last of the paper's nine, is the best of them.
    [best] = [line for line in judged if "best accuracy on all four" in line]
    assert best.count("**holds**") == 2
    for picture in ("fig5_sum_of_four", "fig9_tracks", "fig10_sensitivity"):
        assert f"({picture}.png)" in text
        assert (RESULTS / f"{picture}.png").exists()


@pytest.mark.parametrize("axis", ["epoch", "gradient_evaluations"])
@pytest.mark.parametrize("claim", TABULAR_CLAIMS, ids=lambda claim: claim.text)
def test_no_claim_about_tables_holds_where_dsa_learns_nothing(full_run, claim, axis):
    records = pd.read_csv(full_run / "tabular.csv.gz")
    dsa = records["optimizer"] == "dsa"
    records.loc[dsa, ["accuracy", "f1", "recall", "precision"]] = 10.0
    records.loc[dsa, "train_loss"] = 1.0
    assert claim.judge(records, axis).verdict != "holds"


@pytest.mark.parametrize("axis", ["epoch", "gradient_evaluations"])
@pytest.mark.parametrize("claim", CASE_CLAIMS, ids=lambda claim: claim.text)
def test_no_claim_about_dsa_holds_where_it_goes_the_way_of_another(
    full_run, claim, axis
):
    """On Adadelta's track DSA is slow, and swings out and never calms down."""
    records = pd.read_csv(full_run / "case_studies.csv.gz")
    other = records[records["optimizer"] == "adadelta"].assign(optimizer="dsa")
    records = pd.concat([records[records["optimizer"] != "dsa"], other])
    about_the_others = "make a big wave" in claim.text
    if not about_the_others:
        assert claim.judge(records, axis).verdict != "holds"


def test_ctrl_c_says_that_the_run_can_go_on(monkeypatch, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(paper, "run_sensitivity", interrupted)
    assert cli.main(["sensitivity"]) == 130
    assert "goes on from here" in capsys.readouterr().err


def test_page_without_records_says_what_to_run(tmp_path, capsys):
    assert cli.main(["page", "--output", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "lacks tabular.csv.gz" in error
    assert "python -m benchmarks full" in error


@pytest.mark.slow
def test_costs_are_measured_and_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        gradients_in_parts,
        "measure",
        partial(gradients_in_parts.measure, batches=(1, 2), repeats=1),
    )
    speed = partial(pooling.speed, batch=2, channels=2, repeats=1)
    monkeypatch.setattr(pooling, "speed", speed)
    assert cli.main(["costs", "--output", str(tmp_path)]) == 0
    assert "microbatched" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "full_batch.csv.gz")) == 2 * 3
    assert set(pd.read_csv(tmp_path / "fractional_pool.csv.gz")["device"]) == {"cpu"}
    text = "\n".join(image_sections(tmp_path))
    assert "temp_bytes" in text
    assert "overlapping, to 20" in text
