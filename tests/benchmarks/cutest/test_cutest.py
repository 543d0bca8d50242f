"""CUTEst's problems: how they are loaded, the counting, the scores and the page."""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
import pandas as pd
import pytest

from benchmarks import __main__ as cli
from benchmarks.cutest import (
    curves,
    descents,
    optimistix_solvers,
    page,
    problems,
    runs,
    scipy_solvers,
    scores,
    watch,
)
from benchmarks.shared.optimizers.contenders import (
    CONTENDERS,
    Contender,
    HostContender,
)
from benchmarks.shared.records import code, read

pytestmark = pytest.mark.usefixtures("as_users_run_it")

RESULTS = Path(cli.__file__).parent / "results"


def bowl(name="bowl", n=2, start=3.0):
    """A loss of the squared distance to 2, in every parameter."""

    def objective(vector):
        return jnp.sum((vector - 2) ** 2)

    return problems.Problem(name, n, objective, np.full(n, start))


def traces(run, problem, budget):
    """All traces of a solver, in 64 bits as `runs` has it."""
    with jax.enable_x64(True), np.errstate(all="ignore"):
        return list(run(watch.compiled(problem), budget))


# The problems -------------------------------------------------------------------------


def test_what_the_package_lists_is_there_but_for_what_is_left_out():
    free, bounded = map(problems.listed, problems.KINDS)
    assert (len(free), len(bounded)) == (197, 89)
    assert not set(free) & set(bounded)
    assert set(problems.LEFT_OUT) < {*free, *bounded}
    counts = [len(problems.names(kind)) for kind in (*problems.KINDS, None)]
    assert counts == [189, 85, 274]
    assert not set(problems.names()) & set(problems.LEFT_OUT)
    assert free["KIRBY2LS"] == "kirby"
    assert "WATSON" not in free  # it is defined, and commented out


@pytest.mark.parametrize(
    ("name", "n", "loss"),
    [
        ("ROSENBR", 2, 24.2),
        ("BEALE", 2, 14.203125),
        ("BARD", 3, 41.681697),
        ("KOWOSB", 4, 5.3136172e-3),
        ("BIGGS6", 6, 0.77907),
    ],
)
def test_the_loss_at_the_start_is_as_published(name, n, loss):
    """By Moré, Garbow and Hillstrom's formulas, and as their starts have it."""
    problem = problems.load(name)
    assert (problem.name, problem.n, problem.start.shape) == (name, n, (n,))
    [trace] = traces(runs.SOLVERS["scipy-cg"].traces, problem, 1)
    assert trace.losses[0] == pytest.approx(loss, rel=1e-5)


def test_a_problem_is_loaded_in_64_bits_and_alone():
    problem = problems.load("KOWOSB")
    assert problem.start.dtype == np.float64
    module = sys.modules["_sif2jax_by_module.cutest._unconstrained_minimisation.kowosb"]
    assert not hasattr(sys.modules["_sif2jax_by_module"], "cutest")
    assert hasattr(module, "KOWOSB")
    assert "sif2jax" not in sys.modules
    # The process is as it was, and the problem's constants are not.
    assert jnp.ones(()).dtype == np.float32
    x = problem.start
    y = [0.1957, 0.1947, 0.1735, 0.16, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235]
    u = np.array([4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0624])
    fitted = x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])
    with jax.enable_x64(True):
        loss = float(problem.objective(jnp.asarray(x)))
    assert loss == pytest.approx(np.sum(([*y, 0.0246] - fitted) ** 2), rel=1e-13)


def test_bounds_and_a_start_within():
    problem = problems.load("HS5")  # Hock and Schittkowski's
    assert problem.kind == "bounded"
    np.testing.assert_array_equal(problem.bounds, [[-1.5, -3], [4, 3]])
    for name in ("minimize", "scipy-lbfgsb"):
        [trace] = traces(runs.SOLVERS[name].traces, problem, 60)
        assert trace.losses[0] == 1
        least = -np.sqrt(3) / 2 - np.pi / 3
        assert min(trace.losses) == pytest.approx(least, rel=1e-9)
    start = problems.load("PALMER5B").start
    low, high = problems.load("PALMER5B").bounds
    assert np.all((low <= start) & (start <= high))
    assert problems.load("ROSENBR").bounds is None


