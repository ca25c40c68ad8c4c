"""Networks that read bands: inputs, noise, network classes, folds and checks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr
from astropy import units as u
from torch import nn

from spectool.models.layers import predict_normal
from spectool.surveys.tables import SENTINELS, are_magnitudes

MIN_BANDS = 3


@dataclass(frozen=True)
class SedInputs:
    """Fluxes of galaxies in the order of a network's bands."""

    flux: np.ndarray
    error: np.ndarray
    mask: np.ndarray
    redshift: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.redshift)

    def take(self, rows) -> SedInputs:
        """Some of the galaxies."""
        return SedInputs(self.flux[rows], self.error[rows], self.mask[rows], self.redshift[rows])

    def describe(self) -> str:
        """What was counted, in words."""
        return (
            "; ".join(f"{name}: {count}" for name, count in self.counts.items() if count) or "nothing amiss"
        )


def read_inputs(sample: xr.Dataset, bands: Sequence[str]) -> SedInputs:
    """Fluxes of a sample as a network takes them.

    - Bands that the sample lacks are missing; those that the network does not know are left out. Both are counted.
    - Units are converted to Jy by ``attrs["units"]``. A wrong one, mJy stated as Jy, cannot be seen here: that is what
      `spectool.models.outliers` is for.
    - Values that are not finite, sentinels (-99, 9999, ...), and fluxes whose error is not above 0 are missing.
    - Negative fluxes with errors are measurements: kept.
    - "Fluxes" that look like magnitudes are an error if most galaxies have them, else those galaxies lose all bands.

    Parameters
    ----------
    sample
        ``flux``, ``flux_error`` (galaxy, band), ``redshift`` (galaxy) and, if there, ``mask``.
    bands
        The network's.

    Raises
    ------
    ValueError
        If a column is missing, a band comes twice, none is known, a unit is not stated or is no flux per frequency, or
        the fluxes look like magnitudes.
    """
    lacking = [name for name in ("flux", "flux_error", "redshift") if name not in sample]
    if lacking:
        raise ValueError(f"the sample lacks {', '.join(lacking)}")
    index, unknown = find_bands([str(band) for band in sample["band"].values], bands)
    raw = {name: _in_order(sample[name], index) for name in ("flux", "flux_error")}
    masked = (
        _in_order(sample["mask"], index, absent=True) if "mask" in sample else np.zeros(raw["flux"].shape)
    )
    masked = masked.astype(bool) | (index < 0)
    found = {"masked": masked}
    found["no data"] = ~np.isfinite(raw["flux"])
    found["sentinel"] = np.isin(raw["flux"], SENTINELS) | np.isin(raw["flux_error"], SENTINELS)
    found["error not positive"] = ~(raw["flux_error"] > 0) | ~np.isfinite(raw["flux_error"])
    missing, counts = np.zeros(masked.shape, bool), {}
    for name, bad in found.items():
        counts[f"fluxes {name}"] = int((bad & ~missing).sum())
        missing |= bad
    flux, error = (raw[name] * _to_jansky(sample[name]) for name in raw)
    suspect = are_magnitudes(flux, missing, list(bands), "the sample")[:, None] & ~missing
    counts["fluxes that look like magnitudes"] = int(suspect.sum())
    missing |= suspect
    counts["negative fluxes, kept"] = int((~missing & (flux < 0)).sum())
    counts["bands unknown to the network, left out"] = unknown
    counts["bands not in the sample"] = int((index < 0).sum())
    redshift = sample["redshift"].values.astype(float)
    return SedInputs(flux, error, missing, redshift, counts)


