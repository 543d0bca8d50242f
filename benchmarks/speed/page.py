"""The page of speed and memory, and its figure, from the tables that were measured."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.shared.figures import DSA_COLOR, OTHER_COLORS, save
from benchmarks.shared.files import as_page, write_page
from benchmarks.shared.records import read, without_origin
from benchmarks.shared.tables import in_markdown, rounded
from benchmarks.speed import sections
from benchmarks.speed.growth import exponents
from benchmarks.speed.steps import ENTRANTS

PAGE = "speed.md"
FIGURE = "speed_growth.png"

LARGE = 1e7
"""From so many parameters on, nothing of an update stays in the caches."""


def write(output: Path) -> None:
    """Writes speed.md and its figure from the sections that are there."""
    frames = _frames(output)
    if {"parameters", "samples"} <= frames.keys():
        figure(frames["parameters"], frames["samples"], output / FIGURE)
    write_page(output / PAGE, text(output))


def text(output: Path) -> str:
    """The page, from the sections that are in `output`."""
    return as_page(_sections(_frames(output)))


def _frames(output: Path) -> dict[str, pd.DataFrame]:
    paths = {name: sections.path(output, name) for name in sections.SECTIONS}
    return {name: read(path) for name, path in paths.items() if path.exists()}


def _by_the_code(frames: dict[str, pd.DataFrame]) -> str:
    """What each section was measured on, in a sentence."""
    codes: dict[str, list[str]] = {}
    for name, frame in frames.items():
        for code in frame["code"].unique() if "code" in frame else ():
            codes.setdefault(code, []).append(name)
    each = "; ".join(f"{code} ({', '.join(codes[code])})" for code in sorted(codes))
    return f"Run by dsa_optax {each}." if each else ""


def _sections(frames: dict[str, pd.DataFrame]) -> Iterator[str]:
    machines = {name for frame in frames.values() for name in frame["machine"]}
    yield "# Speed and memory, against the limits"
    yield f"""\
By `python -m benchmarks speed --output benchmarks/results`, on {"; ".join(machines)}.
Steps and updates took turns with what they are compared to, in one process, and a
ratio is the median of the turns' own (of an update's bytes, of medians). Compilation
is apart. float32; steps and updates donate their buffers.
{_by_the_code(frames)}"""
    yield AIMS
    if "steps" in frames:
        yield "## In one line each"
        yield """\
A step of training, in steps of SGD, of a small net (10,000 parameters in four arrays,
8,192 rows) and a large one (a million, 1,024 rows); the state in bytes a parameter."""
        yield in_markdown(one_line_each(frames["steps"]))
    for name, (title, text, table) in PARTS.items():
        if name in frames:
            yield f"## {title}"
            yield text
            yield in_markdown(table(without_origin(frames[name])))
            if name == "updates":
                yield from _memory(frames[name])
            if name == "leaves":
                yield from _more_of_leaves(frames[name])
            if name == "grid":
                yield from _more_of_the_grid(frames[name])
            if name == "samples":
                yield f"![Growth]({FIGURE})"


def label(name: str) -> str:
    """The name for people."""
    return ENTRANTS[name].label if name in ENTRANTS else name


def figure(parameters: pd.DataFrame, samples: pd.DataFrame, path: Path) -> None:
    """Time of a step by parameters, and its ratio to SGD's by samples."""
    drawing = Figure(figsize=(10, 4), layout="constrained")
    left, right = drawing.subplots(1, 2)
    names = list(samples["optimizer"].unique())
    palette = (*OTHER_COLORS[:2], DSA_COLOR, *OTHER_COLORS[2:])
    colors = dict(zip(names, palette, strict=False))
    for axes, frame, x, y in (
        (left, parameters, "parameters", "milliseconds"),
        (right, samples, "samples", "to_sgd"),
    ):
        for name, rows in frame.groupby("optimizer", sort=False):
            text = label(str(name)).replace("`", "")
            axes.loglog(rows[x], rows[y], "o-", color=colors[str(name)], label=text)
        axes.set_xlabel(x)
        axes.grid(alpha=0.25)
    left.set(title="A step of training, 8 rows", ylabel="milliseconds")
    right.set(title="A step of training, 10,000 parameters", ylabel="to a step of SGD")
    right.axhline(2, color="gray", linewidth=0.8, linestyle=":")
    handles, texts = right.get_legend_handles_labels()
    drawing.legend(handles, texts, loc="outside lower center", ncols=3, frameon=False)
    save(drawing, path)


