"""One sample as the mass-metallicity figure draws it: points or an image, its median, its histogram, a mark."""

import numpy as np
from bokeh.models import ColumnDataSource, LinearColorMapper

from spectool.explore.mzr_image import MAX_POINTS, N_CELLS, count_image, median_image
from spectool.explore.style import MAP_PALETTE, OKABE_ITO

# On white the light end of the map would vanish.
PALETTE = MAP_PALETTE[:236]
CLASS_PALETTE = tuple(
    OKABE_ITO[name] for name in ("blue", "vermillion", "orange", "reddish_purple", "bluish_green")
)
UNKNOWN, HOLE = "#B8B8B8", "#FFFFFF00"
ALL_COLOR, MEASURED_COLOR = OKABE_ITO["orange"], OKABE_ITO["blue"]
EMPTY = np.zeros(0, dtype=np.float32)
NO_IMAGE = {"image": [], "x": [], "y": [], "dw": [], "dh": []}
MEDIAN_COLUMNS = ("mass", "q16", "median", "q84", "low", "high")


def fading(color):
    """Palette from nearly transparent to a colour, for counts."""
    return tuple(f"{color}{alpha:02x}" for alpha in np.linspace(40, 230, 64).astype(int))


def send(source, columns):
    """Put columns into a source, only those that change if it keeps its length."""
    old = source.data
    if any(len(old[name]) != len(values) for name, values in columns.items()):
        source.data = columns
        return
    changed = {n: v for n, v in columns.items() if not np.array_equal(old[n], v, equal_nan=True)}
    if changed:
        source.data.update(changed)


