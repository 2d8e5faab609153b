"""Modules that more than one method uses."""

from methods.modules.heads import mlp
from methods.modules.queue import FeatureQueue
from methods.modules.teacher import EMAPair, frozen_copy