# Tables -------------------------------------------------------------------------------


def pivot(
    frame: pd.DataFrame, value: str, *by: str, cell: str = "{:.3g}"
) -> pd.DataFrame:
    """A row an optimizer, a column a size, in the order in which they were measured."""
    sizes = [tuple(map(_short, row)) for row in frame[[*by]].values]
    titles = [", ".join(f"{n} {b}" for n, b in zip(s, by, strict=True)) for s in sizes]
    frame = frame.assign(size=titles)
    table = frame.pivot_table(index="optimizer", columns="size", values=value)
    table = table.loc[frame["optimizer"].unique(), frame["size"].unique()]
    table.index = table.index.map(label)
    return _readable(table, cell)


def _short(number: float) -> str:
    """A count of parameters, rows or others: 64, 8,192, 10k, 1M."""
    if number < 1e4:
        return f"{number:,.0f}"
    return f"{number / 1e3:.0f}k" if number < 1e6 else f"{number / 1e6:.0f}M"


def _readable(table: pd.DataFrame, cell: str = "{:.3g}") -> pd.DataFrame:
    cells = table.map(lambda x: "" if pd.isna(x) else cell.format(x))
    return cells.rename_axis(index="optimizer", columns=None).reset_index()


def one_line_each(steps: pd.DataFrame) -> pd.DataFrame:
    """The table of the page's first section.

    Args:
      steps: that section.

    Returns:
      A row an optimizer: gradients a step, a step's time against SGD's (at 10,000
      parameters and 8,192 rows, and at a million and 1,024, in four arrays), state in
      bytes a parameter.
    """
    few = steps[(steps["leaves"] == 4) & (steps["parameters"] < LARGE)]
    times = few.pivot(index="optimizer", columns="parameters", values="to_sgd")
    times = times.loc[few["optimizer"].unique()]
    state = few.groupby("optimizer")["state_bytes"].last()
    small, large = times.columns
    return pd.DataFrame(
        {
            "optimizer": [label(name) for name in times.index],
            "gradients": [ENTRANTS[name].gradients for name in times.index],
            "time, small net": [f"{ratio:.2f}" for ratio in times[small]],
            "time, large net": [f"{ratio:.2f}" for ratio in times[large]],
            "state": [f"{state[name]:.0f}" for name in times.index],
        }
    )


def _steps(frame: pd.DataFrame) -> pd.DataFrame:
    return pivot(frame, "to_gradients", "parameters", "leaves", "rows")


def _updates(frame: pd.DataFrame) -> pd.DataFrame:
    # What adds nothing may come out below 0, by the noise of a difference.
    frame = frame.assign(to_bytes=frame["to_bytes"].clip(lower=0))
    return pivot(frame, "to_bytes", "parameters", "leaves")


def _memory(frame: pd.DataFrame) -> Iterator[str]:
    large = frame[frame["parameters"] > LARGE].drop_duplicates("optimizer")
    columns = {
        "bytes": "bytes that it must move",
        "nanoseconds": "nanoseconds",
        "gigabytes_per_second": "GB/s",
    }
    table = large.set_index("optimizer")[list(columns)].rename(columns=columns)
    table.index = table.index.map(label)
    yield "The same for a parameter of 100 million, in few arrays:"
    yield in_markdown(_readable(table))
    yield "### Memory"
    yield """\
Bytes a parameter: of the state, and of all that a step of training on eight rows takes
at its peak (params, state, gradients, probe, and what XLA sets aside), by XLA's own
plan."""
    small = frame[frame["parameters"].between(5e5, 5e6)].drop_duplicates("optimizer")
    memory = small.set_index("optimizer")[["state_bytes", "peak_bytes"]]
    memory.index = memory.index.map(label)
    yield in_markdown(_readable(memory.rename(columns=lambda c: c.replace("_", ", "))))


