"""The dashboard of one's own spectrum: read a file, prepare it step by step, and ask every model about it."""

import hashlib
import html
import re
import warnings

import ipywidgets as W
import numpy as np
import pandas as pd
import traitlets
import xarray as xr
from bokeh.models import ColumnDataSource, Range1d
from bokeh.plotting import figure

from spectool import prepare
from spectool.explore.dashboard import Choice, Dashboard
from spectool.explore.spectrum import OPTICAL_LINES, TOOLS, LineMarks
from spectool.explore.style import DECODED, OBSERVED, OKABE_ITO, RESIDUAL
from spectool.explore.view import DashboardView, alt, limits
from spectool.spectra import sps_wavelength
from spectool.surveys import packaged_spectra, read_spectrum, refusing
from spectool.surveys.sources import fetch, local_path

KEPT = 8  # spectra whose answers stay in memory, so that undo is quick
STEPS = (
    "as observed",
    "sky lines masked",
    "extinction corrected",
    "rest frame",
    "model's pixels",
    "normalised",
)


def prepare_in_steps(sample):
    """Go the way of `spectool.prepare.prepare_spectra`, and keep every step."""
    steps = {"as observed": prepare.mask_bad_pixels(sample)}
    steps["sky lines masked"] = last = prepare.mask_sky_lines(steps["as observed"])
    if "ebv" in sample:
        steps["extinction corrected"] = last = prepare.correct_extinction(last)
    steps["rest frame"] = prepare.to_rest_frame(last)
    steps["model's pixels"] = prepare.resample(steps["rest frame"], sps_wavelength())
    steps["normalised"] = prepare.normalize(steps["model's pixels"])
    return steps


def tabulate(answers):
    """Answers about a sample's first galaxy, a row per quantity."""
    rows = []
    for answer in answers:
        if answer.result is None:
            row = {"quantity": "does not apply", "note": answer.reason, "detail": False}
            rows.append({"model": answer.title} | row)
            continue
        first = answer.result.isel(galaxy=0)
        detail = (
            first["detail"].values if "detail" in first.coords else np.zeros(first.sizes["quantity"], bool)
        )
        for k in range(first.sizes["quantity"]):
            row = {"model": answer.title, "quantity": str(first["label"].values[k])}
            row |= {"value": float(first["value"][k]), "error": float(first["error"][k])}
            row |= {"unit": str(first["unit"].values[k]), "out of range": bool(first["out_of_range"])}
            rows.append(row | {"note": str(first["note"].values[k]), "detail": bool(detail[k])})
    columns = ["model", "quantity", "value", "error", "unit", "out of range", "note", "detail"]
    return pd.DataFrame(rows, columns=columns)


