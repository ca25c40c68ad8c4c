"""The galaxy-map dashboard: ages and metallicities across a galaxy, by label and by prediction."""

import html
from functools import lru_cache, partial

import ipywidgets as W
import numpy as np
import pandas as pd
import xarray as xr
from astropy.stats import mad_std
from bokeh.core.properties import value as literal
from bokeh.models import (
    ColorBar,
    ColumnDataSource,
    HoverTool,
    Label,
    Legend,
    LegendItem,
    LinearColorMapper,
    Range1d,
    Span,
)
from scipy.spatial import ConvexHull, QhullError, Voronoi

from spectool.explore.dashboard import Choice, Dashboard
from spectool.explore.spectrum import WAVELENGTH_LABEL, LineMarks
from spectool.explore.style import MAP_PALETTE, MUTED, OBSERVED, OKABE_ITO, SIGNED_PALETTE
from spectool.explore.view import DashboardView, alt, limits, panel, set_range
from spectool.measure.gradients import fit_gradients
from spectool.measure.indices import stellar_marks
from spectool.papers import find_parts
from spectool.surveys.jpas import FILTERS

QUANTITIES = {"log_age": "log age (Gyr)", "log_z": "log Z/Z☉"}
WORDS = {"log_age": "age", "log_z": "metallicity"}
VIEWS = {
    "value": "the age or metallicity itself",
    "difference": "how far it is from the labels that it is compared with",
    "error": "the error that the networks themselves predict, where they do",
}
TRUTH, FITTED = "truth", "fitted"
ABOUT = {
    TRUTH: "what the mock spectra were made with",
    FITTED: "what a fit of each whole spectrum gives, errors of the fit included",
}
DIMS = ("source", "spectrum")
NEEDED = ("flux", "galaxy_index", "x", "y", "radius", *QUANTITIES)
KEPT = 8  # galaxies whose rebuilt spectra stay in memory
SEED = 5  # of the resamplings of gradients
REACH = np.linspace(0, 1, 11)  # radii of the line that is drawn
PROBLEMS = {
    "too few spectra inside": "only {} spectra inside 1 Re",
    "too few spectra beyond": "no spectrum beyond 1 Re",
}
N_RING = 72  # points outside a galaxy that close the cells at its edge
BAND_COLOR, SOURCE_COLOR, MISSING = OKABE_ITO["vermillion"], OKABE_ITO["blue"], "#D8D8D8"
F_NU_LABEL = "Fν (mean of bands = 1)"
RADIUS_LABEL = "deprojected radius (Re)"


def read_sources(sample, predictions):
    """All versions of ages and metallicities, labels first: Dataset (source, spectrum), errors NaN where none."""
    if missing := [name for name in NEEDED if name not in sample]:
        raise ValueError(f"the sample lacks {', '.join(missing)}")
    labels, n = {TRUTH: {q: sample[q] for q in QUANTITIES}}, sample.sizes["spectrum"]
    if all(f"{q}_fit" in sample for q in QUANTITIES):
        labels[FITTED] = {q: sample[f"{q}_fit"] for q in QUANTITIES}
    if taken := labels.keys() & predictions.keys():
        raise ValueError(f"a prediction cannot be called {min(taken)!r}: the labels are")
    every, nothing = labels | dict(predictions), np.full(n, np.nan)
    for name, columns in every.items():
        if wrong := [q for q in QUANTITIES if np.shape(columns.get(q)) != (n,)]:
            raise ValueError(f"{name} needs {', '.join(wrong)} of all {n} spectra")
    data = {
        column: (DIMS, [np.asarray(columns.get(column, nothing), float) for columns in every.values()])
        for quantity in QUANTITIES
        for column in (quantity, f"{quantity}_error")
    }
    return xr.Dataset(data, {"source": list(every)})


