"""The colours of the figures, and how they are saved."""

from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from benchmarks.shared.files import replacing

# Okabe and Ito's palette, which the colour-blind can tell apart; DSA's is kept for it.
DSA_COLOR = "#D55E00"
OTHER_COLORS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def save(figure: Figure, path: Path) -> None:
    """Writes the figure in one move, so that no half of it is ever seen.

    Its colours are few: with a palette the file is a third as long.
    """
    with BytesIO() as drawn, replacing(path) as file:
        figure.savefig(drawn, dpi=120, format="png")
        with Image.open(drawn) as picture:
            picture.convert("RGB").quantize(256).save(file, "png", optimize=True)