def _allocator(frame: pd.DataFrame) -> pd.DataFrame:
    return _plain(frame.assign(optimizer=frame["optimizer"].map(label)))


def _samples(frame: pd.DataFrame) -> pd.DataFrame:
    return pivot(frame, "to_sgd", "samples")


def _parameters(frame: pd.DataFrame) -> pd.DataFrame:
    slopes = exponents(frame, "parameters", ("milliseconds", "peak_bytes"))
    slopes.index = slopes.index.map(label)
    names = {"milliseconds": "time", "peak_bytes": "memory"}
    return _readable(slopes.rename(columns=names))


def _at_once(frame: pd.DataFrame) -> pd.DataFrame:
    return pivot(frame, "speed_up", "seeds")


def _cold(frame: pd.DataFrame) -> pd.DataFrame:
    def cell(row: pd.Series) -> str:
        taken = f"{row['seconds']:.2f}" if np.isfinite(row["seconds"]) else "never"
        return f"{taken} ({row['to_first']:.2f}, {row['steps']:.0f})"

    names = frame["optimizer"].map(lambda name: COLD.get(name) or label(name))
    cells = frame.assign(optimizer=names, cell=frame.apply(cell, axis=1))
    table = cells.pivot(index="problem", columns="optimizer", values="cell")
    table = table.loc[cells["problem"].unique(), names.unique()]
    return table.rename_axis(columns=None).reset_index()


COLD = {
    "adam": "Adam, its best rate",
    "lbfgs": "`optax.lbfgs()`",
    "scipy-bfgs": "BFGS, SciPy",
    "auto-cached": "`auto_dsa()`, cached",
}


def by_net(frame: pd.DataFrame, value: str, cell: str = "{:.3g}") -> pd.DataFrame:
    """A row an optimizer, a column a net, in the order in which they were measured."""
    table = frame.pivot(index="optimizer", columns="net", values=value)
    table = table.loc[frame["optimizer"].unique(), frame["net"].unique()]
    table.index = table.index.map(label)
    return _readable(table, cell)


def _leaves(frame: pd.DataFrame) -> pd.DataFrame:
    return by_net(frame, "compile_seconds")


def _more_of_leaves(frame: pd.DataFrame) -> Iterator[str]:
    """The other tables of that section."""
    yield "The same in Adam's compilations, and in Muon's:"
    for other in ("adam", "muon"):
        yield in_markdown(by_net(beside(frame, other), "compile_seconds", "{:.2f}"))
    yield "To make the state, in seconds:"
    yield in_markdown(by_net(frame, "init_seconds"))
    yield "A step, in milliseconds, and in Muon's steps:"
    yield in_markdown(by_net(frame, "milliseconds"))
    yield in_markdown(by_net(beside(frame, "muon"), "milliseconds", "{:.2f}"))
    yield "Operations of the compiled step, those inside its fusions too:"
    yield in_markdown(by_net(frame, "operations", "{:,.0f}"))
    yield "Megabytes that a step needs beside what it is given and returns:"
    megabytes = frame.assign(megabytes=frame["temporary_bytes"] / 1e6)
    yield in_markdown(by_net(megabytes, "megabytes"))


