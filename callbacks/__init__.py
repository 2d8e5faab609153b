"""Callbacks that act (teacher, queue) and that watch (probe, kNN, collapse, progress, report)."""

from callbacks.finite import NonFiniteGuard
from callbacks.knn import KNNMonitor
from callbacks.momentum import MomentumUpdate
from callbacks.preemption import Preemption
from callbacks.probe import OnlineLinearProbe
from callbacks.progress import ProgressBar
from callbacks.queue import QueueUpdate
from callbacks.rank_watch import RankWatch
from callbacks.reconstruction import ReconstructionMonitor
from callbacks.report import RunReport
from callbacks.representation import RepresentationMonitor
from callbacks.stopwatch import Stopwatch
