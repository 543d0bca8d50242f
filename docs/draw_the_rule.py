"""Draws the picture of the page "Which one, and why", docs/pictures/the_rule.png."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

PICTURE = Path(__file__).parent / "pictures" / "the_rule.png"
CURVE, STEP, SLOPE, SECANT = "#777777", "#0072B2", "#D55E00", "#009E73"

# Of `adapt`, by default, and of a step back.
DECREASE, INCREASE, SHARE_OF_A_LOST_STEP = 1.0, 0.3, 0.1
POLE = 2.2


def loss(t):
    """Along the direction of a step: not quite a parabola."""
    return (t - 1) ** 2 + 0.12 * (t - 1) ** 3


def slope(t):
    """Of `loss`."""
    return 2 * (t - 1) + 0.36 * (t - 1) ** 2


def loss_before_a_pole(t):
    """The same, but for a pole, as a logarithm has it."""
    return loss(t) - 0.25 * np.log(1 - t / POLE)


def draw_step(axes, end, note, place):
    """A step from 0, the slope at its end, and the next rate by the secant."""
    axes.annotate(
        "",
        (end, loss(end)),
        (0, loss(0.0)),
        arrowprops={
            "arrowstyle": "-|>",
            "color": STEP,
            "linewidth": 2.4,
            "mutation_scale": 18,
            "shrinkA": 0,
            "shrinkB": 0,
        },
    )
    sides = np.array([-0.4, 0.4]) / np.hypot(1, slope(end) / 1.2)
    axes.plot(end + sides, loss(end) + slope(end) * sides, color=SLOPE, linewidth=4)
    axes.text(*place, note, color=SLOPE, fontsize=12)
    wanted = 1 / (1 - slope(end) / slope(0.0))
    axes.plot(end * wanted, -0.12, "^", color=SECANT, markersize=12)
    axes.text(
        end * wanted + 0.1,
        -0.12,
        "the secant's minimum",
        color=SECANT,
        fontsize=11,
        va="center",
    )
    return end * 2 ** np.clip(np.log2(wanted), -DECREASE, INCREASE)


def draw_step_back(axes, end):
    """A step across a pole, and what is left of it."""
    axes.axvspan(POLE, 3, facecolor="#eeeeee", edgecolor="#bbbbbb", hatch="//")
    axes.text(
        2.52, 0.75, "no number", rotation=90, ha="center", va="center", fontsize=11
    )
    left = SHARE_OF_A_LOST_STEP * end
    line = {"color": STEP, "linewidth": 2.4, "mutation_scale": 18}
    ends = {"shrinkA": 0, "shrinkB": 0}
    lost = {"arrowstyle": "-|>", "linestyle": (0, (4, 2)), **line, **ends, "alpha": 0.5}
    axes.annotate("", (end, 2.2), (0, loss(0.0)), arrowprops=lost)
    axes.annotate(
        "",
        (left + 0.03, loss(left)),
        (end, 2.2),
        arrowprops={
            "arrowstyle": "-|>",
            "connectionstyle": "arc3,rad=0.35",
            **line,
            **ends,
            "color": SLOPE,
        },
    )
    axes.text(1.05, 2.62, "taken back", color=SLOPE, fontsize=12, ha="center")
    axes.plot([0, left], [loss(0.0), loss_before_a_pole(left)], color=STEP, lw=4)
    return left


def draw_lengths(axes, now, then):
    """How long the step was, and how long it is to be."""
    axes.barh([1, 0], [now, then], color=[STEP, SECANT], alpha=0.85, height=0.62)
    for y, length, text in ((1, now, "this step"), (0, then, "next")):
        if length < 2:
            axes.text(length + 0.06, y, text, va="center", fontsize=11)
        else:
            axes.text(0.06, y, text, va="center", fontsize=11, color="white")
    axes.set(xlim=(-0.3, 2.8), ylim=(-0.5, 1.5), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def main():
    """Draws the three cases beside each other."""
    figure, (panels, lengths) = plt.subplots(
        2, 3, figsize=(12, 5.2), height_ratios=(5, 1), layout="constrained"
    )
    curves = (loss, loss, loss_before_a_pole)
    for axes, curve, last in zip(panels, curves, (2.75, 2.75, 2.1999), strict=True):
        t = np.linspace(-0.28, last, 4000)
        axes.plot(t, curve(t), color=CURVE, linewidth=1.8, zorder=0)
        axes.plot(0, loss(0.0), "o", color=STEP, markersize=8)
        axes.set(xlim=(-0.3, 2.8), ylim=(-0.35, 3.0), xticks=[], yticks=[])
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("loss along the step", fontsize=12)

    next_step = draw_step(panels[0], 0.45, "at its end: downhill", (0.42, 0.95))
    draw_lengths(lengths[0], 0.45, next_step)
    panels[0].set_title("Too short: the rate rises", fontsize=14)

    next_step = draw_step(panels[1], 1.85, "at its end: uphill", (0.62, 1.28))
    draw_lengths(lengths[1], 1.85, next_step)
    panels[1].set_title("Too long: the rate falls", fontsize=14)

    left = draw_step_back(panels[2], 2.5)
    draw_lengths(lengths[2], 2.5, left)
    panels[2].set_title("Across a pole: back, a tenth is kept", fontsize=14)

    figure.suptitle(
        "The slope at the end of a step tells how long it should have been", fontsize=16
    )
    figure.savefig(PICTURE, dpi=120)


if __name__ == "__main__":
    main()
