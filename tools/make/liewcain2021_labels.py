"""Fit some hundred spectra of the mock CALIFA sample with pPXF, and print how fitted labels err.

    python -m tools.make.liewcain2021_labels [--galaxies 36] [--per-galaxy 6] [--sn 40] [--seed 6] [--table FILE.nc]

What it prints goes into `spectool.papers.liewcain2021.sample.MEASURED`; the defaults print what is there.
Five minutes on one
core.
"""

import argparse

import numpy as np

from spectool.papers.liewcain2021.sample import FITTED, LABELS, REGUL, SN, fit_error_model, fit_labels
from spectool.surveys.califa import draw_califa

SAMPLE_SEED = 2021


def main(arguments=None):
    """Fit, print, and write the table if asked; returns the ErrorModel."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--galaxies", type=int, default=36)
    parser.add_argument("--per-galaxy", type=int, default=6)
    parser.add_argument("--sn", type=float, default=SN, help="per Angstrom at 5500 A")
    parser.add_argument("--regul", type=float, default=REGUL, help="pPXF's regularisation")
    parser.add_argument("--seed", type=int, default=6, help="of the choice of spectra and their noise")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--table", help="netCDF file for the fitted labels")
    options = parser.parse_args(arguments)
    sample = draw_califa(seed=SAMPLE_SEED, progress=False)
    labels = fit_labels(
        sample,
        n_galaxies=options.galaxies,
        per_galaxy=options.per_galaxy,
        seed=options.seed,
        sn=options.sn,
        regul=options.regul,
        n_workers=options.workers,
    )
    if options.table:
        labels.to_netcdf(options.table)
    model = fit_error_model(labels)
    report(labels, model)
    return model


def report(labels, model):
    """Print the model, and the bias and scatter of the labels that it was made from."""
    for name, values in model._asdict().items():
        print(f"{name} = {np.round(values, 4).tolist()}")
    for true, fitted in zip(LABELS, FITTED, strict=True):
        error = labels[fitted].values - labels[true].values
        print(f"{true}: bias {np.nanmedian(error):.3f}, scatter {np.nanstd(error):.3f} dex")
    print(
        f"{int((labels['fit_status'] != 0).sum())} of {labels.sizes['spectrum']} fits failed; "
        f"{float(labels['fit_seconds'].mean()):.2f} s each"
    )


if __name__ == "__main__":
    main()
