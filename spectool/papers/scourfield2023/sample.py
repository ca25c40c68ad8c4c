"""The sample of Scourfield et al. (2023): its mock galaxies and real ones, their normalisation and their noise."""

import hashlib
import json
from pathlib import Path

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from spectool import __version__, prepare
from spectool.broaden import fill_bad
from spectool.io import DATA, load_product, read_or_make
from spectool.measure.classes import BPT_LINES, CLASSES, kewley2001, log_ratio
from spectool.papers import as_columns, candidates
from spectool.prepare import add_history
from spectool.spectra import pixel_edges, rebin_common
from spectool.surveys.archive import fetch_usable, join_spectra, query_catalogue
from spectool.surveys.spectrograph import luminosity_to_flux, observe_sdss, sdss_wavelength
from spectool.synth.grid import embedded_grid

SEED = 2023
REDSHIFT_RANGE = (0.024, 0.05)
FIRST_PIXEL = 3800.0
"""Observed wavelength [Angstrom] where SDSS spectra begin: bluer pixels are masked (the bluest at z < 0.027)."""
_OBSERVED = (3770.0, 8330.0)
_REST = (3640.0, 8020.0)
N_PIXELS = 825
RANGE = (3700.0, 7900.0)
SIGMA = 0.04
TEST_NOISE_SEED = 20230825
MIN_FRACTION = 0.9
CALIBRATED = ", calibrated errors"


def rest_wavelength():
    """Pixel centres of the paper [Angstrom], (825,): logarithmic bins of 276 km/s between 3700 and 7900 Angstrom."""
    step = np.log(RANGE[1] / RANGE[0]) / N_PIXELS
    return RANGE[0] * np.exp(step * (np.arange(N_PIXELS) + 0.5))


def draw_block(block, *, seed=SEED, metallicity_sfr=True):
    """The 4096 candidates of one block: population, nuclei and fibre fractions."""
    population = {"redshift_range": REDSHIFT_RANGE, "metallicity_sfr": metallicity_sfr}
    return candidates.draw_numbered(block, seed=seed, grid=embedded_grid(), **population)


def observe_candidates(galaxies, *, seed=SEED):
    """Synthesize candidates and see them as SDSS does, at rest on the paper's 825 bins."""
    grid = embedded_grid()
    native = grid.wavelength[(grid.wavelength > _REST[0]) & (grid.wavelength < _REST[1])]
    rest = candidates.synthesize_candidates(galaxies, grid, native)
    redshift, share = galaxies["redshift"].values, galaxies["fibre_fraction"].values
    numbers = galaxies["candidate"].values
    seeds = np.stack([np.full_like(numbers, seed), np.full_like(numbers, candidates.NOISE), numbers], axis=1)
    options = {"wavelength": sdss_wavelength(*_OBSERVED), "fibre_fraction": share, "keep_truth": True}
    seen = observe_sdss(rest, seed=seeds, **options)
    bins, pixels = rest_wavelength(), ("galaxy", "wavelength")
    stretch = 1 + redshift[:, None]
    observed = seen["observed_wavelength"].values
    truth, _ = rebin_common(seen["truth"].values, pixel_edges(observed), pixel_edges(bins) * stretch)
    mask = seen["mask"].values | (observed < FIRST_PIXEL)
    seen = seen.drop_vars(["truth", "mass_formed", "age"]).drop_dims("line")
    out = prepare.resample(prepare.to_rest_frame(seen.assign(mask=(pixels, mask, seen["mask"].attrs))), bins)
    about = {"units": out["flux"].attrs["units"], "long_name": "flux without noise"}
    out["truth"] = (pixels, (truth * stretch).astype("f4"), about)
    to_flux = luminosity_to_flux(redshift) * (1 + redshift) * share
    return out.assign(true_line_flux=candidates.true_line_flux(rest, candidates.TRUE_LINES, to_flux))


