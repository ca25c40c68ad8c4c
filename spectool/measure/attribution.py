"""What a network with filters looks at, by index and chunk: its own file, for it asks a network, no spectrum."""

import numpy as np
import torch
import xarray as xr

from spectool.measure.indices import LICK, index_band
from spectool.measure.stats import spearman

_STEPS = 64
_MIN_PIXELS = 0.25  # per Angstrom of a band of which enough is kept


def attribute(members, prepared, *, baseline=None, steps=_STEPS, batch_size=256):
    """Integrated gradients of a network's first answer, pixel by pixel, by captum.

    Parameters
    ----------
    members : torch.nn.Module or sequence of them
        Spectra (B, n_kept) to answers (B, n_out); of several, the mean (attributions are linear in the network).
    prepared : Dataset
        ``flux`` (galaxy, wavelength), as the network takes it.
    baseline : array_like, shape (n_kept,), optional
        Spectrum to start from. Default: zero flux, a continuum without a line; the mean of the training spectra asks
        what sets a galaxy apart instead.
    steps, batch_size : int
        Of the integral (Gauss-Legendre); spectra at once.

    Returns
    -------
    Dataset
        (galaxy, wavelength): ``attribution`` [dex]. (galaxy,): ``answer``, ``baseline_answer``, ``gap`` [dex], what
        the attributions miss of answer - baseline_answer. (wavelength,): ``baseline``.

    Raises
    ------
    ValueError
        If the baseline has another number of pixels.
    """
    members = [members] if isinstance(members, torch.nn.Module) else list(members)
    flux = _read(prepared)
    start = np.zeros(flux.shape[1], np.float32) if baseline is None else np.asarray(baseline, np.float32)
    if start.shape != flux.shape[1:]:
        raise ValueError(f"the baseline has shape {start.shape}, the spectra have {flux.shape[1]} pixels")
    shares, answer, reference = np.zeros(flux.shape), np.zeros(len(flux)), 0.0
    from_row = torch.from_numpy(start)[None]
    for member in members:
        member.eval()
        reference += float(_answer(member, from_row)[0]) / len(members)
        for first in range(0, len(flux), batch_size):
            part = slice(first, first + batch_size)
            rows = torch.from_numpy(flux[part])
            shares[part] += _integrate(member, rows, from_row, steps) / len(members)
            answer[part] += _answer(member, rows) / len(members)
    dex = {"units": "dex"}
    return xr.Dataset(
        {
            "attribution": (("galaxy", "wavelength"), shares.astype(np.float32), dex),
            "answer": ("galaxy", answer, dex),
            "baseline_answer": ("galaxy", np.full(len(flux), reference), dex),
            "gap": ("galaxy", answer - reference - shares.sum(axis=1), dex),
            "baseline": ("wavelength", start, {"units": ""}),
        },
        coords={"wavelength": ("wavelength", prepared["wavelength"].values, {"units": "Angstrom"})},
    )


def _read(prepared):
    return prepared["flux"].transpose("galaxy", "wavelength").values.astype(np.float32)


def _answer(member, rows):
    with torch.inference_mode():
        return member(rows)[:, 0].numpy().astype(float)


def _integrate(network, rows, start, steps):
    """Integrated gradients of the first answer."""
    from captum.attr import IntegratedGradients

    shares = IntegratedGradients(network).attribute(
        rows, baselines=start, target=0, n_steps=steps, internal_batch_size=max(8192, len(rows))
    )
    return shares.detach().numpy()


def share_by_index(attributed):
    """How much of the attribution falls into the bands that astronomers know.

    Parameters
    ----------
    attributed : Dataset
        From `attribute`.

    Returns
    -------
    Dataset, dim ``index``
        The Lick indices of which enough is kept, then "elsewhere". ``low``, ``high``: band [Angstrom, vacuum];
        ``n_pixels``; ``share``: of the sum of absolute attributions, mean over galaxies, and its ``share_error``;
        ``pixel_share``; ``gain``: the ratio of the two; ``net`` [dex]: sum of the attributions, mean over galaxies.
    """
    wavelength = attributed["wavelength"].values
    values = attributed["attribution"].values.astype(float)
    size = np.abs(values)
    total = np.where(size.sum(1) > 0, size.sum(1), 1.0)
    rows = [row for row in _bands(wavelength) if row[3].sum() > _MIN_PIXELS * (row[2] - row[1])]
    rows.append(("elsewhere", np.nan, np.nan, ~np.any([pixels for *_, pixels in rows], axis=0)))
    share = np.stack([size[:, pixels].sum(1) / total for *_, pixels in rows])
    count = np.array([int(pixels.sum()) for *_, pixels in rows])
    pixel_share = count / wavelength.size
    error = share.std(axis=1, ddof=1) / np.sqrt(share.shape[1]) if share.shape[1] > 1 else np.nan * count
    columns = {
        "low": (np.array([row[1] for row in rows]), "Angstrom"),
        "high": (np.array([row[2] for row in rows]), "Angstrom"),
        "n_pixels": (count, ""),
        "share": (share.mean(axis=1), ""),
        "share_error": (error, ""),
        "pixel_share": (pixel_share, ""),
        "gain": (share.mean(axis=1) / np.where(count, pixel_share, np.nan), ""),
        "net": (np.array([values[:, pixels].sum(1).mean() for *_, pixels in rows]), "dex"),
    }
    data = {name: ("index", column, {"units": unit}) for name, (column, unit) in columns.items()}
    return xr.Dataset(data, coords={"index": [row[0] for row in rows]})


