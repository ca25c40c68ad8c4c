"""Spectra and stellar templates as pPXF and the linear fitter read them."""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import xarray as xr
from astropy import units as u
from scipy.special import erf

from spectool.prepare import LOWEST_REDSHIFT, add_history, spectral_coordinate
from spectool.spectra import FWHM_TO_SIGMA, KM_S, LINES
from spectool.surveys.sdss import PIXEL_VELOCITY, blur, lsf_pixels, resolving_power
from spectool.synth.grid import embedded_grid

UNKNOWN = 70.0
TEMPLATE_PIXEL = 0.9  # Angstrom: the sampling of MILES, and of the embedded grid


def line_spread(sample, wavelength):
    """Sigma of the line-spread function at rest wavelengths, from what a sample says of itself.

    (2013) at the median redshift.
    """
    if "lsf_sigma" in sample and sample["lsf_sigma"].dims == ("wavelength",):
        return np.interp(wavelength, sample["wavelength"].values, sample["lsf_sigma"].values)
    survey = str(sample.attrs.get("survey", ""))
    templates = np.full(np.shape(wavelength), np.nan)
    if "fwhm" in sample.attrs:
        templates = float(sample.attrs["fwhm"]) * FWHM_TO_SIGMA / wavelength * KM_S
    if not survey.startswith(("SDSS", "DESI")):
        return np.where(np.isnan(templates), UNKNOWN, templates)
    redshift = sample["redshift"].values if "redshift" in sample else np.zeros(1)
    typical = float(np.nanmedian(redshift)) if np.isfinite(redshift).any() else 0.0
    variance = (KM_S * FWHM_TO_SIGMA / resolving_power(wavelength * (1 + typical))) ** 2
    box = PIXEL_VELOCITY**2 / 12
    if "simulated" in survey:
        template_box = (TEMPLATE_PIXEL / wavelength * KM_S) ** 2 / 12
        variance = np.fmax(variance, templates**2 + template_box + box) + template_box
    return np.sqrt(variance + box)


# Ages [yr] and metallicities [log Z / Zsun] that span what galaxies' stars do to emission lines: with the grid's
# other 98 x 7 populations, fluxes change by less than a tenth of their error at 30 per pixel.
COMPACT_AGES = (1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 9e8, 3e9, 1e10)
COMPACT_METALLICITIES = (-0.7, 0.0, 0.4)
# Optical depths at 5500 A of the copies behind dust, and the slope of the attenuation (Charlot & Fall 2000). Dust
# between them is a sum of both: non-negative least squares needs no polynomial.
REDDENING = (0.0, 1.2)
DUST_SLOPE = -0.7


def select_populations(grid, selection="compact"):
    """Which populations of a grid serve as templates."""
    if isinstance(selection, str):
        if selection == "full":
            return np.arange(len(grid.age)), np.arange(len(grid.metallicity))
        if selection != "compact":
            raise ValueError(f"templates are 'compact', 'full' or (ages, metallicities), not {selection!r}")
        selection = (COMPACT_AGES, COMPACT_METALLICITIES)
    ages, metallicities = (np.atleast_1d(np.asarray(values, float)) for values in selection)
    if not (ages.size and metallicities.size and np.all(ages > 0)):
        raise ValueError("a selection needs at least one positive age [yr] and one metallicity")
    # Grids may hold an age of 0.
    known = np.log(np.maximum(grid.age, 1.0))
    age = np.abs(np.log(ages)[:, None] - known).argmin(1)
    metal = np.abs(metallicities[:, None] - np.log10(grid.metallicity / grid.z_sun)).argmin(1)
    return np.unique(age), np.unique(metal)


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


def template_edges(low, high, step, ratio):
    """Edges of template pixels, uniform in log wavelength, `ratio` of them per pixel of the spectra."""
    margin = int(np.ceil(1000 / KM_S / step)) * ratio
    count = int(np.ceil(np.log(high / low) / step)) * ratio + 2 * margin
    return np.exp(np.log(low) + step / ratio * (np.arange(count + 1) - margin))


