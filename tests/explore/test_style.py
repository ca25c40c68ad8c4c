"""Colours that colour-blind readers tell apart, and figures without a CDN."""

import subprocess
import sys

import numpy as np
from bokeh.plotting import figure

from spectool.explore import style


def linear(color):
    values = np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def test_the_first_colours_stay_apart_for_deuteranopes():
    # Viénot, Brettel & Mollon (1999), eq. 5: linear RGB as a deuteranope sees it.
    deuteranope = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])
    seen = [deuteranope @ linear(color) for color in style.CYCLE[:4]]
    distance = [np.linalg.norm(a - b) for k, a in enumerate(seen) for b in seen[:k]]
    assert min(distance) > 0.1


def test_maps_grow_brighter_all_the_way():
    luminance = [linear(color) @ [0.2126, 0.7152, 0.0722] for color in style.MAP_PALETTE]
    assert (np.diff(luminance) > -1e-3).all()


def test_a_signed_palette_is_symmetric_about_a_pale_middle():
    luminance = np.array([linear(color) @ [0.2126, 0.7152, 0.0722] for color in style.SIGNED_PALETTE])
    assert 100 < luminance.argmax() < 156
    assert abs(luminance[0] - luminance[-1]) < 0.1


def test_bokeh_figures_pass_through():
    plot = figure()
    assert style.to_bokeh(plot) is plot


def test_holoviews_elements_become_bokeh_figures_in_our_style():
    code = """
import io, contextlib
from unittest.mock import patch
import panel, holoviews as hv, holoviews.plotting.bokeh
from spectool.explore import style
with patch("bokeh.io.notebook.publish_display_data") as publish:
    style.use_bokeh()
text = str(publish.call_args_list)
assert len(text) > 1_000_000, "BokehJS is not inline"
assert "reactiveesm" not in text and "panel.models" not in text, "Panel's scripts are loaded"
assert "const js_urls = [];" in text, "scripts are loaded from somewhere"
plot = style.to_bokeh(hv.Curve([1, 2, 3]))
assert type(plot).__name__ == "figure", type(plot)
import panel.models
from bokeh.model import Model
assert any(name.startswith("panel.") for name in Model.model_class_reverse_map), "Panel's models are lost"
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
