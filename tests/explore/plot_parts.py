"""What a Bokeh figure or layout draws, for tests of figures."""

import numpy as np
from bokeh.models import GlyphRenderer, Plot


def plots_of(layout):
    """Figures of a layout, in reading order."""
    if isinstance(layout, Plot):
        return [layout]
    children = layout.children
    if children and isinstance(children[0], tuple):
        children = [child for child, _, _ in sorted(children, key=lambda c: c[1:])]
    return [plot for child in children for plot in plots_of(child)]


def glyphs(plot, kind):
    """Renderers of a kind of glyph, in the order drawn."""
    return [r for r in plot.renderers if isinstance(r, GlyphRenderer) and isinstance(r.glyph, kind)]


def drawn(renderer, axis="y"):
    """Values that a renderer has along an axis."""
    field = getattr(renderer.glyph, axis)
    return np.asarray(renderer.data_source.data[getattr(field, "field", field)])


def labels(plot):
    """Texts of the legend."""
    return [item.label.value for legend in plot.legend for item in legend.items]
