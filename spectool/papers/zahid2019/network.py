"""Stellar metallicity from prepared spectra: the network of Zahid et al. (2019), trained as in their Section 5."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from scipy.ndimage import gaussian_filter1d

from spectool.models import chunked
from spectool.models.calibration import figures_of_merit
from spectool.models.chunked import SN_LEVELS, ChunkBasis, ChunkedEnsemble, ChunkedMLP, add_white_noise
from spectool.models.store import load_model
from spectool.models.training import History, Rows, fit, in_batches, one_cycle
from spectool.papers import as_columns
from spectool.papers.zahid2019.sample import HELDOUT_TEST_SEED, make_heldout
from spectool.spectra import SIGMA_TO_FWHM
from spectool.synth.grid import SSPGrid

OUTPUTS = ("log_z_lw",)
ENSEMBLE = tuple(f"zahid2019_mlp{k}" for k in range(1, 7))
INTERVAL_OUTPUTS = tuple(f"log_z_interval_{k}" for k in range(1, 6))
# Not the ages of the intervals: in the training set they follow from its duration, and nothing else can be learnt.
TIME_RESOLVED = (*INTERVAL_OUTPUTS, "log_age_lw")
# Chosen on the held-out histories of HELDOUT_SEED; the paper leaves its own unsaid, but for the 500 epochs.
ADAM_EPOCHS, SGD_EPOCHS, BATCH_SIZE, PATIENCE = 80, 500, 1024, 100
LR, SGD_LR = 1e-2, 3e-2
L1, L2 = 1e-5, 0.0
_LOG_OF = {"log_age_lw": "age_lw", "log_age_interval": "age_interval"}
LOG_Z_EDGES = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.4)
LOG_AGE_EDGES = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.2)  # dex(Gyr), light-weighted
PERTURBED_RANGE = (3600.0, 7700.0)
_CONTINUUM = 100.0  # Angstrom: sigma of the smoothing that tells features from continua
_SMOOTH = (40.0, 150.0)  # Angstrom: over which wrong depths, of lines and of bands, and wrong continua change


def make_labels(prepared: xr.Dataset, outputs: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N, n_out), float32, and their units."""
    columns, units = [], []
    for output in outputs:
        name, _, interval = output.rpartition("_") if output[-1].isdigit() else (output, "", "")
        column = _LOG_OF.get(name, name)
        if column not in prepared:
            raise KeyError(f"no label for {output!r}: the sample has no column {column!r}")
        values = prepared[column].values
        values = values[:, int(interval) - 1] if interval else values
        columns.append(np.log10(values) if name in _LOG_OF else values)
        units.append("dex(Gyr)" if name in _LOG_OF else "dex")
    return np.stack(columns, axis=1).astype(np.float32), tuple(units)


@dataclass(frozen=True)
class NoisyLoss:
    """Mean squared error of standardised outputs under fresh noise, plus penalties while training; for `fit`."""

    basis: ChunkBasis | None = None
    l1: float = 0.0
    l2: float = 0.0
    levels: tuple[float, ...] = SN_LEVELS
    pixel_noise: bool = False

    def __call__(self, model: ChunkedMLP, batch: dict, step) -> dict[str, torch.Tensor]:
        """``loss``; ``squared_error`` in units of the labels' variance, ``squared_error_1`` of the first output."""
        x, y = batch["x"], batch["y"]
        sigma = (
            batch["sigma"] if "sigma" in batch else chunked.assign_levels(len(x), self.levels, step.generator)
        )
        off = (model.head(self._see(model, x, sigma, step.generator)) - y) / model.out_scale
        squared = off.square().mean()
        result = {"squared_error": squared, "squared_error_1": off[:, 0].square().mean()}
        return {"loss": squared + (self._penalty(model) if step.training else 0.0), **result}

    def _see(self, model, x, sigma, generator):
        if self.pixel_noise:
            return model.preactivations(x + sigma[:, None] * torch.randn(x.shape, generator=generator))
        clean = self.basis.preactivations(model, x) if self.basis is not None else model.preactivations(x)
        return clean + chunked.draw_filtered(model.responses(), sigma, generator)

    def _penalty(self, model):
        kernels = [model.weight * model.inside, *(layer.weight for layer in model.dense[::2])]
        return sum(self.l1 * w.abs().sum() + self.l2 * w.square().sum() for w in kernels)


