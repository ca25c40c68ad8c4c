"""What must not move, part by part: small fixed inputs through everything that makes a number.

A part is a function without arguments that returns a dict of arrays or strings by name. Only the imports below name
modules of the package, so that they alone change when code moves.
"""

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import xarray as xr

from spectool.measure import offset
from spectool.measure import sedfit as fits
from spectool.measure.attribution import attribute, describe_filters, share_by_index
from spectool.measure.classes import classify
from spectool.measure.gradients import fit_gradients
from spectool.measure.indices import measure_indices
from spectool.measure.information import informativeness, mutual_information_matrix
from spectool.measure.line_widths import fit_width_mass, spectral_fwhm
from spectool.measure.lines_linear import measure_lines_linear
from spectool.measure.lines_ppxf import fit_lines
from spectool.measure.metallicity import CALIBRATIONS, metallicity
from spectool.measure.mzr import bin_mass_and_sfr, running_median, spearman_at_fixed_mass
from spectool.measure.populations import fit_populations
from spectool.measure.probes import compress_pca, measure_degeneracy, probe_latents
from spectool.measure.stats import running_percentiles, summarize
from spectool.models.bands import read_bands, read_inputs, split_spectra
from spectool.models.calibration import fit_error_scaling
from spectool.models.chunked import score_by_sn
from spectool.models.denoise import denoise, fit_pca, sample_denoised
from spectool.models.ensemble import BandEnsemble, band_importance
from spectool.models.outliers import score_outliers
from spectool.models.peers import train_boosting
from spectool.models.store import load_model, shipped_models
from spectool.models.training import fit
from spectool.models.vae import BetaLoss, RandomCoverage, fit_statistics, reconstruct
from spectool.papers import ask_all
from spectool.papers.liewcain2021 import network as narrow
from spectool.papers.liewcain2021.sample import make_liewcain2021, measure_stellar_bands
from spectool.papers.marziano2024 import make_sample as make_marziano2024
from spectool.papers.marziano2024 import predict as predict_marziano2024
from spectool.papers.marziano2024.network import make_autoencoder
from spectool.papers.scourfield2023 import network as denoisers
from spectool.papers.scourfield2023 import sample as mocks
from spectool.papers.surana2020 import network as broad
from spectool.papers.surana2020.sample import read_surana2020, select_taught
from spectool.papers.zahid2019 import network as chunked
from spectool.papers.zahid2019 import reader
from spectool.papers.zahid2019 import sample as stacks
from spectool.papers.zahid2019.network import network_predictor, perturb_grid, score_on_library
from spectool.prepare import prepare_spectra
from spectool.surveys import observe_sdss, packaged_spectra, read_sdss, read_spectrum
from spectool.surveys.califa import rebuild_galaxy
from spectool.surveys.gama import draw_gama, load_filters, observe_gama
from spectool.surveys.jpas import measure_bands, observe_jpas
from spectool.surveys.photometry import make_band_averages
from spectool.surveys.tables import DUSTPEDIA_LABELS, read_photometry, read_pipe3d
from spectool.synth import SSPGrid
from tests.golden.arrays import arrays_of, flatten, only, pair, trained, weights_of
from tools.make import noise_aware as aware
from tools.make import references, scourfield2023_selection
from tools.make.bursts import fit_bursts, make_burst_library
from tools.make.distillation import compress, measure_layers
from tools.make.gaussian_lines import measure_candidates as measure_zahid2019
from tools.make.gaussian_lines import measure_gaussian_lines
from tools.make.liewcain2021_labels import fit_error_model
from tools.make.randomised_domain import randomise
from tools.make.ssp_mixtures import draw_ssp_mixtures
from tools.make.stacks import average_spectra, sum_spectra
from tools.make.zahid2019_selection import screen
from tools.recipes.zahid2019 import train_small_network

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
TABLES = (".npz", ".nc", ".safetensors", ".json")
NUMBERS = [0, 17, 4711]
QUIET = {"progress": False}
PARTS = {}


