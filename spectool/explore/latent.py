"""The latent dashboard: move through the latent space of an autoencoder, and see the galaxy that it decodes."""

import hashlib
import threading
import time
from functools import partial

import ipywidgets as W
import numpy as np
import pandas as pd
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
from spectool.models.vae import decode_latent, encode_sample, traverse
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
FAR = 2.0  # spreads to the nearest mock galaxy, beyond which the table of parameters is grey
DECIMALS = 4  # of latent values
FRAME_SECONDS = 0.12
N_BINS = 480  # of the strip of changes
BORDER = {"min_border_left": 68, "min_border_right": 40}  # the same for all panels: their frames line up


def fingerprint(model):
    """Return a short hash of a model's weights, which tells two trainings of one architecture apart."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]


def informative_dimensions(arrays, n_latent):
    """Return the indices of the informative dimensions from a model file's arrays."""
    if "informative" not in arrays:
        return np.arange(n_latent)
    informative = np.asarray(arrays["informative"])
    return np.flatnonzero(informative) if informative.dtype == bool else informative.astype(int)


def name_dimensions(latent, parameters):
    """Name each latent dimension by the parameter that it follows most closely, in rank.

    Parameters
    ----------
    latent : array_like, shape (galaxy, dimension)
    parameters : dict of str to array_like, each shape (galaxy,)

    Returns
    -------
    list of str
    """
    names = list(parameters)
    both = np.column_stack([np.asarray(latent), *(np.asarray(values) for values in parameters.values())])
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
    playing = traitlets.Bool(False, help="whether an animation is running")

    def __init__(self, model, seeds, *, start=None):
        super().__init__(start=start)
        self.seeds = seeds
        self.seed_names = [str(name) for name in seeds["name"].values]
        self.wavelength = np.asarray(seeds["wavelength"].values, dtype=np.float32)
        self.set_model(model)

    # ---- the model

    def set_model(self, model):
        """Put another model in: the seeds are encoded anew, and the current one is decoded."""
        network, arrays = model.network.eval(), model.info.arrays
        with single_thread():
            seed_latents = encode_sample(network, self.seeds)["latent"].values.astype(np.float32)
        lost = np.flatnonzero(~np.isfinite(seed_latents).all(axis=1))
        if lost.size:
            raise ValueError(f"the seed galaxy {self.seed_names[lost[0]]!r} has no usable pixel")
        atlas = np.asarray(model.atlas["latent"].values, dtype=np.float32)
        with self.lock:
            self.model, self.network, self.model_id = model, network, fingerprint(network)
            lower, upper = (
                arrays.get("latent_min", atlas.min(axis=0)),
                arrays.get("latent_max", atlas.max(axis=0)),
            )
            self.lower, self.upper = (np.asarray(edge, dtype=np.float32) for edge in (lower, upper))
            self.spread = np.maximum(atlas.std(axis=0), 1e-6)
            self.encoded_seeds = seed_latents
            self.informative = informative_dimensions(arrays, network.n_latent)
            others = np.setdiff1d(np.arange(network.n_latent), self.informative)
            self.others = others[np.argsort(-self._influence(others), kind="stable")]
            named = {c: about for c in model.columns if (about := model.atlas[c].attrs).get("short_name")}
            values = {about["short_name"]: model.atlas[c].values for c, about in named.items()}
            self.meanings = name_dimensions(atlas, values) if named else [""] * network.n_latent
            self._tree = KDTree((atlas / self.spread)[:, self.informative])
            self.forget()
            self.set_trait("animated", int(self.informative[0]))
            self._change({"seed": self.seed or self.seed_names[0]})
            self._announce(("model",))

    def _influence(self, dimensions):
        """How much the decoded flux moves with each dimension about the mean galaxy, root mean square."""
        ends = np.zeros((2, dimensions.size, self.lower.size), dtype=np.float32)
        for end, sign in zip(ends, (-1, 1), strict=True):
            end[np.arange(dimensions.size), dimensions] = sign * self.spread[dimensions]
        return np.sqrt(np.mean((self.decode(ends[1]) - self.decode(ends[0])) ** 2, axis=1))

    def identity(self):
        return {"model": f"{self.model.info.name} ({self.model_id})"}

    def label(self, dimension):
        """What a slider is called: its rank, what it shares most with, and its number in the model."""
        ranks = [*self.informative, *self.others]
        meaning = f"{self.meanings[dimension]} " if dimension in self.informative else ""
        return f"{ranks.index(dimension) + 1} · {meaning}(z{dimension})"

    # ---- choices

    def choices(self, name):
        if name == "animated":
            return [(self.label(d), int(d)) for d in (*self.informative, *self.others)]
        return {"seed": self.seed_names, "window": list(WINDOWS)}[name]

    def first_state(self):
        first = {"seed": self.seed_names[0], "window": "All", "animated": int(self.informative[0])}
        return first | {"whole_lines": False, "hold_axis": False}

    def reset(self):
        """Go back to the galaxy's own position."""
        self.stop()
        self.set(latent=self.encoded)

    def complete(self, changes):
        if "latent" in changes:
            latent = np.asarray(changes["latent"], dtype=np.float32)
            if latent.shape != self.lower.shape or not np.isfinite(latent).all():
                raise ValueError(
                    f"a latent vector has {self.lower.size} finite values; got shape {latent.shape}"
                )
        elif changes.get("seed") in self.seed_names:
            latent = self.encoded_seeds[self.seed_names.index(changes["seed"])]
        else:
            return changes
        latent = np.clip(np.round(latent, DECIMALS), self.lower, self.upper)
        return changes | {"latent": latent}

    def set_dimension(self, dimension, value):
        """Move along one dimension."""
        latent = self.latent.copy()
        latent[dimension] = value
        self.set(latent=latent)

    def derive(self, changed):
        if "seed" in changed or "latent" in changed:
            index = self.seed_names.index(self.seed)
            galaxy = self.seeds.isel(galaxy=index)
            bad = galaxy["mask"].values if "mask" in galaxy else np.zeros(self.wavelength.size, dtype=bool)
            flux = np.asarray(galaxy["flux"].values, dtype=np.float32)
            self.seed_flux = np.where(bad | ~np.isfinite(flux), np.float32(np.nan), flux)
            self.truth = {c: float(galaxy[c]) for c in self.model.columns if c in galaxy}
            self.encoded = self.encoded_seeds[index]
            self.decoded = self.decode(self.latent[None])[0]
            self.residual = self.seed_flux - self.decoded

    # ---- what follows

    def decode(self, latents):
        """Decode positions without moving."""
        with single_thread():
            return np.asarray(decode_latent(self.network, latents), dtype=np.float32)

    @property
    def out_of_range(self):
        """Dimensions in which the seed galaxy lies outside the range of the training galaxies."""
        return np.flatnonzero((self.encoded < self.lower) | (self.encoded > self.upper))

    def find_changes(self):
        """What each informative dimension changes around the current position."""
        latent, n = self.latent, self.informative.size
        moves = np.zeros((n, latent.size), dtype=np.float32)
        moves[np.arange(n), self.informative] = 0.5 * self.spread[self.informative]
        both = self.decode(np.concatenate([latent + moves, latent - moves]))
        return both[:n] - both[n:]

    def predict_parameters(self):
        """Predict mean and error of the parameters, as a DataFrame; none takes a value that is impossible."""
        atlas, columns = self.model.atlas, self.model.columns
        named = {c: atlas[c].attrs for c in columns if c in atlas and "long_name" in atlas[c].attrs}
        if self.model.predict is None or not named:
            return pd.DataFrame(columns=["parameter", "predicted", "error", "truth"])
        with single_thread():
            means, sigmas = (values[0].astype(float) for values in self.model.predict(self.latent[None]))
        rows = [columns.index(c) for c in named]
        low, high = (
            np.array([about.get(f"valid_{end}", edge) for about in named.values()])
            for end, edge in (("min", -np.inf), ("max", np.inf))
        )
        mean, error = bound(means[rows], sigmas[rows], low, high)
        labels = [about["long_name"] for about in named.values()]
        truth = [self.truth.get(c, np.nan) for c in named]
        return pd.DataFrame({"parameter": labels, "predicted": mean, "error": error, "truth": truth})

    def nearest(self, n=4):
        """Find the training galaxies nearest to the current position: their rows, and distances in spreads."""
        n = min(n, self.model.atlas.sizes["galaxy"])
        distance, index = self._tree.query((self.latent / self.spread)[self.informative], k=n)
        return np.atleast_1d(index), np.atleast_1d(distance)

    def table(self):
        columns = {"wavelength_angstrom": self.wavelength, "galaxy": self.seed_flux}
        return pd.DataFrame(columns | {"decoded": self.decoded, "residual": self.residual})

    def about(self):
        position = " ".join(f"{value:.5g}" for value in self.latent)
        return [*super().about(), f"galaxy: {self.seed}", f"latent: {position}"]

    # ---- animation

    def animate(self, dimension, *, n_steps=48):
        """Move along one dimension and back, a step at each `next`; undo takes the whole of it back."""
        low, high = self.lower[dimension], self.upper[dimension]
        if high <= low:
            raise ValueError(f"dimension {dimension} has no range to move in")
        step = (high - low) / n_steps
        latent, start, before = self.latent.copy(), float(self.latent[dimension]), self.state()
        up = np.append(np.arange(start, high, step), high)
        down = np.append(np.arange(start, low, -step), low)
        up, down = (traverse(self.decode, latent, dimension, values)[0] for values in (up, down))
        self.playing = True
        try:
            for value in np.concatenate([up[1:], up[-2::-1], down[1:], down[-2::-1]]):
                with self.lock:
                    if not self.playing:
                        return
                    latent[dimension] = value
                    self._change({"latent": latent.copy()})
                yield float(value)
        finally:
            self.playing = False
            self.remember(before, ("animated",))

    def stop(self):
        """Stop a running animation where it is."""
        self.playing = False