def rebuild(ids, *, seed=SEED, progress=False, keep_truth=True, metallicity_sfr=True, batch_size=512):
    """Candidates by their numbers, in the order asked for: each the same whichever others are asked for with it.

    Parameters
    ----------
    ids : array_like of int
        block * 4096 + row; ValueError if there is none or one is negative.
    metallicity_sfr : bool
        With False, the candidates of the null test (other galaxies under the same numbers).

    Returns
    -------
    Dataset
        On the paper's bins, at rest (a line's flux is the observed one): ``flux`` [1e-17 erg/s/cm2/A], ``ivar``,
        ``mask``, ``truth`` (without noise, through the same optics; not masked), ``true_line_flux`` (galaxy, line)
        [1e-17 erg/s/cm2] in the fibre, after dust; ``candidate``, ``fibre_fraction``, ``r_magnitude``,
        ``population_class``, ``agn_*`` and the columns of `draw_population` and `synthesize`.
    """

    def draw(block):
        return draw_block(block, seed=seed, metallicity_sfr=metallicity_sfr)

    def observe(galaxies):
        seen = observe_candidates(galaxies, seed=seed)
        return seen if keep_truth else seen.drop_vars("truth")

    whole = candidates.rebuild_numbers(ids, draw, observe, progress=progress, batch_size=batch_size)
    text = f"{whole.sizes['galaxy']} candidates rebuilt (seed {seed}), {whole['mask'].values.mean():.2%} of the pixels"
    return add_history(whole.assign_attrs(seed=seed), f"{text} masked")


def total_variance(flux):
    """Summed variance over galaxies of all pixels (galaxy, wavelength), which a PCA shares out; of finite rows."""
    flux = np.asarray(flux)
    good = np.isfinite(flux).all(axis=1)
    return float(flux[good].var(axis=0, dtype=float).sum())


def normalize_total(sample, *, constant, min_fraction=MIN_FRACTION):
    """Divide each spectrum by its summed flux and multiply it by one constant (Scourfield et al. 2023, Section 2).

    Masked pixels hold an interpolated ``flux``, so that the sum does not depend on their number; they stay masked.
    Spectra with too few good pixels, or whose sum is not positive, are masked out whole (flux 0) and counted.

    Parameters
    ----------
    sample : Dataset
        On a common rest-frame grid: ``flux``, optionally ``ivar``, ``mask`` and ``truth`` (galaxy, wavelength), which
        is divided by its own sum.
    constant : float
        Above 0; that of a sample made here stands in its ``attrs``.
    min_fraction : float
        Good pixels that a spectrum must have.

    Returns
    -------
    Dataset
        ``flux``, ``ivar``, ``mask``, ``truth`` without unit; the columns ``norm`` and ``truth_norm``: what to multiply
        them by to come back to the sample's unit (NaN if masked out); ``attrs["constant"]``.
    """
    if "wavelength" not in sample.coords:
        raise ValueError("normalise after resampling to a common rest-frame grid (coordinate `wavelength`)")
    if not constant > 0:
        raise ValueError(f"the constant must be positive, not {constant}")
    units = sample["flux"].attrs.get("units", "")
    out = prepare.mask_bad_pixels(sample)
    mask = out["mask"].values
    filled = fill_bad(out["flux"].values.astype(float), mask).astype("f4")
    norm = filled.sum(axis=1, dtype=float) / constant
    usable = (norm > 0) & ((~mask).mean(axis=1) >= min_fraction)
    lost = ~usable & ~mask.all(axis=1)
    out = prepare._mask_rows(out, lost, f"fewer than {min_fraction:.0%} good pixels, or no positive light")
    scale = np.where(usable, norm, 1)[:, None]
    out["flux"] = (out["flux"].dims, np.where(usable[:, None], filled / scale, 0).astype("f4"), {"units": ""})
    out["ivar"] = (out["ivar"].dims, (out["ivar"].values * scale**2).astype("f4"), {"units": ""})
    out["norm"] = ("galaxy", np.where(usable, norm, np.nan), {"units": units})
    if "truth" in sample:
        truth = sample["truth"].transpose("galaxy", "wavelength").values
        truth_norm = truth.sum(axis=1, dtype=float) / constant
        truth_norm[~(truth_norm > 0)] = np.nan
        out["truth"] = (("galaxy", "wavelength"), (truth / truth_norm[:, None]).astype("f4"), {"units": ""})
        out["truth_norm"] = ("galaxy", truth_norm, {"units": units})
    text = f"divided by summed flux, times {constant:g}; {int((~usable).sum())} spectra masked out"
    return add_history(out.assign_attrs(constant=float(constant)), text)


