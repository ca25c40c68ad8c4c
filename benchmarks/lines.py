"""Emission-line fits per second, beside pPXF as its own SDSS population example sets it up."""

import contextlib
import io
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.row import make_row, seconds
from spectool.measure.line_design import MEASURED, REDDENING, select_populations
from spectool.measure.line_spectra import read_spectra
from spectool.measure.lines_ppxf import FIT_RANGE as FIT_RANGE_825
from spectool.measure.lines_ppxf import GAS_LIMITS, STAR_LIMITS, fit_lines, make_setup
from spectool.papers.scourfield2023.sample import rebuild
from spectool.parallel import n_workers
from spectool.prepare import mask_bad_pixels
from spectool.spectra import KM_S
from spectool.surveys.spectrograph import observe_sdss
from spectool.synth.grid import embedded_grid
from spectool.synth.population import draw_population
from spectool.synth.synthesis import synthesize

# pPXF's names of lines that it fits one by one
PEER_LINES = {
    "Hδ": "Hdelta",
    "Hγ": "Hgamma",
    "Hβ": "Hbeta",
    "[O III] 5007": "[OIII]5007_d",
    "Hα": "Halpha",
    "[N II] 6583": "[NII]6583_d",
    "[S II] 6716": "[SII]6716",
    "[S II] 6731": "[SII]6731",
}
# pPXF's doublets have one flux: that of the stronger line and 0.33 of it.
PEER_DOUBLET = 1.33
# As many populations as the example's library has: 25 ages and 6 metallicities.
PEER_TEMPLATES = (np.logspace(6, 10.15, 25), (-1.7, -0.7, -0.4, 0.0, 0.4, 0.7))
FIT_RANGE = (3600.0, 7400.0)
N_PEER, N_OURS, N_RATE = 6, 36, 1536
SEED = 20
MIN_SN = 5.0


def draw_sdss(n):
    """Star-forming galaxies as SDSS sees them, on its own pixels."""
    grid = embedded_grid()
    drawn = draw_population(6 * n, grid_age=grid.age, seed=SEED, redshift_range=(0.024, 0.05))
    forming = np.flatnonzero(drawn["log_sfr"].values - drawn["log_mass"].values > -10.8)[:n]
    inside = (grid.wavelength > 3400) & (grid.wavelength < 8700)
    galaxies = synthesize(
        drawn.isel(galaxy=forming), grid, wavelength=grid.wavelength[inside], progress=False
    )
    return mask_bad_pixels(observe_sdss(galaxies, seed=SEED))


def write_ppxf_templates(grid, path, *, selection="full", wavelength_range=(3000.0, 9800.0)):
    """Write a grid as a file that ``ppxf.sps_util.sps_lib`` reads."""
    age, metal = select_populations(grid, selection)
    inside = (grid.wavelength >= wavelength_range[0]) & (grid.wavelength <= wavelength_range[1])
    if not inside.any():
        raise ValueError(f"the grid has no pixel within {wavelength_range[0]:g}-{wavelength_range[1]:g} A")
    flux = grid.flux[np.ix_(metal, age, inside)]
    np.savez_compressed(
        path,
        templates=flux.transpose(2, 1, 0).astype(float),
        lam=grid.wavelength[inside],
        ages=np.maximum(grid.age[age], 1.0) / 1e9,
        metals=np.log10(grid.metallicity[metal] / grid.z_sun),
        masses=grid.surviving_mass[np.ix_(metal, age)].T.astype(float),
        # sps_lib wants one value per wavelength, whatever its docstring says.
        fwhm=np.full(inside.sum(), float(grid.fwhm)),
    )


class Example:
    """pPXF with the settings of its ``ppxf_example_population_gas_sdss``."""

    def __init__(self, sample):
        self.sample = sample
        self.wavelength = sample["observed_wavelength"].values
        self.velscale = KM_S * np.log(self.wavelength[-1] / self.wavelength[0]) / (self.wavelength.size - 1)
        redshift = float(sample["redshift"].median())
        sigma = np.broadcast_to(sample["lsf_sigma"].values, self.wavelength.shape)
        fwhm = 2.355 * sigma / KM_S * self.wavelength / (1 + redshift)
        self.resolution = {"lam": self.wavelength / (1 + redshift), "fwhm": fwhm}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "spectra_bc03_miles.npz"
            write_ppxf_templates(embedded_grid(), file, selection=PEER_TEMPLATES)
            self.library = self._read(file)

    def _read(self, file):
        from ppxf import sps_util

        return sps_util.sps_lib(file, self.velscale, self.resolution, norm_range=[5070, 5950])

    def fit(self, k):
        """Fluxes of `PEER_LINES` in one spectrum, in its unit times Angstrom."""
        from ppxf import ppxf_util
        from ppxf.ppxf import ppxf

        one = self.sample.isel(galaxy=k)
        stretch = 1 + float(one["redshift"])
        rest = self.wavelength / stretch
        ivar, bad = one["ivar"].values, one["mask"].values
        inside = (rest > FIT_RANGE[0]) & (rest < FIT_RANGE[1]) & ~bad & (ivar > 0)
        part = slice(*(np.flatnonzero(inside)[[0, -1]] + [0, 1]))
        rest, flux, ivar, inside = (
            rest[part],
            one["flux"].values[part].astype(float),
            ivar[part],
            inside[part],
        )
        norm = np.median(flux[inside])
        noise = np.divide(1 / norm, np.sqrt(ivar), out=np.ones(ivar.size), where=inside)
        stars = self.library.templates.reshape(len(self.library.lam_temp), -1)
        with contextlib.redirect_stdout(io.StringIO()):
            gas, names, waves = ppxf_util.emission_lines(
                self.library.ln_lam_temp, rest[[0, -1]], self.resolution, vacuum=True
            )
            forbidden = np.array(["[" in name for name in names])
            component = np.concatenate([np.zeros(stars.shape[1], int), 1 + forbidden])
            fit = ppxf(
                np.column_stack([stars, gas]),
                flux / norm,
                noise,
                self.velscale,
                [[0.0, 180.0]] * 3,
                moments=[4, 2, 2],
                degree=-1,
                mdegree=10,
                lam=rest,
                lam_temp=self.library.lam_temp,
                regul=100,
                reg_dim=self.library.templates.shape[1:],
                component=component,
                gas_component=component > 0,
                gas_names=names,
                goodpixels=np.flatnonzero(inside),
                quiet=True,
            )
        width = dict(zip(names, waves * self.velscale / KM_S, strict=True))
        flux = dict(zip(names, fit.gas_flux * norm * stretch, strict=True))
        share = {name: 1 / PEER_DOUBLET if name.endswith("_d") else 1.0 for name in names}
        return [flux[name] * width[name] * share[name] for name in PEER_LINES.values()]


