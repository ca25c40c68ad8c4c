"""What the galaxy-map dashboard opens with: the sample of the folds, and what the shipped networks predict of it."""

from spectool.models.bands import split_spectra
from spectool.papers.liewcain2021.network import (
    SETS,
    UNITS,
    load_folds,
    load_networks,
    predict_folds,
    predict_populations,
)
from spectool.papers.liewcain2021.sample import make_liewcain2021
from spectool.parallel import single_thread
from spectool.surveys.califa import rebuild_galaxy as rebuild

__all__ = ["ABOUT", "open_maps", "rebuild"]

ABOUT = {
    "with errors": "networks for noise and gaps, of other galaxies; they predict errors, too",
    "Set B": "networks that have seen other galaxies only, as for a galaxy that is new",
    "Set A": "networks that have seen other spectra of this very galaxy, with their labels",
}


def open_maps():
    """Make the sample, and predict it: as the paper's notebook does, from fitted labels."""
    sample = make_liewcain2021()
    with single_thread():
        predictions = {"with errors": predict_populations(sample, load_networks())}
        for letter, by in sorted(SETS.items(), reverse=True):
            fold = split_spectra(sample, by=by)
            predictions[f"Set {letter.upper()}"] = {
                name: predict_folds(sample, fold, load_folds(name, by=by, suffix="_fit")) for name in UNITS
            }
    return sample, predictions
