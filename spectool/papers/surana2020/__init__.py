"""Surana, Wadadekar, Bait & Bhosle, "Predicting star formation properties of galaxies using deep learning" (2020)."""

from spectool.papers.surana2020.network import load_networks as load
from spectool.papers.surana2020.network import predict_properties as predict
from spectool.papers.surana2020.network import train_network as train
from spectool.papers.surana2020.sample import make_surana2020 as make_sample
from spectool.papers.surana2020.sample import read_surana2020 as rebuild

__all__ = ["load", "make_sample", "predict", "rebuild", "train"]