def part(function):
    """Keep a part under its name."""
    PARTS[function.__name__] = function
    return function


@cache
def scourfield2023():
    """Fifty selected galaxies with noise added."""
    chosen = mocks.read_products()
    sample = mocks.rebuild(np.sort(chosen["candidate"].values)[:50])
    return mocks.add_noise(mocks.normalize_total(sample, constant=chosen.attrs["constant"]), seed=1)


@cache
def zahid2019():
    """Fifty selected galaxies."""
    return stacks.rebuild(np.sort(stacks.read_products()["candidate"].values)[:50])


@cache
def surana2020():
    """Numbered galaxies: 0 to 4711."""
    return read_surana2020(4712, averages=band_averages(), **QUIET)


@cache
def band_averages():
    """Of GAMA's bands."""
    return make_band_averages(SSPGrid.embedded("broadband"), load_filters())


@cache
def liewcain2021():
    """Mock galaxies of CALIFA, some dozen spectra each."""
    return make_liewcain2021(24, spectra_per_galaxy=12)


@cache
def marziano2024():
    """Eight mock galaxies, prepared, a part of one masked."""
    sample = make_marziano2024(8, seed=5, **QUIET)
    mask = np.zeros(sample["flux"].shape, bool)
    mask[3, 2000:2600] = True
    dims = ("galaxy", "wavelength")
    return sample.assign(mask=(dims, mask), ivar=(dims, np.full(mask.shape, 400.0, "f4")))


@part
def weights():
    """Hashes of all weights, grids and tables that are shipped."""
    files = [path for path in (ROOT / "spectool").rglob("*") if path.suffix in TABLES]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@part
def tables():
    """What readers of shipped tables return."""
    found = {}
    for kind in ("uniform", "star-forming", "null"):
        found |= arrays_of(mocks.read_products(kind), f"scourfield2023 {kind} ")
    for kind, key in (("main", "galaxies"), ("null", "null")):
        found |= arrays_of(stacks.read_products(kind), f"zahid2019 {kind} ")
        found |= arrays_of(stacks.read_products("bins").sel(sample=key, drop=True), f"zahid2019 bins {kind} ")
    return found | arrays_of(stacks.read_products("stacks"), "zahid2019 stacks ")


@part
def galaxies():
    """Mock galaxies by their numbers, and small mock samples of the other papers."""
    found = arrays_of(mocks.rebuild(NUMBERS), "scourfield2023 ")
    found |= arrays_of(mocks.rebuild(NUMBERS, metallicity_sfr=False), "scourfield2023 null ")
    found |= arrays_of(scourfield2023(), "scourfield2023 noisy ")
    found |= arrays_of(stacks.rebuild(NUMBERS), "zahid2019 ")
    found |= arrays_of(stacks.rebuild(NUMBERS, null=True), "zahid2019 null ")
    found |= arrays_of(reader.prepare_zahid2019(zahid2019()), "zahid2019 prepared ")
    found |= arrays_of(surana2020().isel(galaxy=NUMBERS), "surana2020 ")
    found |= arrays_of(liewcain2021(), "liewcain2021 ")
    found |= arrays_of(rebuild_galaxy(liewcain2021(), 1), "liewcain2021 spectra ")
    return found | arrays_of(marziano2024(), "marziano2024 ")


@part
def predictions():
    """Each weight file, asked about a few galaxies."""
    found = {}
    for name in shipped_models():
        model, info = load_model(name)
        found |= {f"{name} {key}": value for key, value in _ask(name, model, info).items()}
    return found


