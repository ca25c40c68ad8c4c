"""The mass-metallicity dashboard: two samples of galaxies side by side, whose metals were measured in several ways."""

import html
import threading
from functools import partial

import ipywidgets as W
import numpy as np
import pandas as pd
import traitlets
from bokeh.events import DoubleTap, Tap
from bokeh.models import (
    ColumnDataSource,
    Legend,
    LegendItem,
    LinearColorMapper,
    NumeralTickFormatter,
    Range1d,
    WheelZoomTool,
)
from bokeh.plotting import figure

from spectool.explore.dashboard import Choice, Dashboard
from spectool.explore.mzr_quantities import MAX_POINTS, N_CELLS, QUANTITIES, check_sample, find_cells
from spectool.explore.spectrum import TOOLS, WAVELENGTH_LABEL, LineMarks, flux_range
from spectool.explore.style import CYCLE, MAP_PALETTE, OBSERVED, OKABE_ITO
from spectool.explore.view import DashboardView, alt
from spectool.measure.classes import CLASSES
from spectool.measure.metallicity import deredden_lines
from spectool.measure.mzr import mass_bins, running_median, scatter_about, spearman_at_fixed_mass
from spectool.papers import find_parts

NONE = "none"
# What each quantity has of its own; it comes back when the quantity does.
OWN = ("left", "right", "calibration", "color", "min_sn", "reference", "relations", "window", "selected")
# What changes the figure, and nothing of what is measured.
LOOKS = {"overlaid", "reference", "relations", "window", "selected"}
MIN_IN_BIN = 10  # galaxies, for a median with an error worth drawing
SETTLE_SECONDS = 0.25
TAP_PIXELS = 14

PALETTE = list(MAP_PALETTE[:236])  # on white the light end of the map would vanish
CLASS_PALETTE = [CYCLE[i] for i in (0, 1, 3, 4, 2)]
SAMPLE_COLORS = (OKABE_ITO["blue"], OKABE_ITO["vermillion"])
ALL_COLOR, MEASURED_COLOR = OKABE_ITO["orange"], OKABE_ITO["blue"]
RELATIONS = {name: curve for kind in QUANTITIES.values() for name, curve in kind.relations.items()}
# Colours that neither the median nor a sample laid over another has.
RELATION_LINES = (
    (OKABE_ITO["reddish_purple"], "solid", "━━"),
    (OKABE_ITO["bluish_green"], "dashed", "╍╍"),
    (OKABE_ITO["orange"], "dotted", "┅┅"),
    (OKABE_ITO["sky_blue"], "dashdot", "━╍"),
    (OBSERVED, "dotdash", "╍┅"),
)
STYLES = {
    n: style for k in QUANTITIES.values() for n, style in zip(k.relations, RELATION_LINES, strict=False)
}
# Behind to before: noise must not cover what it hides.
SPECTRUM_COLORS = (OKABE_ITO["sky_blue"], OBSERVED, OKABE_ITO["blue"])
GALAXY_LINES = ("Hα", "Hβ", "[O III] 5007", "[N II] 6583", "[S II] 6716", "[S II] 6731")
EMPTY = np.zeros(0, dtype=np.float32)
NO_IMAGE = {"image": [], "x": [], "y": [], "dw": [], "dh": []}


