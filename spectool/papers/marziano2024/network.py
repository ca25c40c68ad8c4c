"""What the beta-VAE of Marziano (2024) says of a spectrum: its latent vector, and parameters read from it."""

import numpy as np
import xarray as xr

from spectool.models.chunked import GaussianMLP, gaussian_loss
from spectool.models.store import load_model
from spectool.models.training import fit, one_cycle
from spectool.models.vae import ConvBetaVAE, reconstruct
from spectool.papers import Predictor
from spectool.prepare import NORM_WINDOW, prepare_spectra
from spectool.spectra import sps_wavelength

WEIGHTS = "marziano2024_reference"
INFORMATIVE = 0.01  # eq. 11 above which a dimension counts
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

# Constructor options by name. "paper": eleven convolutions, 4582 -> 512, two dense heads, mirrored decoder. "light" is
# what a notebook trains in front of the reader; "reference" is what the dashboards ship.
CONFIGURATIONS = {
    "paper": {
        "channels": (8, 8, 16, 16, 32, 32, 32, 64, 64, 64, 64),
        "strides": (2, 2, 2, 2, 2, 2, 1, 2, 2, 2, 1),
        "hidden": (),
        "decoder": "convolutional",
    },
    "light": {
        "channels": (12, 24, 32),
        "strides": (8, 4, 4),
        "hidden": (128,),
        "decoder": "dense",
        "shortcut": 24,
    },
    "reference": {
        "channels": (8, 16),
        "strides": (4, 4),
        "hidden": (192, 96),
        "decoder": "dense",
        "shortcut": 32,
    },
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


def make_autoencoder(name="paper", *, seed=0, **options) -> ConvBetaVAE:
    """An untrained network by the name of its configuration (see `CONFIGURATIONS`), with options replaced.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if name not in CONFIGURATIONS:
        raise ValueError(f"no configuration {name!r}; there are {', '.join(CONFIGURATIONS)}")
    return ConvBetaVAE(seed=seed, **{**CONFIGURATIONS[name], **options})


def make_predictor(weights=WEIGHTS, *, n_mock=2000, seed=0):
    """For `spectool.papers.ask_all`: the shipped reference model, asked about one spectrum after the other."""
    model, info = load_model(weights, expected="ConvBetaVAE")

    def predict(prepared):
        return predict_sample(model, info.arrays, prepared, n_mock=n_mock, seed=seed)

    title = "β-VAE (Marziano 2024)"
    return Predictor(title, NORM_WINDOW, prepare_spectra, predict)


def predict_sample(model, arrays, prepared, *, n_mock=2000, seed=0):
    """Latents, parameters and out-of-range flags of prepared spectra."""
    rng = np.random.default_rng(seed)
    seen = reconstruct(model, prepared)
    rows = [
        _predict_one(model, arrays, seen.isel(galaxy=[g]), n_mock, rng) for g in range(seen.sizes["galaxy"])
    ]
    out = xr.concat(rows, dim="galaxy")
    return out.assign(reconstruction=seen["reconstruction"])


def draw_mocks(redshift, mask, ivar, n_mock, rng):
    """Mock galaxies near a redshift, normalised, with the mask and the noise of one prepared spectrum."""
    from spectool.synth.grid import SSPGrid
    from spectool.synth.population import draw_population
    from spectool.synth.synthesis import synthesize

    grid = SSPGrid.embedded("optical")
    nearby = (max(redshift - 0.05, 0.003), max(redshift, 0.003) + 0.05)
    galaxies = draw_population(n_mock, grid_age=grid.age, seed=rng, redshift_range=nearby)
    sample = synthesize(
        galaxies, grid, wavelength=sps_wavelength(), batch_size=128, progress=False
    ).drop_dims("age", errors="ignore")
    mocks = prepare_spectra(sample)
    sigma = np.divide(1.0, np.sqrt(ivar), out=np.zeros_like(ivar), where=~mask)
    flux = mocks["flux"].values
    for row in flux:
        row += rng.standard_normal(row.size, dtype=np.float32) * sigma
    flux[:, mask] = 0
    mocks["mask"].values[:] = mask
    mocks["ivar"].values[:] = ivar
    mocks["log_ssfr"] = mocks["log_sfr"] - mocks["log_mass"]
    return mocks


def _chi2(seen, rows=256):
    """Mean of squared residual over variance of the good pixels, per galaxy."""
    flux, model, ivar, mask = (seen[n].values for n in ("flux", "reconstruction", "ivar", "mask"))
    out = np.empty(len(flux))
    for first in range(0, len(flux), rows):
        part = slice(first, first + rows)
        weight = np.where(mask[part], 0, ivar[part])
        out[part] = ((flux[part] - model[part]) ** 2 * weight).sum(axis=1)
    return out / np.maximum((~mask).sum(axis=1), 1)


def _nearest(latents, latent, count):
    """Rows of the `count` latents (n, used) nearest to one (used,), each dimension in units of its scatter."""
    scatter = latents.std(axis=0)
    distance = (((latents - latent) / np.where(scatter > 0, scatter, 1)) ** 2).sum(axis=1)
    return np.argsort(distance)[:count]


def _fit_reader(mocks, columns, rng):
    """A network from latents to parameters, its errors scaled on mocks that it was not trained on."""
    x = mocks["latent"].values
    y = np.stack([mocks[c].values for c in columns], axis=1).astype(np.float32)
    held_out = rng.permutation(len(x)) < len(x) // 4
    train, valid = ({"x": x[rows], "y": y[rows]} for rows in (~held_out, held_out))
    network = GaussianMLP(n_in=x.shape[1], n_out=y.shape[1], hidden=(64, 64), seed=rng)
    network.set_statistics(train["x"], train["y"])
    how = {
        "epochs": 30,
        "batch_size": 128,
        "lr": 3e-3,
        "optimizer": "adamw",
        "weight_decay": 1e-3,
        "patience": 8,
    }
    fit(
        network,
        train,
        valid,
        loss=gaussian_loss,
        schedule=one_cycle(),
        seed=int(rng.integers(2**31)),
        progress=False,
        **how,
    )
    network.calibrate(valid["x"], valid["y"])
    return network


def _informative(arrays, n_latent):
    """Indices of the informative dimensions (stored as indices or as booleans), or of all."""
    stored = np.asarray(arrays.get("informative", np.arange(n_latent)))
    return np.flatnonzero(stored) if stored.dtype == bool else stored.astype(int)


def _predict_one(model, arrays, seen, n_mock, rng):
    latent, latent_error = seen["latent"].values[0], seen["latent_sigma"].values[0]
    used = _informative(arrays, model.n_latent)
    if not np.isfinite(latent).all():
        nothing = np.full(len(PARAMETERS), np.nan)
        reason = "masked out in preparation: it has no good pixel, or cannot be normalised"
        return _as_dataset(nothing, nothing, latent, latent_error, used, reason, np.nan, np.nan)
    mask, ivar = seen["mask"].values[0], seen["ivar"].values[0]
    mocks = reconstruct(model, draw_mocks(float(seen["redshift"].values[0]), mask, ivar, n_mock, rng))
    network = _fit_reader(mocks, list(PARAMETERS), rng)
    value, error = network.predict(latent[None])
    alike = _nearest(mocks["latent"].values[:, used], latent[used], max(n_mock // 10, 20))
    chi2, limit = _chi2(seen)[0], np.quantile(_chi2(mocks.isel(galaxy=alike)), 0.99)
    low = np.asarray(arrays.get("latent_min", mocks["latent"].values.min(axis=0)))
    high = np.asarray(arrays.get("latent_max", mocks["latent"].values.max(axis=0)))
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
    names = [*PARAMETERS, *(f"latent_{k}" for k in used)]
    remark = f"Reconstructed with chi2 = {chi2:.1f} per pixel; of the mocks most like it, 99% are below {limit:.1f}."
    remark = remark if np.isfinite(chi2) else ""
    about = [*PARAMETERS.values(), *((f"latent dimension {k}", "", "") for k in used)]
    out = xr.Dataset(
        {
            "value": (("galaxy", "quantity"), np.concatenate([value, latent[used]])[None]),
            "error": (("galaxy", "quantity"), np.concatenate([error, latent_error[used]])[None]),
            "out_of_range": ("galaxy", [bool(reason)]),
            "reason": ("galaxy", np.array([reason], dtype=object)),
            "remark": ("galaxy", np.array([remark], dtype=object)),
            "chi2": ("galaxy", [chi2]),
            "chi2_limit": ("galaxy", [limit]),
        },
        coords={"quantity": names},
    )
    out = out.assign_coords(detail=("quantity", [name.startswith("latent_") for name in names]))
    for k, column in enumerate(("label", "unit", "note")):
        out = out.assign_coords({column: ("quantity", [row[k] for row in about])})
    return out
