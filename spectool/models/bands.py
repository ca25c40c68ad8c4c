"""Networks that read bands: inputs, noise and gaps, network classes, their loss, folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
import xarray as xr
from astropy import units as u
from torch import nn

from spectool.models.layers import Standardised, dense_stack, gaussian_nll, initial_weights, seed_torch
from spectool.prepare import SENTINELS, are_magnitudes

MIN_SN = 1.0  # flux over error below which a narrow band is a non-detection
MAG_PER_LN = 2.5 / np.log(10.0)
ERROR_RANGE = (1e-3, 1.0)  # magnitudes within which errors are told to a network
FACILITY_BANDS = {
    "GALEX": ("FUV", "NUV"),
    "SDSS": ("u", "g", "r", "i", "z"),
    "VIKING": ("X", "Y", "J", "H", "K"),
    "WISE": ("W1", "W2", "W3", "W4"),
    "PACS": ("P100", "P160"),
    "SPIRE": ("S250", "S350", "S500"),
}
"""Bands that are missing together."""
SCALINGS = ("linear", "asinh")
KERNEL_SIGMA = 0.05  # of initial weights: the default of Keras's RandomNormal, which the paper names
N_FOLDS = 4
VALIDATION = 0.2  # part of the training spectra or galaxies that stops the training


@dataclass(frozen=True)
class BandInputs:
    """What a network reads, (N, band) in the order of its bands: fluxes [Jy] with ``redshift`` (N,), or magnitudes."""

    value: np.ndarray
    error: np.ndarray
    mask: np.ndarray
    redshift: np.ndarray | None = None
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.value)

    def take(self, rows) -> BandInputs:
        """Some of the galaxies or spectra."""
        redshift = None if self.redshift is None else self.redshift[rows]
        return BandInputs(self.value[rows], self.error[rows], self.mask[rows], redshift)

    def hide(self, hidden: np.ndarray) -> BandInputs:
        """The same with more bands missing, where `hidden`, of a shape like (N, band), is True."""
        return replace(self, mask=self.mask | hidden)

    def hide_random(self, count: int, *, seed) -> BandInputs:
        """The same without `count` bands, others for each galaxy; those of a smaller count are among them."""
        return self.hide(np.random.default_rng(seed).random(self.mask.shape).argsort(axis=1) < count)


def describe_counts(counts: dict[str, int]) -> str:
    """What was counted, in words."""
    return "; ".join(f"{name}: {count}" for name, count in counts.items() if count) or "nothing amiss"


def join_inputs(*parts: BandInputs) -> BandInputs:
    """Galaxies of several inputs, one after the other."""
    names = ("value", "error", "mask", "redshift")
    return BandInputs(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def read_inputs(sample: xr.Dataset, bands: Sequence[str]) -> BandInputs:
    """Fluxes of a sample as a network of these bands takes them: ``flux``, ``flux_error``, ``redshift`` and ``mask``.

    - Bands that the sample lacks are missing; those that the network does not know are left out. Both are counted.
    - Units are converted to Jy by ``attrs["units"]``; a wrong one is for `spectool.models.outliers` to notice.
    - Values that are not finite, sentinels (-99, 9999, ...), and fluxes whose error is not above 0 are missing.
      Negative fluxes with errors are measurements: kept.
    - "Fluxes" that look like magnitudes are an error if most galaxies have them, else those galaxies lose all bands.
    """
    columns, absent, of_bands = _read_columns(sample, ("flux", "flux_error", "redshift"), bands, float)
    flux, error = columns["flux"], columns["flux_error"]
    checks = {
        "masked": columns["mask"] | absent,
        "no data": ~np.isfinite(flux),
        "sentinel": np.isin(flux, SENTINELS) | np.isin(error, SENTINELS),
        "error not positive": ~(error > 0) | ~np.isfinite(error),
    }
    missing, counts = _count(checks, np.zeros(flux.shape, bool))
    flux, error = flux * _to_jansky(sample["flux"]), error * _to_jansky(sample["flux_error"])
    suspect = are_magnitudes(flux, missing, list(bands), "the sample")[:, None] & ~missing
    counts["fluxes that look like magnitudes"] = int(suspect.sum())
    missing |= suspect
    counts["negative fluxes, kept"] = int((~missing & (flux < 0)).sum())
    return BandInputs(flux, error, missing, sample["redshift"].values.astype(float), counts | of_bands)


def read_bands(sample: xr.Dataset, bands: Sequence[str]) -> BandInputs:
    """Magnitudes of a sample as a network of these bands takes them: of ``flux`` (spectrum, band), f_nu in any unit.

    - As `read_inputs`, but without ``flux_error`` the spectra are free of noise, and there may be no ``mask``.
    - Non-detections, fluxes that are not above 0 or below `MIN_SN` times their error, have no magnitude: missing.
    """
    columns, absent, of_bands = _read_columns(sample, ("flux",), bands, np.float32)
    flux, error = columns["flux"], columns.get("flux_error")
    checks = {"masked": columns["mask"], "no data": ~np.isfinite(flux), "sentinel": np.isin(flux, SENTINELS)}
    if error is not None:
        checks["error not positive"] = ~(error > 0) | ~np.isfinite(error)
    error = np.zeros_like(flux) if error is None else error
    with np.errstate(invalid="ignore"):
        checks["not detected"] = (flux <= 0) | (flux < MIN_SN * error)
    missing, counts = _count(checks, np.broadcast_to(absent, flux.shape).copy())
    safe = np.where(missing, np.float32(1), flux)
    error = np.where(missing, np.float32(0), error) * np.float32(MAG_PER_LN) / safe
    return BandInputs(np.float32(-2.5) * np.log10(safe), error, missing, counts=counts | of_bands)


def _read_columns(sample, required, bands, dtype) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, int]]:
    """Columns (N, band) in the network's order, which bands are absent, and counts of bands that do not fit."""
    _check_columns(sample, required)
    names = [str(band) for band in sample["band"].values]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"bands come twice: {', '.join(twice)}; keep one of each")
    index = np.array([names.index(band) if band in names else -1 for band in bands])
    absent = index < 0
    if absent.all():
        raise ValueError(
            f"none of the network's bands ({', '.join(bands)}) is in the sample: it has {', '.join(names) or 'none'}"
        )
    columns = {}
    for name in ("flux", "flux_error"):
        if name in sample:
            columns[name] = sample[name].transpose(..., "band").values.astype(dtype, copy=False)[:, index]
            columns[name][:, absent] = np.nan
    columns["mask"] = np.zeros(columns["flux"].shape, bool)
    if "mask" in sample:
        columns["mask"] = sample["mask"].transpose(..., "band").values.astype(bool)[:, index]
    unknown = len(set(names) - set(bands))
    counts = {"unknown to the network, left out": unknown, "not in the sample": int(absent.sum())}
    return columns, absent, {f"bands {what}": count for what, count in counts.items()}