class MzrState(Dashboard):
    """Which galaxies are compared on which scale, and everything that follows from it.

    Parameters
    ----------
    samples : dict of str to xarray.Dataset
        By name; see `spectool.explore.mzr_quantities.check_sample`.
    rebuild : dict of str to callable, optional
        By the samples' ``attrs["family"]``: from a galaxy's ``candidate`` number to its spectra, an xarray.Dataset
        with ``flux`` (source, wavelength).
    """

    name = "mzr"
    controls = ("quantity", "left", "right", "overlaid", "calibration", "dust_corrected", "min_sn", "color")
    controls += ("reference", "relations", "window", "selected")

    quantity = Choice().tag(ui=True, style="toggles", label="Metals", tooltip="whose metals are on the axis")
    left = Choice().tag(ui=True, label="Left", tooltip="sample of the left panel")
    right = Choice().tag(ui=True, label="Right", tooltip="sample of the right panel")
    overlaid = traitlets.Bool(False).tag(ui=True, label="Overlay", tooltip="both samples in the left panel")
    calibration = Choice().tag(
        ui=True,
        label="Metallicity",
        tooltip="by which lines, or by the network; or what the mocks were made with",
    )
    dust_corrected = traitlets.Bool(False).tag(
        ui=True, style="check", label="correct lines for dust", tooltip="by the Balmer decrement, Hα / Hβ"
    )
    min_sn = traitlets.Float(0.0, min=0, max=50).tag(
        ui=True, label="S/N above", tooltip="who counts as measured", step=0.5, format=".1f"
    )
    color = Choice().tag(ui=True, label="Colour", tooltip="what colours the galaxies")
    reference = Choice().tag(ui=True, label="Scatter about", tooltip="relation that the table compares with")
    relations = Choice(many=True).tag(
        ui=True, style="check", label="Relations", tooltip="published ones, each on a scale of its own"
    )
    window = Choice("All").tag(ui=True, style="toggles", label="Show", tooltip="wavelengths of the spectrum")
    selected = traitlets.Tuple(help="family and number of the galaxy whose spectra are shown, or ()")

    def __init__(self, samples, *, rebuild=None, start=None):
        super().__init__(start=start)
        if not samples:
            raise ValueError("there is no sample to show")
        self.samples = {name: check_sample(name, sample) for name, sample in samples.items()}
        self.rebuild, self.spectrum, self._cache, self._left_behind = dict(rebuild or {}), None, {}, {}
        first = self.first_state()
        self.set_trait("quantity", first["quantity"])  # what others may be depends on it
        self._change(first)

    def add_sample(self, name, sample):
        """Add a sample, or replace one; see `spectool.explore.mzr_quantities.check_sample`."""
        with self.lock:
            self.samples[name] = check_sample(name, sample)
            self._cache.clear()
            self.derive(("samples",))
            self._announce(("samples",))

    # ---- choices

    @property
    def kind(self):
        """The `Quantity` on the axis."""
        return QUANTITIES[self.quantity]

    @property
    def shown(self):
        """Names of the one or two samples that are compared."""
        return [name for name in (self.left, self.right) if name != NONE]

    @property
    def shares_panel(self):
        """Whether two samples are laid over each other."""
        return self.overlaid and self.right != NONE

    def _names(self, key):
        return [name for name, sample in self.samples.items() if QUANTITIES[key].is_in(sample)]

    def choices(self, name):
        if name == "quantity":
            return [(kind.label, key) for key, kind in QUANTITIES.items() if self._names(key)]
        if name in ("left", "right"):
            return [NONE] * (name == "right") + self._names(self.quantity)
        kind = self.kind
        if name == "color":
            return [(label, key) for key, (label, _) in kind.colors.items()]
        lists = {"calibration": kind.scales, "window": kind.windows}
        return list(lists.get(name, kind.relations))

    def _first(self, key):
        """What a quantity is first looked at with: two samples, and an ordinary galaxy."""
        kind, names = QUANTITIES[key], self._names(key)
        reference, color = next(iter(kind.relations)), next(iter(kind.colors))
        first = {"left": names[0], "right": [*names, NONE][1], "calibration": kind.scales[0], "color": color}
        first |= {"min_sn": kind.min_sn, "reference": reference, "relations": [reference], "window": "All"}
        return first | {"selected": [*self.find_ordinary(names[0], key)]}

    def first_state(self):
        key = next(key for key in QUANTITIES if self._names(key))
        return {"quantity": key, "overlaid": False, "dust_corrected": False, **self._first(key)}

    def reset(self):
        """Go back to what the dashboard opens with, in all quantities."""
        super().reset()
        self._left_behind.clear()

    def complete(self, changes):
        asked, key = changes.get("selected"), changes.get("quantity") or self.quantity
        if not np.isfinite(changes.get("min_sn", 0.0)):
            raise ValueError(f"min_sn cannot be {changes['min_sn']}")
        names = [n for n in (changes.get("left"), changes.get("right")) if n in self.samples]
        lacking = [n for n in names if key in QUANTITIES and n not in self._names(key)]
        if lacking and "quantity" not in changes:  # a sample brings the quantity that it has
            key = next(k for k in QUANTITIES if lacking[0] in self._names(k))
        if key != self.quantity and key in QUANTITIES and self._names(key):
            self._left_behind[self.quantity] = {name: getattr(self, name) for name in OWN}
            changes = {"quantity": key} | (self._left_behind.get(key) or self._first(key)) | changes
        selected = tuple(changes.get("selected", self.selected))
        shown = [changes.get(side, getattr(self, side)) for side in ("left", "right")]
        shown = [name for name in shown if name in self.samples]
        if shown and all(self.locate(name, selected) is None for name in shown):
            if asked:
                galaxy = f"{selected[1]} of {selected[0]!r}"
                raise ValueError(f"there is no galaxy {galaxy} in {' or '.join(shown)}")
            selected = self.find_ordinary(shown[0], key)
        return changes | {"selected": selected}

    # ---- what follows

    def derive(self, changed):
        if {*changed} - LOOKS:
            masses = [self.samples[name]["log_mass"].values for name in self.shown]
            edges = self.once(("edges", *self.shown), lambda: mass_bins(np.concatenate(masses)))
            self.panels = tuple(self._derive_panel(name, edges) for name in self.shown)
        if "selected" in changed:
            self.spectrum = None
            make = self.rebuild.get(self.selected[0]) if self.selected else None
            if make:
                self.work(partial(make, self.selected[1]), partial(setattr, self, "spectrum"))
            else:
                self.drop_work()

    def once(self, key, make):
        """What is made but once, until a sample changes."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def _on_scale(self, what, name, make):
        """What a sample has on the current scale, whatever the cut."""
        return self.once((what, name, self.quantity, self.calibration, self.dust_corrected), make)

    def lines(self, name):
        """A sample as its metallicities are measured: its lines without dust, if that is chosen."""
        sample = self.samples[name]
        if not self.dust_corrected or "line_flux" not in sample or sample.attrs.get("dust_corrected"):
            return sample
        return self.once(("lines", name), lambda: deredden_lines(sample))

    def metallicity(self, name):
        """Metallicities of a sample on the current scale: a DataFrame of ``value``, ``error`` and ``sn``."""

        def make():
            return self.kind.measure(self.lines(name), self.calibration)

        return self._on_scale("metallicity", name, make)

    def _shade(self, name):
        """What colours each galaxy of a sample, and the galaxies in the order of it."""

        def make():
            color = self.kind.colors[self.color][1]
            values = np.asarray(color(self.samples[name], self.metallicity(name)), dtype=np.float32)
            return values, np.argsort(values)

        return self._on_scale(self.color, name, make)

    def _derive_panel(self, name, edges):
        """The measured galaxies of a sample (galaxy) and their running median (bin)."""
        mass = self.samples[name]["log_mass"].values
        value, error, sn = (self.metallicity(name)[c].to_numpy() for c in ("value", "error", "sn"))
        usable = self._on_scale("usable", name, lambda: np.isfinite(value) & np.isfinite(mass))
        n_all = self.once((name, edges.tobytes()), lambda: np.histogram(mass, edges)[0])
        shade, order = self._shade(name)
        bright = sn > self.min_sn
        measured = bright & usable
        rows = np.flatnonzero(measured)
        if rows.size > MAX_POINTS:  # as `median_image` takes them
            rows = order[measured[order]]
        columns = {"mass": mass[rows], "metallicity": value[rows], "error": error[rows], "color": shade[rows]}
        galaxies = {n: ("galaxy", values.astype(np.float32)) for n, values in columns.items()}
        binned = running_median(mass[rows], value[rows], bins=edges, min_count=MIN_IN_BIN)
        about = {"name": name, "n_galaxies": mass.size, "n_faint": int((~bright).sum())}
        return binned.assign(galaxies | {"row": ("galaxy", rows), "all": ("bin", n_all)}).assign_attrs(about)

    def scatter(self, panel):
        """Scatter of a panel's galaxies about the relation of reference, as of `scatter_about`."""
        name, relation = panel.attrs["name"], self.kind.relations[self.reference]
        if self.reference not in panel.attrs:  # not with the rest: the figure does not wait for it
            expected = self.once((name, self.reference), lambda: relation(self.samples[name]["log_mass"]))
            residual = panel["metallicity"].values - expected[panel["row"].values]
            panel.attrs[self.reference] = scatter_about(np.zeros_like, panel["mass"], residual)
        return panel.attrs[self.reference]

    @property
    def color_range(self):
        """Lowest and highest value of the colour, the same in both panels and at every cut."""
        return self._on_scale(f"{self.color} range", (*self.shown,), self._find_range)

    def _find_range(self):
        values = []
        for name in self.shown:
            table = self.metallicity(name)
            # Errors of galaxies that nobody asked to see would leave the others one colour.
            seen = (table["sn"] > self.kind.min_sn) & np.isfinite(table["value"])
            values.append(self._shade(name)[0][seen])
        values = np.concatenate(values)
        low, high = np.nanquantile(values, [0.02, 0.98]) if np.isfinite(values).any() else (0.0, 1.0)
        return float(low), float(max(high, low + 1e-3))

    def correlate(self):
        """Correlate at fixed mass: metallicity with star formation in each panel, and the panels with each other.

        Returns
        -------
        list of Correlation
            For each panel.
        Correlation or None
            Of the metallicities of galaxies that both panels hold; None if they hold others, or the same sample.
        """
        panels, trends = self.panels, []
        samples = [self.samples[panel.attrs["name"]] for panel in panels]
        edges = np.append(panels[0]["low"], panels[0]["high"][-1])
        options = {"bins": edges, "min_count": MIN_IN_BIN, "n_bootstrap": 0}
        for panel, sample in zip(panels, samples, strict=True):
            rate = sample["log_sfr"].values[panel["row"]] if "log_sfr" in sample else panel["mass"] * np.nan
            trends.append(spearman_at_fixed_mass(panel["mass"], panel["metallicity"], rate, **options))
        if self.left == self.right or len({sample.attrs["family"] for sample in samples}) == len(samples):
            return trends, None
        numbers = [s["candidate"].values[p["row"]] for s, p in zip(samples, panels, strict=True)]
        _, *rows = np.intersect1d(*numbers, return_indices=True)
        first, second = (panel.isel(galaxy=some) for panel, some in zip(panels, rows, strict=True))
        values = (first["mass"], first["metallicity"], second["metallicity"])
        return trends, spearman_at_fixed_mass(*values, **options)

    # ---- a galaxy

    def locate(self, name, selected=None):
        """Row of the selected galaxy in a sample, or None; another, (family, number), may be asked for."""
        sample, selected = self.samples[name], selected or self.selected
        if not selected or sample.attrs["family"] != selected[0]:
            return None
        rows = np.flatnonzero(sample["candidate"].values == selected[1])
        return int(rows[0]) if rows.size else None

    def find_ordinary(self, name, key):
        """Family and number of a galaxy in the middle of a sample's relation; () if none is measured."""
        sample, kind = self.samples[name], QUANTITIES[key]
        table = kind.measure(sample, kind.scales[0]).assign(mass=sample["log_mass"].values)
        values = table.loc[table["sn"] > kind.min_sn, ["mass", "value"]].dropna()
        if values.empty:
            return ()
        distance = ((values - values.median()) / (values.std().fillna(0) + 1e-9)).pow(2).sum(axis=1)
        return sample.attrs["family"], int(sample["candidate"].values[distance.idxmin()])

    def select(self, name, row):
        """Look at a galaxy, by its row in a sample that is shown."""
        sample = self.samples[name]
        if not 0 <= row < (n := sample.sizes["galaxy"]):
            raise IndexError(f"the sample {name!r} has galaxies 0 to {n - 1}, not {row}")
        self.set(selected=(sample.attrs["family"], int(sample["candidate"].values[row])))

    def choose(self, number):
        """Look at a galaxy of the samples that are shown, by its number."""
        families = [*self.selected[:1], *(self.samples[name].attrs["family"] for name in self.shown)]
        held = [f for f in families if any(self.locate(n, (f, number)) is not None for n in self.shown)]
        self.set(selected=((held or families)[0], number))

    def step(self, by):
        """Look at the next (1) or the previous (-1) galaxy in mass among those measured in the first sample."""
        panel, rows = self.panels[0], {name: self.locate(name) for name in self.shown}
        order = panel["row"].values[np.argsort(panel["mass"].values, kind="stable")]
        here = [self.samples[n]["log_mass"].values[row] for n, row in rows.items() if row is not None]
        here = here[0] if here else 0
        masses = self.samples[self.left]["log_mass"].values[order]
        if order.size:
            place = np.searchsorted(masses, here, "right") if by > 0 else np.searchsorted(masses, here) - 1
            self.select(self.left, int(order[place % order.size]))

    # ---- files

    def table(self):
        tables, kind = [], self.kind
        for panel in self.panels:
            name = panel.attrs["name"]
            sample, measured = self.samples[name], self.metallicity(name)
            table = pd.DataFrame({"sample": name, "candidate": sample["candidate"].values})
            for column in ("log_mass", "log_sfr", "spectral_class"):
                table[column] = sample[column].values if column in sample else np.nan
            table[[kind.column, f"{kind.column}_error", kind.sn_column]] = measured.to_numpy()
            table[f"true_{kind.column}"] = kind.truth(sample)
            table["measured"] = np.isin(np.arange(len(table)), panel["row"])
            tables.append(table)
        return pd.concat(tables)

    def about(self):
        dust = f", {'' if self.dust_corrected else 'not '}corrected for dust" * (self.quantity == "gas")
        cut = f"{self.kind.sn_label} above {self.min_sn:g}"
        return [f"{self.kind.axis} by {self.calibration}{dust}; measured: {cut}"]


