"""Sphinx's configuration.

The source folder is the root of the repository:

    pip install ".[docs]"
    sphinx-build -W --keep-going -c docs . site

So links from page to page are the same here and on a code host.
"""

from importlib.metadata import version as version_of
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

project = "dsa_optax"
version = release = version_of("dsa-optax")
project_copyright = "The authors of dsa_optax"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
include_patterns = [
    "docs/**",
    "notebooks/*.ipynb",
    "benchmarks/results/*.md",
    "benchmarks/tried.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]
root_doc = "docs/index"

html_theme = "furo"
html_title = "dsa_optax"
html_extra_path = ["landing"]  # index.html, which leads on to docs/index.html
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"

# Single backticks in docstrings are code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # `Args` says what is what
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

# Notebooks are shown with the output that they have.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3


def mathml(visitor: nodes.NodeVisitor, node: nodes.Element) -> None:
    """Writes maths as MathML: no script, and nothing to fetch."""
    text = node.astext()
    if isinstance(node, nodes.math):
        visitor.body.append(convert(text))
    else:
        text = text.replace("{aligned}", "{align*}")  # the one that it knows
        if r"\\" in text and r"\begin" not in text:
            text = rf"\begin{{align*}}{text}\end{{align*}}"
        visitor.body.append(f'<div class="math">{convert(text, display="block")}</div>')
    raise nodes.SkipNode


def keep_outputs_in_the_site(app: Sphinx) -> None:
    """MyST-NB would write the notebooks' pictures beside the site's folder."""
    folder = str(Path(app.outdir) / "jupyter_execute")
    app.env.mystnb_config = app.env.mystnb_config.copy(output_folder=folder)


def setup(app: Sphinx) -> None:
    """What Sphinx calls."""
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
    app.connect("builder-inited", keep_outputs_in_the_site, priority=900)
