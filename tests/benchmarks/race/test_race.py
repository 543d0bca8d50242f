"""The race: what is counted, what is kept, and who wins by the rules."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from scipy.optimize import minimize

from benchmarks import __main__ as cli
from benchmarks.race import command, curves, page, runs, scores
from benchmarks.race.runs import Kept
from benchmarks.shared.optimizers import host
from benchmarks.shared.optimizers.contenders import (
    CONTENDERS,
    RIVALS,
    Contender,
    HostContender,
)
from benchmarks.shared.problems.functions import quadratic, rosenbrock
from benchmarks.shared.problems.halves import DEVELOPMENT, TEST
from benchmarks.shared.records import read
from benchmarks.shared.runner import Problem
from dsa_optax import make_train_step

pytestmark = pytest.mark.usefixtures("as_users_run_it")

inf, nan = np.inf, np.nan


# Problems -----------------------------------------------------------------------------

LIGHT = (
    *("decays", "axes-1e6", "rotated-1e2", "powell-8", "peaks-3"),
    *("growth-raw", "counts-wine", "kalman-level", "tensor-3"),
)


def test_halves_are_disjoint_and_large_enough():
    assert not DEVELOPMENT.keys() & TEST.keys()
    assert len(DEVELOPMENT) + len(TEST) >= 50


@pytest.mark.parametrize("name", LIGHT)
def test_a_problem_starts_with_a_finite_loss_and_gradient(name):
    """All of them are held to that by the committed records (`test_results.py`)."""
    problem = page.PROBLEMS[name]()
    keys = jax.random.split(jax.random.key(0), 3)
    starts = jax.vmap(problem.init)(keys)
    losses, grads = jax.jit(jax.vmap(jax.value_and_grad(problem.loss)))(starts)
    assert np.isfinite(losses).all()
    assert len(set(losses.tolist())) == 3
    grads = jax.tree.leaves(grads)
    assert all(np.isfinite(grad).all() for grad in grads)
    assert all(grad.dtype == jnp.float32 for grad in grads)
    assert any(np.any(grad != 0) for grad in grads)


# What is counted ----------------------------------------------------------------------


def counting(problem, calls):
    """The problem, whose gradient appends to `calls` whenever it is evaluated."""

    @jax.custom_vjp
    def loss(params):
        return problem.loss(params)

    def forward(params):
        jax.debug.callback(lambda: calls.append(1))
        return jax.value_and_grad(problem.loss)(params)

    def backward(grad, cotangent):
        return (jax.tree.map(lambda g: cotangent * g, grad),)

    loss.defvjp(forward, backward)
    return problem._replace(loss=loss)


@pytest.mark.parametrize("name", ["adam", "dsa", "lbfgs"])
def test_evaluations_are_those_that_were_made(name):
    """L-BFGS's line search hands on the last gradient, which a plain step repeats."""
    contender, calls = RIVALS[name], []
    problem = counting(rosenbrock(2), calls)
    tx = contender.make(contender.settings[0])
    step = make_train_step(problem.loss, tx, donate=False)
    params = problem.init(jax.random.key(0))
    state, counted, updates = tx.init(params), contender.at_first, 8
    for _ in range(updates):
        params, state, _ = step(params, state)
        counted += int(contender.evaluations(state))
    jax.effects_barrier()
    again = updates - 1 if contender.at_first else 0
    assert len(calls) - again == counted
    assert counted >= contender.at_first + updates * contender.least


def test_curves_by_evaluation_of_one_that_spends_two():
    losses = np.array([[[9.0, 5.0, 1.0]]])
    spent = np.array([[[0, 2, 4]]])
    seen = curves._by_evaluation(losses, spent, 5)
    assert seen.tolist() == [[[9, 9, 5, 5, 1, 1]]]


def test_curves_by_evaluation_of_a_line_search():
    """The first gradient counts, and an update may spend any number, or none."""
    losses = np.array([[[9.0, 5.0, 4.0, 1.0]]])
    spent = np.array([[[1, 4, 4, 6]]])
    seen = curves._by_evaluation(losses, spent, 7)
    assert seen.tolist() == [[[9, 9, 9, 9, 4, 4, 1, 1]]]


