"""The figure of what the learning rates did."""

import io
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import optax
import pytest

import dsa_optax
from dsa_optax.plots import plot_learning_rates

STEPS = 120


def loss(params):
    return jnp.sum((params["w"] - jnp.arange(6.0)) ** 2) + params["b"] ** 2


def histories(tx, params, loss, steps=STEPS):
    """One run's summaries twice: as scan's output, and collected in a loop."""
    step = dsa_optax.make_train_step(loss, tx, donate=False)

    def body(carry, _):
        params, state, _ = step(*carry)
        return (params, state), dsa_optax.summary(state, carry[1])

    start = params, tx.init(params)
    _, scanned = jax.lax.scan(body, start, length=steps)
    carry, collected = start, []
    for _ in range(steps):
        carry, rates = jax.jit(body)(carry, None)
        collected.append(rates)
    return scanned, collected


@pytest.fixture(scope="module")
def both():
    params = {"w": jnp.zeros(6), "b": jnp.ones(())}
    return histories(dsa_optax.dsa(max_log2_lr=-3.0), params, loss)


@pytest.fixture
def scanned(both):
    return both[0]


def panels(figure):
    """From a leaf's name to what its two panels show, as arrays."""
    pairs = zip(figure.axes[::2], figure.axes[1::2], strict=True)
    return {
        above.get_title(): {
            artist.get_label(): np.asarray(
                artist.get_xydata()
                if hasattr(artist, "get_xydata")
                else artist.get_paths()[0].vertices
            )
            for axes in (above, below)
            for artist in (*axes.lines, *axes.collections)
        }
        for above, below in pairs
    }


def assert_same_drawing(one, other):
    one, other = panels(one), panels(other)
    assert list(one) == list(other)
    for name in one:
        assert list(one[name]) == list(other[name])
        for label in one[name]:
            np.testing.assert_allclose(one[name][label], other[name][label], rtol=1e-6)


def made_up(steps=4, low=0.01, high=1.0):
    quantiles = np.linspace(low, high, 5) * np.ones((steps, 1))
    share = np.full(steps, 0.25)
    return dsa_optax.RateSummary(quantiles, share, share, share)


