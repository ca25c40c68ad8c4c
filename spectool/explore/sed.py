"""The dashboard of fluxes: change a galaxy's photometry, and ask networks and a library of models again."""

import html
import zlib
from functools import partial

import ipywidgets as W
import numpy as np
import pandas as pd
import traitlets
import xarray as xr
from bokeh.models import (
    CDSView,
    ColumnDataSource,
    GroupFilter,
    HoverTool,
    Legend,
    LinearScale,
    Range1d,
    TapTool,
)
from bokeh.plotting import figure
from scipy.stats import chi2

from spectool.explore.dashboard import Choice, Dashboard
from spectool.explore.style import OKABE_ITO
from spectool.explore.view import DashboardView, Slider, alt
from spectool.measure.sedfit import PROPERTIES, fit_galaxy, fit_library
from spectool.models.bands import FACILITY_BANDS, read_inputs
from spectool.papers import find_parts
from spectool.parallel import single_thread
from spectool.surveys.gama import move_fluxes

MOST_DEX, STEP = 1.0, 0.01  # of the slider
MISTAKE = 1000.0  # what fluxes in mJy are too high by if they are taken for Jy
N_NEAREST = 5
UNLIKELY = 1e-3  # chance of the best model's chi-square, below which the library has no such galaxy
LIMIT_SIGMA = 2.0  # fluxes below 1 sigma are drawn as limits of this many
LEAST_ERROR = 0.01  # dex, in tables
LEAST_FLUX = 1e-12  # Jy, of models on a logarithmic axis
NAME_ROWS = 3  # that names of bands stand in: neighbours would touch
GROUPS = {name: FACILITY_BANDS[name] for name in ("GALEX", "WISE")}
GROUPS["Herschel"] = FACILITY_BANDS["PACS"] + FACILITY_BANDS["SPIRE"]
CHANGED, BEST, GREY = OKABE_ITO["vermillion"], OKABE_ITO["orange"], "#888888"
# Name, colour, marker, and that as a character, from top to bottom in a property's row.
SOURCES = {
    "networks": ("networks", OKABE_ITO["blue"], "circle", "●"),
    "library": ("library fit", OKABE_ITO["orange"], "square", "■"),
    "teacher": ("teacher’s label", OKABE_ITO["bluish_green"], "diamond", "◆"),
    "truth": ("truth", GREY, "x", "✕"),
}
KINDS = {"flux": ("flux", "circle"), "limit": (f"{LIMIT_SIGMA:g}σ limit", "inverted_triangle")}
KINDS["missing"] = ("missing", "circle")
SHORT = {"log_mass": "log M*", "log_sfr": "log SFR", "log_dust_luminosity": "log L dust"}
UNITS = ("M☉", "M☉/yr", "L☉")
TOOLS = "pan,wheel_zoom,box_zoom,reset,save"
X_TICKS = [0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000]


