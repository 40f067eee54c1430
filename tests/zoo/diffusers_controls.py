"""ControlNets and adapters of diffusers: what steers another model."""

from collections.abc import Callable, Mapping

import diffusers
import torch
from torch import Tensor, nn
from zoo.catalogue import normal
from zoo.diffusers_transformers import DIT, FLUX, PACKED
from zoo.diffusers_unets import CONDITIONED, CROSS, TEXT, Arguments, Options, Row, ones, timestep, xl_conditions

_CONTROL: Options = {k: v for k, v in CROSS.items() if k not in ("up_block_types", "sample_size")} | {
    "conditioning_embedding_out_channels": (16, 32)
}
_IMAGE: Arguments = {"controlnet_cond": normal(2, 3, 32, 32)}


class Adapted(nn.Module):
    """A U-Net with what an adapter makes of an image: what it gives is as wide as the U-Net, which reads it.

    Args:
        adapter: One of features as wide as the U-Net of ``CROSS``, on its levels.
    """

    def __init__(self, adapter: nn.Module) -> None:
        super().__init__()
        self.adapter, self.unet = adapter, diffusers.UNet2DConditionModel(**CROSS)

    def forward(self, image: Tensor, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """``image: (batch, 3, 4 * height, 4 * width)``, ``sample: (batch, 4, height, width)``."""
        features = list(self.adapter(image))  # the U-Net takes them out of the list
        inputs = {"down_intrablock_additional_residuals": features, "return_dict": False}
        out: Tensor = self.unet(sample, timestep, encoder_hidden_states, **inputs)[0]
        return out


STEERED: Mapping[str, Callable[[nn.Module], nn.Module]] = {"T2IAdapter": Adapted}
"""Classes all of whose widths are those of another model: they are tried with one that they steer."""

ROWS: tuple[Row, ...] = (
    (
        "t2i_adapter",
        "T2IAdapter",
        {"channels": [32, 64], "downscale_factor": 4},
        CONDITIONED | {"image": normal(2, 3, 64, 64)},
    ),
    (
        "controlnet_union",
        "ControlNetUnionModel",
        _CONTROL
        | {
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 80,
            "num_control_type": 2,
            "num_trans_channel": 32,
            "num_trans_head": 4,
            "num_trans_layer": 1,
            "num_proj_channel": 32,
        },
        CONDITIONED
        | {
            "controlnet_cond": lambda: [torch.randn(2, 3, 32, 32)],
            "control_type": lambda: torch.tensor([[0.0, 1.0]] * 2),
            "control_type_idx": lambda: [1],
            "added_cond_kwargs": xl_conditions,
        },
    ),
    (
        "controlnet_xs",
        "UNetControlNetXSModel",
        {
            "sample_size": 16,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "block_out_channels": (32, 64),
            "norm_num_groups": 8,
            "cross_attention_dim": 32,
            "num_attention_heads": 4,
            "ctrl_conditioning_embedding_out_channels": (16, 32),
            "ctrl_conditioning_channels": 3,
            "ctrl_num_attention_heads": 2,
            "ctrl_block_out_channels": (16, 32),
            "ctrl_max_norm_num_groups": 8,
        },
        CONDITIONED | _IMAGE,
    ),
    (
        "controlnet_sparse",
        "SparseControlNetModel",
        {
            "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
            "block_out_channels": (32, 64),
            "norm_num_groups": 8,
            "cross_attention_dim": 32,
            "attention_head_dim": 4,
            "motion_num_attention_heads": 4,
            "conditioning_embedding_out_channels": (16, 32),
        },
        {
            "sample": normal(2, 4, 3, 16, 16),
            "timestep": timestep,
            "encoder_hidden_states": normal(6, 6, 32),
            "controlnet_cond": normal(2, 4, 3, 16, 16),
            "conditioning_mask": ones(2, 1, 3, 16, 16),
        },
    ),
    (
        "flux_controlnet",
        "FluxControlNetModel",
        FLUX | {"pooled_projection_dim": 32, "num_mode": 2},
        PACKED
        | {
            "pooled_projections": normal(2, 32),
            "controlnet_cond": normal(2, 16, 16),
            "controlnet_mode": lambda: torch.ones(2, 1, dtype=torch.int64),
        },
    ),
    (
        "hunyuan_dit_controlnet",
        "HunyuanDiT2DControlNetModel",
        {k: v for k, v in DIT.items() if k != "num_layers"}
        | {
            "in_channels": 4,
            "hidden_size": 64,
            "transformer_num_layers": 4,
            "cross_attention_dim": 32,
            "cross_attention_dim_t5": 48,
            "pooled_projection_dim": 16,
            "text_len": 6,
            "text_len_t5": 4,
        },
        {
            "hidden_states": normal(2, 4, 8, 8),
            "timestep": lambda: torch.tensor([3.0, 250.0]),
            "controlnet_cond": normal(2, 4, 8, 8),
            "encoder_hidden_states": TEXT,
            "text_embedding_mask": ones(2, 6),
            "encoder_hidden_states_t5": normal(2, 4, 48),
            "text_embedding_mask_t5": ones(2, 4),
            "image_meta_size": normal(2, 6),
            "style": lambda: torch.zeros(2, dtype=torch.int64),
        },
    ),
    (
        "sana_controlnet",
        "SanaControlNetModel",
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "num_layers": 2,
            "num_cross_attention_heads": 4,
            "cross_attention_head_dim": 16,
            "cross_attention_dim": 64,
            "caption_channels": 32,
            "sample_size": 8,
        },
        {
            "hidden_states": normal(2, 4, 8, 8),
            "encoder_hidden_states": TEXT,
            "timestep": timestep,
            "controlnet_cond": normal(2, 4, 8, 8),
        },
    ),
    (
        "qwen_image_controlnet",
        "QwenImageControlNetModel",
        {
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "num_layers": 2,
            "in_channels": 16,
            "joint_attention_dim": 32,
            "axes_dims_rope": (4, 6, 6),
        },
        {
            "hidden_states": normal(2, 16, 16),
            "controlnet_cond": normal(2, 16, 16),
            "encoder_hidden_states": TEXT,
            "encoder_hidden_states_mask": ones(2, 6),
            "timestep": lambda: torch.rand(2),
            "img_shapes": lambda: [[(1, 4, 4)]] * 2,
        },
    ),
)
"""Every row of this file."""
