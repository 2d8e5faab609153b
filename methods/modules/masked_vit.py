"""MAE's encoder: a timm ViT that sees some patches of an image only.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377, section 3 and appendix A.1.
"""

from typing import Any

import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from methods.modules.vit import fix_positions


def prepare_masked_vit(network: nn.Module, pretrained: bool) -> None:
    """Fixes a ViT's positions and draws its weights as the authors do, in place.

    Args:
        network: a timm `VisionTransformer` without a classifier.
        pretrained: it has been trained, so weights and positions stay what they are.

    Raises:
        UserError: the network is something else, or its pooling has weights, which no masked image would train.
    """
    from timm.layers import PatchEmbed  # a second of import time that other methods need not pay
    from timm.models import VisionTransformer

    if not (
        isinstance(network, VisionTransformer)
        and type(network.patch_embed) is PatchEmbed  # a hybrid's patches come from a network of its own
        and network.pos_embed is not None
    ):
        raise UserError(
            f"MAE hides patches from a plain ViT of timm's that has a position embedding, and {type(network).__name__} "
            "is none: choose another --model.backbone.name, such as timm/vit_base_patch16_224."
        )
    if network.attn_pool is not None or list(network.fc_norm.parameters()):
        raise UserError(
            "MAE's encoder ends with the norm of its tokens, and this ViT has weights behind it: for the mean of the "
            "tokens as feature give it --model.backbone.options '{global_pool: avg, fc_norm: false}'."
        )
    if pretrained:
        network.pos_embed.requires_grad_(False)
        return
    fix_positions(network, along_rows=True)
    start_weights(network)
    kernel: Tensor = network.patch_embed.proj.weight  # pyright: ignore[reportAttributeAccessIssue, reportAssignmentType]
    nn.init.xavier_uniform_(kernel.data.flatten(1))
    for token in (network.cls_token, network.reg_token):
        if token is not None:
            nn.init.normal_(token, std=0.02)


def start_weights(network: nn.Module) -> None:
    """Xavier's uniform weights and zero biases for all linear layers, in place."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def encode_visible(network: Any, images: Tensor, kept: Tensor) -> Tensor:
    """Runs a ViT on some patches of each image, which is what makes masking cheap.

    Args:
        network: as prepared by `prepare_masked_vit`.
        images: [B, C, H, W] of the size it is made for.
        kept: [B, N] int64, positions of the visible patches.

    Returns:
        [B, P + N, D] tokens behind the last norm: P for the class (and registers), then the patches in the order of
        `kept`. With all patches in their order this is the network's own `forward_features`.
    """
    P = network.num_prefix_tokens
    tokens = network._pos_embed(network.patch_embed(images))  # [B, P + L, D]; a patch takes its position along
    prefix, patches = tokens[:, :P], tokens[:, P:]
    visible = patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[2]))
    return network.norm(network.blocks(network.norm_pre(torch.cat([prefix, visible], dim=1))))
