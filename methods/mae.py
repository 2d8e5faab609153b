"""MAE: hide most patches of an image, encode the rest, and let a small decoder guess the pixels of the hidden ones.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377. Follows facebookresearch/mae
(efb2a80). Deviations: masks follow from seed, epoch and image, not from a generator, so that they do not depend on the
number of ranks.
"""

from typing import Any

import torch
from torch import nn

from callbacks.reconstruction import Reconstruction
from datamodules.errors import UserError
from datamodules.randomness import uniform
from datamodules.views import Views
from methods.base import SSLModule, StepOutput
from methods.losses.masked_pixels import masked_pixel_error, patch_statistics
from methods.modules.mae_decoder import MAEDecoder
from methods.modules.masked_vit import encode_visible, prepare_masked_vit
from methods.modules.masking import num_visible, patchify, random_mask, unpatchify


class MAE(SSLModule):
    """MAE on any plain vision transformer of timm's; features are what that ViT's own pooling makes of the tokens."""

    recipe = "mae"
    num_global_views = 1

    def __init__(
        self,
        mask_ratio: float = 0.75,
        norm_pix: bool = True,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        **base: Any,
    ) -> None:
        """
        Args:
            mask_ratio: share of the patches that are hidden from the encoder.
            norm_pix: targets are patches less their own mean, in units of their own deviation: better features, but
                no pictures, as these two numbers are not predicted.
            decoder_dim: size of the decoder's tokens.
            decoder_depth: blocks of the decoder.
            decoder_heads: attention heads of the decoder.
            base: arguments of `SSLModule`.
        """
        super().__init__(**base)
        vit: Any = self.backbone
        prepare_masked_vit(vit, self.hparams["backbone"]["pretrained"])
        self.mask_ratio, self.norm_pix = mask_ratio, norm_pix
        self.patch_size, self.grid_size = vit.patch_embed.patch_size, vit.patch_embed.grid_size
        self.num_patches: int = vit.patch_embed.num_patches
        N = num_visible(self.num_patches, mask_ratio)
        if not 1 <= N < self.num_patches:
            raise UserError(
                f"MAE: mask_ratio={mask_ratio} leaves {N} of {self.num_patches} patches visible; at least one must be, "
                "and at least one hidden."
            )
        num_pixels = self.patch_size[0] * self.patch_size[1] * vit.in_chans
        sizes = (self.feature_dim, decoder_dim, decoder_depth, decoder_heads, self.grid_size, num_pixels)
        self.decoder = MAEDecoder(*sizes, vit.num_prefix_tokens)

    def networks(self) -> list[nn.Module]:
        """Also each of the encoder's blocks, which training calls without the ViT around them."""
        return [*super().networks(), *self.backbone.blocks]  # pyright: ignore[reportReturnType, reportGeneralTypeIssues]

    def step(self, views: Views) -> StepOutput:
        """Encoder, decoder, loss."""
        (x,) = views.global_views
        mask = random_mask(self.draw(views.index, 0, self.num_patches), self.mask_ratio)
        tokens = encode_visible(self.backbone, x, mask.kept)  # [B, 1 + N, D]
        prediction = self.decoder(tokens, mask.restore)  # [B, L, P]
        loss = masked_pixel_error(prediction, patchify(x, self.patch_size), mask.hidden, self.norm_pix)
        return StepOutput(loss, features=self.backbone.forward_head(tokens))  # pyright: ignore[reportCallIssue]

    def param_groups(self) -> list[dict[str, Any]]:
        """Class and mask token decay, as in the authors' code; biases and norms do not."""
        tokens = [p for name, p in self.named_parameters() if name.endswith("_token")]
        known = {id(token) for token in tokens}
        groups = self.optim.groups(self)
        others = [group | {"params": [p for p in group["params"] if id(p) not in known]} for group in groups]
        return [*others, {"name": "tokens", "params": tokens}]

    @torch.no_grad()
    def reconstruct(self, views: Views) -> Reconstruction:
        """Completes images, each with a mask of its own that is the same at any time and in every run."""
        (x,) = views.global_views
        mask = random_mask(uniform(0, 0, views.index, 0, self.num_patches), self.mask_ratio)
        prediction = self.decoder(encode_visible(self.backbone, x, mask.kept), mask.restore)
        patches, hidden = patchify(x, self.patch_size), mask.hidden[..., None]
        error = masked_pixel_error(prediction, patches, mask.hidden, self.norm_pix)
        caption = f"{self.mask_ratio:.0%} of the patches are hidden; in the completed images the visible ones are true."
        if self.norm_pix:
            mean, std = patch_statistics(patches)
            prediction = prediction * std + mean
            caption += (
                " The network predicts neither mean nor contrast of a patch, so both are taken from the true one."
            )
        made = torch.where(hidden, prediction, patches)
        given, made = (unpatchify(p, self.patch_size, self.grid_size) for p in (patches.masked_fill(hidden, 0), made))
        return Reconstruction(given, made, error, caption)
