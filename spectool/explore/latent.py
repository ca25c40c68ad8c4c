"""The latent dashboard: move through the latent space of an autoencoder, and see the galaxy that it decodes."""

import hashlib
import threading
import time
from functools import partial

import ipywidgets as W
import numpy as np
import pandas as pd
import torch
import traitlets
from bokeh.models import ColumnDataSource, FixedTicker, LinearAxis, LinearColorMapper, Range1d
from bokeh.plotting import figure
from scipy.spatial import KDTree
from scipy.special import ndtr
from scipy.stats import spearmanr

from spectool.explore.dashboard import Choice, Dashboard
from spectool.explore.spectrum import FLUX_LABEL, TOOLS, WAVELENGTH_LABEL, LineMarks, flux_range
from spectool.explore.style import DECODED, OBSERVED, RESIDUAL, SIGNED_PALETTE
from spectool.explore.view import DashboardView, Slider, alt
from spectool.models.vae import encode_sample, traverse
from spectool.papers import find_parts
from spectool.parallel import single_thread

WINDOWS = {
    "All": None,
    "UV": (1000.0, 3500.0),
    "Optical": (3500.0, 7400.0),
    "4000 Å break": (3700.0, 4400.0),
    "Hβ, [O III]": (4780.0, 5080.0),
    "Hα": (6480.0, 6800.0),
}
ATTRIBUTES = ["long_name", "short_name", "valid_min", "valid_max"]  # of the atlas's parameters
N_NEAREST = 4
FAR = 2.0  # spreads to the nearest mock galaxy, beyond which the table of parameters is grey
DECIMALS = 4  # of latent values
N_STEPS, FRAME_SECONDS = 36, 0.12  # of an animation
N_BINS = 480  # of the strip of changes
BORDER = {"min_border_left": 68, "min_border_right": 40}  # the same for all panels: their frames line up
DISPLAY = {True: None, False: "none"}


def name_dimensions(latent, parameters):
    """Name each dimension of ``latent`` (galaxy, dimension) by the parameter that it follows most closely, in rank."""
    names = list(parameters)
    both = np.column_stack([latent, *parameters.values()])
    n = np.shape(latent)[1]
    shared = np.abs(np.atleast_2d(spearmanr(both[np.isfinite(both).all(axis=1)]).statistic))[:n, n:]
    return [names[k] for k in np.argmax(np.nan_to_num(shared), axis=1)]


