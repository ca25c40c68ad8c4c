"""What the latent dashboard opens with: a model, mock galaxies around it, and galaxies to start from."""

import numpy as np
import xarray as xr

from spectool.measure.information import informativeness
from spectool.models.layers import GaussianMLP, gaussian_loss
from spectool.models.store import ModelInfo, load_model, resolve
from spectool.models.training import fit, one_cycle
from spectool.models.vae import BetaLoss, LatentModel, encode_sample, fit_statistics
from spectool.papers.marziano2024.network import make_autoencoder, train
from spectool.papers.marziano2024.sample import make_sample
from spectool.parallel import single_thread
from spectool.prepare import prepare_spectra
from spectool.surveys.sdss import packaged_spectra, read_sdss

INFORMATIVE = 0.01  # threshold of eq. 11, Marziano (2024, Section 4.1.2)
REFERENCE = "marziano2024_reference"
SEED = 60  # of the mock galaxies
N_GALAXIES, BETA, SECONDS = 4000, 0.3, 60.0  # of a retraining: a tenth for validation; eq. 8; when it stops

# Parameters that the dashboard predicts: what a table calls them and a slider, and the values that are possible. The
# first eight are the paper's Table 1.
PARAMETERS = {
    "log_mass": ("log M* / M☉", "mass", None, None),
    "log_z_star": ("log Z* / Z☉", "stars' metals", None, None),
    "log_z_gas": ("log Z gas / Z☉", "gas metals", None, None),
    "redshift": ("redshift", "redshift", 0.0, None),
    "dust1": ("dust1, τ of young stars", "dust of young stars", 0.0, None),
    "dust_index": ("dust index n", "dust curve", None, None),
    "dust2": ("dust2, τ of all stars", "dust", 0.0, None),
    "log_sfr": ("log SFR / M☉ yr⁻¹", "star formation", None, None),
    "age_lw": ("light-weighted age, Gyr", "age", 0.0, 13.8),
}

# The order of `atlas_parameters` in files of tools/recipes/marziano2024.py (their JSON does not keep it).
ATLAS_COLUMNS = ("log_mass", "log_sfr", "log_ssfr", "log_z_star", "log_z_gas", "redshift")
ATLAS_COLUMNS += ("dust1", "dust2", "dust_index", "age_lw", "log_z_lw")


def draw_galaxies(n, *, seed):
    """Draw mock galaxies of the training population, prepared for the models of Marziano (2024)."""
    sample = make_sample(n, seed=seed, progress=False)[["flux", *PARAMETERS]]
    return sample.assign(mask=xr.zeros_like(sample["flux"], dtype=bool))


def describe(galaxy):
    """Name a mock galaxy by what it is, such as ``"star-forming, log M* 10.3"``."""
    mass, sfr = float(galaxy["log_mass"]), float(galaxy["log_sfr"])
    # Boundaries of the specific star-formation rate as in Salim (2014, Serbian Astron. J. 189, 1).
    kind = "quiescent" if sfr - mass < -11.8 else "green valley" if sfr - mass < -10.8 else "star-forming"
    return f"{kind}, log M* {mass:.1f}"


def mock_seeds(galaxies, n):
    """Choose mock galaxies that span the population, from star-forming to quiescent."""
    order = np.argsort((galaxies["log_mass"] - galaxies["log_sfr"]).values)
    ranks = np.linspace(0.1, 0.98, n) * (order.size - 1)
    chosen = galaxies.isel(galaxy=order[ranks.round().astype(int)])
    names = [f"Mock {i + 1}: {describe(chosen.isel(galaxy=i))}" for i in range(n)]
    return chosen[["flux", "mask", *PARAMETERS]].assign_coords(name=("galaxy", names))


def sdss_seeds():
    """Return the two real SDSS galaxies that the ppxf package ships, prepared as the model takes them."""
    paths = packaged_spectra()
    sample = prepare_spectra(read_sdss(list(paths.values())))
    names = [f"SDSS: {name}" for name in paths]
    unknown = {c: ("galaxy", np.full(len(names), np.nan)) for c in PARAMETERS}
    return sample[["flux", "mask"]].assign(unknown).assign_coords(name=("galaxy", names))


def draw_seeds():
    """Gather the galaxies to start from: mock ones, drawn anew, and the real ones of `sdss_seeds`."""
    mocks = mock_seeds(draw_galaxies(300, seed=SEED), 9)
    return xr.concat([mocks, sdss_seeds()], dim="galaxy", join="override", combine_attrs="drop")


