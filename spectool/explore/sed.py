"""The dashboard of fluxes: change a galaxy's photometry, and ask networks and a library of models again."""

import html
import zlib
from functools import partial

import ipywidgets as W
import numpy as np
import pandas as pd
import traitlets
import xarray as xr
from bokeh.models import CDSView, ColumnDataSource, GroupFilter, HoverTool, LinearScale, Range1d, TapTool
from bokeh.plotting import figure
from scipy.stats import chi2

from spectool.explore.dashboard import Choice, Dashboard
from spectool.explore.style import OKABE_ITO
from spectool.explore.view import DashboardView, Slider, alt, limits
from spectool.measure.sedfit import PROPERTIES, fit_galaxy, fit_library
from spectool.models.bands import FACILITY_BANDS, read_inputs
from spectool.papers import find_parts
from spectool.parallel import single_thread
from spectool.surveys.gama import move_fluxes

MOST_DEX, STEP = 1.0, 0.01  # of the slider
MISTAKE = 1000.0  # what fluxes in mJy are too high by if they are taken for Jy
N_GALAXIES, N_NEAREST = 30, 5
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
# Kind of a point: its name in the legend, its marker.
KINDS = {"flux": ("flux", "circle"), "limit": (f"{LIMIT_SIGMA:g}σ limit", "inverted_triangle")}
KINDS["missing"] = ("missing", "circle")
BORDER = {"min_border_left": 78, "min_border_right": 16}  # the same for both panels: their frames line up
# Columns of the table: their names in the file.
COLUMNS = {"band": "band", "wavelength": "wavelength_micron", "flux": "flux_jy", "error": "flux_error_jy"}
COLUMNS |= {
    "missing": "missing",
    "observed": "flux_observed_jy",
    "shift": "shift_dex",
    "model": "model_flux_jy",
}
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
        owners = [part for part in (sample, library) if part is not None and "band_wavelength" in part.coords]
        if not owners:
            raise ValueError(
                "the sample lacks the coordinate band_wavelength [Angstrom], and no library has it"
            )
        wavelength = owners[0]["band_wavelength"].sel(band=sample["band"].values)
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
            dex = pd.Series(shifts, dtype=float)
        except (TypeError, ValueError) as error:
            raise ValueError(f"shifts are dex by band, such as {{'r': 0.3}}, not {shifts!r}") from error
        if unknown := [band for band in dex.index if band not in self.bands]:
            raise ValueError(f"there is no band {unknown[0]!r}; there are: {', '.join(self.bands)}")
        if not np.isfinite(dex).all():
            raise ValueError("a shift must be finite")
        held = dex.clip(-MOST_DEX, MOST_DEX).round(2)
        return {band: float(held[band]) for band in self.bands if held.get(band)}

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
        self.dex = np.array([self.shifts.get(band, 0.0) for band in self.bands])
        moved = move_fluxes(self.observed, self.observed_error, self.dex, self.bands)
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
        """What is known of each band and drawn of it (``y`` between ``low`` and ``high``), as a DataFrame."""
        faint = self.measured & ~(self.flux >= self.error)
        y = np.where(faint, np.maximum(self.flux, 0) + LIMIT_SIGMA * self.error, self.flux)
        y = np.where(self.measured, y, self.model_flux[0])
        kind = np.where(self.missing, "missing", np.where(faint, "limit", "flux"))
        ends = np.stack([np.maximum(y - self.error, 0.05 * y), y + self.error])
        low, high = np.where(kind == "flux", ends, np.nan)
        moved = (self.mistaken | (self.dex != 0)) & self.measured & (self.observed > 0)
        known = {"flux": self.flux, "error": self.error, "missing": self.missing, "observed": self.observed}
        known |= {"shift": self.dex, "model": self.model_flux[0]}
        drawn = {"y": y, "low": low, "high": high, "before": np.where(moved, self.observed, np.nan)}
        bands = {"band": self.bands, "wavelength": self.wavelength}
        return pd.DataFrame(bands | known | drawn | {"kind": kind})

    def table(self):
        return self.photometry()[list(COLUMNS)].rename(columns=COLUMNS)

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
            return self.link(slider, self.state.set_shift)
        if name != "dropped":
            return super().make_control(name)
        groups = {name: bands for name, bands in GROUPS.items() if set(bands) <= set(self.state.bands)}
        tips = {"": "the chosen band"} | {name: ", ".join(bands) for name, bands in groups.items()}
        self.drops = {name: W.ToggleButton(tooltip=f"drop {tip}", layout=wide) for name, tip in tips.items()}
        for group, button in self.drops.items():
            self.link(button, partial(self._drop, group))
        return W.HBox([*self.drops.values()], layout=W.Layout(width="100%"))

    def _drop(self, group, gone):
        self.state.drop(GROUPS.get(group, [self.state.band]), gone)

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
        points, shown = self.sources["points"], {"source": self.sources["points"], "x": "wavelength"}
        ends = 0.75 * self.state.wavelength[0], 1.35 * self.state.wavelength[-1]
        options = {"x_axis_label": "observed wavelength (µm)", "y_axis_label": "flux density (Jy)", **BORDER}
        options |= {"x_axis_type": "log", "y_axis_type": "log", "x_range": ends, "y_range": (1e-6, 1)}
        options |= {"name": "photometry", "title": "Fluxes, and the nearest models"}
        plot = figure(height=305, tools=TOOLS, **options)
        plot.xaxis.ticker, plot.xaxis.major_label_overrides = X_TICKS, {x: f"{x:g}" for x in X_TICKS}
        plot.extra_y_ranges, plot.extra_y_scales = {"frame": Range1d(0, 1)}, {"frame": LinearScale()}
        ink = [plot.segment("wavelength", "low", "wavelength", "high", source=points, line_width=1.4)]
        drawn = []
        for kind, (label, marker) in KINDS.items():
            style = {"color": GREY, "fill_alpha": 0} if kind == "missing" else {"color": "black"}
            style |= {"marker": marker, "size": 7, "legend_label": label}
            view = CDSView(filter=GroupFilter(column_name="kind", group=kind))
            drawn.append(plot.scatter(y="y", view=view, **shown, **style))
            drawn[-1].nonselection_glyph = drawn[-1].selection_glyph = None
        if self.state.library is not None:
            style = {"level": "underlay", "color": BEST}
            plot.line(y="model", **shown, **style, line_width=2.6, legend_label="best model")
            style |= {"line_alpha": 0.6, "legend_label": "next four"}
            plot.multi_line("xs", "ys", source=self.sources["models"], **style)
        plot.scatter(y="before", **shown, marker="x", size=8, color=GREY)
        names = {"y": "name_y", "text": "band", "y_range_name": "frame", "text_font_size": "11px"}
        names |= {"text_align": "center", "text_baseline": "top"}
        ink.append(plot.text(**shown, **names, text_alpha="alpha"))
        chosen = {"x": "wavelength", "source": self.sources["chosen"]}
        plot.scatter(y="y", **chosen, size=16, fill_alpha=0, line_color=CHANGED, line_width=2.4)
        plot.text(**chosen, **names, text_color=CHANGED, text_font_style="bold")
        for renderer in (*ink, *drawn[:2]):
            renderer.tags = ["ink"]
        tips = [("", "@band, @wavelength{%.3f} µm"), ("flux", "@flux{%.2e} ± @error{%.1e} Jy"), ("", "@kind")]
        formatters = dict.fromkeys(("@wavelength", "@flux", "@error"), "printf")
        hover = HoverTool(renderers=drawn, tooltips=tips, formatters=formatters)
        plot.add_tools(hover, TapTool(renderers=drawn))
        return _with_legend(plot)

    def _draw_comparison(self):
        n, label = len(PROPERTIES), "dex from the networks’ answer to the galaxy as observed"
        options = {"x_range": (-0.5, 0.5), "y_range": (n - 0.5, -0.5), "x_axis_label": label, **BORDER}
        plot = figure(title="Properties that follow", height=195, tools="", **options)
        plot.yaxis.ticker = list(range(n))
        plot.yaxis.major_label_overrides = dict(enumerate(SHORT.values()))
        plot.ygrid.visible = False
        plot.segment(0, -0.5, 0, n - 0.5, color=GREY, line_dash=[4, 4])
        for name, (text, color, marker, _) in SOURCES.items():
            style = {"source": self.sources[name], "color": color, "line_width": 2.2}
            plot.segment("low", "row", "high", "row", **style)
            plot.scatter("value", "row", marker=marker, size=10, legend_label=text, **style)
        return _with_legend(plot)

    def _tapped(self, attr, old, new):
        if new:
            self.act(self.state.set, band=self.state.bands[new[0]])
            # The mark of a selection is ours; the next click is to count as one again.
            self.sources["points"].selected.indices = []

    def draw(self, changed):
        table, refit = self.state.photometry(), "galaxy" in changed
        self._show_points(table)
        if changed != ("band",):
            self._show_answers(refit)
            self._fit_flux(table[["y", "low", "high", "before", "model"]].to_numpy(), refit)

    def _show_points(self, table):
        state, k, plot = self.state, self.state.bands.index(self.state.band), self.panels[0][0]
        table["name_y"] = 0.985 - 0.065 * (table.index % NAME_ROWS)
        table["alpha"] = np.where(table["kind"] == "missing", 0.45, 0.85)
        table.loc[k, "alpha"] = 0
        # As lists: 21 numbers are sent sooner within the message than as a buffer of their own.
        self.sources["points"].data = table.to_dict("list")
        self.sources["chosen"].data = table.iloc[[k]][["wavelength", "y", "band", "name_y"]].to_dict("list")
        ys = state.model_flux[1:].tolist()
        self.sources["models"].data = {"xs": [state.wavelength.tolist()] * len(ys), "ys": ys}
        shown = [(table["kind"] == kind).any() for kind in KINDS] + [bool(state.nearest)] * 2
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

    def _fit_flux(self, values, refit):
        low, high = limits(np.log10(values[values > 0]), low=0, high=100)
        high += 0.2 * (high - low)  # room for the names of bands
        y_range = self.panels[0][0].y_range
        start, end = np.log10([y_range.start, y_range.end])
        inside = start <= low + 0.1 and high - 0.1 <= end
        if refit or not inside or 1.6 * (high - low) < end - start:
            y_range.update(start=float(10**low), end=float(10**high))

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
        near = pd.DataFrame(state.nearest).rename(columns=SHORT | {"model": "nearest model", "chi2": "χ²"})
        shown = near.to_html(index=False, border=0, float_format=lambda v: _minus(f"{v:.2f}"))
        return [answers.to_html(index=False, border=0, escape=False), shown if state.nearest else ""]


def _with_legend(plot):
    plot.add_layout(plot.legend[0], "above")
    plot.legend.update(orientation="horizontal", location="left", margin=2)
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


def open_sed_dashboard(sample=None, *, networks=None, library=None):
    """Open the dashboard of fluxes.

    Parameters
    ----------
    sample : xarray.Dataset, optional
        With dims (galaxy, band): ``flux``, ``flux_error`` [Jy], ``redshift`` and, if there is one, ``mask`` (True:
        missing); labels of a teacher, ``<property>_fit``, and truths are shown where they are. 30 of its galaxies are
        taken. By default mock galaxies and a library are drawn, in seconds.
    networks : (BandEnsemble, dict of str to ndarray), optional
        An ensemble, and its reference for outliers; default: the shipped one.
    library : xarray.Dataset, optional
        From `spectool.measure.sedfit.draw_library`; without it galaxies of one's own are not fitted.

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
    view = SedView(SedState(part.pick_galaxies(sample, N_GALAXIES), predict, library=library))
    view.opener = f"open_sed_dashboard({', '.join(f'{k}={k}' for k, v in given.items() if v is not None)})"
    return view
