"""The paper's claims about its case studies and sensitivity (Sec. 3.3, App. H)."""

import pandas as pd

from benchmarks.paper import case_studies, sensitivity
from benchmarks.paper.claims import Claim, Finding, graded
from benchmarks.paper.tables import at
from benchmarks.shared.optimizers.defaults import OPTIMIZERS, PAPER_OPTIMIZERS

VISIBLE = 0.1
WAVE = 0.5
"""Overshoots, as shares of a weight's first distance from its optimum."""

BUDGET = {"epoch": "epochs", "gradient_evaluations": "gradients"}
"""How `case_studies.summary` names what it counts."""


def _speeds(records: pd.DataFrame, case: str, axis: str) -> "pd.Series[float]":
    """Budget to 1e-8 of the first loss, for the optimizers of the paper."""
    table = case_studies.summary(records, case)
    speeds = table[f"{BUDGET[axis]} to 1e-8"].astype(float)
    return speeds[[name for name in speeds.index if name in PAPER_OPTIMIZERS]]


def _speed(speeds: "pd.Series[float]", name: str) -> str:
    reached = "never" if speeds[name] == float("inf") else f"{speeds[name]:g}"
    return f"{OPTIMIZERS[name].label} {reached}"


def two_most_suitable(records: pd.DataFrame, axis: str) -> Finding:
    """Fig. 5: after the same budget DSA and Momentum have the two lowest losses."""
    case = records[records["dataset"] == "sum-of-four"]
    case = case[case["optimizer"].isin(PAPER_OPTIMIZERS)]
    final = at(case, axis, case_studies.EPOCHS)
    losses = final.groupby("optimizer")["train_loss"].median().nsmallest(3)
    measured = ", ".join(
        f"{OPTIMIZERS[str(name)].label} {loss:.0e}" for name, loss in losses.items()
    )
    held = len({"dsa", "momentum"} & set(losses.index[:2]))
    return Finding(f"lowest median losses: {measured}", graded(held, 2))


def quicker_than_momentum(records: pd.DataFrame, axis: str) -> Finding:
    """Fig. 5: DSA completes before Momentum, which oscillates more."""
    speeds = _speeds(records, "sum-of-four", axis)
    beyond = case_studies.summary(records, "sum-of-four")["overshoot"]
    measured = (
        f"{BUDGET[axis]} to 1e-8 of the first loss: {_speed(speeds, 'dsa')}, "
        f"{_speed(speeds, 'momentum')}; overshoot {beyond['dsa']:.0%} and "
        f"{beyond['momentum']:.0%}"
    )
    faster = bool(speeds["dsa"] < speeds["momentum"])
    steadier = bool(beyond["dsa"] < beyond["momentum"])
    return Finding(measured, graded(faster + steadier, 2))


def straight_line(records: pd.DataFrame, axis: str) -> Finding:
    """Fig. 6: SGD and Momentum oscillate and calm down; DSA goes straight."""
    del axis
    steep = case_studies.summary(records, "valley")
    plain = ("sgd", "momentum")
    lost = [OPTIMIZERS[name].label for name in plain if steep["last loss"][name] > 1]
    beyond, detour = steep["overshoot"]["dsa"], steep["detour"]["dsa"]
    stable = steep["overshoot"][list(case_studies.STABLE)].min()
    measured = (
        f"at the rate of 0.01 {' and '.join(lost) or 'none'} diverge; at "
        f"{case_studies.STABLE_LR} they overshoot by {stable:.0%} and calm down; DSA "
        f"overshoots by {beyond:.0%}, and goes down first and then along, "
        f"×{detour:.2f} of the straight line"
    )
    held = (not lost) + bool(beyond < VISIBLE) + bool(detour < 1.01)
    return Finding(measured, graded(held, 3))


def stride_rises_then_falls(records: pd.DataFrame, axis: str) -> Finding:
    """Fig. 6: DSA's stride rises at first and falls fast in the end."""
    del axis
    run = records[(records["dataset"] == "valley") & (records["optimizer"] == "dsa")]
    stride = run.sort_values("epoch")["w1"].diff().abs().iloc[1:].to_numpy()
    peak = int(stride.argmax())
    after = int((stride[peak:] < stride[peak] / 1000).argmax())
    rising = peak > 0 and bool((stride[1 : peak + 1] > stride[:peak]).mean() > 0.9)
    measured = (
        f"along w₁ from {stride[0]:.1e} to {stride[peak]:.1e} in {peak + 1} epochs, "
        f"then below a thousandth of that within {after}"
    )
    return Finding(measured, graded(rising + (0 < after <= peak), 2))


def others_make_waves(records: pd.DataFrame, axis: str) -> Finding:
    """Fig. 9: the adaptive rivals swing far out before they calm down."""
    del axis
    beyond = case_studies.summary(records, "valley")["overshoot"]
    names = ("rmsprop", "adagrad", "adam", "adamw", "adamax", "dsa")
    measured = ", ".join(f"{OPTIMIZERS[n].label} {beyond[n]:.0%}" for n in names)
    held = sum(bool(beyond[name] > WAVE) for name in names[:-1])
    return Finding(f"overshoot: {measured}", graded(held, 5))


