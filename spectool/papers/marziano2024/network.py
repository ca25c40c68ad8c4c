"""The beta-VAE of Marziano (2024): how it is trained, and what its latents say of a spectrum."""

import numpy as np
import xarray as xr

from spectool.models.layers import GaussianMLP, gaussian_loss
from spectool.models.store import load_model
from spectool.models.training import History, fit, one_cycle
from spectool.models.vae import BetaLoss, ConvBetaVAE, RandomCoverage, reconstruct
from spectool.papers import Predictor
from spectool.prepare import NORM_WINDOW, prepare_spectra
from spectool.spectra import sps_wavelength
from spectool.synth.grid import SSPGrid
from spectool.synth.population import draw_population
from spectool.synth.synthesis import synthesize

INHERITED = "not in a normalised spectrum: inherited from the population's relations"

# column: label, unit, note
PARAMETERS = {
    "age_lw": ("light-weighted age", "Gyr", ""),
    "log_z_star": ("log Z/Zsun of the stars", "dex", "degenerate with age"),
    "log_z_gas": ("log Z/Zsun of the gas", "dex", "means something only where there are emission lines"),
    "dust1": ("dust before young stars, D1", "", ""),
    "dust2": ("dust before all stars, D2", "", ""),
    "log_ssfr": ("log of SFR / M* per year", "dex", "SFR over 100 Myr"),
    "log_mass": ("log of M* / Msun", "dex", INHERITED),
}

_DENSE = {"decoder": "dense"}
# Constructor options by name. "paper": eleven convolutions, 4582 -> 512, two dense heads, mirrored decoder. "light" is
# what a notebook trains in front of the reader; "reference" is what the dashboards ship.
CONFIGURATIONS = {
    "paper": {
        "channels": (8, 8, 16, 16, 32, 32, 32, 64, 64, 64, 64),
        "strides": (2, 2, 2, 2, 2, 2, 1, 2, 2, 2, 1),
        "hidden": (),
        "decoder": "convolutional",
    },
    "light": _DENSE | {"channels": (12, 24, 32), "strides": (8, 4, 4), "hidden": (128,), "shortcut": 24},
    "reference": _DENSE | {"channels": (8, 16), "strides": (4, 4), "hidden": (192, 96), "shortcut": 32},
}

