"""The line-flux dashboard: lines of de-noised spectra against those of the originals, galaxy by galaxy."""

import json
import zlib
from functools import cache, partial
from typing import NamedTuple

import ipywidgets as W
import numpy as np
import pandas as pd
import traitlets
import xarray as xr
from bokeh.events import SelectionGeometry
from bokeh.models import BoxSelectTool, BoxZoomTool, ColumnDataSource, HoverTool, Range1d, ToolProxy
from bokeh.plotting import figure

from spectool.explore.dashboard import Choice, Dashboard
from spectool.explore.spectrum import WAVELENGTH_LABEL, LineMarks
from spectool.explore.style import DECODED, OBSERVED, OKABE_ITO
from spectool.explore.view import DashboardView, alt, limits
from spectool.measure.classes import CLASSES, kauffmann2003, kewley2001, log_flux, log_ratio
from spectool.measure.metallicity import o3n2_pp04
from spectool.measure.stats import running_percentiles, summarize
from spectool.papers import find_parts
from spectool.spectra import LINES

MOST_LIVE = 20  # brushed galaxies that are noised, de-noised and fitted again at each move of the slider
MOST_CORNERS = 24  # of a lasso
MOST_BRUSHED = 1100  # bytes of a brush, compressed: with the other choices it fits into a shared line
SN_STEPS = (0.0, 1.0, 2.0, 3.0, 5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0, 200.0, 1e9)

# Colour, shape and symbol: classes must be told apart without colour too.
CLASS_STYLE = {
    "emission line galaxy": (OKABE_ITO["blue"], "circle", "●"),
    "absorption galaxy": (OKABE_ITO["orange"], "square", "■"),
    "quiescent galaxy": (OKABE_ITO["vermillion"], "inverted_triangle", "▼"),
    "narrow-line AGN": (OKABE_ITO["bluish_green"], "triangle", "▲"),
    "broad-line AGN": (OKABE_ITO["reddish_purple"], "diamond", "◆"),
}
# In the order in which they are drawn: the de-noised one as a band, so that what it hides shows.
CURVES = {
    "noisy": ("noise-added", "#B8B8B8", 0.8, "solid"),
    "denoised": ("de-noised", DECODED, 2.6, "solid"),
    "original": ("original", "black", 1.0, "solid"),
    "fit": ("fit", OKABE_ITO["orange"], 1.3, "dashed"),
}
NAMED = ("[O II]", "Hδ", "Hβ", "[O III] 5007", "Hα", "[S II] 6716")  # over the whole range
HALF_WINDOW = 90.0  # Angstrom on either side of the line
HEIGHTS = (240, 200)  # of the two rows of panels


class Panel(NamedTuple):
    """What a panel draws: columns of the points."""

    title: str
    x: str
    y: str
    x_label: str
    y_label: str


PANELS = {
    "flux": Panel("Recovered flux", "original", "recovered", "log original", "log recovered"),
    "bpt": Panel("BPT diagram", "n2", "o3", "log [N II] 6583 / Hα", "log [O III] 5007 / Hβ"),
    "mzr": Panel("Mass–metallicity", "log_mass", "oh", "log M* (M☉)", "12 + log(O/H), O3N2"),
    "latent": Panel("Latent space", "latent_x", "latent_y", "z0", "z1"),
    "residual": Panel("Recovered − original", "original", "residual", "log original", "Δ (dex)"),
}
COLUMNS = sorted({name for panel in PANELS.values() for name in (panel.x, panel.y)})
# Choices that tell where points lie, and which take part.
PLACES = ("line", "quantity", "kind", "size", "axis_x", "axis_y", "diagrams", "classes", "sn_range")
START = {"line": "Hα", "quantity": "peak", "kind": "VAE", "size": 4, "axis_x": 0, "axis_y": 1}
START |= {"diagrams": "original", "classes": list(CLASSES), "sn_range": [0.0, SN_STEPS[-1]], "sigma": 0.04}
# Axes that are fitted anew when one of these choices changes; those of the BPT diagram stay.
FITTED = {
    ("original", "recovered", "residual"): {"line", "quantity", "kind", "size", "classes", "sn_range"},
    ("log_mass", "oh"): {"diagrams", "classes"},
    ("latent_x", "latent_y"): {"kind", "size", "axis_x", "axis_y", "classes"},
}
BPT_FRAME = {"n2": (-1.75, 0.75), "o3": (-1.9, 1.9)}