class SedState(Dashboard):
    """One galaxy, what was done to its fluxes, and the properties that ``predict(sample)`` and a library give it."""

    name = "sed"
    controls = ("galaxy", "band", "shifts", "dropped", "mistaken")

    galaxy = Choice().tag(
        ui=True, label="Galaxy", tooltip="galaxy to change; the most star-forming comes first"
    )
    band = Choice().tag(ui=True, label="Band", tooltip="band that the slider moves; or click on a point")
    shifts = traitlets.Dict().tag(
        ui=True, label="Flux (dex)", tooltip="change of its flux; 0.3 is twice as bright"
    )
    dropped = Choice(many=True).tag(ui=True, tooltip="bands that are taken away")
    mistaken = traitlets.Bool(False).tag(
        ui=True, label="Mistake: mJy taken for Jy", tooltip="all fluxes and errors 1,000 times too high"
    )

    def __init__(self, sample, predict, *, library=None, start=None):
        super().__init__(start=start)
        if (unit := sample["flux"].attrs.get("units")) != "Jy":
            raise ValueError(f"fluxes must be in Jy, not {unit!r}: convert them")
        place = sample if "band_wavelength" in sample.coords or library is None else library
        if "band_wavelength" not in place.coords:
            raise ValueError(
                "the sample lacks the coordinate band_wavelength [Angstrom], and no library has it"
            )
        wavelength = place["band_wavelength"].sel(band=sample["band"].values)
        self.sample = sample.isel(band=np.argsort(wavelength.values)).transpose("galaxy", "band", ...)
        self.bands = self.sample["band"].values.astype(str).tolist()
        self.wavelength = 1e-4 * np.sort(wavelength.values.astype(float))  # micron
        self.predict, self.library = predict, library
        self.names, self.numbers = (self.sample[name].values.tolist() for name in ("name", "number"))
        self._ask_all()
        self._change(self.first_state())

    def _ask_all(self):
        """Ask about all galaxies as they were observed: where answers start from, and which galaxy is ordinary."""
        observed = self.sample[[c for c in ("flux", "flux_error", "mask", "redshift") if c in self.sample]]
        with single_thread():
            predicted = self.predict(observed)
            doubtful = predicted["reason"].values != ""
            if self.library is not None:
                fitted = fit_library(observed, self.library, progress=False)
                doubtful |= ~(chi2.sf(fitted["chi2_fit"], fitted["n_bands_fit"]) > UNLIKELY)
        self.origins = np.stack([predicted[name].values for name in PROPERTIES], axis=1)
        faint = ~(self.sample["flux"].values > self.sample["flux_error"].values)
        self.ordinary = self.numbers[int(np.lexsort([faint.sum(axis=1), doubtful])[0])]

    def identity(self):
        redshifts = np.round(self.sample["redshift"].values, 4).astype("f4").tobytes()
        return {"sample": f"{len(self.numbers)} galaxies, {zlib.crc32(redshifts):08x}"}

    # ---- choices

    def choices(self, name):
        return list(zip(self.names, self.numbers, strict=True)) if name == "galaxy" else self.bands

    def first_state(self):
        """Return the galaxy that is seen in most bands, of those to which nobody objects, as it was observed."""
        band = "r" if "r" in self.bands else self.bands[0]
        return {"galaxy": self.ordinary, "band": band, "shifts": {}, "dropped": [], "mistaken": False}

    def reset(self):
        """Go back to the galaxy as it was observed."""
        self.set(shifts={}, dropped=(), mistaken=False)

    def complete(self, changes):
        if changes.get("galaxy", self.galaxy) != self.galaxy:
            changes = {"shifts": {}, "dropped": (), "mistaken": False} | changes
        return changes | ({"shifts": self._check(changes["shifts"])} if "shifts" in changes else {})

    def _check(self, shifts):
        """Shifts by band, held within the slider's range; those of 0 are left out."""
        try:
            shifts = {band: float(dex) for band, dex in shifts.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"shifts are dex by band, such as {{'r': 0.3}}, not {shifts!r}") from error
        if unknown := [band for band in shifts if band not in self.bands]:
            raise ValueError(f"there is no band {unknown[0]!r}; there are: {', '.join(self.bands)}")
        if not np.isfinite(list(shifts.values())).all():
            raise ValueError("a shift must be finite")
        held = {band: round(min(max(dex, -MOST_DEX), MOST_DEX), 2) for band, dex in shifts.items()}
        return {band: held[band] for band in self.bands if held.get(band)}

    def set_shift(self, dex):
        """Multiply the chosen band's flux by 10^dex."""
        self.set(shifts=self.shifts | {self.band: dex})

    def drop(self, bands, gone):
        """Take bands away, or give them back."""
        self.set(dropped=[*self.dropped, *bands] if gone else [b for b in self.dropped if b not in bands])

    # ---- what follows

    def derive(self, changed):
        if "galaxy" in changed:
            row = self.numbers.index(self.galaxy)
            galaxy = self.sample.isel(galaxy=[row])
            flux, error = (galaxy[name].values[0].astype(float) for name in ("flux", "flux_error"))
            bad = ~np.isfinite(flux) | ~np.isfinite(error) | (error <= 0)
            bad |= galaxy["mask"].values[0] if "mask" in galaxy else False
            self.measured, self.origin = ~bad, self.origins[row]
            self.observed, self.observed_error = (np.where(bad, np.nan, values) for values in (flux, error))
            self.redshift = galaxy["redshift"].variable
            self.known = {"teacher": _read_known(galaxy, "_fit"), "truth": _read_known(galaxy, "")}
        if changed != ("band",):
            with single_thread():
                self._ask()

    def _ask(self):
        """What networks and library say of the fluxes as they are now."""
        dex = np.array([self.shifts.get(band, 0.0) for band in self.bands])
        moved = move_fluxes(self.observed, self.observed_error, dex, self.bands)
        self.flux, self.error = (values * (MISTAKE if self.mistaken else 1.0) for values in moved)
        self.missing = ~self.measured | np.isin(self.bands, self.dropped)
        self.score, self.reason, self.fit_reason, self.nearest = np.nan, "", "", {}
        self.model_flux = np.full((N_NEAREST, len(self.bands)), np.nan)
        dims, units = ("galaxy", "band"), {"units": "Jy"}
        columns = {"flux": self.flux, "flux_error": self.error, "mask": self.missing}
        columns = {name: (dims, values[None], units) for name, values in columns.items()}
        changed = xr.Dataset(columns | {"redshift": self.redshift}, {"band": self.bands})
        unknown = np.full((len(PROPERTIES), 3), np.nan)
        self.answers = {"networks": unknown, "library": unknown, **self.known}
        try:
            answer = self.predict(changed)
        except ValueError as error:  # fluxes that look like magnitudes, of a single galaxy
            self.reason = str(error)
            return
        values = ((answer[name].values[0], answer[f"{name}_error"].values[0]) for name in PROPERTIES)
        self.answers["networks"] = np.array([(v, v - e, v + e) for v, e in values], dtype=float)
        self.reason = str(answer["reason"].values[0])
        if "outlier_score" in answer:
            self.score = abs(float(answer["outlier_score"].values[0]))
        if self.library is not None:
            self._fit(read_inputs(changed, self.bands))

    def _fit(self, inputs):
        self.answers["library"], best, near, reason = fit_galaxy(inputs, self.library, self.bands, N_NEAREST)
        if reason:
            self.fit_reason = f"not fitted: {reason}"
            return
        self.model_flux, self.nearest = np.maximum(near.pop("model_flux"), LEAST_FLUX), near
        n = int((~inputs.mask).sum())
        if not chi2.sf(best, n) > UNLIKELY:
            self.fit_reason = f"no model of the library is near: χ² of the best is {best:.0f} in {n} bands"

    def list_sources(self):
        """Those of `SOURCES` that have an answer."""
        return [name for name in SOURCES if not np.isnan(self.answers[name][:, 0]).all()]

    def photometry(self):
        """What is drawn of each band, as columns of equal length."""
        faint = self.measured & ~(self.flux >= self.error)
        y = np.where(faint, np.maximum(self.flux, 0) + LIMIT_SIGMA * self.error, self.flux)
        y = np.where(self.measured, y, self.model_flux[0])
        kind = np.where(self.missing, "missing", np.where(faint, "limit", "flux"))
        ends = np.stack([np.maximum(y - self.error, 0.05 * y), y + self.error])
        low, high = np.where(kind == "flux", ends, np.nan)
        moved = self.mistaken | np.isin(self.bands, list(self.shifts))
        before = np.where(moved & self.measured & (self.observed > 0), self.observed, np.nan)
        bands = {"band": np.array(self.bands), "wavelength": self.wavelength}
        return bands | {"y": y, "low": low, "high": high, "before": before, "kind": kind}

    def table(self):
        columns = {"band": self.bands, "wavelength_micron": self.wavelength, "flux_jy": self.flux}
        columns |= {"flux_error_jy": self.error, "missing": self.missing, "flux_observed_jy": self.observed}
        columns["shift_dex"] = [self.shifts.get(band, 0.0) for band in self.bands]
        return pd.DataFrame(columns | {"model_flux_jy": self.model_flux[0]})

    def about(self):
        name = self.names[self.numbers.index(self.galaxy)]
        lines = [*super().about(), f"galaxy: {name}{', fluxes in mJy taken for Jy' * self.mistaken}"]
        for source in self.list_sources():
            for name, (value, low, high) in zip(PROPERTIES, self.answers[source], strict=True):
                error = "" if np.isnan(low) else f" ({low:.3f} to {high:.3f})"
                lines.append(f"{SOURCES[source][0]}: {name} {value:.3f}{error}")
        return lines + [f"doubtful: {reason}" for reason in (self.reason, self.fit_reason) if reason]