# ---- the view


def count_image(x, y, window):
    """Logarithm of the number of points in each cell of a window, NaN for none."""
    counts = np.bincount(find_cells(x, y, window)[1], minlength=N_CELLS[0] * N_CELLS[1])
    with np.errstate(divide="ignore"):
        image = np.log10(counts, dtype=np.float32)
    return np.where(counts > 0, image, np.nan).reshape(N_CELLS[::-1])


def median_image(x, y, values, window):
    """The lower median of a quantity in each cell of a window; points come in the order of it, unknown ones last."""
    known = np.isfinite(values).sum()
    inside, cell = find_cells(x[:known], y[:known], window)
    # A stable sort by cell (of 16 bits: a radix sort) leaves each cell sorted.
    order = np.argsort(cell, kind="stable")
    counts = np.bincount(cell, minlength=N_CELLS[0] * N_CELLS[1])
    middle, filled = np.cumsum(counts) - counts + (counts - 1) // 2, counts > 0
    image = np.full(counts.size, np.nan, dtype=np.float32)
    image[filled] = values[inside[order[middle[filled]]]]
    return image.reshape(N_CELLS[::-1])


def fading(color):
    """Palette from nearly transparent to a colour, for counts."""
    return [f"{color}{alpha:02x}" for alpha in np.linspace(40, 230, 64).astype(int)]