def describe_galaxy(sample, galaxy, n_spectra):
    """One line about a galaxy, for a menu."""
    row = sample.isel(galaxy=galaxy)
    parts = [str(row["galaxy_name"].item()) if "galaxy_name" in row else f"galaxy {galaxy}"]
    if "is_early" in row:
        parts.append("early" if row["is_early"].item() else "late")
    if "log_mass" in row:
        parts.append(f"log M* {float(row['log_mass']):.1f}")
    if "inclination" in row:
        parts.append(f"i {float(row['inclination']):.0f}°")
    return " · ".join([*parts, f"{n_spectra} spectra"])


def fit_profile(radius, values):
    """Line in radius through one galaxy's values: its slope, 68% band, resamplings, problem or "", and words."""
    columns = {"galaxy_index": np.zeros(len(radius), dtype=int), "radius": radius, "value": values}
    galaxy = xr.Dataset({name: ("spectrum", np.asarray(column)) for name, column in columns.items()})
    fit = fit_gradients(galaxy, columns=["value"], seed=SEED, keep_fits=True).isel(galaxy=0)
    slopes, centrals = (fit[f"value_{part}"].values for part in ("slopes", "centrals"))
    slope, error, central = (float(fit[f"value_{p}"]) for p in ("gradient", "gradient_error", "central"))
    lines, mean = centrals[:, None] + slopes[:, None] * REACH, central + slope * REACH
    # Resamplings share most of their spectra: their spread is smaller than the error, in slope as in height.
    spread = slopes.std(ddof=1)
    width = (error / spread if spread > 0 else 1.0) * lines.std(axis=0, ddof=1)
    line = {"radius": REACH, "mean": mean, "low": mean - width, "high": mean + width}
    problem = fit["gradient_problem"].item()
    problem = PROBLEMS.get(problem, problem).format(int(fit["n_inside"]))
    text = "no gradient" if problem else f"{signed(slope)} ± {error:.2f} dex/Re"
    return {"slope": slope, "line": line, "lines": lines, "problem": problem, "text": text}


def signed(value):
    """A number with its sign, two decimals."""
    return f"{float(value):+.2f}".replace("-", "−")


# ---- the map


def cell_outlines(x, y):
    """Outline the cell of each spectrum: what of the galaxy is nearer to it than to any other."""
    points = np.column_stack([x, y]).astype(float)
    unique, first = np.unique(points, axis=0, return_index=True)
    spacing = np.sqrt(np.prod(np.ptp(unique, axis=0) + 1e-9) / max(len(unique), 1)) if len(unique) else 1.0
    square = 0.3 * max(spacing, 1e-3) * np.array([[-1, 1, 1, -1], [-1, -1, 1, 1]])
    outlines = [point[:, None] + square for point in points]
    try:
        cells = Voronoi(np.vstack([unique, _ring(unique, spacing)]))
    except (QhullError, ValueError):
        return outlines
    for k, original in enumerate(first):
        corners = cells.regions[cells.point_region[k]]
        if len(corners) > 2 and -1 not in corners:
            outlines[original] = cells.vertices[corners].T
    return outlines


