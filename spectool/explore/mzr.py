"""The mass-metallicity dashboard: two samples of galaxies side by side, whose metals were measured in several ways."""

import html
import threading
from functools import lru_cache, partial
from types import SimpleNamespace

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
from spectool.explore.spectrum import TOOLS, WAVELENGTH_LABEL, LineMarks, flux_range
from spectool.explore.style import CYCLE, MAP_PALETTE, OBSERVED, OKABE_ITO
from spectool.explore.view import DashboardView, alt, limits, set_range
from spectool.measure import mzr
from spectool.measure.classes import CLASSES
from spectool.measure.indices import stellar_marks
from spectool.measure.metallicity import CALIBRATIONS, deredden_lines
from spectool.papers import find_parts
from spectool.spectra import LINES, OXYGEN_SUN, Z_SUN

NONE, TRUTH, PREDICTED = "none", "truth of the mocks", "network's prediction"
# What each quantity has of its own; it comes back when the quantity does.
OWN = ("left", "right", "calibration", "color", "min_sn", "reference", "relations", "window", "selected")
# What changes the figure, and nothing of what is measured.
LOOKS = {"overlaid", "reference", "relations", "window", "selected", "work", "correlations"}
MIN_IN_BIN = 10  # galaxies, for a median with an error worth drawing
MAX_POINTS = 20_000  # galaxies, above which an image is drawn
N_CELLS = (110, 80)  # of an image
SETTLE_SECONDS = 0.25
TAP_PIXELS = 14

