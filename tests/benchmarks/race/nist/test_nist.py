"""NIST's nonlinear regressions: the files, the models, the counting and the page."""

import os
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
import pandas as pd
import pytest

from benchmarks import __main__ as cli
from benchmarks.race.nist import data, descents, page, problems, runs, scipy_solvers
from benchmarks.shared.data.files import DATA_DIR_VARIABLE, DataError
from benchmarks.shared.optimizers.contenders import CONTENDERS, Contender
from benchmarks.shared.records import code, read

pytestmark = pytest.mark.usefixtures("as_users_run_it")

SHARED_DATA = Path(__file__).parents[5] / "shared" / "data"
REAL_DATA = Path(os.environ.get(DATA_DIR_VARIABLE) or SHARED_DATA)


@pytest.fixture
def data_dir():
    """The folder with the real files."""
    if not (REAL_DATA / data.FOLDER).is_dir():
        pytest.skip(f"no data files: {DATA_DIR_VARIABLE} or {SHARED_DATA}")
    return REAL_DATA


def line(certified_rss=0.0, starts=((0.0,), (3.0,))):
    """A regression of 2 on b1: the loss is (2 - b1)²."""
    return problems.Regression(
        name="line",
        residuals=lambda params: 2 - params["b1"][None],
        starts=np.array(starts),
        certified=np.array([2.0]),
        certified_rss=certified_rss,
        level="Lower",
        squares=4.0,
    )


# The files and the models -------------------------------------------------------------


@pytest.mark.parametrize("name", data.FILES)
def test_certified_fit_is_reproduced(name, data_dir):
    regression = problems.regression(data.load(name, data_dir))
    with jax.enable_x64(True):
        params = problems.as_params(regression.certified, np.float64)
        rss = float(regression.loss(params))
    if name == "Lanczos1":  # its certified 1e-25 is below the digits of its parameters
        assert regression.certified_rss < rss < 1e-20 * regression.squares
    else:
        np.testing.assert_allclose(rss, regression.certified_rss, rtol=1e-10)


def test_values_as_one_reads_them(data_dir):
    misra = data.load("Misra1a", data_dir)
    np.testing.assert_array_equal(misra.starts, [[500, 0.0001], [250, 0.0005]])
    np.testing.assert_array_equal(misra.certified, [238.94212918, 5.5015643181e-4])
    np.testing.assert_array_equal(misra.y[[0, -1]], [10.07, 81.78])
    np.testing.assert_array_equal(misra.x[:, [0, -1]], [[77.6, 760.0]])
    assert (misra.level, misra.certified_rss) == ("Lower", 1.2455138894e-1)
    nelson = data.load("Nelson", data_dir)
    starts = [[2, 0.0001, -0.01], [2.5, 0.000000005, -0.05]]
    np.testing.assert_array_equal(nelson.starts, starts)
    assert nelson.x.shape == (2, 128)
    np.testing.assert_array_equal(nelson.x[:, 0], [1, 180])
    np.testing.assert_array_equal(
        data.load("ENSO", data_dir).starts[1, 3:5], [44, -1.5]
    )


def test_there_are_8_easy_11_and_8_hard_ones(data_dir):
    regressions = problems.load(data_dir)
    assert list(regressions) == list(problems.MODELS)
    levels = [regression.level for regression in regressions.values()]
    assert [levels.count(level) for level in data.LEVELS] == [8, 11, 8]


@pytest.mark.parametrize("name", ["Nelson", "ENSO", "Roszman1"])
def test_residuals_have_the_dtype_of_the_params(name, data_dir):
    regression = problems.regression(data.load(name, data_dir))
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        for dtype in problems.DTYPES:
            params = problems.as_params(regression.starts[0], dtype)
            assert regression.residuals(params).dtype == dtype


