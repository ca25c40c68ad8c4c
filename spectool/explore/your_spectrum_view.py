"""The page for a visitor's own spectrum: widgets and figures that only show and drive a `YourSpectrum`."""

from html import escape

import ipywidgets as widgets
import numpy as np
from bokeh.models import ColumnDataSource, Range1d
from bokeh.plotting import figure

from spectool.explore import style
from spectool.explore.bokeh_widget import LiveBokeh
from spectool.explore.spectrum import OPTICAL_LINES, TOOLS, LineMarks
from spectool.explore.your_spectrum import tabulate
from spectool.prepare import NORM_WINDOW, SKY_LINES

HEIGHT = 280


def spectrum_figure(title, *, x_label, y_label, height=HEIGHT):
    """An empty figure for spectra, in the suite's size."""
    return figure(
        title=title,
        width=style.FIGURE_WIDTH,
        height=height,
        tools=TOOLS,
        active_scroll="xwheel_zoom",
        x_axis_label=x_label,
        y_axis_label=y_label,
        x_range=Range1d(3500, 9500),
        y_range=Range1d(0, 1),
    )


def legend_above(fig):
    """Put the legend above the plot, in a row; a click on an entry hides its line."""
    legend = fig.legend[0]
    fig.add_layout(legend, "above")
    legend.orientation, legend.location, legend.click_policy = "horizontal", "left", "hide"
    legend.spacing = 16


def limits(values, *, low=0.5, high=99.7, margin=0.12, headroom=0.0):
    """Range of an axis that shows all but the most extreme pixels, and zero."""
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    bottom, top = np.percentile(values, [low, high])
    pad = margin * max(top - bottom, 1e-6 * max(abs(top), 1e-30))
    bottom, top = min(bottom - pad, 0.0), top + pad
    return bottom, bottom + (top - bottom) / (1 - headroom)


def answers_html(answers, table):
    """The models' answers in HTML: one table per model, its range flag above, details folded away."""
    warn = f'style="border-left:4px solid {style.OKABE_ITO["vermillion"]};padding-left:8px;margin:4px 0"'
    parts = []
    for answer in answers:
        parts.append(f'<h3 style="margin:12px 0 4px">{escape(answer.title)}</h3>')
        if answer.result is None:
            parts.append(f"<p>Does not apply: {escape(answer.reason)}.</p>")
            continue
        reason = str(answer.result["reason"].values[0])
        if bool(answer.result["out_of_range"].values[0]):
            parts.append(
                f"<p {warn}>⚠ <b>Out of range.</b> {escape(reason)}. The values are an extrapolation: "
                "do not trust them.</p>"
            )
        else:
            parts.append("<p>In range: nothing says that the model has not met such spectra.</p>")
        if "remark" in answer.result:
            parts.append(f"<p>{escape(str(answer.result['remark'].values[0]))}</p>")
        rows = table[table["model"] == answer.title]
        parts.append(_rows_html(rows[~rows["detail"].astype(bool)]))
        if rows["detail"].any():
            inner = _rows_html(rows[rows["detail"].astype(bool)])
            parts.append(
                f"<details><summary>The latent numbers that this was read from</summary>{inner}</details>"
            )
    return f'<div style="line-height:1.45;font-size:14px">{"".join(parts)}</div>'


def _rows_html(rows):
    cell = 'style="text-align:left;padding:3px 24px 3px 0;border-bottom:1px solid #DDD;vertical-align:top"'
    lines = ["".join(f"<th {cell}>{head}</th>" for head in ("quantity", "value ± error", "note"))]
    for row in rows.to_dict("records"):
        known = np.isfinite(row["value"])
        value = f"{row['value']:.2f} ± {row['error']:.2f} {escape(row['unit'])}" if known else "–"
        values = (escape(row["quantity"]), value, escape(row["note"]))
        lines.append("".join(f"<td {cell}>{v}</td>" for v in values))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table style="border-collapse:collapse">{body}</table>'