def send(source, **columns):
    """Put columns into a source, only those that change if it keeps its length."""
    old = source.data
    if any(len(old[name]) != len(values) for name, values in columns.items()):
        source.data = columns
    elif new := {n: v for n, v in columns.items() if not np.array_equal(old[n], v, equal_nan=True)}:
        source.data.update(new)


class Layer:
    """One sample as it is drawn: points or an image, its running median, its histogram, a ring."""

    def __init__(self, side, plot, histogram, color=None):
        """Add the sample to two figures, in one colour if it shares them."""

        def make(name, *columns):
            return ColumnDataSource(dict.fromkeys(columns, EMPTY), name=f"{name}{side}")

        self.panel, self.color = None, color
        self.points, self.mark = make("points", "x", "y", "c"), make("mark", "x", "y")
        self.image = ColumnDataSource(NO_IMAGE, name=f"image{side}")
        self.median = make("median", "x", "q16", "median", "q84", "low", "high")
        self.bars = make("histogram", "left", "right", "all", "measured")
        self.mapper = LinearColorMapper(palette=PALETTE, nan_color="#B8B8B8")
        self.image_mapper = LinearColorMapper(palette=PALETTE, nan_color="#FFFFFF00")
        below = {"level": "underlay"}  # below the medians of both samples
        options = {"source": self.image, "color_mapper": self.image_mapper, **below}
        picture = plot.image("image", "x", "y", "dw", "dh", **options)
        fill = {"fill_color": color or {"field": "c", "transform": self.mapper}, **below}
        fill |= {"fill_alpha": 0.35 if color else 0.8, "line_color": None}
        self.dots = plot.scatter("x", "y", source=self.points, **fill)
        # A click is answered by the kernel; the page's own selection would fade all other points.
        self.dots.selection_glyph = self.dots.nonselection_glyph = None
        halo = plot.line("x", "median", source=self.median, color="white", line_width=5, alpha=0.9)
        ink = {"source": self.median, "color": color or "black"}
        strokes = [
            plot.segment("x", "q16", "x", "q84", line_width=1.2, **ink),
            plot.segment("x", "low", "x", "high", line_width=5, **ink),
            plot.line("x", "median", line_width=2, **ink),
            plot.scatter("x", "median", size=6, **ink),
        ]
        ring = {"source": self.mark, "fill_color": None, "size": 15}
        outer = plot.scatter("x", "y", line_color="white", line_width=5, **ring)
        ring = plot.scatter("x", "y", line_color="black", line_width=2.5, **ring)
        halo.tags, outer.tags, ring.tags = ["ground"], ["ground"], ["ink"]
        for stroke in strokes if color is None else ():
            stroke.tags = ["ink"]
        edges = {"left": "left", "right": "right", "bottom": 0, "source": self.bars, "line_color": color}
        if color:
            bars = [histogram.quad(top="measured", fill_color=None, line_width=2, **edges)]
        else:
            bars = [histogram.quad(top="all", fill_color=ALL_COLOR, fill_alpha=0.45, **edges)]
            bars += [histogram.quad(top="measured", fill_color=MEASURED_COLOR, fill_alpha=0.75, **edges)]
        self.glyphs = [picture, self.dots, halo, *strokes, outer, ring, *bars]

    def show(self, panel):
        """Draw another panel, all but the image: that depends on the window."""
        self.panel, as_image = panel, panel.sizes["galaxy"] > MAX_POINTS
        self.dots.glyph.size = 5 if panel.sizes["galaxy"] < 4000 else 3
        columns = {"x": "mass", "y": "metallicity", "c": "color"}
        send(self.points, **{k: EMPTY if as_image else panel[name].values for k, name in columns.items()})
        drawn = panel.isel(bin=np.isfinite(panel["median"].values))
        columns = {name: drawn[name].values for name in ("x", "q16", "median", "q84")}
        error = drawn["median_error"].values
        send(self.median, **columns, low=columns["median"] - error, high=columns["median"] + error)
        columns = {"left": "low", "right": "high", "all": "all", "measured": "count"}
        send(self.bars, **{key: panel[name].values for key, name in columns.items()})

    def show_image(self, window, limits, palette):
        """Draw the image of a window, of counts if it is in one colour, or none where points are drawn."""
        x, y, c = (self.panel[name].values for name in ("mass", "metallicity", "color"))
        _scale(self.mapper, palette, *limits)
        if x.size <= MAX_POINTS:
            send(self.image, **NO_IMAGE)
            return
        image = count_image(x, y, window) if self.color else median_image(x, y, c, window)
        if self.color:
            palette, limits = fading(self.color), (0, np.nanmax(image, initial=0.1))
        _scale(self.image_mapper, palette, *limits)
        left, right, bottom, top = window
        place = {"x": [left], "y": [bottom], "dw": [right - left], "dh": [top - bottom]}
        self.image.data = {"image": [image], **place}


