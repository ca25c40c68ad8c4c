"""Rebinning a batch is rebinning each of its spectra, and loses no flux."""

import numpy as np

from spectool.spectra import pixel_edges, rebin_common, rebin_matrix, rebin_spectra


def make_batch(rng, n=5):
    edges_in = pixel_edges(10 ** np.arange(3.58, 3.70, 1e-4)) / (1 + rng.uniform(0, 0.3, (n, 1)))
    edges_out = np.broadcast_to(np.linspace(3000.0, 4500.0, 700), (n, 700))
    flux = rng.lognormal(size=(n, edges_in.shape[1] - 1))
    return flux, edges_in, edges_out


def test_batch_equals_one_by_one(rng):
    flux, edges_in, edges_out = make_batch(rng)
    variance, good = flux / 10, rng.random(flux.shape) > 0.1
    got = rebin_spectra(flux, variance, good, edges_in, edges_out)
    for row in range(len(flux)):
        matrix = rebin_matrix(edges_in[row], edges_out[row]).toarray() * good[row]
        reach = np.clip(
            np.minimum(edges_out[row][1:], edges_in[row][-1])
            - np.maximum(edges_out[row][:-1], edges_in[row][0]),
            0,
            None,
        )
        matrix *= (reach / np.diff(edges_out[row]))[:, None]
        covered = matrix.sum(axis=1)
        some = covered > 1e-9
        np.testing.assert_allclose(got[2][row], covered, atol=1e-8)
        np.testing.assert_allclose(got[0][row][some], (matrix @ flux[row])[some] / covered[some], rtol=1e-6)
        np.testing.assert_allclose(
            got[1][row][some], (matrix**2 @ variance[row])[some] / covered[some] ** 2, rtol=1e-6
        )


def test_flux_is_conserved(rng):
    flux, edges_in, _ = make_batch(rng)
    edges_out = np.broadcast_to(np.linspace(2500.0, 5500.0, 1234), (len(flux), 1234))
    out, _, covered = rebin_spectra(flux, flux, np.ones(flux.shape, bool), edges_in, edges_out)
    total = (out * covered * np.diff(edges_out)).sum(axis=1)
    np.testing.assert_allclose(total, (flux * np.diff(edges_in)).sum(axis=1), rtol=1e-9)


def test_bad_pixels_are_not_looked_at(rng):
    flux, edges_in, edges_out = make_batch(rng)
    good = rng.random(flux.shape) > 0.3
    spoilt = np.where(good, flux, np.nan)
    for a, b in zip(
        rebin_spectra(flux, flux, good, edges_in, edges_out),
        rebin_spectra(spoilt, spoilt, good, edges_in, edges_out),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_spectra_with_common_pixels_rebin_alike(rng):
    flux, edges_in, edges_out = make_batch(rng)
    edges_out = edges_out / (1 + rng.uniform(0, 0.2, (len(flux), 1)))
    flux[1, 40:60] = np.nan
    everywhere = np.broadcast_to(edges_in[0], edges_in.shape)
    expected, _, covered = rebin_spectra(flux, flux, np.isfinite(flux), everywhere, edges_out)
    got, got_covered = rebin_common(flux, edges_in[0], edges_out)
    np.testing.assert_allclose(got_covered, covered, atol=1e-7)
    some = covered > 1e-6
    np.testing.assert_allclose(got[some], expected[some], rtol=1e-6)
    assert (got[got_covered == 0] == 0).all() and 0 < some.sum() < some.size
