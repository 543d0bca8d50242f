"""Figures in sentences of the README and the docs are those of the committed records.

Each phrase is written here from the records, and must stand on its page as it is.
"""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.cutest import page as cutest_page
from benchmarks.cutest import scores as cutest_scores
from benchmarks.cutest.scores import Group
from benchmarks.minibatches import page as minibatch_page
from benchmarks.minibatches.contenders import CONTENDERS
from benchmarks.physics import page as physics_page
from benchmarks.physics import scores as physics_scores
from benchmarks.race import page as race_page
from benchmarks.race import scores
from benchmarks.race.nist import page as nist_page
from benchmarks.race.nist import runs as nist_runs
from benchmarks.shared.records import read

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"

PAGES = {
    "README": ROOT / "README.md",
    **{
        name: ROOT / "docs" / f"{name}.md"
        for name in ("claims", "polishing", "results")
    },
}


def assert_said(page, *phrases):
    """In so many words, wherever its lines break."""
    text = re.sub(r"\s+", " ", PAGES[page].read_text(encoding="utf-8"))
    text = text.replace("**", "")
    missing = [phrase for phrase in phrases if phrase not in text]
    assert not missing, f"not on {PAGES[page].name}: {missing}"


@cache
def race():
    return pd.read_csv(RESULTS / race_page.RECORDS)


@cache
def misses(division, half=None):
    """How many problems each misses, in the first field of ours."""
    records = race() if half is None else race()[race()["half"] == half]
    return np.isinf(scores.times(records, division, "evaluations")).sum()


@cache
def areas(division, axis, half):
    records = race()[race()["half"] == half]
    times = scores.times(records, division, axis)
    return scores.standings(times, scores.our_names(race()))["area"]


def both_halves(division, axis, name):
    test, development = (areas(division, axis, h)[name] for h in scores.HALVES[::-1])
    return f"{test:.2f}", f"{development:.2f}"


RAW_NETS = {
    "wine": "deep",
    "iris": "deep",
    "cancer": "shallow",
    "diabetes": "net",
    "proline": "net",
}


# Physics-informed nets ----------------------------------------------------------------


def test_physics_informed_nets():
    records = physics_page.small(read(RESULTS / physics_page.RECORDS))
    losses = physics_scores.table(records, "loss")
    ours, best = losses.loc["auto-dsa"], losses.drop(index="auto-dsa").min()
    first = {name for name in losses if ours[name] < best[name]}
    assert first == {"burgers", "helmholtz", "kdv"}
    helm, next_best = (
        f"{x['helmholtz']:.1e}".replace("e-0", "e-") for x in (ours, best)
    )
    ratio = ours / best
    assert_said(
        "README",
        f"on three of five (Helmholtz {helm}, the next best {next_best})",
        f"({ratio['poisson']:.1f} and {ratio['allen-cahn']:.2f} times its loss)",
    )


# The race -----------------------------------------------------------------------------


def test_targets_reached():
    counts = {}
    for division in scores.DIVISIONS:
        missed = misses(division, "test")
        counts[division] = {
            name: 28 - missed[name] for name in ("auto-dsa", "scipy-bfgs", "lbfgs")
        }
    untuned, tuned = counts["untuned"], counts["tuned"]
    ours, bfgs, lbfgs = untuned.values()
    assert_said(
        "results",
        f"on {ours} of 28 test problems, SciPy's BFGS on {bfgs}, Optax's L-BFGS on "
        f"{lbfgs}; with the rivals tuned on {tuned['auto-dsa']}, BFGS on "
        f"{tuned['scipy-bfgs']}.",
    )
    assert_said(
        "README",
        f"reaches more of the tuned targets ({tuned['scipy-bfgs']}, "
        f"{tuned['auto-dsa']})",
    )


def test_areas_in_sentences():
    test, development = both_halves("tuned", "evaluations", "auto-dsa")
    ours, _ = both_halves("tuned", "milliseconds", "auto-dsa")
    rprop, _ = both_halves("tuned", "milliseconds", "irprop-minus")
    assert_said("README", f"iRprop⁻ is ahead ({rprop}, {ours})")
    assert_said(
        "results",
        f"where settings were chosen ({development}), and missed on the other ({test})",
        f"{ours}; iRprop⁻ {rprop}",
    )


def test_nets_on_raw_features():
    nets = [f"{name}-raw-{net}" for name, net in RAW_NETS.items()]
    missed = {}
    for division in scores.DIVISIONS:
        spent = scores.times(race(), division, "evaluations")["auto-dsa"]
        missed[division] = int(np.isinf(spent[nets]).sum())
    words = {2: "two", 3: "three", 5: "five"}
    assert_said(
        "README",
        f"{words[missed['untuned']]} of {words[len(nets)]} are missed, "
        f"{words[missed['tuned']]} with the rivals tuned",
    )


