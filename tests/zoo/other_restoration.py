"""Networks of spandrel that restore images or make them larger, one a paper."""

from functools import partial

import torch
from zoo.catalogue import tensors
from zoo.other_packages import Options, Row, rows

_WINDOWS: Options = {
    "img_size": 16,
    "embed_dim": 32,
    "depths": (2, 2),
    "num_heads": (2, 2),
    "window_size": 4,
    "mlp_ratio": 2.0,
    "upscale": 2,
    "upsampler": "pixelshuffle",
}
_STRIPES: Options = {
    "img_size": 16,
    "embed_dim": 32,
    "split_size": (4, 8),
    "depth": (2, 2),
    "num_heads": (2, 2),
    "upscale": 2,
}


def _row(name: str, where: str, options: Options, size: int = 16) -> Row:
    folder, _, rest = where.partition(".")
    image = partial(torch.rand, (2, 3, size, size))
    return name, f"spandrel.architectures.{folder}.__arch.{rest}", options, tensors(image)


_ATD: Options = {"category_size": 16, "num_tokens": 8, "reducted_dim": 4}
_DITN: Options = {"dim": 32, "ITL_blocks": 1, "SAL_blocks": 1, "UFONE_blocks": 1, "patch_size": 8, "upscale": 2}
_FDAT: Options = {"embed_dim": 32, "num_groups": 1, "depth_per_group": 2, "num_heads": 2, "window_size": 4, "scale": 2}
_GATED: Options = {"in_ch": 3, "out_ch": 3, "upscale": 2, "n_block": 2, "dim": 32}
_NAF: Options = {"width": 16, "middle_blk_num": 1, "enc_blk_nums": (1, 1), "dec_blk_nums": (1, 1)}
_UFORMER: Options = {
    "img_size": 32,
    "embed_dim": 16,
    "depths": (1,) * 9,
    "num_heads": (1, 2, 2, 4, 4, 4, 2, 2, 1),
    "win_size": 4,
}

ENTRIES = rows(
    "spandrel",
    _row("atd", "ATD.atd_arch:ATD", _WINDOWS | _ATD),
    _row("compact", "Compact.SRVGG:SRVGGNetCompact", {"num_feat": 32, "num_conv": 4, "upscale": 2}),
    _row("craft", "CRAFT.CRAFT:CRAFT", {"embed_dim": 32, "depths": (2, 2), "num_heads": (2, 2), "upscale": 2}),
    _row("dat", "DAT.DAT:DAT", _STRIPES | {"expansion_factor": 2.0}),
    _row("dctlsa", "DCTLSA.dctlsa:DCTLSA", {"nf": 24, "num_modules": 6, "num_head": 2, "upscale": 2}),
    _row("ditn", "DITN.DITN_Real:DITN_Real", _DITN),
    _row("drct", "DRCT.drct_arch:DRCT", _WINDOWS | {"gc": 16}),
    _row("drunet", "DRUNet.network_unet:DRUNet", {"in_nc": 3, "out_nc": 3, "nc": [16, 24, 32, 48], "nb": 1}, 32),
    _row("dncnn", "DnCNN.network_dncnn:DnCNN", {"in_nc": 3, "out_nc": 3, "nc": 32, "nb": 5, "act_mode": "BR"}),
    _row("esrgan", "ESRGAN.RRDB:RRDBNet", {"num_filters": 32, "num_blocks": 1, "scale": 2}),
    _row("fbcnn", "FBCNN.FBCNN:FBCNN", {"nc": [16, 24, 32, 512], "nb": 1}, 32),
    _row("fdat", "FDAT.fdat:FDAT", _FDAT),
    _row(
        "fftformer",
        "FFTformer.fftformer_arch:FFTformer",
        {"dim": 16, "num_blocks": [1, 1, 1], "num_refinement_blocks": 1},
        32,
    ),
    _row(
        "hat",
        "HAT.HAT:HAT",
        _WINDOWS | {"compress_ratio": 2, "squeeze_factor": 4, "overlap_ratio": 0.5, "num_feat": 32},
    ),
    _row("cidnet", "HVICIDNet.cidnet:CIDNet", {"channels": [16, 16, 32, 48], "heads": [1, 2, 2, 4]}, 32),
    _row("kbnet", "KBNet.kbnet_s:KBNet_s", _NAF | {"ffn_scale": 1.5}, 32),
    _row(
        "mixdehaze",
        "MixDehazeNet.MixDehazeNet:MixDehazeNet",
        {"embed_dims": [16, 24, 32, 24, 16], "depths": [1, 1, 1, 1, 1]},
        48,
    ),
    _row("moesr", "MoESR.MoESR:MoESR", {"scale": 2, "n_blocks": 1, "n_block": 2, "dim": 32, "upsample_dim": 16}),
    _row("mosr", "MoSR.mosr_arch:MoSR", _GATED),
    _row("nafnet", "NAFNet.NAFNet_arch:NAFNet", _NAF, 32),
    _row(
        "omnisr",
        "OmniSR.OmniSR:OmniSR",
        {"num_feat": 32, "block_num": 1, "window_size": 4, "res_num": 1, "up_scale": 2, "pe": True, "bias": True},
    ),
    _row("plksr", "PLKSR.PLKSR:PLKSR", {"dim": 32, "n_blocks": 2, "upscaling_factor": 2, "kernel_size": 9}),
    _row("realplksr", "PLKSR.RealPLKSR:RealPLKSR", {"dim": 32, "n_blocks": 2, "upscaling_factor": 2, "kernel_size": 9}),
    _row(
        "rcan", "RCAN.rcan_arch:RCAN", {"scale": 2, "n_resgroups": 2, "n_resblocks": 2, "n_feats": 32, "reduction": 8}
    ),
    _row("rgt", "RGT.rgt:RGT", _STRIPES | {"c_ratio": 0.5}),
    _row("realcugan", "RealCUGAN.upcunet_v3:UpCunet2x", {}, 48),
    _row(
        "retinexformer",
        "RetinexFormer.retinexformer_arch:RetinexFormer",
        {"n_feat": 16, "stage": 1, "num_blocks": [1, 1, 1]},
        32,
    ),
    _row("safmn", "SAFMN.safmn:SAFMN", {"dim": 32, "n_blocks": 2, "upscaling_factor": 2}, 32),
    _row("scunet", "SCUNet.SCUNet:SCUNet", {"config": [1] * 7, "dim": 64, "input_resolution": 64}, 64),
    _row("span", "SPAN.span:SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 24, "upscale": 2}),
    _row("swiftsr", "SwiftSRGAN.SwiftSRGAN:Generator", {"num_channels": 32, "num_blocks": 2, "upscale_factor": 2}),
    _row("swin2sr", "Swin2SR.Swin2SR:Swin2SR", _WINDOWS),
    _row("swinir", "SwinIR.SwinIR:SwinIR", _WINDOWS),
    _row("uformer", "Uformer.Uformer:Uformer", _UFORMER, 32),
)
"""Every entry of this file."""