_QUICK = {"optimizer": "adamw", "weight_decay": 1e-4, "patience": None, "clip": 10.0, "batch_size": 32}
# Options of `spectool.models.training.fit` by the configuration's name. "paper" is Section 3.2.3, word for word. The
# others have minutes, not days: one cycle of a higher learning rate, and decoupled weight decay.
RECIPES = {
    "paper": {
        "optimizer": "adam",
        "weight_decay": 0.1,
        "lr": 3e-4,
        "schedule": lambda step: 0.5 ** (int(step.epoch) // 10),
        "batch_size": 32,
        "epochs": 100,
        "patience": 20,
    },
    "light": {**_QUICK, "lr": 4e-3, "schedule": one_cycle(0.1), "epochs": 12},
    "reference": {**_QUICK, "lr": 4e-3, "schedule": one_cycle(0.03), "epochs": 1000},
}
# Of the network that reads parameters from latents.
READER = {"optimizer": "adamw", "lr": 3e-3, "schedule": one_cycle(), "weight_decay": 1e-3}
READER |= {"epochs": 30, "batch_size": 128, "patience": 8}


def make_autoencoder(name="paper", *, seed=0, **options) -> ConvBetaVAE:
    """An untrained network by the name of its configuration (see `CONFIGURATIONS`), with options replaced."""
    if name not in CONFIGURATIONS:
        raise ValueError(f"no configuration {name!r}; there are {', '.join(CONFIGURATIONS)}")
    return ConvBetaVAE(seed=seed, **{**CONFIGURATIONS[name], **options})


def train(model, arrays, valid, *, configuration="light", seed=0, **options) -> History:
    """Train as eq. 8 of the paper asks, beta annealed from 10 to 0.3, on spectra of which random parts are hidden.

    Parameters
    ----------
    model : ConvBetaVAE
        From `make_autoencoder`, with `spectool.models.vae.fit_statistics` measured.
    arrays, valid : dict
        ``flux`` (N, n_pixels), and ``mask`` if there is one: to learn from, and to tell when to stop.
    configuration, options
        Whose recipe of `RECIPES`; options of `spectool.models.training.fit`, to replace these.
    """
    recipe = {"loss": BetaLoss(0.3, start=10.0), "augment": RandomCoverage(model.wavelength.numpy())}
    return fit(model, arrays, valid, seed=seed, **(recipe | RECIPES[configuration] | options))


def load(name="reference"):
    """A shipped network: "reference", "beta0.1", "beta0.3", "beta0.9" or "constant_beta0.3" (not annealed).

    Model and info as of `spectool.models.store.load_model`; ``info.arrays`` holds ``informative`` dimensions, the most
    informative first, and the range of latents in training.
    """
    return load_model(f"marziano2024_{name}", expected="ConvBetaVAE")


def predict(sample, network=None, *, n_mock=2000, seed=0):
    """Parameters of spectra, with errors that a network learns for each from mock galaxies seen as it was.

    Parameters
    ----------
    sample : xarray.Dataset
        From `spectool.prepare.prepare_spectra`.
    network : (model, info), optional
        As `load` returns them; default: the reference.
    n_mock, seed : int
        Mock galaxies for each spectrum; of them and of training.

    Returns
    -------
    xarray.Dataset
        ``value``, ``error`` (galaxy, quantity): `PARAMETERS`, then informative latents; ``out_of_range``, ``reason``,
        ``remark``, ``chi2`` per pixel and ``chi2_limit``, which 99% of the mocks most like it are below (galaxy);
        ``reconstruction``.
    """
    model, info = network or load()
    rng = np.random.default_rng(seed)
    seen = reconstruct(model, sample)
    galaxies = [seen.isel(galaxy=[g]) for g in range(seen.sizes["galaxy"])]
    rows = [_predict_one(model, info.arrays, galaxy, n_mock, rng) for galaxy in galaxies]
    return xr.concat(rows, dim="galaxy").assign(reconstruction=seen["reconstruction"])


def make_predictor() -> Predictor:
    """For `spectool.papers.ask_all`: the shipped reference model, asked about one spectrum after the other."""
    network = load()
    title = "β-VAE (Marziano 2024)"
    return Predictor(title, NORM_WINDOW, prepare_spectra, lambda prepared: predict(prepared, network))


def draw_mocks(redshift, mask, ivar, n_mock, rng):
    """Mock galaxies near a redshift, normalised, with the mask and the noise of one prepared spectrum."""
    grid = SSPGrid.embedded("optical")
    nearby = (max(redshift - 0.05, 0.003), max(redshift, 0.003) + 0.05)
    galaxies = draw_population(n_mock, grid_age=grid.age, seed=rng, redshift_range=nearby)
    sample = synthesize(galaxies, grid, wavelength=sps_wavelength(), batch_size=128, progress=False)
    mocks = prepare_spectra(sample.drop_dims("age", errors="ignore"))
    sigma = np.divide(1.0, np.sqrt(ivar), out=np.zeros_like(ivar), where=~mask)
    flux = mocks["flux"].values
    for row in flux:
        row += rng.standard_normal(row.size, dtype=np.float32) * sigma
    flux[:, mask] = 0
    mocks["mask"].values[:] = mask
    mocks["ivar"].values[:] = ivar
    mocks["log_ssfr"] = mocks["log_sfr"] - mocks["log_mass"]
    return mocks


def _chi2(seen):
    """Mean of squared residual over variance of the good pixels, per galaxy."""
    flux, model, ivar, mask = (seen[n].values for n in ("flux", "reconstruction", "ivar", "mask"))
    return ((flux - model) ** 2 * np.where(mask, 0, ivar)).sum(axis=1) / np.maximum((~mask).sum(axis=1), 1)


def _nearest(latents, latent, count):
    """Rows of the `count` latents (n, used) nearest to one (used,), each dimension in units of its scatter."""
    scatter = latents.std(axis=0)
    distance = (((latents - latent) / np.where(scatter > 0, scatter, 1)) ** 2).sum(axis=1)
    return np.argsort(distance)[:count]


def _fit_reader(mocks, rng):
    """A network from latents to parameters, its errors scaled on mocks that it was not trained on."""
    x = mocks["latent"].values
    y = np.stack([mocks[c].values for c in PARAMETERS], axis=1).astype(np.float32)
    held_out = rng.permutation(len(x)) < len(x) // 4
    train, valid = ({"x": x[rows], "y": y[rows]} for rows in (~held_out, held_out))
    network = GaussianMLP(n_in=x.shape[1], n_out=y.shape[1], hidden=(64, 64), seed=rng)
    network.set_statistics(train["x"], train["y"])
    seed = int(rng.integers(2**31))
    fit(network, train, valid, loss=gaussian_loss, seed=seed, progress=False, **READER)
    network.calibrate(valid["x"], valid["y"])
    return network


def _predict_one(model, arrays, seen, n_mock, rng):
    latent, latent_error = seen["latent"].values[0], seen["latent_sigma"].values[0]
    used = arrays["informative"]
    if not np.isfinite(latent).all():
        nothing = np.full(len(PARAMETERS), np.nan)
        reason = "masked out in preparation: it has no good pixel, or cannot be normalised"
        return _as_dataset(nothing, nothing, latent, latent_error, used, reason, np.nan, np.nan)
    mask, ivar = seen["mask"].values[0], seen["ivar"].values[0]
    mocks = reconstruct(model, draw_mocks(float(seen["redshift"].values[0]), mask, ivar, n_mock, rng))
    value, error = _fit_reader(mocks, rng).predict(latent[None])
    alike = _nearest(mocks["latent"].values[:, used], latent[used], max(n_mock // 10, 20))
    chi2, limit = _chi2(seen)[0], np.quantile(_chi2(mocks.isel(galaxy=alike)), 0.99)
    low, high = arrays["latent_min"], arrays["latent_max"]
    reasons = [
        f"latent {k} is {latent[k]:.2f}, in training {low[k]:.2f} to {high[k]:.2f}"
        for k in used
        if not low[k] <= latent[k] <= high[k]
    ]
    if chi2 > limit:
        reasons.append(
            f"reconstructed worse than 99% of the mocks most like it (chi2 per pixel {chi2:.1f}, limit {limit:.1f})"
        )
    return _as_dataset(value[0], error[0], latent, latent_error, used, "; ".join(reasons), chi2, limit)


def _as_dataset(value, error, latent, latent_error, used, reason, chi2, limit):
    """One galaxy's answer: parameters, then informative latents."""
    about = PARAMETERS | {f"latent_{k}": (f"latent dimension {k}", "", "") for k in used}
    remark = f"Reconstructed with chi2 = {chi2:.1f} per pixel; of the mocks most like it, 99% are below {limit:.1f}."
    columns = {
        "out_of_range": bool(reason),
        "reason": reason,
        "remark": remark if np.isfinite(chi2) else "",
        "chi2": chi2,
        "chi2_limit": limit,
    }
    out = xr.Dataset(
        {name: ("galaxy", [column]) for name, column in columns.items()},
        coords={
            "quantity": list(about),
            "detail": ("quantity", [name.startswith("latent_") for name in about]),
        },
    )
    for name, parts in (("value", (value, latent)), ("error", (error, latent_error))):
        out[name] = (("galaxy", "quantity"), np.concatenate([parts[0], parts[1][used]])[None])
    for k, column in enumerate(("label", "unit", "note")):
        out = out.assign_coords({column: ("quantity", [row[k] for row in about.values()])})
    return out