def image_of(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png")
    file.seek(0)
    return matplotlib.image.imread(file)


def test_scan_and_list_draw_the_same(both):
    assert_same_drawing(*map(plot_learning_rates, both))


def test_params_may_be_a_list_themselves():
    def loss(params):
        return sum(jnp.sum(leaf**2) for leaf in params)

    params = [jnp.ones(3), jnp.ones(())]
    scanned, collected = histories(dsa_optax.dsa(), params, loss, steps=5)
    figure = plot_learning_rates(scanned)
    assert list(panels(figure)) == ["0", "1"]
    assert_same_drawing(figure, plot_learning_rates(collected))


def test_median_line_and_bands_are_the_history(scanned):
    drawn = panels(plot_learning_rates(scanned))
    assert list(drawn) == ["b", "w"]
    for name, panel in drawn.items():
        quantiles = np.asarray(scanned[name].quantiles)
        steps, median = panel["median rate"].T
        np.testing.assert_array_equal(steps, np.arange(1, STEPS + 1))
        np.testing.assert_array_equal(median, quantiles[:, 2])
        for label, (low, high) in {"quartiles": (1, 3), "range": (0, 4)}.items():
            corners = {tuple(corner) for corner in panel[label]}
            assert set(zip(steps, quantiles[:, low], strict=True)) <= corners
            assert set(zip(steps, quantiles[:, high], strict=True)) <= corners


def test_shares_are_running_means_of_the_history(scanned):
    steps, bound = panels(plot_learning_rates(scanned))["w"]["at a bound"].T
    shares = np.asarray(scanned["w"].at_bound)
    assert shares.max() > 0
    pairs = np.stack([np.r_[shares[0], shares[:-1]], shares])  # 120 steps: means of 2
    np.testing.assert_allclose(bound, pairs.mean(axis=0), rtol=1e-6)
    # Short histories are drawn as they are, the shrunk from the top down.
    short = jax.tree.map(lambda leaf: leaf[:40], scanned)
    drawn = panels(plot_learning_rates(short))["w"]
    for label, share in {
        "grew": np.asarray(short["w"].grew),
        "shrank": 1 - np.asarray(short["w"].shrank),
    }.items():
        corners = set(map(tuple, np.round(drawn[label], 6)))
        wanted = zip(steps[:40], np.round(share.astype(float), 6), strict=True)
        assert set(wanted) <= corners


def test_png_shows_the_colours_of_every_part(scanned):
    figure = plot_learning_rates(scanned, title="a title")
    image = image_of(figure)
    assert min(image.shape[:2]) > 300
    assert len(np.unique(image.reshape(-1, image.shape[-1]), axis=0)) > 20
    assert figure.get_suptitle() == "a title"
    shown = matplotlib.image.imread(io.BytesIO(figure._repr_png_()))  # by a notebook
    np.testing.assert_allclose(shown, image, atol=0.05)  # the layout settles


def test_steps_and_leaves_are_the_callers(scanned):
    steps = 10 * np.arange(STEPS)
    figure = plot_learning_rates(scanned, leaves="w", steps=steps)
    (name,) = panels(figure)
    assert name == "w"
    np.testing.assert_array_equal(panels(figure)["w"]["median rate"][:, 0], steps)
    both = plot_learning_rates(scanned, leaves=["b", "w"])
    assert list(panels(both)) == ["b", "w"]


def test_axis_is_log2_unless_a_rate_is_negative():
    def scale(history):
        figure = plot_learning_rates(history)
        image_of(figure)  # draws without a warning
        return figure.axes[0].get_yscale()

    assert scale(made_up()) == "log"
    assert scale(made_up(low=0.0)) == "log"  # as a schedule that starts at 0
    assert scale(made_up(low=0.5, high=0.5)) == "log"
    assert scale(made_up(low=0.0, high=0.0)) == "linear"
    assert scale(made_up(low=-0.1)) == "linear"


@pytest.mark.parametrize("count", [1, 2, 5, 24])
def test_leaves_stand_in_rows_on_the_same_axes(count):
    history = {f"layer_{i:02}": made_up(high=2.0 ** (i + 1)) for i in range(count)}
    figure = plot_learning_rates(history)
    assert list(panels(figure)) == list(history)
    assert len({axes.get_ylim() for axes in figure.axes[::2]}) == 1
    low, high = figure.axes[0].get_ylim()
    assert low < 0.01
    assert high > 2.0**count
    assert image_of(figure).size


def test_one_rate_for_all_empty_leaves_and_low_precision():
    params = {"w": jnp.ones(3), "none": jnp.zeros((0,))}

    def loss(params):
        return jnp.sum(params["w"] ** 2)

    for tx, name in {
        dsa_optax.paper.basic_dsa(0.01, 1e-3): "all parameters",
        dsa_optax.dsa(state_dtype=jnp.bfloat16): "w",
    }.items():
        for history in histories(tx, params, loss, steps=3):
            assert list(panels(plot_learning_rates(history))) == [name]


def test_long_names_keep_their_end():
    name = "a_very_long_name_of_a_block/another_part_of_it/kernel"
    (title,) = panels(plot_learning_rates({name: made_up()}))
    assert title.startswith("…")
    assert name.endswith(title[1:])


NESTED = {"a": made_up(), "b": {"kernel": made_up()}}


@pytest.mark.parametrize(
    ("history", "options", "message"),
    [
        ([], {}, "`history` is empty"),
        ({}, {}, "`history` is empty"),
        (None, {}, "`history` is empty"),
        (made_up(steps=0), {}, "of no steps"),
        ({"w": np.ones(3)}, {}, "holds a ndarray"),
        ([made_up(), 0.1], {}, "holds a float"),
        (jax.tree.map(lambda leaf: leaf[0], NESTED), {}, "of a single step"),
        (jax.tree.map(lambda leaf: leaf[None], NESTED), {}, "one member at a time"),
        (
            [
                jax.tree.map(lambda leaf: leaf[0], NESTED),
                {"a": jax.tree.map(lambda leaf: leaf[0], made_up())},
            ],
            {},
            "differ in their leaves",
        ),
        (made_up(low=np.nan)._replace(grew=np.full(4, np.nan)), {}, "without entries"),
        (NESTED, {"leaves": "c"}, "in the name of no leaf; of: a, b/kernel"),
        (NESTED, {"leaves": []}, "in the name of no leaf"),
        (NESTED, {"steps": [1, 2, 3]}, "one entry for each of the 4 summaries"),
        ([made_up()] * 25, {}, "25 leaves are too many .* choose by parts"),
    ],
)
def test_bad_input_gets_one_clear_error(history, options, message):
    with pytest.raises(ValueError, match=message):
        plot_learning_rates(history, **options)


def test_missing_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'dsa-optax\[plots\]'"):
        plot_learning_rates(made_up())


def test_importing_the_package_leaves_matplotlib_alone():
    code = "import sys, dsa_optax; assert 'matplotlib' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1]
    )


@pytest.mark.parametrize(
    ("tx", "names"),
    [
        (dsa_optax.adapt(optax.sgd(1.0), "parameter"), ["b", "w"]),
        (dsa_optax.adapt(optax.sgd(1.0), "tensor"), ["b", "w"]),
        (dsa_optax.adapt(optax.sgd(1.0), "global"), ["all parameters"]),
        (
            dsa_optax.blend(
                dsa_optax.adapt(optax.sgd(1.0), "tensor"),
                dsa_optax.adapt(optax.sgd(1.0), "global"),
            ),
            ["0/b", "0/w", "1"],
        ),
    ],
    ids=["parameter", "tensor", "global", "blend"],
)
def test_rates_of_adapt_and_of_a_blend(tx, names):
    params = {"w": jnp.zeros(6), "b": jnp.ones(())}
    both = histories(tx, params, loss, steps=4)
    for history in both:
        assert list(panels(plot_learning_rates(history))) == names
    assert_same_drawing(*map(plot_learning_rates, both))
