"""Spectrum plots: axes with units, and emission lines named without labels that overlap."""

import numpy as np
from bokeh.models import ColumnDataSource, HoverTool, Range1d

from spectool.explore.style import LINE_MARK
from spectool.spectra import LINES

WAVELENGTH_LABEL = "rest wavelength (Å, vacuum)"
FLUX_LABEL = "flux / median(5000–5500 Å)"
TOOLS = "xpan,xwheel_zoom,xbox_zoom,reset,save"

# Lines that are named before all others where there is no room for every name.
FIRST = ("Hα", "[O III] 5007", "[O II]", "Hβ", "Lyα", "[S II] 6716", "Mg II", "C III]")

# Absorption that makes old stars recognisable, vacuum Angstrom, and emission that most galaxies show.
ABSORPTION = {"Ca K": 3934.8, "Ca H": 3969.6, "G band": 4305.6, "Mg b": 5176.6, "Na D": 5895.6}
EMISSION = ("[O II]", "Hδ", "Hγ", "Hβ", "[O III] 5007", "Hα", "[N II] 6583", "[S II] 6716", "[S II] 6731")
OPTICAL_LINES = {**{name: LINES[name] for name in EMISSION}, **ABSORPTION}

LABEL_SIZE = 12  # pixels
LABEL_ROWS = 3
AXIS_HEIGHT = 80  # pixels of a figure that its axis and legend take
CHARACTER_WIDTH = 0.56  # of the label's size: a mean over sans-serif fonts


def layout_lines(window, width, *, lines=LINES):
    """Place the names of emission lines over a spectrum so that none covers another."""
    low, high = window
    scale = (high - low) / width
    inside = sorted((x, name) for name, x in lines.items() if low < x < high)
    groups = []
    for x, name in inside:
        if groups and x - groups[-1][-1][0] < 0.5 * LABEL_SIZE * scale:
            groups[-1].append((x, name))
        else:
            groups.append([(x, name)])
    taken = [[] for _ in range(LABEL_ROWS)]
    placed = []
    for group in sorted(groups, key=_importance):
        label = _join([name for _, name in group])
        if len(label) * CHARACTER_WIDTH * LABEL_SIZE * scale > high - low:
            label = f"{group[0][1]} …"
        half = 0.5 * (len(label) * CHARACTER_WIDTH + 0.5) * LABEL_SIZE * scale
        x = float(np.clip(np.mean([x for x, _ in group]), low + half, max(high - half, low + half)))
        for row, spans in enumerate(taken):
            if all(abs(x - other) >= half + other_half for other, other_half in spans):
                spans.append((x, half))
                placed.append((x, label, row))
                break
    placed.sort()
    return {key: [item[k] for item in placed] for k, key in enumerate(("x", "label", "row"))}


def _importance(group):
    ranks = [FIRST.index(name) for _, name in group if name in FIRST]
    return min(ranks, default=len(FIRST))


def _join(names):
    """One label of several lines: an ion is named once, without its wavelengths."""
    if len(names) == 1:
        return names[0]
    ions = [name.rsplit(" ", 1)[0] if name.rsplit(" ", 1)[-1].isdigit() else name for name in names]
    return " + ".join(dict.fromkeys(ions))


class LineMarks:
    """Marks and names of emission lines in a figure."""

    def __init__(self, plot, window, width, *, lines=LINES):
        self.lines, self.width = lines, width
        self.row_height = 1.35 * LABEL_SIZE / (plot.height or plot.frame_height)
        # The labels hang from the top of the frame, whatever the flux range is.
        plot.extra_y_ranges = {**plot.extra_y_ranges, "frame": Range1d(0, 1)}
        self.marks = ColumnDataSource({"x": list(lines.values()), "name": list(lines)})
        self.labels = ColumnDataSource({"x": [], "label": [], "y": []})
        style = {"y_range_name": "frame"}
        mark = plot.segment(
            "x",
            0,
            "x",
            1 - LABEL_ROWS * self.row_height,
            source=self.marks,
            color=LINE_MARK,
            alpha=0.35,
            line_dash=[3, 3],
            level="underlay",
            **style,
        )
        plot.text(
            "x",
            "y",
            "label",
            source=self.labels,
            text_font_size=f"{LABEL_SIZE}px",
            text_color=LINE_MARK,
            text_align="center",
            text_baseline="top",
            background_fill_color="white",
            background_fill_alpha=0.8,
            level="annotation",
            **style,
        )
        plot.add_tools(HoverTool(renderers=[mark], tooltips=[("", "@name @x{0.0} Å")], line_policy="nearest"))
        self.window, self.glyph = window, mark.glyph
        self.update(window)

    def follow(self, plot):
        """Place the labels anew when the page draws the plot in another size, or shows another window."""
        axis = plot.x_range
        plot.on_change("inner_width", lambda attr, old, new: self.update(width=new))
        plot.on_change("inner_height", lambda attr, old, new: self.update(height=new))
        for end in ("start", "end"):
            axis.on_change(end, lambda attr, old, new: self.update((axis.start, axis.end)))
        return self

    def mark(self, lines):
        """Mark other lines: vacuum wavelengths [Angstrom] by name."""
        self.lines = lines
        self.marks.data = {"x": list(lines.values()), "name": list(lines)}
        self.update()

    def update(self, window=None, *, width=None, height=None):
        """Place the labels for another window of wavelengths [Angstrom] or size of the frame [pixels]."""
        if height:
            self.row_height = 1.35 * LABEL_SIZE / height
            self.glyph.y1 = 1 - LABEL_ROWS * self.row_height
        self.window, self.width = window or self.window, width or self.width
        placed = layout_lines(self.window, self.width, lines=self.lines)
        y = [1 - self.row_height * (row + 0.15) for row in placed["row"]]
        self.labels.data = {"x": placed["x"], "label": placed["label"], "y": y}


def flux_range(spectra, *, headroom=0.22):
    """Return a range of flux that holds the spectra and leaves room for labels above."""
    values = np.asarray(spectra)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = min(0.0, float(values.min())), float(values.max())
    span = max(high - low, 1e-3)
    return low - 0.04 * span, low + span / (1 - headroom)