PALETTE = list(MAP_PALETTE[:236])  # on white the light end of the map would vanish
CLASS_PALETTE = [CYCLE[i] for i in (0, 1, 3, 4, 2)]
STOPS = ", ".join(PALETTE[:: len(PALETTE) // 8])
GRADIENT = f"display:inline-block; width:90px; height:9px; background:linear-gradient(90deg,{STOPS})"
GRADIENT = f' <span style="{GRADIENT}"></span> '
COUNT_ALPHAS = [f"{alpha:02x}" for alpha in np.linspace(40, 230, 64).astype(int)]
SAMPLE_COLORS = (OKABE_ITO["blue"], OKABE_ITO["vermillion"])
ALL_COLOR, MEASURED_COLOR = OKABE_ITO["orange"], OKABE_ITO["blue"]
# Colours that neither the median nor a sample laid over another has.
RELATION_LINES = (
    (OKABE_ITO["reddish_purple"], "solid", "━━"),
    (OKABE_ITO["bluish_green"], "dashed", "╍╍"),
    (OKABE_ITO["orange"], "dotted", "┅┅"),
    (OKABE_ITO["sky_blue"], "dashdot", "━╍"),
    (OBSERVED, "dotdash", "╍┅"),
)
STYLES = dict(zip(mzr.RELATIONS, RELATION_LINES, strict=True))
STYLES |= dict(zip(mzr.STELLAR_RELATIONS, RELATION_LINES, strict=False))
# Behind to before: noise must not cover what it hides.
SPECTRUM_COLORS = (OKABE_ITO["sky_blue"], OBSERVED, OKABE_ITO["blue"])
GALAXY_LINES = ("Hα", "Hβ", "[O III] 5007", "[N II] 6583", "[S II] 6716", "[S II] 6731")

# What a sample may say of each galaxy, and what stands for it where it does not.
COLUMNS = dict.fromkeys(("oxygen_error", "log_sfr", "log_z_gas", "redshift"), np.nan)
COLUMNS |= dict.fromkeys(("log_z_error", "log_z_lw", "log_age_lw"), np.nan)
COLUMNS |= {"sn": np.inf, "h_alpha_sn": np.inf, "outlier": 0, "spectral_class": ""}

# ---- what can stand on the axis


def measure_gas(sample, scale):
    """12 + log(O/H) on a scale, its error, and the S/N of Hα."""
    lines = sample["line"].values if "line_flux" in sample else ()
    value = error = np.nan
    if scale == TRUTH:
        true = sample["log_z_gas"]
        value = true.values + float(true.attrs.get("oxygen_sun", OXYGEN_SUN))
    elif "oxygen" in sample:
        value, error = sample["oxygen"].values, sample["oxygen_error"].values
    elif {*CALIBRATIONS[scale].lines} <= {*lines}:
        *both, valid = CALIBRATIONS[scale](sample)
        value, error = np.where(valid, both, np.nan)
    return pd.DataFrame({"value": value, "error": error, "sn": sample["h_alpha_sn"].values})


def measure_stars(sample, scale):
    """Stellar log Z/Zsun (none where the network flags the spectrum, or the truth by light), its error, and the S/N."""
    value, error = sample["log_z_lw"], np.nan
    if scale != TRUTH:
        good = sample["outlier"] == 0
        value, error = sample["log_z_predicted"].where(good), sample["log_z_error"].where(good).values
    # Counted from our sun, whatever the sample counts from.
    value = value.values + np.log10(float(value.attrs.get("z_sun", Z_SUN)) / Z_SUN)
    return pd.DataFrame({"value": value, "error": error, "sn": sample["sn"].values})


# Key -> what the legend calls it, and its column in a table of `MzrState`.
COLORS = {
    "log SFR": ("log SFR (M☉ yr⁻¹)", "log_sfr"),
    "excess": ("SFR at fixed mass (dex)", ""),
    "error": ("error of the metallicity (dex)", "error"),
    "truth": ("true metallicity of the mock", "truth"),
    "number": ("galaxies around it (log)", ""),
    "class": ("class", ""),
    "S/N": ("S/N per Å", "sn"),
    "age": ("true log age of the mock (Gyr)", "log_age_lw"),
}
COMMON_COLORS = ("log SFR", "excess", "error", "truth", "number")

QUANTITIES = {
    "gas": SimpleNamespace(
        axis="12 + log(O/H)",
        column="oxygen",
        needs=("line_flux", "oxygen"),
        measure=measure_gas,
        scales=(*CALIBRATIONS, TRUTH),
        relations=mzr.RELATIONS,
        sn_label="Hα S/N",
        unmeasured="no value on the scale",
        min_sn=15.0,
        colors=(*COMMON_COLORS, "class"),
        windows={
            "All": (3700.0, 7900.0),
            "[O II]": (3690.0, 3800.0),
            "Hβ, [O III]": (4800.0, 5060.0),
            "Hα, [N II]": (6480.0, 6660.0),
            "[S II]": (6660.0, 6800.0),
        },
        marks={name: x for name, x in LINES.items() if 3700 < x < 7900},
    ),
    "stars": SimpleNamespace(
        axis="log Z* / Z☉",
        column="log_z_star",
        needs=("log_z_predicted",),
        measure=measure_stars,
        scales=(PREDICTED, TRUTH),
        relations=mzr.STELLAR_RELATIONS,
        sn_label="S/N per Å",
        unmeasured="flagged",
        min_sn=0.0,
        colors=(*COMMON_COLORS, "S/N", "age"),
        windows={
            "All": (3950.0, 7350.0),
            "Ca, G band": (4200.0, 4420.0),
            "Fe, C₂": (4500.0, 4760.0),
            "Mg b, Fe": (5100.0, 5460.0),
            "Na D, TiO": (5830.0, 6010.0),
        },
        marks=stellar_marks(),
    ),
}
"""Metals that can stand on the axis; others need an entry here, and samples that have a column that it ``needs``."""


def check_sample(name, sample):
    """Return a sample with what the dashboard needs; ValueError says what it lacks.

    Parameters
    ----------
    name : str
        For messages.
    sample : xarray.Dataset
        Per ``galaxy`` ``log_mass`` [dex(Msun)] and either ``line_flux`` and ``line_flux_error`` (galaxy, line), Hα
        among them, or metallicities: ``oxygen`` of the gas, ``log_z_predicted`` of the stars. `COLUMNS` are used if
        they are there, and ``candidate``, which tells galaxies of the same ``attrs["family"]`` from each other.
    """
    dims = dict.fromkeys(("log_mass", "candidate", "oxygen", "log_z_predicted", *COLUMNS), ("galaxy",))
    needed = ["log_mass"]
    if "line_flux" in sample or not {"oxygen", "log_z_predicted"} & {*sample}:
        needed += ["line_flux", "line_flux_error"]
        dims |= dict.fromkeys(needed[1:], ("galaxy", "line"))
    if lacking := [c for c in needed if c not in sample]:
        hint = " (nor metallicities, 'oxygen' or 'log_z_predicted')" * (lacking[0] == "line_flux")
        raise ValueError(f"the sample {name!r} has no column {lacking[0]!r}{hint}")
    if odd := [c for c in dims if c in sample and {*sample[c].dims} != {*dims[c]}]:
        raise ValueError(f"{odd[0]!r} of the sample {name!r} is {sample[odd[0]].dims}, not {dims[odd[0]]}")
    if not (n := sample.sizes["galaxy"]):
        raise ValueError(f"the sample {name!r} holds no galaxy")
    more = {c: np.broadcast_to(value, n) for c, value in COLUMNS.items()} | {"candidate": np.arange(n)}
    if "line_flux" in sample:
        sample = sample.transpose("galaxy", "line", ...)
        if "Hα" not in sample["line"].values:
            raise ValueError(f"the line table of the sample {name!r} has no line 'Hα'")
        line = sample.sel(line="Hα")
        more["h_alpha_sn"] = (line["line_flux"] / line["line_flux_error"]).values
    more = {c: ("galaxy", values) for c, values in more.items() if c not in sample}
    return sample.assign(more).assign_attrs(family=sample.attrs.get("family", name))


def find_cells(x, y, window, n=N_CELLS):
    """Sort points into the cells of a window: which are inside, and the cell of each of these."""
    left, right, bottom, top = window
    i = np.floor((x - left) * (n[0] / max(right - left, 1e-9)))
    j = np.floor((y - bottom) * (n[1] / max(top - bottom, 1e-9)))
    inside = np.flatnonzero((i >= 0) & (i < n[0]) & (j >= 0) & (j < n[1]))
    return inside, (j[inside] * n[0] + i[inside]).astype(np.uint16)


def paint_cells(x, y, window, values=None):
    """Image (row, column) of a window: the lower median of the values in each cell, or the log of their number."""
    inside, cell = find_cells(x, y, window)
    groups = pd.Series(values[inside] if values is not None else 1.0, range(inside.size)).groupby(cell)
    # The lower one, as the mean of two classes would be a third.
    cells = np.log10(groups.size()) if values is None else groups.quantile(0.5, interpolation="lower")
    image = np.full(N_CELLS[0] * N_CELLS[1], np.nan, dtype=np.float32)
    image[cells.index] = cells
    return image.reshape(N_CELLS[::-1])


def color_galaxies(color, sample, table):
    """What colours each galaxy of a sample, of which there is a table."""
    if color == "excess":
        values = mzr.residuals(table["log_mass"], table["log_sfr"])
    elif color == "class":
        codes = pd.Index(CLASSES).get_indexer(sample["spectral_class"].values)
        values = np.where(codes < 0, np.nan, codes)
    elif color == "number":
        x, y = table["log_mass"].to_numpy(float), table["value"].to_numpy(float)
        window = (*table["log_mass"].quantile([0, 1]), *table["value"].quantile([0.01, 0.99]))
        inside, cell = find_cells(x, y, window, N_CELLS if x.size > MAX_POINTS else (40, 30))
        values = np.full(x.size, np.nan)
        values[inside] = np.log10(np.bincount(cell)[cell])
    else:
        values = table[COLORS[color][1]].to_numpy()
    return np.where(np.isfinite(values), values, np.nan).astype(np.float32)


def cut(table, min_sn):
    """The galaxies that count as measured."""
    return table[(table["sn"] > min_sn) & table["value"].notna()]


class MzrState(Dashboard):
    """Which galaxies are compared on which scale, and everything that follows from it.

    Parameters
    ----------
    samples : dict of str to xarray.Dataset
        By name; see `check_sample`.
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
        self.rebuild, self.spectrum, self._left_behind = dict(rebuild or {}), None, {}
        self._measure = lru_cache(maxsize=4)(self._tabulate)
        first = self.first_state()
        self.set_trait("quantity", first["quantity"])  # what others may be depends on it
        self._change(first)

    def add_sample(self, name, sample):
        """Add a sample, or replace one; see `check_sample`."""
        with self.lock:
            self.samples[name] = check_sample(name, sample)
            self._measure.cache_clear()
            self.derive(("samples",))
            self._announce(("samples",))

    # ---- choices

    @property
    def kind(self):
        """What is known of the quantity on the axis."""
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
        return [n for n, sample in self.samples.items() if any(c in sample for c in QUANTITIES[key].needs)]

    def choices(self, name):
        if name == "quantity":
            return [(key.capitalize(), key) for key in QUANTITIES if self._names(key)]
        if name in ("left", "right"):
            return [NONE] * (name == "right") + self._names(self.quantity)
        kind = self.kind
        if name == "color":
            return [(COLORS[key][0], key) for key in kind.colors]
        return list({"calibration": kind.scales, "window": kind.windows}.get(name, kind.relations))

    def _first(self, key):
        """What a quantity is first looked at with: two samples, and an ordinary galaxy."""
        kind, names = QUANTITIES[key], self._names(key)
        reference = next(iter(kind.relations))
        first = {"left": names[0], "right": [*names, NONE][1], "calibration": kind.scales[0]}
        first |= {"color": kind.colors[0], "min_sn": kind.min_sn, "reference": reference, "window": "All"}
        return first | {"relations": [reference], "selected": [*self.find_ordinary(names[0], key)]}

    def first_state(self):
        key = next(key for key in QUANTITIES if self._names(key))
        return {"quantity": key, "overlaid": False, "dust_corrected": False, **self._first(key)}

    def reset(self):
        """Go back to what the dashboard opens with, in all quantities."""
        super().reset()
        self._left_behind.clear()

    def complete(self, changes):
        key, offered = changes.get("quantity") or self.quantity, [key for _, key in self.choices("quantity")]
        if not np.isfinite(changes.get("min_sn", 0.0)):
            raise ValueError(f"min_sn cannot be {changes['min_sn']}")
        if key not in offered:
            return changes
        names = [n for n in (changes.get("left"), changes.get("right")) if n in self.samples]
        lacking = [n for n in names if n not in self._names(key)]
        if lacking and "quantity" not in changes:  # a sample brings the quantity that it has
            key = next(k for k in offered if lacking[0] in self._names(k))
        asked = changes.get("selected")
        if key != self.quantity:
            self._left_behind[self.quantity] = {name: getattr(self, name) for name in OWN}
            changes = {"quantity": key} | (self._left_behind.get(key) or self._first(key)) | changes
        selected = tuple(changes.get("selected", self.selected))
        shown = [changes.get(side, getattr(self, side)) for side in ("left", "right")]
        shown = [name for name in shown if name in self._names(key)]
        if shown and all(self.locate(name, selected) is None for name in shown):
            if asked:
                galaxy = f"{selected[1]} of {selected[0]!r}"
                raise ValueError(f"there is no galaxy {galaxy} in {' or '.join(shown)}")
            selected = self.find_ordinary(shown[0], key)
        return changes | {"selected": selected}

    # ---- what follows

    def derive(self, changed):
        new = {*changed} - LOOKS
        if new - {"min_sn"}:
            choices = self.quantity, self.calibration, self.dust_corrected, self.color
            self.tables = [self._measure(name, *choices) for name in self.shown]
            masses = [table["log_mass"] for table in self.tables]
            self.edges = mzr.mass_bins(np.concatenate(masses))
            self.n_all = [np.histogram(mass, self.edges)[0] for mass in masses]
            # Errors of galaxies that nobody asked to see would leave the others one colour.
            seen = [cut(table, self.kind.min_sn)["color"] for table in self.tables]
            self.color_range = limits(np.concatenate(seen), low=2, high=98, margin=1e-3)
        if new:
            self.panels = [cut(table, self.min_sn) for table in self.tables]
            values = [(panel["log_mass"], panel["value"]) for panel in self.panels]
            self.bins = [mzr.running_median(*v, bins=self.edges, min_count=MIN_IN_BIN) for v in values]
        if "selected" in changed:
            self.spectrum = None
            make = self.rebuild.get(self.selected[0]) if self.selected else None
            if make:
                self.work(partial(make, self.selected[1]), partial(setattr, self, "spectrum"))
            else:
                self.drop_work()

    def lines(self, name, dust_corrected, galaxies=slice(None)):
        """Galaxies of a sample as their metals are measured: with lines without dust, if that is chosen."""
        sample = self.samples[name].isel(galaxy=galaxies)
        dusty = "line_flux" in sample and not sample.attrs.get("dust_corrected")
        return deredden_lines(sample) if dusty and dust_corrected else sample

    def _tabulate(self, name, quantity, calibration, dust_corrected, color):
        """What is known of each galaxy of a sample: metals with ``error``, ``sn``, ``truth``, and what colours it."""
        sample, measure = self.lines(name, dust_corrected), QUANTITIES[quantity].measure
        table = measure(sample, calibration).assign(truth=measure(sample, TRUTH)["value"])
        for c in ("candidate", "log_mass", "log_sfr", "log_age_lw"):
            table[c] = sample[c].values
        table["value"] = table["value"].where(np.isfinite(table["value"] + table["log_mass"]))
        return table.assign(color=color_galaxies(color, sample, table))

    def correlate(self):
        """Correlate at fixed mass: metallicity with star formation in each panel, and the panels with each other.

        Returns
        -------
        list of Correlation
            For each panel.
        Correlation or None
            Of the metallicities of galaxies that both panels hold; None if they hold others, or the same sample.
        """
        panels = self.panels
        options = {"bins": self.edges, "min_count": MIN_IN_BIN, "n_bootstrap": 0}
        columns = ([panel[c] for c in ("log_mass", "value", "log_sfr")] for panel in panels)
        trends = [mzr.spearman_at_fixed_mass(*some, **options) for some in columns]
        families = {self.samples[name].attrs["family"] for name in self.shown}
        if self.left == self.right or len(families) == len(panels):
            return trends, None
        both = panels[0].merge(panels[1], on="candidate")
        return trends, mzr.spearman_at_fixed_mass(
            both["log_mass_x"], both["value_x"], both["value_y"], **options
        )

    # ---- a galaxy

    def locate(self, name, selected=None):
        """Row of the selected galaxy in a sample, or None; another, (family, number), may be asked for."""
        family, number = selected or self.selected or (None, None)
        sample = self.samples[name]
        rows = np.flatnonzero(sample["candidate"].values == number)
        return int(rows[0]) if rows.size and sample.attrs["family"] == family else None

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
        self.set(selected=(sample.attrs["family"], int(sample["candidate"].values[row])))

    def choose(self, number):
        """Look at a galaxy of the samples that are shown, by its number."""
        families = [*self.selected[:1], *(self.samples[name].attrs["family"] for name in self.shown)]
        held = [f for f in families if any(self.locate(n, (f, number)) is not None for n in self.shown)]
        self.set(selected=((held or families)[0], number))

    def step(self, by):
        """Look at the next (1) or the previous (-1) galaxy in mass among those measured in the first sample."""
        order, row = self.panels[0]["log_mass"].sort_values(kind="stable"), self.locate(self.left)
        here = -np.inf if row is None else self.tables[0]["log_mass"][row]
        if order.size:
            place = order.searchsorted(here, "right" if by > 0 else "left") - (by < 0)
            self.select(self.left, int(order.index[place % order.size]))

    # ---- files

    def table(self):
        tables, name = [], self.kind.column
        for shown, table, panel in zip(self.shown, self.tables, self.panels, strict=True):
            classes, measured = self.samples[shown]["spectral_class"], table.index.isin(panel.index)
            tables.append(table.assign(sample=shown, spectral_class=classes, measured=measured))
        columns = ["sample", "candidate", "log_mass", "log_sfr", "spectral_class"]
        columns += ["value", "error", "sn", "truth", "measured"]
        names = {"value": name, "error": f"{name}_error", "truth": f"true_{name}"}
        return pd.concat(tables)[columns].rename(columns=names)

    def about(self):
        dust = f", {'' if self.dust_corrected else 'not '}corrected for dust" * (self.quantity == "gas")
        cut = f"{self.kind.sn_label} above {self.min_sn:g}"
        return [f"{self.kind.axis} by {self.calibration}{dust}; measured: {cut}"]


# ---- the view


class Layer:
    """One sample in two figures, in one colour if it shares them: points or an image, medians, a histogram, a ring."""

    def __init__(self, side, plot, histogram, color=None):
        columns = {"points": "x y c", "image": "image x y dw dh", "median": "x q16 median q84 low high"}
        columns |= {"histogram": "left right all measured", "mark": "x y"}
        self.points, self.image, self.median, self.bars, self.mark = (
            ColumnDataSource({key: [] for key in names.split()}, name=f"{source}{side}")
            for source, names in columns.items()
        )
        self.color = color
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
        for glyph in (halo, outer, ring, *strokes):
            glyph.tags = ["ground"] if glyph in (halo, outer) else ["ink"] * (glyph is ring or not color)
        edges = {"left": "left", "right": "right", "bottom": 0, "source": self.bars, "line_color": color}
        if color:
            bars = [histogram.quad(top="measured", fill_color=None, line_width=2, **edges)]
        else:
            bars = [histogram.quad(top="all", fill_color=ALL_COLOR, fill_alpha=0.45, **edges)]
            bars += [histogram.quad(top="measured", fill_color=MEASURED_COLOR, fill_alpha=0.75, **edges)]
        self.glyphs = [picture, self.dots, halo, *strokes, outer, ring, *bars]

    def show(self, panel, bins, n_all):
        """Draw other galaxies, their running median, and how many galaxies there are of each mass."""
        columns = {"x": "log_mass", "y": "value", "c": "color"}
        self.data = {key: panel[name].to_numpy(np.float32) for key, name in columns.items()}
        self.as_image = len(panel) > MAX_POINTS
        self.points.data = {key: [] for key in "xyc"} if self.as_image else self.data
        self.dots.glyph.size = 5 if len(panel) < 4000 else 3
        enough = np.isfinite(bins["median"].values)
        names = ("x", "q16", "median", "q84", "median_error")
        x, q16, median, q84, error = (bins[name].values[enough] for name in names)
        columns = {"x": x, "q16": q16, "median": median, "q84": q84}
        self.median.data = columns | {"low": median - error, "high": median + error}
        edges = {"left": bins["low"].values, "right": bins["high"].values}
        self.bars.data = edges | {"all": n_all, "measured": bins["count"].values}

    def paint(self, window, limits, palette):
        """Draw the image of a window, of counts if it is in one colour, or none where points are drawn."""
        _scale(self.mapper, palette, *limits)
        images = []
        if self.as_image:
            x, y, c = self.data.values()
            images = [paint_cells(x, y, window, None if self.color else c)]
            if self.color:
                palette = [self.color + alpha for alpha in COUNT_ALPHAS]
                limits = 0, np.nanmax(images, initial=0.1)
            _scale(self.image_mapper, palette, *limits)
        left, right, bottom, top = window
        place = {"x": left, "y": bottom, "dw": right - left, "dh": top - bottom}
        self.image.data = {"image": images} | {key: [value] * len(images) for key, value in place.items()}


def _scale(mapper, palette, low, high):
    if mapper.palette != palette:  # Bokeh checks a palette colour by colour, which takes a while
        mapper.palette = palette
    mapper.update(low=low, high=high)


def order_spectra(spectrum, shown):
    """Up to three sources of a spectrum, those of the shown samples first, from the noisiest to the smoothest."""
    names = spectrum["source"].values.astype(str).tolist()
    names = list(dict.fromkeys([*(n for n in shown if n in names), *names]))[: len(SPECTRUM_COLORS)]
    flux = spectrum["flux"].transpose("source", "wavelength").sel(source=names).values
    return [names[i] for i in np.argsort(-np.nanmedian(np.abs(np.diff(flux)), axis=1))]


class MzrView(DashboardView):
    """The mass-metallicity dashboard of a `MzrState`."""

    rows = (("calibration",), ("dust_corrected",), ("min_sn",), ("color",), ("reference",), ("relations",))
    figure_rows = (("quantity", "left", "right", "overlaid"), ("window", "selected"))
    hint = "Click a galaxy for its spectrum; drag a box to zoom, double-click to see all."
    opener = "open_mzr_dashboard()"

    def __init__(self, state, *, export_folder="exports"):
        self._window = self._timer = self.correlations = None
        self._frame = {"inner_width": 250, "inner_height": 180}  # as the page draws the first panel
        # By all that they follow from: to measure a galaxy on all scales takes a while.
        self._list_galaxy = lru_cache(maxsize=8)(lambda *_: list(self._describe_galaxy()))
        super().__init__(state, export_folder=export_folder)

    # ---- controls

    def make_control(self, name):
        if name != "selected":
            widget = super().make_control(name)
            if name in ("left", "right", "quantity"):
                widget.layout.flex = "0 0 auto" if name == "quantity" else "1 1 130px"
            if name == "relations":
                widget.make = self._make_tick
            return widget
        about = {"description": "Galaxy", "tooltip": "number of the galaxy whose spectra are shown"}
        self.number = W.IntText(**about, continuous_update=False, layout=W.Layout(width="130px"))
        self.number.observe(lambda change: self._quiet or self.act(self.state.choose, change["new"]), "value")
        buttons = self.make_steps("galaxy in mass", self.state.step)
        return W.HBox([self.number, *buttons], layout=W.Layout(flex="0 0 auto"))

    def _make_tick(self, *, description, layout):
        color, _, dashes = STYLES[description]
        label = f'<span style="color:{color}">{dashes}</span> {description.replace("et al. ", "")}'
        about = {"description": label, "tooltip": description, "layout": layout}
        return W.Checkbox(**about, indent=False, description_allow_html=True)

    def show_control(self, name, widget):
        state = self.state
        if name == "selected":
            self.number.value = state.selected[1] if state.selected else 0
            return
        super().show_control(name, widget)
        if name == "min_sn":
            widget.description = f"{state.kind.sn_label} above"
        elif name == "overlaid":
            widget.disabled = state.right == NONE
        elif name in ("quantity", "dust_corrected"):
            usable = len(widget.options) > 1 if name == "quantity" else state.quantity == "gas"
            widget.layout.display = None if usable else "none"

    # ---- figures

    def make_panels(self):
        self.x_range, self.y_range = Range1d(8, 12), Range1d(8, 9.2)
        self.figures, self.histograms = zip(*(self._make_side(side) for side in (0, 1)), strict=True)
        mass = np.linspace(7.5, 12.0, 181)
        self.lines = {}
        for name, relation in (mzr.RELATIONS | mzr.STELLAR_RELATIONS).items():
            color, dash, _ = STYLES[name]
            style = {"line_width": 2.4, "color": color, "line_dash": dash}
            self.lines[name] = [plot.line(mass, relation(mass), **style) for plot in self.figures]
        sides = list(zip(self.figures, self.histograms, strict=True))
        for extent in self._frame:
            self.figures[0].on_change(extent, lambda attr, old, new: self._frame.update({attr: new}))
        self._beside = [Layer(side, *sides[side]) for side in (0, 1)]
        # With sources of their own: the page would place what it does not show, too.
        self._laid_over = [Layer(f"_over{k}", *sides[0], color) for k, color in enumerate(SAMPLE_COLORS)]
        for end in ("start", "end"):
            self.x_range.on_change(end, self._zoomed)
            self.y_range.on_change(end, self._zoomed)
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
        plot.on_event(Tap, lambda event: self.act(self.pick, side, event.x, event.y))
        plot.on_event(DoubleTap, lambda event: self.fit_axes())
        labels = {"x_axis_label": "log M* / M☉", "y_axis_label": None if side else "galaxies"}
        histogram = figure(height=90, tools="save", **labels, **options)
        histogram.yaxis.axis_label_text_font_size = "12px"
        histogram.yaxis.formatter = NumeralTickFormatter(format="0[.]0a")
        histogram.y_range.start, histogram.yaxis.ticker.desired_num_ticks = 0, 3
        return plot, histogram

    def _make_spectrum(self):
        kind = self.state.kind
        self.source = ColumnDataSource(name="spectrum")
        self.wavelengths, self.flux_range = Range1d(*kind.windows["All"]), Range1d(0, 1)
        axes = {"x_axis_label": WAVELENGTH_LABEL, "y_axis_label": "normalised flux", "min_border_left": 62}
        plot = figure(height=195, x_range=self.wavelengths, y_range=self.flux_range, tools=TOOLS, **axes)
        plot.select_one(WheelZoomTool).modifiers, plot.yaxis.ticker.desired_num_ticks = {"ctrl": True}, 4
        self.legend = Legend(orientation="horizontal", location="left")
        for i, color in enumerate(SPECTRUM_COLORS):
            line = plot.line("wavelength", f"flux{i}", source=self.source, color=color, line_width=1.4)
            self.legend.items.append(LegendItem(label="", renderers=[line]))
        plot.add_layout(self.legend, "above")
        self.marks = LineMarks(plot, kind.windows["All"], 640, lines=kind.marks).follow(plot)
        for end in ("start", "end"):
            self.wavelengths.on_change(end, self._zoomed_spectrum)
        return plot

    def draw(self, changed):
        state, changed = self.state, {*changed}
        for name, lines in self.lines.items():
            for line in lines:
                line.visible = name in state.relations
        if changed - LOOKS or "overlaid" in changed:
            self._draw_panels(changed)
        for layer, name, panel in zip(self.layers, state.shown, state.panels, strict=False):
            here = panel[panel.index == state.locate(name)]
            layer.mark.data = {"x": here["log_mass"].tolist(), "y": here["value"].tolist()}
        if changed & {"quantity", "window"}:
            self.marks.mark(state.kind.marks)
            start, end = state.kind.windows[state.window]
            self.wavelengths.update(start=start, end=end)
        if changed & {"work", "selected", "left", "right"}:
            self._show_spectrum()
        if "samples" in changed:
            self._list_galaxy.cache_clear()

    def _draw_panels(self, changed):
        state = self.state
        for model in (self.figures[1], self.histograms[1]):
            model.visible = len(state.panels) == 2 and not state.shares_panel
        for layer in (*self._beside, *self._laid_over):
            for glyph in layer.glyphs:
                glyph.visible = layer in self.layers
        sides = zip(state.panels, state.bins, state.n_all, strict=True)
        for side, (name, (panel, bins, n_all)) in enumerate(zip(state.shown, sides, strict=True)):
            plot, histogram = self.figures[side], self.histograms[side]
            self.layers[side].show(panel, bins, n_all)
            plot.title.text = " and ".join(state.shown) if state.shares_panel else name
            text = f"{len(panel)} of {n_all.sum()} galaxies of {name}"
            alt(plot, f"Metallicity of {text} against mass, with the running median.")
            alt(histogram, f"How many galaxies have each mass, and are measured: {text}.")
        self.figures[0].yaxis.axis_label = f"{state.kind.axis}\n{state.calibration}"
        if changed & {"left", "right", "quantity", "calibration", "samples"}:
            self.fit_axes()
        else:
            self._show_images()
        if changed - LOOKS:
            self.correlations = None
            if self._timer:
                self._timer.cancel()
            self._timer = threading.Timer(SETTLE_SECONDS, self.show_correlations)
            self._timer.daemon = True
            self._timer.start()

    def fit_axes(self):
        """Show all galaxies but the outermost ones."""
        state = self.state
        with state.lock, self.figure.batch():
            self._window = None  # no image before both axes are right
            values = np.concatenate([panel["value"] for panel in state.panels])
            if not values.size:
                values = state.kind.relations[state.reference](state.edges)
            ends = (state.edges[0], state.edges[-1]), limits(values, low=0.4, high=99.6)
            for axis, (start, end) in zip((self.x_range, self.y_range), ends, strict=True):
                set_range(axis, start, end)
            self._show_images()

    def _zoomed(self, attr, old, new):
        with self.state.lock, self.figure.batch():
            if self._window not in (None, self._find_window()):
                self._show_images()

    def _find_window(self):
        return self.x_range.start, self.x_range.end, self.y_range.start, self.y_range.end

    def _show_images(self):
        state, self._window = self.state, self._find_window()
        palette, ends = PALETTE, state.color_range
        if state.color == "class":
            palette, ends = CLASS_PALETTE, (-0.5, len(CLASS_PALETTE) - 0.5)
        for layer, _ in zip(self.layers, state.panels, strict=False):
            layer.paint(self._window, ends, palette)

    def show_correlations(self):
        """Compute the correlations of what is shown, and print them unless it has changed meanwhile."""
        panels, correlations = self.state.panels, self.state.correlate()
        with self.state.lock:
            if panels is self.state.panels:
                self.correlations = correlations
                self.show(("correlations",))

    # ---- a galaxy

    def pick(self, side, x, y):
        """Look at the galaxy nearest to a place in a panel, if it is near."""
        state, near = self.state, []
        width, height = self._frame.values()
        across = width / (self.x_range.end - self.x_range.start)
        up = height / (self.y_range.end - self.y_range.start)
        for k in (0, 1) if state.shares_panel else (side,):
            panel = state.panels[k]
            distance = np.hypot((panel["log_mass"] - x) * across, (panel["value"] - y) * up)
            if distance.min() < TAP_PIXELS:
                near.append((distance.min(), state.shown[k], int(distance.idxmin())))
        if near:
            state.select(*min(near)[1:])

    def _show_spectrum(self):
        state, spectrum, names, size = self.state, self.state.spectrum, [], 0
        if spectrum is not None:
            names = order_spectra(spectrum, [state.samples[n].attrs.get("spectrum", n) for n in state.shown])
            size = spectrum.sizes["wavelength"]
        labels = names or ["rebuilding the spectra …" if state.busy else "this sample keeps no spectra"]
        data = {"wavelength": spectrum["wavelength"].values.astype(np.float32) if names else []}
        places = [None] * (len(self.legend.items) - len(labels)) + labels  # the smoothest has the last colour
        for i, (item, name) in enumerate(zip(self.legend.items, places, strict=True)):
            item.update(visible=name is not None, label={"value": name or ""})
            flux = spectrum["flux"].sel(source=name).values if name in names else np.full(size, np.nan)
            data[f"flux{i}"] = flux.astype(np.float32)
        self.source.data = data
        self._fit_spectrum()
        text = f"Spectra of galaxy {' '.join(map(str, state.selected[1:]))}: {', '.join(labels)}."
        alt(self.panels[2][0], text)

    def _zoomed_spectrum(self, attr, old, new):
        with self.state.lock, self.figure.batch():
            self._fit_spectrum()

    def _fit_spectrum(self):
        """Fit the flux axis: to the highest line of the gas, to the stars' absorption of a few percent."""
        wavelength, *flux = map(np.asarray, self.source.data.values())
        shown = (wavelength >= self.wavelengths.start) & (wavelength <= self.wavelengths.end)
        flux, stars = np.array(flux)[:, shown], self.state.quantity == "stars"
        flux = flux[np.isfinite(flux).any(axis=1)]
        if not flux.size:
            return
        for row in flux if stars else flux[:-1]:  # spikes of noise, or of emission, may leave it
            row[:] = np.clip(row, *np.nanquantile(row, [0.02, 0.98]))
        start, end = flux_range(flux, headroom=0.3)
        if stars:
            low, high = np.nanmin(flux), np.nanmax(flux)
            height = max(high - low, 0.01)
            start, end = low - 0.1 * height, high + 0.45 * height
        self.flux_range.update(start=float(start), end=float(end))

    # ---- words

    def describe(self):
        state, low_high = self.state, ()
        signs = [(ALL_COLOR, "all galaxies", "■"), (MEASURED_COLOR, "measured", "■")]
        if state.shares_panel:
            signs = [(*pair, "●") for pair in zip(SAMPLE_COLORS, state.shown, strict=True)]
        elif state.color == "class":
            present = np.unique(pd.concat([panel["color"] for panel in state.panels]).dropna()).astype(int)
            signs = [(CLASS_PALETTE[i], CLASSES[i], "●") for i in present] + signs
        else:
            low_high = map(number, state.color_range)
        parts = [f'<span style="color:{color}">{sign}</span> {html.escape(n)}' for color, n, sign in signs]
        if low_high:
            parts.insert(0, f"<b>{COLORS[state.color][0]}</b> {GRADIENT.join(low_high)}")
        empty = [name for name, panel in zip(state.shown, state.panels, strict=True) if panel.empty]
        return " &nbsp; ".join(parts), f"nothing is measured in {', '.join(empty)}" if empty else ""

    def make_tables(self):
        """How many galaxies are measured, scatter and trend, by sample; then what is known of the selected galaxy."""
        state, (trends, both) = self.state, self.correlations or ((), None)
        relation, summary = state.kind.relations[state.reference], {}
        for side, (name, table, panel) in enumerate(
            zip(state.shown, state.tables, state.panels, strict=True)
        ):
            bright = int((table["sn"] > state.min_sn).sum())
            scatter = mzr.scatter_about(relation, panel["log_mass"], panel["value"])
            summary[name + " " * (side and state.left == state.right)] = {
                "galaxies": f"{len(table):,}",
                "S/N too low": f"{len(table) - bright:,}",
                state.kind.unmeasured: f"{bright - len(panel):,}",
                "measured": f"{len(panel):,}",
                "scatter (dex)": with_error(scatter["std"], scatter["std_error"], ".3f"),
                "offset (dex)": number(scatter["offset"], "+.3f"),
                "median error (dex)": number(panel["error"].median(), ".3f"),
                "SFR trend, ρ": with_error(trends[side].rho, trends[side].error, "+.2f") if trends else "…",
            }
        summary = pd.DataFrame(summary)
        if both is not None:
            summary.loc["agreement, ρ"] = f"{both.n:,} in both", with_error(both.rho, both.error, "+.2f")
        galaxy = self._list_galaxy(state.selected, *state.shown, state.quantity, state.dust_corrected)
        return [summary.rename_axis("sample").reset_index(), *galaxy]

    def _describe_galaxy(self):
        """Lines, if the gas is looked at, and metallicities on every scale, in the samples that are shown."""
        state, kind = self.state, self.state.kind
        if not state.selected:
            return
        rows = {name: row for name in state.shown if (row := state.locate(name)) is not None}
        galaxies = {name: state.lines(name, state.dust_corrected, [row]) for name, row in rows.items()}
        first = next(iter(galaxies.values()))
        words = {"log_mass": ("log M*", ".2f"), "log_sfr": ("log SFR", ".2f"), "redshift": ("z", ".3f")}
        about = [f"{word} {number(first[c].item(), form)}" for c, (word, form) in words.items()]
        about = ", ".join([*about, str(first["spectral_class"].item())])
        yield f"<p>{html.escape(f'galaxy {state.selected[1]}: {about}'.rstrip(', '))}</p>"
        if state.quantity == "gas" and "line_flux" in first:
            units = first["line_flux"].attrs.get("units", "").replace("Angstrom", "Å")
            lines = {f"line flux ({units})": GALAXY_LINES}
            for name, galaxy in galaxies.items():
                some = (
                    galaxy[["line_flux", "line_flux_error"]].isel(galaxy=0).reindex(line=list(GALAXY_LINES))
                )
                pairs = zip(some["line_flux"].values, some["line_flux_error"].values, strict=True)
                lines[name] = [f"{number(f, '.3g')} ± {number(e, '.2g')}" for f, e in pairs]
            yield pd.DataFrame(lines)
        table = {kind.axis: [*kind.scales, kind.sn_label]}
        for name, galaxy in galaxies.items():
            measured = [kind.measure(galaxy, scale).iloc[0] for scale in kind.scales]
            table[name] = [with_error(m["value"], m["error"]) for m in measured]
            table[name].append(number(measured[0]["sn"], ".1f"))
        yield pd.DataFrame(table)


def number(value, form=".2f"):
    """Format a number; a dash where it is unknown."""
    return f"{value:{form}}".replace("-", "−") if np.isfinite(value) else "–"


def with_error(value, error, form=".2f"):
    """A number with its error, as far as both are known; a third digit where two say that the error is 0."""
    if not (np.isfinite(value) and np.isfinite(error) and error > 0):
        return number(value, form)
    form = form.replace(".2f", ".3f") if error < 0.005 else form
    return f"{number(value, form)} ± {number(error, form.lstrip('+'))}"


def open_mzr_dashboard(samples=None):
    """Open the mass-metallicity dashboard.

    Parameters
    ----------
    samples : sequence of str, optional
        Keys of what papers offer; by default all. Those whose file is not there are left out, and named.

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
    if missing and not read:
        raise FileNotFoundError("; ".join(missing))
    view = MzrView(MzrState(read, rebuild={key: pair[1] for key, pair in offered.items()}))
    view.opener = f"open_mzr_dashboard({'' if samples is None else list(samples)})"
    if missing:
        view.tell(html.escape("; ".join(missing)))
    return view