def template_lsf(edges, lsf, ratio):
    """Sigma [km/s] that is left to blur into template pixels, their own width taken off."""
    pixel = np.log(edges[1] / edges[0]) * KM_S
    # Spectra on coarser pixels than their native ones were rebinned: the native pixel's width came in twice.
    own = pixel**2 / 12 if ratio == 1 else -(PIXEL_VELOCITY**2) / 12
    return np.sqrt(np.maximum(lsf**2 - own, (0.2 * pixel) ** 2))


def stellar_templates(edges, lsf, *, grid=None, selection="compact", reddening=REDDENING):
    """Populations on log pixels at a spectrum's resolution, with and without dust."""
    grid = embedded_grid() if grid is None else grid
    own = selection if isinstance(selection, str) else tuple(tuple(np.ravel(part)) for part in selection)
    key = (edges.size, float(edges[0]), float(edges[-1]), own, tuple(reddening), np.asarray(lsf).tobytes())
    kept = _CACHE.get(key)
    if kept is None or kept[0] is not grid:
        if len(_CACHE) >= _KEPT:
            _CACHE.pop(next(iter(_CACHE)))
        _CACHE[key] = kept = (grid, _build(edges, lsf, grid, selection, reddening))
    return kept[1]


_CACHE, _KEPT = {}, 4


def _build(edges, lsf, grid, selection, reddening):
    age, metal = select_populations(grid, selection)
    centres = np.sqrt(edges[1:] * edges[:-1])
    # Spectra may reach beyond the grid; there the fit uses no pixel, and the templates go on as they end.
    inside = np.flatnonzero((edges >= grid.edges[0]) & (edges <= grid.edges[-1]))
    if inside.size < 2:
        raise ValueError(
            f"wavelengths {edges[0]:.0f}-{edges[-1]:.0f} A lie beyond the grid's "
            f"{grid.edges[0]:.0f}-{grid.edges[-1]:.0f} A"
        )
    ends = (inside[0], centres.size - inside[-1])
    flux = grid.rebinned_flux(edges[inside])[np.ix_(metal, age)].reshape(-1, inside.size - 1)
    flux = np.pad(flux.astype(float), ((0, 0), ends), mode="edge")
    pixel = np.log(edges[1] / edges[0]) * KM_S
    own = grid.fwhm * FWHM_TO_SIGMA / centres * KM_S
    width = np.sqrt(np.clip(np.asarray(lsf) ** 2 - own**2, 0, None)) / pixel
    if width.max() > 0.1:
        flux = blur(flux, np.broadcast_to(width, flux.shape))
    dust = np.exp(-np.multiply.outer(np.asarray(reddening, float), (centres / 5500.0) ** DUST_SLOPE))
    flux = (flux[:, None, :] * dust).reshape(-1, centres.size)
    flux /= np.median(flux, axis=1, keepdims=True)
    flux.flags.writeable = False
    return flux


MIN_PIXELS = 60
OK, BAD_INPUT, FAILED = 0, 1, 2
_MESSAGES = {
    OK: "",
    BAD_INPUT: f"fewer than {MIN_PIXELS} good pixels",
    FAILED: "the normal equations could not be solved",
}
_NOISE_FLOOR = 1e-3  # of the median flux, where the noise has to be guessed


@dataclass(frozen=True)
class Spectra:
    """Arrays of a sample, and what had to be masked."""

    wavelength: np.ndarray
    lsf: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray | None
    mask: np.ndarray | None
    units: str
    variable: str

    @property
    def n_galaxies(self):
        """Number of spectra."""
        return len(self.flux)

    @property
    def has_ivar(self):
        """Whether the noise is known."""
        return self.ivar is not None

    def batch(self, first, last):
        """Flux and ivar as float64 Tensors, both zero in pixels that cannot be used."""
        flux = np.asarray(self.flux[first:last], dtype=float)
        bad = ~np.isfinite(flux)
        if self.mask is not None:
            bad |= self.mask[first:last]
        if self.ivar is None:
            ivar = np.broadcast_to(guess_ivar(np.where(bad, np.nan, flux))[:, None], flux.shape)
        else:
            ivar = np.asarray(self.ivar[first:last], dtype=float)
        bad |= ~np.isfinite(ivar) | ~(ivar > 0)
        return torch.from_numpy(np.where(bad, 0.0, flux)), torch.from_numpy(np.where(bad, 0.0, ivar))