def join_inputs(*parts: SedInputs) -> SedInputs:
    """Galaxies of several inputs, one after the other."""
    names = ("flux", "error", "mask", "redshift")
    return SedInputs(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def find_bands(names, bands) -> tuple[np.ndarray, int]:
    """Place of each of the network's bands in the sample, -1 if absent; and how many names are not the network's."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"bands come twice: {', '.join(twice)}; keep one of each")
    index = np.array([names.index(band) if band in names else -1 for band in bands])
    if (index < 0).all():
        raise ValueError(
            f"none of the network's bands ({', '.join(bands)}) is in the sample: it has {', '.join(names) or 'none'}"
        )
    return index, len(set(names) - set(bands))


def _in_order(values: xr.DataArray, index, *, absent=np.nan) -> np.ndarray:
    """(galaxy, band) in the network's order, `absent` in bands that the sample lacks."""
    array = values.transpose("galaxy", "band").values.astype(float)[:, index]
    array[:, index < 0] = absent
    return array


def _to_jansky(values: xr.DataArray) -> float:
    unit = values.attrs.get("units")
    if not unit:
        raise ValueError(
            f'{values.name} has no unit: set sample["{values.name}"].attrs["units"] = "Jy", or what it is'
        )
    try:
        if not isinstance(u.Unit(unit), u.UnitBase):
            raise ValueError("logarithmic")
        return u.Unit(unit).to(u.Jy)
    except (ValueError, u.UnitConversionError) as error:
        raise ValueError(
            f"{values.name} is in {unit!r}, no flux per frequency ({error}): read magnitudes and the like by "
            "spectool.surveys.tables.read_photometry"
        ) from error


MIN_SN = 1.0
"""Below this flux over error, a band is a non-detection."""
MAG_PER_LN = 2.5 / np.log(10.0)


@dataclass(frozen=True)
class BandInputs:
    """Magnitudes of spectra in the order of a network's bands."""

    magnitude: np.ndarray
    error: np.ndarray
    mask: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.magnitude)

    def take(self, rows) -> BandInputs:
        """Some of the spectra."""
        return BandInputs(self.magnitude[rows], self.error[rows], self.mask[rows])

    def hide(self, hidden: np.ndarray) -> BandInputs:
        """The same with more bands missing, where `hidden`, of a shape like (spectrum, band), is True."""
        return BandInputs(self.magnitude, self.error, self.mask | hidden, self.counts)

    def describe(self) -> str:
        """What was counted, in words."""
        return (
            "; ".join(f"{name}: {count}" for name, count in self.counts.items() if count) or "nothing amiss"
        )


def read_bands(sample: xr.Dataset, bands: Sequence[str]) -> BandInputs:
    """Magnitudes of a sample as a network takes them.

    - Bands that the sample lacks are missing; those that the network does not know are left out. Both are counted.
    - Masked fluxes, those not finite, sentinels (-99, 9999, ...) and errors that are not above 0 are missing.
    - Non-detections, fluxes that are not above 0 or below `MIN_SN` times their error, have no magnitude: missing.

    Parameters
    ----------
    sample
        ``flux`` (spectrum, band), f_nu in any unit; ``flux_error`` and ``mask`` if there. Without errors the spectra
        are free of noise.
    bands
        The network's.

    Raises
    ------
    ValueError
        If there is no flux, a band comes twice, or none is known.
    """
    if "flux" not in sample:
        raise ValueError("the sample lacks flux")
    index, unknown = find_bands([str(band) for band in sample["band"].values], bands)
    absent = index < 0
    flux = _bands_in_order(sample["flux"], index, np.float32)
    missing, counts = np.broadcast_to(absent, flux.shape).copy(), {}
    found = {
        "masked": _bands_in_order(sample["mask"], index, bool) if "mask" in sample else np.zeros_like(missing)
    }
    found["no data"] = ~np.isfinite(flux)
    found["sentinel"] = np.isin(flux, SENTINELS)
    error = np.zeros_like(flux)
    if "flux_error" in sample:
        error = _bands_in_order(sample["flux_error"], index, np.float32)
        found["error not positive"] = ~(error > 0) | ~np.isfinite(error)
    with np.errstate(invalid="ignore"):
        found["not detected"] = (flux <= 0) | (flux < MIN_SN * error)
    for name, bad in found.items():
        counts[f"fluxes {name}"] = int((bad & ~missing).sum())
        missing |= bad
    counts["bands unknown to the network, left out"] = unknown
    counts["bands not in the sample"] = int(absent.sum())
    safe = np.where(missing, np.float32(1), flux)
    error = np.where(missing, np.float32(0), error) * np.float32(MAG_PER_LN) / safe
    return BandInputs(np.float32(-2.5) * np.log10(safe), error, missing, counts)


def _bands_in_order(values: xr.DataArray, index, dtype) -> np.ndarray:
    """(spectrum, band) in the network's order; bands that the sample lacks hold those of some other."""
    array = values.transpose("spectrum", "band").values.astype(dtype, copy=False)
    return array[:, np.maximum(index, 0)]