def arrays_with_noise(prepared, model, outputs, loss) -> dict:
    """Every spectrum at every S/N: arrays ``x``, ``y``, ``sigma`` for `fit` and `evaluate`."""
    x, (y, _) = prepared["flux"].values, make_labels(prepared, outputs)
    x = loss.basis.project(x, model) if loss.basis is not None else x
    rows = np.tile(np.arange(len(x)), len(SN_LEVELS))
    sigma = np.repeat(1.0 / np.asarray(SN_LEVELS, np.float32), len(x)).astype(np.float32)
    return {"x": Rows(x, rows), "y": y[rows], "sigma": sigma}


def train(
    training: xr.Dataset,
    heldout: xr.Dataset,
    *,
    outputs: Sequence[str] = OUTPUTS,
    n_filters: int = 4,
    hidden: Sequence[int] = (64, 32),
    adam_epochs: int = ADAM_EPOCHS,
    sgd_epochs: int = SGD_EPOCHS,
    lr: float = LR,
    batch_size: int = BATCH_SIZE,
    patience: int | None = PATIENCE,
    max_seconds: float | None = None,
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None,
    pixel_noise: bool = False,
    watch: Callable[[History], None] | None = None,
    callbacks: Sequence[Callable[[History], None]] = (),
    seed: int = 0,
    progress: bool = True,
) -> tuple[ChunkedMLP, History]:
    """Train the network; it ends with the weights that did best on the held-out histories.

    Parameters
    ----------
    training, heldout : Dataset
        Prepared noise-free spectra with labels, on the same pixels: what is learnt from, and what tells when to stop
        (`make_sample`, `make_heldout`).
    outputs, n_filters, hidden
        See `make_labels`; of the model.
    adam_epochs, sgd_epochs, lr, batch_size
        Adam, its learning rate `lr` in one cycle; then stochastic gradient descent with momentum, its rate falling as
        a cosine. The paper has 500 epochs of the second.
    patience, max_seconds
        End the second phase after so many epochs without a better one; seconds for both, two fifths are Adam's.
    augment : callable, optional
        ``augment(x, generator)`` -> x, (B, n_kept) float32: what else happens to the training spectra of a batch.
    pixel_noise
        See `NoisyLoss`.
    watch, callbacks
        Called with the `History` of the phase after each epoch, `watch.start(model, loss, outputs)` before the first.
    seed : int
        Of weights, order and noise.

    Returns
    -------
    model, history
        Records of both phases in one, with ``phase`` ("adam", "sgd").
    """
    wavelength = training["wavelength"].values
    if not np.array_equal(wavelength, heldout["wavelength"].values):
        raise ValueError("training and held-out spectra must have the same pixels: prepare both alike")
    x, (y, units) = training["flux"].values, make_labels(training, outputs)
    model = ChunkedMLP(
        wavelength=wavelength, n_filters=n_filters, hidden=hidden, outputs=outputs, units=units, seed=seed
    )
    model.set_statistics(x, y)
    basis = chunked.fit_chunk_basis(x, model)
    basis.start_within(model)
    whole = augment is not None or pixel_noise
    loss = NoisyLoss(None if whole else basis, L1, L2, SN_LEVELS, pixel_noise)
    train = {"x": x if whole else basis.project(x, model), "y": y}
    valid = arrays_with_noise(heldout, model, outputs, loss)
    if watch is not None:
        watch.start(model, loss, outputs)
    common = {
        "loss": loss,
        "batch_size": batch_size,
        "augment": augment and (lambda batch, step: {**batch, "x": augment(batch["x"], step.generator)}),
        "callbacks": [*([watch] if watch is not None else []), *callbacks],
        "progress": progress,
    }
    adam = {"optimizer": "fused adam", "lr": lr, "epochs": adam_epochs, "patience": None}
    sgd = {"optimizer": "sgd", "lr": SGD_LR, "epochs": sgd_epochs, "patience": patience}
    phases = adam | {"schedule": one_cycle()}, sgd | {"schedule": one_cycle(0.0)}
    return model, _run_phases(model, train, valid, phases, common, seed, max_seconds)