def _scale(mapper, palette, low, high):
    if mapper.palette != palette:  # Bokeh checks a palette colour by colour, which takes a while
        mapper.palette = palette
    mapper.update(low=low, high=high)


def order_spectra(spectrum, shown=()):
    """Up to three sources of a spectrum, those of the shown samples first, from the noisiest to the smoothest."""
    names = [str(name) for name in spectrum["source"].values]
    names = list(dict.fromkeys([*(n for n in shown if n in names), *names]))[: len(SPECTRUM_COLORS)]
    flux = spectrum["flux"].transpose("source", "wavelength").sel(source=names).values
    return [names[i] for i in np.argsort(-np.nanmedian(np.abs(np.diff(flux)), axis=1))]


def fit_flux(flux, *, stars):
    """Range of flux: of the gas up to the highest line, of the stars about absorption of a few percent."""
    flux = np.array(flux)
    for row in flux if stars else flux[:-1]:  # spikes of noise, or of emission, may leave it
        row[:] = np.clip(row, *np.nanquantile(row, [0.02, 0.98]))
    low, high = float(np.nanmin(flux)), float(np.nanmax(flux))
    height = max(high - low, 0.01)
    bottom, top = flux_range(flux, headroom=0.3)
    return (low - 0.1 * height, high + 0.45 * height) if stars else (min(low, bottom), top)