@pytest.mark.parametrize("name", ["dsa", "lbfgs"])
def test_curves_are_those_of_a_plain_loop(name):
    contender, budget = RIVALS[name], 24
    problem = quadratic(1e2, rotated=False, size=6)
    found = curves.curves(problem, contender, seeds=2, budget=budget)
    assert found.losses.shape == (len(contender.settings), 2, budget + 1)
    for place, seed in [(0, 0), (1, 1)]:
        tx = contender.make(contender.settings[place])
        step = make_train_step(problem.loss, tx, donate=False)
        params = problem.init(jax.random.split(jax.random.key(0), 2)[seed])
        state, spent, expected = tx.init(params), contender.at_first, {}
        while spent <= budget:
            before = spent
            params, state, loss = step(params, state)
            expected[before] = float(loss)
            spent += int(contender.evaluations(state))
        ticks = sorted(expected)
        seen = found.losses[place, seed, ticks]
        np.testing.assert_allclose(seen, list(expected.values()), rtol=1e-3, atol=1e-7)
        for here, following in itertools.pairwise(ticks):
            assert len(set(found.losses[place, seed, here:following].tolist())) == 1


# Loops on the host --------------------------------------------------------------------

SCIPYS = {
    name: rival for name, rival in RIVALS.items() if isinstance(rival, HostContender)
}
KEYS = jax.random.split(jax.random.key(0), 2)


def train_on(problem, contender, budget):
    """What the contender evaluates at its default, from the first seed's start."""
    flat = host.flatten(problem, KEYS)
    objective = host.Objective(flat.evaluate, budget)
    host.train(objective, contender, contender.settings[0], flat.starts[0])
    return objective


@pytest.mark.parametrize("name", SCIPYS)
def test_scipy_stops_at_the_budget_and_all_that_it_evaluates_counts(name):
    calls = []
    objective = train_on(counting(rosenbrock(2), calls), SCIPYS[name], budget=15)
    jax.effects_barrier()
    assert len(calls) == len(objective.losses) == len(objective.points) == 15
    with pytest.raises(host.Spent):
        objective(np.zeros(2))


@pytest.mark.parametrize("name", SCIPYS)
def test_scipys_curve_is_the_lowest_that_it_has_evaluated(name):
    problem, contender = rosenbrock(2), SCIPYS[name]
    found = curves.curves(problem, contender, seeds=2, budget=60)
    assert found.losses.shape == (len(contender.settings), 2, 61)
    start = problem.loss(problem.init(KEYS[0]))
    np.testing.assert_allclose(found.losses[:, 0, :2], start, rtol=1e-5)
    assert (np.diff(found.losses) <= 0).all()
    assert (found.losses[0, :, 60] < 1e-4).all()
    evaluated = train_on(problem, contender, 60).losses
    so_far = np.minimum.accumulate(np.float32(evaluated))
    np.testing.assert_array_equal(found.losses[0, 0, 1 : len(so_far) + 1], so_far)


def test_scipys_curve_sees_no_future_and_is_the_same_again():
    contender = SCIPYS["scipy-bfgs"]
    long = curves.curves(rosenbrock(2), contender, seeds=2, budget=24)
    short = curves.curves(rosenbrock(2), contender, seeds=2, budget=12)
    np.testing.assert_array_equal(long.losses[..., :13], short.losses)


def test_scipy_has_the_accuracy_where_it_was_lowest():
    found = curves.curves(bowl(), SCIPYS["scipy-cg"], seeds=2, budget=8)
    assert (found.accuracy[0, :, 0] < 1).all()
    assert (found.accuracy[0, :, -1] == 1).all()


def a_host(minimize, **fields):
    return HostContender("made up", minimize, **fields)


def test_a_host_loop_starts_again_from_the_lowest_point_until_that_is_of_no_use():
    starts = []

    def halve(objective, start, setting):
        starts.append(start)
        objective(start)
        if len(starts) < 4:
            objective(start / 2)
        objective(10 * start)

    objective = train_on(bowl(), a_host(halve), budget=100)
    ratios = [np.linalg.norm(start) / np.linalg.norm(starts[0]) for start in starts]
    np.testing.assert_allclose(ratios, [1, 1 / 2, 1 / 4, 1 / 8], rtol=1e-6)
    assert len(objective.losses) == 3 * 3 + 2
    curve = curves.curves(bowl(), a_host(halve), seeds=1, budget=100).losses
    assert curve.shape == (1, 1, 101)