class YourSpectrumView:
    """Controls, three figures and a table around a `spectool.explore.your_spectrum.YourSpectrum`.

    Each part is a widget to show where the notebook wants it: `controls`, `observed`, `rest`, `prepared`,
    `answers`.

    Parameters
    ----------
    state : YourSpectrum
    """

    def __init__(self, state):
        self.state = state
        self._make_controls()
        self._sources = {}
        makers = {
            "observed": self._observed_figure,
            "rest": self._rest_figure,
            "prepared": self._prepared_figure,
        }
        self.figures = {name: make() for name, make in makers.items()}
        self.answers = widgets.HTML()
        state.observe(lambda _: self._show_message(), ["message", "busy", "failed", "version"])
        state.observe(lambda _: self.update(), ["version"])
        self._show_message()
        self.update()

    @property
    def observed(self):
        """The spectrum as observed, with its noise and what is masked."""
        return LiveBokeh(self.figures["observed"])

    @property
    def rest(self):
        """At rest, with and without the Milky Way's dust."""
        return LiveBokeh(self.figures["rest"])

    @property
    def prepared(self):
        """On the model's pixels, with the model's reconstruction."""
        return LiveBokeh(self.figures["prepared"])

    # ---- controls

    def _make_controls(self):
        wide = {"description_width": "130px"}
        layout = widgets.Layout(width="420px")
        self.upload = widgets.FileUpload(
            accept=".fits,.fit,.gz,.ecsv,.csv,.txt,.dat", description="Upload a file"
        )
        self.where = widgets.Text(
            description="or file name, URL", placeholder="spec-….fits or https://…", style=wide, layout=layout
        )
        self.redshift = widgets.Text(
            description="redshift", placeholder="the file's, if it has one", style=wide, layout=layout
        )
        self.ebv = widgets.Text(
            description="E(B−V) / mag", placeholder="the file's, else left in", style=wide, layout=layout
        )
        self.medium = widgets.Dropdown(
            options=["vacuum", "air"], description="wavelengths in", style=wide, layout=layout
        )
        self.button = widgets.Button(description="Read it and ask the models", button_style="primary")
        self.button.layout.width = "240px"
        self.example = widgets.Button(description="Back to NGC 3522")
        self.message = widgets.HTML()
        self.upload.observe(lambda _: setattr(self.where, "value", ""), ["value"])
        self.button.on_click(lambda _: self.submit())
        self.example.on_click(lambda _: self.state.read_example())
        left = widgets.VBox([self.upload, self.where, self.redshift, self.ebv, self.medium])
        buttons = widgets.HBox([self.button, self.example])
        self.controls = widgets.VBox([left, buttons, self.message])

    def submit(self):
        """Read what the controls say: the file name or URL, else the upload, else the last spectrum again."""
        numbers = {}
        for field, text in (("redshift", self.redshift.value), ("ebv", self.ebv.value)):
            try:
                numbers[field] = float(text) if text.strip() else None
            except ValueError:
                self.state.failed, self.state.message = True, f"{field} is {text!r}, which is no number"
                return
        where = self.where.value.strip()
        options = {**numbers, "medium": self.medium.value}
        if where:
            self.state.read(where, **options)
        elif self.upload.value:
            given = self.upload.value[-1]
            self.state.read(bytes(given["content"]), name=given["name"], **options)
        else:
            self.state.read_again(**options)

    def _show_message(self):
        state = self.state
        if state.busy:
            text, colour = "Reading, preparing and asking the models: some ten seconds …", style.MUTED
        elif state.failed:
            text, colour = f"Not used: {escape(state.message)}", "#A33B00"
        else:
            text, colour = escape(state.message), style.MUTED
            if state.name:
                text = (
                    f"<b>{escape(state.name)}</b>, redshift {float(state.sample['redshift'][0]):.5f}. {text}"
                )
        self.message.value = f'<div style="color:{colour};line-height:1.4">{text}</div>'

    # ---- figures

    def _source(self, name, *columns):
        self._sources[name] = ColumnDataSource({c: np.zeros(0, np.float32) for c in columns}, name=name)
        return self._sources[name]

    def _observed_figure(self):
        fig = spectrum_figure(
            "Step 1 · as observed", x_label="observed wavelength / Å (vacuum)", y_label="flux"
        )
        source = self._source("observed", "wavelength", "good", "bad", "sigma")
        for centre, half_width in SKY_LINES.values():
            edges = {"x0": [centre - half_width], "x1": [centre + half_width]}
            fig.vstrip(
                "x0",
                "x1",
                source=ColumnDataSource(edges),
                color=style.OKABE_ITO["sky_blue"],
                alpha=0.35,
                line_color=None,
                legend_label="sky lines",
            )
        fig.line("wavelength", "bad", source=source, color="#B0B0B0", legend_label="masked pixels")
        fig.line("wavelength", "good", source=source, color=style.OKABE_ITO["blue"], legend_label="flux")
        fig.line(
            "wavelength", "sigma", source=source, color=style.OKABE_ITO["orange"], legend_label="noise (1 σ)"
        )
        legend_above(fig)
        return fig

    def _rest_figure(self):
        fig = spectrum_figure(
            "Step 2 · at rest",
            x_label="rest wavelength / Å (vacuum)",
            y_label="flux",
        )
        before = self._source("before", "wavelength", "good")
        after = self._source("rest", "wavelength", "good")
        fig.line(
            "wavelength", "good", source=before, color="#9A9A9A", legend_label="with the Milky Way's dust"
        )
        fig.line("wavelength", "good", source=after, color=style.OKABE_ITO["blue"], legend_label="without")
        self.marks = LineMarks(fig, (3500, 9500), style.FIGURE_WIDTH - 80, lines=OPTICAL_LINES)
        legend_above(fig)
        return fig

    def _prepared_figure(self):
        fig = spectrum_figure(
            "Step 3 · what the model gets, and what it makes of it",
            x_label="rest wavelength / Å (vacuum)",
            y_label="flux / median(5000–5500 Å)",
            height=320,
        )
        fig.x_range.start, fig.x_range.end = 1000, 10000
        gaps = self._source("gaps", "x0", "x1")
        fig.vstrip(
            "x0",
            "x1",
            source=gaps,
            color="#D0D0D0",
            alpha=0.6,
            line_color=None,
            legend_label="no data (masked)",
        )
        window = ColumnDataSource({"x0": [NORM_WINDOW[0]], "x1": [NORM_WINDOW[1]]})
        fig.vstrip(
            "x0",
            "x1",
            source=window,
            color=style.OKABE_ITO["yellow"],
            alpha=0.35,
            line_color=None,
            legend_label="normalisation window",
        )
        data = self._source("prepared", "wavelength", "good", "reconstruction")
        fig.line("wavelength", "good", source=data, color=style.OBSERVED, legend_label="prepared spectrum")
        fig.line(
            "wavelength",
            "reconstruction",
            source=data,
            color=style.RESIDUAL,
            line_width=1.2,
            legend_label="β-VAE's reconstruction",
        )
        legend_above(fig)
        return fig

    def update(self):
        """Show the state's spectrum."""
        state = self.state
        if not state.steps:
            self.answers.value = "<i>No spectrum yet.</i>"
            return
        last = "extinction corrected" if "extinction corrected" in state.steps else "sky lines masked"
        unit = "10⁻¹⁷ erg/s/cm²/Å" if state.sample["flux"].attrs["units"] else "no unit"
        shown = state.curves("sky lines masked")
        redshift = float(state.sample["redshift"].values[0])
        dusty, clean = shown, state.curves(last)
        ready = state.curves("normalised")
        self._sources["observed"].data = shown
        self._place("observed", shown["wavelength"], shown["good"], f"flux / {unit}")
        scale = np.float32(1 + redshift)
        at_rest = dusty["wavelength"] / scale
        self._sources["before"].data = {"wavelength": at_rest, "good": dusty["good"] * scale}
        self._sources["rest"].data = {"wavelength": at_rest, "good": clean["good"] * scale}
        self._place("rest", at_rest, clean["good"] * scale, f"flux / {unit}", headroom=0.2)
        self.marks.update((float(at_rest.min()), float(at_rest.max())))
        known = "taken out" if "extinction corrected" in state.steps else "left in: E(B−V) is not known"
        self.figures["rest"].title.text = f"Step 2 · at rest, Galactic extinction {known}"
        model = state.reconstruction()
        self._sources["prepared"].data = {
            "wavelength": ready["wavelength"],
            "good": ready["good"],
            "reconstruction": model,
        }
        gaps = state.masked_ranges("normalised")
        self._sources["gaps"].data = {"x0": gaps[:, 0], "x1": gaps[:, 1]}
        self._place("prepared", None, np.concatenate([ready["good"], model]), None, high=99)
        self.answers.value = answers_html(state.answers, tabulate(state.answers))

    def _place(self, name, wavelength, flux, y_label, **options):
        fig = self.figures[name]
        fig.y_range.start, fig.y_range.end = limits(np.asarray(flux, float), **options)
        fig.y_range.reset_start, fig.y_range.reset_end = fig.y_range.start, fig.y_range.end
        if wavelength is not None:
            fig.x_range.start, fig.x_range.end = float(wavelength.min()), float(wavelength.max())
            fig.x_range.reset_start, fig.x_range.reset_end = fig.x_range.start, fig.x_range.end
        if y_label is not None:
            fig.yaxis[0].axis_label = y_label