def guess_ivar(flux):
    """Inverse variance of the noise, from each pixel's distance to the mean of its neighbours."""
    distance = np.abs(flux[:, 1:-1] - 0.5 * (flux[:, 2:] + flux[:, :-2]))
    seen = np.isfinite(distance).any(axis=1)
    sigma = np.zeros(len(flux))
    sigma[seen] = 1.4826 / 1.5**0.5 * np.nanmedian(distance[seen], axis=1)
    sigma[seen] = np.maximum(sigma[seen], _NOISE_FLOOR * np.nanmedian(np.abs(flux[seen]), axis=1))
    return np.divide(1.0, sigma**2, out=np.zeros_like(sigma), where=sigma > 0)


def read_spectra(sample, variable, lsf):
    """Take a sample's arrays apart and check them."""
    dims = ("galaxy", "wavelength")
    if variable not in sample:
        raise ValueError(
            f"the sample has no variable `{variable}`, only {sorted(map(str, sample.data_vars))}"
        )
    if "wavelength" not in sample.coords or sample["wavelength"].dims != ("wavelength",):
        raise ValueError(
            "lines are fitted on a common rest-frame grid (coordinate `wavelength`): use "
            "spectool.prepare.to_rest_frame and resample first"
        )
    if set(sample[variable].dims) != set(dims):
        raise ValueError(f"`{variable}` has dimensions {sample[variable].dims}, not {dims}")
    wavelength = sample["wavelength"].values.astype(float)
    lsf = line_spread(sample, wavelength) if lsf is None else np.asarray(lsf, float)
    lsf = np.broadcast_to(lsf, wavelength.shape)
    if not (np.isfinite(lsf) & (lsf >= 0)).all():
        raise ValueError("lsf, the sigma of the line-spread function [km/s], must be finite and not negative")
    arrays = {
        name: sample[name].transpose(*dims).values if name in sample else None for name in ("ivar", "mask")
    }
    return Spectra(
        wavelength=wavelength,
        lsf=lsf,
        flux=sample[variable].transpose(*dims).values,
        ivar=arrays["ivar"],
        mask=None if arrays["mask"] is None else arrays["mask"].astype(bool),
        units=sample[variable].attrs.get("units", ""),
        variable=variable,
    )


def assemble_table(sample, parts, lines, spectra, keep_fit):
    """Put the batches together as the line table."""
    result = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    status = np.where(result["failed"], FAILED, OK).astype(np.int8)
    status[result["n_good"] < MIN_PIXELS] = BAD_INPUT
    lost = status != OK
    flux_unit = u.Unit(spectra.units)
    area = (flux_unit * u.AA).to_string()
    with np.errstate(invalid="ignore", divide="ignore"):
        result["sn"] = result["flux"] / result["flux_error"]
        result["absorption_sn"] = -np.fmin(result["net_h_alpha_sn"], result["net_h_beta_sn"])
        if "broad_flux" in result:
            result["broad_sn"] = result["broad_flux"] / result["broad_error"]
    by_line = {
        "line_flux": ("flux", area),
        "line_flux_error": ("flux_error", area),
        "line_sn": ("sn", ""),
        "line_peak": ("peak", spectra.units),
        "line_peak_error": ("peak_error", spectra.units),
        "line_an": ("an", ""),
    }
    by_galaxy = {
        "gas_velocity": ("velocity", "km / s"),
        "gas_dispersion": ("dispersion", "km / s"),
        "chi2": ("chi2", ""),
        "net_h_alpha_sn": ("net_h_alpha_sn", ""),
        "net_h_beta_sn": ("net_h_beta_sn", ""),
        "balmer_absorption_sn": ("absorption_sn", ""),
        "broad_h_alpha_flux": ("broad_flux", area),
        "broad_h_alpha_sn": ("broad_sn", ""),
        "broad_h_alpha_ew": ("broad_width", "Angstrom"),
        "broad_gain": ("broad_gain", ""),
    }
    columns = {name: sample[name] for name in sample.variables if sample[name].dims == ("galaxy",)}
    table = xr.Dataset(columns, attrs=dict(sample.attrs))
    centre = [LINES[name] for name in lines]
    table = table.assign_coords(
        line=("line", list(lines)),
        line_wavelength=("line", centre, {"units": "Angstrom", "description": "vacuum"}),
    )
    for name, (key, units) in by_line.items():
        values = np.where(lost[:, None], np.nan, result[key])
        table[name] = (("galaxy", "line"), values, {"units": units})
    for name, (key, units) in by_galaxy.items():
        if key in result:
            table[name] = ("galaxy", np.where(lost, np.nan, result[key]), {"units": units})
    table["fit_status"] = ("galaxy", status, {"units": "", "description": "0 ok, 1 bad input, 2 failed"})
    table["fit_message"] = ("galaxy", np.array([_MESSAGES[int(s)] for s in status], dtype=object).astype(str))
    if keep_fit:
        table = table.assign_coords(wavelength=sample["wavelength"])
        for name in ("continuum", "line_model"):
            values = np.where(lost[:, None], np.nan, result[name]).astype(np.float32)
            table[name] = (("galaxy", "wavelength"), values, {"units": spectra.units})
    return add_history(table, _summary(table, spectra, result))