def _ask(name, model, info):
    if name == "zahid2019_pca":
        return {"coefficients": chunked.project(model, _prepared()["flux"].values)}
    if name == "zahid2019_pca_mlp":
        pca, _ = load_model("zahid2019_pca")
        return pair(model.predict(chunked.project(pca, _prepared()["flux"].values)))
    if name == "marziano2024_reference_parameters":
        reference, _ = load_model("marziano2024_reference")
        return pair(model.predict(reconstruct(reference, marziano2024())["latent"].values))
    if info.model_class == "ConvBetaVAE":
        return only(reconstruct(model, marziano2024()), "latent", "latent_sigma", "reconstruction")
    if info.model_class == "ChunkedMLP":
        return {"mean": model.predict(_prepared()["flux"].values)}
    if info.model_class == "NarrowBandCNN":
        return pair(model.predict(model.encode(read_bands(liewcain2021(), model.bands))))
    if info.model_class == "SedMLP":
        sample = surana2020().isel(galaxy=slice(0, 40))
        mean, error = model.predict(model.encode(read_inputs(sample, model.bands)))
        flags = broad.predict_properties(sample, BandEnsemble([model]), outliers=info.arrays or None)
        return pair((mean, error)) | arrays_of(flags)
    seen = denoise(model, scourfield2023(), errors=info.arrays)
    drawn = sample_denoised(seen.isel(galaxy=slice(0, 3)), info.arrays, n=4, seed=3)
    flags = score_outliers(info.arrays, scourfield2023(), seen)
    spectra = only(seen, "flux", "latent", "latent_sigma", "flux_error")
    return spectra | arrays_of(flags) | {"drawn": np.asarray(drawn)}


@cache
def _prepared():
    return reader.prepare_zahid2019(zahid2019())


@part
def ensembles():
    """The shipped ensembles: calibrated errors, flags, reasons."""
    networks, arrays = broad.load_networks()
    some = surana2020().isel(galaxy=slice(0, 200))
    found = arrays_of(broad.predict_properties(some, networks, outliers=arrays), "surana2020 ")
    larger = {name: (some[name] * 1e3).assign_attrs(units="Jy") for name in ("flux", "flux_error")}
    wrong = some.assign(larger)
    found |= arrays_of(broad.predict_properties(wrong, networks, outliers=arrays), "surana2020 millijansky ")
    seen = narrow.predict_populations(liewcain2021(), narrow.load_networks())
    found |= arrays_of(seen, "liewcain2021 ")
    names = ("mean", "error", "spread")
    told = zip(names, chunked.predict_ensemble(chunked.load(), _prepared()), strict=True)
    found |= {f"zahid2019 {name}": values for name, values in told}
    found |= arrays_of(reader.predict(zahid2019()), "zahid2019 metallicity ")
    moved = zahid2019().assign_coords(wavelength=zahid2019()["wavelength"] * 1.01)
    return found | arrays_of(reader.predict(moved), "zahid2019 moved ")


@part
def lines():
    """Fifty spectra through each line fitter, and what else is measured on spectra."""
    few = scourfield2023().isel(galaxy=slice(0, 8))
    found = arrays_of(fit_lines(scourfield2023(), kinematics="fixed", n_workers=1, **QUIET), "ppxf fixed ")
    found |= arrays_of(fit_lines(few, n_workers=1, keep_fit=True, **QUIET), "ppxf ")
    found |= arrays_of(fit_populations(few.isel(galaxy=[0, 1]), n_workers=1, **QUIET), "populations ")
    found |= arrays_of(measure_lines_linear(scourfield2023(), keep_fit=True), "linear ")
    found |= arrays_of(measure_lines_linear(scourfield2023(), variable="noisy"), "linear noisy ")
    spectra = zahid2019().drop_vars("true_line_flux").drop_dims("line")
    found |= arrays_of(measure_gaussian_lines(spectra), "gaussian ")
    found |= arrays_of(spectral_fwhm(zahid2019()), "widths ")
    return found | arrays_of(measure_indices(scourfield2023()), "indices ")


