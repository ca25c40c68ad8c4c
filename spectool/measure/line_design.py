"""Design of the line fits: which lines, their ties, profiles, windows and templates."""

from dataclasses import dataclass, replace
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import torch
import xarray as xr
from numpy.polynomial import legendre
from scipy.special import erf
from threadpoolctl import threadpool_limits

from spectool.spectra import FWHM_TO_SIGMA, KM_S, LINES, PIXEL_VELOCITY
from spectool.surveys.spectrograph import blur
from spectool.synth.grid import embedded_grid
from spectool.synth.synthesis import synthesize

MEASURED = ("[O II] 3726", "[O II] 3729", "Hδ", "Hγ", "[O III] 4363", "Hβ", "[O III] 4959", "[O III] 5007")
MEASURED += ("[O I]", "[N II] 6548", "Hα", "[N II] 6583", "[S II] 6716", "[S II] 6731")

# Stronger member: (weaker member, its strength relative to the stronger one). Storey & Zeippen (2000, MNRAS 312, 813).
DOUBLETS = {"[O III] 5007": ("[O III] 4959", 1 / 2.98), "[N II] 6583": ("[N II] 6548", 1 / 3.05)}

# Lines that are fitted so that they do not disturb, and not reported: (vacuum wavelength [Angstrom], strength) of
# those that go together. Balmer: case B at 10,000 K (Osterbrock & Ferland 2006, Table 4.4); NIST.
NUISANCE = (
    ((3751.22, 0.77), (3771.70, 1.0)),
    ((3798.98, 0.73), (3836.47, 1.0)),
    ((3889.75, 1.0), (3890.16, 1.0)),
    ((3869.86, 1.0), (3968.59, 0.303)),
    ((3971.20, 1.0),),
    ((4069.75, 1.0), (4077.50, 0.33)),
    ((4472.73, 1.0),),
    ((4687.02, 1.0),),
    ((5201.70, 1.0),),
    ((5756.19, 1.0),),
    ((5877.25, 1.0),),
    ((6313.81, 1.0),),
    ((6365.54, 1.0),),
    ((6679.99, 1.0),),
    ((7067.17, 1.0),),
    ((7137.77, 1.0), (7753.24, 0.241)),
    ((7325.0, 1.0), (7334.0, 0.81)),
)
STRONG = ("[O II] 3726", "[O II] 3729", "Hβ", "[O III] 4959", "[O III] 5007")
STRONG += ("[N II] 6548", "Hα", "[N II] 6583", "[S II] 6716", "[S II] 6731")


def choose_lines(lines, ties, *, always=(), inside=(0.0, np.inf)):
    """Wavelength, strength and amplitude's column of all lines, nuisance ones `inside` too; rows of those asked for."""
    unknown = [name for name in lines if name not in LINES]
    if unknown:
        raise ValueError(f"no line {unknown[0]!r}; spectool.spectra.LINES has {', '.join(LINES)}")
    if not len(lines) or len(set(lines)) < len(lines):
        raise ValueError("name at least one line, and each line once")
    names = list(dict.fromkeys([*lines, *always]))
    owner = {weak: (strong, share) for strong, (weak, share) in ties.items() if strong in names}
    names += [weak for weak in owner if weak not in names]
    chained = [strong for strong, _ in owner.values() if strong in owner]
    if chained:
        raise ValueError(f"{chained[0]} is tied to a stronger line: it cannot have a weaker one tied to it")
    free = {name: k for k, name in enumerate(n for n in names if n not in owner)}
    members = [(LINES[n], owner.get(n, (n, 1.0))[1], free[owner.get(n, (n, 1.0))[0]]) for n in names]
    taken, count = np.array([LINES[n] for n in names]), len(free)
    for group in NUISANCE:
        seen = any(inside[0] < centre < inside[1] for centre, _ in group)
        if seen and all(np.abs(taken - centre).min() > 1.0 for centre, _ in group):
            members += [(centre, share, count) for centre, share in group]
            count += 1
    wavelength, ratio, column = (np.array(part) for part in zip(*members, strict=True))
    return wavelength, ratio, column.astype(int), np.array([names.index(n) for n in lines])


def gaussian_on_pixels(edges, centre, sigma):
    """A line of flux 1, averaged over pixels; sigma in Angstrom."""
    return 0.5 * np.diff(erf((edges - centre) / (sigma * 2**0.5))) / np.diff(edges)