def test_minimize_ends_by_itself():
    [trace] = traces(descents.minimize_traces, bowl(), 500)
    assert trace.spent == len(trace.losses) < 500
    assert trace.losses[0] == 2


def test_a_name_decides_its_half():
    assert problems.half("ROSENBR") == problems.load("ROSENBR").half
    halves = [problems.half(name) for name in problems.names()]
    assert sorted({*halves}) == ["choosing", "held-out"]
    assert min(halves.count(half) for half in problems.HALVES) >= 80
    # binascii's check value, and the checksum of nothing.
    assert problems.half("123456789") == "choosing"  # 0xCBF43926
    assert problems.half("") == "choosing"


# Counting -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scipy-bfgs", "scipy-lbfgs", "scipy-cg"])
def test_every_call_by_scipy_is_counted(name):
    calls = []
    contender = CONTENDERS[name]
    contender = contender._replace(settings=contender.settings[:1])

    def minimize(objective, start, setting):
        def counted(point):
            calls.append(point)
            return objective(point)

        contender.minimize(counted, start, setting)

    run = partial(scipy_solvers.traces, contender._replace(minimize=minimize))
    [trace] = traces(run, bowl(), 50)
    assert len(calls) == len(trace.losses) == trace.spent < 50
    assert trace.evaluations.tolist() == list(range(1, trace.spent + 1))
    assert trace.losses[0] == 2
    assert trace.end_loss == min(trace.losses) < 1e-12
    # One that is stopped by the budget.
    [trace] = traces(run, problems.load("ROSENBR"), 7)
    assert trace.spent == 7


def test_scipy_is_restarted_from_its_best_point_until_that_gains_nothing():
    starts = []

    def halves_twice(objective, start, setting):
        starts.append(start[0])
        if len(starts) < 3:
            objective((start + 2) / 2)
        objective(start + 1)

    contender = HostContender("stub", halves_twice)
    run = partial(scipy_solvers.traces, contender)
    [trace] = traces(run, bowl(n=1), 50)
    assert starts == [3, 2.5, 2.25]
    np.testing.assert_array_equal(trace.losses, [0.25, 4, 0.0625, 2.25, 1.5625])


def test_what_is_no_finite_number_is_not_seen():
    def objective(vector):
        return jnp.select(
            [vector[0] < 0, vector[0] > 5], [-jnp.inf, jnp.nan], vector[0]
        )

    handed = []

    def minimize(objective, start, setting):
        handed.extend(objective(start + shift)[0] for shift in (0, -4, 4, -1))

    problem = bowl(n=1)._replace(objective=objective)
    run = partial(scipy_solvers.traces, HostContender("stub", minimize))
    [trace] = traces(run, problem, 4)
    np.testing.assert_array_equal(trace.losses, [3, np.inf, np.inf, 2])
    np.testing.assert_array_equal(handed, [3, -np.inf, np.inf, 2])
    assert trace.end_loss == 2


def test_an_update_is_one_evaluation_and_every_setting_a_run():
    sgd = Contender("SGD", optax.sgd, (0.5, 0.25))
    half, quarter = traces(partial(descents.traces, sgd), bowl(n=1), 4)
    np.testing.assert_array_equal(half.losses, [1, 0, 0, 0])
    np.testing.assert_array_equal(quarter.losses, [1, 0.25, 0.0625, 0.015625])
    assert (half.setting, quarter.setting) == (0.5, 0.25)
    assert quarter.evaluations.tolist() == [1, 2, 3, 4]
    assert (quarter.spent, quarter.end_loss) == (4, 0.015625)


def test_an_update_is_told_the_loss():
    def told(rate):
        def update(grads, state, params, *, value, **_):
            return jax.tree.map(lambda g: -rate * value * jnp.sign(g), grads), state

        return optax.GradientTransformationExtraArgs(lambda _: (), update)

    run = partial(descents.traces, Contender("told", told, (0.5,)))
    [trace] = traces(run, bowl(n=1), 3)
    np.testing.assert_array_equal(trace.losses, [1, 0.25, (0.5 - 0.125) ** 2])


