"""Pages that work offline: text and Plotly figures in one HTML file, light or dark as the reader likes.

Plotly itself (4.8 MB) travels inside, compressed to a third; the page unpacks it with what browsers bring
along (`DecompressionStream`) and shows its text before that.
"""

import base64
import gzip
import html
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from .. import files
from .figures import theme

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_TITLED_MARGIN, _BARE_MARGIN = 76, 40


def escape(value: object) -> str:
    """Any value as text in HTML, in an element or in a quoted attribute."""
    return html.escape(str(value))


def figure_block(figure: "Figure", caption: str = "") -> str:
    """A figure as a block of a page: its title and caption as text, the drawing below.

    Args:
        figure: drawn in the shared look (`figures.theme.blank`).
        caption: HTML; how to read the figure.
    """
    title, wide, drawing = _drawing(figure)
    return f'<figure class="card{" wide" if wide else ""}">{caption_block(title, caption)}{drawing}</figure>'


def caption_block(title: str, caption: str = "") -> str:
    """The title and the caption above a figure; both are HTML."""
    return f"<figcaption><h3>{title}</h3>{f'<p>{caption}</p>' if caption else ''}</figcaption>"


def write_page(path: Path, title: str, body: str) -> Path:
    """Write a page atomically and return its path.

    Args:
        path: where to.
        title: what the window shows; plain text.
        body: HTML.

    Raises:
        RunError: the place cannot be written.
    """
    content = Template(_asset("page.html")).substitute(
        title=escape(title),
        css=_asset("page.css"),
        script=_asset("page.js"),
        templates=embedded_json({"light": theme.template(), "dark": theme.template(dark=True)}),
        plotly=_packed_plotly() if 'class="plot"' in body else "",
        body=body,
    )
    files.write_bytes(path, content.encode("utf-8", errors="replace"))
    return path


def write_figure(path: Path, figure: "Figure", title: str, lead: str = "") -> Path:
    """Write a page of one figure, for example of a learning-rate range test, and return its path.

    Args:
        path: where to.
        figure: drawn in the shared look.
        title: what is shown; plain text.
        lead: a sentence or two below the title; plain text.

    Raises:
        RunError: the place cannot be written.
    """
    body = (
        f"<header><h1>{escape(title)}</h1><p class='story'>{escape(lead)}</p></header>"
        f"<figure class='card single'>{_drawing(figure)[2]}</figure>"
    )
    return write_page(path, title, body)


def embedded_json(value: Mapping[str, Any]) -> str:
    """JSON that can stand inside a script element: no text in it can end the element."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")


def _drawing(figure: "Figure") -> tuple[str, bool, str]:
    """(title, whether it asks for the whole width, the place and the content of the drawing)."""
    content = json.loads(figure.to_json())
    layout = content["layout"]
    layout.pop("template", None)
    wide = layout.pop("meta", {}).get("wide", False)
    title = (layout.pop("title", None) or {}).get("text", "")
    layout.setdefault("margin", {})["t"] = _BARE_MARGIN if _has_top_matter(figure) else 16
    layout["height"] -= _TITLED_MARGIN - layout["margin"]["t"]
    return (
        title,
        wide,
        f'<div class="plot" role="img" aria-label="{escape(html.unescape(title))}"'
        f' style="min-height:{layout["height"]}px"></div>'
        f'<script type="application/json">{embedded_json(content)}</script>',
    )


def _has_top_matter(figure: "Figure") -> bool:
    """Whether something stands above the drawing: a legend, or the mark of the best evaluation."""
    return bool(figure.layout.showlegend) or any(
        note.yref == "paper" and note.y == 1 for note in figure.layout.annotations
    )


@cache
def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


@cache
def _packed_plotly() -> str:
    """plotly.min.js, gzipped, in base64."""
    import plotly

    script = resources.files(plotly).joinpath("package_data", "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, compresslevel=6, mtime=0)).decode()