def adam_is_slow(records: pd.DataFrame, axis: str) -> Finding:
    """Fig. 9: Adam is smooth but slow."""
    speeds = _speeds(records, "valley", axis)
    measured = f"{_speed(speeds, 'adam')}, {_speed(speeds, 'dsa')}"
    held = bool(speeds["adam"] > 2 * speeds["dsa"])
    return Finding(
        f"{BUDGET[axis]} to 1e-8 of the first loss: {measured}", graded(held, 1)
    )


def quickest(records: pd.DataFrame, axis: str) -> Finding:
    """Fig. 9: DSA is at the target in the fewest iterations."""
    speeds = _speeds(records, "valley", axis).nsmallest(3)
    measured = ", ".join(_speed(speeds, str(name)) for name in speeds.index)
    first = speeds.index[0] == "dsa"
    return Finding(
        f"the quickest to 1e-8 of the first loss: {measured}", graded(int(first), 1)
    )


def _monotone(epochs: "pd.Series[float]", axis: str) -> Finding:
    cost = 1 if axis == "epoch" else OPTIMIZERS["dsa"].gradients_per_step
    measured = ", ".join(f"{n:g}: {cost * e:g}" for n, e in epochs.items())
    held = sensitivity.never_rises(epochs) + bool(epochs.iloc[-1] < epochs.iloc[0])
    return Finding(f"{BUDGET[axis]} by value: {measured}", graded(held, 2))


def larger_start_is_faster_at_first(records: pd.DataFrame, axis: str) -> Finding:
    """App. H: the larger η₀, the faster the beginning (to 1e-2 of the loss)."""
    return _monotone(sensitivity.beginning(records, "init_log2_lr"), axis)


def larger_increase_is_faster_at_first(records: pd.DataFrame, axis: str) -> Finding:
    """App. H: the larger β₂, the faster the beginning (to 1e-2 of the loss)."""
    return _monotone(sensitivity.beginning(records, "increase"), axis)


def larger_decrease_is_faster_at_last(records: pd.DataFrame, axis: str) -> Finding:
    """App. H: the larger β₁, the faster the end (from 1e-2 to 1e-8 of the loss)."""
    return _monotone(sensitivity.end(records, "decrease"), axis)


CASE_CLAIMS = (
    Claim(
        "Sec. 3.3, Fig. 5",
        "Momentum and DSA suit the sum of four numbers best",
        "curves only",
        "they have the two lowest median losses of the paper's nine in a budget of 200",
        two_most_suitable,
    ),
    Claim(
        "Sec. 3.3, Fig. 5",
        "DSA completes the sum of four numbers more quickly than Momentum, which "
        "oscillates",
        "curves only",
        "DSA is sooner at 1e-8 of the first loss, and overshoots less (median)",
        quicker_than_momentum,
    ),
    Claim(
        "Sec. 3.3, Fig. 6",
        "In the valley SGD and Momentum oscillate violently before calming down; DSA "
        "goes along a straight line without visible oscillation",
        "tracks only",
        "SGD and Momentum converge at the paper's rate, 0.01; DSA overshoots by less "
        "than 10 % of a weight's first distance; its way is at most 1 % longer",
        straight_line,
    ),
    Claim(
        "Sec. 3.3, Fig. 6",
        "DSA's stride keeps increasing in the beginning and decreases quickly in the "
        "end",
        "tracks only",
        "along w₁, 9 of 10 strides up to the longest rise, and then they fall to a "
        "thousandth of it in less time",
        stride_rises_then_falls,
    ),
    Claim(
        "Sec. 3.3, Figs. 6, 9 (App. G)",
        "The other adaptive optimizers make a big wave, above all RMSprop and Adagrad",
        "tracks only",
        "each of the five overshoots by more than half of a weight's first distance",
        others_make_waves,
    ),
    Claim(
        "Sec. 3.3, Figs. 6, 9 (App. G)",
        "Adam is smoother but too slow",
        "tracks only",
        "it needs more than twice DSA's budget to 1e-8 of the first loss",
        adam_is_slow,
    ),
    Claim(
        "Sec. 3.3, Figs. 6, 9 (App. G)",
        "DSA reaches the target within the fewest iterations",
        "tracks only",
        "of the paper's nine DSA is the first at 1e-8 of the first loss",
        quickest,
    ),
)

SENSITIVITY_CLAIMS = (
    Claim(
        "App. H, Fig. 10",
        "The larger η₀, the faster the beginning",
        "tracks only",
        "the budget to 1e-2 of the first loss never rises from value to value",
        larger_start_is_faster_at_first,
    ),
    Claim(
        "App. H, Fig. 10",
        "The larger β₂, the faster the beginning",
        "tracks only",
        "as above",
        larger_increase_is_faster_at_first,
    ),
    Claim(
        "App. H, Fig. 10",
        "The larger β₁, the faster the end",
        "tracks only",
        "the budget from 1e-2 to 1e-8 never rises from value to value",
        larger_decrease_is_faster_at_last,
    ),
)