def test_a_damaged_file_is_refused(data_dir, tmp_path):
    path = tmp_path / data.FOLDER / "Rat42.dat"
    path.parent.mkdir()
    path.write_bytes((data_dir / data.FOLDER / "Rat42.dat").read_bytes()[:-20])
    with pytest.raises(DataError, match="is damaged: it has 1853 bytes") as raised:
        data.load("Rat42", tmp_path)
    for part in (path, data.FILES["Rat42"].sha256, "https://www.itl.nist.gov"):
        assert str(part) in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Starting Values   (lines", "Starting Values   (rows"),
        ("(lines 61 to 69)", "(lines 60 to 69)"),
        ("Residual Sum of Squares", "Residuals"),
        ("Higher Level", "High Level"),
    ],
)
def test_what_is_no_such_file_is_refused(old, new, data_dir, tmp_path):
    text = (data_dir / data.FOLDER / "Rat42.dat").read_text()
    assert old in text
    path = tmp_path / "Rat42.dat"
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=r"Rat42\.dat is no file of NIST's"):
        data.parse(path)


def test_a_missing_file_offline_is_one_clear_error(tmp_path, monkeypatch, capsys):
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("pooch.retrieve", offline)
    output = tmp_path / "out"
    arguments = ["nist", "--data-dir", str(tmp_path), "--output", str(output)]
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    for part in ("Misra1a.dat is missing", "DATA/Misra1a.dat", "1853 bytes"):
        assert part in error
    assert not output.exists()


# What is solved, and what it costs ----------------------------------------------------


def test_solved_allows_a_tolerance_and_the_last_digits():
    assert line(certified_rss=2.0).goal("float64") == pytest.approx(2.000002, rel=1e-12)
    assert line(certified_rss=2.0).goal("float32") == pytest.approx(2.002, rel=1e-9)
    assert line().goal("float64") == pytest.approx(4e-20)
    assert line().goal("float32") == pytest.approx(4e-12)


def test_the_first_evaluation_that_meets_the_goal_counts():
    rss = np.array([9.0, 2.0, 1.0, 5.0])
    trace = problems.Trace(0, 0.0, np.array([1, 3, 5, 7]), rss)
    assert trace.evaluations_to(2.0) == 3
    assert trace.evaluations_to(0.5) == np.inf


@pytest.mark.parametrize(
    ("solve", "names"),
    [
        (scipy_solvers.bfgs, ["value_and_grad"]),
        (scipy_solvers.lbfgsb, ["value_and_grad"]),
        (scipy_solvers.levenberg_marquardt, ["residuals", "jacobian"]),
    ],
)
def test_every_call_by_scipy_is_counted(solve, names):
    calls = []

    def counted(watched, start):
        def count(function, values):
            calls.append(function)
            return getattr(watched, function)(values)

        functions = {name: partial(count, name) for name in names}
        return solve(watched._replace(**functions), start)

    traces = list(scipy_solvers.traces(counted, line(), "float64", budget=50))
    assert [trace.start for trace in traces] == [0, 1]
    assert set(calls) == set(names)
    assert len(calls) == sum(len(trace.rss) for trace in traces)
    for trace in traces:
        assert trace.evaluations_to(line().goal("float64")) == len(trace.rss) < 50


def test_scipy_stops_with_the_budget():
    def endless(watched, start):
        while True:
            watched.value_and_grad(start)

    [trace, _] = scipy_solvers.traces(endless, line(), "float32", budget=7)
    np.testing.assert_array_equal(trace.evaluations, np.arange(1, 8))
    np.testing.assert_array_equal(trace.rss, 4)


def test_scipy_is_restarted_from_its_best_point_until_that_gains_nothing():
    starts = []

    def halves_twice(watched, start):
        starts.append(float(start[0]))
        if len(starts) < 3:
            watched.value_and_grad((start + 2) / 2)
        watched.value_and_grad(start - 1)

    regression = line(starts=((0.0,),))
    [trace] = scipy_solvers.traces(halves_twice, regression, "float64", budget=50)
    assert starts == [0, 1, 1.5]
    np.testing.assert_array_equal(trace.rss, [1, 9, 0.25, 4, 2.25])


def evaluations_seen(contender, budget):
    traces = descents.traces(contender, line(), "float64", budget)
    return [trace.evaluations.tolist() for trace in traces]