def beside(frame: pd.DataFrame, other: str) -> pd.DataFrame:
    """Compilations and steps of this package's optimizers, in those of another one.

    Args:
      frame: the section "leaves".
      other: the name of the other optimizer.
    """
    columns = ["compile_seconds", "milliseconds"]
    theirs = frame[frame["optimizer"] == other].set_index("net")[columns]
    ours = frame[frame["optimizer"].str.startswith(("dsa", "warmup", "adapt", "auto"))]
    divisors = theirs.loc[ours["net"]].set_index(ours.index)
    return ours.assign(**(ours[columns] / divisors))


def _inside(frame: pd.DataFrame) -> pd.DataFrame:
    names = {
        "state": "leaves of the state",
        "first_seconds": "first update, seconds",
        "milliseconds": "later ones, milliseconds",
    }
    table = frame.set_index("optimizer").rename(columns=names)
    table.index = table.index.map(label)
    return _readable(table)


def _grid(frame: pd.DataFrame) -> pd.DataFrame:
    return pivot(frame, "milliseconds", "parameters", "leaves")


def _more_of_the_grid(frame: pd.DataFrame) -> Iterator[str]:
    """The other tables of that section."""
    yield "Kernels that a step launches (those in the body of a loop once):"
    yield in_markdown(pivot(frame, "kernels", "parameters", "leaves", cell="{:,.0f}"))
    yield "Gigabytes a second at which an update moves the bytes that it must:"
    yield in_markdown(pivot(frame, "gigabytes_per_second", "parameters", "leaves"))


def _devices(frame: pd.DataFrame) -> pd.DataFrame:
    times = pivot(frame, "milliseconds", "devices")
    most = frame[frame["devices"] == frame["devices"].max()]
    sent = most[["all_reduces", "bytes_reduced", "gathers"]].reset_index(drop=True)
    return pd.concat([times, _plain(sent)], axis=1)


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    return rounded(frame.rename(columns=lambda c: c.replace("_", " ")))


def _parts(frame: pd.DataFrame) -> pd.DataFrame:
    table = frame.pivot(index="optimizer", columns="problem", values="to_sgd")
    return _readable(table.loc[frame["optimizer"].unique()])


