"""What the pages in docs/ say can be pasted, and leads somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import dsa_optax

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LIBRARIES = "libraries.md"  # its sections are apart: see below
PAGES = {path.name: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")}

pytestmark = pytest.mark.usefixtures("as_users_run_it")


def blocks_of(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def section(page: str, title: str) -> str:
    return PAGES[page].split(f"\n## {title}\n")[1].split("\n## ")[0]


def run(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.chdir(folder)
    namespace: dict[str, object] = {}
    for block in blocks_of(text):
        exec(block, namespace)
    return namespace


CODE = sorted(name for name in PAGES if blocks_of(PAGES[name]) and name != LIBRARIES)


def test_pages_with_code_are_known():
    assert CODE == [
        "full_batches.md",
        "getting_started.md",
        "minimize.md",
        "polishing.md",
        "which_one.md",
        "wrappers.md",
    ]


def test_getting_started(tmp_path, monkeypatch, capsys):
    end = run(PAGES["getting_started.md"], tmp_path, monkeypatch)
    assert end["loss"](end["params"], end["x"], end["y"]) < 1e-6
    assert "'w': Array(" in capsys.readouterr().out
    assert (tmp_path / "rates.png").exists()
    assert (tmp_path / "lengths.png").exists()


def test_minimize(tmp_path, monkeypatch, capsys):
    end = run(PAGES["minimize.md"], tmp_path, monkeypatch)
    assert abs(end["best"].params["b"] - 0.7) < 1e-4
    assert abs(dsa_optax.best(end["state"]).params["a"] - 3) < 1e-4
    assert "The loss" not in capsys.readouterr().out  # of not being finite


def test_which_one(tmp_path, monkeypatch):
    assert run(PAGES["which_one.md"], tmp_path, monkeypatch)["value"] < 1e-6


def test_full_batches(tmp_path, monkeypatch):
    end = run(PAGES["full_batches.md"], tmp_path, monkeypatch)
    assert end["value"] < 1e-6
    assert jax.tree.map(jax.numpy.shape, end["grads"]) == {"w": (3,), "b": ()}


def test_polishing(tmp_path, monkeypatch, capsys):
    run(PAGES["polishing.md"], tmp_path, monkeypatch)
    assert "{'epoch': 30, 'loss': " in capsys.readouterr().out


def test_wrappers(tmp_path, monkeypatch):
    assert run(PAGES["wrappers.md"], tmp_path, monkeypatch)["value"] < 1e-6


def test_flax_linen(tmp_path, monkeypatch):
    end = run(section(LIBRARIES, "Flax linen"), tmp_path, monkeypatch)
    value, _ = end["loss"](
        end["state"].params, end["state"].batch_stats, end["key"], end["x"], end["y"]
    )
    assert value < 0.1


def test_flax_nnx(tmp_path, monkeypatch):
    end = run(section(LIBRARIES, "Flax nnx"), tmp_path, monkeypatch)
    assert end["value"] < 0.01
    x, y = end["x"], end["y"]
    found = end["loss"](end["trained"], x, y)
    assert found == pytest.approx(float(end["fit"].value), rel=1e-3)
    assert found < 1e-4


def test_equinox(tmp_path, monkeypatch):
    pytest.importorskip("equinox")
    end = run(section(LIBRARIES, "Equinox"), tmp_path, monkeypatch)
    assert end["fit"].value < 1e-3
    rates, *_ = dsa_optax.learning_rates(end["fit"].state)
    assert rates.layers[0].weight.shape == (16, 1)
    assert jax.numpy.isfinite(rates.layers[0].weight).all()
    assert jax.numpy.abs(jax.vmap(end["model"])(end["x"]) - end["y"]).max() < 0.1


# What must hold at the end of a section. Each runs in a process of its own, for some
# change JAX's configuration, and their warnings are their own.
CLIENTS = {
    "NumPyro": """
