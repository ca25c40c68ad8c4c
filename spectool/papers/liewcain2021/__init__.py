"""Liew-Cain et al. (2021): stellar populations from narrow-band surveys with convolutional neural networks."""