def _check_columns(sample, names) -> None:
    lacking = [name for name in names if name not in sample]
    if lacking:
        raise ValueError(f"the sample lacks {', '.join(lacking)}")


def _count(checks, missing) -> tuple[np.ndarray, dict[str, int]]:
    """Missing values, and how many are so for each reason, the first that holds."""
    counts = {}
    for name, bad in checks.items():
        counts[f"fluxes {name}"] = int((bad & ~missing).sum())
        missing |= bad
    return missing, counts


def _to_jansky(values: xr.DataArray) -> float:
    name, unit = values.name, values.attrs.get("units")
    if not unit:
        raise ValueError(f'{name} has no unit: set sample["{name}"].attrs["units"] = "Jy", or what it is')
    try:
        if not isinstance(u.Unit(unit), u.UnitBase):
            raise ValueError("logarithmic")
        return u.Unit(unit).to(u.Jy)
    except (ValueError, u.UnitConversionError) as error:
        raise ValueError(
            f"{name} is in {unit!r}, no flux per frequency ({error}): read magnitudes and the like by "
            "spectool.surveys.tables.read_photometry"
        ) from error


def stack_labels(sample: xr.Dataset, *, suffix: str, outputs: Sequence[str]) -> np.ndarray:
    """Labels (N, property), NaN where not finite: the columns of `outputs`, their names ending in `suffix`."""
    _check_columns(sample, [name + suffix for name in outputs])
    labels = np.stack([sample[name + suffix].values.astype(float) for name in outputs], axis=1)
    return np.where(np.isfinite(labels), labels, np.nan)


