from datamodules.augment.augment import Augment
from datamodules.augment.clean import CleanView
from datamodules.augment.draws import Draws, ViewDraws
from datamodules.augment.recipes import RECIPES, recipe
from datamodules.augment.spec import ViewSpec
