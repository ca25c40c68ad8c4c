"""Marziano, "Understanding Galaxy Populations and Their Evolution Through Machine Learning" (2024)."""

from spectool.papers.marziano2024.network import load, make_predictor, predict, train
from spectool.papers.marziano2024.sample import make_sample

__all__ = ["load", "make_predictor", "make_sample", "predict", "train"]