def _read_known(galaxy, ending):
    """Value, 16 and 84% of each property that the sample has a column for, (property, 3); NaN for what it lacks."""
    names = [[name + ending + end for end in ("", "_low", "_high")] for name in PROPERTIES]
    return np.array([[float(galaxy[c].values[0]) if c in galaxy else np.nan for c in row] for row in names])


class SedView(DashboardView):
    """The dashboard of fluxes, of a `SedState`."""

    rows = (("galaxy",), ("band",), ("shifts",), ("dropped",), ("mistaken",))
    hint = "Drag the slider: the flux of the ringed band moves, and the answers below follow."
    opener = "open_sed_dashboard()"

    # ---- controls

    def make_control(self, name):
        wide = W.Layout(width="auto", flex="1 1 auto", min_width="0")
        if name == "shifts":
            label, tooltip = (self.state.trait_metadata(name, key) for key in ("label", "tooltip"))
            slider = Slider(min=-MOST_DEX, max=MOST_DEX, step=STEP, readout_format="+.2f", layout=wide)
            slider.description, slider.tooltip = label, tooltip
            slider.observe(lambda change: self._slide(slider, change["new"]), "value")
            return slider
        if name != "dropped":
            return super().make_control(name)
        groups = {name: bands for name, bands in GROUPS.items() if set(bands) <= set(self.state.bands)}
        tips = {"": "the chosen band"} | {name: ", ".join(bands) for name, bands in groups.items()}
        self.drops = {name: W.ToggleButton(tooltip=f"drop {tip}", layout=wide) for name, tip in tips.items()}
        for group, button in self.drops.items():
            button.observe(partial(self._press, group), "value")
        return W.HBox([*self.drops.values()], layout=W.Layout(width="100%"))

    def _slide(self, slider, value):
        if not (self._quiet or slider.is_echo(value)):
            self.act(self.state.set_shift, value)

    def _press(self, group, change):
        if not self._quiet:
            self.act(self.state.drop, GROUPS.get(group, [self.state.band]), change["new"])

    def show_control(self, name, widget):
        state = self.state
        if name == "shifts":
            widget.show(state.shifts.get(state.band, 0.0))
            widget.disabled = not state.measured[state.bands.index(state.band)]
        elif name == "dropped":
            for group, button in self.drops.items():
                button.description = f"no {group or state.band}"
                button.value = set(GROUPS.get(group, [state.band])) <= set(state.dropped)
        else:
            super().show_control(name, widget)

    # ---- figures

    def make_panels(self):
        names = ("points", "chosen", "models", *SOURCES)
        self.sources = {name: ColumnDataSource(name=name) for name in names}
        self.sources["points"].selected.on_change("indices", self._tapped)
        return [[self._draw_photometry()], [self._draw_comparison()]]

    def _draw_photometry(self):
        points, chosen = self.sources["points"], self.sources["chosen"]
        ends = 0.75 * self.state.wavelength[0], 1.35 * self.state.wavelength[-1]
        ranges = {"x_range": ends, "y_range": (1e-6, 1)}
        labels = {"x_axis_label": "observed wavelength (µm)", "y_axis_label": "flux density (Jy)"}
        title, log = "Fluxes, and the nearest models", {"x_axis_type": "log", "y_axis_type": "log"}
        plot = _make_panel("photometry", title, 305, tools=TOOLS, **log, **ranges, **labels)
        plot.xaxis.ticker, plot.xaxis.major_label_overrides = X_TICKS, {x: f"{x:g}" for x in X_TICKS}
        plot.extra_y_ranges, plot.extra_y_scales = {"frame": Range1d(0, 1)}, {"frame": LinearScale()}
        x, ink = {"x": "wavelength", "source": points}, []
        ink.append(plot.segment("wavelength", "low", "wavelength", "high", source=points, line_width=1.4))
        drawn = []
        for kind, (label, marker) in KINDS.items():
            view = CDSView(filter=GroupFilter(column_name="kind", group=kind))
            style = {"color": GREY, "fill_alpha": 0} if kind == "missing" else {"color": "black"}
            drawn.append(
                plot.scatter(y="y", **x, **style, marker=marker, size=7, view=view, legend_label=label)
            )
            drawn[-1].nonselection_glyph = drawn[-1].selection_glyph = None
        if self.state.library is not None:
            style = {"level": "underlay", "color": BEST}
            plot.line(y="best", **x, **style, line_width=2.6, legend_label="best model")
            style |= {"source": self.sources["models"], "line_alpha": 0.6}
            plot.multi_line("xs", "ys", **style, legend_label="next four")
        plot.scatter(y="before", **x, marker="x", size=8, color=GREY)
        ring = {"fill_alpha": 0, "line_color": CHANGED, "line_width": 2.4}
        plot.scatter("wavelength", "y", source=chosen, size=16, **ring)
        font = {"text_font_size": "11px", "text_align": "center", "text_baseline": "top"}
        names = {"y": "name_y", "text": "band", "y_range_name": "frame", **font}
        ink.append(plot.text(**x, **names, text_alpha="alpha"))
        plot.text(x="wavelength", source=chosen, **names, text_color=CHANGED, text_font_style="bold")
        for renderer in (*ink, *drawn[:2]):
            renderer.tags = ["ink"]
        tips = [("", "@band, @wavelength{0.000} µm"), ("flux", "@text"), ("", "@kind")]
        plot.add_tools(HoverTool(renderers=drawn, tooltips=tips), TapTool(renderers=drawn))
        return plot

    def _draw_comparison(self):
        n, label = len(PROPERTIES), "dex from the networks’ answer to the galaxy as observed"
        ranges = {"x_range": (-0.5, 0.5), "y_range": (n - 0.5, -0.5)}
        title = "Properties that follow"
        plot = _make_panel("comparison", title, 195, tools="", x_axis_label=label, **ranges)
        plot.yaxis.ticker = list(range(n))
        plot.yaxis.major_label_overrides = dict(enumerate(SHORT.values()))
        plot.ygrid.visible = False
        plot.segment(0, -0.5, 0, n - 0.5, color=GREY, line_dash=[4, 4])
        for name, (text, color, marker, _) in SOURCES.items():
            style = {"source": self.sources[name], "color": color, "line_width": 2.2}
            plot.segment("low", "row", "high", "row", **style)
            plot.scatter("value", "row", marker=marker, size=10, legend_label=text, **style)
        return plot

    def _tapped(self, attr, old, new):
        if new:
            self.act(self.state.set, band=self.state.bands[new[0]])
            # The mark of a selection is ours; the next click is to count as one again.
            self.sources["points"].selected.indices = []

    def draw(self, changed):
        columns, refit = self.state.photometry(), "galaxy" in changed
        self._show_points(columns)
        if changed != ("band",):
            self._show_answers(refit)
            self._fit_flux(columns, refit)

    def _show_points(self, columns):
        # As lists: 21 numbers are sent sooner within the message than as a buffer of their own.
        state, k, plot = self.state, self.state.bands.index(self.state.band), self.panels[0][0]
        name_y = 0.985 - 0.065 * (np.arange(len(state.bands)) % NAME_ROWS)
        alpha = np.where(columns["kind"] == "missing", 0.45, 0.85)
        alpha[k] = 0
        pairs = zip(state.flux, state.error, strict=True)
        text = [_minus(f"{flux:.2e} ± {error:.1e} Jy") for flux, error in pairs]
        columns = columns | {
            "name_y": name_y,
            "alpha": alpha,
            "best": state.model_flux[0],
            "text": np.array(text),
        }
        self.sources["points"].data = {name: values.tolist() for name, values in columns.items()}
        names = ("wavelength", "y", "band", "name_y")
        self.sources["chosen"].data = {name: [columns[name][k].item()] for name in names}
        ys = state.model_flux[1:].tolist()
        self.sources["models"].data = {"xs": [state.wavelength.tolist()] * len(ys), "ys": ys}
        shown = [(columns["kind"] == kind).any() for kind in KINDS] + [bool(state.nearest)] * 2
        for item, visible in zip(plot.legend[0].items, shown, strict=False):
            item.visible = bool(visible)
        moved = ", ".join(f"{band} by {dex:+.2f} dex" for band, dex in state.shifts.items()) or "no band"
        n = int((~state.missing).sum())
        alt(plot, f"Fluxes of galaxy {state.galaxy} in {n} bands; moved: {moved}; chosen: {state.band}.")

    def _show_answers(self, refit):
        state, plot, reach, words = self.state, self.panels[1][0], [0.3], []
        for k, (source, (text, *_)) in enumerate(SOURCES.items()):
            away = state.answers[source] - state.origin[:, None]
            away[~np.isfinite(away)] = np.nan  # no star formation, no dust: log of 0
            reach.append(np.nanmax(np.abs(away), initial=0.0))
            columns = dict(zip(("value", "low", "high"), away.T.tolist(), strict=True))
            row = np.arange(len(away)) + 0.16 * (k - 1.5)
            self.sources[source].data = columns | {"row": row.tolist()}
            plot.legend[0].items[k].visible = known = source in state.list_sources()
            if known:
                values = zip(SHORT.values(), state.answers[source][:, 0], strict=True)
                words.append(f"{text}: " + ", ".join(f"{name} {value:.2f}" for name, value in values))
        reach = 1.08 * max(reach)
        if refit or not 0.4 * plot.x_range.end < reach <= plot.x_range.end:
            plot.x_range.update(start=-reach, end=reach)
        alt(plot, "; ".join(words) + ".")

    def _fit_flux(self, columns, refit):
        drawn = (columns[name] for name in ("y", "low", "high", "before"))
        values = np.concatenate([*drawn, self.state.model_flux[0]])
        values = values[np.isfinite(values) & (values > 0)]
        if not values.size:
            return
        low, high = values.min() / 2, values.max() * 2
        high *= (high / low) ** 0.2  # room for the names of bands
        y_range = self.panels[0][0].y_range
        inside = y_range.start <= 1.3 * low and high <= 1.3 * y_range.end
        if refit or not inside or (high / low) ** 1.6 < y_range.end / y_range.start:
            y_range.update(start=float(low), end=float(high))

    # ---- words

    def describe(self):
        state, text = self.state, f"{(~self.state.missing).sum()} of {len(self.state.bands)} bands"
        if np.isfinite(state.score):
            text += (
                f", outlier score {state.score:.1f}{'' if state.reason else ': like the training galaxies'}"
            )
        doubts = [reason for reason in (state.reason, state.fit_reason) if reason]
        if not state.measured[state.bands.index(state.band)]:
            doubts.append(f"{state.band} was not measured: it cannot be moved")
        return text, "; ".join(doubts)

    def make_tables(self):
        state, rows = self.state, []
        doubts = {"networks": state.reason, "library": state.fit_reason}
        for source in state.list_sources():
            text, color, _, sign = SOURCES[source]
            cells = [_cell(*answer, html.escape(doubts.get(source, ""))) for answer in state.answers[source]]
            rows.append([f'<span style="color:{color}">{sign}</span> {text}', *cells])
        heads = [f"{name}<br>[{unit}]" for name, unit in zip(SHORT.values(), UNITS, strict=True)]
        answers = pd.DataFrame(rows, columns=["68% errors", *heads])
        tables = [answers.to_html(index=False, border=0, escape=False)]
        if state.nearest:
            table = pd.DataFrame(state.nearest).rename(
                columns=SHORT | {"model": "nearest model", "chi2": "χ²"}
            )
            tables.append(table.to_html(index=False, border=0, float_format=lambda v: _minus(f"{v:.2f}")))
        return tables


