"""The picture of the latent dashboard: spectrum, residual, and what each slider changes, over one axis."""

import numpy as np
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, FixedTicker, LinearColorMapper, Range1d
from bokeh.plotting import figure

from spectool.explore.bokeh_widget import LiveBokeh
from spectool.explore.spectrum import FLUX_LABEL, TOOLS, WAVELENGTH_LABEL, LineMarks, flux_range
from spectool.explore.style import DECODED, MUTED, OBSERVED, RESIDUAL, SIGNED_PALETTE

WIDTH = 640  # before the page stretches it
N_BINS = 480
LEFT_BORDER, RIGHT_BORDER = 68, 40  # the same for all panels, so that their frames line up


def strongest_in_bins(values, wavelength, window, n_bins=N_BINS):
    """Rebin rows for display, keeping the value of largest magnitude in each bin."""
    edges = np.linspace(*window, n_bins + 1)[:-1]
    first = np.clip(np.searchsorted(wavelength, edges), 0, wavelength.size - 1)
    last = max(int(np.searchsorted(wavelength, window[1])), int(first[-1]) + 1)
    high = np.maximum.reduceat(values[:, :last], first, axis=1)
    low = np.minimum.reduceat(values[:, :last], first, axis=1)
    return np.where(high >= -low, high, low).astype(np.float32)


