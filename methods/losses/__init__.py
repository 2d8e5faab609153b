"""Pure functions: tensors in, scalar out, fp32 inside."""

from methods.losses.info_nce import nt_xent