AIMS = """\
## The aims

As measured on two cores of a CPU; no GPU was at hand. Here SGD's step is between 0.95
and 1.10 of itself, and ratios of others vary by up to a fifth from run to run.

*Many leaves, and large ones* (the tables say what else was measured; beside it what it
was before large leaves were stacked, at commit b4577e6, on the same machine at another
hour):

| aim | before | now |
|:---|---:|---:|
| `auto_dsa()`, 25 of 256×256: compiled in at most 6 times Adam's time | 28 | 4.9 |
| on the transformer: 6 times | 27 | 2.1 |
| the light form on both: 2.5 times Muon's | 4.0, 5.4 | 1.3, 1.0 |
| `dsa()` on the transformer: 2 times Adam's | 2.5 | 1.9 |
| `adaptive_warmup(muon)` on it: 1.2 times Muon's | 1.2 | 1.15 |
| `auto_dsa()`, 42 leaves: no slower than 4.7 times Adam's | 3.9 | 3.5 |
| 6 leaves: 4 times | 4.2 | **5.7**, 4.2 in other runs |
| 42 leaves: a step at most 1.3 times Muon's | 1.3 | **1.6**, 1.4 in other runs |
| a step of the transformer: at most 1.3 times that | 763 ms | 841 ms, 1.1 times |
| temporary memory there: no more than before, `auto_dsa()` | 557 MB | 547 MB |
| the light form | 252 MB | **333 MB** |
| an update outside `jit` on six leaves: at most 3 ms | 400 ms | 0.7 ms |
| the first of them: at most 3 s | 8.2 s | 2.4 s |
| an update on six leaves: at most 60 calls between modules | 147 | **115** |
| at most 35 leaves of state | 60 | **44** |

What is missed: no two of the six leaves have one shape, so that nothing is a batch, and
what is compiled are the three parts themselves, some 180 kernels (before 220) where
Adam has 40. The light form needs packed copies of the gradient, the params and the
rates meanwhile, where leaves apart went through one by one. On matrices alone, whose
gradient compiles in no time, `adaptive_warmup(muon)` takes 1.4 times Muon's compilation
(three sums a leaf), and `dsa()` on 100 of them 3.2 times Adam's: its large leaves are
never copied. Of the 44 leaves of state twelve are the rates of the six arrays, as trees
like the params for those who read them.

1,000 leaves: 4 times Adam's was the aim, it is 0.9. The light form's step within 1.1 of
Muon's: 0.9 on 42 leaves and on the transformer, 1.1 on 25 matrices; missed on 6 leaves
(1.6, where a step is 0.3 ms, most of it calls of kernels) and on 100 matrices (1.4).

*The modules of an update*, before and now. An arrow is a call; what they share
(`_norms`, `_trees`, `_rules`, `_state`) is left out.

```text
_step_back → _packed                     _packed          trees, to vectors and back
    → _blend → _adapt → _granularity         → _step_back     undoes a step too far
                  → _skeleton                    → _blend         the sum
                  → _packed                          → _rates         η, and its kinds
                      → _auto → _bfgs                    → _muon, _lbfgs, _self_scaled
                      → _muon, _lbfgs
```

*A step:*

1. *Within 2% of two gradients where these dominate*, for `dsa()`; *within 5% of SGD's
   step for one rate a parameter*; *within 10% of the bytes' time where the update
   dominates*: the tables below. The first two are met where the gradient takes
   milliseconds, within the noise, and missed in many small arrays; the third is missed,
   by Adam too. Above 10 million parameters about half of a step of DSA is the
   allocator's, as measured below. What is left are the arithmetic (two powers of two a
   parameter, about a nanosecond) and that XLA's CPU backend writes each array in a loop
   of its own, which reads its inputs again.
2. *State*: 1 byte a parameter for `dsa(state_dtype=jnp.int8)`, the trajectory that of
   float32 bit for bit where float32 doesn't round itself
   (`tests/test_rate_storage.py`). On the CPU fewer bytes cost time: bfloat16 and int8
   are converted number by number."""