def test_misses_and_spikes():
    assert misses("untuned")["auto-dsa"] == 8
    assert_said("results", "`auto_dsa` misses eight of the 55 problems with nobody")
    ours = race()[race()["optimizer"] == "auto-dsa"]
    best, end = ours[f"best_loss_{scores.LONG}"], ours[f"end_loss_{scores.LONG}"]
    spiked = scores.blow_ups(ours, scores.LONG)
    greatest = (end / best)[spiked].max()
    assert_said(
        "results",
        f"After {scores.LONG:,} evaluations {spiked.sum()} of {len(ours)} runs",
        f"none by more than {greatest:.1f} times",
    )


# NIST ---------------------------------------------------------------------------------


@cache
def nist(dtype):
    records = pd.read_csv(RESULTS / nist_page.RECORDS)
    times = nist_runs.evaluations(records, dtype)
    return times, nist_runs.summary(times)


NIST_ROWS = {
    "**auto_dsa**": "auto-dsa",
    "BFGS, SciPy": "scipy-bfgs",
    "L-BFGS, Optax": "lbfgs",
    "L-BFGS-B, SciPy": "scipy-lbfgsb",
    "**auto_dsa, light**": "auto-dsa-light",
    "DSA": "dsa",
    "Adam at the best of five rates": "adam",
    "iRprop⁻": "irprop-minus",
    "`least_squares`, SciPy": "scipy-lm",
}


@pytest.mark.parametrize("label", NIST_ROWS)
def test_nist_table(label):
    cells = []
    for dtype in ("float64", "float32"):
        row = nist(dtype)[1].loc[NIST_ROWS[label]]
        median = f"{row['median']:g}" if np.isfinite(row["median"]) else "–"
        cells.append(f"{row['solved']:.0f} of {row['runs']:.0f} ({median})")
    assert_said("results", f"| {label.replace('**', '')} | {' | '.join(cells)} |")


def test_nist_in_sentences():
    solved = {
        name: " and ".join(
            str(nist(dtype)[1].loc[name, "solved"]) for dtype in ("float64", "float32")
        )
        for name in ("auto-dsa", "scipy-bfgs", "adam")
    }
    in64, in32 = solved["auto-dsa"].split(" and ")
    assert_said(
        "README",
        f"`auto_dsa` solves {in64} of 54 in float64 and {in32} in float32, SciPy's "
        f"BFGS {solved['scipy-bfgs']}, Adam at the best of five rates {solved['adam']}",
    )
    times = nist("float64")[0]
    ours, theirs = times["auto-dsa"], times["scipy-bfgs"]
    both = np.isfinite(ours) & np.isfinite(theirs)
    assert_said(
        "results",
        f"is ahead on {(both & (ours < theirs)).sum()} of {both.sum()}, SciPy's BFGS "
        f"on {(both & (theirs < ours)).sum()}.",
    )


# CUTEst -------------------------------------------------------------------------------


@cache
def cutest(half, least, most, kind="unconstrained"):
    records = read(RESULTS / cutest_page.RECORDS)
    part = Group((half,), least, most, kind).of(records)
    return part["problem"].nunique(), cutest_scores.summary(part)


CUTEST_ROWS = {
    "auto_dsa": "auto-dsa",
    "minimize()": "minimize",
    "BFGS, SciPy": "scipy-bfgs",
    "L-BFGS-B, SciPy": "scipy-lbfgsb",
    "L-BFGS, Optax": "optax-lbfgs",
    "L-BFGS, Optimistix": "optimistix-lbfgs",
    "BFGS, Optimistix": "optimistix-bfgs",
    "CG, SciPy": "scipy-cg",
    "auto_dsa, light": "auto-dsa-light",
    "iRprop⁻, the best of five first steps": "irprop-minus",
    "Adam, the best of four rates": "adam",
}

CHOSEN_ON, HELD_OUT = cutest_scores.HALVES


@pytest.mark.parametrize("label", CUTEST_ROWS)
def test_cutest_table(label):
    cells = []
    for sizes in cutest_scores.SIZES:
        of, rows = cutest(HELD_OUT, *sizes)
        if CUTEST_ROWS[label] in rows.index:
            row = rows.loc[CUTEST_ROWS[label]]
            cells.append(f" {row['1e-05']:.0f} of {of} ({row['area']:.3f}) ")
        else:
            cells.append(" ")
    assert_said("results", f"| {label} |{'|'.join(cells)}|")