def test_bfgs_goes_as_scipys_own():
    """Only the matrix is updated otherwise, so roundings are all that differs."""

    def scipys(objective, start, tolerance):
        options = {"gtol": 0, "c2": tolerance}
        minimize(objective, start, jac=True, method="BFGS", options=options)

    problem = rosenbrock(6)
    ours = train_on(problem, SCIPYS["scipy-bfgs"], 40).losses
    expected = train_on(problem, a_host(scipys, settings=(0.9,)), 40).losses
    np.testing.assert_allclose(ours, expected, rtol=1e-3)
    assert expected[-1] < 1e-2 * expected[0]


def test_what_is_no_number_is_never_the_lowest():
    assert host.lowest([3.0, nan, 2.0, inf, 2.0, 5.0]).tolist() == [*(0, 0, 2, 2, 4, 4)]
    cliff = bowl()._replace(loss=lambda w: jnp.sum(jnp.log(w - 10)))

    def walk(objective, start, setting):
        objective(np.array([1.0, 11, 12]))

    found = curves.curves(cliff, a_host(walk), seeds=1, budget=3)
    assert (found.losses == inf).all()


# What is kept -------------------------------------------------------------------------


SGD = Contender("SGD", optax.sgd, (0.1, 0.5), "learning rate")


def bowl():
    return Problem(
        lambda key: jax.random.normal(key, (3,)),
        lambda w: jnp.sum(w**2),
        lambda w: jnp.mean(jnp.abs(w) < 0.1),
    )


@pytest.fixture
def trained(monkeypatch):
    """The number of settings, seeds and the budget of every unit that was trained."""
    trained = []
    real = curves.curves

    def spy(problem, contender, seeds, budget):
        trained.append((len(contender.settings), seeds, budget))
        return real(problem, contender, seeds, budget)

    monkeypatch.setattr(curves, "curves", spy)
    return trained


def test_what_is_kept_is_not_run_again_unless_it_is_stale(tmp_path, trained):
    def run(contender, problems=("bowl",), seeds=2, budget=4):
        made = dict.fromkeys(problems, bowl)
        units = {"sgd": contender}
        return list(runs.run(tmp_path, made, units, seeds=seeds, budget=budget))

    assert run(SGD) == ["sgd, bowl"]
    assert run(SGD) == ["sgd, bowl"]
    assert trained == [(2, 2, 4)]
    assert run(SGD, ("bowl", "other")) == ["sgd, bowl", "sgd, other"]
    assert trained == [(2, 2, 4)] * 2
    del trained[:]
    run(SGD, seeds=3)
    run(SGD, seeds=3, budget=5)
    run(SGD._replace(settings=(0.1, 0.4)), seeds=3, budget=5)
    run(SGD._replace(settings=(0.1,)), seeds=3, budget=5)
    assert trained == [(2, 3, 4), (2, 3, 5), (2, 3, 5), (1, 3, 5)]
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == ["bowl__sgd.npz", "other__sgd.npz"]


def test_a_killed_run_loses_only_the_unit_it_was_in(tmp_path, trained):
    run = partial(runs.run, tmp_path, {"bowl": bowl}, seeds=1, budget=3)
    next(run({"one": SGD, "two": SGD}))
    assert list(run({"one": SGD, "two": SGD})) == ["one, bowl", "two, bowl"]
    assert len(trained) == 2


def test_kept_curves_are_those_that_were_run(tmp_path):
    list(runs.run(tmp_path, {"bowl": bowl}, {"sgd": SGD}, seeds=2, budget=4))
    kept = runs.load(tmp_path, "bowl", "sgd")
    expected = curves.curves(bowl(), SGD, seeds=2, budget=4)
    np.testing.assert_array_equal(kept.losses, expected.losses)
    np.testing.assert_array_equal(kept.accuracy, expected.accuracy)
    assert kept.settings.tolist() == [0.1, 0.5]
    np.testing.assert_allclose(kept.losses[1, :, 1:], 0, atol=1e-12)
    np.testing.assert_allclose(
        kept.losses[0, :, 1], 0.64 * kept.losses[0, :, 0], rtol=1e-5
    )