@part
def metallicities():
    """Every calibration and class, on true fluxes with errors of 3%."""
    flux = scourfield2023()["true_line_flux"]
    error = 0.03 * flux + 0.1
    table = xr.Dataset({"line_flux": flux, "line_flux_error": error, "line_sn": flux / error})
    found = {"class": classify(measure_lines_linear(scourfield2023()))["spectral_class"].values.astype(str)}
    for name in CALIBRATIONS:
        found |= arrays_of(metallicity(table, calibration=name), f"{name} ")
        dried = metallicity(table, calibration=name, deredden=True, n_draws=20, seed=2)
        found |= arrays_of(dried, f"{name} dereddened ")
    return found


@part
def mzr():
    """Bins, medians and correlations of a selection."""
    some = stacks.read_products().isel(galaxy=slice(0, 3000))
    mass, rate, log_z = (some[name].values for name in ("log_mass", "log_sfr", "log_z_lw"))
    found = arrays_of(bin_mass_and_sfr(mass, rate, log_z), "bins ")
    found |= arrays_of(running_median(mass, log_z), "median ")
    for name, columns in {"third": (mass, log_z, rate), "residuals": (mass, rate, log_z)}.items():
        values = spearman_at_fixed_mass(*columns, n_bootstrap=30, seed=4)
        found |= {f"{name} {key}": np.asarray(value, float) for key, value in vars(values).items()}
    how = {"columns": ["log_age", "log_z"], "min_spectra": 5, "n_bootstrap": 10, "seed": 1}
    return found | arrays_of(fit_gradients(liewcain2021(), **how), "gradients ")


@part
def sedfit():
    """Fluxes fitted with libraries of models."""
    grid = SSPGrid.embedded("broadband")
    averages = make_band_averages(grid, load_filters(), highest_redshift=0.2, step=0.01)
    library = fits.draw_library(2000, averages=averages, seed=1, redshift_step=0.05, **QUIET)
    seen = observe_gama(draw_gama(60, averages=averages, seed=3, redshift_range=(0.02, 0.2)), seed=4)
    found = arrays_of(fits.fit_library(seen, library, **QUIET), "library ")
    bursts = make_burst_library(log_age=np.linspace(-1, 1.1, 8), log_z=np.linspace(-1.5, 0.3, 5))
    return found | arrays_of(fit_bursts(liewcain2021(), bursts, **QUIET), "bursts ")


@part
def readers():
    """What readers make of the files in the packages."""
    found = {}
    for name, path in packaged_spectra().items():
        found |= arrays_of(read_sdss(path), f"{name} ")
    folder = Path(find_spec("edge_pydb").submodule_search_locations[0])
    path = folder / "img_califa" / "NGC4047_allpix.pipe3d.hdf5"
    return found | arrays_of(read_pipe3d(path, center=(180.7111065, 48.6362161)), "pipe3d ")


@part
def real():
    """What readers make of real files, prepared for both kinds of networks; and what is read from them."""
    files = sorted((SHARED / "data/sdss_raw").glob("*.fits"))
    seen = read_sdss(files)
    found = arrays_of(seen, "sdss ") | arrays_of(read_spectrum(files[0]), "spectrum ")
    found |= arrays_of(prepare_spectra(seen, ebv=0.03), "sdss marziano2024 ")
    found |= arrays_of(reader.prepare_zahid2019(seen, ebv=0.03), "sdss zahid2019 ")
    how = {"units": "Jy", "bad_flags": "ACN", "distance": "dist_best", "labels": DUSTPEDIA_LABELS}
    photometry = read_photometry(SHARED / "data/dustpedia.csv", **how, label_suffix="_cigale")
    return found | arrays_of(photometry, "dustpedia ")


