"""Pure functions: tensors in, scalar out, fp32 inside."""

from methods.losses.info_nce import info_nce, nt_xent, queue_nce
from methods.losses.precision import full_precision, unit_norm
from methods.losses.regression import negative_cosine