def test_steps_are_timed_once(tmp_path, monkeypatch):
    path = tmp_path / "times.csv.gz"
    names = ("dsa", "lbfgs", "scipy-bfgs")
    some = {"sgd": SGD, **{name: RIVALS[name] for name in names}}
    assert len(list(runs.time_steps(path, {"bowl": bowl}, some))) == 4
    table = read(path).set_index("optimizer")
    assert (table[["evaluation", "update"]] > 0).all(axis=None)
    assert table.loc["sgd", "evaluation"] == table.loc["sgd", "update"]
    twice = table.loc["dsa", "update"] / table.loc["dsa", "evaluation"]
    assert twice == pytest.approx(2, rel=1e-2)
    assert table.loc["lbfgs", "evaluation"] <= table.loc["lbfgs", "update"]
    monkeypatch.setattr(runs, "milliseconds", None)
    assert len(list(runs.time_steps(path, {"bowl": bowl}, some))) == 4


# Scores -------------------------------------------------------------------------------


def kept(*settings, accuracy=nan):
    """Curves from lists of losses: settings of seeds, settings 0, 1, 2, …."""
    losses = np.array(settings, np.float32)
    seen = np.full_like(losses, accuracy)
    settings = np.arange(len(losses), dtype=float)
    return Kept(losses, seen, settings, np.array("0+code"))


def falling(to, at, length=8, start=100.0):
    """Losses that fall at one evaluation."""
    return [start] * at + [to] * (length + 1 - at)


def contender(ours=False):
    return Contender("made up", optax.sgd, ours=ours)


RIVAL, OURS = contender(), contender(ours=True)


def table(curves, milliseconds=None, problem="p", half="test"):
    """Records of curves; names that start with "our" are ours."""
    who = {name: OURS if name.startswith("our") else RIVAL for name in curves}
    costs = dict.fromkeys(curves, 1.0) | (milliseconds or {})
    return scores.records(problem, half, curves, who, costs)


def test_target_is_the_best_rivals_at_three_quarters_of_the_budget():
    curve = np.array([[[9.0, 8, 7, 6, 5, 4, 3, 2, 1]]])
    assert scores.target([curve]) == pytest.approx(3 + 3e-4 + 6e-6)
    worse = np.maximum(curve, 4)
    assert scores.target([worse, curve]) == scores.target([curve])
    # Running minima count, and medians over the seeds.
    risen = np.array([[[9.0, 2, 7, 7, 7, 7, 7, 7, 7]]])
    assert scores.target([risen]) == pytest.approx(2 + 2e-4 + 7e-6)
    seeds = np.concatenate([curve, curve + 1, np.full_like(curve, inf)], axis=1)
    assert scores.target([seeds]) == pytest.approx(4 + 4e-4 + 6e-6)
    # A negative loss has its slack above it as well.
    assert scores.target([curve - 10]) == pytest.approx(-7 + 7e-4 + 6e-6)


def test_target_looks_at_the_budget_alone():
    long = np.linspace(1000, 0, 1001)[None, None]
    at_225 = 775.0
    assert scores.target([long]) == pytest.approx(at_225 * 1.0001, rel=1e-6)
    assert scores.evaluations_to(699.5, long).tolist() == [[inf]]
    assert scores.evaluations_to(700, long).tolist() == [[300]]


def test_our_losses_do_not_move_the_target():
    rival = kept([falling(1, 3)], [falling(0.5, 2)])
    before = table({"rival": rival, "ours": kept([falling(1, 2)])})
    after = table({"rival": rival, "ours": kept([falling(-50, 2)])})
    pd.testing.assert_frame_equal(
        before[before["optimizer"] == "rival"], after[after["optimizer"] == "rival"]
    )


def test_a_tuned_rival_sets_a_harder_target_and_ours_stays_at_its_default():
    rival = kept([falling(1, 3)], [falling(0.5, 2)])
    ours = kept([falling(0.5, 4)], [falling(0.5, 1)])
    records = table({"rival": rival, "ours": ours})
    untuned = scores.times(records, "untuned", "evaluations")
    tuned = scores.times(records, "tuned", "evaluations")
    assert untuned.loc["p"].to_dict() == {"rival": 3, "ours": 4}
    assert tuned.loc["p"].to_dict() == {"rival": 2, "ours": 4}


def test_time_is_the_median_over_seeds_with_misses_infinite():
    two_of_three = kept([falling(1, 3), falling(1, 5), falling(2, 1)])
    one_of_three = kept([falling(1, 3), falling(2, 1), falling(2, 1)])
    curves = {"best": kept([falling(1, 2)] * 3), "a": two_of_three, "b": one_of_three}
    times = scores.times(table(curves), "untuned", "evaluations")
    assert times.loc["p"].to_dict() == {"best": 2, "a": 5, "b": inf}