class YourSpectrum(Dashboard):
    """One spectrum on its way from a file to what the models say of it.

    `read` does all of it. It keeps what was there if the new file cannot be used, and puts the reason into
    `message`: a visitor's bad file is no traceback on the page. Who asks for the answers in code gets the
    reason as an error.

    Parameters
    ----------
    ask : callable
        From an observed sample to a list of answers, each with ``name``, ``title``, ``result`` and ``reason``; see
        `spectool.papers.ask_all`.
    """

    name = "spectrum"
    controls = ("source", "redshift", "ebv", "medium", "wavelength_unit", "flux_unit", "target")
    """All but the source are texts as they are typed; empty ones mean what the file says."""

    source = traitlets.Unicode(help="name of the file, and the first digits of its hash")
    redshift = traitlets.Unicode().tag(ui=True, label="Redshift", tooltip="empty: the file's")
    ebv = traitlets.Unicode().tag(ui=True, label="E(B−V) / mag", tooltip="empty: the file's, or left in")
    medium = Choice("").tag(ui=True, label="Wavelengths in", tooltip="what the file says, or vacuum")
    wavelength_unit = traitlets.Unicode().tag(ui=True, label="Wavelength unit", tooltip="empty: the file's")
    flux_unit = traitlets.Unicode().tag(ui=True, label="Flux unit", tooltip="none: only the shape counts")
    target = traitlets.Unicode().tag(ui=True, label="Target", tooltip="where a file holds several spectra")
    message = traitlets.Unicode(help="what went wrong, or what was noticed on the way; empty if all is well")
    failed = traitlets.Bool(False, help="whether the last file could not be used")
    sample = traitlets.Instance(xr.Dataset, allow_none=True, help="as read, one galaxy")

    def __init__(self, ask):
        super().__init__()
        self._ask, self._files, self._kept = ask, {}, {}
        self.steps: dict[str, xr.Dataset] = {}
        self.answers: list = []

    def choices(self, name):
        return [("as the file says", ""), "vacuum", "air"]

    def first_state(self):
        texts = dict.fromkeys(self.controls, "") | {"ebv": "0.02"}
        return texts | self._hold(packaged_spectra()["NGC 3522"])

    def _hold(self, source, name=None):
        """Keep a file for as long as the dashboard lives, and return the choice that stands for it."""
        content, own, notes = fetch(source, name=name)
        key = f"{own} {hashlib.sha256(content).hexdigest()[:10]}"
        self._files[key] = local_path(source) or content, own, notes  # what lies beside a path may matter
        return {"source": key}

    def read(self, source, *, name=None, **options):
        """Read a spectrum, prepare it and ask every model that applies; return whether it could be used.

        Options are those of `spectool.surveys.read_spectrum`; what is not given is as the file says.
        """
        texts = {key: "" if value is None else str(value) for key, value in options.items()}
        return self._try(dict.fromkeys(self.controls[1:], "") | texts, source, name)

    def read_again(self, **options):
        """Read the last spectrum again with other options; what is None stays, "" is as the file says."""
        if not self.source:
            return self._fail("upload a file, or give a file name or URL")
        return self._try({key: str(value) for key, value in options.items() if value is not None})

    def read_example(self, galaxy="NGC 3522", *, ebv=0.02):
        """Read one of the SDSS spectra that ppxf ships: NGC 3522 or NGC 3073, with its E(B-V) [mag]."""
        return self.read(packaged_spectra()[galaxy], ebv=ebv)

    def reset(self):
        self._try(self.first_state())

    def _try(self, changes, source=None, name=None):
        with self.lock:
            self.busy, version = True, self.version
            try:
                changes = changes if source is None else changes | self._hold(source, name)
                self.set(**changes)
                if self.version == version:  # the same as before: only what failed in between is forgotten
                    self.derive(("source",))
                    self._announce(("source",))
            except (ValueError, OSError) as error:
                return self._fail(str(error))
            finally:
                self.busy = False
        return True

    def _fail(self, message):
        self.failed, self.message = True, message
        self._announce(("message",))
        return False

    def derive(self, changed):
        key = tuple(self.state().values())
        if key not in self._kept:
            self._kept[key] = self._read()
            while len(self._kept) > KEPT:
                self._kept.pop(next(iter(self._kept)))
        self.sample, self.steps, self.answers, self.message = self._kept[key]
        self.failed = False

    def _read(self):
        """What follows from the choices: the spectrum as read, in steps, what the models say, and what was noticed."""
        if self.source not in self._files:
            raise ValueError(
                f"this view is of {self.source}, which is not here: upload that file, then open it again"
            )
        source, name, notes = self._files[self.source]
        options = {
            "redshift": self._number("redshift"),
            "ebv": self._number("ebv"),
            "medium": self.medium or None,
        }
        options |= {
            key: getattr(self, key).strip() or None for key in ("wavelength_unit", "flux_unit", "target")
        }
        if options["flux_unit"] in ("none", '""'):
            options["flux_unit"] = ""
        if options["target"] is not None:
            if not re.fullmatch(r"[0-9]+", options["target"]):
                raise ValueError(f"target is {options['target']!r}: give the number of one spectrum")
            options["target"] = int(options["target"])
        try:
            with warnings.catch_warnings(record=True) as caught, refusing(name):
                warnings.simplefilter("always", UserWarning)
                sample = read_spectrum(source, name=name, **options)
                steps = prepare_in_steps(sample)
                answers = self._ask(sample)
        except OSError as error:
            raise ValueError(str(error)) from error
        notes = [
            *notes,
            *(line for line in sample.attrs["history"].splitlines() if not re.fullmatch("read [^:;]*", line)),
        ]
        ours = (w for w in caught if issubclass(w.category, UserWarning))
        notes += [str(w.message) for w in ours if not w.category.__module__.startswith("astropy")]
        return sample, steps, answers, "; ".join(dict.fromkeys(notes))

    def _number(self, key):
        """A number as it was typed, None where nothing was."""
        text = getattr(self, key).strip()
        if text and not re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", text, re.IGNORECASE):
            advice = f": write {text.replace(',', '.')}" if re.fullmatch("[0-9]+,[0-9]+", text) else ""
            raise ValueError(f"{key} is {text!r}, which is no number{advice}")
        return float(text) if text else None

    @property
    def title(self):
        """Name of the spectrum."""
        return str(self.sample["name"].values[0]) if self.sample is not None else ""

    def about(self):
        return [f"spectrum: {self.source}", *self.history()]

    def history(self):
        """What was done to the spectrum, sentence by sentence."""
        return prepare.history(self.steps["normalised"]) if self.steps else []

    def table(self):
        """The models' answers, a pandas.DataFrame, a row per quantity.

        Raises
        ------
        ValueError
            If the last file could not be used (saying why), or none was read: an empty table, or that of the spectrum
            before, would pass for its answers.
        """
        if self.failed or self.sample is None:
            raise ValueError(f"no answers: {self.message or 'no spectrum was read yet'}")
        return tabulate(self.answers)

    def out_of_range(self):
        """Model -> why its answer is an extrapolation; models in range are not listed."""
        return {
            a.title: str(a.result["reason"].values[0])
            for a in self.answers
            if a.result is not None and bool(a.result["out_of_range"].values[0])
        }

    def curves(self, step):
        """What to draw of a step."""
        data = self.steps[step]
        wavelength, _ = prepare.spectral_coordinate(data)
        wavelength = wavelength[0] if wavelength.ndim == 2 else wavelength
        flux, ivar, mask = (data[n].values[0] for n in ("flux", "ivar", "mask"))
        bad = np.full(flux.shape, np.nan)
        if "observed_wavelength" in data.coords and flux.size == self.sample.sizes["wavelength"]:
            read = self.sample["flux"].values[0]
            near = mask | np.roll(mask, 1) | np.roll(mask, -1)  # so that the grey piece joins the line
            bad = np.where(near & (self.sample["ivar"].values[0] > 0), read, np.nan)
        sigma = np.divide(1, np.sqrt(ivar), out=np.full(flux.shape, np.nan), where=~mask)
        curves = {"wavelength": wavelength, "good": np.where(mask, np.nan, flux), "bad": bad, "sigma": sigma}
        return {k: v.astype(np.float32) for k, v in curves.items()}

    def reconstruction(self):
        """The first model's reconstruction (4582,) in normalised flux, or NaN if no model gives one."""
        for answer in self.answers:
            if answer.result is not None and "reconstruction" in answer.result:
                return answer.result["reconstruction"].values[0].astype(np.float32)
        return np.full(sps_wavelength().size, np.nan, np.float32)

    def masked_ranges(self, step):
        """Where a step's spectrum is masked: (n, 2) wavelengths [Angstrom], between pixel centres."""
        curves = self.curves(step)
        wavelength, bad = curves["wavelength"].astype(float), np.isnan(curves["good"])
        edges = np.flatnonzero(np.diff(np.concatenate([[0], bad.astype(int), [0]])))
        starts, ends = edges[::2], edges[1::2] - 1
        step_width = np.gradient(wavelength) / 2
        return np.stack(
            [wavelength[starts] - step_width[starts], wavelength[ends] + step_width[ends]], axis=1
        )