PARTS: dict[str, tuple[str, str, Callable[[pd.DataFrame], pd.DataFrame]]] = {
    "cold": (
        "From a cold start to the solution",
        """\
Seconds that a user waits for the race's untuned target on five of its problems: each
run a process of its own, whose clock starts when Python, JAX and the data are loaded,
so with compilation; in brackets the seconds to the end of the first step, and the
steps (SciPy's: evaluations). Medians of three. Adam is at the rate of the race's grid
whose loss after 300 evaluations was the least; no other has anything set. *Cached* is
with what an earlier process compiled on the disk: `JAX_COMPILATION_CACHE_DIR` names the
folder, and `JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0` lets in what compiles fast.
The rivals would gain by that too, and weren't timed with it.""",
        _cold,
    ),
    "leaves": (
        "Many leaves, and large ones",
        """\
Seconds to trace and compile a train step (nothing is cached; the fastest of three, or
one of more than five seconds), by the net: six leaves of six shapes (1,169 parameters);
42 and 160 of nets with skip connections (31 units wide; 20,832 and 79,360 parameters);
1,000 of four parameters each; 6, 25 and 100 matrices of 256×256; and a transformer in
Flax's linen, 12 layers, 256 wide, of 198 leaves, 74 of them large (10 million
parameters). Leaves of up to 16,384 entries are packed into one vector, larger ones of
one shape into one array: what an update does is compiled once for all of them.""",
        _leaves,
    ),
    "inside": (
        "An update in Python",
        """\
On six leaves: how many functions of this library an update calls while it is traced,
how many of these calls go from one of its modules to another, how deep they nest; and
updates outside `jit`. Optax's own call nothing of ours.""",
        _inside,
    ),
    "steps": (
        "A step of training, to its gradients",
        """\
The time of a whole step, divided by that of as many gradients as it evaluates and
nothing else (two for SAM and DSA, one for the others), on nets with skip connections.
The aim was 1.02 where the gradient dominates.""",
        _steps,
    ),
    "grid": (
        "By leaves and parameters",
        """\
Milliseconds of a step of training on eight rows, by the number of parameters and of
leaves. It is meant for a GPU (`--sections grid` there, up to 100 million parameters):
none was at hand, so that the CPU's figures stand here, up to a million.""",
        _grid,
    ),
    "updates": (
        "An update alone, to its bytes",
        """\
What a step of training on eight rows takes beyond its gradients, divided by the time in
which a sum of two arrays moves as many bytes as the update must read and write (each of
its arrays once). With 10,000 parameters all is in the caches, and what is measured are
XLA's calls; a million are partly in the caches, where less than 1 can be. SAM's 12.6
nanoseconds below are an outlier (1.1 in many arrays). The aim was 1.1 where the update
dominates.""",
        _updates,
    ),
    "allocator": (
        "Why large updates miss that on the CPU",
        """\
XLA asks for its scratch memory anew at every step, glibc gives it back to the system
after each, and the system clears every page again. A step of training of 20 million
parameters on eight rows, in nanoseconds a parameter, and the bytes a parameter that the
system cleared meanwhile: as it is, and ("kept") with the environment variables
`MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000
MALLOC_TOP_PAD_=1000000000`, which any large training on the CPU may want.""",
        _allocator,
    ),
    "samples": (
        "From how many samples on does a step cost what the gradient costs?",
        """\
A step of training, divided by a step of SGD, on 10,000 parameters in four arrays, by
the rows of the full batch. DSA evaluates two gradients. The aim was 1.05 for one rate
a parameter.""",
        _samples,
    ),
    "parts": (
        "Where the time of the blend goes",
        """\
A step of training on two nets of the race, of 1,441 and 2,410 parameters, divided by a
step of SGD; each the fastest of ten, timed apart, so that a tenth says nothing. What a
shorter memory would lose was [raced before](../tried.md): 30 pairs take 0.91 of the
evaluations of 10, and cost little more; 5 were clearly worse. 3 of Muon's 5 iterations
save a tenth of the step, which more evaluations eat up; see there.""",
        _parts,
    ),
    "parameters": (
        "Growth with the number of parameters",
        """\
Exponents of time and peak memory of a step of training on eight rows, fitted to the
larger half of the sizes from a thousand to 100 million; 1 is proportional.""",
        _parameters,
    ),
    "devices": (
        "Growth with the number of devices",
        """\
A step of training on simulated devices, the rows spread over them, in milliseconds:
100,000 parameters, 4,096 rows. The devices share two cores, so that no speed-up can
show; the gradient's work is divided at little cost. But params that are the same on
every device are updated on every one, and here all of that falls on two cores: so
`auto_dsa` grows. On a pod it is done at the same time everywhere, and stays what it is
on one device. The last columns are of the program for most devices: how many sums over
all devices, of how many bytes a parameter, and how many gathers. DSA sums each of its
two gradients once, as any data-parallel step does its one, and no optimizer sends
anything else that grows with such params. So on a pod a step should cost its gradient
there and its update here; for the update to be divided too, spread the params.""",
        _devices,
    ),
    "at-once": (
        "Many seeds at once",
        """\
How many times longer one after the other would take than a `vmap` over the seeds: 50
updates on the diabetes net, compiled.""",
        _at_once,
    ),
    "torch": (
        "Beside PyTorch's eager loop",
        """\
The tabular main job (the paper's MLP, its eight rivals, all seeds) beside the same in
PyTorch, on the same two cores. One compilation an optimizer is most of our time here,
so that PyTorch is ahead on a run this short; once compiled, ours is.""",
        _plain,
    ),
}
"""Title, text and table of each section, in the order of the page."""