def _summary(table, spectra, result):
    """What was fitted, and what could not be, in one line."""
    status = table["fit_status"].values
    text = (
        f"lines measured in `{spectra.variable}` by linear least squares: {len(status)} spectra, "
        f"{(status == BAD_INPUT).sum()} with too few good pixels, {(status == FAILED).sum()} failed"
    )
    not_finite = int((~np.isfinite(spectra.flux)).sum())
    if not_finite:
        text += f"; {not_finite} pixels with flux not finite left out"
    missing = np.isnan(table["line_flux"].values[status == OK]).sum(axis=0)
    missed = [f"{name}: {count}" for name, count in zip(table["line"].values, missing, strict=True) if count]
    if missed:
        text += "; lines masked or out of range, " + ", ".join(missed)
    if not spectra.has_ivar:
        text += "; no ivar given: noise guessed from neighbouring pixels"
    if "adopted" in result:
        text += f"; {int(result['adopted'][status == OK].sum())} with broad Balmer lines"
    return text


@dataclass(frozen=True)
class FitSetup:
    """Templates and settings of a batch."""

    velscale: float
    ratio: int
    log_start: float
    stars: np.ndarray
    gas: np.ndarray
    stars_rfft: np.ndarray
    gas_rfft: np.ndarray
    columns: np.ndarray
    reported: np.ndarray
    balmer: np.ndarray
    degree: int = -1
    free: bool = True
    fit_stellar_velocity: bool = False
    rounds: int = 1
    rescale: bool = False
    min_star_sn: float = 100.0
    min_gas_sn: float = 5.0
    keep_fit: bool = False

    def with_options(self, **options):
        """The same templates with other settings."""
        return replace(self, **options)

    def with_plain_arrays(self):
        """The same with arrays that are no memory maps, whose every use would cost some microseconds more."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: np.asarray(v) for k, v in arrays.items() if isinstance(v, np.ndarray)})

    @property
    def size(self):
        """Length of the padded templates."""
        return 2 * (self.gas_rfft.shape[1] - 1)


def line_template(edges, wavelength, sigma):
    """A Gaussian line of flux 1, integrated over pixels."""
    cumulative = 0.5 * erf((edges - wavelength) / (wavelength * sigma / KM_S * 2**0.5))
    return np.diff(cumulative) / np.diff(edges)


def convolve(rfft, velocity, sigma, setup, shift, n_pixels):
    """Templates at given kinematics on a spectrum's pixels, as pPXF does it (Cappellari 2017, eq. 38)."""
    frequency = np.linspace(0, np.pi * setup.ratio, rfft.shape[1])
    phase = (shift + velocity / setup.velscale) * frequency
    losvd = np.exp(-1j * phase - 0.5 * (sigma / setup.velscale * frequency) ** 2)
    fine = np.fft.irfft(rfft * losvd, setup.size, axis=1)[:, : n_pixels * setup.ratio]
    # Strided sums are several times quicker than a mean over so short an axis.
    return sum(fine[:, k :: setup.ratio] for k in range(setup.ratio)) / setup.ratio


