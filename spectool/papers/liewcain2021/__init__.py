"""Liew-Cain et al. (2021): stellar populations from narrow-band surveys with convolutional neural networks."""

from spectool.papers.liewcain2021.network import load_networks as load
from spectool.papers.liewcain2021.network import predict_populations as predict
from spectool.papers.liewcain2021.network import read_experiments as read_products
from spectool.papers.liewcain2021.network import train_cnn as train
from spectool.papers.liewcain2021.sample import make_liewcain2021 as make_sample

__all__ = ["load", "make_sample", "predict", "read_products", "train"]