def require_equal_fluxes(ours, theirs, errors):
    """Raise unless fluxes agree: 2% in the median, or 0.3 of their errors."""
    strong = (ours > MIN_SN * errors) & np.isfinite(theirs)
    if strong.sum() < 10:
        raise ValueError(f"only {strong.sum()} lines are strong enough to compare")
    difference = np.abs(ours - theirs)[strong]
    relative, in_errors = np.median(difference / ours[strong]), np.median(difference / errors[strong])
    if not (relative < 0.02 or in_errors < 0.3):
        raise ValueError(f"fluxes differ from the peer's by {relative:.1%}, {in_errors:.2f} of their errors")
    return relative, in_errors


def against_example():
    """Milliseconds per spectrum on one core and SDSS's own pixels, beside the example's settings."""
    sample = draw_sdss(N_OURS)
    few = sample.isel(galaxy=slice(N_PEER))
    lines = tuple(PEER_LINES)

    def ours():
        return fit_lines(sample, lines=lines, fit_range=FIT_RANGE, n_workers=1, progress=False)

    with threadpool_limits(1):
        example = Example(few)
        fit_lines(few, lines=lines, fit_range=FIT_RANGE, n_workers=1, progress=False)
        begin = time.perf_counter()
        theirs = np.array([example.fit(k) for k in range(N_PEER)])
        peer_time = (time.perf_counter() - begin) / N_PEER
        begin = time.perf_counter()
        table = ours()
        time_of_ours = (time.perf_counter() - begin) / N_OURS
    mine = table.isel(galaxy=slice(N_PEER))
    require_equal_fluxes(mine["line_flux"].values, theirs, mine["line_flux_error"].values)
    peer = f"ppxf {version('ppxf')}, settings of its SDSS population example, 150 templates"
    return make_row(
        "line_fits_vs_ppxf_example", 1e3 * time_of_ours, "ms", peer, 1e3 * peer_time, higher_is_better=False
    )


def fit_plainly(setup, flux, noise, log_first, lines):
    """Fluxes of lines when pPXF itself loops over all templates, stars and gas free: what `fit_lines` abbreviates."""
    from ppxf.ppxf import ppxf

    n_stars, n_columns = len(setup.stars), setup.columns.shape[1]
    good = np.flatnonzero(noise > 0)
    level = np.median(flux[good])
    fit = ppxf(
        np.concatenate([setup.stars, setup.columns.T @ setup.gas]).T,
        flux / level,
        np.where(noise > 0, noise, np.median(noise[good])) / level,
        setup.velscale,
        [[0.0, 130.0], [0.0, 100.0]],
        bounds=[[[-400, 400], list(STAR_LIMITS)], [[-400, 400], list(GAS_LIMITS)]],
        fixed=[[not setup.fit_stellar_velocity, False], [False, False]],
        moments=2,
        degree=-1,
        component=np.repeat([0, 1], [n_stars, n_columns]),
        goodpixels=good,
        vsyst=(setup.log_start - log_first) * KM_S,
        velscale_ratio=setup.ratio,
        quiet=True,
    )
    return level * (setup.columns @ fit.weights[n_stars:])[setup.reported[lines]]


def fits_per_second():
    """Spectra of 825 bins per second on all workers, beside pPXF's own loop over the same templates on as many."""
    sample = rebuild(np.arange(N_RATE), keep_truth=False)
    fit_lines(sample.isel(galaxy=slice(8)), n_workers=1, progress=False)
    table = {}

    def ours():
        table["lines"] = fit_lines(sample, broad=False, progress=False)

    rate = N_RATE / seconds(ours)
    table = table["lines"]
    strong = np.flatnonzero(table["line_sn"].sel(line="Hα").values > 20)[:N_PEER]
    spectra = read_spectra(sample, "flux", fit_range=FIT_RANGE_825)
    setup = make_setup(spectra, MEASURED, None, False, embedded_grid(), "compact", REDDENING)
    wanted = np.array([MEASURED.index(name) for name in PEER_LINES])
    with threadpool_limits(1):
        begin = time.perf_counter()
        theirs = np.array([fit_plainly(setup, *spectra.at_rest(k), wanted) for k in strong])
        peer_rate = n_workers() * len(strong) / (time.perf_counter() - begin)
    mine = table.isel(galaxy=strong, line=wanted)
    require_equal_fluxes(mine["line_flux"].values, theirs, mine["line_flux_error"].values)
    peer = f"ppxf {version('ppxf')} on the same templates, one process, times {n_workers()} workers"
    return make_row("line_fits_per_second", rate, "spectra/s", peer, peer_rate, higher_is_better=True)
