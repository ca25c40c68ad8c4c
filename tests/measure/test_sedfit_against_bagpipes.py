"""Galaxies that bagpipes made, an independent code, fitted with our library."""

import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.cosmology import Planck18

from spectool.measure.sedfit import draw_library, fit_library, score_fit
from spectool.surveys.gama import load_filters
from spectool.surveys.photometry import make_band_averages
from spectool.synth import SSPGrid

REDSHIFT = 0.1
N = 24


def draw_parameters(rng):
    """Exponential histories behind dust, within the library's priors."""
    return {
        "redshift": REDSHIFT,
        "exponential": {
            "age": rng.uniform(2, 11),
            "tau": rng.uniform(1.5, 6),
            "massformed": rng.uniform(9.5, 11.5),
            "metallicity": rng.uniform(0.3, 1.8),
        },
        "dust": {"type": "CF00", "Av": rng.uniform(0.2, 1.5), "eta": rng.uniform(1.5, 3), "n": 0.7}
        | {"qpah": rng.uniform(1, 4), "umin": rng.uniform(0.5, 10), "gamma": rng.uniform(0.001, 0.05)},
        "nebular": {"logU": rng.uniform(-3.5, -2.5)},
        "t_bc": 0.01,
    }


def absorbed(model, parameters):
    """Log of the energy [Lsun] that dust takes: what is missing beside the same galaxy without dust."""
    energy = []
    for a_v in (0.0, parameters["dust"]["Av"]):
        model.update(parameters | {"dust": parameters["dust"] | {"Av": a_v}})
        energy.append(np.trapezoid(model.spectrum_full, model.wavelengths))
    area = 4 * np.pi * Planck18.luminosity_distance(REDSHIFT).to_value("cm") ** 2
    return np.log10((energy[0] - energy[1]) * (1 + REDSHIFT) * area * (u.erg / u.s).to(u.Lsun))


@pytest.fixture(scope="module")
def bagpipes_galaxies(tmp_path_factory):
    """Fluxes [Jy] and true properties, with errors of 10%."""
    import bagpipes

    folder, paths = tmp_path_factory.mktemp("filters"), []
    curves = load_filters()
    for name, curve in curves.items():
        paths.append(str(folder / f"{name}.txt"))
        np.savetxt(paths[-1], np.transpose(curve))
    rng = np.random.default_rng(20)
    drawn = [draw_parameters(rng) for _ in range(N)]
    model = bagpipes.model_galaxy(drawn[0], filt_list=paths, phot_units="mujy")
    rows = []
    for parameters in drawn:
        model.update(parameters)
        rows.append((model.photometry * 1e-6, model.sfh.stellar_mass, np.log10(model.sfh.sfr)))
    model.dust_emission.spectrum = lambda *_: np.zeros_like(model.wavelengths)  # what dust takes is gone
    log_dust = [absorbed(model, parameters) for parameters in drawn]
    flux = np.array([row[0] for row in rows])
    noisy = flux * (1 + 0.1 * rng.standard_normal(flux.shape))
    truth = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
    return xr.Dataset(
        {
            "flux": (("galaxy", "band"), noisy, {"units": "Jy"}),
            "flux_error": (("galaxy", "band"), 0.1 * flux, {"units": "Jy"}),
            "redshift": ("galaxy", np.full(N, REDSHIFT)),
            "log_mass": ("galaxy", truth[0]),
            "log_sfr": ("galaxy", truth[1]),
            "log_dust_luminosity": ("galaxy", log_dust),
        },
        coords={"band": list(curves)},
    )


@pytest.fixture(scope="module")
def fitted(bagpipes_galaxies):
    averages = make_band_averages(
        SSPGrid.embedded("broadband"), load_filters(), highest_redshift=0.12, step=0.01
    )
    library = draw_library(12_000, averages=averages, seed=2, redshift_step=0.1, progress=False)
    return fit_library(bagpipes_galaxies, library, progress=False)


def test_our_fit_finds_what_went_into_bagpipes(fitted):
    scores = score_fit(fitted)
    assert (
        np.abs(scores["bias"]) < (0.08, 0.05, 0.05)
    ).all()  # exponentials without bursts are few in the library
    assert (scores["scatter"] < (0.15, 0.10, 0.08)).all()
    assert (scores["r2"] > (0.92, 0.90, 0.97)).all()