def _make_panel(name, title, height, **options):
    """A figure whose frame lines up with the others', with an empty legend above it."""
    sizes = {"height": height, "sizing_mode": "stretch_width", "min_border_left": 78, "min_border_right": 16}
    plot = figure(name=name, title=title, active_scroll=None, **sizes, **options)
    plot.add_layout(Legend(orientation="horizontal", location="left", margin=2), "above")
    return plot


def _minus(text):
    return text.replace("-", "−")


def _cell(middle, low, high, doubt):
    """An answer as HTML, grey where it is doubtful."""
    if not np.isfinite(middle):
        return "–" if np.isnan(middle) else "none"
    error = "" if np.isnan(low) else f"&#8239;±&#8239;{max(0.5 * (high - low), LEAST_ERROR):.2f}"
    text = _minus(f"{middle:.2f}") + error
    return f'<span class="dim" title="{doubt}">{text}</span>' if doubt else text


def open_sed_dashboard(sample=None, *, networks=None, library=None, n_galaxies=30, export_folder="exports"):
    """Open the dashboard of fluxes.

    Parameters
    ----------
    sample : xarray.Dataset, optional
        With dims (galaxy, band): ``flux``, ``flux_error`` [Jy], ``redshift`` and, if there is one, ``mask`` (True:
        missing); labels of a teacher, ``<property>_fit``, and truths are shown where they are. Some of its galaxies are
        taken, see ``n_galaxies``. By default mock galaxies and a library are drawn, in seconds.
    networks : (BandEnsemble, dict of str to ndarray), optional
        An ensemble, and its reference for outliers; default: the shipped one.
    library : xarray.Dataset, optional
        From `spectool.measure.sedfit.draw_library`; without it galaxies of one's own are not fitted.
    n_galaxies : int
    export_folder : str or pathlib.Path

    Returns
    -------
    SedView
    """
    (part,) = find_parts("sed").values()
    given = {"sample": sample, "networks": networks, "library": library}
    if sample is None:
        sample, drawn = part.draw()
        library = drawn if library is None else library
    ensemble, arrays = networks or part.load_networks()
    outliers = arrays if "outlier_center" in arrays else None
    predict = partial(part.predict_properties, networks=ensemble, outliers=outliers)
    state = SedState(part.pick_galaxies(sample, n_galaxies), predict, library=library)
    view = SedView(state, export_folder=export_folder)
    view.opener = f"open_sed_dashboard({', '.join(f'{k}={k}' for k, v in given.items() if v is not None)})"
    return view