class LineState(Dashboard):
    """Which line of which model is compared, which galaxies take part, and which are brushed.

    Galaxies are counted from 0 in the order of the table. ``brushed`` are those of ``numbers`` and inside ``outlines``;
    up to `MOST_LIVE` of them, ``live_index``, have ``spectra``, and ``live`` points with the noise that is set now.
    """

    name = "line"
    controls = (*PLACES, "sigma", "numbers", "outlines", "shown")

    line = Choice().tag(ui=True, label="Line", tooltip="emission line that is compared")
    quantity = Choice().tag(ui=True, label="flux", style="toggles", tooltip="at the peak, or of all pixels")
    kind = Choice().tag(ui=True, label="model", style="toggles", tooltip="what removed the noise")
    size = Choice().tag(ui=True, label="latent size", style="toggles", tooltip="dimensions of the model")
    axis_x = Choice().tag(ui=True, label="latent axes", tooltip="latent dimension along x")
    axis_y = Choice().tag(ui=True, tooltip="latent dimension along y")
    diagrams = Choice().tag(ui=True, label="BPT, MZR", style="toggles", tooltip="whose lines are behind both")
    classes = Choice(many=True).tag(ui=True, label="show", tooltip="spectral classes that take part")
    sn_range = traitlets.Tuple().tag(ui=True, label="S/N of Hα", tooltip="in the original spectrum")
    sigma = traitlets.Float(0.04, min=0.005, max=0.1).tag(
        ui=True, label="noise σ of marked galaxies", tooltip="added to each pixel", step=0.001, format=".3f"
    )
    numbers = traitlets.Unicode().tag(ui=True, label="Galaxies", tooltip="to mark, such as 12, 40-50")
    outlines = traitlets.Tuple(help="marked with the mouse: corners, panel, and the choices of that moment")
    shown = traitlets.Int(-1, help="galaxy whose spectrum is drawn; -1 for none")

    def __init__(self, product, pipeline, *, start=None):
        super().__init__(start=start)
        self.product, self.pipeline = product, pipeline
        self.models = [str(name) for name in product["model"].values]
        self.candidates = product["candidate"].values.astype(int)
        self.galaxy_class = product["spectral_class"].values.astype(str)
        alpha = product.sel(source="original", line="Hα")
        flux, error = alpha["line_flux"].values, alpha["line_flux_error"].values
        measured = np.isfinite(flux) & np.isfinite(error) & (error > 0)
        self.sn = np.divide(flux, error, out=np.zeros(flux.shape, dtype=float), where=measured)
        self._diagnose = cache(lambda name: diagnose(product.sel(source=name), self.galaxy_class))
        self._rebuilt, self._together = {}, ((), None)
        self.live, self.live_index, self.spectra = {}, np.zeros(0, dtype=int), None
        example = self._choose_example(self._place(START))
        brush = {"numbers": write_numbers(example), "outlines": [], "shown": example[-1] if example else -1}
        self._first = START | brush
        self._change(self._first)

    def _choose_example(self, points):
        """Galaxies to open with, brightest in the line last: of each class, and a bright one that forms stars."""
        x = points["original"]
        both, chosen = np.isfinite(x) & np.isfinite(points["recovered"]), []
        for name, rank in ((CLASSES[0], 0.9), *((name, 0.5) for name in CLASSES)):
            members = np.flatnonzero(both & (self.galaxy_class == name))
            if members.size:
                members = members[np.argsort(x[members], kind="stable")]
                chosen.append(int(members[int(rank * (members.size - 1))]))
        return sorted(set(chosen), key=lambda galaxy: x[galaxy])

    # ---- choices

    def first_state(self):
        return dict(self._first)

    def identity(self):
        return {"table": f"{self.candidates.size} galaxies, {zlib.crc32(self.candidates.tobytes()):08x}"}

    def choices(self, name):
        if name == "classes":
            label = "{} {} ({})".format
            counts = {kind: np.sum(self.galaxy_class == kind) for kind in CLASSES}
            return [(label(CLASS_STYLE[k][2], k.removesuffix(" galaxy"), n), k) for k, n in counts.items()]
        if name.startswith("axis"):
            return [(f"z{k}", k) for k in range(self.size or 0)]
        kinds, sizes = zip(*(model.split() for model in self.models), strict=True)
        some = {"kind": list(dict.fromkeys(kinds)), "size": [int(size) for size in dict.fromkeys(sizes)]}
        some |= {"quantity": ["peak", "integrated"], "diagrams": ["original", "recovered"]}
        return (some | {"line": [str(line) for line in self.product["line"].values]})[name]

    def complete(self, changes):
        changes = dict(changes)
        now = {name: getattr(self, name) for name in self.controls} | changes
        if (model := f"{now['kind']} {now['size']}") not in self.models:
            raise ValueError(f"the table has no model {model!r}; there are: {', '.join(self.models)}")
        for k, axis in enumerate(("axis_x", "axis_y")):
            if axis not in changes and now[axis] >= int(now["size"]):
                changes[axis] = k
        if "sn_range" in changes:
            edges = changes["sn_range"]
            if len(edges) != 2 or not set(edges) <= set(SN_STEPS) or edges[0] > edges[1]:
                raise ValueError(f"sn_range runs from one of {SN_STEPS} to another, not {edges!r}")
        if "numbers" in changes or "outlines" in changes:
            rows = read_numbers(changes.get("numbers", ""), self.candidates.size)
            outlines = [self._check_outline(outline) for outline in changes.get("outlines", ())]
            changes |= {"numbers": write_numbers(rows), "outlines": outlines}
            brush = json.dumps([changes["numbers"], outlines], ensure_ascii=False)
            if len(zlib.compress(brush.encode(), 9)) > MOST_BRUSHED:
                raise ValueError("this brush does not fit into a shared line: begin anew with a simpler one")
        elif changes.keys() == {"shown"} and changes["shown"] not in self.live_index.tolist():
            raise ValueError(f"galaxy {changes['shown']} is not among those whose spectra are drawn")
        return changes

    def _check_outline(self, outline):
        try:
            self.find_inside(outline)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ValueError(f"an outline has a panel, x, y, and the choices then: {error!r}") from error
        return outline

    def derive(self, changed):
        changed = set(changed)
        if changed & {*PLACES}:
            points = self._place({name: getattr(self, name) for name in PLACES})
            x, y = points["original"], points["recovered"]
            self.points = {name: values.astype(np.float32) for name, values in points.items()}
            self.bins, about = running_percentiles(x, y), running_percentiles(x, y - x)
            self.bins |= {f"{name}_residual": about[name] for name in ("low", "middle", "high")}
            self.summary = summarize(x, y, self.bins)
        if changed & {"numbers", "outlines", "classes", "sn_range"}:
            rows = [np.flatnonzero(self.find_inside(outline)) for outline in self.outlines]
            rows.append(read_numbers(self.numbers, self.candidates.size))
            self.brushed = np.unique(np.concatenate(rows))
            self._choose_live()
        elif changed & {"kind", "size", "sigma"}:
            self._run()
        else:
            self._place_live()

    # ---- where points lie

    @property
    def source(self):
        """Name of the chosen model, such as "VAE 4"."""
        return f"{self.kind} {self.size}"

    @property
    def passing(self):
        """Which galaxies (galaxy,) the filters let through."""
        return self._passes(self.classes, self.sn_range)

    def _passes(self, classes, sn_range):
        low, high = sn_range
        return np.isin(self.galaxy_class, classes) & (self.sn >= low) & (self.sn <= high)

    def _place(self, of):
        """Columns (galaxy,) of all panels under choices; NaN where nothing is drawn."""
        line, quantity, source = of["line"], of["quantity"], f"{of['kind']} {of['size']}"
        x, x_error = log_flux(self.product.sel(source="original"), line, quantity)
        y, y_error = log_flux(self.product.sel(source=source), line, quantity)
        latent = self.product["latent"].sel(model=source).values
        columns = {"original": x, "recovered": y, "residual": y - x, "original_error": x_error}
        columns |= {"recovered_error": y_error, "log_mass": self.product["log_mass"].values}
        columns |= {"latent_x": latent[:, of["axis_x"]], "latent_y": latent[:, of["axis_y"]]}
        columns |= self._diagnose("original" if of["diagrams"] == "original" else source)
        passing = self._passes(of["classes"], of["sn_range"])
        return {name: np.where(passing, values, np.nan) for name, values in columns.items()}

    def find_inside(self, outline):
        """Which galaxies (galaxy,) lie inside an outline, where they were when it was drawn."""
        points, panel = self._place(outline["of"]), PANELS[outline["panel"]]
        return in_polygon(points[panel.x], points[panel.y], outline["x"], outline["y"])

    # ---- brushed galaxies

    def brush(self, index):
        """Mark galaxies in all panels, by number."""
        self.set(numbers=write_numbers(index))

    def make_outline(self, panel, x, y):
        """Return the outline of a box or a lasso with corners in a panel, as ``outlines`` keeps it."""
        x, y = ([float(f"{v:.4g}") for v in values] for values in thin_polygon(x, y))
        now = self.state()
        return {"panel": panel, "x": x, "y": y, "of": {name: now[name] for name in PLACES}}

    def step(self, by):
        """Show the next (1) or the last (-1) of the brushed galaxies' spectra, and begin anew at the end."""
        if self.live_index.size:
            self.set(shown=int(self.live_index[(int(self.shown_row[0]) + by) % self.live_index.size]))

    @property
    def shown_row(self):
        """Row of the shown galaxy among those that have spectra, as an array of one number or none."""
        return np.flatnonzero(self.live_index == self.shown)

    def _choose_live(self):
        members, flux = self.brushed[self.passing[self.brushed]], self.points["original"]
        members = members[np.argsort(flux[members], kind="stable")]
        if members.size > MOST_LIVE:  # spread evenly in the line's flux
            members = members[np.linspace(0, members.size - 1, MOST_LIVE).round().astype(int)]
        self.live_index = members
        if self.shown not in members:
            self.shown = int(members[0]) if members.size else -1
        wanted = [int(c) for c in self.candidates[members] if int(c) not in self._rebuilt]
        if wanted:
            self.live, self.spectra = {}, None
            self.work(partial(self._rebuild, wanted), lambda _: self._run())
        else:
            self.drop_work()
            self._run()

    def _rebuild(self, candidates):
        """Rebuild spectra, which may take seconds; they are kept even if others are wanted meanwhile."""
        rebuilt = self.pipeline.prepare(np.asarray(candidates))
        for k, candidate in enumerate(candidates):
            self._rebuilt[candidate] = rebuilt.isel(galaxy=k)

    def _run(self):
        """Noise, de-noise and fit the brushed galaxies anew."""
        ids = [int(c) for c in self.candidates[self.live_index]]
        self.live, self.spectra = {}, None
        if not ids or any(c not in self._rebuilt for c in ids):
            return
        if self._together[0] != ids:
            spectra = [self._rebuilt[candidate] for candidate in ids]
            self._together = ids, xr.concat(spectra, dim="galaxy", combine_attrs="override")
        try:
            self.spectra = self.pipeline.run(self._together[1], self.kind, self.size, self.sigma)
            self.problem = ""
        except (FileNotFoundError, ValueError) as error:
            self.problem = str(error)
        self._place_live()

    def _place_live(self):
        """Compute where the brushed galaxies lie with the noise that is set now."""
        if self.spectra is None:
            return
        at, latent = self.live_index, self.spectra["latent"].values
        live = {name: self.points[name][at] for name in ("original", "original_error", "log_mass")}
        live["recovered"], live["recovered_error"] = log_flux(self.spectra, self.line, self.quantity)
        live["residual"] = live["recovered"] - live["original"]
        live |= {"latent_x": latent[:, self.axis_x], "latent_y": latent[:, self.axis_y]}
        live |= diagnose(self.spectra, self.galaxy_class[at])
        self.live = {name: np.asarray(values, dtype=np.float32) for name, values in live.items()}

    # ---- CSV

    def table(self):
        number, live = np.arange(self.candidates.size), np.full(self.candidates.size, np.nan)
        if self.live:
            live[self.live_index] = self.live["recovered"]
        columns = {"galaxy": number, "candidate": self.candidates, "spectral_class": self.galaxy_class}
        columns |= {"h_alpha_sn": self.sn} | self.points
        columns |= {"brushed": np.isin(number, self.brushed), "live_recovered": live}
        return pd.DataFrame(columns)[self.passing]

    def about(self):
        summary, what = self.summary, f"{self.line}, {self.quantity} flux, {self.source}"
        return [
            f"{what}; original, recovered and their errors in dex",
            f"n2, o3 and oh (12 + log O/H, O3N2) of {self.diagrams} lines; latent z{self.axis_x}, z{self.axis_y}",
            f"sigma {summary['sigma']:.4g} dex, in filled bins {summary['sigma_fill']:.4g} dex; recovered "
            f"{summary['n_recovered']} of {summary['n_original']}; noise of live_recovered {self.sigma:g}",
        ]