least_squares, *_ = jnp.linalg.lstsq(jnp.stack([x, jnp.ones(50)], 1), y)
median = guide.median(fit.params)
assert abs(median["slope"] - least_squares[0]) < 1e-3
assert abs(median["intercept"] - least_squares[1]) < 1e-3
assert 0.03 < posterior["slope"].std() < 0.07
assert mode.reason == dsa_optax.Reason.CONVERGED
assert abs(to_values(mode.params)["slope"] - least_squares[0]) < 1e-2
""",
    "GPJax": """
assert len(losses) == 100
assert losses[-1] < -26.4939  # SciPy's L-BFGS-B ends at -26.49399 as well
assert fit.value < -26.4939 and fit.reason == dsa_optax.Reason.CONVERGED
""",
    "Optimistix": """
assert solution.stats["num_steps"] < 100
assert jnp.abs(solution.value - 1).max() < 1e-3
""",
    "jinns": """
t = jnp.linspace(0, 4, 50)[:, None]
exact = (jnp.cos(3 * t) + 3 * jnp.sin(3 * t)) / 10 + 0.9 * jnp.exp(-t)
assert losses[-1] < 1e-6
assert jnp.abs(jax.vmap(lambda t: u(t, params))(t) - exact).max() < 1e-3
""",
}


def run_apart(title: str, folder: Path) -> None:
    oldest = "1.0" if title == "GPJax" else None  # before it had another interface
    pytest.importorskip(title.lower(), oldest, exc_type=ImportError)
    code = "\n".join(blocks_of(section(LIBRARIES, title)))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code + CLIENTS[title]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore")  # of what importing a client does
@pytest.mark.parametrize("title", CLIENTS)
def test_clients(title, tmp_path):
    run_apart(title, tmp_path)


def test_every_section_on_a_library_is_run():
    titles = re.findall(r"^## (.*)$", PAGES[LIBRARIES], re.MULTILINE)
    assert titles == ["Flax linen", "Flax nnx", "Equinox", *CLIENTS]


MODULES = ("paper", "full_batch", "plots")
"""Those that come with the package; they are among its names."""


def test_table_of_names_is_complete():
    named = set(re.findall(r"`(?:dsa_optax\.)?(\w+)`", section("api.md", "Names")))
    modules = [getattr(dsa_optax, name) for name in MODULES]
    for module in (dsa_optax, *modules):
        assert set(module.__all__) <= named


def test_reference_is_complete():
    shown = set(re.findall(r"auto(?:function|class):: (\w+)", PAGES["api.md"]))
    assert {*shown, *MODULES} == set(dsa_optax.__all__)
    modules = re.findall(r"automodule:: (\S+)", PAGES["api.md"])
    names = (*MODULES, "linen", "nnx", "training")
    assert modules == [f"dsa_optax.{name}" for name in names]


@pytest.mark.parametrize("page", [*sorted(PAGES), "README.md", "CONTRIBUTING.md"])
def test_links_point_at_files(page):
    path = DOCS / page if page in PAGES else ROOT / page
    text = path.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)]*)?\)", text):
        if target.startswith("http"):
            continue
        file = path.parent / target if target else path
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor[1:] in anchors(file.read_text(encoding="utf-8")), anchor


def anchors(text: str) -> set[str]:
    """Of the headings, as a code host makes them."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_every_page_is_in_the_tree():
    trees = re.findall(r"```{toctree}(.*?)```", PAGES["index.md"], re.DOTALL)
    lines = [line for line in "\n".join(trees).splitlines() if line[:1] not in ":"]
    listed = {re.sub(r".*<(.*)>", r"\1", line) for line in lines}
    assert {Path(name).stem for name in PAGES} - {"index"} <= listed
    pages = [*ROOT.glob("benchmarks/results/*.md"), *ROOT.glob("notebooks/*.ipynb")]
    pages += [ROOT / name for name in ("benchmarks/tried", "CONTRIBUTING", "CHANGELOG")]
    assert {f"../{page.relative_to(ROOT).with_suffix('')}" for page in pages} <= listed