@part
def denoiser_training():
    """Two epochs of the de-noisers."""
    sample = scourfield2023()
    arrays, wavelength = denoisers.make_arrays(sample), sample["wavelength"].values
    found = {}
    for kind in ("ae", "vae"):
        model = denoisers.make_model(kind, 3, arrays["flux"], wavelength, widths=(48, 32), seed=3)
        history = denoisers.train(model, arrays, arrays, epochs=2, batch_size=16, seed=3, **QUIET)
        found |= trained(model, history, f"{kind} ")
    arrays, small = aware.make_arrays(sample), {"n_latent": 4, "n_components": 8}
    small |= {"encoder": (24,), "decoder": (24,), "errors": (16,)}
    how = {"seed": 3, "epochs": 2, "options": small, "batch_size": 16} | QUIET
    return found | trained(*aware.train_noise_aware(arrays, arrays, wavelength, **how), "noise ")


@part
def autoencoder_training():
    """Two epochs of the convolutional autoencoder, and parameters read from the shipped one's latents."""
    sample = make_marziano2024(40, seed=6, **QUIET)
    flux, wavelength = sample["flux"].values, sample["wavelength"].values
    model = make_autoencoder("light", seed=2, n_latent=4)
    fit_statistics(model, flux, wavelength, seed=2)
    how = {"loss": BetaLoss(0.3), "augment": RandomCoverage(wavelength), "epochs": 2, "batch_size": 8}
    history = fit(model, {"flux": flux}, {"flux": flux[:8]}, **how, seed=2, **QUIET)
    found = trained(model, history, "vae ")
    pca = fit_pca(scourfield2023()["flux"].values, n_latent=4, seed=0)
    asked = predict_marziano2024(marziano2024().isel(galaxy=[3, 4]), n_mock=100, seed=0)
    return found | weights_of(pca, "pca ") | arrays_of(asked, "reader ")


@part
def chunked_training():
    """Two epochs of each phase of the chunked network, its noise drawn both ways; and the small network."""
    table = stacks.training_table().isel(galaxy=slice(0, None, 200))
    taught, heldout = stacks.make_sample(table=table, dtype="float32"), stacks.make_heldout(40, seed=5)
    found = arrays_of(heldout, "heldout ")
    for name, options in {"filters": {}, "pixels": {"pixel_noise": True}}.items():
        how = {"adam_epochs": 2, "sgd_epochs": 2, "batch_size": 64, "seed": 1}
        found |= trained(*chunked.train(taught, heldout, **how, **options, **QUIET), f"{name} ")
    pca, _ = load_model("zahid2019_pca")
    pairs = [(chunked.project(pca, s["flux"].values), s["log_z_lw"].values) for s in (taught, heldout)]
    small = train_small_network(*pairs[0], *pairs[1], epochs=2, batch_size=64, seed=1, **QUIET)
    return found | trained(*small, "small ")


@part
def band_training():
    """Two epochs of the networks on fluxes, alone and as ensembles."""
    some = surana2020().isel(galaxy=slice(0, 300))
    inputs, labels = read_inputs(some, list(some["band"].values)), broad.read_labels(some)
    data, name = (inputs, labels, inputs, labels), next(iter(broad.UNITS))
    one = (inputs, labels[:, :1], inputs, labels[:, :1])
    found = trained(*broad.train_network(*one, outputs=[name], epochs=2, seed=1, **QUIET), "sed ")
    options = broad.ensemble_options(epochs=2)
    members = [broad.train_network(*data, seed=seed, **options, **QUIET)[0] for seed in (1, 2)]
    ensemble = broad.calibrate(BandEnsemble(members), inputs, labels, seed=[1, 2])
    found |= dict(zip(("sed mean", "sed error"), ensemble.predict(inputs), strict=True))
    some = liewcain2021()
    bands = [str(band) for band in some["band"].values]
    inputs, labels = read_bands(some, bands), narrow.read_labels(some)
    found |= {f"folds {by}": split_spectra(some, by=by) for by in ("spectrum", "galaxy")}
    one = (inputs, labels[:, :1], inputs, labels[:, :1])
    model, history = narrow.train_cnn(*one, outputs=["log_age"], bands=bands, epochs=2, seed=1, **QUIET)
    found |= trained(model, history, "cnn ")
    options = {"outputs": ["log_age", "log_z"], "bands": bands, "noise": True, "live": True, "epochs": 2}
    options, data = options | QUIET, (inputs, labels, inputs, labels)
    ensemble = BandEnsemble([narrow.train_cnn(*data, seed=seed, **options)[0] for seed in (1, 2)])
    ensemble = narrow.calibrate(ensemble, inputs, labels, seed=1)
    return found | dict(zip(("cnn mean", "cnn error"), ensemble.predict(inputs), strict=True))