class LatentState(Dashboard):
    """One position in the latent space of an autoencoder, and everything that follows from it."""

    name = "latent"
    controls = ("seed", "latent", "window", "whole_lines", "hold_axis", "animated")

    seed = Choice().tag(ui=True, label="Galaxy", tooltip="galaxy to start from")
    latent = traitlets.Instance(np.ndarray, args=((0,),), help="position (n_latent,), float32")
    window = Choice("All").tag(ui=True, style="toggles", label="Show", tooltip="wavelengths to show")
    whole_lines = traitlets.Bool(False).tag(
        ui=True, label="Whole lines", tooltip="let the flux axis reach the tips of emission lines"
    )
    hold_axis = traitlets.Bool(False).tag(
        ui=True, label="Hold axis", tooltip="keep the flux axis as it is; always so while playing"
    )
    animated = Choice().tag(ui=True, tooltip="dimension that Play moves")
    playing = traitlets.Bool(False, help="whether an animation is running; set it to False to stop it")

    def __init__(self, model, seeds, *, start=None):
        super().__init__(start=start)
        self.seeds, self.seed_names = seeds, seeds["name"].values.tolist()
        self.wavelength = seeds["wavelength"].values.astype(np.float32)
        self.seed_fluxes = (
            seeds["flux"].where(np.isfinite(seeds["flux"]) & ~seeds["mask"]).values.astype("f4")
        )
        self.set_model(model)

    # ---- the model

    def set_model(self, model):
        """Put another model in: the seeds are encoded anew, and the current one is decoded."""
        network, arrays, atlas = model.network.eval(), model.info.arrays, model.atlas
        with single_thread():
            seed_latents = encode_sample(network, self.seeds)["latent"].values
        lost = np.flatnonzero(~np.isfinite(seed_latents).all(axis=1))
        if lost.size:
            raise ValueError(f"the seed galaxy {self.seed_names[lost[0]]!r} has no usable pixel")
        latent = atlas["latent"].values.astype(np.float32)
        dimensions = np.arange(network.n_latent)
        with self.lock:
            self.model, self.network, self.seed_latents = model, network, seed_latents
            weights = b"".join(n.encode() + t.numpy().tobytes() for n, t in network.state_dict().items())
            self.model_id = hashlib.sha256(weights).hexdigest()[:16]
            self.lower = np.asarray(arrays.get("latent_min", latent.min(axis=0)), dtype=np.float32)
            self.upper = np.asarray(arrays.get("latent_max", latent.max(axis=0)), dtype=np.float32)
            self.spread = np.maximum(latent.std(axis=0), 1e-6)
            self.informative = dimensions[arrays.get("informative", slice(None))]
            others = np.setdiff1d(dimensions, self.informative)
            influence = np.mean(
                self._differ(others, 1.0, np.float32(0)) ** 2, axis=1
            )  # about the mean galaxy
            self.others = others[np.argsort(-influence, kind="stable")]
            self._tree = KDTree((latent / self.spread)[:, self.informative])
            # Of what the model predicts, the dashboard shows what has a name.
            self.shown = [k for k, c in enumerate(model.columns) if "short_name" in atlas[c].attrs]
            columns = [model.columns[k] for k in self.shown]
            about = pd.DataFrame([atlas[c].attrs for c in columns]).reindex(columns=ATTRIBUTES)
            self.parameters, edges = about["long_name"], about[["valid_min", "valid_max"]]
            self.possible = edges.fillna({"valid_min": -np.inf, "valid_max": np.inf}).to_numpy(float)
            unknown = np.full(len(self.seed_names), np.nan)
            self.truths = np.stack([self.seeds.get(c, unknown) for c in columns], axis=1)
            values = [atlas[c].values for c in columns]
            meanings = name_dimensions(latent, dict(zip(about["short_name"], values, strict=True)))
            self.labels = {
                int(d): f"{rank} · {f'{meanings[d]} ' if d in self.informative else ''}(z{d})"
                for rank, d in enumerate((*self.informative, *self.others), 1)
            }
            self.forget()
            self.set_trait("animated", int(self.informative[0]))
            self._change({"seed": self.seed or self.seed_names[0]})
            self._announce(("model",))

    def identity(self):
        return {"model": f"{self.model.info.name} ({self.model_id})"}

    # ---- choices

    def choices(self, name):
        if name == "animated":
            return [(label, dimension) for dimension, label in self.labels.items()]
        return {"seed": self.seed_names, "window": list(WINDOWS)}[name]

    def first_state(self):
        first = {"seed": self.seed_names[0], "window": "All", "animated": int(self.informative[0])}
        return first | {"whole_lines": False, "hold_axis": False}

    def reset(self):
        """Go back to the galaxy's own position."""
        self.set(latent=self.encoded)

    def complete(self, changes):
        if "latent" in changes:
            latent = np.asarray(changes["latent"], dtype=np.float32)
            if latent.shape != self.lower.shape or not np.isfinite(latent).all():
                raise ValueError(
                    f"a latent vector has {self.lower.size} finite values; got shape {latent.shape}"
                )
        elif changes.get("seed") in self.seed_names:
            latent = self.seed_latents[self.seed_names.index(changes["seed"])]
        else:
            return changes
        return changes | {"latent": np.clip(np.round(latent, DECIMALS), self.lower, self.upper)}

    def set_dimension(self, dimension, value):
        """Move along one dimension."""
        latent = self.latent.copy()
        latent[dimension] = value
        self.set(latent=latent)

    # ---- what follows

    def derive(self, changed):
        if "seed" in changed or "latent" in changed:
            index = self.seed_names.index(self.seed)
            self.encoded, self.seed_flux = self.seed_latents[index], self.seed_fluxes[index]
            self.decoded = self.decode(self.latent[None])[0]
            self.residual = self.seed_flux - self.decoded
            position = (self.latent / self.spread)[self.informative]
            self.distance, self.nearest = self._tree.query(position, k=N_NEAREST)

    @torch.inference_mode()
    def decode(self, latents):
        """Decode positions (position, n_latent) without moving."""
        with single_thread():
            return self.network.decode(torch.from_numpy(latents)).numpy()

    def _differ(self, dimensions, spreads, position):
        """What each dimension changes when it moves by so many spreads to both sides of a position."""
        moves = np.diag(spreads * self.spread)[dimensions].astype(np.float32)
        return self.decode(position + moves) - self.decode(position - moves)

    def find_changes(self):
        """What each informative dimension changes around the current position."""
        return self._differ(self.informative, 0.5, self.latent)

    def predict_parameters(self):
        """Predict mean and error of the parameters, as a DataFrame; none takes a value that is impossible."""
        with single_thread():
            mean, sigma = (values[0].astype(float) for values in self.model.predict(self.latent[None]))
        mean, sigma = bound(mean[self.shown], sigma[self.shown], *self.possible.T)
        columns = {"predicted": mean, "error": sigma, "truth": self.truths[self.seed_names.index(self.seed)]}
        return pd.DataFrame({"parameter": self.parameters, **columns})

    def table(self):
        columns = {"wavelength_angstrom": self.wavelength, "galaxy": self.seed_flux}
        return pd.DataFrame(columns | {"decoded": self.decoded, "residual": self.residual})

    def about(self):
        position = " ".join(f"{value:.5g}" for value in self.latent)
        return [*super().about(), f"galaxy: {self.seed}", f"latent: {position}"]

    def animate(self, dimension):
        """Move along one dimension to both ends and back, a step at each `next`, until something else moves.

        Undo takes the whole of it back.
        """
        low, high = self.lower[dimension], self.upper[dimension]
        if high <= low:
            raise ValueError(f"dimension {dimension} has no range to move in")
        start, before, values = self.latent[dimension], self.state(), []
        for end, step in ((high, (high - low) / N_STEPS), (low, (low - high) / N_STEPS)):
            way = np.append(np.arange(start, end, step), end)
            way, _ = traverse(self.decode, self.latent, dimension, way)
            values += [*way[1:], *way[-2::-1]]
        self.playing, latent = True, self.latent
        try:
            for value in values:
                with self.lock:
                    if not self.playing or self.latent is not latent:
                        return
                    latent = latent.copy()
                    latent[dimension] = value
                    self._change({"latent": latent})
                    latent = self.latent
                yield float(value)
        finally:
            self.playing = False
            self.remember(before, ("animated",))


