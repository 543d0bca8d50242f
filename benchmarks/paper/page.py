"""The page of results: the paper's claims, one by one, and the tables behind them."""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from benchmarks.paper import ablations
from benchmarks.paper.case_claims import CASE_CLAIMS, SENSITIVITY_CLAIMS
from benchmarks.paper.claims import Claim
from benchmarks.paper.images.claims import UNTESTED, image_claims
from benchmarks.paper.images.page import image_sections
from benchmarks.paper.published import TABLE_7
from benchmarks.paper.tables import (
    CONVERGED,
    SPIKE,
    at,
    overview,
    scores_table,
    spikes_table,
)
from benchmarks.paper.tabular_claims import CLAIMS as TABULAR_CLAIMS
from benchmarks.shared.files import as_page, write_page
from benchmarks.shared.records import by_the_code, read
from benchmarks.shared.tables import in_markdown

COMMAND = "python -m benchmarks full --output benchmarks/results"
KIN = ("dsa", "rprop", "irprop-minus")
FAMILY = ("dsa", "adam", "adamw", "adamax")
PAGE = "README.md"
IMAGE_RECORDS = "images.csv.gz"
RECORDS = tuple(
    f"{name}.csv.gz" for name in ("tabular", "case_studies", "sensitivity", "ablations")
)


def write(output: Path) -> None:
    """Writes README.md beside the records of a full run, in one move.

    Raises:
      FileNotFoundError: if records are missing; it names them and their command.
    """
    write_page(output / PAGE, text(output))


def text(output: Path) -> str:
    """The page, from the records in `output`."""
    missing = [name for name in RECORDS if not (output / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"{output} lacks {', '.join(missing)}: run `python -m benchmarks full "
            f"--output {output}` first, or name the folder of a full run."
        )
    return as_page(_sections(output))


def glance(tabular: pd.DataFrame) -> str:
    """The table of docs/claims.md: accuracies at 100 epochs, and DSA's at half."""
    full = overview(at(tabular, "epoch", 100))
    dsa = tabular[tabular["optimizer"] == "dsa"]
    half = overview(at(dsa, "gradient_evaluations", 100))
    full["optimizer"] = full["optimizer"].replace("DSA", "**DSA** (200 gradients)")
    half["optimizer"] = "**DSA** at 50 epochs (100 gradients)"
    datasets = [name.upper() for name in tabular["dataset"].unique()]
    return in_markdown(pd.concat([full, half])[["optimizer", *datasets]])


def _sections(output: Path) -> Iterator[str]:
    tabular, cases, sensitivity, variants = (read(output / name) for name in RECORDS)
    yield from _preface(tabular)
    claims = [
        *((claim, tabular) for claim in TABULAR_CLAIMS),
        *((claim, cases) for claim in CASE_CLAIMS),
        *((claim, sensitivity) for claim in SENSITIVITY_CLAIMS),
    ]
    images = output / IMAGE_RECORDS
    if images.exists():
        records = read(images)
        claims += [(claim, records) for claim in image_claims(records)]
    yield from _verdicts(claims)
    yield from _where_dsa_loses(tabular)
    yield from _tables(tabular)
    yield from image_sections(output)
    yield from _case_studies()
    yield from _ablations(variants, tabular)


def _preface(tabular: pd.DataFrame) -> Iterator[str]:
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "optax", "flax"))
    yield "# Results: DSA against other optimizers"
    yield f"""\
Written by `{COMMAND}`
({packages}, on the CPU). The records:
{", ".join(f"[{name}]({name})" for name in RECORDS)}.
{by_the_code(tabular)}"""
    yield f"""\
- Figures are mean ± standard deviation over {tabular["seed"].nunique()} seeds of the
  initialisation, on one fixed split (80/20). Scores are per cent on the test part; F1,
  recall and precision are macro averages. Trends show median and quartiles.
- An epoch is one update on the full batch. DSA spends two gradient evaluations on it,
  every other optimizer one; so each claim is judged on both axes.
- The paper states neither seeds nor spread. In its Table 7 the columns RC and PCS are
  exchanged (a constant answer to three classes has a macro recall of 33.33); here
  recall is recall.
- Rprop and iRprop⁻ are not in the paper. They adapt a step size for every parameter by
  the sign of the gradient, as DSA does, without a second gradient.
- `seconds` in the records is the wall time of all seeds together, shared out over the
  epochs, on a machine that did other work as well: nothing here rests on it."""