TEMPLATE_FWHM = 2.5  # Angstrom, of the embedded grid (MILES)
_UNIFORM = 0.02  # share of a pixel by which steps in log wavelength may differ


@dataclass(frozen=True)
class PpxfSpectra:
    """Arrays of a sample and what they mean."""

    flux: np.ndarray
    noise: np.ndarray
    log_first: np.ndarray
    step: float
    lsf_wavelength: np.ndarray
    lsf: np.ndarray
    coordinate: xr.DataArray
    units: str
    variable: str
    has_ivar: bool
    n_not_finite: int

    @property
    def n_galaxies(self):
        """Number of spectra."""
        return len(self.flux)

    @property
    def n_pixels(self):
        """Pixels of each."""
        return self.flux.shape[1]

    @property
    def velscale(self):
        """km/s per pixel."""
        return float(self.step * KM_S)

    @property
    def reach(self):
        """Shortest and longest rest wavelength [Angstrom]."""
        return float(np.exp(self.log_first.min())), float(
            np.exp(self.log_first.max() + self.step * (self.n_pixels - 1))
        )

    def arrays(self):
        """What a checkpoint has to match."""
        return self.flux, self.noise, self.log_first

    def one(self, k):
        """Flux, noise and ln of the first wavelength of one spectrum."""
        return self.flux[k].astype(float), self.noise[k].astype(float), float(self.log_first[k])

    def lsf_at(self, wavelength):
        """Sigma of the line-spread function [km/s] at rest wavelengths [Angstrom]."""
        return np.interp(wavelength, self.lsf_wavelength, self.lsf)


def read_ppxf_spectra(sample, variable, lsf, fit_range, grid=None):
    """Take a sample apart and check it."""
    dims = ("galaxy", "wavelength")
    if variable not in sample:
        raise ValueError(
            f"the sample has no variable `{variable}`, only {sorted(map(str, sample.data_vars))}"
        )
    if set(sample[variable].dims) != set(dims):
        raise ValueError(f"`{variable}` has dimensions {sample[variable].dims}, not {dims}")
    if sample.sizes["galaxy"] == 0:
        raise ValueError("the sample holds no galaxy")
    flux = sample[variable].transpose(*dims).values
    noise, has_ivar = _noise(sample, variable, flux)
    wavelength, rest = spectral_coordinate(sample)
    stretch = np.ones(len(flux))
    if not rest:
        stretch, flux, noise = _to_rest(sample, flux, noise)
    log_first, step = _log_pixels(wavelength if wavelength.ndim == 2 else wavelength[None])
    if not (rest and wavelength.ndim == 1):
        log_first = np.broadcast_to(log_first, len(flux)) - np.log(stretch)
    # One row for a common grid, which tens of thousands of spectra share.
    pixel = np.exp(log_first[:, None] + step * np.arange(flux.shape[1]))
    noise[np.broadcast_to((pixel < fit_range[0]) | (pixel > fit_range[1]), noise.shape)] = 0.0
    typical = np.median(pixel, axis=0)
    coordinate = sample["wavelength"] if rest and wavelength.ndim == 1 else None
    if coordinate is None:
        attrs = {"units": "Angstrom", "description": "vacuum, rest frame"}
        coordinate = xr.DataArray(pixel, dims=dims, name="rest_wavelength", attrs=attrs)
    return PpxfSpectra(
        flux=flux,
        noise=noise,
        log_first=np.broadcast_to(log_first, len(flux)),
        step=step,
        lsf_wavelength=typical,
        lsf=_lsf(sample, lsf, typical, grid),
        coordinate=coordinate,
        units=sample[variable].attrs.get("units", ""),
        variable=variable,
        has_ivar=has_ivar,
        n_not_finite=int((~np.isfinite(flux)).sum()),
    )


