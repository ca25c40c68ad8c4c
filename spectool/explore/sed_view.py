"""The dashboard of fluxes: ipywidgets and Bokeh figures that are linked to a `SedState`, and no more."""

import html
from pathlib import Path

import ipywidgets as W
import numpy as np

from spectool.explore.bokeh_widget import link
from spectool.explore.exports import connect_files, report
from spectool.explore.sed_figure import BEST, NEAREST, SHORT, SOURCES, SedFigure, compare_answers
from spectool.explore.sed_files import load_state, save_csv, save_png, save_state
from spectool.explore.sed_state import GROUPS, MOST_DEX, SedState
from spectool.explore.style import OKABE_ITO
from spectool.measure.sedfit import PROPERTIES
from spectool.papers.surana2020.network import load_networks

NETWORKS = tuple(f"surana2020_ensemble{k}" for k in range(1, 6))
N_GALAXIES = 30
SIDE_WIDTH = "334px"
UNITS = {"log_mass": "M☉", "log_sfr": "M☉/yr", "log_dust_luminosity": "L☉"}
SIGNS = {"circle": "●", "square": "■", "diamond": "◆", "x": "✕"}
CSS = f"""<style>
.sed-side .widget-dropdown .widget-label, .sed-side .widget-slider .widget-label {{ width: 66px; }}
.sed-side .widget-readout {{ min-width: 66px; overflow: visible; }}
.sed-side .jupyter-button {{ padding: 0 6px; }}
.sed-side .widget-checkbox {{ height: 22px; margin: 0 0 0 4px; }}
.sed-side .widget-checkbox label.widget-label-basic {{ line-height: 22px; width: auto; }}
.sed-side .widget-checkbox input {{ margin: 0 4px 0 0; }}
.sed-table table {{ font-size: 12px; line-height: 17px; border-collapse: collapse; width: 100%; }}
.sed-table table + table {{ margin-top: 6px; }}
.sed-table td, .sed-table th {{ padding: 0 3px; text-align: right; white-space: nowrap; }}
.sed-table td:first-child, .sed-table th:first-child {{ text-align: left; }}
.sed-table th {{ font-weight: 600; border-bottom: 1px solid #B0B0B0; vertical-align: bottom; }}
.sed-line .widget-html-content {{ font-size: 12.5px; line-height: 18px; overflow-wrap: anywhere; }}
.sed-warning {{ color: {OKABE_ITO["vermillion"]}; }}
</style>"""