def _verdicts(claims: list[tuple[Claim, pd.DataFrame]]) -> Iterator[str]:
    yield "## The paper's claims, one by one"
    rows = [_verdict(claim, records) for claim, records in claims]
    yield in_markdown(pd.DataFrame(rows), numbers="left")
    yield f"Not tested, for want of the files: {', '.join(UNTESTED)}."


def _verdict(claim: Claim, records: pd.DataFrame) -> dict[str, str]:
    by_epoch = claim.judge(records, "epoch")
    by_gradient = claim.judge(records, "gradient_evaluations")
    same = by_epoch.measured == by_gradient.measured
    measured = "the same" if same else by_gradient.measured
    return {
        "claim": f"{claim.text} ({claim.source}). *Holds if* {claim.criterion}",
        "paper": claim.published,
        "by epochs": f"**{by_epoch.verdict}**: {by_epoch.measured}",
        "by gradient evaluations": f"**{by_gradient.verdict}**: {measured}",
    }


def _where_dsa_loses(tabular: pd.DataFrame) -> Iterator[str]:
    yield "## Where DSA loses"
    yield """\
**To its nearest kin**, which the paper leaves out and which spend one gradient on an
update. At 100 epochs:"""
    kin = tabular[tabular["optimizer"].isin(KIN)]
    yield in_markdown(overview(at(kin, "epoch", 100)))
    yield "At 100 gradient evaluations, 50 epochs of DSA:"
    yield in_markdown(overview(at(kin, "gradient_evaluations", 100)))
    yield "**In the long run** on the test set, to the Adam family. At 1,000 epochs:"
    family = tabular[tabular["optimizer"].isin(FAMILY)]
    yield in_markdown(overview(at(family, "epoch", 1000)))
    yield f"""\
**To itself**, late in training. Once the loss is near 0, the gradient is rounding
noise, but a step by its sign is as long as the rate allows, and the rates never rest
(the paper's own outlook, Sec. 5): converged runs spike. Of the seeds whose training
loss had been below {CONVERGED}, these had one above {SPIKE} at a later record:"""
    yield in_markdown(spikes_table(tabular))


def _tables(tabular: pd.DataFrame) -> Iterator[str]:
    yield "## Table 7: the MLP after 100 epochs"
    final = at(tabular, "epoch", 100)
    for dataset in tabular["dataset"].unique():
        yield f"### {dataset.upper()}"
        shown = final[final["dataset"] == dataset]
        yield in_markdown(scores_table(shown, TABLE_7[dataset]))
    yield "![Training loss to 100 epochs](loss_100_epochs.png)"
    yield "## The same at 100 gradient evaluations"
    yield in_markdown(overview(at(tabular, "gradient_evaluations", 100)))
    yield "## After 1,000 epochs (Fig. 4)"
    yield in_markdown(overview(at(tabular, "epoch", 1000)))
    yield "![Training loss to 1,000 epochs](loss_1000_epochs.png)"


def _case_studies() -> Iterator[str]:
    yield "## Case studies"
    yield """\
The sum of four numbers: 100 rows of U(0, 1) (the paper gives no data), each optimizer
at its default."""
    yield "![The sum of four numbers](fig5_sum_of_four.png)"
    yield """\
The valley a·w₁² + b·w₂² with a = 1 and b = 1000, from (-0.06, 0.001). Gradient descent
diverges there at the paper's rate of 0.01 (its limit is 0.001), so that its "violent
oscillation before calming down" can't have been measured so; SGD and Momentum are shown
at 0.00095 as well, and in the valley of Fig. 10, b = 95 from (-1, 1), where 0.01 does
oscillate and calm down, and where DSA's equal steps happen to lie on the straight line.
Speeds count to the first crossing: RMSprop leaves the target again."""
    for name, text in {
        "fig6_tracks": "Tracks of SGD, Momentum and DSA",
        "fig9_tracks": "Tracks of the adaptive optimizers",
        "fig6_tracks_b95": "Tracks in the gentler valley",
        "fig6_valley_loss": "Loss in the valleys",
        "fig6_strides": "Length of DSA's steps",
    }.items():
        yield f"![{text}]({name}.png)"
    yield "## Sensitivity to η₀, β₁ and β₂ (Fig. 10)"
    yield "![Sensitivity](fig10_sensitivity.png)"


def _ablations(records: pd.DataFrame, tabular: pd.DataFrame) -> Iterator[str]:
    yield "## What explains the tables"
    yield f"After {ablations.EPOCHS} epochs: test accuracy, and mean training loss."
    findings = ablations.findings(records, tabular)
    for (title, table), finding in zip(
        ablations.tables(records), findings, strict=True
    ):
        yield f"### {title}"
        yield f"{finding}."
        yield in_markdown(table)
