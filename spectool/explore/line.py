"""The line-flux dashboard: lines of de-noised spectra against those of the originals, galaxy by galaxy."""

import re
import zlib
from functools import partial

import ipywidgets as W
import numpy as np
import pandas as pd
import traitlets
import xarray as xr
from bokeh.events import SelectionGeometry
from bokeh.models import BoxSelectTool, BoxZoomTool, ColumnDataSource, HoverTool, Range1d, ToolProxy

from spectool.explore.dashboard import Choice, Dashboard
from spectool.explore.spectrum import WAVELENGTH_LABEL, LineMarks
from spectool.explore.style import DECODED, OBSERVED, OKABE_ITO
from spectool.explore.view import DashboardView, alt, limits, panel, send, set_range
from spectool.measure.classes import CLASSES, kauffmann2003, kewley2001, log_flux, log_ratio
from spectool.measure.metallicity import o3n2_pp04
from spectool.measure.stats import running_percentiles, summarize
from spectool.papers import find_parts
from spectool.spectra import LINES

MOST_LIVE = 20  # brushed galaxies that are noised, de-noised and fitted again at each move of the slider
LONGEST_TEXT = 600  # of galaxies, before they are written as bits: the whole state fits into a shared line
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
# Title of a panel, and the columns of the points that it draws.
PANELS = {
    "flux": ("Recovered flux", "original", "recovered"),
    "bpt": ("BPT diagram", "n2", "o3"),
    "mzr": ("Mass–metallicity", "log_mass", "oh"),
    "latent": ("Latent space", "latent_x", "latent_y"),
    "residual": ("Recovered − original", "original", "residual"),
}
AXES = {"original": "log original", "recovered": "log recovered", "residual": "Δ (dex)"}
AXES |= {"n2": "log [N II] 6583 / Hα", "o3": "log [O III] 5007 / Hβ"}
AXES |= {"log_mass": "log M* (M☉)", "oh": "12 + log(O/H), O3N2", "latent_x": "z0", "latent_y": "z1"}
BPT_FRAME = {"n2": (-1.75, 0.75), "o3": (-1.9, 1.9)}  # others are fitted anew when what they show changes