def sed_data(n=600):
    """The broadband ensemble, inputs and labels."""
    networks, _ = broad.load_networks()
    some = surana2020().isel(galaxy=slice(0, n))
    return networks, read_inputs(some, networks.bands), broad.read_labels(some)


def band_data():
    """The narrow-band ensemble, inputs and labels."""
    networks = narrow.load_networks()
    return networks, read_bands(liewcain2021(), networks.bands), narrow.read_labels(liewcain2021())


@part
def calibrations():
    """Errors and references for outliers, learnt anew."""
    networks, inputs, labels = sed_data()
    found = {"sed errors": np.asarray(broad.calibrate(networks, inputs, labels, seed=1).calibration)}
    half = inputs.take(np.arange(300)), inputs.take(np.arange(300, 600))
    found |= flatten(references.fit_band_outliers(*half), "sed ")
    networks, inputs, labels = band_data()
    found["bands errors"] = np.asarray(narrow.calibrate(networks, inputs, labels, seed=1).calibration)
    heldout = stacks.make_heldout(80, seed=5)
    flux, truth = heldout["flux"].values, heldout["log_z_lw"].values[:, None]
    errors = references.fit_errors(chunked.load(), flux, truth, levels=(np.inf, 20.0), seed=1)
    found |= flatten(errors, "chunked ")
    found |= flatten(references.fit_bin_outliers(flux, flux[:40], np.full(40, 0.03, "f4")), "chunked ")
    sample, (model, info) = scourfield2023(), load_model("scourfield2023_vae4")
    seen = denoise(model, sample, errors=info.arrays)
    latent, predicted = seen["latent"].values, seen["flux"].values
    off = predicted - sample["truth"].values
    found |= flatten(references.fit_flux_errors(latent[:, :2], off, seed=1), "fluxes ")
    found |= flatten(references.fit_outliers(sample, predicted, latent, seen["flux_error"].values), "fluxes ")
    arrays, (model, _) = aware.make_arrays(sample), load_model("scourfield2023_noise_aware")
    modes = aware.calibrate(model, arrays, sample["truth"].values, seed=1)
    found |= {"noise modes": modes} | weights_of(model, "noise ")
    found |= flatten(aware.score_levels(model, arrays, sample["truth"].values, seed=1), "noise scores ")
    many = surana2020()["log_z_star"].values[:400]
    return found | flatten(fit_error_scaling(many + 0.1 * np.sin(40 * many), many), "scaling ")