def make_atlas(network, galaxies):
    """Encode galaxies, and keep their latents and parameters."""
    return encode_sample(network, galaxies)[["latent", *PARAMETERS]].drop_vars("wavelength", errors="ignore")


def assemble(network, info, atlas, predictor):
    """Put a `LatentModel` together, with what each parameter is called and may be in the atlas."""
    for name, (label, short, low, high) in PARAMETERS.items():
        limits = {"valid_min": low, "valid_max": high}
        given = {key: value for key, value in limits.items() if value is not None}
        atlas[name].attrs.update(long_name=label, short_name=short, **given)
    return LatentModel(network, info, atlas, predictor.predict, tuple(predictor.names))


def fit_predictor(atlas):
    """Train the small network that reads physical parameters, with errors, from latent vectors."""
    latent = atlas["latent"].values.astype(np.float32)
    table = np.stack([atlas[column].values for column in PARAMETERS], axis=1).astype(np.float32)
    held_out = np.random.default_rng(0).permutation(len(latent)) < len(latent) // 5
    train, valid = ({"x": latent[rows], "y": table[rows]} for rows in (~held_out, held_out))
    names = list(PARAMETERS)
    network = GaussianMLP(n_in=latent.shape[1], n_out=len(names), hidden=(64, 64), names=names, seed=0)
    network.set_statistics(train["x"], train["y"])
    options = {"batch_size": 128, "lr": 3e-3, "weight_decay": 1e-3, "optimizer": "adamw", "patience": 10}
    options |= {"loss": gaussian_loss, "epochs": 40, "schedule": one_cycle(), "seed": 0, "progress": False}
    with single_thread():
        fit(network, train, valid, **options)
    network.calibrate(valid["x"], valid["y"])
    return network


def open_model(path_or_name=REFERENCE):
    """Open an autoencoder with its training galaxies and the network that predicts their parameters.

    For another one, 2000 mock galaxies are drawn and encoded, and the network is trained on them.
    """
    network, info = load_model(path_or_name, expected="ConvBetaVAE")
    path = resolve(path_or_name)
    beside = path.with_name(f"{path.stem}_parameters.safetensors")
    if set(info.recipe.get("parameters", ())) == set(ATLAS_COLUMNS) and "atlas_latent" in info.arrays:
        latent = info.arrays["atlas_latent"].astype(np.float32)
        columns = zip(ATLAS_COLUMNS, info.arrays["atlas_parameters"].T, strict=True)
        atlas = xr.Dataset({name: ("galaxy", values) for name, values in columns})
        atlas = atlas.assign(latent=(("galaxy", "latent_dim"), latent))
    else:
        atlas = make_atlas(network, draw_galaxies(2000, seed=SEED))
    if beside.exists():
        predictor, _ = load_model(beside, expected="GaussianMLP", n_latent=network.n_latent)
    else:
        predictor = fit_predictor(atlas)
    return assemble(network, info, atlas, predictor)


def retrain(*, on_progress):
    """Train a light model on new mock galaxies, for the dashboard's button.

    ``on_progress`` is called after each epoch with the part of the time that is through (0 to 1) and the loss of the
    validation.
    """
    galaxies = draw_galaxies(N_GALAXIES, seed=0)
    flux, wavelength = galaxies["flux"].values, np.array(galaxies["wavelength"].values)
    split = N_GALAXIES - N_GALAXIES // 10
    network = make_autoencoder("light", seed=0)
    fit_statistics(network, flux[:split], wavelength, seed=0)

    def report(history):
        on_progress(min(1.0, history.seconds / SECONDS), float(history.column("valid_loss")[-1]))

    # Annealed from above as in the paper's notebook: dimensions that are not needed stay closed.
    options = {"loss": BetaLoss(BETA, start=10.0), "max_seconds": SECONDS, "callbacks": [report]}
    parts = {"flux": flux[:split]}, {"flux": flux[split:]}
    history = train(network, *parts, **options, seed=0, epochs=1000, progress=False)
    atlas = make_atlas(network, galaxies)
    scores = np.asarray(informativeness(atlas["latent"], galaxies["flux"]))
    arrays = {"informative": np.argsort(-scores)[: max(1, int((scores > INFORMATIVE).sum()))]}
    recipe = {"n_galaxies": N_GALAXIES, "beta": BETA, "seconds": SECONDS, "seed": 0}
    metrics = {"valid_loss": history.best_loss, "epochs": len(history.records)}
    info = ModelInfo("retrained", "ConvBetaVAE", network.config, recipe, metrics, arrays)
    return assemble(network, info, atlas, fit_predictor(atlas))
