"""What the latent dashboard opens with: a model, mock galaxies around it, and galaxies to start from."""

import numpy as np
import xarray as xr

from spectool.explore.latent_state import LatentState
from spectool.models.autoencoder import encode_sample, make_autoencoder
from spectool.models.coverage import RandomCoverage
from spectool.models.losses import BetaLoss
from spectool.models.mlp import GaussianMLP, gaussian_loss
from spectool.models.store import ModelInfo, load_model
from spectool.models.training import fit, one_cycle
from spectool.prepare import prepare_marziano2024
from spectool.surveys.sdss_files import packaged_spectra, read_sdss
from spectool.synth.grid import SSPGrid
from spectool.synth.population import draw_population
from spectool.synth.synthesis import synthesize
from spectool.wavelength import sps_wavelength

INFORMATIVE = 0.01  # threshold of eq. 11, Marziano (2024, Section 4.1.2)
REFERENCE = "marziano2024_reference"

# What the dashboard predicts and lists, with the words and units it shows. Eight are Table 1 of the paper.
PARAMETERS = {
    "log_mass": ("log stellar mass", "log M☉"),
    "log_sfr": ("log SFR, 100 Myr", "log M☉/yr"),
    "log_z_star": ("log Z, stars", "log Z/Z☉"),
    "log_z_gas": ("log Z, gas", "log Z/Z☉"),
    "dust1": ("dust, young stars", ""),
    "dust2": ("dust, all stars", ""),
    "dust_index": ("dust index", ""),
    "redshift": ("redshift", ""),
    "age_lw": ("light-weighted age", "Gyr"),
}


def draw_galaxies(n=2000, *, seed=60):
    """Draw mock galaxies of the training population, prepared for the models of Marziano (2024).

    Parameters
    ----------
    n : int
    seed : int or numpy.random.Generator

    Returns
    -------
    xarray.Dataset
        dims (galaxy, wavelength); normalised ``flux``, ``mask`` and the true parameters.
    """
    grid = SSPGrid.embedded("optical")
    galaxies = draw_population(n, grid_age=grid.age, seed=seed)
    sample = synthesize(galaxies, grid, wavelength=sps_wavelength(), progress=False)
    # Of 2000 spectra, ivar (1 everywhere in a mock) would be another 37 MB.
    return prepare_marziano2024(sample).drop_dims("age", errors="ignore").drop_vars("ivar")


def describe(galaxy):
    """Name a mock galaxy by what it is.

    Parameters
    ----------
    galaxy : xarray.Dataset
        One galaxy, with ``log_mass`` and ``log_sfr``.

    Returns
    -------
    str
        Such as ``"star-forming, log M* 10.3"``.
    """
    mass, sfr = float(galaxy["log_mass"]), float(galaxy["log_sfr"])
    # Boundaries of the specific star-formation rate as in Salim (2014, Serbian Astron. J. 189, 1).
    kind = "quiescent" if sfr - mass < -11.8 else "green valley" if sfr - mass < -10.8 else "star-forming"
    return f"{kind}, log M* {mass:.1f}"


def mock_seeds(galaxies, n=9):
    """Choose mock galaxies that span the population, from the most quiescent to the most star-forming.

    Parameters
    ----------
    galaxies : xarray.Dataset
        From `draw_galaxies`.
    n : int

    Returns
    -------
    xarray.Dataset
        ``flux``, ``mask``, the true parameters and a coordinate ``name``.
    """
    order = np.argsort((galaxies["log_sfr"] - galaxies["log_mass"]).values)
    chosen = galaxies.isel(galaxy=order[np.linspace(0, order.size - 1, n).round().astype(int)])
    names = [f"Mock {i + 1}: {describe(chosen.isel(galaxy=i))}" for i in range(n)]
    return chosen[["flux", "mask", *PARAMETERS]].assign_coords(name=("galaxy", names))


def sdss_seeds():
    """Return the two real SDSS galaxies that the ppxf package ships, prepared as the model takes them.

    Returns
    -------
    xarray.Dataset
        ``flux``, ``mask`` (True where the survey has no data: all of the ultraviolet), ``name``; the
        parameters are unknown (NaN).
    """
    paths = packaged_spectra()
    sample = prepare_marziano2024(read_sdss(list(paths.values())))
    names = [f"SDSS: {name}" for name in paths]
    unknown = {c: ("galaxy", np.full(len(names), np.nan)) for c in PARAMETERS}
    return sample[["flux", "mask"]].assign(unknown).assign_coords(name=("galaxy", names))


