"""The benchmark of speed measures what it says, and its page shows what it measured."""

import functools
import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from benchmarks.__main__ import main
from benchmarks.shared.problems.halves import DEVELOPMENT
from benchmarks.shared.timing import Step, paired
from benchmarks.speed import (
    cold,
    grid,
    growth,
    inside,
    leaves,
    page,
    sections,
    steps,
)
from benchmarks.speed.steps import ENTRANTS, Size

pytestmark = pytest.mark.usefixtures("as_users_run_it")

SMALL = Size(800, 2, 16)


def test_two_calls_are_timed_in_turns():
    order = []

    def call(name, pause):
        order.append(name)
        time.sleep(pause)
        return jnp.zeros(())

    found = paired(lambda: call("a", 0.02), lambda: call("b", 0.002), budget=0.3)
    assert order == ["a", "b"] * (len(order) // 2)
    assert 8 <= len(order) <= 30
    assert 3 < found.ratio < 12
    assert found.milliseconds == pytest.approx(20, abs=10)
    assert found.beside < found.milliseconds


def test_a_step_goes_on_from_its_own_result_in_the_same_memory():
    step = Step(lambda x, y: x + y, jnp.zeros(1000), jnp.ones(1000))
    assert [float(step()[0]) for _ in range(3)] == [1, 2, 3]
    assert step.memory.alias_size_in_bytes == 4000


@pytest.mark.parametrize(
    ("name", "bytes_each"),
    [
        ("sgd", 12),  # g, θ → θ'
        ("adam", 28),  # and both moments, there and back
        ("dsa", 24),  # g, g̃, η, θ → η', θ'
        ("dsa-int8", 18),  # η is a byte
        ("adapt-parameter", 38),  # η, the compass, θ₋; and the byte that searches
    ],
)
def test_the_bytes_that_must_move_are_each_array_once(name, bytes_each):
    shapes = steps.shapes(SMALL)
    found = steps.moved(ENTRANTS[name], shapes)
    assert found / steps.count(shapes) == pytest.approx(bytes_each, abs=0.5)


def test_what_an_update_adds_is_measured(monkeypatch):
    monkeypatch.setattr(steps, "ELEMENTWISE", ("adam", "dsa"))
    size = Size(2e4, 2, 8)  # so large that a turn has few calls
    table = steps.updates((size,), budget=0.01).set_index("optimizer")
    assert list(table.index) == ["adam", "dsa"]
    assert (table["state_bytes"].round() == [8, 4]).all()
    # Params, gradient and state, and for DSA at least a probe as well.
    assert (table["peak_bytes"] > [16, 16]).all()


def test_two_gradients_are_two():
    """The compiled floor has twice the products of matrices, none left out."""
    one, two = (
        steps.gradients(n, SMALL).compiled.cost_analysis()["flops"] for n in (1, 2)
    )
    assert two == pytest.approx(2 * one, rel=0.05)
    step = steps.train_step(ENTRANTS["dsa"], SMALL).compiled
    assert step.cost_analysis()["flops"] > two


@pytest.mark.parametrize("name", ENTRANTS)
def test_every_entrant_descends(name):
    step = steps.train_step(ENTRANTS[name], SMALL)
    _, x, y = steps.net(SMALL)
    first = float(steps.loss(step._carry[0], x, y))
    for _ in range(30):
        params, _ = step()
    assert float(steps.loss(params, x, y)) < first


def test_the_grid_has_a_row_an_optimizer_and_size(monkeypatch):
    monkeypatch.setattr(grid, "NAMES", ("sgd", "dsa"))
    table = grid.grid((1e5, 1e12), layers=(1, 2), budget=0.01)  # the CPU's limit
    assert list(table["leaves"]) == [2, 2, 4, 4]
    assert (table[["milliseconds", "bytes", "kernels"]] > 0).all(axis=None)


def test_exponents_are_those_of_a_power_law():
    n = np.array([1e2, 1e3, 1e4, 1e5])
    frame = pd.concat(
        pd.DataFrame({"optimizer": name, "n": n, "time": 3 * n**power})
        for name, power in (("a", 1.0), ("b", 0.5))
    )
    found = growth.exponents(frame, "n", ("time",))
    np.testing.assert_allclose(found["time"], [1.0, 0.5])


def test_all_reduces_are_counted_with_their_bytes():
    program = """
      %a = f32[10,3]{1,0} all-reduce(%x), channel_id=1
      %b = (f32[2]{0}, f32[]) all-reduce(%y, %z), channel_id=2
      %c = f32[7]{0} add(%a, %a)
    """
    assert growth._reduced(program) == (2, 4 * (30 + 2 + 1))


def test_the_command_keeps_a_section_and_writes_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(leaves, "BEST_OF", 1)
    monkeypatch.setitem(leaves.NETS, "a few", lambda: leaves.apart(5))
    small = lambda: leaves.leaves(("a few",), ("adam", "muon", "auto-light"))
    monkeypatch.setitem(sections.SECTIONS, "leaves", small)
    assert main(["speed", "--sections", "leaves", "--output", str(tmp_path)]) == 0
    kept = pd.read_csv(tmp_path / "speed" / "leaves.csv.gz")
    assert list(kept["optimizer"]) == ["adam", "muon", "auto-light"]
    assert (kept[["compile_seconds", "milliseconds", "operations"]] > 0).all(axis=None)
    assert kept["machine"].str.contains("JAX").all()
    text = (tmp_path / "speed.md").read_text()
    assert page.PARTS["leaves"][0] in text
    assert "in Adam's compilations" in text
    assert "auto-light" in capsys.readouterr().out


def test_ours_are_measured_in_compilations_and_steps_of_another():
    frame = pd.DataFrame(
        [("adam", "a", 2.0, 4.0), ("adam", "b", 1.0, 1.0), ("auto", "b", 3.0, 5.0)],
        columns=["optimizer", "net", "compile_seconds", "milliseconds"],
    )
    found = page.beside(frame, "adam")
    assert found.to_numpy().tolist() == [["auto", "b", 3.0, 5.0]]


@pytest.mark.parametrize("name", ["6 of 256×256", "transformer"])
def test_the_large_nets_are_as_large_as_their_page_says(name):
    params = jax.eval_shape(lambda: leaves.NETS[name]().params)
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    large = [math.prod(shape) > 2**14 for shape in shapes]
    assert (len(shapes), sum(large)) == {"6 of 256×256": (6, 6)}.get(name, (198, 74))


def test_calls_of_a_folder_are_counted_with_their_moves_and_depth():
    folder = str(Path(page.__file__).parent)
    way = lambda call: inside.way_through(call, folder)
    assert way(lambda: None) == {"calls": 0, "moves": 0, "depth": 0}
    assert way(lambda: page.label("adam")) == {"calls": 1, "moves": 0, "depth": 1}
    both = lambda: [page.label("adam"), steps.by_sign()]  # neither calls the other
    assert way(both) == {"calls": 2, "moves": 0, "depth": 1}
    assert way(lambda: leaves.deep(1))["moves"] == 1  # to steps


def test_updates_outside_jit_are_measured(monkeypatch):
    monkeypatch.setattr(inside, "shallow", lambda: leaves.apart(2))
    table = inside.inside(("adam", "auto-light"), calls=1).set_index("optimizer")
    assert table.loc["adam", "calls"] == 0
    assert 0 < table.loc["auto-light", "moves"] < table.loc["auto-light", "calls"]
    assert (table[["state", "first_seconds", "milliseconds"]] > 0).all(axis=None)


@functools.cache
def half_of_the_start():
    problem = DEVELOPMENT["diabetes-net"]()
    return float(jax.jit(problem.loss)(problem.init(jax.random.key(0)))) / 2


def cold_row(name, target, monkeypatch):
    told = zip(cold._GIVEN, ("diabetes-net", name, target, 0.1), strict=True)
    for variable, value in told:
        monkeypatch.setenv(variable, str(value))
    return cold._run()


@pytest.mark.parametrize("name", ["adam", "scipy-bfgs", "auto"])
def test_from_a_cold_start_everyone_gets_to_a_near_target(name, monkeypatch):
    row = cold_row(name, half_of_the_start(), monkeypatch)
    assert (row["problem"], row["optimizer"]) == ("diabetes-net", name)
    assert 0 < row["to_first"] <= row["seconds"] < np.inf
    assert 0 < row["steps"] < cold.MOST_STEPS


@pytest.mark.parametrize("name", ["adam", "scipy-bfgs"])  # in steps, and on the host
def test_a_target_out_of_reach_takes_infinitely_long(name, monkeypatch):
    monkeypatch.setattr(cold, "MOST_STEPS", 3)
    row = cold_row(name, 0, monkeypatch)
    assert row["seconds"] == np.inf
    assert row["steps"] == 2


def test_a_goal_is_the_races():
    race = pd.DataFrame(
        {
            "problem": ["a"] * 3 + ["b"],
            "optimizer": ["adam", "adam", "muon", "adam"],
            "setting": [0.1, 0.2, 9.0, 0.5],
            "end_loss_300": [3.0, 2.0, 1.0, 0.0],
            "target_untuned": [1.5] * 3 + [7.0],
        }
    )
    assert cold.goal(race, "a") == (1.5, 0.2)


PROGRAM = """\
%fused (a: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %b.1 = f32[] negate(%a)
}
%body.2 (x: f32[3]) -> f32[3] {
  %x = f32[3]{0} parameter(0)
  ROOT %y = f32[3]{0} fusion(%x), kind=kLoop, calls=%fused
}
ENTRY %main (p: f32[3]) -> f32[3] {
  %p = f32[3]{0} parameter(0)
  %w = f32[3]{0} while(%p), condition=%cond, body=%body.2
  ROOT c = (f32[3]{0}, f32[]) fusion(%w), calls=%fused
}
"""


def test_operations_of_fusions_count_too_and_kernels_are_what_is_launched():
    assert leaves.operations(PROGRAM) == 7
    assert grid.kernels(PROGRAM) == 2


def test_the_page_has_every_section_and_the_figure(tmp_path):
    sizes = (Size(1e4, 2, 8), Size(1e6, 2, 8), Size(1e8, 2, 8))
    names = list(ENTRANTS)[:3]
    grid = [(n, s) for s in sizes for n in names]
    unit = [
        {"optimizer": n, "parameters": int(s.parameters), "leaves": 4, "rows": s.rows}
        for n, s in grid
    ]
    figures = {
        **dict.fromkeys(
            ("to_gradients", "to_sgd", "milliseconds", "nanoseconds"), 1.25
        ),
        **dict.fromkeys(("bytes", "gigabytes_per_second", "to_bytes"), 2.5),
        **dict.fromkeys(("state_bytes", "peak_bytes"), 4.0),
    }
    table = pd.DataFrame(unit).assign(**figures, machine="a machine, JAX 1")
    for section in ("steps", "updates", "parameters"):
        sections.path(tmp_path, section).parent.mkdir(exist_ok=True)
        table.to_csv(sections.path(tmp_path, section), index=False)
    table.assign(samples=table["parameters"]).to_csv(
        sections.path(tmp_path, "samples"), index=False
    )
    page.write(tmp_path)
    text = (tmp_path / "speed.md").read_text()
    for section in ("steps", "updates", "parameters", "samples"):
        assert page.PARTS[section][0] in text
    assert "| SGD " in text
    assert (tmp_path / page.FIGURE).stat().st_size > 10_000
    line = page.one_line_each(table)
    assert list(line.iloc[0]) == ["SGD", 1, "1.25", "1.25", "4"]
