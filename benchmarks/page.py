"""The page of results: the paper's claims, one by one, and the tables behind them."""

import os
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from benchmarks import ablations, case_studies, sensitivity, tabular
from benchmarks.claims import TABULAR_CLAIMS, Claim
from benchmarks.figures import AXES
from benchmarks.tables import at, in_markdown, overview, scores_table

COMMAND = "python -m benchmarks full --output benchmarks/results"
KIN = ("dsa", "rprop", "irprop-minus")


def write(output: Path) -> None:
    """Writes README.md beside the records of a full run, in one move."""
    text = "\n\n".join(_sections(output)) + "\n"
    partial = output / "README.partial"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, output / "README.md")


def _sections(output: Path) -> Iterator[str]:
    tables = pd.read_csv(output / "tabular.csv")
    yield _preface(tables)
    yield from _verdicts(tables, output)
    yield from _losses(tables)
    yield from _table_7(tables)
    yield from _longer(tables)
    yield from _case_studies()
    yield from _sensitivity(output)
    yield from _ablations(pd.read_csv(output / "ablations.csv"))


def _preface(tables: pd.DataFrame) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "optax", "flax"))
    return f"""\
# Results: DSA against other optimizers

Written by `{COMMAND}`, with {packages}, on the CPU. The records are in
[`tabular.csv`](tabular.csv), [`case_studies.csv`](case_studies.csv),
[`sensitivity.csv`](sensitivity.csv) and [`ablations.csv`](ablations.csv).

- Figures are the mean ± standard deviation over {tables["seed"].nunique()} seeds (of the
  initialisation; the split into training and test part is fixed). Scores are per cent on
  the test part: F1, recall and precision are macro averages.
- An epoch is one update on the full batch. DSA spends two gradient evaluations on it,
  every other optimizer one: so every result is given on both axes.
- The paper names no seeds, no number of runs and no spread. In its Table 7 the columns RC
  and PCS are exchanged (a constant answer to three classes has a macro recall of 33.33);
  here recall is recall.
- Rprop and iRprop⁻ are not in the paper. They adapt one step size per parameter by the
  sign of the gradient, as DSA does, without the second gradient.
- `seconds` in the records is the wall time of all seeds together, on a machine that was
  doing other work: nothing here rests on it."""


def _verdicts(tables: pd.DataFrame, output: Path) -> Iterator[str]:
    yield "## The paper's claims, one by one"
    rows = [_verdict(claim, tables) for claim in TABULAR_CLAIMS]
    rows += [_verdict(claim, pd.read_csv(output / name)) for claim, name in _CASES]
    rows += [
        _row(source, text, published, "not run yet", "-", "not run yet", "-")
        for source, text, published in _IMAGES
    ]
    yield in_markdown(pd.DataFrame(rows))


def _row(source: str, text: str, published: str, *findings: str) -> dict[str, str]:
    headings = [f"{word}, by {axis}" for axis in AXES.values() for word in ("ours", "")]
    return {"claim": f"{text} ({source})", "paper": published}
