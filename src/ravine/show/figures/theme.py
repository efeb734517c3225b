"""One look for every figure: light and dark, and told apart by people who do not see red and green.

The hues are those of Okabe and Ito (2008), moved to a middle lightness so that they stand on a light and
on a dark page alike. What depends on the page (text, grid, background) is in the two templates only, so a
page can change its scheme by changing the template and leave the figures as they are.
"""

import html
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BLUE = "#2b7fc3"
AMBER = "#dd8520"
GREEN = "#159a78"
PURPLE = "#a765a0"
SKY = "#63aedd"
RED = "#d1512d"
GREY = "#8a939b"
_DECADES_IN_FULL = 2.3  # above it, labels at 2 and 5 would touch

HUES = (BLUE, AMBER, GREEN, PURPLE, SKY, RED, GREY)

TRAIN, VALIDATION, TEST = BLUE, AMBER, GREEN
PART_COLORS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}

INK = "#1f2a30"  # the text of the light page
FONT = "Inter, 'Segoe UI', system-ui, -apple-system, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"


def tint(color: str, opacity: float) -> str:
    """A hue of the palette let through: "rgba(r,g,b,opacity)"."""
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def label(text: str, width: int = 28) -> str:
    """A name from the user's data, safe in a figure: markup is shown as written.

    Long names lose their middle, as names of one kind often differ at the end.
    """
    if len(text) > width:
        head = width // 2
        text = text[:head] + "…" + text[len(text) - (width - 1 - head) :]
    return html.escape(text, quote=False)


def template(dark: bool = False) -> dict[str, Any]:
    """The Plotly template of the light or the dark page."""
    ink, quiet, grid, page = (
        ("#dfe5e9", "#93a0a9", "#2a333a", "#161c20") if dark else (INK, "#5d6a72", "#e4e8ea", "#ffffff")
    )
    axis = {
        "gridcolor": grid,
        "linecolor": quiet,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": grid,
        "ticklen": 4,
        "tickfont": {"color": quiet, "size": 12},
        "title": {"font": {"color": quiet, "size": 12.5}, "standoff": 10},
        "automargin": True,
        "exponentformat": "power",
        "minor": {"showgrid": False},
    }
    return {
        "layout": {
            "font": {"family": FONT, "size": 13, "color": ink},
            "paper_bgcolor": page,
            "plot_bgcolor": page,
            "colorway": list(HUES),
            "title": {"font": {"size": 16, "color": ink}, "x": 0, "xref": "container", "pad": {"l": 14}},
            "margin": {"l": 56, "r": 18, "t": 34, "b": 48},
            "hovermode": "closest",
            "hoverlabel": {"font": {"family": FONT, "size": 12.5}, "align": "left", "namelength": -1},
            "legend": {
                "orientation": "h",
                "x": 0,
                "y": 1.02,
                "yanchor": "bottom",
                "font": {"size": 12.5, "color": ink},
                "bgcolor": "rgba(0,0,0,0)",
            },
            "xaxis": axis | {"showgrid": False, "showline": True},
            "yaxis": axis,
            "annotationdefaults": {"font": {"color": quiet, "size": 12}, "showarrow": False},
            "shapedefaults": {"line": {"color": quiet, "width": 1}},
        }
    }


def blank(title: str, x: str, y: str, *, wide: bool = False, **layout: Any) -> "Figure":
    """An empty figure in the light look.

    `x` and `y` title the axes, with their units; `wide` asks pages for their whole width.
    """
    import plotly.graph_objects as go

    start = {
        "template": _light_template(),
        "title": {"text": title},
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}},
        "margin": {"t": 76},
        "meta": {"wide": wide},
        "height": 360,
    }
    return go.Figure(layout=start | layout)


@cache
def _light_template() -> Any:
    """The light template as Plotly keeps it: to check it for every figure anew takes longer than all else."""
    import plotly.graph_objects as go

    return go.layout.Template(template())


def line(x: Any, y: Any, name: str, color: str, **more: Any) -> dict[str, Any]:
    """A line trace; single points show as markers, gaps between measured points are bridged."""
    return {
        "type": "scatter",
        "x": x,
        "y": y,
        "name": name,
        "mode": "lines+markers" if len(x) <= 1 else "lines",
        "line": {"color": color, "width": 2},
        "connectgaps": True,
    } | more


def log_axis(figure: "Figure", values: Any, axis: str = "y") -> None:
    """Make an axis logarithmic, labelled with plain numbers at 1, 2 and 5, or at 1 where decades are many.

    `values`: what is drawn along it; the labels go on beyond, for those who zoom out.
    """
    import numpy

    shown = numpy.asarray(values, dtype=float)
    shown = shown[numpy.isfinite(shown) & (shown > 0)]
    first, last = (numpy.log10(shown.min()), numpy.log10(shown.max())) if len(shown) else (-1.0, 1.0)
    span = last - first
    digits = (1, 1.5, 2, 3, 4, 5, 7) if span < 0.7 else (1, 2, 5) if span < _DECADES_IN_FULL else (1,)
    decades = range(int(numpy.floor(first)) - 2, int(numpy.ceil(last)) + 3)
    ticks = [digit * 10.0**decade for decade in decades for digit in digits]
    figure.update_layout(
        {
            f"{axis}axis": {
                "type": "log",
                "tickvals": ticks,
                "ticktext": [f"{tick:.6g}".replace("e-0", "e-") for tick in ticks],
            }
        }
    )