def bound(mean, sigma, low, high):
    """Means and spreads of Gaussians of which only the possible values, from low to high, are kept."""
    a, b = (low - mean) / sigma, (high - mean) / sigma
    kept = np.maximum(ndtr(b) - ndtr(a), 1e-150)
    at_a, at_b = (np.exp(-(edge**2) / 2) / np.sqrt(2 * np.pi) for edge in (a, b))
    shift = (at_a - at_b) / kept
    edges = [np.where(np.isfinite(edge), edge, 0) for edge in (a, b)]
    variance = 1 + (edges[0] * at_a - edges[1] * at_b) / kept - shift**2
    return np.clip(mean + sigma * shift, low, high), sigma * np.sqrt(np.clip(variance, 0, 1))


def strongest_in_bins(values, wavelength, window, n_bins):
    """Rebin rows for display, keeping the value of largest magnitude in each bin."""
    edges = np.linspace(*window, n_bins + 1)[:-1]
    first = np.clip(np.searchsorted(wavelength, edges), 0, wavelength.size - 1)
    last = max(int(np.searchsorted(wavelength, window[1])), int(first[-1]) + 1)
    high = np.maximum.reduceat(values[:, :last], first, axis=1)
    low = np.minimum.reduceat(values[:, :last], first, axis=1)
    return np.where(high >= -low, high, low).astype(np.float32)