def test_all_that_a_line_search_tries_is_counted():
    calls = []

    def objective(vector):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.sum(
            100 * (vector[1:] - vector[:-1] ** 2) ** 2 + (1 - vector[:-1]) ** 2
        )

    problem = bowl()._replace(objective=objective, start=np.array([-1.2, 1.0]))
    run = runs.SOLVERS["optax-lbfgs"].traces
    [trace] = traces(run, problem, 30)
    jax.effects_barrier()
    assert trace.losses[0] == pytest.approx(24.2)
    assert trace.evaluations[0] == 1
    assert (np.diff(trace.evaluations) >= 1).all()
    assert trace.evaluations[-1] <= trace.spent == 30
    # The step itself asks for the gradient that the search ended with again.
    assert 30 <= len(calls) - len(trace.losses) <= 30 + 20


@pytest.mark.parametrize("name", ["BFGS", "LBFGS"])
def test_optimistix_goes_its_own_way_step_by_step(name):
    problem = problems.load("BEALE")
    run = partial(optimistix_solvers.traces, name)
    [trace] = traces(run, problem, 60)
    assert trace.spent == 60
    with jax.enable_x64(True):
        solution = optimistix.minimise(
            lambda y, _: problem.objective(y),
            getattr(optimistix, name)(rtol=1e-6, atol=1e-6),
            jnp.asarray(problem.start),
            throw=False,
        )
        loss = float(problem.objective(solution.value))
        steps = int(solution.stats["num_steps"])
    assert 10 < steps < 60
    assert trace.losses[:steps].min() == pytest.approx(loss, rel=1e-6, abs=1e-20)


@pytest.mark.parametrize("name", runs.SOLVERS)
def test_every_solver_gets_down_a_bowl(name):
    solver = runs.SOLVERS[name]
    of_a_run = traces(solver.traces, bowl(), 60)
    assert [trace.setting for trace in of_a_run] == list(solver.settings)
    for trace in of_a_run:
        assert trace.losses[0] == 2
        assert trace.spent <= 60
    assert min(trace.losses.min() for trace in of_a_run) < 1e-3


# Curves -------------------------------------------------------------------------------


def test_the_grid_is_exact_first_and_ends_with_the_budget():
    grid = curves.grid(1000)
    assert grid[:40].tolist() == list(range(1, 41))
    assert grid[-1] == 1000
    assert (np.diff(np.log(grid[40:])) < 0.09).all()
    assert len(grid) < 100
    assert curves.grid(7).tolist() == list(range(1, 8))
    assert curves.grid(1).tolist() == [1]


def test_a_curve_keeps_the_lowest_loss_by_then():
    losses = np.array([10.0, np.inf, 6.0, 8.0, 2.0, 2.0, 3.0])
    text = curves.pack(np.arange(1, 8), losses, 7)
    assert text == "1:1 3:0.5 5:0"
    evaluations, shares = curves.unpack(text)
    np.testing.assert_array_equal(evaluations, [1, 3, 5])
    np.testing.assert_array_equal(shares, [1, 0.5, 0])
    # Between the points of the grid, what is seen counts at the next.
    far = np.array([1, 41, 500])
    assert curves.pack(far, np.array([1.0, 0.5, 0.0]), 1000) == "1:1 43:0.5 523:0"
    assert curves.pack(np.array([1, 2]), np.array([1.0, 2.0]), 2) == "1:0"


def test_a_share_of_the_way_is_told_where_the_losses_cannot():
    """The way is a billionth of the losses; and another solver got lower."""
    losses = 1e6 + 1e-3 * np.array([1, 0.5, 1e-4, 0])
    text = curves.pack(np.arange(1, 5), losses, 4)
    ends = float(losses[0]), float(losses[-1])
    assert scores.evaluations_to(text, *ends, ends[1], 1e-3) == 3
    assert scores.evaluations_to(text, *ends, ends[1], 1e-5) == 4
    lower = ends[1] - 5e-3 * (ends[0] - ends[1])
    assert scores.evaluations_to(text, *ends, lower, 1e-2) == 3
    assert scores.evaluations_to(text, *ends, lower, 5e-3) == 4
    assert scores.evaluations_to(text, *ends, lower, 1e-3) == np.inf


# The records --------------------------------------------------------------------------


@pytest.fixture
def bowls(monkeypatch):
    """Problems of other sizes, in place of the package's."""
    monkeypatch.setattr(
        problems, "load", lambda name: bowl(name, 2000 if name == "LARGE" else 2)
    )