@part
def scores():
    """The papers' figures of merit, and what bands are worth."""
    networks, inputs, labels = sed_data()
    mean, error = networks.predict(inputs)
    found = flatten(broad.score_properties(mean, labels, networks.outputs, error=error), "sed ")
    found |= arrays_of(broad.missing_curve(networks, inputs, labels, counts=(0, 4), seed=1), "sed missing ")
    found |= arrays_of(broad.missing_facilities(networks, inputs, labels), "sed facilities ")
    found |= arrays_of(band_importance(networks.members[0], inputs, labels, seed=1, repeats=1), "sed bands ")
    x = networks.members[0].encode(inputs)
    found["boosting"] = np.asarray(train_boosting(x, labels, seed=1, n_iterations=20)(x))
    found |= flatten(broad.split_galaxies(100, seed=3), "split ")
    found |= flatten(select_taught(surana2020())[1], "cuts ")
    networks, inputs, labels = band_data()
    mean, error = networks.predict(narrow.add_noise(networks.members[0], inputs, seed=3))
    found |= flatten(narrow.score_spectra(mean[:, 0], labels[:, 0], error=error[:, 0]), "bands ")
    found |= arrays_of(narrow.score_noise(networks, inputs, labels, sn=(30.0, 100.0), seed=1), "bands noise ")
    missing = narrow.score_missing(networks, inputs, labels, counts=(0, 5), seed=1)
    found |= arrays_of(missing, "bands missing ")
    one = band_importance(networks.members[0], inputs, labels, dim="band", seed=1, repeats=1)
    found |= arrays_of(one, "bands importance ")
    folds = narrow.train_folds(liewcain2021(), "log_z", by="galaxy", only=(0, 2), epochs=1, seed=1, **QUIET)
    found |= {"folds fold": folds.fold, "folds predicted": folds.predicted}
    model, _ = load_model("scourfield2023_vae4")
    arrays = denoisers.make_arrays(scourfield2023())
    found |= flatten(denoisers.score(model, arrays, scourfield2023()["truth"].values), "denoised ")
    model = denoisers.make_model("vae", 3, arrays["flux"], widths=(48, 32), seed=3)
    moments = measure_layers(model, arrays["input"], arrays["weight"], seed=0)
    ranks = compress(model, moments, tolerance=5.0).config["ranks"] or ()
    found["compressed"] = np.array([rank or 0 for rank in ranks])
    heldout, ensemble = stacks.make_heldout(80, seed=5), chunked.load()

    def predict(x, sigma):
        mean, error, _ = ensemble.predict(x, sigma)
        return mean[:, 0], error[:, 0]

    by_sn = score_by_sn(predict, heldout, heldout["log_z_lw"].values, levels=(np.inf, 10.0), seed=2)
    found |= flatten(by_sn, "chunked ") | arrays_of(randomise(heldout, seed=1), "randomised ")
    x, y = surana2020()["log_mass"].values[:700], surana2020()["log_mass_fit"].values[:700]
    bins = running_percentiles(x, y)
    return found | flatten(bins, "recovery bins ") | flatten(summarize(x, y, bins), "recovery ")


@part
def latents():
    """Information, probes and components of latents; attributions; the offset of stacks."""
    model, _ = load_model("marziano2024_beta0.3")
    encoded = reconstruct(model, marziano2024())
    found = {"informative": informativeness(encoded["latent"], encoded["flux"])}
    model, _ = load_model("scourfield2023_vae4")
    seen = denoise(model, scourfield2023())
    columns = scourfield2023()[["log_mass", "log_sfr", "log_z_gas"]]
    probes = probe_latents(seen["latent"], columns, seed=1, n_bootstrap=10)
    found |= arrays_of(probes, "probes ")
    found |= arrays_of(measure_degeneracy(probes, "log_mass", "log_sfr", "linear"), "degeneracy ")
    found |= arrays_of(compress_pca(scourfield2023()["flux"], 3, seed=1), "pca ")
    x, y = surana2020()["log_mass"].values[:200], surana2020()["log_sfr"].values[:200]
    columns = (xr.Dataset({"one": ("galaxy", values)}) for values in (x, y))
    shared = mutual_information_matrix(*columns, seed=1, n_bootstrap=2, n_shuffles=2, n_jobs=1, **QUIET)
    names = ("mi", "mi_error", "bias")
    found |= {f"information {k}": np.asarray(shared[name].item()) for k, name in enumerate(names)}
    heldout, ensemble = stacks.make_heldout(40, seed=5), chunked.load()
    attributed = attribute(list(ensemble.members), heldout, steps=8)
    found |= arrays_of(attributed, "attributed ") | flatten(share_by_index(attributed), "indices ")
    found |= flatten(describe_filters(ensemble.members[0], heldout, steps=4), "filters ")
    relation = fit_width_mass(stacks.read_products("stacks"))
    found["widths"] = np.asarray(relation(np.linspace(9, 11.4, 9)))
    sample = zahid2019()
    at = (sample["wavelength"].values >= 4050) & (sample["wavelength"].values <= 7300)
    flux = sample["truth"].values[:, at] / sample["norm"].values[:, None]
    wide = {"fwhm": offset.stellar_fwhm(sample), "assumed_fwhm": relation(sample["log_mass"].values)}
    where = sample["wavelength"].values[at]
    views = offset.observed_views(flux, where, **wide, relative_sigma=stacks.chunk_sigma(sample), seed=8)
    labels = (sample[name].values for name in ("log_z_lw", "log_mass"))
    predict = offset.flux_predictor(list(ensemble.members))
    how = {"edges": [9.0, 10.3, 11.5], "light": sample["light"].values, "n_bootstrap": 5, "min_count": 5}
    return found | arrays_of(offset.explain_offset(views, *labels, predict, **how), "offset ")


