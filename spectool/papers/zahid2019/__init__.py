"""Zahid, Ho & Kudritzki (2019): star-forming galaxy spectra and machine learning models, a draft."""

from spectool.papers.zahid2019.network import load, train
from spectool.papers.zahid2019.reader import make_predictor, predict
from spectool.papers.zahid2019.sample import make_sample, read_products, rebuild

__all__ = ["load", "make_predictor", "make_sample", "predict", "read_products", "rebuild", "train"]
