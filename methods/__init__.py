"""Methods of self-supervised learning; importing them here is what makes `--model SimCLR` resolve."""

from methods.adco import AdCo
from methods.byol import BYOL
from methods.detco import DetCo
from methods.fast_moco import FastMoCo
from methods.moco import MoCo
from methods.moco_v3 import MoCoV3
from methods.nnclr import NNCLR
from methods.relic import ReLIC
from methods.relicv2 import ReLICv2
from methods.simclr import SimCLR
from methods.simsiam import SimSiam
