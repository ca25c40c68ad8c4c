"""Models: the convolutional beta-VAE, small multilayer perceptrons, their training and their storage."""