def add_noise(sample, *, seed, sigma=SIGMA, unit_noise=None):
    """Add Gaussian noise to normalised spectra and divide by the summed flux again, as the paper does.

    Parameters
    ----------
    sample : Dataset
        From `normalize_total`.
    seed : int or numpy.random.Generator
    sigma : float or array_like (wavelength,) or (galaxy, wavelength)
        In normalised units; ValueError if it is negative or not finite.
    unit_noise : array_like (galaxy, wavelength), optional
        Standard normal numbers to scale by `sigma` in place of ones drawn with `seed`.

    Returns
    -------
    Dataset
        With ``noisy``, whose sum is the constant again, ``noisy_scale`` (noisy = (flux + noise) times it), and
        ``noisy_sigma``, the added noise after scaling. Spectra whose noise takes the sum below a tenth of what it was
        keep scale NaN and ``noisy`` 0 and are masked and counted.
    """
    if "constant" not in sample.attrs:
        raise ValueError("normalise the sample with normalize_total before noise is added to it")
    sigma = np.asarray(sigma, "f4")
    if not np.all(np.isfinite(sigma) & (sigma >= 0)):
        raise ValueError("sigma holds values that are negative or not finite")
    flux = sample["flux"].values
    if unit_noise is None:
        unit_noise = np.random.default_rng(seed).standard_normal(flux.shape, dtype="f4")
    noisy = flux + np.asarray(unit_noise, "f4") * sigma
    total = noisy.sum(axis=1, dtype=float)
    constant = sample.attrs["constant"]
    usable = np.isfinite(sample["norm"].values) & (total > 0.1 * constant)
    scale = np.where(usable, constant / np.where(usable, total, 1), np.nan)
    good, dims, unit = usable[:, None], ("galaxy", "wavelength"), {"units": ""}
    factor = np.where(good, scale[:, None], 0).astype("f4")
    out = sample.assign(
        noisy=(dims, np.where(good, noisy * factor, 0), unit),
        noisy_sigma=(dims, np.broadcast_to(sigma, flux.shape) * factor, unit),
        noisy_scale=("galaxy", scale, unit),
    )
    drowned = np.isfinite(sample["norm"].values) & ~usable
    if drowned.any():
        prepare._warn_rows(np.flatnonzero(drowned), "the noise is larger than the galaxy's light")
        mask = sample["mask"].values | drowned[:, None]
        out["mask"] = sample["mask"].copy(data=mask)
        out["ivar"] = sample["ivar"].copy(data=np.where(mask, 0, sample["ivar"].values))
    text = f"noise added, sigma {np.median(sigma):g} (median); {int((~usable).sum())} spectra without"
    return add_history(out, text)


SELECTION = DATA / "scourfield2023_selection.nc"
CACHE_VERSION = 1
"""Raise it when the same numbers give other spectra."""
_SAMPLES = ("uniform", "star-forming", "null")