class YourSpectrumView(DashboardView):
    """The dashboard: a file and its redshift at the left, three figures, and what the models say.

    Parameters
    ----------
    state : YourSpectrum
    export_folder : str or path
    """

    hint = "Upload a spectrum, or change the redshift, and press the blue button."
    opener = "open_your_spectrum()"

    # ---- controls

    def make_extras(self):
        def text(label, placeholder):
            own = W.Layout(width="auto")  # some fields hide
            return W.Text(description=label, placeholder=placeholder, layout=own, tooltip=placeholder)

        wide = W.Layout(width="auto")
        accepted = ".fits,.fit,.fz,.gz,.bz2,.xz,.zip,.ecsv,.csv,.tsv,.txt,.dat,.asc,.vot,.xml"
        self.upload = W.FileUpload(accept=accepted, description="Upload a file", layout=wide)
        self.where = text("or file, URL", "spec-….fits or https://…")
        self.redshift = text("Redshift", "the file's, if it has one")
        self.ebv = text("E(B−V) / mag", "the file's, else left in")
        offered = self.state.options("medium")
        self.medium = W.Dropdown(options=offered, description="Wavelengths", layout=wide)
        self.asked = {
            "wavelength_unit": text("Wavelength unit", "such as nm, or log10(Angstrom)"),
            "flux_unit": text("Flux unit", "such as mJy; none: only the shape counts"),
            "target": text("Target", "number of the spectrum in the file"),
        }
        self.button = W.Button(description="Read it and ask the models", button_style="primary", layout=wide)
        self.example = W.Button(description="Back to NGC 3522", layout=wide)
        self.upload.observe(lambda _: self._forget(self.where), "value")
        self.where.observe(lambda _: self._forget(), "value")
        self.button.on_click(lambda _: self.submit())
        self.example.on_click(lambda _: self._go_back())
        self.verdict = W.HTML()
        self.verdict.add_class("spectool-status")
        fields = [self.upload, self.where, self.redshift, self.ebv, self.medium, *self.asked.values()]
        return [*fields, self.button, self.example, self.verdict]

    def submit(self):
        """Read what the controls say: the file name or URL, else the upload, else the last spectrum again."""
        self.hint_line.layout.display = "none"
        where, state = self.where.value.strip(), self.state
        fields = {"redshift": self.redshift, "ebv": self.ebv, "medium": self.medium} | self.asked
        texts = {name: field.value.strip() for name, field in fields.items()}
        if where:
            state.read(where, **texts)
        elif self.upload.value:
            given = self.upload.value[-1]
            state.read(bytes(given["content"]), name=given["name"], **texts)
        else:
            state.read_again(**texts)

    def _forget(self, *fields):
        """Empty what was said of the file before, the example's E(B-V) too, and other fields."""
        is_example = self.state.title in {path.name for path in packaged_spectra().values()}
        old = [self.ebv] if is_example and self.ebv.value == self.state.ebv else []
        for field in (*fields, *old, *self.asked.values()):
            field.value = ""

    def _go_back(self):
        """Read the example, and let the button read that again."""
        self._forget(self.where)
        self.upload.value = ()
        self.state.read_example()

    # ---- figures

    def make_panels(self):
        self._sources, self.figures = {}, {}
        observed = self._panel("observed", "As observed", "observed wavelength (Å, vacuum)")
        source = self._source("observed", "wavelength", "good", "bad", "sigma")
        for centre, half_width in prepare.SKY_LINES.values():
            strip = {"color": OKABE_ITO["sky_blue"], "alpha": 0.35, "line_color": None}
            observed.vstrip([centre - half_width], [centre + half_width], legend_label="sky lines", **strip)
        for column, color, label in (
            ("bad", OBSERVED, "masked pixels"),
            ("good", DECODED, "flux"),
            ("sigma", OKABE_ITO["orange"], "noise (1 σ)"),
        ):
            observed.line("wavelength", column, source=source, color=color, legend_label=label)
        rest = self._panel("rest", "At rest", "rest wavelength (Å, vacuum)", height=192)
        curves = ("before", OBSERVED, "with the Milky Way's dust"), ("rest", DECODED, "without")
        for name, color, label in curves:
            source = self._source(name, "wavelength", "good")
            rest.line("wavelength", "good", source=source, color=color, legend_label=label)
        self.marks = LineMarks(rest, (3500, 9500), 520, lines=OPTICAL_LINES)
        rest.on_change("inner_width", lambda attr, old, new: self.marks.update(width=new))
        ready = self._panel("prepared", "What the model gets", "rest wavelength (Å, vacuum)")
        gaps = {"source": self._source("gaps", "x0", "x1"), "color": "#909090", "alpha": 0.35}
        ready.vstrip("x0", "x1", line_color=None, legend_label="no data", **gaps)
        window = ([edge] for edge in prepare.NORM_WINDOW)
        strip = {"color": OKABE_ITO["yellow"], "alpha": 0.4, "line_color": None}
        ready.vstrip(*window, legend_label="normalisation", **strip)
        source = self._source("prepared", "wavelength", "good", "reconstruction")
        curves = (
            ("good", OBSERVED, "prepared spectrum"),
            ("reconstruction", RESIDUAL, "model's reconstruction"),
        )
        for column, color, label in curves:
            ready.line("wavelength", column, source=source, color=color, legend_label=label)
        for plot in self.figures.values():
            plot.add_layout(plot.legend[0], "above")
            plot.legend.update(orientation="horizontal", location="left", click_policy="hide", padding=0)
        return [[plot] for plot in self.figures.values()]

    def _panel(self, name, title, x_label, height=156):
        self.figures[name] = figure(
            height=height,
            tools=TOOLS,
            active_scroll=None,
            sizing_mode="stretch_width",
            x_axis_label=f"{title}: {x_label}",
            y_axis_label="flux",
            x_range=Range1d(3500, 9500),
            y_range=Range1d(0, 1),
            min_border_left=64,
        )
        return self.figures[name]

    def _source(self, name, *columns):
        self._sources[name] = ColumnDataSource({c: np.zeros(0, np.float32) for c in columns}, name=name)
        return self._sources[name]

    def draw(self, changed):
        state = self.state
        fields = {"redshift": self.redshift, "ebv": self.ebv, "medium": self.medium} | self.asked
        if not state.failed:  # or what was typed would have to be typed again
            for name, field in fields.items():
                field.value = getattr(state, name)
        for name, field in self.asked.items():
            is_asked = bool(field.value) or (state.failed and f"{name}=" in state.message)
            field.layout.display = None if is_asked else "none"
        self._say_verdict()
        if not state.steps:
            for name, plot in self.figures.items():
                alt(plot, f"The figure {name!r} is empty: no spectrum was read yet.")
            return
        corrected = "extinction corrected" in state.steps
        unit = "flux (10⁻¹⁷ cgs)" if state.sample["flux"].attrs["units"] else "flux (no unit)"
        shown, ready = state.curves("sky lines masked"), state.curves("normalised")
        clean = state.curves("extinction corrected" if corrected else "sky lines masked")
        self._sources["observed"].data = shown
        self._place("observed", shown["wavelength"], shown["good"], unit)
        scale = np.float32(1 + float(state.sample["redshift"].values[0]))
        at_rest, empty = shown["wavelength"] / scale, np.full(shown["good"].shape, np.nan, np.float32)
        before = shown["good"] * scale if corrected else empty
        self._sources["before"].data = {"wavelength": at_rest, "good": before}
        self._sources["rest"].data = {"wavelength": at_rest, "good": clean["good"] * scale}
        self._place("rest", at_rest, clean["good"] * scale, unit, headroom=0.42)
        dusty, undusted = self.figures["rest"].legend[0].items
        dusty.visible = corrected
        undusted.label = {
            "value": "without" if corrected else "with the Milky Way's dust: E(B−V) is not known"
        }
        self.marks.update((float(at_rest.min()), float(at_rest.max())))
        model, gaps = state.reconstruction(), state.masked_ranges("normalised")
        prepared = {"wavelength": ready["wavelength"], "good": ready["good"], "reconstruction": model}
        self._sources["prepared"].data = prepared
        self._sources["gaps"].data = {"x0": gaps[:, 0], "x1": gaps[:, 1]}
        self._place(
            "prepared", ready["wavelength"], np.concatenate([ready["good"], model]), "flux / median", high=99
        )
        masked = 100 * float(np.mean(np.isnan(shown["good"])))
        texts = {
            "observed": f"Spectrum of {state.title} as observed; {masked:.0f}% of its pixels are masked.",
            "rest": f"The spectrum at rest, at redshift {float(scale) - 1:.4f}, with named lines.",
            "prepared": "The spectrum on the model's pixels, and the model's reconstruction of it.",
        }
        for name, text in texts.items():
            alt(self.figures[name], text)

    def _place(self, name, wavelength, flux, label, *, headroom=0.0, high=99.7):
        plot = self.figures[name]
        bottom, top = limits(flux, high=high)
        bottom = min(bottom, 0.0)
        ranges = {"x": (float(wavelength.min()), float(wavelength.max()))}
        ranges["y"] = bottom, bottom + (top - bottom) / (1 - headroom)
        for axis, (start, end) in ranges.items():
            getattr(plot, f"{axis}_range").update(start=start, end=end, reset_start=start, reset_end=end)
        plot.yaxis[0].axis_label = label

    # ---- words

    def _say_verdict(self):
        """One line at the button: the first answer of each model, or why there is none."""
        state = self.state
        if state.failed:
            self.verdict.value = (
                f'<span class="spectool-warning">Not used: {html.escape(state.message)}</span>'
            )
            return
        parts = []
        for answer in state.answers:
            if answer.result is not None:
                row = tabulate([answer]).iloc[0]
                flag = " ⚠ out of range" if row["out of range"] else ""
                parts.append(
                    f"{row['quantity']} <b>{row['value']:.2f} ± {row['error']:.2f}</b> {row['unit']}{flag}"
                )
        self.verdict.value = "; ".join(parts) or ("No model applies." if state.answers else "")

    def describe(self):
        state = self.state
        if state.busy:
            return "Reading, preparing and asking the models: some ten seconds", ""
        if state.sample is None:
            return "No spectrum yet.", ""
        redshift = float(state.sample["redshift"].values[0])
        notes = "" if state.failed else state.message
        return f"<b>{html.escape(state.title)}</b>, redshift {redshift:.5f}", notes

    def make_tables(self):
        parts = []
        for answer in self.state.answers:
            parts.append(f"<b>{html.escape(answer.title)}</b>")
            if answer.result is None:
                parts.append(f"<p>Does not apply: {html.escape(answer.reason)}.</p>")
                continue
            if bool(answer.result["out_of_range"].values[0]):
                reason = html.escape(str(answer.result["reason"].values[0]))
                parts.append(
                    f'<p class="spectool-warning">⚠ Out of range: {reason}. Do not trust the values.</p>'
                )
            if "remark" in answer.result:
                parts.append(f"<p>{html.escape(str(answer.result['remark'].values[0]))}</p>")
            rows = tabulate([answer])
            values = [
                f"{v:.2f} ± {e:.2f} {u}"
                for v, e, u in rows[["value", "error", "unit"]].itertuples(index=False)
            ]
            rows = rows.assign(**{"value ± error": values})
            for detail, some in rows.groupby("detail"):
                notes = [f"<small>{html.escape(note)}</small>" if note else "" for note in some["note"]]
                some = some.assign(quantity=some["quantity"].map(html.escape) + notes)
                table = some[["quantity", "value ± error"]].to_html(index=False, border=0, escape=False)
                summary = "<summary>The latent numbers that this was read from</summary>"
                parts.append(f"<details>{summary}{table}</details>" if detail else table)
        if self.state.steps:
            steps = "".join(f"<li>{html.escape(line)}</li>" for line in self.state.history())
            parts.append(
                f"<details><summary>What was done to the spectrum, in full</summary><ol>{steps}</ol></details>"
            )
        return parts


def open_your_spectrum():
    """Open the dashboard of one's own spectrum on NGC 3522, a galaxy that the ppxf package ships."""
    from spectool.papers import ask_all

    state = YourSpectrum(ask_all)
    state.reset()
    state.forget()
    return YourSpectrumView(state)