ERROR_RANGE = (1e-3, 1.0)
"""Magnitudes within which errors are told to a network."""


class NarrowBandCNN(nn.Module):
    """Two convolutions along the bands, a maximum over neighbouring bands, and dense layers (Section 3.1 and Fig.
    2).
    """

    def __init__(
        self,
        *,
        bands: Sequence[str],
        outputs: Sequence[str],
        units: Sequence[str],
        filters: Sequence[int] = (16, 16),
        kernels: Sequence[int] = (6, 8),
        pool: int = 8,
        hidden: Sequence[int] = (40,),
        with_errors: bool = False,
        with_mask: bool = False,
        gaussian: bool = False,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        if len(set(bands)) != len(bands):
            raise ValueError(f"a band comes twice among {', '.join(bands)}")
        if len(units) != len(outputs):
            raise ValueError(f"{len(units)} units for {len(outputs)} outputs")
        if len(filters) != 2 or len(kernels) != 2:
            raise ValueError("this network has two convolutions: give two filters and two kernels")
        if len(bands) < pool:
            raise ValueError(f"{len(bands)} bands cannot be pooled by {pool}")
        self.config = {
            "bands": list(bands),
            "outputs": list(outputs),
            "units": list(units),
            "filters": [int(n) for n in filters],
            "kernels": [int(n) for n in kernels],
            "pool": int(pool),
            "hidden": [int(n) for n in hidden],
            "with_errors": bool(with_errors),
            "with_mask": bool(with_mask),
            "gaussian": bool(gaussian),
        }
        self.bands, self.outputs, self.units = tuple(bands), tuple(outputs), tuple(units)
        self.with_errors, self.with_mask, self.gaussian = bool(with_errors), bool(with_mask), bool(gaussian)
        n, self.n_out = len(bands), len(outputs)
        self.n_channels = 1 + self.with_errors + self.with_mask
        self.n_in = n * self.n_channels
        self.groups = {band: [j + n * k for k in range(self.n_channels)] for j, band in enumerate(bands)}
        self.register_buffer("in_mean", torch.zeros(n))
        self.register_buffer("in_scale", torch.ones(n))
        self.register_buffer("out_mean", torch.zeros(self.n_out))
        self.register_buffer("out_scale", torch.ones(self.n_out))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.default_rng(seed).integers(2**62)))
            layers, channels = [], [self.n_channels, *filters]
            for n_in, n_out, kernel in zip(channels[:-1], channels[1:], kernels, strict=True):
                edges = ((kernel - 1) // 2, kernel // 2)
                layers += [nn.ConstantPad1d(edges, 0.0), nn.Conv1d(n_in, n_out, kernel), nn.ReLU()]
            self.convolutions = nn.Sequential(*layers, nn.MaxPool1d(pool), nn.Flatten())
            widths = [filters[1] * (n // pool), *hidden]
            layers = []
            for n_in, n_out in itertools.pairwise(widths):
                layers += [nn.Linear(n_in, n_out), nn.ReLU()]
            self.dense = nn.Sequential(*layers, nn.Linear(widths[-1], self.n_out * (2 if gaussian else 1)))

    def set_statistics(self, inputs, labels: np.ndarray) -> None:
        """Take means and scales from training spectra."""
        magnitude = np.where(inputs.mask, np.nan, inputs.magnitude).astype(np.float64)
        labels = np.where(np.isfinite(labels), labels, np.nan)
        for what, names, values in (("output", self.outputs, labels), ("band", self.bands, magnitude)):
            empty = np.flatnonzero(np.isnan(values).all(axis=0))
            if len(empty):
                raise ValueError(f"{what} {names[empty[0]]} has no finite value to train on")
        shape = magnitude - np.nanmean(magnitude, axis=1, keepdims=True)
        for prefix, values in (("in", shape), ("out", labels)):
            scale = np.nanstd(values, axis=0)
            getattr(self, f"{prefix}_mean").copy_(torch.from_numpy(np.nanmean(values, axis=0)))
            getattr(self, f"{prefix}_scale").copy_(torch.from_numpy(np.where(scale > 0, scale, 1.0)))

    def encode(self, inputs) -> np.ndarray:
        """Inputs (N, n_in), float32, of a `BandInputs`: magnitudes, then errors and marks of missing bands."""
        mask = inputs.mask
        left = np.maximum((~mask).sum(axis=1, keepdims=True), 1)
        magnitude = np.where(mask, np.float32(0), inputs.magnitude)
        magnitude -= magnitude.sum(axis=1, keepdims=True) / left
        magnitude[mask] = 0.0 if self.with_mask else np.nan
        blocks = [magnitude]
        if self.with_errors:
            error = np.where(mask, ERROR_RANGE[0], inputs.error)
            blocks.append(np.log10(np.clip(error, *ERROR_RANGE)))
        if self.with_mask:
            blocks.append(mask)
        return np.concatenate(blocks, axis=1, dtype=np.float32)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mean and log variance (None without a Gaussian head), (B, n_out), of standardised outputs, for (B,
        n_in).
        """
        x = x.unflatten(1, (self.n_channels, len(self.bands)))
        shape = x[:, 0] - self.in_mean
        if self.with_mask:
            there = 1.0 - x[:, -1]
            mean = (shape * there).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1.0)
            channels = [(shape - mean) * there / self.in_scale]
        else:
            channels = [(shape - shape.mean(1, keepdim=True)) / self.in_scale]
        if self.with_errors:
            channels.append(x[:, 1] + 1.5)
        if self.with_mask:
            channels.append(x[:, -1])
        found = self.dense(self.convolutions(torch.stack(channels, dim=1)))
        if not self.gaussian:
            return found, None
        return found[:, : self.n_out], found[:, self.n_out :].clamp(-12.0, 6.0)

    def predict(self, x: np.ndarray, *, batch_size: int = 2048) -> tuple[np.ndarray, np.ndarray]:
        """`spectool.models.layers.predict_normal` of encoded inputs (N, n_in); errors are not calibrated."""
        return predict_normal(self, x, batch_size=batch_size)


def band_loss(model: NarrowBandCNN, batch: dict, step) -> dict[str, torch.Tensor]:
    """Mean squared error of standardised outputs, or with a Gaussian head -log likelihood, for `fit`."""
    y = (batch["y"] - model.out_mean) / model.out_scale
    known = torch.isfinite(y)
    mean, log_var = model(batch["x"])
    squared = torch.where(known, y - mean, 0.0).square()
    count = known.sum().clamp(min=1)
    mse = (squared * model.out_scale.square()).sum() / count
    if log_var is None:
        return {"loss": squared.sum() / count, "mse": mse}
    spread = torch.where(known, log_var, 0.0)
    return {"loss": 0.5 * (squared * torch.exp(-spread) + spread).sum() / count, "mse": mse}


@dataclass(frozen=True)
class NoisyBands:
    """Adds noise to each spectrum, and hides bands, anew for each batch; for the `augment` of `fit`."""

    model: NarrowBandCNN
    clean: float = 0.2
    sn: tuple[float, float] = (5.0, 200.0)
    jitter: float = 0.3
    gaps: float = 0.3

    def __post_init__(self):
        if not (self.model.with_errors and self.model.with_mask):
            raise ValueError("noise is for a network that takes errors in and does with missing bands")

    def __call__(self, batch: dict, step) -> dict:
        """The batch with noise and gaps in ``x``."""
        return {**batch, "x": self.disturb(batch["x"], step.generator)}

    def disturb(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Encoded inputs (N, n_in) of noise-free spectra, with noise and gaps."""
        n, n_bands = len(x), len(self.model.bands)
        magnitude, _, missing = x.unflatten(1, (3, n_bands)).unbind(1)

        def random(*shape):
            return torch.rand(n, *shape, generator=generator)

        low, high = self.sn
        factor = torch.exp(self.jitter * torch.randn(n, n_bands, generator=generator))
        relative = factor * (low / high) ** random(1) / low * 10 ** (0.4 * magnitude)
        noisy = random(1) >= self.clean
        relative = torch.where(noisy, relative, 0.0)
        flux = 1.0 + relative * torch.randn(n, n_bands, generator=generator)
        gone = (missing > 0) | (flux <= 0) | (flux < MIN_SN * relative)
        gone |= self._gaps(random, n_bands) & (random(1) < self.gaps)
        flux = torch.where(gone, 1.0, flux)
        magnitude = torch.where(gone, 0.0, magnitude - MAG_PER_LN * torch.log(flux))
        error = torch.where(gone, 0.0, MAG_PER_LN * relative / flux)
        return torch.cat([magnitude, torch.log10(error.clamp(*ERROR_RANGE)), gone.float()], dim=1)

    @staticmethod
    def _gaps(random, n_bands: int) -> torch.Tensor:
        """Bands to hide (N, band): a run at either end, and some of the others."""
        place = (torch.arange(n_bands) + 0.5) / n_bands
        place = torch.where(random(1) < 0.5, place, 1.0 - place)
        return (place < 0.5 * random(1)) | (random(n_bands) < 0.3 * random(1))


SCALINGS = ("linear", "asinh")
KERNEL_SIGMA = 0.05
"""Standard deviation of initial weights: the default of Keras's RandomNormal, which the paper names."""


class SedMLP(nn.Module):
    """Dense layers with ReLU from fluxes and redshift to one or more properties (Section 2.3).

    Inputs are standardised: no mean, unit variance over the training galaxies. Beyond the paper it can take the errors
    of the fluxes in, do with missing bands, and say how sure it is.

    Parameters
    ----------
    bands
        Names of the bands, in the order of the fluxes.
    hidden
        Widths of the hidden layers.
    outputs, units
        Name and unit of each property.
    scaling
        ``"linear"``: fluxes and redshift as they are, as in the paper. ``"asinh"``: asinh(flux / s), with s the median
        error of the band, linear through zero and logarithmic far above, and the logarithm of the redshift.
    with_errors
        Take in the logarithm of each flux's error, held within the training galaxies' range: beyond it, a network would
        be surer than it has ever had reason to be.
    with_mask
        Take in which bands are missing: their fluxes and errors are replaced by the mean ones, and a channel per band
        tells so. Without, a galaxy with a missing band has no prediction.
    gaussian
        Give a variance beside each property.
    seed
        Of the initial weights: an int or a `numpy.random.Generator`.

    Attributes
    ----------
    groups : dict of str to list of int
        Columns of the inputs that each band, and ``"redshift"``, has.

    Raises
    ------
    ValueError
        If a band comes twice, there is not a unit for each output, or the scaling is unknown.
    """

    def __init__(
        self,
        *,
        bands: Sequence[str],
        hidden: Sequence[int],
        outputs: Sequence[str],
        units: Sequence[str],
        scaling: str = "linear",
        with_errors: bool = False,
        with_mask: bool = False,
        gaussian: bool = False,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        if len(set(bands)) != len(bands):
            raise ValueError(f"a band comes twice among {', '.join(bands)}")
        if len(units) != len(outputs):
            raise ValueError(f"{len(units)} units for {len(outputs)} outputs")
        if scaling not in SCALINGS:
            raise ValueError(f"scaling must be one of {', '.join(SCALINGS)}, not {scaling!r}")
        self.config = {
            "bands": list(bands),
            "hidden": [int(h) for h in hidden],
            "outputs": list(outputs),
            "units": list(units),
            "scaling": scaling,
            "with_errors": bool(with_errors),
            "with_mask": bool(with_mask),
            "gaussian": bool(gaussian),
        }
        self.bands, self.outputs, self.units = tuple(bands), tuple(outputs), tuple(units)
        self.scaling, self.gaussian = scaling, bool(gaussian)
        self.with_errors, self.with_mask = bool(with_errors), bool(with_mask)
        n = len(bands)
        blocks = 1 + self.with_errors + self.with_mask
        self.n_in, self.n_out = 1 + n * blocks, len(outputs)
        # redshift, fluxes, then errors and marks of missing bands
        self.groups = {band: [1 + j + n * k for k in range(blocks)] for j, band in enumerate(bands)}
        self.groups["redshift"] = [0]
        self.register_buffer("softening", torch.ones(n))
        self.register_buffer("in_mean", torch.zeros(self.n_in))
        self.register_buffer("in_scale", torch.ones(self.n_in))
        self.register_buffer("out_mean", torch.zeros(self.n_out))
        self.register_buffer("out_scale", torch.ones(self.n_out))
        self.register_buffer("error_range", torch.tensor([[-30.0], [30.0]]).repeat(1, n))
        self.register_buffer("redshift_range", torch.tensor([0.0, torch.inf]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.default_rng(seed).integers(2**62)))
            layers = []
            for n_in, n_out in itertools.pairwise([self.n_in, *hidden]):
                layers += [nn.Linear(n_in, n_out), nn.ReLU()]
            last = nn.Linear([self.n_in, *hidden][-1], self.n_out * (2 if gaussian else 1))
            self.dense = nn.Sequential(*layers, last)
            for layer in self.dense[::2]:
                nn.init.normal_(layer.weight, std=KERNEL_SIGMA)
                nn.init.zeros_(layer.bias)

    def set_statistics(self, inputs, labels: np.ndarray) -> None:
        """Take means and scales from training galaxies.

        Parameters
        ----------
        inputs
            `spectool.models.bands.SedInputs`, missing values left out.
        labels
            (N, n_out); those not finite are left out.

        Raises
        ------
        ValueError
            If an output has no finite label, or a band no flux.
        """
        flux, error = (np.where(inputs.mask, np.nan, values) for values in (inputs.flux, inputs.error))
        labels = np.where(np.isfinite(labels), labels, np.nan)
        for what, names, values in (("output", self.outputs, labels), ("band", self.bands, flux)):
            empty = np.flatnonzero(np.isnan(values).all(axis=0))
            if len(empty):
                raise ValueError(f"{what} {names[empty[0]]} has no finite value to train on")
        self.softening.copy_(torch.from_numpy(np.nanmedian(error, axis=0)))
        log_error = np.log10(np.maximum(error, 1e-30))
        self.error_range.copy_(
            torch.from_numpy(np.stack([f(log_error, axis=0) for f in (np.nanmin, np.nanmax)]))
        )
        self.in_mean.zero_()
        self.in_scale.fill_(1.0)
        n = len(self.bands)
        raw = self._columns(inputs)
        raw[:, 1 : 1 + n * (1 + self.with_errors)][np.tile(inputs.mask, 1 + self.with_errors)] = np.nan
        mean, scale = np.nanmean(raw, axis=0), np.nanstd(raw, axis=0)
        if self.with_mask:  # stays 0 or 1
            mean[-n:], scale[-n:] = 0.0, 1.0
        self.in_mean.copy_(torch.from_numpy(mean))
        self.in_scale.copy_(torch.from_numpy(np.where(scale > 0, scale, 1.0)))
        self.out_mean.copy_(torch.from_numpy(np.nanmean(labels, axis=0)))
        scale = np.nanstd(labels, axis=0)
        self.out_scale.copy_(torch.from_numpy(np.where(scale > 0, scale, 1.0)))
        redshift = inputs.redshift[np.isfinite(inputs.redshift)]
        self.redshift_range.copy_(torch.tensor([redshift.min(), redshift.max()]))

    def encode(self, inputs) -> np.ndarray:
        """Standardised inputs (N, n_in), float32, of a `SedInputs`; NaN in what is missing without a mask channel."""
        found = (self._columns(inputs) - self.in_mean.numpy()) / self.in_scale.numpy()
        n = len(self.bands)
        missing = np.tile(inputs.mask, 1 + self.with_errors)
        found[:, 1 : 1 + missing.shape[1]][missing] = 0.0 if self.with_mask else np.nan
        if self.with_mask:
            found[:, -n:] = inputs.mask
        return found.astype(np.float32)

    def _columns(self, inputs) -> np.ndarray:
        """Inputs (N, n_in), float64, before they are standardised; 1 Jy in place of what is missing."""
        flux, error = (np.where(inputs.mask, 1.0, values) for values in (inputs.flux, inputs.error))
        redshift = np.asarray(inputs.redshift, dtype=float)[:, None]
        if self.scaling == "asinh":
            flux = np.arcsinh(flux / self.softening.numpy())
            redshift = np.log10(np.clip(redshift, 1e-4, None))
        blocks = [redshift, flux]
        if self.with_errors:
            blocks.append(np.clip(np.log10(np.maximum(error, 1e-30)), *self.error_range.numpy()))
        if self.with_mask:
            blocks.append(inputs.mask.astype(float))
        return np.concatenate(blocks, axis=1)

    def hide(self, x, hidden):
        """Encoded inputs (N, n_in), array or tensor, with more bands missing, ``hidden`` (N, n_bands) True."""
        if not self.with_mask:
            raise ValueError("this network has no mask channel: it cannot do without a band")
        tensor = isinstance(x, torch.Tensor)
        out, n = (x.clone() if tensor else x.copy()), len(self.bands)
        tiles = [hidden] * (1 + self.with_errors)
        gone = torch.cat(tiles, dim=1) if tensor else np.concatenate(tiles, axis=1)
        out[:, 1 : 1 + gone.shape[1]][gone] = 0.0
        out[:, -n:][hidden] = 1.0
        return out

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mean and log variance (None without a Gaussian head), (B, n_out), of standardised outputs, for (B, n_in)."""
        found = self.dense(x)
        if not self.gaussian:
            return found, None
        return found[:, : self.n_out], found[:, self.n_out :].clamp(-12.0, 6.0)

    def predict(self, x: np.ndarray, *, batch_size: int = 8192) -> tuple[np.ndarray, np.ndarray]:
        """`spectool.models.layers.predict_normal` of encoded inputs (N, n_in); errors are not calibrated."""
        return predict_normal(self, x, batch_size=batch_size)


def sed_loss(model: SedMLP, batch: dict, step) -> dict[str, torch.Tensor]:
    """Mean absolute error of standardised outputs (Table 2), or with a Gaussian head -log likelihood, for `fit`."""
    y = (batch["y"] - model.out_mean) / model.out_scale
    known = torch.isfinite(y)
    mean, log_var = model(batch["x"])
    off = torch.where(known, y - mean, 0.0)
    count = known.sum().clamp(min=1)
    mae = (off.abs() * model.out_scale).sum() / count
    if log_var is None:
        return {"loss": off.abs().sum() / count, "mae": mae}
    spread = torch.where(known, log_var, 0.0)
    return {"loss": 0.5 * (off.square() * torch.exp(-spread) + spread).sum() / count, "mae": mae}


N_FOLDS = 4
VALIDATION = 0.2
"""Part of the training spectra (Set A) or galaxies (Set B) that stops the training."""


def split_spectra(sample: xr.Dataset, *, by: str, n_folds: int = N_FOLDS, seed=0) -> np.ndarray:
    """Fold of each spectrum (spectrum,), int."""
    rng = np.random.default_rng(seed)
    galaxies, which = np.unique(sample["galaxy_index"].values, return_inverse=True)
    if by == "galaxy":
        if len(galaxies) < n_folds:
            raise ValueError(f"{len(galaxies)} galaxies cannot be split into {n_folds} folds")
        return (rng.permutation(len(galaxies)) % n_folds)[which]
    if by != "spectrum":
        raise ValueError(f'spectra are split by "spectrum" or by "galaxy", not by {by!r}')
    # Shuffled within each galaxy, then dealt out in turn, from a fold that differs from galaxy to galaxy.
    order = np.lexsort((rng.random(len(which)), which))
    first = np.searchsorted(which[order], np.arange(len(galaxies)))
    place = (
        np.arange(len(which)) - first[which[order]] + rng.integers(n_folds, size=len(galaxies))[which[order]]
    )
    fold = np.empty(len(which), dtype=int)
    fold[order] = place % n_folds
    return fold


def set_a_folds(sample: xr.Dataset, *, seed=0) -> np.ndarray:
    """Set A: a quarter of the spectra of each galaxy in each of four folds."""
    return split_spectra(sample, by="spectrum", seed=seed)


def set_b_folds(sample: xr.Dataset, *, seed=0) -> np.ndarray:
    """Set B: a quarter of the galaxies, with all their spectra, in each of four folds."""
    return split_spectra(sample, by="galaxy", seed=seed)


def hold_out(sample: xr.Dataset, rows: np.ndarray, *, by: str, share: float = VALIDATION, seed=0):
    """Split rows of training spectra into those that train and those that stop the training."""
    rng = np.random.default_rng(seed)
    label = rows if by == "spectrum" else sample["galaxy_index"].values[rows]
    names = np.unique(label)
    held = rng.permutation(names)[: max(1, round(share * len(names)))]
    valid = np.isin(label, held)
    return rows[~valid], rows[valid]
