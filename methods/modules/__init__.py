"""Modules that more than one method uses."""

from methods.modules.heads import mlp
from methods.modules.norms import check_norm_choice, convert_norms, shuffled
from methods.modules.queue import FeatureQueue, LabelQueue, Ring
from methods.modules.teacher import EMAPair, Teacher, frozen_copy