def bound(mean, sigma, low, high):
    """Means and spreads of Gaussians of which only the possible values, from low to high, are kept."""
    # In the lower tail always: `scipy.stats.truncnorm` is as good there, and a hundred times slower.
    sign = np.where(low > mean, -1, 1)
    a, b = np.sort(sign * [low - mean, high - mean] / sigma, axis=0)
    at_a, at_b = (np.exp(-0.5 * edge**2) / np.sqrt(2 * np.pi) for edge in (a, b))
    kept = np.maximum(ndtr(b) - ndtr(a), 1e-300)
    shift = (at_a - at_b) / kept
    ends = np.nan_to_num(a, neginf=0) * at_a - np.nan_to_num(b, posinf=0) * at_b
    variance = np.clip(1 + ends / kept - shift**2, 0, 1)
    return np.clip(mean + sign * sigma * shift, low, high), sigma * np.sqrt(variance)


def strongest_in_bins(values, wavelength, window, n_bins):
    """Rebin rows for display, keeping the value of largest magnitude in each bin."""
    edges = np.linspace(*window, n_bins + 1)[:-1]
    first = np.clip(np.searchsorted(wavelength, edges), 0, wavelength.size - 1)
    last = max(int(np.searchsorted(wavelength, window[1])), int(first[-1]) + 1)
    high = np.maximum.reduceat(values[:, :last], first, axis=1)
    low = np.minimum.reduceat(values[:, :last], first, axis=1)
    return np.where(high >= -low, high, low).astype(np.float32)


