"""Agreement with bagpipes, galaxy by galaxy: an independent code on the same stellar and nebular models."""

from dataclasses import replace

import numpy as np
import pytest

from spectool.spectra import pixel_edges, rebin_matrix, vacuum_to_air
from spectool.synth import sfh, synthesize
from spectool.synth.dust import interpolation_weights
from tests.stars import bare_stars

# age [Gyr], tau [Gyr], log mass, Z / Zsun, log U, A_V, eta, slope, velocity dispersion [km/s]
SETS = [
    (12.0, 0.5, 11.0, 1.00, -3.0, 0.1, 1.0, 0.7, 250.0),
    (12.0, 3.0, 10.5, 1.00, -3.0, 0.5, 2.0, 0.7, 120.0),
    (10.0, 8.0, 10.0, 0.70, -2.7, 0.8, 2.0, 0.5, 100.0),
    (8.0, 1.0, 10.8, 1.50, -3.2, 0.3, 1.5, 1.0, 200.0),
    (5.0, 5.0, 9.5, 0.40, -2.5, 0.3, 3.0, 1.3, 60.0),
    (2.0, 1.0, 9.0, 0.20, -2.3, 0.1, 1.0, 1.0, 50.0),
    (1.0, 9.0, 8.8, 0.10, -2.5, 0.0, 1.0, 0.7, 50.0),
    (0.3, 5.0, 9.0, 0.40, -2.0, 1.0, 2.0, 0.4, 80.0),
    (6.0, 2.0, 10.0, 0.02, -3.5, 2.0, 1.2, 0.7, 150.0),
    (11.0, 0.3, 11.3, 2.00, -3.5, 0.2, 1.0, 0.7, 300.0),
]
LSUN = 3.826e33
WAVELENGTH = np.arange(3800.0, 9200.0, 2.0)
OPTIONS = {"progress": False, "wavelength": WAVELENGTH}


@pytest.fixture(scope="module")
def bagpipes_models():
    """Spectra [Lsun/A], line luminosities [Lsun], the histories as bagpipes bins them, and its tables."""
    import bagpipes
    from bagpipes import config

    resolution, config.R_spec = config.R_spec, 15000.0
    native = np.arange(3700.0, 9300.0, 0.25)
    operator = rebin_matrix(pixel_edges(native), pixel_edges(WAVELENGTH))
    spectra, lines, histories, model = [], [], [], None
    try:
        for age, tau, log_mass, z, log_u, a_v, eta, slope, dispersion in SETS:
            components = {"redshift": 0.0, "veldisp": dispersion, "nebular": {"logU": log_u}}
            components["delayed"] = {"age": age, "tau": tau, "massformed": log_mass, "metallicity": z}
            components["dust"] = {"type": "CF00", "Av": a_v, "eta": eta, "n": slope}
            if model is None:  # resamples its tables, which takes ten times as long as all spectra together
                model = bagpipes.model_galaxy(components, spec_wavs=vacuum_to_air(native))
            model.update(components)
            spectra.append(operator @ model.spectrum[:, 1] / LSUN)
            lines.append([model.line_fluxes[name] / LSUN for name in config.line_names])
            histories.append(model.sfh.ceh.grid.sum(axis=0))
    finally:
        config.R_spec = resolution
    return np.array(spectra), np.array(lines), np.array(histories), config.age_bins, config.line_wavs


@pytest.fixture(scope="module")
def linear_grid(grid):
    """The grid at the galaxies' metallicities, linear in Z as bagpipes has it: `synthesize` is linear in log Z."""
    metallicity = np.unique(np.array(SETS)[:, 3]) * grid.z_sun

    def between(part, *names):
        weights = interpolation_weights(metallicity, part.metallicity)
        arrays = {name: np.tensordot(weights, getattr(part, name), 1) for name in names}
        return replace(part, metallicity=metallicity, **arrays)

    gas = between(grid.nebular, "line_luminosity", "continuum", "ionizing_rate")
    return replace(between(grid, "flux", "surviving_mass", "ionizing_rate"), nebular=gas)


@pytest.fixture(scope="module")
def ours(linear_grid, bagpipes_models):
    """The same galaxies, their histories spread evenly over bagpipes' age bins of 0.1 dex as bagpipes does."""
    _, _, histories, age_bins, _ = bagpipes_models
    _, _, _, z, log_u, a_v, eta, slope, dispersion = np.array(SETS).T
    columns = {"log_z_gas": np.log10(z), "log_u": log_u, "dust_index": -slope, "dust2": a_v / 1.0857362}
    columns |= {"dust1": (eta - 1) * a_v / 1.0857362, "velocity_dispersion": dispersion}
    low, high = age_bins[:-1, None], age_bins[1:, None]
    share = np.diff(np.clip((linear_grid.age_edges - low) / (high - low), 0, 1), axis=1)
    galaxies = bare_stars(histories @ share, np.log10(z), **columns)
    return synthesize(galaxies, linear_grid, keep_lines=True, **OPTIONS)


def line_free(wavelength, line_wavelengths):
    """Pixels further than 2500 km/s from any line: bagpipes snaps lines to a pixel, so their wings differ."""
    distance = np.abs(wavelength[:, None] / line_wavelengths[None, :] - 1).min(1)
    return distance > 2500 / 299792.458


def test_continuum_within_one_percent_and_line_fluxes_within_three(ours, bagpipes_models):
    spectra, _, _, _, line_wavelengths = bagpipes_models
    clean = line_free(WAVELENGTH, line_wavelengths)
    assert clean.sum() > 500
    worst = np.abs(ours.flux.values[:, clean] / spectra[:, clean] - 1).max(axis=1)
    assert (worst < 0.01).all(), worst
    spectra, lines, _, _, air = bagpipes_models
    index = [int(np.abs(air - float(vacuum_to_air(w))).argmin()) for w in ours.line_wavelength.values]
    expected = lines[:, index]
    visible = expected > 0.01 * np.median(spectra, axis=1, keepdims=True)
    assert visible.sum() > 200
    ratio = ours.line_luminosity.values[visible] / expected[visible]
    assert np.abs(ratio - 1).max() < 0.03


def test_continuous_history_differs_only_by_their_age_bins(ours, linear_grid):
    """With the history in our bins of 0.05 dex instead of theirs of 0.1 dex, spectra move by a few percent at most."""
    age, tau, log_mass = np.array(SETS).T[:3]
    finer = ours.drop_vars(["flux", "line_luminosity", "line", "wavelength"]).copy()
    histories = sfh.delayed_tau(linear_grid.age_edges, age * 1e9, tau * 1e9) * 10 ** log_mass[:, None]
    finer["mass_formed"] = (("galaxy", "age"), histories)
    ratio = synthesize(finer, linear_grid, **OPTIONS).flux.values / ours.flux.values
    assert np.abs(np.median(ratio, axis=1) - 1).max() < 0.04