class LineState(Dashboard):
    """Which line of which model is compared, which galaxies take part, and which are brushed.

    Galaxies are counted from 0 in the order of the table, in which `points` has a row for each. ``brushed`` are those
    of ``numbers``; up to `MOST_LIVE` of them, ``live_index``, have ``spectra``, and ``live`` points with the noise that
    is set now.
    """

    name = "line"
    controls = ("line", "quantity", "kind", "size", "axis_x", "axis_y", "diagrams", "classes", "sn_range")
    controls += ("sigma", "numbers", "shown")

    line = Choice("Hα").tag(ui=True, label="Line", tooltip="emission line that is compared")
    quantity = Choice("peak").tag(
        ui=True, label="flux", style="toggles", tooltip="at the peak, or of all pixels"
    )
    kind = Choice("VAE").tag(ui=True, label="model", style="toggles", tooltip="what removed the noise")
    size = Choice(4).tag(ui=True, label="latent size", style="toggles", tooltip="dimensions of the model")
    axis_x = Choice(0).tag(ui=True, label="latent axes", tooltip="latent dimension along x")
    axis_y = Choice(1).tag(ui=True, tooltip="latent dimension along y")
    diagrams = Choice("original").tag(
        ui=True, label="BPT, MZR", style="toggles", tooltip="whose lines are behind both"
    )
    classes = Choice(CLASSES, many=True).tag(ui=True, label="show", tooltip="spectral classes that take part")
    sn_range = traitlets.Tuple(default_value=(0.0, SN_STEPS[-1])).tag(
        ui=True, label="S/N of Hα", tooltip="in the original spectrum"
    )
    sigma = traitlets.Float(0.04, min=0.005, max=0.1).tag(
        ui=True, label="noise σ of marked galaxies", tooltip="added to each pixel", step=0.001, format=".3f"
    )
    numbers = traitlets.Unicode().tag(ui=True, label="Galaxies", tooltip="to mark, such as 12, 40-50")
    shown = traitlets.Int(-1, help="galaxy whose spectrum is drawn; -1 for none")

    def __init__(self, product, pipeline, *, start=None):
        super().__init__(start=start)
        self.product, self.pipeline, self._rebuilt = product, pipeline, {}
        self.models = [str(name) for name in product["model"].values]
        self.candidates = product["candidate"].values.astype(int)
        self.galaxy_class = product["spectral_class"].values.astype(str)
        alpha = product.sel(source="original", line="Hα")
        flux, error = alpha["line_flux"].values, alpha["line_flux_error"].values
        measured = np.isfinite(flux) & np.isfinite(error) & (error > 0)
        self.sn = np.divide(flux, error, out=np.zeros(flux.shape, dtype=float), where=measured)
        self.complete({})
        self.derive(self.controls)
        example = self._choose_example()
        self._change({"numbers": write_numbers(example), "shown": example[-1] if example else -1})
        self._first = self.state()

    def _choose_example(self):
        """Galaxies to open with, brightest in the line last: of each class, and a bright one that forms stars."""
        points, chosen = self.points.assign(kind=self.galaxy_class).sort_values("original", kind="stable"), {}
        points = points[points["recovered"].notna() & points["original"].notna()]
        for name, rank in ((CLASSES[0], 0.9), *((name, 0.5) for name in CLASSES)):
            members = points.index[points["kind"] == name]
            if members.size:
                chosen[int(members[int(rank * (members.size - 1))])] = None
        return sorted(chosen, key=points.index.get_loc)

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
            return [(f"z{k}", k) for k in range(self.size)]
        kinds, sizes = zip(*(model.split() for model in self.models), strict=True)
        some = {"kind": list(dict.fromkeys(kinds)), "size": [int(size) for size in dict.fromkeys(sizes)]}
        some |= {"quantity": ["peak", "integrated"], "diagrams": ["original", "recovered"]}
        return (some | {"line": [str(line) for line in self.product["line"].values]})[name]

    def complete(self, changes):
        now = {name: getattr(self, name) for name in self.controls} | changes
        changes, edges = dict(changes), now["sn_range"]
        if (model := f"{now['kind']} {now['size']}") not in self.models:
            raise ValueError(f"the table has no model {model!r}; there are: {', '.join(self.models)}")
        for k, axis in enumerate(("axis_x", "axis_y")):
            if axis not in changes and now[axis] >= int(now["size"]):
                changes[axis] = k
        if len(edges) != 2 or not set(edges) <= set(SN_STEPS) or edges[0] > edges[1]:
            raise ValueError(f"sn_range runs from one of {SN_STEPS} to another, not {edges!r}")
        if "numbers" in changes:
            changes["numbers"] = write_numbers(read_numbers(str(changes["numbers"]), self.candidates.size))
        elif changes.keys() == {"shown"} and changes["shown"] not in self.live_index:
            raise ValueError(f"galaxy {changes['shown']} is not among those whose spectra are drawn")
        return changes

    def derive(self, changed):
        changed = set(changed)
        if changed - {"sigma", "numbers", "shown"}:
            self._place()
        if changed & {"numbers", "classes", "sn_range"}:
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

    def _place(self):
        """Compute the columns of all panels; NaN where nothing is drawn."""
        original, model = (self.product.sel(source=name) for name in ("original", self.source))
        x, error = log_flux(original, self.line, self.quantity)
        points = {"original": x, "original_error": error, "log_mass": self.product["log_mass"].values}
        points |= self._recover(x, model, self.product["latent"].sel(model=self.source).values)
        points |= diagnose(original if self.diagrams == "original" else model, self.galaxy_class)
        low, high = self.sn_range
        self.passing = np.isin(self.galaxy_class, self.classes) & (self.sn >= low) & (self.sn <= high)
        points = pd.DataFrame(points)
        points[~self.passing] = np.nan
        x, y = points["original"].to_numpy(), points["recovered"].to_numpy()
        self.points, self.bins, about = (
            points.astype("f4"),
            running_percentiles(x, y),
            running_percentiles(x, y - x),
        )
        self.bins |= {f"{name}_residual": about[name] for name in ("low", "middle", "high")}
        self.summary = summarize(x, y, self.bins)

    def _recover(self, original, lines, latent):
        """Columns of what a model makes of galaxies, given the original flux [dex]."""
        y, error = log_flux(lines, self.line, self.quantity)
        columns = {"recovered": y, "recovered_error": error, "residual": y - original}
        return columns | {"latent_x": latent[:, self.axis_x], "latent_y": latent[:, self.axis_y]}

    # ---- brushed galaxies

    def brush(self, index):
        """Mark galaxies in all panels, by number."""
        self.set(numbers=write_numbers(index))

    def step(self, by):
        """Show the next (1) or the last (-1) of the brushed galaxies' spectra, and begin anew at the end."""
        if index := self.live_index.tolist():
            self.set(shown=index[(index.index(self.shown) + by) % len(index)])

    def _choose_live(self):
        self.brushed = read_numbers(self.numbers, self.candidates.size)
        members = self.brushed[self.passing[self.brushed]]
        members = members[np.argsort(self.points["original"].to_numpy()[members], kind="stable")]
        if members.size > MOST_LIVE:  # spread evenly in the line's flux
            members = members[np.linspace(0, members.size - 1, MOST_LIVE).round().astype(int)]
        self.live_index, self.originals = members, None
        if self.shown not in members:
            self.shown = int(members[0]) if members.size else -1
        wanted = [int(c) for c in self.candidates[members] if int(c) not in self._rebuilt]
        self._run()
        if wanted:
            self.work(partial(self._rebuild, wanted), lambda _: self._take())
        else:
            self.drop_work()
            self._take()

    def _rebuild(self, candidates):
        """Rebuild spectra, which may take seconds; they are kept even if others are wanted meanwhile."""
        rebuilt = self.pipeline.prepare(np.asarray(candidates))
        self._rebuilt |= {c: rebuilt.isel(galaxy=k) for k, c in enumerate(candidates)}

    def _take(self):
        if self.live_index.size:
            spectra = [self._rebuilt[int(c)] for c in self.candidates[self.live_index]]
            self.originals = xr.concat(spectra, dim="galaxy", combine_attrs="override")
            self._run()

    def _run(self):
        """Noise, de-noise and fit the brushed galaxies anew."""
        self.spectra, self.live = None, pd.DataFrame()
        if self.originals is None:
            return
        try:
            spectra = self.pipeline.run(self.originals, self.kind, self.size, self.sigma)
            self.spectra, self.problem = spectra.assign_coords(galaxy=self.live_index), ""
        except (FileNotFoundError, ValueError) as error:
            self.problem = str(error)
        self._place_live()

    def _place_live(self):
        """Compute where the brushed galaxies lie with the noise that is set now."""
        if self.spectra is not None:
            live = self.points.loc[self.live_index, ["original", "original_error", "log_mass"]]
            columns = self._recover(live["original"], self.spectra, self.spectra["latent"].values)
            columns |= diagnose(self.spectra, self.galaxy_class[self.live_index])
            self.live = live.assign(**columns).astype("f4")

    # ---- CSV

    def table(self):
        columns = {"candidate": self.candidates, "spectral_class": self.galaxy_class, "h_alpha_sn": self.sn}
        table = pd.DataFrame(columns).join(self.points).assign(brushed=False)
        table.loc[self.brushed, "brushed"] = True
        table["live_recovered"] = self.live.get("recovered", np.nan)
        return table[self.passing].reset_index(names="galaxy")

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
    """Galaxies of a text such as ``"12, 40-50"``, counted from 0, of n; or of one with a bit for each (``"0x1a"``)."""
    if re.fullmatch("0x[0-9a-f]+", text) and not int(text, 16) >> n:
        return np.flatnonzero([int(text, 16) >> k & 1 for k in range(n)])
    rows = np.zeros(n, dtype=bool)
    for part in text.replace(",", " ").split():
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
    text = ", ".join(f"{run[0]}" if run.size == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return text if len(text) <= LONGEST_TEXT else f"{sum(1 << k for k in index.tolist()):#x}"


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
        self.grid.cols, toolbar = "minmax(0, 1fr)", self.grid.toolbar
        shared = (tool for tool in toolbar.tools if isinstance(tool, ToolProxy))
        toolbar.active_drag = next(t for t in shared if isinstance(t.tools[0], BoxSelectTool))
        for plot in self.scatter.values():
            plot.toolbar.active_drag = plot.toolbar.tools[0]
        for plot in (self.whole, self.near):  # apart from the merged toolbar: dragging zooms here
            plot.add_tools(BoxZoomTool(dimensions="width"))
            plot.toolbar.active_drag = plot.toolbar.tools[-1]

    # ---- controls

    def make_control(self, name):
        if name == "shown":
            clear = self.button("", "unmark all galaxies", partial(self.state.brush, []), "times")
            self.which = W.HTML(layout=W.Layout(flex="1 1 auto", min_width="0")).add_class("spectool-status")
            layout = W.Layout(flex="2 1 340px", align_items="center")
            return W.HBox([*self.make_steps("spectrum", self.state.step), clear, self.which], layout=layout)
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

    def show_control(self, name, widget):
        if name == "shown":
            self.which.value = self._describe_shown()
            return
        super().show_control(name, widget)
        if name == "numbers" and widget.value.startswith("0x"):
            widget.value = f"{self.state.brushed.size:,} galaxies"
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
        columns["sn"] = state.sn.astype("f4")
        columns |= dict.fromkeys(state.points, np.full(len(state.points), np.nan, "f4"))
        self.points = ColumnDataSource(columns, name="points")
        live = [*AXES, *(f"from_{name}" for name in AXES), "original_low", "original_high", "ring"]
        bins = ("x", "low", "middle", "high", "low_residual", "middle_residual", "high_residual")
        columns = {"live": live, "filled": bins, "sparse": bins}
        self.sources = {k: ColumnDataSource({c: [] for c in names}, name=k) for k, names in columns.items()}
        self.ranges = {name: Range1d(*BPT_FRAME.get(name, (0, 1))) for name in AXES}
        self.scatter = {name: self._draw_points(name) for name in PANELS}
        self._draw_guides()
        self._draw_spectra()
        self.points.selected.on_change("indices", lambda attr, old, new: self._unmarked(new))
        for axis in self.ranges.values():
            axis.on_change("end", lambda attr, old, new: self._zoomed())
        *row, residual = self.scatter.values()
        return [row, [residual, self.whole, None, self.near]]

    def _panel(self, name, height, **options):
        plot = panel(name, height, **options)
        plot.axis.axis_label_standoff = 2
        plot.xaxis.ticker.desired_num_ticks = plot.yaxis.ticker.desired_num_ticks = 4
        return plot

    def _draw_points(self, name):
        title, x, y = PANELS[name]
        options = {"title": title, "x_axis_label": AXES[x], "y_axis_label": AXES[y]}
        options |= {"x_range": self.ranges[x], "y_range": self.ranges[y]}
        tools = "box_select,lasso_select,tap,pan,wheel_zoom,reset,save"
        plot = self._panel(name, 200 if name == "residual" else 240, tools=tools, **options)
        dots = {"marker": "marker", "size": 5, "color": "color", "alpha": 0.55, "line_color": None}
        dots |= {"selection_alpha": 1.0, "selection_line_color": "black", "tags": ["ink"]}
        dots |= {"nonselection_alpha": 0.22, "nonselection_line_color": None}
        drawn = plot.scatter(x, y, source=self.points, **dots)
        hover = [
            ("", "@kind, galaxy @number"),
            ("log original", "@original{0.00} ± @original_error{0.00}"),
            ("log recovered", "@recovered{0.00} ± @recovered_error{0.00}"),
            ("S/N of Hα", "@sn{0.0}"),
        ]
        for tool in plot.toolbar.tools[:3]:
            tool.renderers = [drawn]
        plot.add_tools(HoverTool(renderers=[drawn], limit=1, tooltips=hover, visible=False))
        plot.on_event(SelectionGeometry, self._marked)
        # On the overlay's own canvas: a move of the slider does not draw two thousand points anew.
        live, ink = {"source": self.sources["live"], "level": "overlay"}, {"color": "black", "tags": ["ink"]}
        plot.segment(f"from_{x}", f"from_{y}", x, y, **live, **ink, alpha=0.7)
        if x == "original":
            plot.segment("original_low", y, "original_high", y, **live, **ink, line_width=1.5)
        star = {"marker": "star", "size": 13, "fill_color": OKABE_ITO["yellow"], "line_color": "black"}
        plot.scatter(x, y, **live, **star)
        ring = {"line_color": "black", "line_alpha": "ring", "fill_color": None, "tags": ["ink"]}
        plot.scatter(x, y, **live, **ring, size=20, line_width=2)
        return plot

    def _draw_guides(self):
        flux, residual, bpt = (self.scatter[name] for name in ("flux", "residual", "bpt"))
        guide = {"color": OBSERVED, "line_dash": "dashed", "level": "underlay"}
        flux.line([-30, 30], [-30, 30], **guide)
        residual.line([-30, 30], [0, 0], **guide)
        for plot, suffix in ((flux, ""), (residual, "_residual")):
            for name, color, tags in (("sparse", OKABE_ITO["orange"], []), ("filled", "black", ["ink"])):
                mark = {"source": self.sources[name], "line_color": color, "line_width": 2, "tags": tags}
                plot.segment("x", f"low{suffix}", "x", f"high{suffix}", **mark)
                plot.scatter("x", f"middle{suffix}", size=8, fill_color=color if tags else None, **mark)
        for curve, end, dash, label in (
            (kewley2001, 0.35, "solid", "Kewley 2001"),
            (kauffmann2003, -0.05, "dashed", "Kauffmann 2003"),
        ):
            n2, style = np.linspace(-2.2, end, 80), {"line_dash": dash, "line_width": 1.3}
            bpt.line(n2, curve(n2), legend_label=label, color="black", tags=["ink"], **style)
        small = {"label_text_font_size": "11px", "glyph_width": 20, "glyph_height": 13, "padding": 1}
        bpt.legend.update(location="top_right", **small)

    def _draw_spectra(self):
        wavelength = np.asarray(self.state.pipeline.wavelength, dtype=np.float32)
        self.empty = np.full(wavelength.size, np.nan, dtype=np.float32)
        columns = {"wavelength": wavelength, **dict.fromkeys(CURVES, self.empty)}
        self.spectrum = ColumnDataSource(columns, name="spectrum")
        self.edges = float(wavelength[0]), float(wavelength[-1])
        named = {name: LINES[name] for name in NAMED}
        self.whole = self._draw_spectrum("whole", named, WAVELENGTH_LABEL, y_axis_label="normalised flux")
        self.near = self._draw_spectrum("near", LINES, "wavelength (Å)")
        self.near.legend.visible = False
        self.whole.add_layout(self.whole.legend[0], "above")
        self.whole.legend.update(orientation="horizontal", location="left", padding=0, margin=0)
        self.whole.legend.label_text_font_size = "12px"

    def _draw_spectrum(self, name, lines, x_label, **options):
        options |= {"x_range": Range1d(*self.edges, bounds=self.edges), "y_range": (0, 0.1)}
        plot = self._panel(name, 200, x_axis_label=x_label, tools="reset", title=" ", **options)
        for column, (label, color, thick, dash) in CURVES.items():
            style = {"color": color, "line_width": thick, "line_dash": dash, "legend_label": label}
            tags = ["ink"] if color == "black" else []
            plot.line("wavelength", column, source=self.spectrum, tags=tags, **style)
        LineMarks(plot, self.edges, 300, lines=lines).follow(plot)
        return plot

    # ---- from the page

    def _marked(self, event):
        """Take what a box, a lasso or a tap marked, Shift and Ctrl obeyed, from the page."""
        if event.final:
            self.act(self.state.brush, self.points.selected.indices)

    def _unmarked(self, indices):
        # jupyter_bokeh reports it twice, and what the kernel set itself.
        if not len(indices) and self.state.brushed.size:
            self.act(self.state.brush, [])

    def _zoomed(self):
        with self.state.lock, self.figure.batch():
            self._show_stars()

    # ---- what changed

    def draw(self, changed):
        state, near = self.state, self.near
        now = {name: values.to_numpy() for name, values in state.points.items()}
        for name in AXES.keys() - BPT_FRAME.keys():
            if not np.array_equal(now[name], self.points.data[name], equal_nan=True):
                set_range(self.ranges[name], *limits(now[name], low=0.4, high=99.6, margin=0.06))
        send(self.points, **now)
        for name, filled in (("filled", True), ("sparse", False)):
            rows = (state.bins["count"] > 0) & (state.bins["filled"] == filled)
            source = self.sources[name]
            send(source, **{column: state.bins[column][rows].astype("f4") for column in source.data})
        what = "peak (norm.)" if state.quantity == "peak" else "flux (norm. Å)"
        for name in ("flux", "residual"):
            self.scatter[name].xaxis.axis_label = f"log original {state.line} {what}"
        latent = self.scatter["latent"]
        latent.title.text = f"Latent space of {state.source}"
        latent.xaxis.axis_label, latent.yaxis.axis_label = f"z{state.axis_x}", f"z{state.axis_y}"
        if "line" in changed:
            low, high = self.edges
            low = max(low, min(LINES[state.line] - HALF_WINDOW, high - 2 * HALF_WINDOW))
            set_range(near.x_range, low, low + 2 * HALF_WINDOW)
            near.title.text = f"Around {state.line}"
        if sorted(self.points.selected.indices) != state.brushed.tolist():
            self.points.selected.indices = state.brushed.tolist()
        self._show_stars()
        self._show_spectrum()
        for name, (title, x, y) in PANELS.items():
            about = f"{title}, {state.line}, {state.source}: {len(state.points[[x, y]].dropna())} galaxies"
            alt(self.scatter[name], f"{about}, {state.brushed.size} of them marked.")

    def _show_stars(self):
        state, now, live = self.state, self.state.live, {name: [] for name in self.sources["live"].data}
        if not now.empty:
            error = np.nan_to_num(now["original_error"])
            live = {name: self._within(name, now[name]) for name in AXES}
            live |= {f"from_{k}": self._within(k, state.points.loc[now.index, k]) for k in AXES}
            live["original_low"] = self._within("original", now["original"] - error)
            live["original_high"] = self._within("original", now["original"] + error)
            live["ring"] = (now.index == state.shown).astype("f4")
        send(self.sources["live"], **live)

    def _within(self, column, values):
        """Move what lies outside a panel's frame to its edge: Bokeh's overlays are not cut off there."""
        axis = self.ranges[column]
        return np.clip(values, axis.start, axis.end).to_numpy(np.float32)

    def _show_spectrum(self):
        state, spectra, title = self.state, dict.fromkeys(CURVES, self.empty), "No spectrum"
        if state.spectra is not None:
            galaxy, title = state.spectra.sel(galaxy=state.shown), f"Spectrum of galaxy {state.shown}"
            spectra = {name: galaxy[name].values.astype(np.float32) for name in CURVES}
        send(self.spectrum, **spectra)
        self.whole.title.text = title
        alt(self.whole, f"{title}: original, noise-added, de-noised and fitted.")
        alt(self.near, f"{title} around {state.line}.")
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
        place = state.live_index.tolist().index(at) + 1
        return f"<b>{place}/{n}</b>{marked} · galaxy {at} · {kind} · Hα S/N {state.sn[at]:.0f}"


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
