"""SciPy's minimizers on CUTEst's problems, with every evaluation counted."""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.optimize import Bounds

from benchmarks.cutest.watch import Compiled, Trace, Watch
from benchmarks.shared.optimizers.contenders import HostContender
from benchmarks.shared.optimizers.host import restarting


def traces(
    contender: HostContender, compiled: Compiled, budget: int
) -> Iterator[Trace]:
    """At every setting."""
    start = np.asarray(compiled.problem.start)
    bounds = Bounds(*compiled.problem.bounds) if compiled.problem.bounds else None
    for setting in contender.settings:
        watch = Watch(compiled.evaluate, budget)
        restarting(_minimizing(contender, watch, setting, bounds), start, watch.lowest)
        # What its line search accepts is lower.
        yield watch.trace(setting, end_loss=watch.lowest()[0])


def _minimizing(
    contender: HostContender, watch: Watch, setting: float, bounds: Bounds | None
) -> Callable[[np.ndarray], None]:
    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        value, grad = watch(point)
        loss = float(value)
        # It steps back from what is infinite, not from what is no number.
        return np.inf if np.isnan(loss) else loss, np.array(grad)

    within = {} if bounds is None else {"bounds": bounds}
    minimize: Callable[..., None] = contender.minimize
    return lambda start: minimize(objective, start, setting, **within)
