"""Methods of self-supervised learning; importing them here is what makes `--model SimCLR` resolve."""

from methods.simclr import SimCLR
