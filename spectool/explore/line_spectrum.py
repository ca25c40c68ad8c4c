"""The spectrum of a brushed galaxy: original, noise-added, de-noised and the fit; whole, and around the line."""

import numpy as np
from bokeh.models import BoxZoomTool, ColumnDataSource, Range1d, ResetTool
from bokeh.plotting import figure

from spectool.explore.line_panels import LABEL, LEFT_BORDER
from spectool.explore.spectrum import LineMarks
from spectool.explore.style import DECODED, OKABE_ITO
from spectool.spectra import LINES

# In the order in which they are drawn: the de-noised one as a band, so that what it hides shows.
CURVES = {
    "noisy": ("noise-added", "#C8C8C8", 0.8, "solid"),
    "denoised": ("de-noised", DECODED, 2.6, "solid"),
    "original": ("original", "black", 1.0, "solid"),
    "fit": ("fit", OKABE_ITO["orange"], 1.3, "dashed"),
}
NAMED = ("[O II]", "Hδ", "Hβ", "[O III] 5007", "Hα", "[S II] 6716")  # over the whole range
HALF_WINDOW = 90.0  # Angstrom shown on either side of the chosen line


class SpectrumPanels:
    """Two Bokeh plots of one galaxy's spectra: the whole range, and around the chosen line."""

    def __init__(self, wavelength, *, height):
        self.wavelength = np.asarray(wavelength, dtype=np.float32)
        empty = np.full(self.wavelength.size, np.nan, dtype=np.float32)
        columns = {"wavelength": self.wavelength, **dict.fromkeys(CURVES, empty)}
        self.source = ColumnDataSource(columns, name="spectrum")
        self.full_range = float(self.wavelength[0]), float(self.wavelength[-1])
        self.whole = self._draw("whole", self.full_range, "normalised flux", height)
        self.near = self._draw("near", (6470.0, 6660.0), None, height)
        self.near.legend.visible = False
        few = {name: LINES[name] for name in NAMED}
        self.marks = {
            plot.name: LineMarks(plot, (plot.x_range.start, plot.x_range.end), width, lines=lines)
            for plot, width, lines in ((self.whole, 330, few), (self.near, 170, LINES))
        }
        for plot in (self.whole, self.near):
            # The page reports how wide it drew the frame.
            plot.on_change("inner_width", lambda attr, old, new, name=plot.name: self._relabel(name, new))

    def _draw(self, name, window, y_label, height):
        plot = figure(
            name=name,
            width=380 if y_label else 220,
            height=height,
            x_range=Range1d(*window, bounds=self.full_range),
            y_range=Range1d(0, 0.1),
            x_axis_label="rest wavelength (Å, vacuum)" if y_label else "around the line (Å)",
            y_axis_label=y_label,
            tools="",
            min_border_left=LEFT_BORDER if y_label else 40,
            min_border_right=8,
            min_border_top=4,
            toolbar_location=None,
        )
        for option, value in LABEL.items():
            setattr(plot.axis, option, value)
        for column, (label, color, width, dash) in CURVES.items():
            plot.line(
                "wavelength",
                column,
                source=self.source,
                color=color,
                line_width=width,
                line_dash=dash,
                legend_label=label,
            )
        plot.legend.update(
            location="bottom_right",
            orientation="horizontal",
            label_text_font_size="11px",
            glyph_width=16,
            margin=2,
            padding=2,
            background_fill_alpha=0.7,
            click_policy="hide",
        )
        plot.xaxis.ticker.desired_num_ticks = 5 if y_label else 3
        self._add_tools(plot)
        return plot

    @staticmethod
    def _add_tools(plot):
        zoom = BoxZoomTool(dimensions="width")
        plot.add_tools(zoom, ResetTool())
        plot.toolbar.active_drag = zoom
        plot.toolbar.active_scroll = None

    def _relabel(self, name, width):
        plot = self.whole if name == "whole" else self.near
        self.marks[name].update((plot.x_range.start, plot.x_range.end), width=width)

    def look_at(self, line):
        """Centre the second plot on a line."""
        centre = LINES[line]
        low = min(max(centre - HALF_WINDOW, self.full_range[0]), self.full_range[1] - 2 * HALF_WINDOW)
        window = (low, low + 2 * HALF_WINDOW)
        self.near.xaxis.axis_label = f"around {line} (Å)"
        self.near.x_range.update(start=window[0], end=window[1], reset_start=window[0], reset_end=window[1])
        self.marks["near"].update(window)

    def draw(self, spectra, *, refit):
        """Draw one galaxy's spectra."""
        for column in CURVES:
            values = spectra.get(column, np.full(self.wavelength.size, np.nan)).astype(np.float32)
            if not np.array_equal(values, self.source.data[column], equal_nan=True):
                self.source.data[column] = values
        if spectra:
            for plot in (self.whole, self.near):
                self._fit_flux(plot, refit)

    def _fit_flux(self, plot, refit):
        shown = (self.wavelength >= plot.x_range.start) & (self.wavelength <= plot.x_range.end)
        values = {name: np.asarray(self.source.data[name])[shown] for name in CURVES}
        noise = np.nanstd(values["noisy"] - values["original"])
        wanted = np.concatenate([values["original"], values["denoised"]])
        wanted = wanted[np.isfinite(wanted)]
        if not wanted.size:
            return
        noise = float(np.nan_to_num(noise))
        if plot is self.whole:
            # Lines may run out of the frame, and the noise too: they would flatten the continuum.
            level = abs(float(np.median(wanted)))
            wanted = np.append(np.clip(wanted, -0.5 * level, 2.5 * level), 0)
            margin = 0.6 * noise
        else:
            margin = 0.1 * noise + 0.15 * float(np.ptp(wanted))
        low, high = float(wanted.min()) - margin, float(wanted.max()) + margin
        high += 0.3 * (high - low)
        now = plot.y_range
        fits = now.start <= low and high <= now.end and high - low > 0.5 * (now.end - now.start)
        if refit or not fits:
            now.update(start=low, end=high)