def build_design(lines, wavelength, edges, lsf, reach, *, doublets=DOUBLETS):
    """The lines (members) of a fit, the columns that they share, and each one's window of ``width`` pixels."""
    centre, ratio, column, reported = choose_lines(lines, doublets, inside=(edges[0], edges[-1]))
    step = np.diff(np.log(edges))
    low, high = (np.searchsorted(edges, centre * (1 + side * reach / KM_S)) for side in (-1, 1))
    width = int((high - low).max()) + 2
    before = edges[0] * np.exp(-step[0] * np.arange(width, 0, -1))
    after = edges[-1] * np.exp(step[-1] * np.arange(1, width + 1))
    padded = np.concatenate([before, edges, after])
    start = np.searchsorted(padded, centre * (1 - reach / KM_S)) - 1
    # A line beyond the pixels gets a window of padding: nothing is seen of it.
    start = np.clip(start, 0, padded.size - 1 - width)
    return SimpleNamespace(
        wavelength=centre,
        ratio=ratio,
        column=column,
        reported=reported,
        start=start,
        width=width,
        edges=padded,
        lsf=np.interp(centre, wavelength, lsf),
    )


def profiles(design, velocity, dispersion):
    """Gaussians of unit flux, averaged over the pixels of their windows."""
    offset, _, _, width = _offsets(design, velocity, dispersion, np.arange(len(design.start)))
    return torch.diff(torch.erf(offset * 0.5**0.5), dim=-1) * (0.5 / width)


def profile_slopes(design, velocity, dispersion, members):
    """Derivatives of `profiles` with respect to velocity and to the natural log of the dispersion."""
    offset, sigma, scale, width = _offsets(design, velocity, dispersion, members)
    height = torch.exp(-0.5 * offset**2) / ((2 * torch.pi) ** 0.5 * sigma)
    by_centre = -torch.diff(height, dim=-1) / width
    by_sigma = -torch.diff(offset * height, dim=-1) / width
    by_log_dispersion = by_sigma * (scale * dispersion[:, None, None]) ** 2 / sigma
    return torch.stack([by_centre * scale, by_log_dispersion], dim=1)


def _offsets(design, velocity, dispersion, members):
    """Pixel edges from the line in units of sigma, sigma [A], Angstrom per km/s, and pixel widths [A]."""
    edges = torch.from_numpy(design.edges[design.start[members, None] + np.arange(design.width + 1)])
    scale = torch.from_numpy(design.wavelength[members] / KM_S)[:, None]
    lsf = torch.from_numpy(design.lsf[members])[:, None]
    sigma = scale * torch.sqrt(dispersion[:, None, None] ** 2 + lsf**2)
    offset = (edges - scale * (KM_S + velocity[:, None, None])) / sigma
    return offset, sigma, scale, torch.diff(edges, dim=-1)


@dataclass(frozen=True)
class ContinuumTemplates:
    """Continua as amplitude * (mean + sum of coefficients * vectors), with the spread that coefficients have."""

    vectors: np.ndarray
    spread: np.ndarray


_N_MIXES, _SEED = 3000, 1
_DISPERSIONS = (30.0, 350.0)  # km/s
_CALIBRATION = 0.1  # spread of the polynomials' coefficients
_WIDENING = 2.0  # of the components' spread over that of the mixes
_NODES = np.array([6.0, 7.0, 8.0, 8.7, 9.3, 9.7, 10.2])  # log age [yr]


def continuum_templates(wavelength, *, grid=None, n_components=25, degree=8):
    """Principal components of random mixes of stellar populations, and polynomials for the calibration."""
    wavelength = np.asarray(wavelength, float)
    if grid is None:
        return _embedded_templates(wavelength.tobytes(), n_components, degree)
    mixes = _draw_mixes(grid, wavelength)
    with threadpool_limits(1):
        from sklearn.decomposition import PCA  # only where something is fitted

        pca = PCA(n_components, svd_solver="randomized", random_state=_SEED).fit(mixes)
    mean = pca.mean_.astype(float)
    x = np.log(wavelength / wavelength[0]) / np.log(wavelength[-1] / wavelength[0])
    series = [legendre.legval(2 * x - 1, row) for row in np.eye(degree + 1)[1:]]
    polynomials = mean * np.array(series).reshape(degree, wavelength.size)
    spread = [[np.inf], _WIDENING * np.sqrt(pca.explained_variance_), np.full(degree, _CALIBRATION)]
    return ContinuumTemplates(
        vectors=np.concatenate([mean[None], pca.components_.astype(float), polynomials]),
        spread=np.concatenate(spread),
    )


