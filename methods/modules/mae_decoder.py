"""MAE's decoder: a small transformer that guesses the pixels of all patches from the tokens of the visible ones.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377, section 3.
"""

import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from methods.modules.masked_vit import start_weights
from methods.modules.vit import fixed_positions


class MAEDecoder(nn.Module):
    """Fills one trained mask token in for every hidden patch, then mixes all tokens and reads pixels off them.

    Its parameters are named as in the authors' code, where `decoder_` stands before the names (but `mask_token`).
    """

    def __init__(
        self,
        feature_dim: int,
        dim: int,
        depth: int,
        num_heads: int,
        grid_size: tuple[int, int],
        num_pixels: int,
        num_prefix: int,
    ) -> None:
        """
        Args:
            feature_dim: D, size of the encoder's tokens.
            dim: size of the decoder's tokens.
            depth: transformer blocks.
            num_heads: attention heads of each; divides `dim`.
            grid_size: patches from top to bottom and from left to right, L in all.
            num_pixels: P, numbers in a patch.
            num_prefix: tokens that stand before the patches, as the class token does.

        Raises:
            UserError: the sizes do not fit together.
        """
        if min(dim, depth, num_heads) < 1 or dim % num_heads:
            raise UserError(
                f"MAE: decoder_dim={dim}, decoder_depth={depth} and decoder_heads={num_heads} must be at least 1, and "
                "the heads must divide decoder_dim."
            )
        from timm.layers import LayerNorm  # a second of import time that other methods need not pay
        from timm.models.vision_transformer import Block

        super().__init__()
        self.num_prefix = num_prefix
        self.embed = nn.Linear(feature_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim).normal_(std=0.02))
        self.pos_embed = fixed_positions(grid_size, dim, num_prefix, along_rows=True)
        self.blocks = nn.Sequential(*(Block(dim, num_heads, qkv_bias=True, norm_layer=LayerNorm) for _ in range(depth)))
        self.norm = LayerNorm(dim)  # as in the encoder, 1e-6 is added to the variance
        self.pred = nn.Linear(dim, num_pixels)
        start_weights(self)

    def forward(self, tokens: Tensor, restore: Tensor) -> Tensor:
        """Pixels of all patches, visible ones too.

        Args:
            tokens: [B, num_prefix + N, D] of the encoder.
            restore: [B, L] int64, for each patch its place among the visible and then the hidden ones.

        Returns:
            [B, L, P], the patches along the rows.
        """
        y = self.embed(tokens)
        prefix, visible = y[:, : self.num_prefix], y[:, self.num_prefix :]
        mask_tokens = self.mask_token.expand(len(y), restore.shape[1] - visible.shape[1], -1)
        patches = torch.cat([visible, mask_tokens], dim=1).gather(1, restore[..., None].expand(-1, -1, y.shape[2]))
        y = torch.cat([prefix, patches], dim=1) + self.pos_embed
        return self.pred(self.norm(self.blocks(y))[:, self.num_prefix :])