def _bands(wavelength):
    """Names and limits of the Lick indices, and the pixels between."""
    for name in LICK:
        low, high = index_band(name)
        yield name, low, high, (wavelength >= low) & (wavelength <= high)


def describe_filters(model, prepared, *, steps=_STEPS):
    """A table of a `ChunkedMLP`'s filters: where each looks, what it follows, and how much it matters.

    Parameters
    ----------
    model : ChunkedMLP
    prepared : Dataset
        ``flux``, ``log_z_lw`` and, if there, ``age_lw``; a few hundred galaxies do.
    steps : int
        As for `attribute`; the baseline is the mean of `prepared`.

    Returns
    -------
    Dataset, dims (chunk, filter)
        ``peak`` [Angstrom]: the pixel of largest weight; ``band``: the Lick index whose share of the squared weights
        exceeds its share of the chunk's pixels most ("" if none does), and that ``band_share``; ``metallicity_rho``,
        ``age_rho``: Spearman's correlation of what the filter lets through with the labels; ``sign`` of
        ``metallicity_rho``; ``importance`` [dex]: mean absolute attribution. (chunk,): ``low``, ``high`` [Angstrom].
    """
    flux = _read(prepared)
    curves, chunk = model.filters(), np.asarray(model.chunk_index)
    wavelength = prepared["wavelength"].values
    with torch.inference_mode():
        passed = model.preactivations(torch.from_numpy(flux))
        origin = model.preactivations(torch.from_numpy(flux.mean(axis=0))[None])
    shares, passed = _integrate(model.head, passed.clone(), origin.clone(), steps), passed.numpy()
    shape = curves.shape[:2]
    table = {n: np.zeros(shape) for n in ("peak", "band_share", "metallicity_rho", "age_rho")}
    names = np.full(shape, "", dtype="<U8")
    age = prepared["age_lw"].values if "age_lw" in prepared else np.full(len(flux), np.nan)
    for k, f in np.ndindex(*shape):
        own = wavelength[chunk == k]
        weight = curves[k, f, : own.size] ** 2
        table["peak"][k, f] = own[np.argmax(weight)]
        names[k, f], table["band_share"][k, f] = _strongest_band(own, weight)
        table["metallicity_rho"][k, f] = spearman(
            prepared["log_z_lw"].values, passed[:, k, f], n_bootstrap=0
        ).rho
        table["age_rho"][k, f] = spearman(age, passed[:, k, f], n_bootstrap=0).rho
    dims, units = ("chunk", "filter"), {"peak": "Angstrom"}
    columns = {n: (dims, v, {"units": units.get(n, "")}) for n, v in table.items()}
    columns["band"] = (dims, names, {"units": ""})
    sign = np.where(table["metallicity_rho"] < 0, -1, 1)
    columns["sign"] = (dims, sign, {"units": ""})
    columns["importance"] = (dims, np.abs(shares).mean(axis=0), {"units": "dex"})
    for name, pick in (("low", np.min), ("high", np.max)):
        ends = [pick(wavelength[chunk == k]) for k in range(shape[0])]
        columns[name] = ("chunk", np.array(ends), {"units": "Angstrom"})
    return xr.Dataset(columns)


def filter_patterns(model, prepared):
    """What in the spectra makes a filter let more through: how they change with it.

    The covariance of the filter's output with the flux, divided by the output's standard deviation (Haufe et al. 2014,
    NeuroImage 87, 96, eq. 6): weights alone are large where spectra hardly differ, too.

    Parameters
    ----------
    model : ChunkedMLP
    prepared : Dataset
        ``flux`` of spectra without noise, for one a part of the training set.

    Returns
    -------
    ndarray, shape (n_chunks, n_filters, longest chunk)
        In units of the prepared flux, padded with 0 like ``model.filters()``.
    """
    flux = _read(prepared)
    chunk = np.asarray(model.chunk_index)
    with torch.inference_mode():
        passed = model.preactivations(torch.from_numpy(flux)).numpy().astype(float)
    passed = (passed - passed.mean(axis=0)) / np.maximum(passed.std(axis=0), 1e-12)
    flux = flux - flux.mean(axis=0)
    patterns = np.zeros(np.shape(model.filters()))
    for k in range(len(patterns)):
        own = flux[:, chunk == k]
        patterns[k, :, : own.shape[1]] = passed[:, k].T @ own / len(flux)
    return patterns


def _strongest_band(wavelength, weight):
    """The index whose share of squared weights exceeds its share of pixels most, and the share; "" if none does."""
    best, share, most = "", 0.0, 0.0
    for name, _, _, inside in _bands(wavelength):
        part = float(weight[inside].sum() / max(weight.sum(), 1e-30))
        if part - inside.mean() > most:
            best, share, most = name, part, part - inside.mean()
    return best, share