class LatentFigure:
    """Bokeh figures linked to a `LatentState`: each update sends only what changed, as one patch."""

    def __init__(self, state):
        self.state = state
        wavelength = state.wavelength
        self.full_range = (float(wavelength[0]), float(wavelength[-1]))
        empty = np.zeros(wavelength.size, dtype=np.float32)
        self.spectrum = ColumnDataSource(
            {"wavelength": wavelength, "decoded": empty, "residual": empty}, name="spectrum"
        )
        self.galaxy = ColumnDataSource({"wavelength": wavelength, "flux": empty}, name="galaxy")
        self.image = ColumnDataSource({"image": [], "x": [], "dw": [], "dh": []}, name="changes")
        self.amplitudes = ColumnDataSource({"x": [], "y": [], "text": []})
        self.whole_lines = False
        self.x_range = Range1d(*self.full_range, bounds=self.full_range)
        self.panels = [self._draw_spectrum(), self._draw_residual(), self._draw_changes()]
        self.lines = LineMarks(self.panels[0], self.full_range, WIDTH - LEFT_BORDER)
        self.widget = LiveBokeh(column(self.panels, sizing_mode="stretch_width", spacing=0))
        # The page reports how wide it drew the frame.
        self.panels[0].on_change("inner_width", lambda attr, old, new: self.lines.update(width=new))
        self.x_range.on_change("start", self._zoomed)
        self.x_range.on_change("end", self._zoomed)
        self.show_galaxy()

    # ---- panels

    def _panel(self, height, y_label, **options):
        return figure(
            width=WIDTH,
            height=height,
            x_range=self.x_range,
            tools=TOOLS,
            active_scroll=None,
            sizing_mode="stretch_width",
            y_axis_label=y_label,
            min_border_left=LEFT_BORDER,
            min_border_right=RIGHT_BORDER,
            toolbar_location=None,
            **options,
        )

    def _draw_spectrum(self):
        plot = self._panel(280, FLUX_LABEL, y_range=Range1d(0, 1))
        plot.toolbar_location = "right"
        plot.line("wavelength", "flux", source=self.galaxy, color=OBSERVED, line_width=1.6)
        plot.line(
            "wavelength",
            "decoded",
            source=self.spectrum,
            color=DECODED,
            line_width=1.3,
        )
        plot.xaxis.visible = False
        return plot

    def _draw_residual(self):
        plot = self._panel(100, "galaxy − dec.", y_range=Range1d(-1, 1))
        plot.line("wavelength", "residual", source=self.spectrum, color=RESIDUAL, line_width=1)
        plot.xaxis.visible = False
        plot.yaxis.ticker.desired_num_ticks = 3
        return plot

    def _draw_changes(self):
        n = self.state.informative.size
        plot = self._panel(
            self._changes_height(n), "slider", y_range=Range1d(n, 0), x_axis_label=WAVELENGTH_LABEL
        )
        mapper = LinearColorMapper(palette=SIGNED_PALETTE, low=-1, high=1, nan_color="white")
        plot.image("image", "x", 0, "dw", "dh", source=self.image, color_mapper=mapper)
        plot.text(
            "x",
            "y",
            "text",
            source=self.amplitudes,
            text_align="right",
            text_baseline="middle",
            text_font_size="11px",
            text_color=MUTED,
            background_fill_color="white",
            background_fill_alpha=0.75,
            x_offset=-2,
        )
        plot.grid.visible = False
        return plot

    @staticmethod
    def _changes_height(n):
        return 62 + 18 * min(n, 12)

    # ---- what changed

    def show_galaxy(self):
        """Draw another seed galaxy, and fit the flux axis."""
        with self.state.lock, self.widget.batch():
            self.galaxy.data["flux"] = self.state.seed_flux
            self.show_position(refit=True)

    def show_model(self):
        """Draw the rows of another model's informative dimensions."""
        n = self.state.informative.size
        plot = self.panels[2]
        with self.state.lock, self.widget.batch():
            plot.y_range.update(start=n, end=0)
            plot.height = self._changes_height(n)
            plot.yaxis.ticker = FixedTicker(ticks=[i + 0.5 for i in range(n)])
            plot.yaxis.major_label_overrides = {
                i + 0.5: f"z{dimension}" for i, dimension in enumerate(self.state.informative)
            }
            self.show_galaxy()

    def show_position(self, *, refit=False):
        """Draw the current position."""
        state = self.state
        with state.lock, self.widget.batch():
            self.spectrum.data.update(decoded=state.decoded, residual=state.residual)
            self._show_changes(state.changes())
            self._fit_flux(force=refit)

    def _show_changes(self, changes):
        low, high = self.x_range.start, self.x_range.end
        image = strongest_in_bins(changes, self.state.wavelength, (low, high))
        amplitude = np.maximum(np.quantile(np.abs(image), 0.98, axis=1), 1e-6)
        n = len(image)
        self.image.data = {
            "image": [np.clip(image / amplitude[:, None], -1, 1)],
            "x": [low],
            "dw": [high - low],
            "dh": [n],
        }
        self.amplitudes.data = {
            "x": [high] * n,
            "y": [i + 0.5 for i in range(n)],
            "text": [f"±{value:.2g}" for value in amplitude],
        }

    # ---- axes

    def zoom(self, window):
        """Show a window of wavelengths."""
        with self.state.lock, self.widget.batch():
            self.x_range.update(start=float(window[0]), end=float(window[1]))

    def show_whole_lines(self, whole):
        """Let the flux axis reach the tips of emission lines, or only what most pixels need."""
        self.whole_lines = whole
        with self.state.lock, self.widget.batch():
            self._fit_flux(force=True)

    def _zoomed(self, attr, old, new):
        with self.state.lock, self.widget.batch():
            self.lines.update((self.x_range.start, self.x_range.end))
            self._show_changes(self.state.changes())
            self._fit_flux(force=True)

    def _fit_flux(self, *, force):
        state = self.state
        shown = (state.wavelength >= self.x_range.start) & (state.wavelength <= self.x_range.end)
        spectra = np.stack([state.seed_flux[shown], state.decoded[shown]])
        if not self.whole_lines:
            # In a wide window strong lines are few pixels, and would flatten the continuum.
            spectra = np.minimum(spectra, 1.6 * np.nanquantile(spectra, 0.98))
        low, high = flux_range(spectra, headroom=0.28)
        y_range = self.panels[0].y_range
        # A margin before the axis moves: an axis that follows every step hides what the step changed.
        fits = y_range.start <= low + 0.02 * (high - low) and 0.9 * high <= y_range.end <= 2 * high
        if force or not fits:
            y_range.update(start=low, end=high)
        residual = np.abs(state.residual[shown])
        residual = residual[np.isfinite(residual)]
        scale, share = (1.1, 1.0) if self.whole_lines else (1.6, 0.98)
        limit = scale * float(np.quantile(residual, share)) if residual.size else 1.0
        y_range = self.panels[1].y_range
        if force or not 0.3 * y_range.end < limit <= y_range.end:
            limit = max(limit, 1e-3)
            y_range.update(start=-limit, end=limit)