def test_wall_time_weighs_evaluations_and_a_miss_stays_one():
    curves = {
        "slow": kept([falling(1, 2)]),
        "cheap": kept([falling(1, 4)]),
        "never": kept([falling(2, 1)]),
    }
    costs = {"slow": 3.0, "cheap": 0.5, "never": 1e-9}
    records = table(curves, costs)
    times = scores.times(records, "untuned", "milliseconds")
    assert times.loc["p"].to_dict() == {"slow": 6, "cheap": 2, "never": inf}


TIMES = pd.DataFrame(
    {"a": [10.0, 20, inf], "b": [20.0, 10, 30], "ours": [5.0, inf, 60]},
    index=["p", "q", "r"],
)


def test_profile_and_area_by_hand():
    ratios = scores.ratios(TIMES)
    assert ratios["a"].tolist() == [2, 2, inf]
    assert ratios["b"].tolist() == [4, 1, 1]
    assert ratios["ours"].tolist() == [1, inf, 2]
    assert scores.profile(ratios, 2).tolist() == pytest.approx([2 / 3] * 3)
    areas = scores.area(ratios).to_dict()
    # Above 2 for two thirds of the way from 1 to 4, and so on.
    assert areas == pytest.approx({"a": 4 / 9, "b": 2 / 3, "ours": 5 / 9})
    taus = np.linspace(1, 4, 3001)
    means = np.mean([scores.profile(ratios, tau) for tau in taus], axis=0)
    np.testing.assert_allclose(means, list(areas.values()), atol=2e-3)


def test_where_nobody_arrives_everybody_has_missed():
    ratios = scores.ratios(pd.DataFrame({"a": [inf, 1.0], "b": [inf, 2.0]}))
    assert ratios.loc[0].tolist() == [inf, inf]
    assert scores.area(ratios).tolist() == pytest.approx([1 / 2, 1 / 3])


def test_each_of_ours_races_in_a_field_of_its_own():
    times = TIMES.assign(our_other=[1.0, 1.0, 1.0])
    standings = scores.standings(times, ["ours", "our_other"])
    assert list(standings.index) == ["ours", "our_other", "a", "b"]
    alone = scores.standings(TIMES, ["ours"])
    pd.testing.assert_frame_equal(standings.drop(index="our_other"), alone)
    assert standings.loc["our_other"].tolist() == [1, 1, 0]
    assert alone["first"].to_dict() == pytest.approx(
        {"ours": 1 / 3, "a": 0, "b": 2 / 3}
    )
    assert alone["misses"].to_dict() == {"ours": 1, "a": 1, "b": 0}


def test_without_ours_the_rivals_are_scored_among_themselves():
    standings = scores.standings(TIMES[["a", "b"]], [])
    assert standings["first"].tolist() == pytest.approx([1 / 3, 2 / 3])


def test_speed_ups_are_geometric_means_where_both_arrive():
    table = scores.speed_ups(TIMES, "ours")
    assert table["problems"].to_dict() == {"a": 1, "b": 2}
    expected = {"a": 2, "b": np.sqrt(4 * 1 / 2)}
    assert table["speed_up"].to_dict() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("end", "blown"), [(0.0, False), (1.19, False), (1.21, True), (inf, True)]
)
def test_a_run_blows_up_if_it_ends_far_above_its_best(end, blown):
    """From 101 over 1: a thousandth of the way and a tenth of the best are 0.2."""
    records = table({"a": kept([[101.0, 1, max(end, 1.0)]])})
    assert scores.blow_ups(records, 300).tolist() == [blown]
    assert not scores.blow_ups(records, 1000).any()


def test_late_blow_ups_show_in_long_runs_alone():
    losses = np.ones((1, 1, 1001))
    losses[..., 0], losses[..., 500:] = 101, 50
    records = table(
        {"a": Kept(losses, np.full_like(losses, nan), np.zeros(1), np.array("0+code"))}
    )
    assert records[["end_loss_300", "end_loss_1000"]].to_numpy().tolist() == [[1, 50]]
    assert not scores.blow_ups(records, 300).any()
    assert scores.blow_ups(records, 1000).all()