def read_products(sample="uniform", *, path=SELECTION):
    """The galaxies that were selected, by their numbers.

    Parameters
    ----------
    sample : {"uniform", "star-forming", "null"}
        1,000 galaxies per bin of H-alpha flux (Section 2 of the paper); star-forming ones only (Section 5); and the
        same from the population whose gas metallicity follows mass alone.

    Returns
    -------
    Dataset
        Per galaxy ``candidate``, ``spectral_class`` (measured), ``h_alpha_flux`` (measured, 1e-17 erg/s/cm2),
        ``h_alpha_bin`` (0-9), ``split`` ("train", "test"); ``attrs``: ``constant`` (of `normalize_total`), and as JSON
        ``counts`` (class -> number per bin), ``proportions`` (candidates in the paper's Table 1), ``natural`` (shares
        of the classes before the candidates were weighted), ``recipe``.
    """
    _check_choice(sample, _SAMPLES)
    stored = xr.load_dataset(path, group=sample, engine="h5netcdf")
    names = np.array(json.loads(stored.attrs["classes"]))
    split = np.where(stored["is_test"].values, "test", "train")
    return stored.drop_vars("is_test").assign(
        candidate=stored["candidate"].astype("i8").assign_attrs(stored["candidate"].attrs),
        spectral_class=("galaxy", names[stored["spectral_class"].values], {"units": ""}),
        split=("galaxy", split, {"units": ""}),
    )


def make_sample(sample="uniform", *, split=None, n=None, progress=True):
    """The spectra of a selection, normalised; whole samples are kept on disk (100 MB) where `pooch.os_cache` says.

    Parameters
    ----------
    sample : {"uniform", "star-forming", "null"}
    split : {"train", "test"}, optional
    n : int, optional
        Only the first n (they are in random order).

    Returns
    -------
    Dataset
        As `rebuild` and `normalize_total`, with the columns of `read_products`.
    """
    _check_choice(sample, _SAMPLES, split)
    chosen = _take_split(read_products(sample), split)
    path = _cache_file(sample, split, chosen)
    whole = n is None or n >= chosen.sizes["galaxy"]
    if whole or path.exists():
        return read_or_make(path, lambda: _rebuild_chosen(chosen, progress)).isel(galaxy=slice(n))
    return _rebuild_chosen(chosen.isel(galaxy=slice(n)), progress)


def _check_choice(sample, samples, split=None):
    """An error if there is no such sample or split."""
    if sample not in samples:
        raise ValueError(f"no sample {sample!r}; choose from {', '.join(samples)}")
    if split not in (None, "train", "test"):
        raise ValueError(f"split is 'train', 'test' or None, not {split!r}")


def _take_split(galaxies, split):
    rows = slice(None) if split is None else np.flatnonzero(galaxies["split"].values == split)
    return galaxies.isel(galaxy=rows)


def _rebuild_chosen(some, progress):
    """Normalised spectra of galaxies of `read_products`, with its columns."""
    recipe = json.loads(some.attrs["recipe"])
    options = {name: recipe[name] for name in ("seed", "metallicity_sfr")}
    spectra = rebuild(some["candidate"].values, progress=progress, **options)
    spectra = normalize_total(spectra, constant=some.attrs["constant"])
    return spectra.assign(some.drop_vars("candidate").data_vars)


def _cache_file(sample, split, chosen):
    """Named after everything that the spectra depend on; a new release of spectool makes them anew."""
    import pooch

    stated = json.dumps([__version__, CACHE_VERSION, chosen.attrs["constant"], chosen.attrs["recipe"]])
    digest = hashlib.sha256(stated.encode() + chosen["candidate"].values.tobytes()).hexdigest()[:12]
    name = f"scourfield2023_{sample}_{split or 'all'}_{digest}.nc"
    return Path(pooch.os_cache("spectool")) / "samples" / name


REAL_SAMPLES = {"uniform": (0.2, 3.4, False), "star-forming": (1.4, 3.2, True)}
"""Name -> range of log10 H-alpha flux [1e-17 erg/s/cm2] in ten bins, and whether star-forming only."""

TEST_SHARE = 0.2
MIN_SN = 3.0
"""Of H-alpha and H-beta in emission, and of Balmer absorption (Lick's H-delta A), for the classes."""
SFD_TO_SF = 0.86
"""E(B-V) of Schlafly & Finkbeiner (2011, ApJ 737, 103) over that of Schlegel et al. (1998), which MPA-JHU give."""