class LatentView(DashboardView):
    """The latent dashboard.

    Parameters
    ----------
    state : LatentState
    retrain : callable, optional
        Called as ``retrain(on_progress=...)``, returns a `spectool.models.vae.LatentModel`.
    export_folder : str or path
    """

    rows = (("seed",), ("latent",))
    figure_rows = (("window", "whole_lines", "hold_axis"),)
    hint = "Drag a slider: the blue spectrum is the galaxy that the model decodes there."
    opener = "open_dashboard()"

    def __init__(self, state, *, retrain=None, export_folder="exports"):
        self.retrain, self._first = retrain, state.model
        super().__init__(state, export_folder=export_folder)
        state.observe(lambda _: self._show_playing(), "playing")

    # ---- controls

    def make_control(self, name):
        if name != "latent":
            return super().make_control(name)
        self.sliders = {}
        self.slider_box = W.VBox(layout=W.Layout(max_height="330px", overflow="hidden auto", width="100%"))
        self.other_box = W.VBox(layout=W.Layout(max_height="240px", overflow="hidden auto", display="none"))
        self.more = W.ToggleButton(tooltip="dimensions that change little", layout=W.Layout(width="auto"))
        self.more.observe(lambda change: self._unfold(change["new"]), "value")
        return W.VBox([self.slider_box, self.more, self.other_box], layout=W.Layout(width="100%"))

    def _unfold(self, unfolded):
        self.other_box.layout.display = None if unfolded else "none"

    def _make_slider(self, dimension):
        low, high = float(self.state.lower[dimension]), float(self.state.upper[dimension])
        slider = Slider(
            value=float(self.state.latent[dimension]),
            min=low,
            max=high,
            step=max((high - low) / 400, 1e-4),
            description=self.state.label(dimension),
            readout_format=".2f",
            layout=W.Layout(width="auto", height="26px"),
        )
        slider.observe(lambda change: self._slide(dimension, slider, change["new"]), "value")
        return slider

    def _slide(self, dimension, slider, value):
        if not self._quiet and not slider.is_echo(value):
            self.state.stop()
            self.act(self.state.set_dimension, dimension, value)

    def show_control(self, name, widget):
        if name != "latent":
            return super().show_control(name, widget)
        state = self.state
        shown = [int(d) for d in (*state.informative, *state.others)]
        if list(self.sliders) != shown or "model" in state.changed:
            self.sliders = {d: self._make_slider(d) for d in shown}
            self.slider_box.children = [self.sliders[int(d)] for d in state.informative]
            self.other_box.children = [self.sliders[int(d)] for d in state.others]
            self.more.description = f"{state.others.size} dimensions that change little"
        for dimension, slider in self.sliders.items():
            slider.show(float(state.latent[dimension]))

    def make_extras(self):
        narrow = W.Layout(width="auto", flex="1 1 auto")
        self.play = W.Button(description="Play", icon="play", tooltip="move the chosen slider", layout=narrow)
        self.play.on_click(lambda _: self.act(self._toggle_play))
        self.train = W.Button(icon="cogs", layout=narrow)
        self.confirm = W.Button(description="Yes, about a minute", button_style="warning", layout=narrow)
        self.cancel = W.Button(description="No", layout=narrow)
        self.ask = W.HBox([self.confirm, self.cancel], layout=W.Layout(display="none"))
        self.progress = W.FloatProgress(min=0, max=1, layout=W.Layout(width="auto", display="none"))
        self.train.on_click(lambda _: self.act(self._train_clicked))
        self.confirm.on_click(lambda _: self.act(self._start_training))
        self.cancel.on_click(lambda _: self.act(_show, self.ask, False))
        self.train.layout.display = None if self.retrain else "none"
        self.controls["animated"] = self.make_control("animated")
        return [W.HBox([self.controls["animated"], self.play]), self.train, self.ask, self.progress]

    def _toggle_play(self):
        if self.state.playing:
            self.state.stop()
        else:
            threading.Thread(target=self._animate, args=[self.state.animated], daemon=True).start()

    def _animate(self, dimension):
        for _ in self.state.animate(dimension, n_steps=36):
            time.sleep(FRAME_SECONDS)

    def _show_playing(self):
        playing = self.state.playing
        self.play.description, self.play.icon = ("Stop", "stop") if playing else ("Play", "play")

    # ---- training

    def _train_clicked(self):
        if self.state.model is self._first:
            _show(self.ask, True)
        else:
            self.state.set_model(self._first)

    def _start_training(self):
        _show(self.ask, False)
        _show(self.progress, True)
        self.train.disabled, self.progress.value = True, 0
        self.state.work(partial(self.retrain, on_progress=self._show_progress), self._take_model)

    def _show_progress(self, fraction, loss):
        self.progress.value = fraction
        self.tell(f"Training, the sliders go on working: error and divergence {loss:.1f} per spectrum")

    def _take_model(self, model):
        self.state.set_model(model)
        self.tell("The new model's dimensions are others than before.")

    def _show_status(self):
        super()._show_status()
        if not self.state.busy:
            self.train.disabled = False
            _show(self.progress, False)
        first = self.state.model is self._first
        self.train.description = "Retrain a light model…" if first else f"Back to {self._first.info.name}"

    # ---- figures

    def make_panels(self):
        wavelength = self.state.wavelength
        self.full_range = float(wavelength[0]), float(wavelength[-1])
        empty = np.zeros(wavelength.size, dtype=np.float32)
        columns = {"wavelength": wavelength, "decoded": empty, "residual": empty}
        self.spectrum = ColumnDataSource(columns, name="spectrum")
        self.galaxy = ColumnDataSource({"wavelength": wavelength, "flux": empty}, name="galaxy")
        self.image = ColumnDataSource({"image": [], "x": [], "dw": [], "dh": []}, name="changes")
        self.x_range = Range1d(*self.full_range, bounds=self.full_range)
        panels = [self._draw_spectrum(), self._draw_residual(), self._draw_changes()]
        self.lines = LineMarks(panels[0], self.full_range, 540)
        # The page reports how wide it drew the frame.
        panels[0].on_change("inner_width", lambda attr, old, new: self.lines.update(width=new))
        self.x_range.on_change("start", self._zoomed)
        self.x_range.on_change("end", self._zoomed)
        return [[panel] for panel in panels]

    def _panel(self, height, title, y_label, **options):
        return figure(
            title=title,
            height=height,
            x_range=self.x_range,
            tools=TOOLS,
            active_scroll=None,
            sizing_mode="stretch_width",
            y_axis_label=y_label,
            **BORDER,
            **options,
        )

    def _draw_spectrum(self):
        plot = self._panel(265, None, FLUX_LABEL, y_range=Range1d(0, 1))
        galaxy = {"source": self.galaxy, "color": OBSERVED, "legend_label": "galaxy"}
        plot.line("wavelength", "flux", line_width=4, alpha=0.55, **galaxy)
        decoded = {"source": self.spectrum, "color": DECODED, "legend_label": "decoded"}
        plot.line("wavelength", "decoded", line_width=1.3, **decoded)
        plot.add_layout(plot.legend[0], "above")
        plot.legend.update(orientation="horizontal", location="left")
        plot.xaxis.visible = False
        return plot

    def _draw_residual(self):
        plot = self._panel(95, None, "galaxy − dec.", y_range=Range1d(-1, 1))
        plot.line("wavelength", "residual", source=self.spectrum, color=RESIDUAL, line_width=1)
        plot.xaxis.visible = False
        plot.yaxis.ticker.desired_num_ticks = 3
        return plot

    def _draw_changes(self):
        title = "What each slider adds (orange) or takes (purple)"
        plot = self._panel(150, title, "slider", y_range=Range1d(1, 0), x_axis_label=WAVELENGTH_LABEL)
        mapper = LinearColorMapper(palette=SIGNED_PALETTE, low=-1, high=1, nan_color="white")
        plot.image("image", "x", 0, "dw", "dh", source=self.image, color_mapper=mapper)
        self.amplitudes = LinearAxis(major_label_text_font_size="11px", axis_line_color=None)
        plot.add_layout(self.amplitudes, "right")
        plot.grid.visible = False
        return plot

    def draw(self, changed):
        state = self.state
        changed = {*changed}
        if changed & {"model", *state.controls} == {"animated"}:
            return
        if "window" in changed:
            window = WINDOWS[state.window] or self.full_range
            self.x_range.update(start=window[0], end=window[1])
        if changed & {"seed", "model"}:
            self.galaxy.data["flux"] = state.seed_flux
        self.spectrum.data.update(decoded=state.decoded, residual=state.residual)
        self._show_changes()
        self._fit_flux(force=bool(changed & {"seed", "model", "window", "whole_lines"}))
        size = np.sqrt(np.nanmean(state.residual**2))
        alt(
            self.panels[0][0],
            f"Spectrum of {state.seed} and of the decoded galaxy, {size:.2f} apart on average.",
        )
        alt(self.panels[1][0], f"Difference of the two; root mean square {size:.3f}.")
        alt(self.panels[2][0], f"What each of {state.informative.size} sliders changes at each wavelength.")

    def _show_changes(self):
        changes = self.state.find_changes()
        low, high = self.x_range.start, self.x_range.end
        image = strongest_in_bins(changes, self.state.wavelength, (low, high), N_BINS)
        amplitude = np.maximum(np.quantile(np.abs(image), 0.98, axis=1), 1e-6)
        n = len(image)
        plot = self.panels[2][0]
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

    # ---- axes

    def _zoomed(self, attr, old, new):
        with self.state.lock, self.figure.batch():
            self.lines.update((self.x_range.start, self.x_range.end))
            self._show_changes()
            self._fit_flux(force=True)

    def _fit_flux(self, *, force):
        state = self.state
        shown = (state.wavelength >= self.x_range.start) & (state.wavelength <= self.x_range.end)
        spectra = np.stack([state.seed_flux[shown], state.decoded[shown]])
        if not state.whole_lines:
            # In a wide window strong lines are few pixels, and would flatten the continuum.
            spectra = np.minimum(spectra, 1.6 * np.nanquantile(spectra, 0.98))
        low, high = flux_range(spectra, headroom=0.28)
        flux, residual = self.panels[0][0].y_range, self.panels[1][0].y_range
        held = state.hold_axis or state.playing
        # A margin before the axis moves: an axis that follows every step hides what the step changed.
        fits = flux.start <= low + 0.02 * (high - low) and 0.9 * high <= flux.end <= 2 * high
        if force or not (fits or held):
            flux.update(start=low, end=high)
        sizes = np.abs(state.residual[shown])
        sizes = sizes[np.isfinite(sizes)]
        scale, share = (1.1, 1.0) if state.whole_lines else (1.6, 0.98)
        limit = max(scale * float(np.quantile(sizes, share)) if sizes.size else 1.0, 1e-3)
        if force or not (0.3 * residual.end < limit <= residual.end or held):
            residual.update(start=-limit, end=limit)

    # ---- words

    def describe(self):
        state, warnings = self.state, []
        negative = state.wavelength[state.decoded < 0]
        if negative.size:
            where = f"{negative[0]:.0f}–{negative[-1]:.0f} Å"
            warnings.append(f"{negative.size} pixels below zero ({where}): no galaxy")
        if outside := [f"z{d}" for d in state.out_of_range]:
            warnings.append(f"outside the encoder's range in {', '.join(outside)}: moved to its edge")
        _, distance = state.nearest(1)
        if distance[0] > FAR:
            warnings.append(
                f"the nearest mock galaxy is {distance[0]:.1f} spreads away: the table is a guess"
            )
        return f"decoded by {state.model.info.name}", "; ".join(warnings)

    def make_tables(self):
        state = self.state
        index, distance = state.nearest()
        table = state.predict_parameters()
        if len(table):
            values = [
                f"{m:.2f} ± {max(s, 0.01):.2f}"
                for m, s in zip(table["predicted"], table["error"], strict=True)
            ]
            truth = [f"{t:.2f}" if np.isfinite(t) else "–" for t in table["truth"]]
            table = table[["parameter"]].assign(predicted=values, **{"galaxy's truth": truth})
            table = table.to_html(index=False, border=0)
        else:
            table = ""
        if distance[0] > FAR:
            table = f'<div class="dim" title="too far from any mock galaxy">{table}</div>'
        atlas = state.model.atlas
        columns = [c for c in ("log_mass", "log_sfr", "log_z_gas", "dust2") if c in atlas]
        near = {"nearest mocks (spreads)": [f"{d:.2f}" for d in distance]}
        near |= {atlas[c].attrs.get("short_name", c): atlas[c].values[index].round(2) for c in columns}
        return [table, pd.DataFrame(near)]


def _show(widget, visible):
    widget.layout.display = None if visible else "none"


def open_dashboard(model=None, *, retrain=None, seed=60):
    """Open the latent dashboard on a shipped model.

    Parameters
    ----------
    model : str or path, optional
        A shipped model's name or a model file; by default the reference model.
    retrain : callable, optional
        See `LatentView`; True for the shipped way to train a light model.
    seed : int
        Of the mock galaxies.

    Returns
    -------
    LatentView
    """
    (part,) = find_parts("latent").values()
    opened = part.open_model(model or part.REFERENCE, seed=seed)
    retrain = part.retrain if retrain is True else retrain
    return LatentView(LatentState(opened, part.draw_seeds(seed=seed)), retrain=retrain)
