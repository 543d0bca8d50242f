"""The committed results are what the committed records say."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.cutest import page as cutest_page
from benchmarks.minibatches import page as minibatch_page
from benchmarks.minibatches import polishing_page
from benchmarks.paper import page as paper_page
from benchmarks.paper.images import page as image_page
from benchmarks.physics import page as physics_page
from benchmarks.race import page as race_page
from benchmarks.race.nist import page as nist_page
from benchmarks.shared.data import tables
from benchmarks.shared.optimizers.contenders import CONTENDERS
from benchmarks.shared.optimizers.defaults import OPTIMIZERS
from benchmarks.speed import page as speed_page

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def tabular():
    return pd.read_csv(RESULTS / "tabular.csv.gz")


PAGES = (
    paper_page,
    race_page,
    minibatch_page,
    polishing_page,
    nist_page,
    cutest_page,
    physics_page,
    speed_page,
)


def without_versions(text):
    return [line for line in text.splitlines() if "on the CPU" not in line]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.PAGE)
def test_a_page_follows_from_its_records(page):
    text = page.text(RESULTS).replace(str(RESULTS), "benchmarks/results")
    committed = (RESULTS / page.PAGE).read_text(encoding="utf-8")
    if page is paper_page:
        text, committed = map(without_versions, (text, committed))
    assert text == committed


def test_these_are_all_pages():
    assert {path.name for path in RESULTS.glob("*.md")} == {page.PAGE for page in PAGES}


def test_the_readme_and_the_docs_show_the_measured_tables(tabular):
    race = pd.read_csv(RESULTS / race_page.RECORDS)
    images = pd.read_csv(RESULTS / paper_page.IMAGE_RECORDS)
    for page_of, table in (
        ("README.md", race_page.in_short(race)),
        ("docs/results.md", race_page.glance(race)),
        ("docs/claims.md", paper_page.glance(tabular)),
        ("docs/claims.md", image_page.glance(images)),
    ):
        assert table in (ROOT / page_of).read_text(encoding="utf-8"), page_of


def test_the_race_is_whole():
    race = pd.read_csv(RESULTS / race_page.RECORDS)
    assert set(race["problem"]) == set(race_page.PROBLEMS)
    assert set(race["optimizer"]) == set(CONTENDERS)
    seeds = race.groupby(["problem", "optimizer"])["seed"].nunique().unstack()
    assert (seeds >= 3).all(axis=None)
    starts = race[race["optimizer"] == "adam"].drop_duplicates(["problem", "seed"])
    assert np.isfinite(starts["start_loss"]).all()
    assert (starts.groupby("problem")["start_loss"].nunique() == 3).all()
    # Someone got lower on each, and so had a gradient.
    lowest = race.groupby("problem")["best_loss_300"].min()
    assert (lowest < race.groupby("problem")["start_loss"].min()).all()


def test_the_records_are_of_a_full_run(tabular):
    final = tabular[tabular["epoch"] == 1000]
    seeds = final.groupby(["dataset", "optimizer"])["seed"].nunique()
    assert set(final["dataset"]) == set(tables.DATASETS)
    assert set(final["optimizer"]) == set(OPTIMIZERS)
    assert len(seeds) == len(tables.DATASETS) * len(OPTIMIZERS)
    assert (seeds >= 10).all()


def test_every_picture_of_the_pages_is_there_and_none_else():
    pages = [path.read_text(encoding="utf-8") for path in RESULTS.glob("*.md")]
    shown = set(re.findall(r"\]\((\w+\.png)\)", "".join(pages)))
    assert shown == {file.name for file in RESULTS.glob("*.png")}