class SampleLayer:
    """Sources of one sample, and the glyphs that show them in any number of plots."""

    def __init__(self, number):
        self.panel, self._color = None, None
        self.points = ColumnDataSource({"x": EMPTY, "y": EMPTY, "c": EMPTY}, name=f"points{number}")
        self.image = ColumnDataSource(NO_IMAGE, name=f"image{number}")
        self.median = ColumnDataSource(dict.fromkeys(MEDIAN_COLUMNS, EMPTY), name=f"median{number}")
        self.mark = ColumnDataSource({"x": EMPTY, "y": EMPTY}, name=f"mark{number}")
        self.bars = ColumnDataSource(
            dict.fromkeys(("left", "right", "all", "measured"), EMPTY), name=f"histogram{number}"
        )
        self.mapper = LinearColorMapper(palette=PALETTE, low=0, high=1, nan_color=UNKNOWN)
        self.image_mapper = LinearColorMapper(palette=PALETTE, low=0, high=1, nan_color=HOLE)
        self._dots, self._strokes, self._palettes = [], [], {}

    # ---- glyphs

    def draw_galaxies(self, plot):
        """Add the galaxies to a plot: points, or an image; returns the renderers."""
        # Below the median of another sample in the same plot; only these levels are cut at the frame.
        below = {"level": "underlay"}
        image = plot.image(
            "image", "x", "y", "dw", "dh", source=self.image, color_mapper=self.image_mapper, **below
        )
        color = {"field": "c", "transform": self.mapper}
        dots = plot.scatter(
            "x", "y", source=self.points, size=5, fill_color=color, fill_alpha=0.8, line_color=None, **below
        )
        # A click is answered by the kernel; the page's own selection would fade all other points.
        dots.selection_glyph = dots.nonselection_glyph = None
        self._dots.append(dots)
        return [image, dots]

    def draw_median(self, plot):
        """Add the running median to a plot, with 16-84% (thin) and its own error (thick)."""
        source = self.median
        halo = plot.line("mass", "median", source=source, color="white", line_width=5, alpha=0.9)
        strokes = [
            plot.segment("mass", "q16", "mass", "q84", source=source, line_width=1.2),
            plot.segment("mass", "low", "mass", "high", source=source, line_width=5),
            plot.line("mass", "median", source=source, line_width=2),
            plot.scatter("mass", "median", source=source, size=6, fill_color="white"),
        ]
        self._strokes += strokes
        self._recolor()
        return [halo, *strokes]

    def draw_mark(self, plot):
        """Add a ring around the galaxy looked at."""
        options = {"source": self.mark, "marker": "circle", "fill_color": None, "size": 15}
        return [
            plot.scatter("x", "y", line_color="white", line_width=5, **options),
            plot.scatter("x", "y", line_color="black", line_width=2.5, **options),
        ]

    def draw_bars(self, plot):
        """Add the histograms of mass: all galaxies, and the measured ones before them."""
        edges = {"left": "left", "right": "right", "bottom": 0, "source": self.bars, "line_color": "white"}
        whole = plot.quad(top="all", fill_color=ALL_COLOR, fill_alpha=0.45, **edges)
        return [whole, plot.quad(top="measured", fill_color=MEASURED_COLOR, fill_alpha=0.75, **edges)]

    def draw_outline(self, plot, color):
        """Add the histogram of the measured galaxies as an outline."""
        edges = {"left": "left", "right": "right", "bottom": 0, "source": self.bars}
        return [plot.quad(top="measured", fill_color=None, line_color=color, line_width=2, **edges)]

    # ---- what they show

    @property
    def binned(self):
        """Whether there are too many galaxies for points."""
        return self.panel is not None and self.panel.mass.size > MAX_POINTS

    def paint(self, color):
        """Draw the sample in one colour, to tell it from another in the same plot; None: by the quantity."""
        self._color = color
        for dots in self._dots:
            dots.glyph.fill_color = color or {"field": "c", "transform": self.mapper}
            dots.glyph.fill_alpha = 0.35 if color else 0.8
        self._recolor()

    def _recolor(self):
        for stroke in self._strokes:
            stroke.glyph.line_color = self._color or "#000000"

    def scale(self, low, high, *, classes=False):
        """Set the range of the colours, or show classes."""
        palette = CLASS_PALETTE if classes else PALETTE
        low, high = (-0.5, len(CLASS_PALETTE) - 0.5) if classes else (low, high)
        self._map(self.mapper, palette, low, high)
        if not self._color:
            self._map(self.image_mapper, palette, low, high)

    def _map(self, mapper, palette, low, high):
        # Bokeh checks a palette color by color, which takes longer than a slider's other work.
        if self._palettes.get(mapper.id) != palette:
            self._palettes[mapper.id] = palette
            mapper.palette = list(palette)
        mapper.update(low=low, high=high)

    def show(self, panel):
        """Draw another panel, all but the image: that depends on the window."""
        self.panel, m = panel, panel.median
        if self.binned:
            send(self.points, {"x": EMPTY, "y": EMPTY, "c": EMPTY})
        else:
            send(self.points, {"x": panel.mass, "y": panel.metallicity, "c": panel.color})
            size = 5 if panel.mass.size < 4000 else 3
            for dots in self._dots:
                dots.glyph.size = size
        columns = {key: m[key] for key in ("mass", "q16", "median", "q84")}
        send(self.median, columns | {"low": m["median"] - m["error"], "high": m["median"] + m["error"]})
        bars = {
            "left": panel.edges[:-1],
            "right": panel.edges[1:],
            "all": panel.n_all,
            "measured": panel.n_measured,
        }
        send(self.bars, {key: values.astype(np.float32) for key, values in bars.items()})

    def show_image(self, window, *, counts):
        """Draw the image of a window, or none where points are drawn."""
        if not self.binned:
            if len(self.image.data["x"]):
                self.image.data = NO_IMAGE
            return 0.0
        panel, top = self.panel, 0.0
        if counts or self._color:
            image = np.log10(count_image(panel.mass, panel.metallicity, window, N_CELLS))
            top = max(0.1, float(np.nanmax(image))) if np.isfinite(image).any() else 0.1
        else:
            image = median_image(panel.mass, panel.metallicity, panel.color, window, N_CELLS)
        left, right, bottom, top_edge = window
        self.image.data = {
            "image": [image],
            "x": [left],
            "y": [bottom],
            "dw": [right - left],
            "dh": [top_edge - bottom],
        }
        return top

    def scale_counts(self, top):
        """Set the logarithm of the highest count that an image of counts shows."""
        self._map(self.image_mapper, fading(self._color) if self._color else PALETTE, 0, top)