@lru_cache(maxsize=4)
def _embedded_templates(pixels, n_components, degree):
    wavelength = np.frombuffer(pixels)
    return continuum_templates(wavelength, grid=embedded_grid(), n_components=n_components, degree=degree)


def _draw_mixes(grid, wavelength):
    """Continua of random galaxies, each with mean flux 1, shape (n, pixel)."""
    n, rng = _N_MIXES, np.random.default_rng(_SEED)
    galaxies = xr.Dataset(
        {
            "mass_formed": (("galaxy", "age"), _draw_histories(grid, n, rng)),
            "log_z_star": ("galaxy", rng.uniform(-1.7, 0.39, n)),
            "log_z_gas": ("galaxy", rng.uniform(-1.0, 0.1, n)),
            "log_u": ("galaxy", rng.uniform(-3.7, -2.3, n)),
            "dust2": ("galaxy", 10 ** rng.uniform(-2.0, 0.4, n)),
            "dust_index": ("galaxy", rng.uniform(-1.3, -0.4, n)),
            "velocity_dispersion": ("galaxy", rng.uniform(*_DISPERSIONS, n)),
        }
    )
    galaxies["dust1"] = galaxies["dust2"] * rng.uniform(0.0, 2.0, n)
    nebular = grid.nebular is not None
    if nebular:
        dark = replace(grid.nebular, line_luminosity=np.zeros_like(grid.nebular.line_luminosity))
        grid = replace(grid, nebular=dark)
    ends = (wavelength[0], wavelength[-1])
    options = {"wavelength": wavelength, "nebular": nebular, "label_range": ends, "progress": False}
    flux = synthesize(galaxies, grid, **options)["flux"].values
    return flux / flux.mean(axis=1, keepdims=True)


def _draw_histories(grid, n, rng):
    """Mass formed in the grid's age bins, shape (n, age): wandering rates, some cut off."""
    steps = rng.standard_normal((n, _NODES.size))
    rate = np.cumsum(np.where(np.arange(_NODES.size) == 0, 0.5, 0.7) * steps, axis=1)
    rate += rng.normal(0.0, 0.6, (n, 1)) * (_NODES - _NODES.mean())
    log_age = np.log10(np.maximum(grid.age, 1e5))
    place = np.clip(np.interp(log_age, _NODES, np.arange(_NODES.size)), 0, _NODES.size - 1)
    low = np.minimum(place.astype(int), _NODES.size - 2)
    log_rate = rate[:, low] * (1 - (place - low)) + rate[:, low + 1] * (place - low)
    cut = np.where(rng.random(n) < 0.35, rng.uniform(7.5, 9.9, n), 0.0)
    depth = rng.uniform(1.0, 5.0, n)
    log_rate -= np.where(log_age < cut[:, None], depth[:, None], 0.0)
    return 10.0**log_rate * np.diff(grid.age_edges)


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


FINE = 75.0  # km/s: template pixels are at most so wide


def template_pixels(spectra):
    """Template pixels per pixel of the spectra, their edges, sigma [km/s] to blur, ln of the first wavelength."""
    (low, high), step = spectra.reach, spectra.step
    ratio = int(np.ceil(spectra.velscale / FINE))
    margin = int(np.ceil(1000 / KM_S / step)) * ratio
    count = int(np.ceil(np.log(high / low) / step)) * ratio + 2 * margin
    edges = np.exp(np.log(low) + step / ratio * (np.arange(count + 1) - margin))
    centres = np.sqrt(edges[1:] * edges[:-1])
    pixel = np.log(edges[1] / edges[0]) * KM_S
    # Spectra on coarser pixels than their native ones were rebinned: the native pixel's width came in twice.
    own = pixel**2 / 12 if ratio == 1 else -(PIXEL_VELOCITY**2) / 12
    lsf = np.sqrt(np.maximum(spectra.lsf_at(centres) ** 2 - own, (0.2 * pixel) ** 2))
    return ratio, edges, lsf, float(np.log(np.mean(centres[:ratio])))


def stellar_templates(edges, lsf, grid, *, selection="compact", reddening=REDDENING):
    """Populations on log pixels at a spectrum's resolution, with and without dust."""
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


def require_ppxf():
    """Raise a helpful ImportError if pPXF is missing."""
    try:
        import ppxf.ppxf  # noqa: F401
    except ImportError as error:
        raise ImportError("these fits need the package ppxf (pip install 'ppxf>=9.4')") from error