def _run_phases(model, train, valid, phases, common, seed, max_seconds) -> History:
    """Adam, then SGD from Adam's best weights; the better of the two is kept."""
    started, done = time.monotonic(), []
    for k, (name, phase) in enumerate(zip(("adam", "sgd"), phases, strict=True)):
        if phase["epochs"] == 0 or (done and done[-1].stopped == "interrupted"):
            continue
        left = None
        if max_seconds is not None:
            left = 0.4 * max_seconds if k == 0 else max(0.0, max_seconds - (time.monotonic() - started))
        before = {key: value.clone() for key, value in model.state_dict().items()}
        history = fit(
            model, train, valid, seed=np.random.default_rng([seed, k]), max_seconds=left, **phase, **common
        )
        if done and history.best_loss > done[-1].best_loss:
            model.load_state_dict(before)
        for record in history.records:
            record["phase"] = name
        done.append(history)
    return _join(done)


def _join(histories: Sequence[History]) -> History:
    records, seconds, best = [], 0.0, History()
    for history in histories:
        n = len(records)
        for record in history.records:
            records.append({**record, "epoch": record["epoch"] + n, "seconds": record["seconds"] + seconds})
        if history.best_loss < best.best_loss:
            best.best_loss, best.best_epoch = history.best_loss, history.best_epoch + n
        seconds += history.seconds
    return History(records, best.best_epoch, best.best_loss, histories[-1].stopped, seconds)


def load(*names: str):
    """Networks from files or by shipped names as a `spectool.models.chunked.ChunkedEnsemble`.

    By default ``zahid2019_mlp1`` to ``_mlp6``. Calibration is read from the first; FileNotFoundError if one is missing.
    """
    loaded = [load_model(name, expected="ChunkedMLP") for name in names or ENSEMBLE]
    return ChunkedEnsemble([model for model, _ in loaded], loaded[0][1].arrays)