def test_an_update_counts_what_it_evaluates():
    [plain, _] = evaluations_seen(Contender("SGD", optax.sgd, (0.1,)), 6)
    assert plain == [1, 2, 3, 4, 5, 6]
    dsa = CONTENDERS["dsa"]._replace(settings=(-12.0,))
    [two_an_update, _] = evaluations_seen(dsa, 6)
    assert two_an_update == [1, 3, 5]
    [line_search, _] = evaluations_seen(
        CONTENDERS["lbfgs"]._replace(settings=(0.9,)), 6
    )
    assert line_search[0] == 1
    assert line_search[1] >= 2


def test_the_evaluation_that_sees_the_solution_counts():
    """At the rate 1/2 the first update goes to the solution, and the second sees it."""
    sgd = Contender("SGD", optax.sgd, (0.5, 0.25))
    for dtype in problems.DTYPES:
        traces = list(descents.traces(sgd, line(), dtype, 4))
        runs_ = [(trace.start, trace.setting) for trace in traces]
        assert runs_ == [(0, 0.5), (0, 0.25), (1, 0.5), (1, 0.25)]
        np.testing.assert_array_equal(traces[0].rss, [4, 0, 0, 0])
        np.testing.assert_array_equal(traces[1].rss, [4, 1, 0.25, 0.0625])
        assert traces[0].evaluations_to(line().goal(dtype)) == 2
        assert traces[1].evaluations_to(line().goal(dtype)) == np.inf


def test_what_diverges_is_infinite():
    sgd = Contender("SGD", optax.sgd, (1e30,))
    [trace, _] = descents.traces(sgd, line(), "float32", 300)
    assert trace.rss[0] == 4
    assert trace.rss[-1] == np.inf


# The records and the page -------------------------------------------------------------


def stub(calls, evaluations, settings=(0.0,)):
    """A solver of two runs a setting, that says when it is run."""

    def traces(regression, dtype, budget):
        calls.append((regression.name, dtype))
        rss = np.array([5.0, regression.goal(dtype), 7.0])
        for start in range(2):
            for setting in settings:
                seen = np.array([1, evaluations, 2000])
                solved = np.isfinite(evaluations) and start == 0
                yield problems.Trace(start, setting, seen, rss + (not solved))

    return runs.Solver("stub", traces, settings)


def test_a_second_run_skips_what_is_there(tmp_path):
    path, calls = tmp_path / "nist.csv.gz", []
    regressions = {"line": line(1.0), "other": line(1.0)._replace(name="other")}
    solvers = {"adam": stub(calls, 30, (0.1, 0.2)), "dsa": stub(calls, 40)}
    running = runs.run(path, regressions, solvers, ["float64"])
    assert [next(running) for _ in range(3)][-1] == "adam, other, float64"
    assert len(read(path)) == 4 + 2 + 4
    assert len(list(runs.run(path, regressions, solvers, problems.DTYPES))) == 8
    assert len(calls) == 8
    before = path.read_bytes()
    assert len(list(runs.run(path, regressions, solvers, problems.DTYPES))) == 8
    assert len(calls) == 8
    assert path.read_bytes() == before
    # Other settings are another unit's worth of runs.
    solvers = {"adam": stub(calls, 30, (0.1, 0.3))}
    list(runs.run(path, regressions, solvers, ["float64"]))
    assert len(calls) == 10
    kept = read(path)
    assert len(kept) == 2 * 2 * (4 + 2)
    adam = kept[(kept["solver"] == "adam") & (kept["dtype"] == "float64")]
    assert set(adam["setting"]) == {0.1, 0.3}


def test_a_row_has_all_that_the_page_needs(tmp_path):
    path = tmp_path / "nist.csv.gz"
    list(runs.run(path, {"line": line(1.0)}, {"dsa": stub([], 30)}, ["float32"]))
    solved, missed = read(path).to_dict("records")
    assert solved == {
        "dataset": "line",
        "start": 1,
        "dtype": "float32",
        "solver": "dsa",
        "setting": 0,
        "level": "Lower",
        "evaluations": 30,
        "best_rss": pytest.approx(1.001),
        "end_rss": 7,
        "certified_rss": 1,
        "code": code(),
    }
    assert missed["evaluations"] == np.inf
    assert missed["end_rss"] == 8