class SedView:
    """The dashboard; a notebook shows it when it is the last line of a cell."""

    def __init__(self, state, *, export_folder="exports"):
        self.state, self.export_folder = state, Path(export_folder)
        self.figure = SedFigure(state)
        self._make_controls()
        self._make_texts()
        self._link()
        self.widget = self._arrange()

    def _repr_mimebundle_(self, **options):
        """Show the dashboard, as it is now, below the cell."""
        self.figure.widget.refresh()
        return self.widget._repr_mimebundle_(**options)

    # ---- widgets

    def _make_controls(self):
        wide = W.Layout(width="auto")
        narrow = W.Layout(width="auto", flex="1 1 auto", min_width="0")
        self.galaxy = W.Dropdown(options=self.state.names, layout=wide, tooltip="galaxy to change")
        self.band = W.Dropdown(
            options=self.state.bands, description="Band", layout=W.Layout(flex="1 1 0", min_width="0")
        )
        self.dropped = W.Checkbox(description="drop it", indent=False, layout=W.Layout(width="80px"))
        self.shift = W.FloatSlider(
            min=-MOST_DEX,
            max=MOST_DEX,
            step=0.01,
            description="Flux (dex)",
            readout_format="+.2f",
            layout=wide,
            tooltip="change of the band's flux in dex",
        )
        self.groups = {
            name: W.ToggleButton(description=f"no {name}", layout=narrow, tooltip=f"drop {', '.join(bands)}")
            for name in GROUPS
            if (bands := self.state.group_bands(name))
        }
        self.mistaken = W.ToggleButton(
            description="Mistake: mJy taken for Jy", layout=wide, tooltip="all fluxes 1,000 times too high"
        )
        self.reset = W.Button(description="Reset", icon="undo", layout=narrow)
        self.png = W.Button(description="PNG", layout=narrow, tooltip="save the figure")
        self.csv = W.Button(description="CSV", layout=narrow, tooltip="save the photometry")
        self.json = W.Button(description="State", layout=narrow, tooltip="save what was changed")
        self.load = W.FileUpload(description="Load", accept=".json", icon="", multiple=False, layout=narrow)
        self.load.tooltip = "load saved changes"

    def _make_texts(self):
        self.key, self.status = W.HTML(), W.HTML()
        self.message = W.HTML(layout=W.Layout(display="none"))
        self.tables = W.HTML()
        self.tables.add_class("sed-table")
        for line in (self.key, self.status, self.message):
            line.add_class("sed-line")
        self.status.add_class("sed-status")

    def _arrange(self):
        side = W.VBox(
            [
                self.galaxy,
                W.HBox([self.band, self.dropped], layout=W.Layout(align_items="center")),
                self.shift,
                W.HBox(list(self.groups.values())),
                self.mistaken,
                W.HBox([self.reset, self.png, self.csv, self.json, self.load]),
                self.message,
                self.status,
                self.tables,
            ],
            layout=W.Layout(flex=f"0 0 {SIDE_WIDTH}"),
        )
        side.add_class("sed-side")
        self.figure.widget.layout = W.Layout(width="100%")
        main = W.VBox(
            [self.key, self.figure.widget],
            layout=W.Layout(flex="1 1 520px", min_width="0", padding="0 0 0 8px"),
        )
        return W.VBox([W.HTML(CSS), W.HBox([side, main], layout=W.Layout(width="100%"))])

    # ---- links

    def _link(self):
        state = self.state
        self._bind(self.galaxy, lambda: state.galaxy, state.select_galaxy)
        self._bind(self.band, lambda: state.band, state.select_band)
        self._bind(
            self.dropped,
            lambda: state.is_dropped(state.band),
            lambda gone: state.drop(state.band, dropped=gone),
        )
        for name, button in self.groups.items():
            bands = state.group_bands(name)
            self._bind(
                button,
                lambda bands=bands: state.is_dropped(*bands),
                lambda gone, bands=bands: state.drop(*bands, dropped=gone),
            )
        self._bind(self.mistaken, lambda: state.mistaken, state.set_mistaken)
        self.shift.observe(lambda change: self._move(change["new"]), "value")
        self.reset.on_click(lambda _: state.reset())
        save = {"png": save_png, "csv": save_csv, "json": save_state}
        connect_files(self, prefix="sed", save=save, load=load_state, tell=self.tell)
        state.observe(lambda _: self.figure.show_galaxy(), "galaxy")
        state.observe(lambda _: self.figure.show_band(), "band")
        link(state, ["answer"], self._show_answer)
        link(state, ["answer", "band"], self._show_controls)

    @staticmethod
    def _bind(widget, read, act):
        """Let a widget act, but not on what the state itself has just put there."""
        widget.observe(lambda change: None if change["new"] == read() else act(change["new"]), "value")

    def _shows(self, shift):
        # The page sends back, rounded to a step, what it is told.
        return (
            abs(self.state.shifts[self.state.bands.index(self.state.band)] - shift) <= 0.501 * self.shift.step
        )

    def _move(self, shift):
        if not self._shows(shift):
            self.state.set_shift(shift)

    def _show_controls(self):
        state = self.state
        with state.lock:
            index = state.bands.index(state.band)
            self.galaxy.value, self.band.value = state.galaxy, state.band
            if not self._shows(self.shift.value):
                self.shift.value = float(state.shifts[index])
            self.dropped.value = state.is_dropped(state.band)
            self.mistaken.value = state.mistaken
            for name, button in self.groups.items():
                button.value = state.is_dropped(*state.group_bands(name))
            self.shift.disabled = self.dropped.disabled = not state.measured[index]
            self.status.value = describe_answer(state)

    def _show_answer(self):
        with self.state.lock:
            self.figure.show()
            self.key.value = figure_key(self.state)
            self.tables.value = answer_table(self.state) + nearest_table(self.state)

    def tell(self, text, *, warning=False):
        """Say something below the buttons."""
        report(self.message, text, css="sed-warning" if warning else "")


def figure_key(state):
    """What the colours and signs of the figures mean, as HTML."""
    parts = (
        [("▬", BEST, "best model"), ("─", NEAREST, "next four")] if state.answer.nearest is not None else []
    )
    parts = [("●", "black", "flux"), ("▼", "black", "2σ limit"), ("○", "#909090", "missing"), *parts]
    known = {name for name, values in compare_answers(state).items() if _is_known(values)}
    answers = [(SIGNS[sign], color, text) for name, (text, color, sign) in SOURCES.items() if name in known]
    rows = (
        " &nbsp; ".join(f'<span style="color:{color}">{sign}</span> {text}' for sign, color, text in row)
        for row in (parts, answers)
    )
    return "above: " + "<br>below: ".join(rows)