def predict_ensemble(members, prepared: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, calibrated error and spread, each (galaxy, output), of prepared spectra."""
    ensemble = members if isinstance(members, ChunkedEnsemble) else ChunkedEnsemble(members)
    if not np.array_equal(prepared["wavelength"].values, ensemble.wavelength):
        raise ValueError(
            f"these spectra have {prepared.sizes['wavelength']} pixels that are not the networks' "
            f"{ensemble.n_kept}: prepare them with spectool.papers.zahid2019.reader.prepare_zahid2019"
        )
    sigma = prepared["sigma"].values if "sigma" in prepared else None
    bad = prepared["mask"].values if "mask" in prepared else None
    return ensemble.predict(prepared["flux"].values, sigma, bad)


def project(pca, flux) -> np.ndarray:
    """Coefficients (N, n_components), float32, of prepared spectra (N, n_kept)."""
    return in_batches(pca, lambda x: pca.encode(x)[:1], flux, batch_size=4096)[0]


def add_coefficient_noise(coefficients: np.ndarray, *, seed) -> np.ndarray:
    """Coefficients with the noise of spectra, a fifth at each S/N, once: trees cannot have it drawn afresh."""
    generator = torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(2**62)))
    sigma = chunked.assign_levels(len(coefficients), SN_LEVELS, generator)[:, None]
    noise = torch.randn(coefficients.shape, generator=generator)
    return coefficients + (sigma * noise).numpy()


def copy_with_noise(coefficients, labels, n_copies: int, *, seed) -> tuple[np.ndarray, np.ndarray]:
    """So many noisy copies of coefficients from `project`, and the labels as often."""
    copies = [add_coefficient_noise(coefficients, seed=[seed, k]) for k in range(n_copies)]
    return np.concatenate(copies), np.tile(labels, n_copies)


def perturb_grid(
    grid, *, older=0.1, depth=1.05, depth_scatter=0.1, continuum=0.01, extra_fwhm=1.0, seed=0
) -> SSPGrid:
    """A mock of another library: a grid with wrong isochrones, features, continua and resolution.

    Real libraries differ in ways that this has not, and its amplitudes are guesses. ValueError if one is negative or
    the grid does not cover the optical.

    Parameters
    ----------
    grid : SSPGrid
        To be changed; the copy covers 3600-7700 A and has no nebular emission.
    older : float
        Isochrones: a population of an age has the spectrum of one older by this fraction.
    depth, depth_scatter : float
        All features, relative to a continuum smoothed over 100 A, are multiplied by this; and by a factor of this
        scatter that changes with wavelength, over 40 and 150 A, and with each dex of metallicity.
    continuum : float
        Scatter of a factor on the continuum, alike for all populations, over 40 and over 150 A.
    extra_fwhm : float
        Blur [Angstrom] that the copy's ``fwhm`` does not tell of.
    """
    if min(older, depth, depth_scatter, continuum, extra_fwhm) < 0:
        raise ValueError("amplitudes of a perturbation must not be negative")
    inside = np.flatnonzero((grid.wavelength >= PERTURBED_RANGE[0]) & (grid.wavelength <= PERTURBED_RANGE[1]))
    if inside.size < 1000 or grid.wavelength[inside[-1]] < 7350 or grid.wavelength[inside[0]] > 4000:
        raise ValueError("only a grid that covers 4000-7350 A can be perturbed")
    wavelength = grid.wavelength[inside]
    pixel = float(np.median(np.diff(wavelength)))
    flux = _interpolate_age(grid.flux[..., inside], grid.age, 1 + older).astype(float)
    if extra_fwhm:
        flux = gaussian_filter1d(flux, extra_fwhm / SIGMA_TO_FWHM / pixel, mode="nearest")
    rng = np.random.default_rng(seed)
    gain, slope, wrong = (_smooth_noise(rng, wavelength.size, pixel) for _ in range(3))
    log_z = np.log10(grid.metallicity / grid.z_sun)[:, None, None]
    smooth = gaussian_filter1d(flux, _CONTINUUM / pixel, mode="nearest")
    features = (flux / smooth - 1) * depth * (1 + depth_scatter * (gain + log_z * slope))
    flux = smooth * (1 + features) * (1 + continuum * wrong)
    note = {"older": older, "depth": depth, "depth_scatter": depth_scatter}
    note |= {"continuum": continuum, "extra_fwhm": extra_fwhm, "seed": int(seed)}
    name = f"mock of another library: {grid.provenance.get('name', 'a grid')}, perturbed"
    return replace(
        grid,
        edges=grid.edges[inside[0] : inside[-1] + 2],
        flux=flux.astype("f4"),
        surviving_mass=_interpolate_age(grid.surviving_mass, grid.age, 1 + older),
        nebular=None,
        provenance=dict(grid.provenance) | {"name": name, "perturbation": note},
    )


def _interpolate_age(values, age, factor):
    """Rows (Z, a, ...) at ages times a factor, linear in log age, the last beyond the end."""
    log = np.log(np.maximum(age, 1.0))
    place = np.interp(log + np.log(factor), log, np.arange(age.size))
    low = np.minimum(place.astype(int), age.size - 2)
    share = (place - low).reshape(-1, *[1] * (values.ndim - 2))
    return values[:, low] * (1 - share) + values[:, low + 1] * share


def _smooth_noise(rng, n, pixel):
    """Of unit scatter, half its variance on each scale."""
    total = 0.0
    for width in _SMOOTH:
        margin = int(4 * width / pixel)
        noise = gaussian_filter1d(rng.standard_normal(n + 2 * margin), width / pixel)[margin : margin + n]
        total = total + (noise - noise.mean()) / noise.std() / np.sqrt(len(_SMOOTH))
    return total


def network_predictor(members) -> Callable[[xr.Dataset], np.ndarray]:
    """What `score_on_library` takes, of one network, a list of them, or what `load` gives: its first output [dex]."""
    members = [members] if not hasattr(members, "__len__") and hasattr(members, "filters") else members
    return lambda prepared: predict_ensemble(members, prepared)[0][:, 0]


def score_on_library(predict, grid, *, n=2000, sn=np.inf, seed=HELDOUT_TEST_SEED) -> xr.Dataset:
    """Bias and scatter of predicted metallicities of held-out histories made of a grid's stars."""
    prepared = make_heldout(n, seed=seed, grid=grid)
    noisy = add_white_noise(prepared["flux"].values, sn, seed=[seed, 1])
    sigma = np.full(noisy.shape, 0.0 if np.isinf(sn) else 1.0 / sn, np.float32)
    dims = ("galaxy", "wavelength")
    seen = prepared.assign(flux=(dims, noisy, prepared["flux"].attrs), sigma=(dims, sigma, {"units": ""}))
    result = np.asarray(predict(seen), float)
    if result.shape != (n,):
        raise ValueError(f"the predictor gave values of shape {result.shape} for {n} spectra")
    truth, known = prepared["log_z_lw"].values, np.isfinite(result)
    figures, bivariate = figures_of_merit(result, truth), known.sum() > 2
    overall = {
        "bias": (figures.get("bias", np.nan), "dex"),
        "scatter": (figures.get("sigma", np.nan), "dex"),
        "rms": (figures.get("rmse", np.nan), "dex"),
        "correlation": (np.corrcoef(result[known], truth[known])[0, 1] if bivariate else np.nan, ""),
        "slope": (np.polyfit(truth[known], result[known], 1)[0] if bivariate else np.nan, ""),
        "n_missing": (int((~known).sum()), ""),
    }
    columns, coords = as_columns(overall, dim=()), {}
    places = {
        "log_z": (truth, LOG_Z_EDGES, "dex"),
        "log_age": (np.log10(prepared["age_lw"].values), LOG_AGE_EDGES, "dex(Gyr)"),
    }
    for name, (values, edges, unit) in places.items():
        edges = np.asarray(edges, float)
        coords[name] = (name, 0.5 * (edges[1:] + edges[:-1]), {"units": unit})
        which = np.clip(np.digitize(values, edges) - 1, 0, edges.size - 2)
        rows = [figures_of_merit(result[which == k], truth[which == k]) for k in range(edges.size - 1)]
        for statistic, key, of in (("bias", "bias", "dex"), ("scatter", "sigma", "dex"), ("n", "n", "")):
            numbers = np.array([row.get(key, np.nan) for row in rows])
            columns[f"{statistic}_by_{name}"] = (name, numbers, {"units": of})
    about = {"library": str(grid.provenance.get("name", "")), "sn": float(sn), "seed": int(seed), "n": int(n)}
    return xr.Dataset(columns, coords, about)


def compare_libraries(
    predictors: Mapping[str, Callable[[xr.Dataset], np.ndarray]], grids: Mapping[str, SSPGrid], **options
) -> xr.Dataset:
    """Every predictor on every library (dicts by name; options of `score_on_library`): dims ``model``, ``library``."""
    if not predictors or not grids:
        raise ValueError("a comparison needs at least one predictor and one grid")
    rows = []
    for predict in predictors.values():
        row = [score_on_library(predict, grid, **options) for grid in grids.values()]
        rows.append(xr.concat([item.drop_attrs(deep=False) for item in row], "library"))
    table = xr.concat(rows, "model").assign_coords(model=list(predictors), library=list(grids))
    return table.assign_attrs({name: value for name, value in options.items() if np.isscalar(value)})
