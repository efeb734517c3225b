import base64
import gzip
import json
import re
from html.parser import HTMLParser

import pytest
from plotly.offline import get_plotlyjs

from ravine.errors import RunError
from ravine.show import page
from ravine.show.figures.range_test import range_test


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text of each script."""

    def __init__(self, text):
        super().__init__()
        self.found, self.scripts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.lasttag == "script" and self.scripts:
            self.scripts[-1] += data


@pytest.fixture
def figure():
    rows = [{"lr": 10.0**-power, "loss": 1.0, "smoothed": 1.0} for power in (3, 2, 1)]
    return range_test(rows, 1e-2, 4.0)


def test_a_page_of_one_figure_needs_no_network(tmp_path, figure):
    path = page.write_figure(tmp_path / "lr.html", figure, "digits: <range> test", "Use 0.01 & see.")
    text = path.read_text()
    elements = Elements(text)
    assert not [attrs for _, attrs in elements.found if {"src", "href"} & attrs.keys()]
    assert "@import" not in text and "url(" not in text
    assert "<h1>digits: &lt;range&gt; test</h1>" in text and "Use 0.01 &amp; see." in text
    assert "$" not in re.sub(r"<script.*?</script>", "", text, flags=re.S)  # no place was left unfilled
    assert path.stat().st_size < 2_500_000


def test_plotly_travels_inside_once_and_whole(tmp_path, figure):
    text = page.write_figure(tmp_path / "lr.html", figure, "x").read_text()
    packed = re.findall(r'id="plotly-gzip">([^<]*)<', text)
    assert len(packed) == 1
    assert gzip.decompress(base64.b64decode(packed[0])).decode() == get_plotlyjs()


def test_a_page_without_figures_is_small(tmp_path):
    assert page.write_page(tmp_path / "x.html", "x", "<p>nothing yet</p>").stat().st_size < 50_000


def test_a_figure_leaves_its_look_to_the_page(figure):
    block = page.figure_block(figure, "how to read it")
    content = json.loads(Elements(block).scripts[0])
    assert "template" not in content["layout"] and "title" not in content["layout"]
    assert "<h3>Learning-rate range test</h3>" in block and "how to read it" in block
    assert f"min-height:{content['layout']['height']}px" in block
    assert figure.layout.title.text  # the caller's figure is as it was


def test_no_text_ends_a_script():
    value = {"text": "</script><script>alert(1)</script><!-- &amp; "}
    text = page.embedded_json(value)
    assert "<" not in text and json.loads(text) == value


def test_a_place_that_cannot_be_written_is_named(tmp_path, figure):
    with pytest.raises(RunError, match="cannot write"):
        page.write_figure(tmp_path / "missing" / "lr.html", figure, "x")