def stub(calls, settings=(0.0,), most=None):
    """A solver that says when it is run."""

    def run(compiled, budget):
        calls.append(compiled.problem.name)
        for setting in settings:
            losses = np.array([4.0, np.inf, 1.0, 2.0])
            yield watch.Trace(setting, np.arange(1, 5), losses, 4, 2.0)

    return runs.Solver("stub", run, settings, most)


def test_a_second_run_skips_what_is_there(tmp_path, bowls):
    path, calls = tmp_path / page.RECORDS, []
    solvers = {"adam": stub(calls, (0.1, 0.2)), "scipy-bfgs": stub(calls, most=1000)}
    running = runs.run(path, ["SMALL", "LARGE"], solvers, 4)
    assert [next(running) for _ in range(2)] == ["adam, SMALL", "scipy-bfgs, SMALL"]
    assert len(read(path)) == 3
    assert len(list(runs.run(path, ["SMALL", "LARGE"], solvers, 4))) == 4
    assert calls == ["SMALL", "SMALL", "LARGE"]
    before = path.read_bytes()
    list(runs.run(path, ["SMALL", "LARGE"], solvers, 4))
    assert path.read_bytes() == before
    # Other settings are another unit's worth of runs.
    list(runs.run(path, ["SMALL"], {"adam": stub(calls, (0.1, 0.3))}, 4))
    kept = read(path)
    assert len(calls) == 4
    assert len(kept) == 5
    assert set(kept[kept["problem"] == "SMALL"]["setting"]) == {0.1, 0.3, 0.0}


def test_a_row_has_all_that_the_page_needs(tmp_path, bowls):
    path = tmp_path / page.RECORDS
    list(runs.run(path, ["SMALL"], {"adam": stub([])}, 4))
    assert read(path).to_dict("records") == [
        {
            "problem": "SMALL",
            "kind": "unconstrained",
            "n": 2,
            "half": problems.half("SMALL"),
            "solver": "adam",
            "setting": 0,
            "start_loss": 4,
            "best_loss": 1,
            "end_loss": 2,
            "evaluations": 4,
            "curve": "1:1 3:0",
            "code": code(),
        }
    ]


# Scores and the page ------------------------------------------------------------------


def record(
    problem,
    solver,
    best,
    curve,
    *,
    n=2,
    half="choosing",
    setting=0.0,
    kind="unconstrained",
):
    return {
        "problem": problem,
        "kind": kind,
        "n": n,
        "half": half,
        "solver": solver,
        "setting": setting,
        "start_loss": 1.0,
        "best_loss": best,
        "end_loss": best,
        "evaluations": 1000,
        "curve": curve,
    }


RECORDS = pd.DataFrame(
    [
        record("ONE", "auto-dsa", 0.0, "1:1 5:0.0005 10:1e-06 20:0"),
        record("ONE", "adam", 1e-4, "1:1 30:0.0002 900:0", setting=0.1),
        record("ONE", "adam", 1e-6, "1:1 100:0", setting=0.01),
        record("TWO", "auto-dsa", 0.5, "1:1 2:0", half="held-out"),
        record("TWO", "adam", 0.0, "1:1 1000:0", half="held-out"),
        record("THREE", "auto-dsa", -1.0, "1:1 3:0", n=5000),
        record("THREE", "scipy-bfgs", -1.0, "1:1 4:0", n=5000),
    ]
)


def test_times_are_to_the_lowest_of_all_at_the_best_setting():
    times = scores.times(RECORDS, 1e-3)
    assert list(times.index) == ["ONE", "TWO", "THREE"]
    assert list(times.columns) == ["auto-dsa", "scipy-bfgs", "adam"]
    np.testing.assert_array_equal(times["auto-dsa"], [5, np.inf, 3])
    np.testing.assert_array_equal(times["adam"], [30, 1000, np.nan])
    np.testing.assert_array_equal(times["scipy-bfgs"], [np.nan, np.nan, 4])
    times = scores.times(RECORDS, 1e-5)
    np.testing.assert_array_equal(times["auto-dsa"], [10, np.inf, 3])
    np.testing.assert_array_equal(times["adam"], [100, 1000, np.nan])


