"""Scourfield, Saintonge, de Mijolla & Viti, "De-noising of galaxy optical spectra with autoencoders" (2023)."""

from spectool.papers.scourfield2023.network import load, predict, train
from spectool.papers.scourfield2023.sample import make_sample, read_products, rebuild

__all__ = ["load", "make_sample", "predict", "read_products", "rebuild", "train"]
