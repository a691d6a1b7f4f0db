"""How figures of a report are drawn: small, by matplotlib's objects, and turned into SVG whose colours follow the page's."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

from angularkd.system.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_INCHES, HEIGHT_INCHES = 4.6, 3.1
"""So small that its numbers can be read on a telephone, where it is as wide as the screen."""
INK, MUTED, GRID = "#1f2430", "#5c6370", "#dfe2e8"
TEACHER, STUDENT, BASELINE = "#0067a5", "#c84e00", "#00805e"
SERIES = (STUDENT, TEACHER, BASELINE, "#8248a6", "#836400", "#ad3c74", "#50697a")
"""Distinct for the colour-blind, and dark enough on white; `page/report.css` has the same for dark pages, by these variables."""
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES)},
}
PNG_DPI = 200
Place = Literal["outside upper center", "outside lower center"]
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
COLOUR = re.compile("|".join(VARIABLES))
REFERENCE = re.compile(r"url\(#([^)]*)\)")


@dataclass(frozen=True)
class Plot:
    """A figure that is to be drawn.

    Attributes:
        name: of its files, without ending.
        title: what it is called on the page.
        about: what it shows, in a sentence or two.
        draw: draws it on an empty figure.
        width, height: in inches.
    """

    name: str
    title: str
    about: str
    draw: Callable[[Figure], None]
    width: float = WIDTH_INCHES
    height: float = HEIGHT_INCHES


@dataclass(frozen=True)
class Drawn:
    """A figure as SVG that can stand in a page."""

    name: str
    title: str
    about: str
    svg: str


def draw(plot: Plot, folder: Path | None = None) -> Drawn:
    """Draw a figure for the page, and where a folder is given, into a .svg and a .png file there."""
    with _style():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(plot.width, plot.height), layout="constrained")
        FigureCanvasAgg(figure)
        plot.draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
        text = buffer.getvalue()
        if folder is not None:
            figure.set_layout_engine("none")  # its places are found
            write_atomically(folder / f"{plot.name}.svg", lambda file: file.write_text(text, encoding="utf-8"))
            write_atomically(
                folder / f"{plot.name}.png",
                lambda file: figure.savefig(file, format="png", dpi=PNG_DPI, facecolor="white"),
            )
    return Drawn(plot.name, plot.title, plot.about, inline(text, plot.name, plot.title))


def inline(text: str, name: str, title: str) -> str:
    """Return SVG for a page: without size and prologue, its colours by the page's variables, its ids by the figure's name."""
    root = ElementTree.fromstring(text)
    for parent in root.iter():
        for child in [child for child in parent if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style")]:
            parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
        for key, value in list(element.attrib.items()):
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key == f"{{{XLINK}}}href":
                del element.attrib[key]
                element.set("href", value.replace("#", f"#{name}-", 1))
            else:
                referring = REFERENCE.sub(lambda found: f"url(#{name}-{found[1]})", value)
                element.set(key, COLOUR.sub(lambda found: f"var({VARIABLES[found[0]]})", referring))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", title)
    return ElementTree.tostring(root, encoding="unicode")


def legend(figure: Figure, axes: Axes, columns: int = 2, place: Place = "outside upper center") -> None:
    """Add a legend of what is drawn on some axes, above the figure or below it."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc=place,
        ncols=columns,
        frameon=False,
        handlelength=1.9,
        handletextpad=0.4,
        columnspacing=1.1,
        labelspacing=0.3,
        borderaxespad=0.1,
    )


def logarithmic(axis: Any) -> None:
    """Make an axis logarithmic, its ticks plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = sorted(axis.get_view_interval())
    steps = (1.0,) if high > 50 * low else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=steps, numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def ticks_of_names(axes: Axes, names: Sequence[str]) -> None:
    """Name the places 0, 1, ... of the vertical axis, the first on top."""
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


@contextmanager
def _style() -> Iterator[None]:
    """Set the style of a report inside, whatever the caller's own, which is put back; names are no mathematics, and lack no letters."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that matplotlib's own font lacks, which the page's has
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "angularkd",
                "text.parse_math": False,
                "text.usetex": False,
                "axes.formatter.use_mathtext": False,
                "axes.unicode_minus": True,
                "font.size": 9.5,
                "axes.titlesize": 9.5,
                "axes.titleweight": "bold",
                "axes.labelsize": 9.5,
                "legend.fontsize": 9,
                "xtick.labelsize": 9,
                "ytick.labelsize": 9,
                "text.color": INK,
                "axes.labelcolor": MUTED,
                "axes.titlecolor": INK,
                "xtick.color": MUTED,
                "ytick.color": MUTED,
                "axes.edgecolor": MUTED,
                "axes.linewidth": 0.7,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "grid.color": GRID,
                "grid.linewidth": 0.7,
                "axes.axisbelow": True,
                "lines.linewidth": 1.7,
                "figure.constrained_layout.h_pad": 0.06,
                "figure.constrained_layout.w_pad": 0.06,
            }
        )
        yield