class MzrView(DashboardView):
    """The mass-metallicity dashboard of a `MzrState`."""

    rows = (("calibration",), ("dust_corrected",), ("min_sn",), ("color",), ("reference",), ("relations",))
    figure_rows = (("quantity", "left", "right", "overlaid"), ("window", "selected"))
    hint = "Click a galaxy for its spectrum; drag a box to zoom, double-click to see all."
    opener = "open_mzr_dashboard()"

    def __init__(self, state, *, export_folder="exports"):
        self._axes = self._window = self._timer = self._drawn = self.correlations = None
        self._frame = {"inner_width": 250, "inner_height": 180}
        super().__init__(state, export_folder=export_folder)

    # ---- controls

    def make_control(self, name):
        if name != "selected":
            widget = super().make_control(name)
            if name in ("left", "right", "quantity"):
                widget.layout.flex = "0 0 auto" if name == "quantity" else "1 1 130px"
            if name == "relations":
                widget.make = partial(W.Checkbox, indent=False, description_allow_html=True)
            return widget
        about = {"description": "Galaxy", "tooltip": "number of the galaxy whose spectra are shown"}
        self.number = W.IntText(**about, continuous_update=False, layout=W.Layout(width="130px"))
        self.number.observe(lambda change: self._quiet or self.act(self.state.choose, change["new"]), "value")
        buttons = []
        for by, icon, word in ((-1, "chevron-left", "previous"), (1, "chevron-right", "next")):
            button = W.Button(icon=icon, tooltip=f"{word} galaxy in mass", layout=W.Layout(width="34px"))
            button.on_click(lambda _, by=by: self.act(self.state.step, by))
            buttons.append(button)
        self.previous, self.next = buttons
        return W.HBox([self.number, *buttons], layout=W.Layout(flex="0 0 auto"))

    def show_control(self, name, widget):
        state = self.state
        if name == "selected":
            self.number.value = state.selected[1] if state.selected else 0
            return
        super().show_control(name, widget)
        if name == "relations":
            for relation, tick in widget.ticks.items():
                color, _, dashes = STYLES[relation]
                short = relation.replace("et al. ", "")
                tick.description = f'<span style="color:{color}">{dashes}</span> {short}'
                tick.tooltip = relation
        elif name == "min_sn":
            widget.description = f"{state.kind.sn_label} above"
        elif name == "overlaid":
            widget.disabled = state.right == NONE
        elif name in ("quantity", "dust_corrected"):
            usable = len(widget.options) > 1 if name == "quantity" else state.quantity == "gas"
            widget.layout.display = None if usable else "none"

    # ---- figures

    def make_panels(self):
        self.x_range, self.y_range = Range1d(8, 12), Range1d(8, 9.2)
        sides = [self._make_side(0), self._make_side(1)]
        self.lines = {name: [self._draw_relation(plot, name) for plot, _ in sides] for name in RELATIONS}
        self.figures, self.histograms = zip(*sides, strict=True)
        self._beside = [Layer(side, *sides[side]) for side in (0, 1)]
        # With sources of their own: the page would place what it does not show, too.
        self._laid_over = [Layer(f"_over{k}", *sides[0], color) for k, color in enumerate(SAMPLE_COLORS)]
        return [list(self.figures), list(self.histograms), [self._make_spectrum()]]

    @property
    def layers(self):
        """Where the samples are drawn now."""
        return self._laid_over if self.state.shares_panel else self._beside

    def _make_side(self, side):
        options = {"x_range": self.x_range, "min_border_left": 62 if side == 0 else 46}
        tools = {"tools": "box_zoom,wheel_zoom,reset,save", "name": f"panel{side}", "title": " "}
        plot = figure(height=205, y_range=self.y_range, **tools, **options)
        # Without the key, a page that is scrolled would zoom what passes below the pointer.
        plot.select_one(WheelZoomTool).modifiers = {"ctrl": True}
        plot.xaxis.visible = False
        plot.grid.level = "image"  # the lowest: below the galaxies
        for extent in self._frame if side == 0 else ():  # as the page draws it
            plot.on_change(extent, lambda attr, old, new: self._frame.update({attr: new}))
        plot.on_event(Tap, lambda event: self.act(self.pick, side, event.x, event.y))
        plot.on_event(DoubleTap, lambda event: self.fit_axes())
        labels = {"x_axis_label": "log M* / M☉", "y_axis_label": None if side else "galaxies"}
        histogram = figure(height=90, tools="save", **labels, **options)
        histogram.yaxis.axis_label_text_font_size = "12px"
        histogram.yaxis.formatter = NumeralTickFormatter(format="0[.]0a")
        histogram.y_range.start, histogram.yaxis.ticker.desired_num_ticks = 0, 3
        alt(plot, "Metallicity of galaxies against mass.")
        alt(histogram, "How many galaxies have each mass, and are measured.")
        _watch([self.x_range, self.y_range] * (side == 0), self._zoomed)
        return plot, histogram

    def _draw_relation(self, plot, name):
        mass = np.linspace(7.5, 12.0, 181)
        color, dash, _ = STYLES[name]
        return plot.line(mass, RELATIONS[name](mass), line_width=2.4, color=color, line_dash=dash)

    def _make_spectrum(self):
        n, kind = len(SPECTRUM_COLORS), self.state.kind
        columns = ["wavelength", *(f"flux{i}" for i in range(n))]
        self.source = ColumnDataSource(dict.fromkeys(columns, EMPTY), name="spectrum")
        self.wavelengths, self.flux_range = Range1d(*kind.windows["All"]), Range1d(0, 1)
        axes = {"x_axis_label": WAVELENGTH_LABEL, "y_axis_label": "normalised flux", "min_border_left": 62}
        plot = figure(height=195, x_range=self.wavelengths, y_range=self.flux_range, tools=TOOLS, **axes)
        plot.select_one(WheelZoomTool).modifiers, plot.yaxis.ticker.desired_num_ticks = {"ctrl": True}, 4
        items = []
        for column, color in zip(columns[1:], SPECTRUM_COLORS, strict=True):
            line = plot.line("wavelength", column, source=self.source, color=color, line_width=1.4)
            items.append(LegendItem(label="", renderers=[line]))
        self.legend = Legend(items=items, orientation="horizontal", location="left")
        plot.add_layout(self.legend, "above")
        self.marks = LineMarks(plot, kind.windows["All"], 640, lines=kind.marks)
        # The page reports how large it drew the frame.
        plot.on_change("inner_width", lambda attr, old, new: self.marks.update(width=new))
        plot.on_change("inner_height", lambda attr, old, new: self.marks.update(height=new))
        _watch([self.wavelengths], self._zoomed_spectrum)
        return plot

    def draw(self, changed):
        state, changed = self.state, {*changed}
        for name, lines in self.lines.items():
            for line in lines:
                line.visible = name in state.relations
        if state.panels is not self._drawn or "overlaid" in changed:
            self._draw_panels()
        for layer, panel in zip(self.layers, state.panels, strict=False):
            here = panel["row"].values == state.locate(panel.attrs["name"])
            send(layer.mark, x=panel["mass"].values[here], y=panel["metallicity"].values[here])
        if changed & {"quantity", "window"}:
            self.marks.mark(state.kind.marks)
            start, end = state.kind.windows[state.window]
            self.wavelengths.update(start=start, end=end)
        if changed & {"work", "selected", "left", "right"}:
            self._show_spectrum()

    def _draw_panels(self):
        state = self.state
        for model in (self.figures[1], self.histograms[1]):
            model.visible = len(state.panels) == 2 and not state.shares_panel
        for layer in (*self._beside, *self._laid_over):
            for glyph in layer.glyphs:
                glyph.visible = layer in self.layers
        for layer, panel, plot in zip(self.layers, state.panels, self.figures, strict=False):
            layer.show(panel)
            plot.title.text = " and ".join(state.shown) if state.shares_panel else panel.attrs["name"]
        self.figures[0].yaxis.axis_label = f"{state.kind.axis}\n{state.calibration}"
        if (axes := (state.left, state.right, state.quantity, state.calibration)) != self._axes:
            self._axes = axes
            self.fit_axes()
        self._show_images()
        if state.panels is not self._drawn:
            self._drawn, self.correlations = state.panels, None
            self._correlate_later()

    def fit_axes(self):
        """Show all galaxies but the outermost ones."""
        state = self.state
        with state.lock, self.figure.batch() if self._drawn else state.lock:
            values = np.concatenate([panel["metallicity"].values for panel in state.panels])
            low, high = np.quantile(values, [0.004, 0.996]) if values.size > 2 else state.kind.range
            space, bins = 0.12 * max(high - low, 0.1), state.panels[0]
            ends = (bins["low"].values[0], bins["high"].values[-1]), (low - space, high + space)
            for axis, (start, end) in zip((self.x_range, self.y_range), ends, strict=True):
                axis.update(start=start, end=end, reset_start=start, reset_end=end)

    def _zoomed(self, attr, old, new):
        with self.state.lock, self.figure.batch():
            if self._window not in (None, self._find_window()):
                self._show_images()

    def _find_window(self):
        return self.x_range.start, self.x_range.end, self.y_range.start, self.y_range.end

    def _show_images(self):
        state, self._window = self.state, self._find_window()
        palette, limits = PALETTE, state.color_range
        if state.color == "class":
            palette, limits = CLASS_PALETTE, (-0.5, len(CLASS_PALETTE) - 0.5)
        for layer, _ in zip(self.layers, state.panels, strict=False):
            layer.show_image(self._window, limits, palette)

    # ---- what comes late

    def _correlate_later(self):
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(SETTLE_SECONDS, self.show_correlations)
        self._timer.daemon = True
        self._timer.start()

    def show_correlations(self):
        """Compute the correlations of what is shown, and print them unless it has changed meanwhile."""
        panels, correlations = self.state.panels, self.state.correlate()
        with self.state.lock:
            if panels is self.state.panels:
                self.correlations = correlations
                for panel, plot, histogram in zip(panels, self.figures, self.histograms, strict=False):
                    text = f"{panel.sizes['galaxy']} of {panel.attrs['n_galaxies']} galaxies"
                    text += f" of {panel.attrs['name']}"
                    alt(plot, f"Metallicity of {text} against mass, with the running median.")
                    alt(histogram, f"How many galaxies have each mass, and are measured: {text}.")
                self.show(("correlations",))

    # ---- a galaxy

    def pick(self, side, x, y):
        """Look at the galaxy nearest to a place in a panel, if it is near."""
        state, near = self.state, []
        across = self._frame["inner_width"] / (self.x_range.end - self.x_range.start)
        up = self._frame["inner_height"] / (self.y_range.end - self.y_range.start)
        for panel in state.panels if state.shares_panel else state.panels[side : side + 1]:
            distance = np.hypot((panel["mass"].values - x) * across, (panel["metallicity"].values - y) * up)
            if distance.min(initial=np.inf) < TAP_PIXELS:
                nearest = distance.argmin()
                near.append((distance[nearest], panel.attrs["name"], int(panel["row"][nearest])))
        if near:
            state.select(*min(near)[1:])

    def _show_spectrum(self):
        state, spectrum = self.state, self.state.spectrum
        names, size = [], 0
        if spectrum is not None:
            names = order_spectra(spectrum, [state.samples[n].attrs.get("spectrum", n) for n in state.shown])
            size = spectrum.sizes["wavelength"]
        waiting = "rebuilding the spectra …" if state.busy else "this sample keeps no spectra"
        data = {column: np.full(size, np.nan, dtype=np.float32) for column in self.source.data}
        for i, item in enumerate(self.legend.items):
            place = i - len(self.legend.items) + len(names)  # the smoothest has the last colour
            item.visible = place >= 0 or (i == 0 and not names)
            item.label = {"value": names[place] if place >= 0 and names else waiting}
            if names and place >= 0:
                data[f"flux{i}"] = spectrum["flux"].sel(source=names[place]).values.astype(np.float32)
        if names:
            data["wavelength"] = spectrum["wavelength"].values.astype(np.float32)
        self.source.data = data
        self._fit_spectrum()
        text = ", ".join(names) or waiting
        alt(self.panels[2][0], f"Spectra of galaxy {' '.join(map(str, state.selected[1:]))}: {text}.")

    def _zoomed_spectrum(self, attr, old, new):
        with self.state.lock, self.figure.batch():
            self.marks.update((self.wavelengths.start, self.wavelengths.end))
            self._fit_spectrum()

    def _fit_spectrum(self):
        data = self.source.data
        shown = (data["wavelength"] >= self.wavelengths.start) & (data["wavelength"] <= self.wavelengths.end)
        flux = [values[shown] for column, values in data.items() if column != "wavelength"]
        if flux := [row for row in flux if np.isfinite(row).any()]:
            low, high = fit_flux(flux, stars=self.state.quantity == "stars")
            self.flux_range.update(start=low, end=high)

    # ---- words

    def describe(self):
        state = self.state
        if state.shares_panel:
            parts = [swatch(color, n, "●") for color, n in zip(SAMPLE_COLORS, state.shown, strict=True)]
        elif state.color == "class":
            present = np.unique(np.concatenate([p["color"].values for p in state.panels]))
            parts = [swatch(CLASS_PALETTE[int(i)], CLASSES[int(i)], "●") for i in present if np.isfinite(i)]
        else:
            stops = ", ".join(PALETTE[:: len(PALETTE) // 8])
            style = f"display:inline-block; width:90px; height:9px; background:linear-gradient(90deg,{stops})"
            low, high = map(number, state.color_range)
            parts = [f'<b>{state.kind.colors[state.color][0]}</b> {low} <span style="{style}"></span> {high}']
        if not state.shares_panel:
            parts += [swatch(ALL_COLOR, "all galaxies"), swatch(MEASURED_COLOR, "measured")]
        empty = [panel.attrs["name"] for panel in state.panels if not panel.sizes["galaxy"]]
        return " &nbsp; ".join(parts), f"nothing is measured in {', '.join(empty)}" if empty else ""

    def make_tables(self):
        """How many galaxies are measured, scatter and trend, by sample; then what is known of the selected galaxy."""
        state, (trends, both) = self.state, self.correlations or ((), None)
        table = {}
        for side, panel in enumerate(state.panels):
            about, n, scatter = panel.attrs, panel.sizes["galaxy"], state.scatter(panel)
            errors = panel["error"].values[np.isfinite(panel["error"].values)]
            trend = with_error(trends[side].rho, trends[side].error, "+.2f") if trends else "…"
            table[about["name"] + " " * (side and state.left == state.right)] = {
                "galaxies": f"{about['n_galaxies']:,}",
                "S/N too low": f"{about['n_faint']:,}",
                state.kind.unmeasured: f"{about['n_galaxies'] - about['n_faint'] - n:,}",
                "measured": f"{n:,}",
                "scatter (dex)": with_error(scatter["std"], scatter["std_error"], ".3f"),
                "offset (dex)": number(scatter["offset"], "+.3f"),
                "median error (dex)": number(np.median(errors) if errors.size else np.nan, ".3f"),
                "SFR trend, ρ": trend,
            }
        table = pd.DataFrame(table)
        if both is not None:
            table.loc["agreement, ρ"] = f"{both.n:,} in both", with_error(both.rho, both.error, "+.2f")
        yield table.rename_axis("sample").reset_index()
        if state.selected:
            key = ("galaxy", *state.selected, *state.shown, state.dust_corrected)
            yield from state.once(key, lambda: list(self._describe_galaxy()))

    def _describe_galaxy(self):
        """Lines, if the gas is looked at, and metallicities on every scale, in the samples that are shown."""
        state, kind = self.state, self.state.kind
        rows = {name: row for name in state.shown if (row := state.locate(name)) is not None}
        galaxies = {name: state.lines(name).isel(galaxy=[row]) for name, row in rows.items()}
        first = next(iter(galaxies.values()))
        words = {"log_mass": ("log M*", ".2f"), "log_sfr": ("log SFR", ".2f"), "redshift": ("z", ".3f")}
        about = [f"{word} {number(first[c].item(), form)}" for c, (word, form) in words.items() if c in first]
        about += [str(first["spectral_class"].item())] if "spectral_class" in first else []
        yield f"<p>{html.escape(f'galaxy {state.selected[1]}: ' + ', '.join(about))}</p>"
        if state.quantity == "gas" and "line_flux" in first:
            units = first["line_flux"].attrs.get("units", "").replace("Angstrom", "Å")
            lines = {name: [describe_line(g, line) for line in GALAXY_LINES] for name, g in galaxies.items()}
            yield pd.DataFrame({f"line flux ({units})": GALAXY_LINES, **lines})
        table = {kind.axis: [*kind.scales, kind.sn_label]}
        for name, galaxy in galaxies.items():
            measured = [kind.measure(galaxy, scale).iloc[0] for scale in kind.scales]
            table[name] = [with_error(m["value"], m["error"]) for m in measured]
            table[name].append(number(measured[0]["sn"], ".1f"))
        yield pd.DataFrame(table)


def _watch(ranges, update):
    for axis in ranges:
        axis.on_change("start", update)
        axis.on_change("end", update)


def number(value, form=".2f"):
    """Format a number; a dash where it is unknown."""
    return f"{value:{form}}".replace("-", "−") if np.isfinite(value) else "–"


def with_error(value, error, form=".2f"):
    """A number with its error, as far as both are known; a third digit where two say that the error is 0."""
    if not (np.isfinite(value) and np.isfinite(error) and error > 0):
        return number(value, form)
    form = form.replace(".2f", ".3f") if error < 0.005 else form
    return f"{number(value, form)} ± {number(error, form.lstrip('+'))}"


def describe_line(sample, line):
    """Flux and error of a line of a galaxy."""
    if "line" not in sample.coords or line not in sample["line"].values:
        return "–"
    flux, error = (sample[name].sel(line=line).item() for name in ("line_flux", "line_flux_error"))
    return f"{number(flux, '.3g')} ± {number(error, '.2g')}"


def swatch(color, name, sign="■"):
    """A coloured sign and what it stands for."""
    return f'<span style="color:{color}">{sign}</span> {html.escape(name)}'


def open_mzr_dashboard(samples=None, *, rebuild=None, more=None):
    """Open the mass-metallicity dashboard.

    Parameters
    ----------
    samples : sequence of str, optional
        Keys of what papers offer; by default all. Those whose file is not there are left out, and named.
    rebuild : dict of str to callable, optional
        How to rebuild spectra, by key; by default as the papers do. See `MzrState`.
    more : dict of str to xarray.Dataset, optional
        Samples of your own beside them, by name; see `spectool.explore.mzr_quantities.check_sample`.

    Returns
    -------
    MzrView

    Raises
    ------
    KeyError
        If no paper offers a sample.
    FileNotFoundError
        If no file is there.
    """
    offered = {key: pair for part in find_parts("mzr").values() for key, pair in part.SAMPLES.items()}
    read, missing = {}, []
    for key in offered if samples is None else samples:
        if key not in offered:
            raise KeyError(f"there are no samples {key!r}; there are: {', '.join(offered)}")
        try:
            tables = offered[key][0]()
        except FileNotFoundError as error:
            missing.append(str(error))
            continue
        for name, table in tables.items():
            read[f"{key}: {name}" if name in read else name] = table.assign_attrs(family=key)
    read |= more or {}
    if missing and not read:
        raise FileNotFoundError("; ".join(missing))
    rebuild = {key: pair[1] for key, pair in offered.items()} if rebuild is None else rebuild
    view = MzrView(MzrState(read, rebuild=rebuild))
    view.opener = f"open_mzr_dashboard({'' if samples is None else list(samples)})"
    if missing:
        view.tell(html.escape("; ".join(missing)))
    return view