def read_real(
    sample="uniform",
    *,
    split=None,
    n=None,
    cache=None,
    progress=True,
    n_per_bin=1000,
    constant=None,
    seed=2023,
    batch_size=256,
    catalogue_options=None,
    archive_options=None,
):
    """Real spectra prepared as Scourfield et al. (2023, Sections 2 and 5) prepared them.

    Galaxies at 0.024 < z < 0.05 of SDSS DR7, `n_per_bin` (the paper: 1,000, some 1.6 GB of files) from each bin of
    H-alpha flux; sky lines masked, the Milky Way's dust taken out, at rest on 825 bins, divided by summed flux.

    Parameters
    ----------
    sample : {"uniform", "star-forming"}
    split : {"train", "test"}, optional
    n : int, optional
        The first n (they are in random order); only theirs are fetched.
    cache : path, optional
        Where spectra and tables are kept; default: the user's cache. ConnectionError if it lacks what SDSS cannot give.
    constant : float, optional
        Of `normalize_total`; default that of the mock of the same name, which the shipped models were trained with.
    seed : int
        Chooses galaxies, their order and the split.
    catalogue_options, archive_options : dict, optional
        Of `spectool.surveys.archive.query_catalogue` and `fetch_spectra`.

    Returns
    -------
    Dataset
        ``flux``, ``ivar``, ``mask`` (galaxy, 825) without unit, ``norm``; ``candidate`` (specObjID),
        ``spectral_class``, ``split``, and MPA-JHU's columns and lines; no ``truth``.
    """
    _check_choice(sample, REAL_SAMPLES, split)
    low, high, star_forming = REAL_SAMPLES[sample]
    if constant is None:
        constant = read_products(sample).attrs["constant"]
    common = {"cache": cache, "progress": progress}
    options = {"h_alpha_edges": 10 ** np.linspace(low, high, 11), "star_forming": star_forming, "seed": seed}
    catalogue = query_catalogue(n_per_bin, **options, **common, **(catalogue_options or {}))
    catalogue = _take_split(_shuffle(_with_classes(catalogue), seed), split)
    catalogue, paths = fetch_usable(catalogue.isel(galaxy=slice(n)), **common, **(archive_options or {}))
    parts, size = [], catalogue.sizes["galaxy"]
    for first in tqdm(range(0, size, batch_size), desc="preparing", unit="batch", disable=not progress):
        part = slice(first, first + batch_size)
        parts.append(_prepare(join_spectra(catalogue.isel(galaxy=part), paths[part])))
    how = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "override"}
    whole = xr.concat(parts, "galaxy", combine_attrs="override", **how)
    masked = whole["mask"].values.mean()
    note = f"{size} real spectra at rest on {N_PIXELS} bins, {masked:.2%} of the pixels masked"
    whole = add_history(whole.assign_attrs(history=catalogue.attrs["history"]), note)
    return normalize_total(whole, constant=constant)


def _prepare(spectra):
    """Observed spectra at rest, without the Milky Way's dust, on the paper's bins."""
    clean = prepare.mask_sky_lines(prepare.mask_bad_pixels(spectra))
    clean = prepare.correct_extinction(clean, ebv=SFD_TO_SF * clean["ebv"].fillna(0).values)
    return prepare.resample(prepare.to_rest_frame(clean), rest_wavelength())


def _with_classes(catalogue):
    """The five classes by the paper's rules, from MPA-JHU's lines; quasars (broad-line AGN) are SDSS's."""
    flux = {line: catalogue["line_flux"].sel(line=line).values for line in BPT_LINES}
    sn = {line: catalogue["line_sn"].sel(line=line).values for line in BPT_LINES}
    log_n2, log_o3 = log_ratio(flux["[N II] 6583"], flux["Hα"]), log_ratio(flux["[O III] 5007"], flux["Hβ"])
    with np.errstate(invalid="ignore", divide="ignore"):
        absorption = (catalogue["lick_hd_a"] / catalogue["lick_hd_a_error"]).values > MIN_SN
        emission = (sn["Hα"] > MIN_SN) & (sn["Hβ"] > MIN_SN)
        active = emission & (log_o3 > kewley2001(log_n2))
    emitting, absorbing, quiescent, narrow, broad = CLASSES
    name = np.where(absorption, absorbing, quiescent).astype("<U20")
    name[emission] = emitting
    name[active] = narrow
    name[catalogue["sdss_class"].values == "QSO"] = broad
    return catalogue.assign(spectral_class=("galaxy", name, {"units": ""}))