def diagnose(lines, classes):
    """BPT coordinates, and 12 + log(O/H) by O3N2 (Pettini & Pagel 2004) of star-forming galaxies; each (galaxy,)."""
    alpha, beta, oxygen, nitrogen = (
        lines["line_flux"].sel(line=name).values for name in ("Hα", "Hβ", "[O III] 5007", "[N II] 6583")
    )
    abundance, _, valid = o3n2_pp04(lines)
    usable = np.asarray(valid) & (np.asarray(classes) == CLASSES[0])
    ratios = {"n2": log_ratio(nitrogen, alpha), "o3": log_ratio(oxygen, beta)}
    return ratios | {"oh": np.where(usable, abundance, np.nan)}


def read_numbers(text, n):
    """Galaxies of a text such as ``"12, 40-50"``, counted from 0, of n."""
    rows = np.zeros(n, dtype=bool)
    for part in str(text).replace(",", " ").split():
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise ValueError(f"galaxies are numbers and ranges such as 12, 40-50; not {part!r}")
        if not int(first) <= int(last or first) < n:
            raise ValueError(f"galaxies are counted from 0 to {n - 1}; not {part}")
        rows[int(first) : int(last or first) + 1] = True
    return np.flatnonzero(rows)


def write_numbers(index):
    """Text of galaxies, which `read_numbers` reads."""
    index = np.unique(np.asarray(index, dtype=int))
    runs = np.split(index, np.flatnonzero(np.diff(index) > 1) + 1) if index.size else []
    return ", ".join(f"{run[0]}" if run.size == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def in_polygon(x, y, corners_x, corners_y):
    """Which points (n,) lie inside a polygon; points with a NaN do not."""
    ends = np.array([corners_x, corners_y], dtype=float)
    if ends.ndim != 2 or ends.shape[1] < 3:
        raise ValueError("a polygon has three corners or more")
    inside = np.zeros(x.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(ends.T, np.roll(ends, 1, axis=1).T, strict=True):
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return inside


def thin_polygon(x, y):
    """A polygon's corners without those that shape it least (Visvalingam & Whyatt 1993), `MOST_CORNERS` at most."""
    ends = np.array([x, y], dtype=float)
    while ends.shape[1] > MOST_CORNERS:
        before, after = (np.roll(ends, k, axis=1) - ends for k in (1, -1))
        ends = np.delete(ends, np.argmin(np.abs(before[0] * after[1] - before[1] * after[0])), axis=1)
    return ends


class LineView(DashboardView):
    """The line-flux dashboard."""

    rows = (
        ("line", "quantity", "kind", "size", "diagrams"),
        ("classes",),
        ("sn_range", "sigma", "axis_x", "axis_y"),
    )
    figure_rows = (("numbers", "shown"),)
    hint = "Drag a box over points in a panel: they are marked in all, and made anew with the noise (stars)."
    opener = "open_line_dashboard()"
    beside = False

    def __init__(self, state, *, export_folder="exports"):
        super().__init__(state, export_folder=export_folder)
        (grid,) = self.plots[0].document.roots
        places = [(self.scatter[name], 0, k) for k, name in enumerate(("flux", "bpt", "mzr", "latent"))]
        places += [(self.scatter["residual"], 1, 0), (self.whole, 1, 1, 1, 2), (self.near, 1, 3)]
        grid.update(children=places, cols="minmax(0, 1fr)")
        shared = [tool for tool in grid.toolbar.tools if isinstance(tool, ToolProxy)]
        grid.toolbar.active_drag = next(t for t in shared if isinstance(t.tools[0], BoxSelectTool))
        for plot in self.scatter.values():
            plot.toolbar.active_drag = plot.toolbar.tools[0]
        for plot in (self.whole, self.near):  # apart from the merged toolbar: dragging zooms here
            zoom = BoxZoomTool(dimensions="width")
            plot.add_tools(zoom)
            plot.toolbar.active_drag = zoom
        self.scatter["bpt"].legend.spacing = 0
        for renderer in (renderer for plot in self.plots for renderer in plot.renderers):
            renderer.tags = renderer.glyph.tags  # Bokeh gives them to glyphs, and the page looks at renderers

    # ---- controls

    def make_control(self, name):
        if name == "shown":
            return self._make_steps()
        if name == "sn_range":
            options = [*((f"{step:g}", step) for step in SN_STEPS[:-1]), ("no limit", SN_STEPS[-1])]
            widget, about = W.SelectionRangeSlider(options=options), self.state.trait_metadata
            widget.description, widget.tooltip = about(name, "label"), about(name, "tooltip")
            widget.continuous_update, widget.layout = False, W.Layout(width="auto", margin="0 16px 0 0")
            self.link(widget, lambda value: self.state.set(sn_range=value))
        else:
            widget = super().make_control(name)
        flex = {"line": "0 1 160px", "axis_x": "0 1 150px", "axis_y": "0 1 58px", "numbers": "1 1 240px"}
        flex |= {"sn_range": "1 1 260px", "sigma": "1 1 330px", "classes": "1 1 auto"}
        widget.layout.flex = flex.get(name, "0 0 auto")
        return widget

    def _make_steps(self):
        def button(icon, tooltip, action):
            widget = W.Button(icon=icon, tooltip=tooltip, layout=W.Layout(width="auto", flex="0 0 auto"))
            widget.on_click(lambda _: self.act(*action))
            return widget

        state = self.state
        self.back = button("chevron-left", "spectrum before", (state.step, -1))
        self.next = button("chevron-right", "next spectrum", (state.step, 1))
        self.clear = button("times", "unmark all galaxies", (state.brush, []))
        self.which = W.HTML(layout=W.Layout(flex="1 1 auto", min_width="0")).add_class("spectool-status")
        row = W.Layout(flex="2 1 340px", align_items="center")
        return W.HBox([self.back, self.next, self.clear, self.which], layout=row)

    def show_control(self, name, widget):
        if name == "shown":
            self.which.value = self._describe_shown()
            return
        super().show_control(name, widget)
        if name == "classes":
            for kind, tick in widget.ticks.items():
                tick.disabled = not (self.state.galaxy_class == kind).any()
                tick.layout.border_bottom = f"3px solid {CLASS_STYLE[kind][0]}"

    # ---- figures

    def make_panels(self):
        state = self.state
        style = [CLASS_STYLE.get(kind, (OBSERVED, "circle", "")) for kind in state.galaxy_class]
        columns = {"number": np.arange(state.candidates.size), "kind": state.galaxy_class.tolist()}
        columns |= {"color": [s[0] for s in style], "marker": [s[1] for s in style]}
        self.points = ColumnDataSource(columns | {"sn": state.sn.astype("f4")} | state.points, name="points")
        live = [*COLUMNS, *(f"from_{name}" for name in COLUMNS), "original_low", "original_high", "ring"]
        bins = ("x", "low", "middle", "high", "low_residual", "middle_residual", "high_residual")
        columns = {"live": live, "filled": bins, "sparse": bins}
        self.sources = {k: ColumnDataSource({c: [] for c in names}, name=k) for k, names in columns.items()}
        self.ranges = {name: Range1d(*BPT_FRAME.get(name, (0, 1))) for name in COLUMNS}
        self.scatter = {name: self._draw_points(name, panel) for name, panel in PANELS.items()}
        self._draw_guides()
        self._draw_spectra()
        self.points.selected.on_change("indices", lambda attr, old, new: self._unmarked(new))
        for axis in self.ranges.values():
            axis.on_change("end", lambda attr, old, new: self._zoomed())
        row = [self.scatter[name] for name in ("flux", "bpt", "mzr", "latent")]
        return [row, [self.scatter["residual"], self.whole, self.near]]

    def _make_plot(self, name, height, **options):
        borders = {"min_border_left": 52, "min_border_right": 8, "min_border_top": 4}
        plot = figure(name=name, width=230, height=height, active_scroll=None, **borders, **options)
        plot.axis.major_label_text_font_size, plot.axis.axis_label_text_font_size = "11px", "12px"
        plot.axis.axis_label_standoff = 2
        plot.title.text_font_size = "13px"
        plot.xaxis.ticker.desired_num_ticks = plot.yaxis.ticker.desired_num_ticks = 4
        return plot

    def _draw_points(self, name, panel):
        labels = {"title": panel.title, "x_axis_label": panel.x_label, "y_axis_label": panel.y_label}
        ranges = {"x_range": self.ranges[panel.x], "y_range": self.ranges[panel.y]}
        tools = "box_select,lasso_select,tap,pan,wheel_zoom,reset,save"
        plot = self._make_plot(name, HEIGHTS[name == "residual"], tools=tools, **labels, **ranges)
        dots = {"marker": "marker", "size": 5, "color": "color", "alpha": 0.55, "line_color": None}
        dots |= {"selection_alpha": 1.0, "selection_line_color": "black", "tags": ["ink"]}
        dots |= {"nonselection_alpha": 0.22, "nonselection_line_color": None}
        drawn = plot.scatter(panel.x, panel.y, source=self.points, **dots)
        hover = [
            ("", "@kind, galaxy @number"),
            ("log original", "@original{0.00} ± @original_error{0.00}"),
            ("log recovered", "@recovered{0.00} ± @recovered_error{0.00}"),
            ("S/N of Hα", "@sn{0.0}"),
        ]
        plot.add_tools(HoverTool(renderers=[drawn], limit=1, tooltips=hover, visible=False))
        for tool in plot.toolbar.tools[:3]:
            tool.renderers = [drawn]
        plot.on_event(SelectionGeometry, lambda event: self._brushed(name, event))
        # On the overlay's own canvas: a move of the slider does not draw two thousand points anew.
        live, ink = {"source": self.sources["live"], "level": "overlay"}, {"color": "black", "tags": ["ink"]}
        leash = {"x0": f"from_{panel.x}", "y0": f"from_{panel.y}", "x1": panel.x, "y1": panel.y}
        plot.segment(**leash, **live, **ink, alpha=0.7)
        if panel.x == "original":
            error = {"x0": "original_low", "x1": "original_high", "y0": panel.y, "y1": panel.y}
            plot.segment(**error, **live, **ink, line_width=1.5)
        star = {"marker": "star", "size": 13, "fill_color": OKABE_ITO["yellow"], "line_color": "black"}
        plot.scatter(panel.x, panel.y, **live, **star)
        ring = {"line_color": "black", "line_alpha": "ring", "fill_color": None, "tags": ["ink"]}
        plot.scatter(panel.x, panel.y, **live, **ring, size=20, line_width=2)
        return plot

    def _draw_guides(self):
        flux, residual, bpt = (self.scatter[name] for name in ("flux", "residual", "bpt"))
        guide = {"color": OBSERVED, "line_dash": "dashed", "level": "underlay"}
        flux.line([-30, 30], [-30, 30], **guide)
        residual.line([-30, 30], [0, 0], **guide)
        for plot, suffix in ((flux, ""), (residual, "_residual")):
            for name, color in (("sparse", OKABE_ITO["orange"]), ("filled", "black")):
                mark = {"source": self.sources[name], "line_color": color, "line_width": 2}
                mark |= {"tags": ["ink"] if name == "filled" else []}
                plot.segment("x", f"low{suffix}", "x", f"high{suffix}", **mark)
                fill = color if name == "filled" else None
                plot.scatter("x", f"middle{suffix}", size=8, fill_color=fill, **mark)
        for curve, end, dash, label in (
            (kewley2001, 0.35, "solid", "Kewley 2001"),
            (kauffmann2003, -0.05, "dashed", "Kauffmann 2003"),
        ):
            n2 = np.linspace(-2.2, end, 80)
            style = {"color": "black", "tags": ["ink"], "line_dash": dash, "line_width": 1.3}
            bpt.line(n2, curve(n2), legend_label=label, **style)
        small = {"label_text_font_size": "11px", "glyph_width": 20, "glyph_height": 13, "padding": 1}
        bpt.legend.update(location="top_right", **small)

    def _draw_spectra(self):
        wavelength = np.asarray(self.state.pipeline.wavelength, dtype=np.float32)
        self.empty = np.full(wavelength.size, np.nan, dtype=np.float32)
        columns = {"wavelength": wavelength, **dict.fromkeys(CURVES, self.empty)}
        self.spectrum = ColumnDataSource(columns, name="spectrum")
        self.edges = float(wavelength[0]), float(wavelength[-1])
        options = {"y_range": (0, 0.1), "tools": "reset", "title": "Spectrum"}
        labels = {"x_axis_label": WAVELENGTH_LABEL, "y_axis_label": "normalised flux"}
        whole, near = (Range1d(*window, bounds=self.edges) for window in (self.edges, (6470.0, 6660.0)))
        self.whole = self._make_plot("whole", HEIGHTS[1], x_range=whole, **labels, **options)
        options["x_axis_label"] = "wavelength (Å)"
        self.near = self._make_plot("near", HEIGHTS[1], x_range=near, **options)
        self.marks = {}
        for plot, width, lines in ((self.whole, 400, {k: LINES[k] for k in NAMED}), (self.near, 170, LINES)):
            for column, (label, color, thick, dash) in CURVES.items():
                style = {"color": color, "line_width": thick, "line_dash": dash, "legend_label": label}
                tags = ["ink"] if color == "black" else []
                plot.line("wavelength", column, source=self.spectrum, tags=tags, **style)
            marks = LineMarks(plot, (plot.x_range.start, plot.x_range.end), width, lines=lines)
            marks.row_height = 0.14  # of a frame that is lower than the plot by title, legend and axis
            self.marks[plot] = marks
            # The page reports how wide it drew the frame.
            plot.on_change("inner_width", lambda attr, old, new, marks=marks: marks.update(width=new))
            plot.x_range.on_change("end", lambda attr, old, new, plot=plot: self._name_lines(plot))
        self.near.legend.visible = False
        self.whole.add_layout(self.whole.legend[0], "above")
        self.whole.legend.update(orientation="horizontal", location="left", padding=0, margin=0)
        self.whole.legend.label_text_font_size = "12px"

    def _name_lines(self, plot):
        self.marks[plot].update((plot.x_range.start, plot.x_range.end))

    # ---- from the page

    def _brushed(self, name, event):
        """Take a box, a lasso or a tapped galaxy from the page."""
        state, geometry = self.state, event.geometry
        with state.lock:
            marked = np.unique(np.asarray(self.points.selected.indices, dtype=int))
            if geometry["type"] == "rect":
                x0, x1, y0, y1 = (geometry[edge] for edge in ("x0", "x1", "y0", "y1"))
                x, y = (x0, x1, x1, x0), (y0, y0, y1, y1)
            elif geometry["type"] == "poly" and len(geometry["x"]) > 2:
                x, y = geometry["x"], geometry["y"]
            else:
                return self.act(state.brush, marked)
            outline = state.make_outline(name, x, y)
            inside = np.flatnonzero(state.find_inside(outline))
            # The page does not say whether Shift or Ctrl was held, but which galaxies it marked.
            both = np.union1d(state.brushed, inside)
            alone, added = (np.setxor1d(marked, rows).size for rows in (inside, both))
            if min(alone, added) > 3 + 0.1 * inside.size:
                self.act(state.brush, marked)
            elif alone <= added:
                self.act(state.set, outlines=[outline])
            elif outline not in state.outlines:
                self.act(state.set, outlines=[*state.outlines, outline], numbers=state.numbers)
            self._show_marked()

    def _unmarked(self, indices):
        # jupyter_bokeh reports it twice, and what the kernel set itself.
        if not len(indices) and self.state.brushed.size:
            self.act(self.state.brush, [])

    def _zoomed(self):
        with self.state.lock, self.figure.batch():
            self._show_stars()

    # ---- what changed

    def draw(self, changed):
        state, changed = self.state, {*changed}
        if changed & {*PLACES}:
            for name, values in state.points.items():
                if not np.array_equal(self.points.data[name], values, equal_nan=True):
                    self.points.data[name] = values
            bins = state.bins
            for name, filled in (("filled", True), ("sparse", False)):
                rows = (bins["count"] > 0) & (bins["filled"] == filled)
                self.sources[name].data = {c: bins[c][rows].astype("f4") for c in self.sources[name].data}
            self._show_axes(changed)
        self._show_marked()
        self._show_stars()
        self._show_spectrum()
        marked = f"{state.brushed.size} of them marked"
        for name, panel in PANELS.items():
            n = int((np.isfinite(state.points[panel.x]) & np.isfinite(state.points[panel.y])).sum())
            alt(self.scatter[name], f"{panel.title}, {state.line}, {state.source}: {n} galaxies, {marked}.")

    def _show_axes(self, changed):
        state, latent = self.state, self.scatter["latent"]
        what = "peak (norm.)" if state.quantity == "peak" else "flux (norm. Å)"
        for name in ("flux", "residual"):
            self.scatter[name].xaxis.axis_label = f"log original {state.line} {what}"
        latent.title.text = f"Latent space of {state.source}"
        latent.xaxis.axis_label, latent.yaxis.axis_label = f"z{state.axis_x}", f"z{state.axis_y}"
        for columns, choices in FITTED.items():
            for name in columns if changed & choices else ():
                low, high = limits(state.points[name], low=0.4, high=99.6, margin=0.06)
                self.ranges[name].update(start=low, end=high, reset_start=low, reset_end=high)
        if "line" in changed:
            low = max(self.edges[0], min(LINES[state.line] - HALF_WINDOW, self.edges[1] - 2 * HALF_WINDOW))
            high = low + 2 * HALF_WINDOW
            self.near.x_range.update(start=low, end=high, reset_start=low, reset_end=high)
            self.near.title.text = f"Around {state.line}"
            self._name_lines(self.near)

    def _show_marked(self):
        marked = self.state.brushed.tolist()
        if sorted(self.points.selected.indices) != marked:
            self.points.selected.indices = marked

    def _show_stars(self):
        state, now, live = self.state, self.state.live, {name: [] for name in self.sources["live"].data}
        if now:
            error = np.nan_to_num(now["original_error"])
            live = {name: self._within(name, now[name]) for name in COLUMNS}
            live |= {f"from_{k}": self._within(k, state.points[k][state.live_index]) for k in COLUMNS}
            live["original_low"] = self._within("original", now["original"] - error)
            live["original_high"] = self._within("original", now["original"] + error)
            live["ring"] = (state.live_index == state.shown).astype("f4")
        source = self.sources["live"]
        if any(not np.array_equal(source.data[k], live[k], equal_nan=True) for k in live):
            source.data = live

    def _within(self, column, values):
        """Move what lies outside a panel's frame to its edge: Bokeh's overlays are not cut off there."""
        axis = self.ranges[column]
        return np.clip(values, axis.start, axis.end).astype(np.float32)

    def _show_spectrum(self):
        state, spectra = self.state, dict.fromkeys(CURVES, self.empty)
        drawn = state.spectra is not None
        if drawn:
            galaxy = state.spectra.isel(galaxy=int(state.shown_row[0]))
            spectra = {name: galaxy[name].values.astype(np.float32) for name in CURVES}
        for name, values in spectra.items():
            if not np.array_equal(values, self.spectrum.data[name], equal_nan=True):
                self.spectrum.data[name] = values
        title = f"Spectrum of galaxy {state.shown}" if drawn else "No spectrum"
        self.whole.title.text = title
        alt(self.whole, f"{title}: original, noise-added, de-noised and fitted.")
        alt(self.near, f"{title} around {state.line}.")
        if drawn:
            self._fit_flux(self.whole)
            self._fit_flux(self.near)

    def _fit_flux(self, plot):
        data, now = self.spectrum.data, plot.y_range
        inside = (data["wavelength"] >= plot.x_range.start) & (data["wavelength"] <= plot.x_range.end)
        values = np.concatenate([data["original"][inside], data["denoised"][inside]])
        if not np.isfinite(values).any():
            return
        low, high = np.nanmin(values), np.nanmax(values)
        if plot is self.whole:  # lines may run out of the frame: they would flatten the continuum
            low, high = 0.0, 2.5 * abs(np.nanmedian(values))
        low, high = float(low - 0.15 * (high - low)), float(high + 0.6 * (high - low))
        # A margin before the axis moves: an axis that follows the noise hides what it changed.
        if not (now.start <= low and high <= now.end and high - low > 0.7 * (now.end - now.start)):
            now.update(start=low, end=high)

    # ---- words

    def describe(self):
        state, summary, line = self.state, self.state.summary, self.state.line
        n, of = summary["n_recovered"], summary["n_original"]
        if not n:
            return f"<b>{line}</b>, {state.source}: no galaxy chosen has the line in both spectra", ""
        parts = [f"<b>{line} {state.quantity}, {state.source}</b> · {n:,} of {of:,} recovered ({n / of:.0%})"]
        parts.append(
            f'σ <b>{summary["sigma"]:.2f}</b>, <span title="in bins of more than N / 11 galaxies, the solid '
            f'marks">σ_fill <b>{summary["sigma_fill"]:.2f}</b></span>, median {summary["median"]:+.2f} dex'
        )
        if state.quantity == "peak" and (paper := state.pipeline.read_published(state.source, state.line)):
            parts.append(f"paper: σ {paper[0]:.2f}, σ_fill {paper[1]:.2f} {state.pipeline.remark}")
        return " · ".join(parts), ""

    def _describe_shown(self):
        """Which of the brushed galaxies the spectrum belongs to, or why there is none, as HTML."""
        state, n, at = self.state, self.state.live_index.size, self.state.shown
        if not n:
            return "all marked galaxies are filtered out" if state.brushed.size else "no galaxy is marked"
        if state.busy:
            return f"rebuilding {n} spectra …"
        marked = f" of {state.brushed.size:,}" if state.brushed.size > n else ""
        kind = state.galaxy_class[at].removesuffix(" galaxy")
        place = f"<b>{int(state.shown_row[0]) + 1}/{n}</b>{marked}"
        return f"{place} · galaxy {at} · {kind} · Hα S/N {state.sn[at]:.0f}"


def open_line_dashboard(path=None, *, export_folder="exports"):
    """Open the line-flux dashboard on the shipped table of measured lines and the shipped models.

    Parameters
    ----------
    path : str or pathlib.Path, optional
        Another table of the same layout.
    export_folder : str or pathlib.Path
        Where exported files go.

    Returns
    -------
    LineView
    """
    (part,) = find_parts("line").values()
    product = part.open_lines(path)
    return LineView(LineState(product, part.Pipeline(product)), export_folder=export_folder)