def describe_answer(state):
    """What is doubtful about the galaxy as it was changed, as HTML."""
    answer = state.answer
    doubts = [html.escape(answer.reason)] if answer.reason else []
    if answer.fit_reason:
        doubts.append(f"not fitted: {html.escape(answer.fit_reason)}")
    if not state.measured[state.bands.index(state.band)]:
        doubts.append(f"{html.escape(state.band)} was not measured: it cannot be moved")
    n = int((~answer.missing).sum())
    text = f"{n} of {len(state.bands)} bands"
    if np.isfinite(answer.outlier_score):
        text += f", outlier score {abs(answer.outlier_score):.1f}"
    if doubts:
        return f'{text} <span class="sed-warning">⚠ {"; ".join(doubts)}</span>'
    return text if state.outliers is None else f"{text}: like the training galaxies"


def answer_table(state):
    """Each property by networks and library, beside label and truth, as an HTML table."""
    rows = []
    for source, values in compare_answers(state).items():
        if source != "networks" and not _is_known(values):
            continue
        text, color, sign = SOURCES[source]
        cells = "".join(f"<td>{_cell(values[name])}</td>" for name in PROPERTIES)
        rows.append(f'<tr><td><span style="color:{color}">{SIGNS[sign]}</span> {text}</td>{cells}</tr>')
    head = "".join(f"<th>{SHORT[name]}<br>[{unit}]</th>" for name, unit in UNITS.items())
    return f"<table><tr><th>68% errors</th>{head}</tr>{''.join(rows)}</table>"


def _is_known(values):
    return any(not np.isnan(value) for value, _, _ in values.values())


def _cell(value):
    middle, low, high = value
    if np.isnan(middle):
        return "–"
    if np.isinf(middle):
        return "none"
    return f"{middle:.2f}" if np.isnan(low) else f"{middle:.2f}&#8239;±&#8239;{0.5 * (high - low):.2f}"


def nearest_table(state):
    """The library's models of the smallest chi-square, as an HTML table; empty without a fit."""
    nearest = state.answer.nearest
    if nearest is None:
        return ""
    head = "".join(f"<th>{text}</th>" for text in ("nearest", "χ²", *SHORT.values()))
    rows = []
    for i in range(nearest.sizes["nearest"]):
        values = (nearest[name].values[i] for name in ("chi2", *PROPERTIES))
        cells = "".join(f"<td>{value:.2f}</td>" for value in values)
        rows.append(f"<tr><td>{int(nearest['model'].values[i])}</td>{cells}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def pick_galaxies(sample, *, n=N_GALAXIES):
    """Some galaxies of a sample, from the most to the least star-forming, with names that tell what they are."""
    rows = np.arange(sample.sizes["galaxy"])
    fitted = {"log_mass_fit", "log_sfr_fit"} <= set(sample.data_vars)
    if fitted:
        specific = sample["log_sfr_fit"].values - sample["log_mass_fit"].values
        rows = np.argsort(-specific, kind="stable")[: int(np.isfinite(specific).sum())]
        rows = rows[np.linspace(0, rows.size - 1, min(n, rows.size)).round().astype(int)]
    picked = sample.isel(galaxy=rows[:n])
    if "name" in sample.coords:
        return picked
    names = [f"no. {row}: z = {z:.3f}" for row, z in zip(rows[:n], picked["redshift"].values, strict=True)]
    if fitted:
        labels = zip(names, picked["log_mass_fit"].values, picked["log_sfr_fit"].values, strict=True)
        names = [f"{name}, M* {mass:.1f}, SFR {rate:+.1f}" for name, mass, rate in labels]
    return picked.assign_coords(name=("galaxy", names))


def open_sed_dashboard(
    sample, *, networks=None, library=None, n_galaxies=N_GALAXIES, export_folder="exports"
):
    """Open the dashboard of fluxes.

    Parameters
    ----------
    sample : xarray.Dataset
        See `SedState`; some of its galaxies are taken (`pick_galaxies`).
    networks : (BandEnsemble, dict of str to ndarray), optional
        As from `spectool.papers.surana2020.network.load_networks`; default: the shipped ensemble.
    library : xarray.Dataset, optional
        From `spectool.measure.sedfit.draw_library`; without it nothing is fitted and no model is drawn.
    n_galaxies : int
    export_folder : str or pathlib.Path

    Returns
    -------
    SedView
    """
    ensemble, arrays = load_networks(*NETWORKS) if networks is None else networks
    outliers = arrays if "outlier_center" in arrays else None
    state = SedState(pick_galaxies(sample, n=n_galaxies), ensemble, outliers=outliers, library=library)
    return SedView(state, export_folder=export_folder)