def _noise(sample, variable, flux):
    """Noise per pixel, 0 where it cannot be used, and whether it is known."""
    dims = ("galaxy", "wavelength")
    good = np.isfinite(flux)
    if "mask" in sample:
        good &= ~sample["mask"].transpose(*dims).values.astype(bool)
    added = sample[f"{variable}_sigma"].transpose(*dims).values if f"{variable}_sigma" in sample else None
    has_ivar = "ivar" in sample or added is not None
    variance = np.zeros(flux.shape)
    if "ivar" in sample:
        ivar = sample["ivar"].transpose(*dims).values.astype(float)
        good &= np.isfinite(ivar) & (ivar > 0)
        variance = np.divide(1.0, ivar, out=variance, where=good)
    if added is not None:
        scale = sample[f"{variable}_scale"].values if f"{variable}_scale" in sample else np.ones(len(flux))
        variance = variance * scale[:, None] ** 2 + added.astype(float) ** 2
    if not has_ivar:
        ivar = guess_ivar(np.where(good, flux, np.nan).astype(float))[:, None]
        variance = np.divide(1.0, ivar, out=np.zeros_like(ivar), where=ivar > 0) + variance
    good &= np.isfinite(variance) & (variance > 0)
    return np.sqrt(np.where(good, variance, 0.0), dtype=np.float32), has_ivar


def _to_rest(sample, flux, noise):
    """Flux densities in the rest frame; a spectrum without a redshift keeps no pixel."""
    if "redshift" not in sample:
        raise ValueError("the redshift is unknown: give the column `redshift`, or spectra in the rest frame")
    redshift = sample["redshift"].values.astype(float)
    known = np.isfinite(redshift) & (redshift >= LOWEST_REDSHIFT)
    stretch = np.where(known, 1 + redshift, 1.0)
    return stretch, flux * stretch[:, None], np.where(known[:, None], noise * stretch[:, None], 0.0)


def _log_pixels(centres):
    """ln of the first wavelength of each row, and the common step."""
    if centres.shape[1] < 60 or not (np.isfinite(centres).all() and (centres > 0).all()):
        raise ValueError("wavelengths must be finite and positive, 60 pixels at least")
    log = np.log(centres)
    steps = np.diff(log, axis=1)
    step = float(np.median((log[:, -1] - log[:, 0]) / (log.shape[1] - 1)))
    worst = np.abs(steps / step - 1).max() if step > 0 else np.inf
    if worst > _UNIFORM:
        raise ValueError(
            "pPXF takes pixels uniform in log wavelength, but steps differ by "
            f"{worst:.1%}: resample with spectool.prepare.resample first"
        )
    return log.mean(axis=1) - step * (log.shape[1] - 1) / 2, step


def _lsf(sample, lsf, rest, grid):
    """Sigma of the line-spread function [km/s] at the typical rest wavelengths of the pixels."""
    if lsf is not None:
        lsf = np.broadcast_to(np.asarray(lsf, float), rest.shape)
        if not (np.isfinite(lsf) & (lsf >= 0)).all():
            raise ValueError("lsf, the sigma of the line-spread function [km/s], must be finite and >= 0")
        return lsf
    survey = str(sample.attrs.get("survey", ""))
    fwhm = TEMPLATE_FWHM if grid is None else grid.fwhm
    templates = fwhm * FWHM_TO_SIGMA / rest * KM_S
    if "lsf_sigma" in sample and sample["lsf_sigma"].dims == ("wavelength",):
        known = sample["lsf_sigma"].values.astype(float)
    elif survey.startswith(("SDSS", "DESI")):
        redshift = sample["redshift"].values if "redshift" in sample else np.zeros(1)
        # Rounded, so that a part of a sample is fitted like the whole.
        typical = np.round(np.nanmedian(redshift), 2) if np.isfinite(redshift).any() else 0.0
        known = lsf_pixels(rest * (1 + typical)) * PIXEL_VELOCITY
    else:
        return templates
    if "simulated" not in survey:
        return known
    # Simulated spectra are nowhere sharper than what they are made of: templates, on their pixels, on SDSS's.
    pixels = (TEMPLATE_PIXEL / rest * KM_S) ** 2 / 12 + PIXEL_VELOCITY**2 / 12
    return np.maximum(known, np.sqrt(templates**2 + pixels))