def fit_predictor(latent, table, *, seed=0):
    """Train the small network that reads physical parameters, with errors, from latent vectors.

    The errors are scaled on a fifth of the galaxies, which the network was not trained on.

    Parameters
    ----------
    latent : ndarray, shape (galaxy, n_latent)
    table : ndarray, shape (galaxy, column)
    seed : int

    Returns
    -------
    callable
        From latents (n, n_latent) to ``(mean, sigma)``, each (n, column).
    """
    latent, table = (np.asarray(values, dtype=np.float32) for values in (latent, table))
    held_out = np.random.default_rng(seed).permutation(len(latent)) < len(latent) // 5
    train, valid = ({"x": latent[rows], "y": table[rows]} for rows in (~held_out, held_out))
    network = GaussianMLP(n_in=latent.shape[1], n_out=table.shape[1], hidden=(64, 64), seed=seed)
    network.set_statistics(train["x"], train["y"])
    options = {"batch_size": 128, "lr": 3e-3, "weight_decay": 1e-3, "optimizer": "adamw"}
    fit(
        network,
        train,
        valid,
        loss=gaussian_loss,
        epochs=40,
        patience=10,
        schedule=one_cycle(),
        seed=seed,
        progress=False,
        **options,
    )
    network.calibrate(valid["x"], valid["y"])
    return network.predict


def open_latent_state(model=REFERENCE, *, n_galaxies=2000, seed=60):
    """Open the state of the latent dashboard.

    Parameters
    ----------
    model : str or path
        A shipped model's name or a model file.
    n_galaxies : int
        Mock galaxies to draw from the training population: the neighbours that are listed.
    seed : int
        Of the mock galaxies.

    Returns
    -------
    LatentState
    """
    network, info = load_model(model, expected="ConvBetaVAE")
    galaxies = draw_galaxies(n_galaxies, seed=seed)
    seeds = xr.concat(
        [mock_seeds(galaxies), sdss_seeds()], dim="galaxy", join="override", combine_attrs="drop"
    )
    return LatentState(network, info, galaxies, seeds, columns=list(PARAMETERS), fit_predictor=fit_predictor)


def retrain(galaxies, *, beta=0.3, seconds=60.0, seed=0, on_progress=None):
    """Train a light model, for the dashboard's button.

    Parameters
    ----------
    galaxies : xarray.Dataset
        From `draw_galaxies`; a tenth of them validates.
    beta : float
        Weight of the divergence in eq. 8 of Marziano (2024).
    seconds : float
        When to stop.
    seed : int
        Of weights, order and noise.
    on_progress : callable, optional
        Called with the part of the time that is through (0 to 1) and the validation loss, after each epoch.

    Returns
    -------
    model, info
        As `spectool.models.store.load_model` returns them.
    """
    flux, mask = galaxies["flux"].values, galaxies["mask"].values
    wavelength = np.array(galaxies["wavelength"].values)
    first_valid = len(flux) - len(flux) // 10
    train, valid = (
        {"flux": flux[rows], "mask": mask[rows]} for rows in (slice(0, first_valid), slice(first_valid, None))
    )
    model = make_autoencoder("light", seed=seed)
    model.set_pixel_statistics(flux.mean(axis=0), flux.std(axis=0), wavelength)

    def report(history):
        if on_progress is not None:
            on_progress(min(1.0, history.seconds / seconds), float(history.column("valid_loss")[-1]))

    history = fit(
        model,
        train,
        valid,
        loss=BetaLoss(beta),
        epochs=1000,
        batch_size=64,
        lr=2e-3,
        optimizer="adamw",
        schedule=one_cycle(),
        patience=None,
        max_seconds=seconds,
        augment=RandomCoverage(wavelength),
        clip=10.0,
        callbacks=[report],
        seed=seed,
        progress=False,
    )
    recipe = {"n_galaxies": len(flux), "beta": beta, "seconds": seconds, "seed": seed}
    metrics = {"valid_loss": history.best_loss, "epochs": len(history.records)}
    latent = encode_sample(model, galaxies)["latent"].values
    covariance = np.abs((latent - latent.mean(0)).T @ (flux - flux.mean(0)) / len(flux)).mean(axis=1)
    order = np.argsort(covariance)[::-1]
    informative = order[covariance[order] > INFORMATIVE]
    arrays = {"informative": informative} if informative.size else {}
    return model, ModelInfo(f"retrained_seed{seed}", "ConvBetaVAE", model.config, recipe, metrics, arrays)
