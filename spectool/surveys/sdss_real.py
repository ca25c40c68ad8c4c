"""Real SDSS galaxies: the catalogue of MPA-JHU joined with the spectra of the archive."""

import warnings

import numpy as np

from spectool.surveys.mpa_jhu import query_catalogue
from spectool.surveys.sdss_archive import DATA_RELEASE, SAS_URL, fetch_spectra
from spectool.surveys.sdss_files import SurveyWarning, read_sdss


def fetch_usable(catalogue, *, cache=None, **options):
    """Bring the spectra of a catalogue's galaxies to the cache, and keep the galaxies that have one.

    Parameters
    ----------
    catalogue : Dataset
        From `query_catalogue`, or rows of it.
    cache : path, optional
    **options
        Of `spectool.surveys.sdss_archive.fetch_spectra`.

    Returns
    -------
    catalogue : Dataset
        Galaxies whose spectrum is missing or unusable are left out, with a `SurveyWarning` and in the history.
    paths : list of Path
        Of their spectra.

    Raises
    ------
    ConnectionError
        If the archive cannot be reached, or gives not a single spectrum.
    """
    keys = [catalogue[name].values for name in ("plate", "mjd", "fiberid")]
    got = fetch_spectra(*keys, run2d=catalogue["run2d"].values, cache=cache, **options)
    rows = np.array([row for row, path in enumerate(got.paths) if path is not None], int)
    reasons = _summary(got.failures)
    if not rows.size:
        raise ConnectionError(f"not one of {len(got.paths)} spectra could be fetched: {reasons}")
    text = f"{rows.size} spectra, {got.n_downloaded} of them fetched now"
    if got.failures:
        told = f"{len(got.failures)} of {len(got.paths)} galaxies left out: {reasons}"
        warnings.warn(told, SurveyWarning, stacklevel=2)
        text += f"; {told}"
    kept = catalogue.isel(galaxy=rows)
    return kept.assign_attrs(history=f"{catalogue.attrs['history']}\n{text}"), [
        got.paths[row] for row in rows
    ]


def join_spectra(catalogue, paths):
    """Spectra as `read_sdss` gives them, in the observed frame, with the columns of a catalogue.

    Parameters
    ----------
    catalogue : Dataset
    paths : list of path
        Of the same galaxies.

    Returns
    -------
    Dataset, dims (galaxy, wavelength, line)
        The catalogue wins where both have a column, the redshift for one; SDSS's own class is ``sdss_label``.
    """
    spectra = read_sdss(paths).rename(spectral_class="sdss_label")
    pixels = spectra.drop_vars([name for name in spectra.data_vars if name in catalogue])
    return pixels.assign(catalogue.data_vars).assign_coords(catalogue.coords).assign_attrs(catalogue.attrs)


def _summary(failures):
    """Reasons with how many galaxies each costs, and one row as an example."""
    kinds = {}
    for row, reason in failures.items():
        kinds.setdefault(reason, []).append(row)
    return "; ".join(f"{len(rows)} {reason} (row {rows[0]})" for reason, rows in kinds.items())


def read_real_sample(
    n_per_bin, *, cache=None, progress=True, base_url=SAS_URL, n_connections=4, retries=2, **options
):
    """Catalogue and spectra of real galaxies in one call.

    Parameters
    ----------
    n_per_bin : int
        Galaxies per bin of H-alpha flux. A thousand spectra are some 160 MB on disk, 50 MB in memory.
    cache : path, optional
        Default: the user's cache, as told by ``pooch``. What is there needs no network.
    progress : bool
    base_url, n_connections, retries
        Of `spectool.surveys.sdss_archive.fetch_spectra`.
    **options
        Of `query_catalogue`.

    Returns
    -------
    Dataset
        See `query_catalogue` and `join_spectra`; galaxies without a usable spectrum as in `fetch_usable`.
    """
    catalogue = query_catalogue(n_per_bin, cache=cache, progress=progress, **options)
    where = {"base_url": base_url, "data_release": options.get("data_release", DATA_RELEASE)}
    how = {"n_connections": n_connections, "retries": retries, "progress": progress}
    return join_spectra(*fetch_usable(catalogue, cache=cache, **where, **how))
