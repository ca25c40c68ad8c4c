"""Figures and dashboards: what the notebooks show. May use every other room; no room uses it."""

from spectool.explore.bokeh_widget import LiveBokeh
from spectool.explore.style import show, use_bokeh

__all__ = ["LiveBokeh", "show", "use_bokeh"]
