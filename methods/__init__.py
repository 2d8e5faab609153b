"""Methods of self-supervised learning; importing them here is what makes `--model SimCLR` resolve."""

from methods.adco import AdCo
from methods.align_uniform import AlignUniform
from methods.align_uniform_moco import AlignUniformMoCo
from methods.barlow_twins import BarlowTwins
from methods.byol import BYOL
from methods.dcl import DCL
from methods.detco import DetCo
from methods.dino import DINO
from methods.evaluation import FineTune, KNNEval, LinearEval
from methods.fast_moco import FastMoCo
from methods.jigclu import JigClu
from methods.mae import MAE
from methods.moco import MoCo
from methods.moco_v3 import MoCoV3
from methods.nnclr import NNCLR
from methods.relic import ReLIC
from methods.relicv2 import ReLICv2
from methods.rotation import RotationPrediction
from methods.simclr import SimCLR
from methods.simsiam import SimSiam
from methods.supcon import SupCon
from methods.swav import SwAV
from methods.vicreg import VICReg
