"""More parts: what calibrates, flags and scores, what is read from latents and attributed, and mock observations."""

import numpy as np
import xarray as xr

from spectool.measure import offset, sedfit
from spectool.measure.attribution import attribute, describe_filters, share_by_index
from spectool.measure.information import informativeness, mutual_information_matrix
from spectool.measure.line_widths import fit_width_mass
from spectool.measure.probes import compress_pca, measure_degeneracy, probe_latents
from spectool.measure.stats import running_percentiles, summarize
from spectool.models.bands import read_bands, read_inputs
from spectool.models.calibration import fit_error_scaling
from spectool.models.chunked import score_by_sn
from spectool.models.denoise import denoise
from spectool.models.ensemble import band_importance
from spectool.models.peers import train_boosting
from spectool.models.store import load_model
from spectool.models.vae import reconstruct
from spectool.papers import ask_all
from spectool.papers.liewcain2021 import network as narrow
from spectool.papers.liewcain2021.sample import measure_stellar_bands
from spectool.papers.scourfield2023 import network as denoisers
from spectool.papers.surana2020 import network as broad
from spectool.papers.surana2020.sample import select_taught
from spectool.papers.zahid2019 import network as chunked
from spectool.papers.zahid2019 import reader
from spectool.papers.zahid2019 import sample as stacks
from spectool.papers.zahid2019.network import network_predictor, perturb_grid, score_on_library
from spectool.surveys import observe_sdss, packaged_spectra, read_sdss
from spectool.surveys.gama import draw_gama, observe_gama
from spectool.surveys.jpas import measure_bands, observe_jpas
from spectool.synth import SSPGrid
from tests.golden.arrays import arrays_of, flatten, weights_of
from tests.golden.parts import (
    QUIET,
    band_averages,
    liewcain2021,
    marziano2024,
    part,
    scourfield2023,
    surana2020,
    zahid2019,
)
from tools.make import noise_aware as aware
from tools.make import references, scourfield2023_selection
from tools.make.distillation import compress, measure_layers
from tools.make.gaussian_lines import measure_candidates as measure_zahid2019
from tools.make.liewcain2021_labels import fit_error_model
from tools.make.randomised_domain import randomise
from tools.make.ssp_mixtures import draw_ssp_mixtures
from tools.make.stacks import average_spectra, sum_spectra
from tools.make.zahid2019_selection import screen


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
    library = sedfit.draw_library(2000, averages=band_averages(), seed=1, redshift_step=0.05, **QUIET)
    sample = observe_gama(draw_gama(80, averages=band_averages(), seed=3), seed=4, facilities={})
    sample = sedfit.fit_library(sample, library, **QUIET)
    found = arrays_of(sedfit.score_fit(sample), "scores ")
    found |= arrays_of(sedfit.nearest_models(sample.isel(galaxy=[0, 1]), library, n=3), "nearest ")
    again = sedfit.fit_again(sample, library)
    traced = sedfit.trace_scatter(sample, again, sample["log_sfr"].values)
    return found | arrays_of(again, "again ") | flatten(traced, "traced ")