@part
def observations():
    """What surveys see, what is selected and stacked, other libraries, answers on the packaged spectra."""
    plain = scourfield2023().drop_vars(["noisy", "noisy_sigma"])
    found = arrays_of(denoisers.add_desi_noise(plain, seed=2), "desi ")
    whole = marziano2024().drop_vars(["mask", "ivar"])
    found |= arrays_of(observe_sdss(whole, seed=1, median_flux=20.0), "sdss ")
    spectra = measure_bands(zahid2019(), frame="rest")
    found |= arrays_of(spectra, "jpas ")
    found |= arrays_of(observe_jpas(spectra.drop_vars("flux_error"), seed=1, magnitude=18.0), "jpas noisy ")
    real = read_sdss(list(packaged_spectra().values())[:1])
    found |= arrays_of(measure_stellar_bands(real), "stellar bands ")
    found |= arrays_of(draw_ssp_mixtures(20, seed=1), "mixtures ")
    found |= flatten(fit_error_model(liewcain2021()), "labels model ")
    found |= arrays_of(average_spectra([sum_spectra(zahid2019())], zahid2019()), "stacks ")
    block = stacks.draw_block(3)
    found |= {"screened zahid2019": screen(block)}
    measured = measure_zahid2019(block.isel(galaxy=screen(block)[:10]), seed=2019)
    found |= arrays_of(measured, "measured zahid2019 ")
    chosen = scourfield2023_selection.screen_block(0, np.full(27, 0.02))
    found |= arrays_of(chosen, "screened scourfield2023 ")
    measured = scourfield2023_selection.measure_candidates(chosen.isel(galaxy=slice(0, 10)))
    found |= arrays_of(measured, "measured scourfield2023 ")
    stored = stacks.stored_flux(zahid2019())
    found |= arrays_of(reader.stream_metallicity(stored, threads=1, **QUIET), "streamed ")
    other = perturb_grid(SSPGrid.embedded())
    found |= {"perturbed": other.flux}
    scored = score_on_library(network_predictor(chunked.load()), other, n=60, sn=30.0)
    found |= flatten(scored, "perturbed ")
    for answer in ask_all(real):
        found |= arrays_of(answer.result, f"{answer.name} ")
    return found


@part
def sedfit_causes():
    """What scatter of fitted rates comes from, and the nearest models."""
    library = fits.draw_library(2000, averages=band_averages(), seed=1, redshift_step=0.05, **QUIET)
    sample = observe_gama(draw_gama(80, averages=band_averages(), seed=3), seed=4, facilities={})
    sample = fits.fit_library(sample, library, **QUIET)
    found = arrays_of(fits.score_fit(sample), "scores ")
    found |= arrays_of(fits.nearest_models(sample.isel(galaxy=[0, 1]), library, n=3), "nearest ")
    again = fits.fit_again(sample, library)
    traced = fits.trace_scatter(sample, again, sample["log_sfr"].values)
    return found | arrays_of(again, "again ") | flatten(traced, "traced ")