def record(dataset, start, solver, evaluations, setting=0.0, dtype="float64"):
    return {
        "dataset": dataset,
        "start": start,
        "dtype": dtype,
        "solver": solver,
        "setting": setting,
        "level": "Lower",
        "evaluations": evaluations,
        "best_rss": 2.0 if np.isfinite(evaluations) else 6.0,
        "end_rss": 8.0,
        "certified_rss": 2.0,
    }


RECORDS = pd.DataFrame(
    [
        record("Chwirut2", 1, "adam", 700, 0.1),
        record("Chwirut2", 1, "adam", 300, 0.01),
        record("Chwirut2", 2, "adam", np.inf, 0.1),
        record("Chwirut2", 2, "adam", 500, 0.01),
        record("Chwirut2", 1, "auto-dsa", 40),
        record("Chwirut2", 2, "auto-dsa", 30),
        record("Misra1a", 1, "auto-dsa", np.inf),
        record("Misra1a", 2, "auto-dsa", np.inf),
        record("Misra1a", 1, "adam", np.inf, 0.1),
        record("Misra1a", 2, "adam", 1900, 0.1),
        record("Misra1a", 1, "scipy-lm", 7),
        record("Chwirut2", 1, "auto-dsa", 50, dtype="float32"),
    ]
)


def test_summary_counts_a_miss_as_infinite():
    rows = page.summary_table(RECORDS, "float64").to_numpy().tolist()
    assert rows == [
        ["auto_dsa", "2 of 4", "35", "–"],
        ["Adam, best", "3 of 4", "500", "1200"],
        ["least_squares, SciPy", "1 of 1", "7", "7"],
    ]


def test_the_page_shows_a_miss_as_a_miss(tmp_path):
    RECORDS.to_csv(tmp_path / page.RECORDS, index=False)
    page.write(tmp_path)
    lines = (tmp_path / "nist.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert ["Misra1a, 1", "–", "–", "7"] in rows
    assert ["Misra1a, 2", "–", "1900", ""] in rows
    assert ["Chwirut2, 1", "40", "300", ""] in rows
    assert ["**auto_dsa**", "2 of 4", "35", "–"] in rows
    assert ["Misra1a, 2", "float64", "Lower", "3", "Adam, best, 1900"] in rows
    assert ["Misra1a, 1", "float64", "Lower", "3", "–"] in rows
    assert (tmp_path / page.FIGURE).stat().st_size > 10_000


def test_a_part_is_run_from_the_command_line(data_dir, tmp_path, capsys):
    part = "--datasets DanWood --solvers irprop-minus scipy-bfgs --dtypes float64"
    folders = ["--data-dir", str(data_dir), "--output", str(tmp_path)]
    assert cli.main(["nist", *part.split(), *folders]) == 0
    printed = capsys.readouterr().out
    assert "NIST's regressions, float64" in printed
    [bfgs] = [line for line in printed.splitlines() if "BFGS, SciPy" in line]
    assert "2 of 2" in bfgs
    kept = pd.read_csv(tmp_path / "nist.csv.gz")
    assert list(kept["solver"].unique()) == ["irprop-minus", "scipy-bfgs"]
    assert "DanWood, 2" in (tmp_path / "nist.md").read_text()


# What auto_dsa makes of walls and poles -----------------------------------------------


@pytest.mark.parametrize("name", ["Chwirut2", "Misra1c"])
def test_auto_dsa_crosses_no_pole_and_ends_at_the_certified_fit(name, data_dir):
    """Chwirut2 has a pole at a step from its nearer start, Misra1c a region of NaN."""
    regression = problems.regression(data.load(name, data_dir))
    solver = runs.SOLVERS["auto-dsa"]
    for trace in solver.traces(regression, "float64", 300):
        assert np.isfinite(trace.rss[-1])
        assert trace.rss[-1] < trace.rss[0]
        assert trace.evaluations_to(regression.goal("float64")) < 300