class LatentView(DashboardView):
    """The latent dashboard of a `LatentState`; ``retrain(on_progress=...)`` makes another model."""

    rows = (("seed",), ("latent",))
    figure_rows = (("window", "whole_lines", "hold_axis"),)
    hint = "Drag a slider: the blue spectrum is the galaxy that the model decodes there."
    opener = "open_dashboard()"

    def __init__(self, state, *, retrain=None, export_folder="exports"):
        self.retrain, self._first = retrain, state.model
        super().__init__(state, export_folder=export_folder)

    # ---- controls

    def make_control(self, name):
        if name != "latent":
            return super().make_control(name)
        self.labels = None  # that the sliders were made for
        self.slider_box = W.VBox(layout=W.Layout(max_height="330px", overflow="hidden auto", width="100%"))
        self.other_box = W.VBox(layout=W.Layout(max_height="240px", overflow="hidden auto"))
        self.more = W.ToggleButton(tooltip="dimensions that change little", layout=W.Layout(width="auto"))
        traitlets.dlink((self.more, "value"), (self.other_box.layout, "display"), DISPLAY.get)
        return W.VBox([self.slider_box, self.more, self.other_box], layout=W.Layout(width="100%"))

    def _make_slider(self, dimension, label):
        low, high = float(self.state.lower[dimension]), float(self.state.upper[dimension])
        ends = {"min": low, "max": high, "step": max((high - low) / 400, 1e-4)}
        layout = W.Layout(width="auto", height="26px")
        slider = Slider(value=float(self.state.latent[dimension]), **ends, description=label, layout=layout)
        return self.link(slider, partial(self.state.set_dimension, dimension))

    def show_control(self, name, widget):
        if name != "latent":
            return super().show_control(name, widget)
        state = self.state
        if self.labels is not state.labels:
            self.labels = state.labels
            self.sliders = {d: self._make_slider(d, label) for d, label in state.labels.items()}
            sliders, n = list(self.sliders.values()), state.informative.size
            self.slider_box.children, self.other_box.children = sliders[:n], sliders[n:]
            self.more.description = f"{state.others.size} dimensions that change little"
            self.back.layout.display = DISPLAY[state.model is not self._first]
        for dimension, slider in self.sliders.items():
            slider.show(float(state.latent[dimension]))

    def make_extras(self):
        self.controls["animated"] = self.make_control("animated")
        self.play = self.button("", "move the chosen slider", self._toggle_play)
        options = {"description": "Retrain a light model…", "icon": "cogs", "layout": self.play.layout}
        self.train = W.ToggleButton(**options)
        self.confirm = self.button("Yes, about a minute", "", self._start_training)
        back = partial(self.state.set_model, self._first)
        self.back = self.button(f"Back to {self._first.info.name}", "", back)
        self.progress = W.FloatProgress(max=1, layout=W.Layout(width="auto"))
        state, words = self.state, {True: "Stop", False: "Play"}
        traitlets.dlink((state, "playing"), (self.play, "description"), words.get)
        traitlets.dlink((state, "playing"), (self.play, "icon"), lambda playing: words[playing].lower())
        traitlets.dlink((state, "busy"), (self.train, "disabled"))
        traitlets.dlink((self.train, "value"), (self.confirm.layout, "display"), DISPLAY.get)
        traitlets.dlink((state, "busy"), (self.progress.layout, "display"), DISPLAY.get)
        training = [self.train, self.confirm, self.back] if self.retrain else []
        return [W.HBox([self.controls["animated"], self.play]), *training, self.progress]

    def _toggle_play(self):
        if self.state.playing:
            self.state.playing = False
        else:
            steps = self.state.animate(self.state.animated)
            next(steps, None)
            threading.Thread(target=lambda: [time.sleep(FRAME_SECONDS) for _ in steps], daemon=True).start()

    # ---- training

    def _start_training(self):
        self.train.value, self.progress.value = False, 0
        self.state.work(partial(self.retrain, on_progress=self._show_progress), self._take_model)

    def _show_progress(self, fraction, loss):
        self.progress.value = fraction
        self.tell(f"Training, the sliders go on working: error and divergence {loss:.1f} per spectrum")

    def _take_model(self, model):
        self.state.set_model(model)
        self.tell("The new model's dimensions are others than before.")

    # ---- figures

    def make_panels(self):
        wavelength = self.state.wavelength
        self.full_range = float(wavelength[0]), float(wavelength[-1])
        empty = np.zeros_like(wavelength)
        columns = {"wavelength": wavelength, "decoded": empty, "residual": empty}
        self.spectrum = ColumnDataSource(columns, name="spectrum")
        self.galaxy = ColumnDataSource({"wavelength": wavelength, "flux": empty}, name="galaxy")
        self.image = ColumnDataSource({"image": [], "x": [], "dw": [], "dh": []}, name="changes")
        self.x_range = Range1d(*self.full_range, bounds=self.full_range)
        options = {"x_range": self.x_range, "tools": TOOLS, **BORDER}

        spectrum = figure(height=265, y_axis_label=FLUX_LABEL, y_range=(0, 1), **options)
        style = {"color": OBSERVED, "line_width": 4, "alpha": 0.55, "legend_label": "galaxy"}
        spectrum.line("wavelength", "flux", source=self.galaxy, **style)
        style = {"color": DECODED, "line_width": 1.3, "legend_label": "decoded"}
        spectrum.line("wavelength", "decoded", source=self.spectrum, **style)
        spectrum.add_layout(spectrum.legend[0], "above")
        spectrum.legend.update(orientation="horizontal", location="left")

        residual = figure(height=95, y_axis_label="galaxy − dec.", y_range=(-1, 1), **options)
        residual.line("wavelength", "residual", source=self.spectrum, color=RESIDUAL)
        residual.yaxis.ticker.desired_num_ticks = 3
        spectrum.xaxis.visible = residual.xaxis.visible = False

        options |= {"x_axis_label": WAVELENGTH_LABEL, "y_axis_label": "slider", "y_range": (1, 0)}
        title = "What each slider adds (orange) or takes (purple)"
        changes = figure(height=150, title=title, **options)
        mapper = LinearColorMapper(palette=SIGNED_PALETTE, low=-1, high=1, nan_color="white")
        changes.image("image", "x", 0, "dw", "dh", source=self.image, color_mapper=mapper)
        self.amplitudes = LinearAxis(major_label_text_font_size="11px", axis_line_color=None)
        changes.add_layout(self.amplitudes, "right")
        changes.grid.visible = False

        self.lines = LineMarks(spectrum, self.full_range, 540)
        # The page reports how wide it drew the frame.
        spectrum.on_change("inner_width", lambda attr, old, new: self.lines.update(width=new))
        self.x_range.on_change("start", self._zoomed)
        self.x_range.on_change("end", self._zoomed)
        return [[spectrum], [residual], [changes]]

    def draw(self, changed):
        state, changed = self.state, {*changed}
        if changed & {"model", *state.controls} == {"animated"}:
            return
        if "window" in changed:
            start, end = WINDOWS[state.window] or self.full_range
            self.x_range.update(start=start, end=end)
        if changed & {"seed", "model"}:
            self.galaxy.data["flux"] = state.seed_flux
        self.spectrum.data.update(decoded=state.decoded, residual=state.residual)
        self._show_changes()
        self._fit_flux(force=bool(changed & {"seed", "model", "window", "whole_lines"}))
        size = np.sqrt(np.nanmean(state.residual**2))
        sentences = (
            f"Spectrum of {state.seed} and of the decoded galaxy, {size:.2f} apart on average.",
            f"Difference of the two; root mean square {size:.3f}.",
            f"What each of {state.informative.size} sliders changes at each wavelength.",
        )
        for plot, sentence in zip(self.plots, sentences, strict=True):
            alt(plot, sentence)

    def _show_changes(self):
        low, high, plot = self.x_range.start, self.x_range.end, self.panels[2][0]
        image = strongest_in_bins(self.state.find_changes(), self.state.wavelength, (low, high), N_BINS)
        amplitude = np.maximum(np.quantile(np.abs(image), 0.98, axis=1), 1e-6)
        n = len(image)
        if plot.y_range.start != n:
            plot.y_range.update(start=n, end=0)
            plot.height = 84 + 14 * min(n, 12)
            plot.yaxis.ticker = FixedTicker(ticks=[i + 0.5 for i in range(n)])
            plot.yaxis[0].major_label_overrides = {i + 0.5: str(i + 1) for i in range(n)}
        scaled = np.clip(image / amplitude[:, None], -1, 1)
        self.image.data = {"image": [scaled], "x": [low], "dw": [high - low], "dh": [n]}
        self.amplitudes.major_label_overrides = {
            i + 0.5: f"±{value:.2g}" for i, value in enumerate(amplitude)
        }

    def _zoomed(self, attr, old, new):
        with self.state.lock, self.figure.batch():
            self.lines.update((self.x_range.start, self.x_range.end))
            self._show_changes()
            self._fit_flux(force=True)

    def _fit_flux(self, *, force):
        state = self.state
        shown = (state.wavelength >= self.x_range.start) & (state.wavelength <= self.x_range.end)
        spectra = np.stack([state.seed_flux, state.decoded])[:, shown]
        sizes = np.nan_to_num(np.abs(state.residual[shown]))
        if not state.whole_lines:
            # In a wide window strong lines are few pixels, and would flatten the continuum.
            spectra = np.minimum(spectra, 1.6 * np.nanquantile(spectra, 0.98))
            sizes = np.minimum(sizes, 1.6 * np.quantile(sizes, 0.98))
        low, high = flux_range(spectra, headroom=0.28)
        limit = 1.1 * float(sizes.max()) or 1.0
        flux, residual = self.panels[0][0].y_range, self.panels[1][0].y_range
        held = state.hold_axis or state.playing
        # A margin before the axis moves: an axis that follows every step hides what the step changed.
        fits = flux.start <= low + 0.02 * (high - low) and 0.9 * high <= flux.end <= 2 * high
        if force or not (fits or held):
            flux.update(start=low, end=high)
        if force or not (0.3 * residual.end < limit <= residual.end or held):
            residual.update(start=-limit, end=limit)

    # ---- words

    def describe(self):
        state, warnings = self.state, []
        negative = state.wavelength[state.decoded < 0]
        if negative.size:
            where = f"{negative[0]:.0f}–{negative[-1]:.0f} Å"
            warnings.append(f"{negative.size} pixels below zero ({where}): no galaxy")
        outside = np.flatnonzero((state.encoded < state.lower) | (state.encoded > state.upper))
        if outside.size:
            names = ", ".join(f"z{d}" for d in outside)
            warnings.append(f"outside the encoder's range in {names}: moved to its edge")
        if (distance := state.distance[0]) > FAR:
            warnings.append(f"the nearest mock galaxy is {distance:.1f} spreads away: the table is a guess")
        return f"decoded by {state.model.info.name}", "; ".join(warnings)

    def make_tables(self):
        state, atlas = self.state, self.state.model.atlas
        table = state.predict_parameters()
        pairs = zip(table["predicted"], table["error"], strict=True)
        columns = {"parameter": table["parameter"]}
        columns["predicted"] = [f"{mean:.2f} ± {max(error, 0.01):.2f}" for mean, error in pairs]
        columns["galaxy's truth"] = [f"{t:.2f}" if np.isfinite(t) else "–" for t in table["truth"]]
        table = pd.DataFrame(columns).to_html(index=False, border=0)
        if state.distance[0] > FAR:
            table = f'<div class="dim" title="too far from any mock galaxy">{table}</div>'
        columns = [c for c in ("log_mass", "log_sfr", "log_z_gas", "dust2") if c in atlas]
        near = {"nearest mocks (spreads)": [f"{d:.2f}" for d in state.distance]}
        near |= {atlas[c].attrs["short_name"]: atlas[c].values[state.nearest].round(2) for c in columns}
        return [table, pd.DataFrame(near)]


def open_dashboard(model=None, *, retrain=None):
    """Open the latent dashboard on a shipped model.

    Parameters
    ----------
    model : str or path, optional
        A shipped model's name or a model file; by default the reference model.
    retrain : callable, optional
        Called as ``retrain(on_progress=...)``, returns a `spectool.models.vae.LatentModel`; True for the shipped way to
        train a light model.

    Returns
    -------
    LatentView
    """
    (part,) = find_parts("latent").values()
    state = LatentState(part.open_model(model or part.REFERENCE), part.draw_seeds())
    view = LatentView(state, retrain=part.retrain if retrain is True else retrain)
    view.opener = f"open_dashboard({'' if model is None else repr(str(model))})"
    return view
