"""The loss of a masked autoencoder: squared error on the pixels of hidden patches."""

from torch import Tensor

from methods.losses.precision import full_precision


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each patch, over its pixels and channels together.

    Args:
        patches: [B, L, P].

    Returns:
        Two of [B, L, 1]; the variance has P - 1 in the denominator, and 1e-6 added for patches of one colour.
    """
    return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + 1e-6).sqrt()


@full_precision
def masked_pixel_error(prediction: Tensor, patches: Tensor, hidden: Tensor, norm_pix: bool) -> Tensor:
    """Mean squared error over the hidden patches of the batch; visible ones count nothing.

    He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377, section 3,
    "Reconstruction target".

    Args:
        prediction: [B, L, P], with gradient.
        patches: [B, L, P], the true pixels.
        hidden: [B, L] bool, True = hidden; at least one is.
        norm_pix: the target is each patch less its own mean, in units of its own deviation, not the pixels themselves.

    Returns:
        Scalar mean over the hidden patches of the local batch, in squared units of the target. Where every image has as
        many hidden patches, the mean over ranks is that of the global batch.
    """
    if norm_pix:
        mean, std = patch_statistics(patches)
        patches = (patches - mean) / std
    error = (prediction - patches).square().mean(-1)  # [B, L]
    return (error * hidden).sum() / hidden.sum()
