"""How every figure of the suite looks: colours that colour-blind readers can tell apart, readable sizes."""

import sys
from contextlib import contextmanager

from bokeh.core.has_props import _default_resolver
from bokeh.io import curdoc, output_notebook
from bokeh.io import show as bokeh_show
from bokeh.model import Model
from bokeh.models import Plot, WheelZoomTool
from bokeh.palettes import Cividis256, PuOr11, interp_palette
from bokeh.resources import Resources
from bokeh.themes import Theme

from spectool.parallel import share_memory_pools

OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky_blue": "#56B4E9",
    "bluish_green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "reddish_purple": "#CC79A7",
}

# Yellow comes last: on white it is the hardest to see as a thin line.
CYCLE = tuple(
    OKABE_ITO[name]
    for name in (
        "blue",
        "vermillion",
        "bluish_green",
        "orange",
        "reddish_purple",
        "sky_blue",
        "black",
        "yellow",
    )
)

MAP_PALETTE = tuple(Cividis256)
SIGNED_PALETTE = tuple(reversed(interp_palette(PuOr11, 256)))

# What plays which part in a spectrum plot, the same in every notebook.
OBSERVED = "#808080"
DECODED = OKABE_ITO["blue"]
RESIDUAL = OKABE_ITO["vermillion"]
LINE_MARK = OKABE_ITO["reddish_purple"]
MUTED = "#666666"

FONT = "Helvetica, Arial, sans-serif"

# The width that is left for a figure in JupyterLab on a 1366-pixel screen with the file browser open.
FIGURE_WIDTH = 900

THEME = Theme(
    json={
        "attrs": {
            "Plot": {
                "background_fill_color": "#FFFFFF",
                "border_fill_color": "#FFFFFF",
                "outline_line_color": "#B0B0B0",
                "min_border_right": 10,
            },
            "Axis": {
                "axis_label_text_font": FONT,
                "axis_label_text_font_size": "14px",
                "axis_label_text_font_style": "normal",
                "axis_label_text_color": "#202020",
                "major_label_text_font": FONT,
                "major_label_text_font_size": "13px",
                "major_label_text_color": "#202020",
                "axis_line_color": "#606060",
                "major_tick_line_color": "#606060",
                "minor_tick_line_color": None,
            },
            "Grid": {"grid_line_color": "#E8E8E8"},
            "Title": {"text_font": FONT, "text_font_size": "15px", "text_font_style": "bold"},
            "Legend": {
                "label_text_font": FONT,
                "label_text_font_size": "13px",
                "background_fill_alpha": 0.85,
                "border_line_color": None,
                "spacing": 0,
                "padding": 4,
            },
            "BaseColorBar": {
                "title_text_font": FONT,
                "title_text_font_size": "13px",
                "title_text_font_style": "normal",
                "major_label_text_font": FONT,
                "major_label_text_font_size": "12px",
            },
            "Toolbar": {"logo": None},
        }
    }
)


@contextmanager
def _bokeh_models_only():
    """Hide models of Bokeh's extensions: HoloViews brings Panel's, whose scripts come from a CDN."""
    # Bokeh has no public way to say which extensions a notebook loads.
    known = _default_resolver.known_models.values()
    hidden = [model for model in known if model.__view_module__.split(".")[0] != "bokeh"]
    for model in hidden:
        _default_resolver.remove(model)
    try:
        yield
    finally:
        for model in hidden:
            _default_resolver.add(model)


def use_bokeh():
    """Prepare the notebook for Bokeh figures, and HoloViews ones in `show`, without a server and without a CDN.

    BokehJS is written into the notebook's output, so figures draw on a machine without a network. Call it
    once, in a notebook's first code cell, before any figure and after ``import holoviews``.
    """
    share_memory_pools()
    with _bokeh_models_only():
        output_notebook(Resources(mode="inline", components=["bokeh", "bokeh-widgets"]), hide_banner=True)
    curdoc().theme = THEME
    if "holoviews" in sys.modules:
        load_holoviews()


def load_holoviews():
    """Return HoloViews, ready to draw in the suite's style: without its extension, whose scripts come from a CDN."""
    import holoviews as hv
    import holoviews.plotting.bokeh

    hv.Store.set_current_backend("bokeh")
    renderer = hv.renderer("bokeh")
    if renderer.theme is THEME:
        return hv
    renderer.webgl, renderer.theme = False, THEME
    # The mouse wheel scrolls the page: no tool takes it, and zooming asks for Ctrl.
    common = {
        "width": FIGURE_WIDTH,
        "height": 300,
        "active_tools": [],
        "default_tools": ["pan", "box_zoom", "wheel_zoom", "reset", "save"],
        "autohide_toolbar": True,
        "show_grid": True,
    }
    colored = ("Area", "Bars", "Curve", "Histogram", "Points", "Scatter", "Segments", "Spread")
    legend = {"click_policy": "hide", "location": "left", "spacing": 14}
    hv.opts.defaults(
        *(getattr(hv.opts, name)(**common, color=hv.Cycle(list(CYCLE))) for name in colored),
        *(getattr(hv.opts, name)(**common) for name in ("ErrorBars", "Labels")),
        *(
            getattr(hv.opts, name)(**common, cmap=list(MAP_PALETTE))
            for name in ("Contours", "HeatMap", "Image")
        ),
        hv.opts.Overlay(**common, legend_position="top", legend_opts=legend),
        hv.opts.Layout(toolbar=None),
    )
    return hv


def to_bokeh(figure):
    """Return the Bokeh model of a figure."""
    if isinstance(figure, Model):
        return figure
    model = load_holoviews().render(figure, backend="bokeh")
    for plot in model.select({"type": Plot}):
        if None in (plot.width, plot.height):  # its frame has a size, which Bokeh would warn about
            plot.sizing_mode = None
    for wheel in model.select({"type": WheelZoomTool}):
        wheel.modifiers = {"ctrl": True}
    return model


def show(figure, *, alt=None):
    """Show a Bokeh or HoloViews figure below the cell, in the suite's style.

    The figure stays in the saved notebook and needs no kernel afterwards. For a figure that changes while it
    is shown use `spectool.explore.LiveBokeh`.

    Parameters
    ----------
    figure : bokeh.model.Model or HoloViews object
    alt : str, optional
        What the figure shows, in a sentence for those who cannot see it.
    """
    model = to_bokeh(figure)
    if alt:
        model.html_attributes = {"role": "img", "aria-label": alt}
    bokeh_show(model)