def _ring(points, spacing):
    """Points around a set of points, about one spacing outside its hull: (N_RING, 2)."""
    corners = points[ConvexHull(points).vertices]
    closed = np.vstack([corners, corners[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    at = np.linspace(0, along[-1], N_RING, endpoint=False)
    outline = np.column_stack([np.interp(at, along, closed[:, k]) for k in range(2)])
    outward = outline - corners.mean(axis=0)
    return outline + spacing * outward / np.hypot(*outward.T)[:, None]


def radius_ellipse(x, y, radius):
    """Draw where the deprojected radius is 1: squared, it is a quadratic form of the position."""
    x, y, radius = (np.asarray(v, dtype=float) for v in (x, y, radius))
    good = np.isfinite(x) & np.isfinite(y) & np.isfinite(radius)
    if good.sum() < 3:
        return np.zeros(0), np.zeros(0)
    design = np.column_stack([x**2, x * y, y**2])[good]
    (a, b, c), *_ = np.linalg.lstsq(design, radius[good] ** 2, rcond=None)
    angle = np.linspace(0, 2 * np.pi, 121)
    form = a * np.cos(angle) ** 2 + b * np.cos(angle) * np.sin(angle) + c * np.sin(angle) ** 2
    if not np.all(form > 0):
        return np.zeros(0), np.zeros(0)
    return np.cos(angle) / np.sqrt(form), np.sin(angle) / np.sqrt(form)


# ---- the bands and the spectrum of one of its cells


def band_wavelengths(sample):
    """Central wavelength and width of each band of a sample."""
    filters = np.array([FILTERS[str(name)] for name in sample["band"].values], dtype=float)
    return filters[:, 0], filters[:, 1]


def bands_of(sample, spectrum):
    """Photometry of one spectrum and its errors, relative to its mean; NaN where masked."""
    row = sample[[n for n in ("flux", "flux_error", "mask") if n in sample]].isel(spectrum=spectrum)
    flux = np.array(row["flux"].values, dtype=float)
    if "mask" in row:
        flux[row["mask"].values.astype(bool)] = np.nan
    mean = np.nanmean(flux) if np.isfinite(flux).any() else np.nan
    error = np.asarray(row["flux_error"].values, dtype=float) if "flux_error" in row else np.zeros(flux.size)
    return flux / mean, np.where(np.isfinite(flux), error / mean, np.nan)


def to_f_nu(wavelength, flux, band_wavelength, bands):
    """Turn a spectrum's f_lambda into f_nu on the scale of its photometry."""
    wavelength = np.asarray(wavelength, dtype=float)
    f_nu = np.asarray(flux, dtype=float) * (wavelength / 5000.0) ** 2
    inside = (band_wavelength > wavelength[0]) & (band_wavelength < wavelength[-1]) & np.isfinite(bands)
    good = np.isfinite(f_nu)
    if not inside.any() or not good.any():
        return np.full(f_nu.shape, np.nan)
    at_bands = np.interp(band_wavelength[inside], wavelength[good], f_nu[good])
    return f_nu * np.median(bands[inside] / at_bands)


class IfuState(Dashboard):
    """Which galaxy is mapped, in which version of its ages and metallicities, and which spectrum is looked at."""

    name = "ifu"
    controls = ("galaxy", "spectrum", "source", "quantity", "view", "reference")

    galaxy = Choice().tag(ui=True, label="Galaxy", tooltip="galaxy that is mapped")
    spectrum = Choice().tag(
        ui=True, label="Spectrum", tooltip="cell whose bands are drawn below, from the centre outwards"
    )
    source = Choice().tag(ui=True, style="toggles", label="Map", tooltip="whose ages and metallicities")
    quantity = Choice().tag(ui=True, style="toggles", label="What", tooltip="quantity that is mapped")
    view = Choice().tag(ui=True, style="toggles", label="Show", tooltip="value, difference or error")
    reference = Choice().tag(ui=True, style="toggles", label="Against", tooltip="labels to compare with")

    def __init__(self, sample, predictions=None, *, rebuild=None, about=None, start=None):
        super().__init__(start=start)
        self.sample, self.sources = sample, read_sources(sample, predictions or {})
        self.names, every = list(self.sources["source"].values.astype(object)), ABOUT | (about or {})
        self.explanations = {name: every.get(name, "") for name in self.names}
        galaxy_index = sample["galaxy_index"].values.astype(int)
        self.members = {int(g): np.flatnonzero(galaxy_index == g) for g in np.unique(galaxy_index)}
        if not self.members:
            raise ValueError("the sample has no spectrum")
        self.galaxies = {g: describe_galaxy(sample, g, members.size) for g, members in self.members.items()}
        self._rebuild = rebuild and lru_cache(KEPT)(partial(self._call, rebuild))
        # The first spectra are there before the page draws: what changes while it begins to would not reach it.
        start, self._start = self._start, lambda function: function()
        self._change(self.first_state())
        self._start = start

    # ---- choices

    def choices(self, name):
        if name == "galaxy":
            return [(text, galaxy) for galaxy, text in self.galaxies.items()]
        if name == "spectrum":
            radius, members = self.sample["radius"].values, self.members[self.galaxy]
            outwards = members[np.argsort(radius[members], kind="stable")]
            return [(f"{radius[k]:.2f} Re · number {k}", int(k)) for k in outwards]
        labels = [source for source in self.names if source in ABOUT]
        quantities = [(words, quantity) for quantity, words in WORDS.items()]
        return {"source": self.names, "reference": labels, "quantity": quantities, "view": list(VIEWS)}[name]

    def first_state(self):
        galaxy = next(iter(self.members))
        first = {"galaxy": galaxy, "spectrum": self.innermost(galaxy), "source": self.names[-1]}
        return first | {"quantity": "log_age", "view": "value", "reference": TRUTH}

    def innermost(self, galaxy):
        """Position of a galaxy's innermost spectrum."""
        radius = self.sample["radius"].values[self.members[galaxy]]
        return int(self.members[galaxy][np.argmin(np.where(np.isfinite(radius), radius, np.inf))])

    def identity(self):
        return {"sample": f"{self.sample.sizes['spectrum']} spectra of {len(self.members)} galaxies"}

    def complete(self, changes):
        galaxy = changes.get("galaxy", self.galaxy)
        if galaxy == self.galaxy or galaxy not in list(self.members):
            return changes
        return {"spectrum": self.innermost(galaxy)} | changes

    def step(self, name, by):
        """Go to the next (1) or the last (-1) galaxy or spectrum, and begin anew at the end."""
        values = [value for _, value in self.options(name)]
        self.set(**{name: values[(values.index(getattr(self, name)) + by) % len(values)]})

    # ---- what follows

    def derive(self, changed):
        if "galaxy" in changed:
            self.index, self.spectra = self.members[self.galaxy], None
            if self._rebuild:
                self.work(partial(self._rebuild, self.galaxy), partial(setattr, self, "spectra"))
        if changed != ("spectrum",):
            self._place()

    def values(self, source, column):
        """Ages, metallicities or their errors of the galaxy's spectra, (n,) [dex]."""
        return self.sources[column].sel(source=source).values[self.index]

    def _place(self):
        """Compute what the panels draw."""
        value, reference = (self.values(name, self.quantity) for name in (self.source, self.reference))
        points = {name: self.sample[name].values[self.index] for name in ("x", "y", "radius")}
        points |= {"value": value, "reference": reference, "difference": value - reference}
        points["error"] = self.values(self.source, f"{self.quantity}_error")
        self.points = pd.DataFrame({name: np.asarray(v, dtype=np.float32) for name, v in points.items()})
        self.limits = self._find_limits()
        radius = self.sample["radius"].values[self.index].astype(float)
        named = {name: self.values(name, self.quantity) for name in self.names}
        self.gradients = {name: fit_profile(radius, values) for name, values in named.items()}

    def _find_limits(self):
        """One range of colours for all sources: a map must not look better for its own colours."""
        column = f"{self.quantity}_error" if self.view == "error" else self.quantity
        every = self.sources[column][:, self.index]
        if self.view == "difference":
            every = np.abs(every - every.sel(source=self.reference)).drop_sel(source=self.reference)
        good = every.values[np.isfinite(every.values)]
        low, high = {"value": (0.02, 0.98), "difference": (0, 0.95), "error": (0, 0.98)}[self.view]
        low, high = np.quantile(good, [low, high]) if good.size else (0.0, 1.0)
        if self.view == "difference":
            high = max(high, 0.02)
        low = {"value": low, "difference": -high, "error": 0.0}[self.view]
        return float(low), float(max(high, low + 0.02))

    def scatter(self, source):
        """Median and robust scatter of a source's differences from the labels in this galaxy [dex]."""
        difference = self.values(source, self.quantity) - self.values(self.reference, self.quantity)
        good = difference[np.isfinite(difference)]
        return (float(np.median(good)), float(mad_std(good))) if good.size else (np.nan, np.nan)

    def _call(self, rebuild, galaxy):
        """Rebuild a galaxy's spectra."""
        try:
            spectra = rebuild(self.sample, galaxy)
            if (n := spectra["flux"].shape[0]) != self.members[galaxy].size:
                raise ValueError(f"{n} spectra came back")
        except Exception as error:
            raise ValueError(f"the spectra could not be rebuilt: {error}") from error
        return spectra

    def photometry(self):
        """Bands of the spectrum that is looked at, as a DataFrame, and its wavelengths and f_nu, each (n,)."""
        flux, error = bands_of(self.sample, self.spectrum)
        at, width = band_wavelengths(self.sample)
        columns = {"wavelength": at, "flux": flux, "low": flux - error, "high": flux + error}
        bands = pd.DataFrame(columns | {"left": at - width / 2, "right": at + width / 2})
        if self.spectra is None:
            return bands, np.zeros(0), np.zeros(0)
        wavelength = np.asarray(self.spectra["wavelength"].values, dtype=float)
        row = int(np.searchsorted(self.index, self.spectrum))
        return bands, wavelength, to_f_nu(wavelength, self.spectra["flux"].values[row], at, flux)

    def table(self):
        shown = self.sources.isel(spectrum=self.index)
        names = [(column, name) for name in self.names for column in shown.data_vars]
        values = {f"{column} {name}": shown[column].sel(source=name).values for column, name in names}
        place = {name: self.points[name] for name in ("x", "y", "radius")}
        return pd.DataFrame({"spectrum": self.index} | place | values).dropna(axis=1, how="all")

    def about(self):
        quantity = QUANTITIES[self.quantity]
        fits = [f"gradient of {quantity}, {k}: {fit['text']}" for k, fit in self.gradients.items()]
        return [*super().about(), f"galaxy: {self.galaxies[self.galaxy]}", *fits]

    def describe_map(self):
        """What the map shows, in a few words."""
        quantity = QUANTITIES[self.quantity]
        if self.view == "value":
            return f"{self.source}: {quantity}"
        name = quantity.removesuffix(" (Gyr)")
        if self.view == "error":
            return f"{self.source}: predicted error of {name} (dex)"
        return f"{self.source} − {self.reference}: {name} (dex)"


class IfuView(DashboardView):
    """The galaxy-map dashboard of an `IfuState`: map, radial profile with gradients, and the bands of one spectrum."""

    rows = (("galaxy",), ("spectrum",), ("source",), ("quantity",), ("view",), ("reference",))
    hint = "Click a cell of the map, or a point beside it: its bands and its spectrum are drawn below."
    opener = "open_ifu_dashboard()"

    # ---- controls

    def make_control(self, name):
        widget = super().make_control(name)
        if name in ("galaxy", "spectrum"):
            steps = self.make_steps(name, partial(self.state.step, name))
            return W.HBox([widget, *steps], layout=W.Layout(width="100%"))
        if name in ("source", "reference"):
            widget.tooltips = [self.state.explanations[k] for k in self.state.choices(name)]
        elif name == "view":
            widget.tooltips = list(VIEWS.values())
        if name == "reference" and len(self.state.choices(name)) < 2:
            widget.layout.display = "none"
        return widget

    def show_control(self, name, widget):
        super().show_control(name, widget.children[0] if name in ("galaxy", "spectrum") else widget)

    # ---- figures

    def make_panels(self):
        columns = ("xs", "ys", "radius", "value", "reference", "shown")
        self.cells = ColumnDataSource({name: [] for name in columns}, name="spaxels")
        self.ring = ColumnDataSource({"xs": [], "ys": [], "radius": [], "value": []}, name="ring")
        self.ellipse = ColumnDataSource({"x": [], "y": []}, name="ellipse")
        line = {"radius": [], "mean": [], "low": [], "high": []}
        self.lines = {part: ColumnDataSource(line, name=f"line_{part}") for part in ("reference", "source")}
        self.spectrum = ColumnDataSource({"wavelength": [], "flux": []}, name="spectrum")
        bands = ("wavelength", "flux", "left", "right", "low", "high")
        self.bands = ColumnDataSource({name: [] for name in bands}, name="bands")
        self.mapper = LinearColorMapper(palette=MAP_PALETTE, low=0, high=1, nan_color=MISSING)
        self.cells.selected.on_change("indices", lambda attr, old, new: self._tapped(new))
        self.map, self.profile, self.below = self._draw_map(), self._draw_profile(), self._draw_bands()
        return [[self.map, self.profile], [self.below]]

    def _draw_map(self):
        plot = panel("map", 275, tools="tap,save", match_aspect=True, title=" ")
        plot.xaxis.axis_label, plot.yaxis.axis_label = "x (arcsec); dashed: 1 Re", "y (arcsec)"
        look = {"fill_color": {"field": "shown", "transform": self.mapper}, "line_color": "white"}
        look |= {"line_width": 0.5, "line_alpha": 0.5, "fill_alpha": 1.0}
        same = {f"{part}_{k}": v for part in ("selection", "nonselection") for k, v in look.items()}
        cells = plot.patches("xs", "ys", source=self.cells, **look, **same)
        # White below black: they are seen on any colour of the map, and beside it in any theme.
        plot.line("x", "y", source=self.ellipse, line_color="white", line_width=3, line_alpha=0.7)
        plot.line("x", "y", source=self.ellipse, line_color="black", line_dash="dashed", line_width=1.5)
        for color, width in (("white", 5), ("black", 2.5)):
            plot.patches("xs", "ys", source=self.ring, fill_color=None, line_color=color, line_width=width)
        tips = [("", "@shown{0.00} dex at @radius{0.00} Re")]
        plot.add_tools(HoverTool(renderers=[cells], tooltips=tips))
        plot.grid.visible = False
        bar = {"width": 10, "padding": 4, "margin": 0, "background_fill_alpha": 0}
        plot.add_layout(ColorBar(color_mapper=self.mapper, **bar), "right")
        return plot

    def _draw_profile(self):
        ranges = {"x_range": Range1d(0, 2.5), "y_range": Range1d(-1, 1)}
        plot = panel("profile", 275, tools="tap,box_zoom,reset,save", **ranges)
        plot.xaxis.axis_label = RADIUS_LABEL
        plot.add_layout(Span(location=1, dimension="height", line_color=MUTED, line_dash="dotted"))
        crosses = {"marker": "x", "line_color": OBSERVED, "line_width": 1.4, "size": 6, "alpha": 0.8}
        circles = {"marker": "circle", "color": SOURCE_COLOR, "line_color": None, "size": 5, "alpha": 0.65}
        self.dots = [
            plot.scatter("radius", name, source=self.cells, nonselection_alpha=look["alpha"], **look)
            for name, look in (("reference", crosses), ("value", circles))
        ]
        self.fits = {}
        for part, color in (("reference", "black"), ("source", SOURCE_COLOR)):
            look = {"source": self.lines[part], "color": color, "tags": ["ink"] * (color == "black")}
            band = plot.varea("radius", "low", "high", alpha=0.2, **look)
            self.fits[part] = [band, plot.line("radius", "mean", line_width=2.5, **look)]
        look = {"line_color": "black", "fill_color": None, "line_width": 2, "size": 12, "tags": ["ink"]}
        plot.scatter("radius", "value", source=self.ring, **look)
        self.note = Label(x=10, y=8, x_units="screen", y_units="screen", text_font_size="12px")
        plot.add_layout(self.note)
        self.key = [LegendItem(label=" ", renderers=[dots]) for dots in self.dots]
        plot.add_layout(Legend(items=self.key, padding=0, margin=0, location="left"), "above")
        return plot

    def _draw_bands(self):
        at, _ = band_wavelengths(self.state.sample)
        window = self.window = float(at.min() - 120), float(at.max() + 120)
        ranges = {"x_range": Range1d(*window), "y_range": Range1d(0, 1.5)}
        plot = panel("bands_panel", 195, tools="box_zoom,reset,save", title=" ", **ranges)
        plot.xaxis.axis_label, plot.yaxis.axis_label = WAVELENGTH_LABEL, F_NU_LABEL
        LineMarks(plot, window, 540, lines=stellar_marks()).follow(plot)
        plot.line("wavelength", "flux", source=self.spectrum, color=OBSERVED, line_width=1)
        flat = {"source": self.bands, "line_color": BAND_COLOR, "line_width": 1.5}
        plot.segment("left", "flux", "right", "flux", line_alpha=0.7, **flat)
        plot.segment("wavelength", "low", "wavelength", "high", **flat)
        plot.scatter("wavelength", "flux", source=self.bands, size=6, color=BAND_COLOR)
        return plot

    def _tapped(self, indices):
        # jupyter_bokeh reports a tap twice, and what the kernel set itself.
        if len(indices) and self.state.index[indices[-1]] != self.state.spectrum:
            self.act(self.state.set, spectrum=int(self.state.index[indices[-1]]))

    # ---- what changed

    def draw(self, changed):
        changed = {*changed}
        if changed - {"spectrum", "work"}:
            self._show_points("galaxy" in changed)
            self._show_fits()
        self._show_ring()
        if changed & {"galaxy", "spectrum", "work"}:
            self._show_bands()

    def _show_points(self, moved):
        state, points = self.state, self.state.points
        columns = {name: points[name].values for name in ("value", "reference")}
        columns["shown"] = points[state.view].values
        if moved:
            outlines = cell_outlines(points["x"], points["y"])
            xs, ys = ([outline[k].astype(np.float32) for outline in outlines] for k in (0, 1))
            self.cells.data = {"xs": xs, "ys": ys, "radius": points["radius"].values, **columns}
            ellipse = radius_ellipse(points["x"], points["y"], points["radius"])
            self.ellipse.data = dict(zip("xy", ellipse, strict=True))
        else:
            self.cells.data.update(columns)
        palette = list(SIGNED_PALETTE if state.view == "difference" else MAP_PALETTE)
        self.mapper.update(low=state.limits[0], high=state.limits[1], palette=palette)
        self.map.title.text = state.describe_map()
        low, high = limits(points[["value", "reference"]], low=0.2, high=99.8, margin=0.08)
        set_range(self.profile.y_range, low, high)
        set_range(self.profile.x_range, -0.05, 1.04 * max(1.1, float(points["radius"].max())))
        text = f"{state.describe_map()}, colours from {state.limits[0]:.2f} to {state.limits[1]:.2f}"
        alt(self.map, f"Map of galaxy {state.galaxies[state.galaxy]}; {text}.")

    def _show_fits(self):
        state, fits = self.state, self.state.gradients
        same = state.source == state.reference
        names = {"reference": state.reference, "source": state.source}
        for item, (part, name) in zip(self.key, names.items(), strict=True):
            fit = fits[name]
            self.lines[part].data = {k: v.astype(np.float32) for k, v in fit["line"].items()}
            for renderer in self.fits[part]:
                renderer.visible = not (fit["problem"] or (same and part == "source"))
            item.label = literal(f"{name}: {fit['text']}")
        self.key[0].visible = self.dots[0].visible = not same
        self.profile.yaxis.axis_label = QUANTITIES[state.quantity]
        problem = fits[state.source]["problem"]
        self.note.text = f"no gradient: {problem}" if problem else ""
        texts = ", ".join(f"{name} {fits[name]['text']}" for name in dict.fromkeys(names.values()))
        alt(self.profile, f"{QUANTITIES[state.quantity]} against radius; gradients: {texts}.")

    def _show_ring(self):
        state = self.state
        at = np.flatnonzero(state.index == state.spectrum)
        names = ("xs", "ys", "radius", "value")
        self.ring.data = {name: [self.cells.data[name][k] for k in at] for name in names}
        # A tap on what the page believes to be selected already would not reach the kernel.
        if self.cells.selected.indices != at.tolist():
            self.cells.selected.indices = at.tolist()

    def _show_bands(self):
        state = self.state
        bands, wavelength, f_nu = state.photometry()
        good = bands.dropna()
        self.bands.data = {name: values.to_numpy(np.float32) for name, values in good.items()}
        self.spectrum.data = {"wavelength": wavelength.astype(np.float32), "flux": f_nu.astype(np.float32)}
        inside = (wavelength >= self.window[0]) & (wavelength <= self.window[1])
        low, high = limits([*good["flux"], *f_nu[inside]], low=0.1, high=99.9, margin=0.08)
        set_range(self.below.y_range, low, high + 0.5 * (high - low))  # room for the names of features
        missing = len(bands) - len(good)
        at = f"{state.sample['radius'].values[state.spectrum]:.2f} Re"
        title = f"Bands and spectrum at {at}"
        title += f"; {missing} band{'s' * (missing > 1)} missing" if missing else ""
        self.below.title.text = title
        alt(
            self.below,
            f"{title}: flux from {good['flux'].min():.2f} to {good['flux'].max():.2f} of its mean.",
        )

    # ---- words

    def describe(self):
        state, name = self.state, f"<b>{html.escape(self.state.source)}</b>"
        if state.source == state.reference:
            return f"{name}: choose a prediction to compare it with these labels", ""
        offset, scatter = state.scatter(state.source)
        parts = [f"{name} − {state.reference}: median {signed(offset)}, robust scatter {scatter:.3f} dex"]
        fit, label = (state.gradients[name] for name in (state.source, state.reference))
        if not (fit["problem"] or label["problem"]):
            parts.append(f"gradient off by {signed(fit['slope'] - label['slope'])} dex/Re")
        unknown = state.view == "error" and not state.points["error"].notna().any()
        return "; ".join(parts), f"{state.source} has no predicted errors" if unknown else ""

    def make_tables(self):
        state, rows = self.state, []
        for name in state.names:
            row = state.sources.sel(source=name).isel(spectrum=state.spectrum)
            value, error = float(row[state.quantity]), float(row[f"{state.quantity}_error"])
            here = signed(value) + (f" ± {error:.2f}" if np.isfinite(error) else "")
            scatter = f"{state.scatter(name)[1]:.3f}" if name != state.reference else "–"
            gradient = state.gradients[name]["text"].removesuffix(" dex/Re")
            rows.append((name, here, scatter, gradient))
        words = {html.escape(name): html.escape(text) for name, text in state.explanations.items()}
        words = "".join(f"<p><b>{name}</b>: {text}</p>" for name, text in words.items() if text)
        here = f"{QUANTITIES[state.quantity].split('/')[0].removesuffix(' (Gyr)')} here"
        return [pd.DataFrame(rows, columns=["source", here, "scatter (dex)", "gradient (dex/Re)"]), words]


def open_ifu_dashboard(sample=None, predictions=None, *, rebuild=None, about=None, export_folder="exports"):
    """Open the galaxy-map dashboard: ages and metallicities across galaxies, by label and by prediction.

    Parameters
    ----------
    sample : xarray.Dataset, optional
        ``flux`` (spectrum, band), ``galaxy_index``, ``x``, ``y`` [arcsec], ``radius`` [R / Re], ``log_age``,
        ``log_z`` (spectrum,) [dex]; and, where there are, ``flux_error``, ``mask``, ``log_age_fit``, ``log_z_fit``.
        By default the mock galaxies and networks that are shipped.
    predictions : dict of str to mapping
        By name, such as "Set A" and "Set B": ``log_age`` and ``log_z`` (spectrum,) [dex], and ``log_age_error`` and
        ``log_z_error`` where there are predicted errors.
    rebuild : callable, optional
        ``rebuild(sample, galaxy)`` returns a galaxy's spectra, as `spectool.surveys.califa.rebuild_galaxy`.
    about : dict of str to str, optional
        What the predictions are, by name.
    export_folder : str or pathlib.Path
        Where files are saved.

    Returns
    -------
    IfuView

    Raises
    ------
    ValueError
        If the sample or a prediction lacks a column.
    """
    shipped = sample is None
    if shipped:
        (part,) = find_parts("ifu").values()
        sample, predictions = part.open_maps()
        rebuild, about = part.rebuild, part.ABOUT
    view = IfuView(IfuState(sample, predictions, rebuild=rebuild, about=about), export_folder=export_folder)
    if not shipped:
        view.opener = "open_ifu_dashboard(sample, predictions, rebuild=rebuild)"
    return view