def test_cutest_in_sentences():
    of, held_out = cutest(HELD_OUT, *cutest_scores.SIZES[0])
    chosen_of, chosen = cutest(CHOSEN_ON, *cutest_scores.SIZES[0])
    solved = held_out["1e-05"]
    assert_said(
        "README",
        f"`auto_dsa` solves {solved['auto-dsa']} of {of}, SciPy's BFGS "
        f"{solved['scipy-bfgs']}, L-BFGS-B {solved['scipy-lbfgsb']};",
    )
    pair = ["auto-dsa", "scipy-bfgs"]
    ours, theirs = chosen.loc[pair, "1e-05"]
    our_area, their_area = chosen.loc[pair, "area"]
    precise = {
        name: [rows.loc[name, "1e-08"] for rows in (chosen, held_out)] for name in pair
    }
    assert_said(
        "results",
        f"problems solved ({ours} and {theirs} of {chosen_of}) and ahead in area "
        f"({our_area:.3f} and {their_area:.3f}).",
        "To 1e-8 BFGS solves {} of the one half's and {} of the other's, `auto_dsa` "
        "{} and {}.".format(*precise["scipy-bfgs"], *precise["auto-dsa"]),
    )


def test_steps_to_minimizes_own_end():
    records = read(RESULTS / cutest_page.RECORDS)
    mine = Group().of(records[records["solver"] == "minimize"])["evaluations"]
    assert_said("results", f"it takes {mine.median():.0f} steps in the median")


def test_cutest_with_bounds_in_sentences():
    everything = 1, cutest_scores.LARGE, "bounded"
    of, chosen = cutest(CHOSEN_ON, *everything)
    other_of, held_out = cutest(HELD_OUT, *everything)
    pair = ["minimize", "scipy-lbfgsb"]
    both = chosen.loc[pair, "1e-05"] + held_out.loc[pair, "1e-05"]
    assert_said(
        "README",
        f"solves {both['minimize']} of {of + other_of}, L-BFGS-B "
        f"{both['scipy-lbfgsb']}.",
    )
    for rows in (chosen, held_out):
        assert_said("results", "{:.3f} and {:.3f}".format(*rows.loc[pair, "area"]))
    assert_said(
        "results",
        f"solves {chosen.loc['minimize', '1e-05']} of {of}",
        f"{held_out.loc['minimize', '1e-05']} of {other_of}, L-BFGS-B "
        f"{held_out.loc['scipy-lbfgsb', '1e-05']}",
    )


# Mini-batches -------------------------------------------------------------------------

LINE = CONTENDERS["warmed-muon-decay"].line


def gaps_by_task(line):
    records = read(RESULTS / minibatch_page.RECORDS)
    return {
        task: minibatch_page.gaps(runs, minibatch_page.measure_of(task[0]))[line]
        for task, runs in minibatch_page.by_task(records)
    }


def test_the_line_for_mini_batches():
    records = read(RESULTS / minibatch_page.RECORDS)
    words = {5: "five", 6: "six", 7: "seven"}
    level = words[minibatch_page.level(records)[LINE]]
    assert_said("README", f"level with the best tuned rival on {level} of eight tasks")
    assert_said("results", f"of the best tuned rival on {level} of eight tasks")
    verdict = minibatch_page.verdict(records)
    assert "Muon with weight decay on 7 of 8 tasks (SOAP on 1)" in verdict
    assert_said("results", "Muon is first on seven, where", "decay, SOAP on one.")
    behind = gaps_by_task(LINE)
    cifar = behind[("cifar10", "dnn")]
    assert_said("README", f"behind SOAP by {cifar:.1f} points on CIFAR-10")
    names = behind[("unicode-names", "attention, 5 epochs")]
    assert_said("results", f"by {cifar:.1f} points on CIFAR-10", f"{names:.2f} nats")
    plain = gaps_by_task(CONTENDERS["warmed-muon"].line)
    cold = gaps_by_task(CONTENDERS["muon-decay"].line)
    assert_said(
        "results",
        f"Without the decay it is on {count_level(plain)}, without the warm-up on "
        f"{count_level(cold)}",
    )


def count_level(behind):
    words = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
    measures = {task: minibatch_page.measure_of(task[0]) for task in behind}
    return words[sum(gap <= measures[task].tolerance for task, gap in behind.items())]


# The paper's method -------------------------------------------------------------------


def test_what_polishing_adds():
    """Of the five columns of the table of images, which is held to its records."""
    rows = PAGES["claims"].read_text(encoding="utf-8").splitlines()

    def means(first):
        (row,) = (row for row in rows if row.startswith(f"| {first}"))
        return np.array([float(mean) for mean in re.findall(r"([\d.]+) ±", row)])

    gains = means("**DSA** from there") - means("Adamax, at the switch")
    assert len(gains) == 5
    gained = f"{gains.min():.1f} to {gains.max():.1f}"
    assert_said("claims", f"DSA adds {gained} points")
    assert_said("polishing", f"add {gained} points")
    assert_said("results", f"add [{gained} points](claims.md)")
