"""Damaged, cut, shuffled and edited files come out as data or as a refusal that names the file, never otherwise."""

import io
import os
import re
import warnings
from collections import Counter

import numpy as np
from astropy.io import fits
from astropy.table import Table

from spectool.surveys import packaged_spectra, read_califa_cube, read_photometry, read_spectrum

N_FILES = int(os.environ.get("FUZZ_FILES", "300"))
PIXELS = 200
WAVE = np.linspace(4000.0, 7000.0, PIXELS)


def packed(hdus):
    file = io.BytesIO()
    fits.HDUList(hdus).writeto(file, output_verify="silentfix")
    return file.getvalue()


def as_text(table, kind):
    file = io.StringIO()
    table.write(file, format=kind)
    return file.getvalue().encode()


def originals():
    """Small files of each kind: name -> (reader, content)."""
    table = Table({"wavelength": WAVE, "flux": 5 + np.sin(WAVE / 50), "error": np.full(PIXELS, 0.1)})
    table["flux"].unit, table["wavelength"].unit = "erg / (s cm2 Angstrom)", "Angstrom"
    flags = table.copy()
    flags["mask"] = np.arange(PIXELS) % 17 == 0
    vectors = Table({"WAVE": WAVE[None], "FLUX": table["flux"][None], "IVAR": np.full((1, PIXELS), 9.0)})
    axis = {"CRVAL1": 4000.0, "CDELT1": 15.0, "CRPIX1": 1.0, "CTYPE1": "WAVE", "CUNIT1": "Angstrom", "Z": 0.1}
    image = fits.PrimaryHDU(table["flux"].astype("f4").data, fits.Header(axis))
    stat = fits.ImageHDU(np.full(PIXELS, 0.01, "f4"), name="STAT")
    rows = fits.PrimaryHDU(
        np.ones((5, PIXELS), "f4"), fits.Header({"COEFF0": 3.6, "COEFF1": 1e-4, "DC-FLAG": 1})
    )
    bands = Table(
        {
            "u": [0.1, 0.2],
            "u_err": [0.01, 0.01],
            "r": [0.5, 0.6],
            "r_err": [0.02, 0.03],
            "redshift": [0.1, 0.2],
        }
    )
    cube = {
        "CRVAL3": 4000.0,
        "CDELT3": 15.0,
        "CRPIX3": 1.0,
        "CTYPE3": "AWAV",
        "CUNIT3": "Angstrom",
        "REDSHIFT": 0.01,
    }
    cube = fits.PrimaryHDU(np.ones((PIXELS, 3, 3), "f4"), fits.Header(cube))
    errors = fits.ImageHDU(np.ones((PIXELS, 3, 3), "f4"), name="ERROR")
    return {
        "table.fits": (read_spectrum, packed([fits.PrimaryHDU(), fits.table_to_hdu(flags)])),
        "vectors.fits": (read_spectrum, packed([fits.PrimaryHDU(), fits.table_to_hdu(vectors)])),
        "image.fits": (read_spectrum, packed([image, stat])),
        "rows.fits": (read_spectrum, packed([rows])),
        "sdss.fits": (read_spectrum, packaged_spectra()["NGC 3522"].read_bytes()),
        "table.csv": (read_spectrum, as_text(table, "ascii.csv")),
        "table.ecsv": (read_spectrum, as_text(flags, "ascii.ecsv")),
        "bands.csv": (read_photometry, as_text(bands, "ascii.csv")),
        "bands.fits": (read_photometry, packed([fits.PrimaryHDU(), fits.table_to_hdu(bands)])),
        "cube.fits": (read_califa_cube, packed([cube, errors])),
    }


def cut(content, rng):
    return content[: rng.integers(len(content))]


def flip_bytes(content, rng):
    changed = bytearray(content)
    for place in rng.integers(min(len(content), 8000), size=rng.integers(1, 12)):
        changed[place] = rng.integers(256)
    return bytes(changed)


def swap_columns(content, rng):
    """Cells of text trade places; FITS columns trade names."""
    words = sorted(set(re.findall(rb"[A-Za-z_]{4,12}", content[:6000])))
    if len(words) < 2:
        return content
    first, second = (words[k] for k in rng.choice(len(words), 2, replace=False))
    size = max(len(first), len(second))
    swapped = content.replace(first, b"\0" * len(first)).replace(second.ljust(size)[:size], first.ljust(size))
    return swapped.replace(b"\0" * len(first), second.ljust(len(first))[: len(first)])


def drop_header(content, rng):
    """Some cards of a FITS header, or lines of a text, are blanked."""
    if content.startswith(b"SIMPLE"):
        changed = bytearray(content)
        for card in rng.integers(1, 72, size=rng.integers(1, 6)):
            changed[80 * card : 80 * card + 80] = b" " * 80
        return bytes(changed)
    lines = content.splitlines(keepends=True)
    drop = set(rng.integers(len(lines), size=rng.integers(1, 6)))
    return b"".join(line for k, line in enumerate(lines) if k not in drop)


def edit_numbers(content, rng):
    """Numbers become words, infinities, or far too large."""
    words = [b"NULL", b"nan", b"inf", b"-1", b"0", b"1e400", b"--", b"T", b"''", b"99999999"]
    places = [m.span() for m in re.finditer(rb"[0-9][0-9.]+", content[:6000])]
    for k in rng.integers(len(places), size=rng.integers(1, 6)):
        start, end = places[k]
        content = (
            content[:start]
            + words[rng.integers(len(words))].ljust(end - start)[: end - start]
            + content[end:]
        )
    return content


MUTATIONS = [cut, flip_bytes, swap_columns, drop_header, edit_numbers]


def test_no_damage_brings_anything_but_data_or_a_refusal(tmp_path):
    rng, files, outcomes, faults = np.random.default_rng(20261201), originals(), Counter(), []
    for number in range(N_FILES):
        name = list(files)[number % len(files)]
        read, content = files[name]
        mutate = MUTATIONS[rng.integers(len(MUTATIONS))]
        path = tmp_path / name
        path.write_bytes(mutate(content, rng))
        options = {"units": "mJy"} if read is read_photometry else {"redshift": 0.1}
        fault = f"file {number}: {name}, {mutate.__name__}: "
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                sample = read(path, **options)
            except BaseException as error:  # noqa: BLE001 - any is a fault
                outcomes["unforeseen" if "is it damaged?" in str(error) else "refused"] += 1
                if not isinstance(error, ValueError | OSError) or name not in str(error):
                    faults.append(fault + repr(error))
                continue
        outcomes["read"] += 1
        if not np.isfinite(sample["flux"].values[~sample["mask"].values]).all():
            faults.append(fault + "not finite")
    print(f"{N_FILES} damaged files: {dict(outcomes)}")
    assert not faults, "\n".join(faults[:20])
    assert (
        min(outcomes["read"], outcomes["refused"]) > 0.1 * N_FILES and outcomes["unforeseen"] < 0.05 * N_FILES
    )