def _shuffle(catalogue, seed):
    """Galaxies in random order, a fifth of them for tests."""
    size = catalogue.sizes["galaxy"]
    order = np.random.default_rng([seed, 1]).permutation(size)
    split = np.where(np.arange(size) < round(TEST_SHARE * size), "test", "train")
    split = split[np.random.default_rng([seed, 2]).permutation(size)]
    shuffled = catalogue.isel(galaxy=order)
    columns = {"split": (split, ""), "candidate": (shuffled["specobjid"].values, "")}
    return shuffled.assign(as_columns(columns))


def read_lines(sample="mzr", *, path=None):
    """The star-forming test galaxies of Scourfield (2023, Section 5) with their measured lines.

    Of "mzr", whose metallicity knows star formation, or of "null", where it knows mass alone: Datasets by source, such
    as ``"original"``, ``"DESI-like"``, ``"de-noised"``; a source whose errors were scaled to cover the truth comes once
    more as ``"de-noised, calibrated errors"``; names of the null begin with ``"null: "``.
    """
    tool = f"tools.make.scourfield2023_lines {sample}"
    product, file = load_product(f"scourfield2023_{sample}.nc", tool, path=path)
    missing = {"source", "galaxy", "line"} - set(product.dims)
    if missing:
        raise ValueError(f"{file} is no table of lines by source: it has no {', '.join(sorted(missing))}")
    samples, prefix = {}, "null: " if sample == "null" else ""
    for source in product["source"].values.astype(str).tolist():
        table = product.sel(source=source, drop=True).assign_attrs(spectrum=source)
        name, calibrated = prefix + source, table.get("line_flux_error_calibrated")
        samples[name] = table.drop_vars("line_flux_error_calibrated", errors="ignore")
        if calibrated is not None and np.isfinite(calibrated).any():
            samples[name + CALIBRATED] = samples[name].assign(line_flux_error=calibrated)
    return samples


LINES_TOOL = "tools.make.scourfield2023_lines lines"
MEASURED = ("line_flux", "line_flux_error", "line_peak", "line_peak_error")
NEEDED = {
    **dict.fromkeys(MEASURED, ("source", "galaxy", "line")),
    "latent": ("model", "galaxy", "dim"),
    **dict.fromkeys(("candidate", "log_mass", "spectral_class"), ("galaxy",)),
}


def open_lines(path=None):
    """Open the shipped table of lines measured on the 2000 test galaxies.

    Parameters
    ----------
    path : str or pathlib.Path, optional
        Another table of the same layout.

    Returns
    -------
    xarray.Dataset
        In memory. dims (source, galaxy, line, model, dim): ``line_flux``, ``line_peak`` and their errors (source,
        galaxy, line) in normalised flux (times Angstrom); ``latent`` (model, galaxy, dim); per-galaxy columns.

    Raises
    ------
    FileNotFoundError
        If there is no such file; the message says which tool makes it.
    ValueError
        If a variable, the original spectra or a line that the diagrams need is missing.
    """
    product, file = load_product("scourfield2023_lines.nc", LINES_TOOL, path=path)
    missing = [name for name, dims in NEEDED.items() if name not in product or product[name].dims != dims]
    missing += [f"the line {line}" for line in BPT_LINES if line not in product.get("line", ())]
    missing += [] if "original" in product.get("source", ()) else ["the source 'original'"]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}: `python -m {LINES_TOOL}` makes it")
    return product