def test_the_area_is_that_below_the_profile_over_the_logarithm():
    spent = pd.Series([1, 10, 1000, np.inf, np.nan])
    assert scores.area(spent) == pytest.approx((1 + 2 / 3 + 0 + 0) / 4)
    # The same by the picture: shares of the problems over the logarithm.
    ticks = np.geomspace(1, 1000, 100_001)
    shares = (spent.dropna().to_numpy()[:, None] <= ticks).mean(axis=0)
    assert scores.area(spent) == pytest.approx(shares.mean(), abs=1e-4)


def test_summary_counts_a_miss():
    rows = scores.summary(RECORDS)
    assert rows.loc["auto-dsa", ["problems", "0.001", "1e-05", "1e-08"]].tolist() == [
        3,
        2,
        2,
        2,
    ]
    assert rows.loc["adam", ["problems", "0.001", "1e-05", "1e-08"]].tolist() == [
        2,
        2,
        2,
        1,
    ]
    assert rows.loc["auto-dsa", "median"] == 10
    assert rows.loc["adam", "median"] == 550


def test_the_page_shows_a_miss_as_a_miss(tmp_path):
    RECORDS.to_csv(tmp_path / page.RECORDS, index=False)
    page.write(tmp_path)
    text = (tmp_path / "cutest.md").read_text()
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.split("\n")
    ]
    assert ["ONE", "2", "choosing", "1", "0", "10", "", "100"] in rows
    assert ["TWO", "2", "held-out", "1", "0", "–", "", "1000"] in rows
    assert ["THREE", "5,000", "choosing", "1", "-1", "3", "4", ""] in rows
    assert ["**auto_dsa**", "0", "0", "0", "0.000", "–"] in rows
    assert "## The choosing half, 1,001 to 10,000 parameters: 1 problem\n" in text
    assert "## Both halves, 1 to 1,000 parameters: 2 problems\n" in text
    assert "11 to 1,000" not in text
    assert "With bounds" not in text
    assert (tmp_path / page.FIGURE).stat().st_size > 10_000


def test_the_page_shows_bounds_apart(tmp_path):
    bounded = [
        record("FOUR", "minimize", 0.0, "1:1 7:0", kind="bounded"),
        record("FOUR", "scipy-lbfgsb", 0.0, "1:1 9:0", kind="bounded"),
    ]
    records = pd.concat([RECORDS, pd.DataFrame(bounded)])
    records.to_csv(tmp_path / page.RECORDS, index=False)
    text = page.text(tmp_path)
    assert "## With bounds, the choosing half: 1 problem\n" in text
    assert "## Both halves, 1 to 1,000 parameters: 2 problems\n" in text
    free, with_bounds = text.split("With bounds:\n")
    assert "| FOUR" not in free
    assert "| FOUR" in with_bounds


def test_a_part_is_run_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runs.run, "__defaults__", (30,))
    half = problems.half("ROSENBR")
    part = "--problems ROSENBR BEALE CUBE --solvers scipy-lbfgsb irprop-minus"
    arguments = ["cutest", *part.split(), "--half", half, "--output", str(tmp_path)]
    assert cli.main(arguments) == 0
    assert f"The {half} half, 1 to 1,000" in " ".join(capsys.readouterr().out.split())
    kept = read(tmp_path / page.RECORDS)
    of_the_half = {n for n in ("ROSENBR", "BEALE", "CUBE") if problems.half(n) == half}
    assert set(kept["problem"]) == of_the_half
    assert set(kept["solver"]) == {"scipy-lbfgsb", "irprop-minus"}
    assert kept["evaluations"].max() <= 30
    assert "| ROSENBR" in (tmp_path / "cutest.md").read_text()


def test_the_committed_records_are_whole():
    records = read(RESULTS / page.RECORDS)
    assert set(records["problem"]) == set(problems.names())
    facts = records.groupby("problem")[["n", "kind"]].first()
    assert facts["n"].max() <= scores.LARGE
    for name, solver in runs.SOLVERS.items():
        rows = records[records["solver"] == name]
        fits = facts if solver.most is None else facts[facts["n"] <= solver.most]
        fits = fits if solver.bounded else fits[fits["kind"] == "unconstrained"]
        assert set(rows["problem"]) == set(fits.index), name
        settings = rows.groupby("problem")["setting"].agg(set)
        assert (settings == set(solver.settings)).all()
    # Someone got lower on each.
    lowest = records.groupby("problem")["best_loss"].min()
    assert (lowest < records.groupby("problem")["start_loss"].min()).all()
