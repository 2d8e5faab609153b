"""Data sets as batches of views."""

from datamodules.base import ImageDataModule
from datamodules.cifar import CIFAR10, CIFAR100
from datamodules.digits import Digits
from datamodules.hf import HFImages
from datamodules.image_folder import ImageFolder
from datamodules.webdataset import WebDataset