def test_the_chosen_setting_is_the_fastest_or_else_the_lowest():
    curves = {
        "first": kept([falling(1, 5)], [falling(0.1, 4)], [falling(0.1, 2)]),
        "never": kept([falling(30, 1)], [falling(10, 4)], [falling(20, 2)]),
        "ours": kept([falling(9, 1)], [falling(0.1, 1)]),
    }
    chosen = scores.chosen(table(curves), "tuned")
    settings = dict(zip(chosen["optimizer"], chosen["setting"], strict=True))
    assert settings == {"first": 2, "never": 1, "ours": 0}
    untuned = scores.chosen(table(curves), "untuned")
    assert set(untuned["setting"]) == {0}


def test_accuracies_are_per_cent_where_there_are_any():
    net = table({"a": kept([falling(1, 2), falling(1, 3)], accuracy=0.75)}, problem="n")
    fit = table({"a": kept([falling(1, 2), falling(1, 3)])}, problem="fit")
    records = pd.concat([net, fit])
    accuracies = scores.accuracies(records, "untuned", 300)
    assert accuracies.to_dict() == {"n": {"a": 75}}
    assert scores.accuracies(fit, "untuned", 300).empty


# The page and the command line --------------------------------------------------------


@pytest.fixture
def made_up():
    """Two problems of two halves, with two of ours, one late blow-up among them."""
    late = [100.0, 1, 1, 1, 1, 1, 1, 1, 60]
    return pd.concat(
        table(
            {
                "our-main": kept([falling(1, 2)] * 2, accuracy=0.9),
                "our-light": kept([falling(1, 3), late], accuracy=0.8),
                "lbfgs": kept([falling(1, 5)] * 2, accuracy=0.95),
                "adam": kept([falling(2, 5)] * 2, [falling(1, 4)] * 2, accuracy=1.0),
            },
            problem=problem,
            half=half,
        )
        for half, problem in [("development", "p"), ("test", "q")]
    )


def test_page_tells_all_from_the_records(made_up, tmp_path):
    made_up.to_csv(tmp_path / page.RECORDS, index=False)
    page.write(tmp_path)
    text = (tmp_path / "race.md").read_text()
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["race.csv.gz", "race.md", "race_profiles.png"]
    for part in (
        "--problems p q --optimizers our-main our-light lbfgs adam --seeds 2 --quick",
        "1 in the development half, 1 in the test half",
        "| **our-main**  |   1.00 (100%) |",
        "5, L-BFGS",
        "4, Adam",
        "| our-light   | p         |      1 |           300 |        1 |     60 |",
        "80.0 (80.0)",
    ):
        assert " ".join(part.split()) in " ".join(text.split())
    assert page.CURVES not in text


def test_page_without_records_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="benchmarks race --output"):
        page.write(tmp_path)


def test_a_race_without_rivals_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(command, "RIVALS", {})
    with pytest.raises(SystemExit):
        cli.main(["race", "--optimizers", "adam"])
    assert "sets the target" in capsys.readouterr().err


def test_options_of_the_race():
    options = cli.parser().parse_args(["race"])
    assert options.problems == [*DEVELOPMENT, *TEST]
    assert options.optimizers == list(CONTENDERS)
    assert options.budget == 1000
    assert cli.parser().parse_args(["race", "--quick"]).budget == 300


def test_a_part_of_the_race_from_the_command_line(tmp_path, capsys):
    arguments = "race --quick --problems rosenbrock-2 axes-1e2 --seeds 1"
    rivals = "--optimizers adam irprop-minus"
    command = [*arguments.split(), *rivals.split(), "--output", str(tmp_path)]
    assert cli.main(command) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Gradient evaluations to the target, tuned" in printed
    records = pd.read_csv(tmp_path / page.RECORDS)
    assert dict(zip(records["problem"], records["half"], strict=True)) == {
        "rosenbrock-2": "development",
        "axes-1e2": "test",
    }
    reached = records.groupby("problem")["evaluations_tuned"].min()
    assert (reached <= 225).all()
    for name in (page.PROFILES, page.CURVES):
        assert (tmp_path / name).stat().st_size > 10_000
    text = (tmp_path / "race.md").read_text()
    assert "race --problems rosenbrock-2 axes-1e2 --optimizers adam irprop" in text
    assert "--seeds 1 --quick --output" in text
    assert page.CURVES in text
