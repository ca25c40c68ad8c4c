"""The spectra of the galaxy that was clicked, one line for each version of them."""

import numpy as np
from bokeh.models import ColumnDataSource, Label, Range1d
from bokeh.plotting import figure

from spectool.explore.bokeh_widget import LiveBokeh
from spectool.explore.spectrum import TOOLS, WAVELENGTH_LABEL, LineMarks, flux_range
from spectool.explore.style import MUTED, OBSERVED, OKABE_ITO
from spectool.measure.indices import stellar_marks
from spectool.spectra import LINES

WIDTH, HEIGHT = 640, 190
HINT = "click a galaxy above; drag to zoom, double-click to see all again"
# By quantity: windows of wavelength, the whole range first.
WINDOWS = {
    "gas": {
        "All": (3700.0, 7900.0),
        "[O II]": (3690.0, 3800.0),
        "Hβ, [O III]": (4800.0, 5060.0),
        "Hα, [N II]": (6480.0, 6660.0),
        "[S II]": (6660.0, 6800.0),
    },
    "stars": {
        "All": (3950.0, 7350.0),
        "Ca, G band": (4200.0, 4420.0),
        "Fe, C₂": (4500.0, 4760.0),
        "Mg b, Fe": (5100.0, 5460.0),
        "Na D, TiO": (5830.0, 6010.0),
    },
}
# Behind to before: noise must not cover what was found in it.
COLORS = (OKABE_ITO["sky_blue"], OBSERVED, OKABE_ITO["blue"])
N_SPECTRA = len(COLORS)


def choose_spectra(spectrum, shown=()):
    """Choose up to three sources of a spectrum, and order them from the noisiest to the smoothest."""
    names = [str(name) for name in spectrum["source"].values]
    names = list(dict.fromkeys([*(name for name in shown if name in names), *names]))[:N_SPECTRA]
    flux = spectrum["flux"].transpose("source", "wavelength").sel(source=names).values
    roughness = [
        np.median(np.abs(np.diff(row[np.isfinite(row)]))) if np.isfinite(row).sum() > 1 else 0 for row in flux
    ]
    order = np.argsort([-value for value in roughness], kind="stable")
    return {names[i]: color for i, color in zip(order, COLORS[-len(names) :], strict=True)}


def lines_of(quantity):
    """What is marked in a spectrum: emission lines for the gas, the middles of Lick bands for the stars."""
    low, high = WINDOWS[quantity]["All"]
    if quantity == "gas":
        return {name: x for name, x in LINES.items() if low < x < high}
    return stellar_marks()


def _without_spikes(values):
    if not np.isfinite(values).any():
        return values
    return np.clip(values, *np.nanquantile(values, [0.02, 0.98]))


def fit_emission(flux):
    """Range of flux from zero to the highest line; spikes of the noisiest spectrum may leave it."""
    if len(flux) > 1:
        flux = [_without_spikes(flux[0]), *flux[1:]]
    low, high = flux_range(np.stack(flux), headroom=0.3)
    lowest = np.nanmin(flux) if np.isfinite(flux).any() else 0.0
    return float(min(low, lowest)), high


def fit_absorption(flux):
    """Range of flux about the stars, of which depths of a few percent count; emission lines may leave it."""
    flux = np.stack([_without_spikes(values) for values in flux])
    if not np.isfinite(flux).any():
        return 0.0, 1.0
    low, high = float(np.nanmin(flux)), float(np.nanmax(flux))
    height = max(high - low, 0.01)
    return low - 0.1 * height, high + 0.45 * height


class SpectrumFigure:
    """A Bokeh figure linked to the galaxy that a `MzrState` looks at."""

    def __init__(self, state):
        self.state = state
        self.colors = {}
        self.source = ColumnDataSource(self._empty(), name="spectrum")
        self._quantity = state.quantity
        full = WINDOWS[state.quantity]["All"]
        self.x_range = Range1d(*full, bounds=full)
        self.plot = figure(
            width=WIDTH,
            height=HEIGHT,
            x_range=self.x_range,
            y_range=Range1d(0, 1),
            tools=TOOLS,
            active_scroll=None,
            sizing_mode="stretch_width",
            min_border_left=62,
            x_axis_label=WAVELENGTH_LABEL,
            y_axis_label="normalised flux",
        )
        self.plot.yaxis.ticker.desired_num_ticks = 4
        for i, color in enumerate(COLORS):
            self.plot.line("wavelength", f"flux{i}", source=self.source, color=color, line_width=1.4)
        self.note = Label(
            x=WIDTH // 2,
            y=60,
            x_units="screen",
            y_units="screen",
            text_align="center",
            text_color=MUTED,
            text_font_size="14px",
        )
        self.plot.add_layout(self.note)
        self.lines = LineMarks(self.plot, full, WIDTH - 90, lines=lines_of(state.quantity))
        self.widget = LiveBokeh(self.plot)
        # The page reports how wide it drew the frame.
        self.plot.on_change("inner_width", self._resized)
        self.x_range.on_change("start", self._zoomed)
        self.x_range.on_change("end", self._zoomed)
        self.show()

    @staticmethod
    def _empty():
        return {"wavelength": [], **{f"flux{i}": [] for i in range(N_SPECTRA)}}

    def show(self):
        """Draw the spectra, or say why there are none."""
        state = self.state
        with state.lock, self.widget.batch():
            if state.quantity != self._quantity:
                self._follow_quantity()
            spectrum = state.spectrum
            self.note.text = "" if spectrum is not None else state.spectrum_status[:60] or HINT
            if spectrum is None:
                self.colors, self.source.data = {}, self._empty()
                return
            self.colors = choose_spectra(spectrum, state.shown_spectra)
            wavelength = spectrum["wavelength"].values.astype(np.float32)
            data = {"wavelength": wavelength}
            for i in range(N_SPECTRA):
                data[f"flux{i}"] = np.full(wavelength.size, np.nan, dtype=np.float32)
            for name, color in self.colors.items():
                flux = spectrum["flux"].sel(source=name).values
                data[f"flux{COLORS.index(color)}"] = flux.astype(np.float32)
            self.source.data = data
            self._fit_flux()

    def _follow_quantity(self):
        self._quantity = self.state.quantity
        full = WINDOWS[self._quantity]["All"]
        self.x_range.update(bounds=full, start=full[0], end=full[1])
        self.plot.y_range.update(start=0, end=1)
        self.lines.mark(lines_of(self._quantity))

    def zoom(self, window):
        """Show a window of wavelengths [Angstrom]."""
        with self.state.lock, self.widget.batch():
            self.x_range.update(start=float(window[0]), end=float(window[1]))

    def _resized(self, attr, old, new):
        with self.state.lock, self.widget.batch():
            self.lines.update(width=new)
            self.note.x = int(new) // 2

    def _zoomed(self, attr, old, new):
        with self.state.lock, self.widget.batch():
            self.lines.update((self.x_range.start, self.x_range.end))
            self._fit_flux()

    def _fit_flux(self):
        wavelength = np.asarray(self.source.data["wavelength"])
        shown = (wavelength >= self.x_range.start) & (wavelength <= self.x_range.end)
        if not shown.any() or not self.colors:
            return
        columns = [f"flux{COLORS.index(color)}" for color in self.colors.values()]
        flux = [np.asarray(self.source.data[column])[shown] for column in columns]
        fit = fit_absorption if self._quantity == "stars" else fit_emission
        low, high = fit(flux)
        self.plot.y_range.update(start=low, end=high)