def select_usable(inputs: BandInputs, labels, least: int, what: str) -> tuple[BandInputs, np.ndarray]:
    """Those with some label, `least` bands and, where asked for, a redshift."""
    good = np.isfinite(labels).any(axis=1) & ((~inputs.mask).sum(axis=1) >= least)
    if inputs.redshift is not None:
        good &= np.isfinite(inputs.redshift)
    if not good.any():
        raise ValueError(f"nothing for {what} has a label, {least} bands and, where one is read, a redshift")
    return (inputs, labels) if good.all() else (inputs.take(good), labels[good])


def as_arrays(model: BandNetwork, inputs: BandInputs, labels: np.ndarray) -> dict[str, np.ndarray]:
    """What `spectool.models.training.fit` takes: encoded inputs and labels."""
    return {"x": model.encode(inputs), "y": labels.astype("f4")}


class BandNetwork(Standardised):
    """What networks on bands share: names, scales of the outputs, and the last layer.

    `with_errors`: take in the errors of the bands. `with_mask`: take in which are missing; without, a galaxy with a gap
    has no prediction. `gaussian`: give a variance beside each output. ``groups`` are the columns of each band.
    """

    power = 2  # of the residuals whose mean is the loss of a network without a Gaussian head

    def __init__(
        self, *, bands, outputs, units, with_errors=False, with_mask=False, gaussian=False, **own
    ) -> None:
        super().__init__()
        if len(set(bands)) != len(bands):
            raise ValueError(f"a band comes twice among {', '.join(bands)}")
        if len(units) != len(outputs):
            raise ValueError(f"{len(units)} units for {len(outputs)} outputs")
        self.config = own | {"bands": list(bands), "outputs": list(outputs), "units": list(units)}
        self.config |= {"with_errors": with_errors, "with_mask": with_mask, "gaussian": gaussian}
        self.bands, self.outputs, self.units = tuple(bands), tuple(outputs), tuple(units)
        self.with_errors, self.with_mask, self.gaussian = with_errors, with_mask, gaussian
        self.n_channels, self.n_out = 1 + with_errors + with_mask, len(outputs)
        self.add_scales(out=self.n_out)

    def set_statistics(self, inputs: BandInputs, labels: np.ndarray) -> None:
        """Take means and scales from training data with labels (N, n_out); what is missing is left out."""
        self.standardise("out", labels, self.outputs)
        empty = np.flatnonzero(inputs.mask.all(axis=0))
        if len(empty):
            raise ValueError(f"band {self.bands[empty[0]]} has no finite value to train on")

    def _dense(self, widths) -> nn.Sequential:
        """Dense layers with ReLU, and the last one, which is linear."""
        return dense_stack(widths, nn.ReLU).append(
            nn.Linear(widths[-1], self.n_out * (2 if self.gaussian else 1))
        )

    def _split(self, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mean and log variance (None without a Gaussian head), (B, n_out), of standardised outputs."""
        if not self.gaussian:
            return outputs, None
        return outputs[:, : self.n_out], outputs[:, self.n_out :].clamp(-12.0, 6.0)


class NarrowBandCNN(BandNetwork):
    """Two convolutions along the bands, a maximum over neighbouring bands, dense layers (Section 3.1 and Fig. 2)."""

    batch_size = 2048

    def __init__(self, *, filters=(16, 16), kernels=(6, 8), pool=8, hidden=(40,), seed=0, **common) -> None:
        shape = {"filters": list(filters), "kernels": list(kernels), "pool": pool, "hidden": list(hidden)}
        super().__init__(**shape, **common)
        n = len(self.bands)
        if n < pool:
            raise ValueError(f"{n} bands cannot be pooled by {pool}")
        self.n_in = n * self.n_channels
        self.groups = {band: list(range(j, self.n_in, n)) for j, band in enumerate(self.bands)}
        self.add_scales(**{"in": n})
        with initial_weights(seed):
            layers, channels = [], [self.n_channels, *filters]
            for n_in, n_out, kernel in zip(channels[:-1], channels[1:], kernels, strict=True):
                edges = ((kernel - 1) // 2, kernel // 2)
                layers += [nn.ConstantPad1d(edges, 0.0), nn.Conv1d(n_in, n_out, kernel), nn.ReLU()]
            self.convolutions = nn.Sequential(*layers, nn.MaxPool1d(pool), nn.Flatten())
            self.dense = self._dense([filters[-1] * (n // pool), *hidden])

    def set_statistics(self, inputs: BandInputs, labels: np.ndarray) -> None:
        """As `BandNetwork.set_statistics`, of magnitudes less their mean."""
        super().set_statistics(inputs, labels)
        magnitude = np.where(inputs.mask, np.nan, inputs.value).astype(np.float64)
        self.standardise("in", magnitude - np.nanmean(magnitude, axis=1, keepdims=True))

    def encode(self, inputs: BandInputs) -> np.ndarray:
        """Inputs (N, n_in), float32: magnitudes, then errors and marks of missing bands."""
        mask = inputs.mask
        left = np.maximum((~mask).sum(axis=1, keepdims=True), 1)
        magnitude = np.where(mask, np.float32(0), inputs.value)
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
        """Mean and log variance (None without a Gaussian head), (B, n_out), of standardised outputs, for (B, n_in)."""
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
        return self._split(self.dense(self.convolutions(torch.stack(channels, dim=1))))


class SedMLP(BandNetwork):
    """Dense layers with ReLU from fluxes and redshift to one or more properties (Section 2.3).

    `scaling` ``"linear"``: fluxes and redshift as they are, as in the paper. ``"asinh"``: asinh(flux / s), with s the
    median error of the band, linear through zero and logarithmic far above, and the logarithm of the redshift. Errors
    are held within the training galaxies' range: beyond it, a network would be surer than it ever had reason to be.
    """

    power = 1

    def __init__(self, *, hidden: Sequence[int], scaling: str = "linear", seed=0, **common) -> None:
        if scaling not in SCALINGS:
            raise ValueError(f"scaling must be one of {', '.join(SCALINGS)}, not {scaling!r}")
        super().__init__(hidden=list(hidden), scaling=scaling, **common)
        self.scaling = scaling
        n = len(self.bands)
        self.n_in = 1 + n * self.n_channels
        # redshift, fluxes, then errors and marks of missing bands
        self.groups = {band: list(range(1 + j, self.n_in, n)) for j, band in enumerate(self.bands)}
        self.groups["redshift"] = [0]
        self.register_buffer("softening", torch.ones(n))
        self.add_scales(**{"in": self.n_in})
        self.register_buffer("error_range", torch.tensor([[-30.0], [30.0]]).repeat(1, n))
        self.register_buffer("redshift_range", torch.tensor([0.0, torch.inf]))
        with initial_weights(seed):
            self.dense = self._dense([self.n_in, *hidden])
            for layer in self.dense[::2]:
                nn.init.normal_(layer.weight, std=KERNEL_SIGMA)
                nn.init.zeros_(layer.bias)

    def set_statistics(self, inputs: BandInputs, labels: np.ndarray) -> None:
        """As `BandNetwork.set_statistics`, of all inputs, and the ranges of errors and redshift."""
        super().set_statistics(inputs, labels)
        error, n = np.where(inputs.mask, np.nan, inputs.error), len(self.bands)
        self.softening.copy_(torch.from_numpy(np.nanmedian(error, axis=0)))
        log_error = np.log10(np.maximum(error, 1e-30))
        log_range = np.stack([f(log_error, axis=0) for f in (np.nanmin, np.nanmax)])
        self.error_range.copy_(torch.from_numpy(log_range))
        raw = self._columns(inputs)
        raw[:, 1 : 1 + n * (1 + self.with_errors)][np.tile(inputs.mask, 1 + self.with_errors)] = np.nan
        self.standardise("in", raw)
        if self.with_mask:  # stays 0 or 1
            self.in_mean[-n:], self.in_scale[-n:] = 0.0, 1.0
        redshift = inputs.redshift[np.isfinite(inputs.redshift)]
        self.redshift_range.copy_(torch.tensor([redshift.min(), redshift.max()]))

    def encode(self, inputs: BandInputs) -> np.ndarray:
        """Standardised inputs (N, n_in), float32; NaN in what is missing without a mask channel."""
        encoded = (self._columns(inputs) - self.in_mean.numpy()) / self.in_scale.numpy()
        missing = np.tile(inputs.mask, 1 + self.with_errors)
        encoded[:, 1 : 1 + missing.shape[1]][missing] = 0.0 if self.with_mask else np.nan
        if self.with_mask:
            encoded[:, -len(self.bands) :] = inputs.mask
        return encoded.astype(np.float32)

    def _columns(self, inputs) -> np.ndarray:
        """Inputs (N, n_in), float64, before they are standardised; 1 Jy in place of what is missing."""
        flux, error = (np.where(inputs.mask, 1.0, values) for values in (inputs.value, inputs.error))
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

    def hide(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Encoded inputs (N, n_in) with more bands missing, ``hidden`` (N, n_bands) True."""
        if not self.with_mask:
            raise ValueError("this network has no mask channel: it cannot do without a band")
        out, gone = x.clone(), torch.cat([hidden] * (1 + self.with_errors), dim=1)
        out[:, 1 : 1 + gone.shape[1]][gone] = 0.0
        out[:, -len(self.bands) :][hidden] = 1.0
        return out

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mean and log variance (None without a Gaussian head), (B, n_out), of standardised outputs, for (B, n_in)."""
        return self._split(self.dense(x))


def band_loss(model: BandNetwork, batch: dict, step) -> dict[str, torch.Tensor]:
    """Mean square (`NarrowBandCNN`) or absolute (`SedMLP`) error, with a Gaussian head -log likelihood; for `fit`."""
    off, log_var, count = model.residuals(batch)
    squares = model.power == 2
    away, scale = (off.square(), model.out_scale.square()) if squares else (off.abs(), model.out_scale)
    error = {"mse" if squares else "mae": (away * scale).sum() / count}
    return {"loss": away.sum() / count if log_var is None else gaussian_nll(off, log_var, count), **error}


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
        random = partial(torch.rand, generator=generator)
        low, high = self.sn
        factor = torch.exp(self.jitter * torch.randn(n, n_bands, generator=generator))
        relative = factor * (low / high) ** random(n, 1) / low * 10 ** (0.4 * magnitude)
        noisy = random(n, 1) >= self.clean
        relative = torch.where(noisy, relative, 0.0)
        flux = 1.0 + relative * torch.randn(n, n_bands, generator=generator)
        gone = (missing > 0) | (flux <= 0) | (flux < MIN_SN * relative)
        # Gaps: a run at either end, and some of the others.
        place = (torch.arange(n_bands) + 0.5) / n_bands
        place = torch.where(random(n, 1) < 0.5, place, 1.0 - place)
        gaps = (place < 0.5 * random(n, 1)) | (random(n, n_bands) < 0.3 * random(n, 1))
        gone |= gaps & (random(n, 1) < self.gaps)
        flux = torch.where(gone, 1.0, flux)
        magnitude = torch.where(gone, 0.0, magnitude - MAG_PER_LN * torch.log(flux))
        error = torch.where(gone, 0.0, MAG_PER_LN * relative / flux)
        return torch.cat([magnitude, torch.log10(error.clamp(*ERROR_RANGE)), gone.float()], dim=1)


@dataclass(frozen=True)
class RandomBands:
    """Hides bands of each galaxy at random, anew for each batch; for the `augment` of `fit`."""

    model: SedMLP
    full: float = 0.4
    facility: float = 0.2
    single: float = 0.9
    keep: int = 3

    def __call__(self, batch: dict, step) -> dict:
        """The batch with bands hidden in ``x``."""
        n = len(self.model.bands)
        hidden = self.draw(len(batch["x"]), step.generator)
        left = (~hidden & (batch["x"][:, -n:] == 0)).sum(dim=1)
        return {**batch, "x": self.model.hide(batch["x"], hidden & (left >= self.keep)[:, None])}

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Bands to hide, (n, band), before any galaxy is spared for having too few."""
        random = partial(torch.rand, generator=generator)
        rows = [np.isin(self.model.bands, members) for members in FACILITY_BANDS.values()]
        rows = [row for row in rows if row.any()] or [np.zeros(len(self.model.bands), bool)]
        groups = torch.from_numpy(np.array(rows, dtype=np.float32))
        only = (random(n, 1) * len(groups)).long() == torch.arange(len(groups))
        several = random(n, len(groups)) < self.facility
        single = random(n, groups.shape[1]) < self.single * random(n, 1)
        kind = (random(n, 1) * 3).long()
        lost = torch.where(kind == 0, only, several).float() @ groups > 0
        return torch.where(kind == 2, single, lost) & (random(n, 1) >= self.full)

    def hide(self, inputs: BandInputs, *, seed) -> BandInputs:
        """Inputs with bands hidden once, for validation and calibration."""
        hidden = self.draw(len(inputs), seed_torch(seed)).numpy()
        hidden[(~hidden & ~inputs.mask).sum(axis=1) < self.keep] = False
        return inputs.hide(hidden)


def split_spectra(sample: xr.Dataset, *, by: str, seed=0) -> np.ndarray:
    """Fold of each spectrum (spectrum,), 0 to 3: a quarter of the spectra of each galaxy in each (``"spectrum"``), or a
    quarter of the galaxies with all their spectra (``"galaxy"``)."""
    rng = np.random.default_rng(seed)
    galaxies, which = np.unique(sample["galaxy_index"].values, return_inverse=True)
    if by == "galaxy":
        if len(galaxies) < N_FOLDS:
            raise ValueError(f"{len(galaxies)} galaxies cannot be split into {N_FOLDS} folds")
        return (rng.permutation(len(galaxies)) % N_FOLDS)[which]
    if by != "spectrum":
        raise ValueError(f'spectra are split by "spectrum" or by "galaxy", not by {by!r}')
    # Shuffled within each galaxy, then dealt out in turn, from a fold that differs from galaxy to galaxy.
    order = np.lexsort((rng.random(len(which)), which))
    first = np.searchsorted(which[order], np.arange(len(galaxies)))
    start = rng.integers(N_FOLDS, size=len(galaxies))[which[order]]
    fold = np.empty(len(which), dtype=int)
    fold[order] = (np.arange(len(which)) - first[which[order]] + start) % N_FOLDS
    return fold


def hold_out(sample: xr.Dataset, rows: np.ndarray, *, by: str, seed=0):
    """Split rows of training spectra into those that train and those that stop the training."""
    rng = np.random.default_rng(seed)
    label = rows if by == "spectrum" else sample["galaxy_index"].values[rows]
    names = np.unique(label)
    held = rng.permutation(names)[: max(1, round(VALIDATION * len(names)))]
    valid = np.isin(label, held)
    return rows[~valid], rows[valid]
