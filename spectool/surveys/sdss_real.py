"""Real SDSS galaxies: the catalogue of MPA-JHU joined with the spectra of the archive."""

import warnings

import numpy as np

from spectool.surveys.mpa_jhu import query_catalogue
from spectool.surveys.sdss_archive import DATA_RELEASE, SAS_URL, fetch_spectra
from spectool.surveys.sdss_files import SurveyWarning, read_sdss


def read_spectra(catalogue, *, cache=None, **options):
    """The spectra of a catalogue's galaxies, as `read_sdss` gives them, with the catalogue's columns.

    Parameters
    ----------
    catalogue : Dataset
        From `query_catalogue`, or rows of it.
    cache : path, optional
    **options
        Of `spectool.surveys.sdss_archive.fetch_spectra`.

    Returns
    -------
    Dataset, dims (galaxy, wavelength, line)
        In the observed frame. Galaxies whose spectrum is missing or unusable are left out, with a `SurveyWarning`
        and in the history.

    Raises
    ------
    ConnectionError
        If the archive cannot be reached, or gives not a single spectrum.
    """
    keys = [catalogue[name].values for name in ("plate", "mjd", "fiberid")]
    got = fetch_spectra(*keys, run2d=catalogue["run2d"].values, cache=cache, **options)
    rows = np.array([row for row, path in enumerate(got.paths) if path is not None], int)
    reasons = _summary(got.failures, got.paths)
    if not rows.size:
        raise ConnectionError(f"not one of {len(got.paths)} spectra could be fetched: {reasons}")
    if got.failures:
        warnings.warn(
            f"{len(got.failures)} of {len(got.paths)} galaxies left out: {reasons}",
            SurveyWarning,
            stacklevel=2,
        )
    spectra = read_sdss([got.paths[row] for row in rows]).rename(spectral_class="sdss_label")
    chosen = catalogue.isel(galaxy=rows)
    pixels = spectra.drop_vars([name for name in spectra.data_vars if name in chosen])
    out = pixels.assign(chosen.data_vars).assign_coords(chosen.coords)
    text = f"{rows.size} spectra read, {got.n_downloaded} of them fetched now"
    text += f"; {len(got.failures)} left out: {reasons}" if got.failures else ""
    return out.assign_attrs({**chosen.attrs, "history": f"{catalogue.attrs['history']}\n{text}"})


def _summary(failures, paths):
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
        See `query_catalogue` and `read_spectra`.
    """
    catalogue = query_catalogue(n_per_bin, cache=cache, progress=progress, **options)
    release = options.get("data_release", DATA_RELEASE)
    return read_spectra(
        catalogue,
        cache=cache,
        progress=progress,
        base_url=base_url,
        data_release=release,
        n_connections=n_connections,
        retries=retries,
    )
