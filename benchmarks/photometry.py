"""Fluxes of GAMA's 21 bands per second on one thread, beside a full spectrum per galaxy integrated by sedpy."""

from importlib.metadata import version

import numpy as np
import torch
from astropy import units as u
from sedpy.observate import Filter

from benchmarks.row import make_row, seconds
from benchmarks.synthesis import take_turns
from spectool.surveys.gama import BANDS, load_filters
from spectool.surveys.photometry import luminosity_distance, make_band_averages, measure_photometry
from spectool.synth import SSPGrid, synthesize
from spectool.synth.population import draw_population

N_OURS = 20_000
N_PEER = 64
AGREEMENT = 0.03
"""[mag] A speed counts only for the same work; at the grid's R = 200 sedpy is within this, a test is stricter."""


def run():
    """Galaxies per second, from histories to a Dataset of fluxes and truths; making the averages is told apart."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure()
    finally:
        torch.set_num_threads(threads)


def _measure():
    grid, made = SSPGrid.embedded("broadband"), []
    filters = load_filters()
    preparation = seconds(lambda: made.append(make_band_averages(grid, filters)))
    averages = made[0]
    galaxies = draw_population(N_OURS, grid_age=grid.age, seed=0, redshift_range=(0.01, 0.5))
    few = galaxies.isel(galaxy=slice(0, N_PEER))
    curves = [Filter(band.curve) for band in BANDS.values()]
    theirs = []

    def run_ours():
        return measure_photometry(galaxies, averages, progress=False)

    def run_peer():
        theirs[:] = [_by_spectra(few, grid, curves)]

    run_peer()
    apart = np.abs(2.5 * np.log10(run_ours()["flux"].values[:N_PEER] / theirs[0])).max()
    if not apart < AGREEMENT:
        raise ValueError(f"the fluxes are not those of the peer: they differ by {apart:.3f} mag")
    rate, peer_rate = take_turns(run_ours, N_OURS, run_peer, N_PEER)
    peer = (
        f"a spectrum per galaxy and sedpy {version('astro-sedpy')}, one thread each; band averages took "
        f"{preparation:.1f} s once"
    )
    return make_row(
        "photometry_galaxies_per_second", rate, "galaxies/s", peer, peer_rate, higher_is_better=True
    )


def _by_spectra(galaxies, grid, curves):
    """Fluxes [Jy], (galaxy, band), from whole spectra."""
    spectra = synthesize(galaxies, grid, dust_emission=True, progress=False)
    z = galaxies["redshift"].values
    scale = u.Lsun.to(u.erg / u.s) / (4 * np.pi * (luminosity_distance(z) * u.Mpc.to(u.cm)) ** 2) / (1 + z)
    wavelength, luminosity = spectra["wavelength"].values, spectra["flux"].values
    magnitudes = [
        [curve.ab_mag(wavelength * (1 + z[i]), luminosity[i] * scale[i]) for curve in curves]
        for i in range(z.size)
    ]
    return 3631 * 10 ** (-0.4 * np.array(magnitudes))
