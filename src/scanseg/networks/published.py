"""Counts that the papers print, or that their released code has, by network.

The parameters of the released networks were counted on their code, executed; operations likewise, where the
source says so. The papers of U-Mamba, UU-Mamba and Mamba-HUNet print none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scanseg.networks.registry import Printed

VMAMBA_WEIGHTS = (
    "Its recipe starts from VMamba's weights of ImageNet, release files of MzeroMiko/VMamba (MIT); they are "
    "not part of this package."
)
SWIN_WEIGHTS = (
    "The repository links to checkpoints of its experiments (Apache-2.0 is the licence of the repository). "
    f"{VMAMBA_WEIGHTS}"
)
_UMAMBA = "bowang-lab/U-Mamba, executed"
_FLAT: Mapping[str, Any] = {"spatial_dims": 2, "in_channels": 3}


def _plan(patch: tuple[int, ...], channels: int, classes: int, strides: str, kernel: str) -> dict[str, Any]:
    """Returns the arguments of a plan whose kernels are 3 but for the first stage."""
    dims = len(patch)
    steps = [(1,) * dims, *(tuple(map(int, entry)) for entry in strides.split())]
    return {
        "spatial_dims": dims,
        "in_channels": channels,
        "out_channels": classes,
        "patch_size": patch,
        "strides": steps,
        "kernel_sizes": [tuple(map(int, kernel)), *((3,) * dims for _ in steps[1:])],
    }


# Table 2 of U-Mamba's paper names these patches and numbers of stages.
_PLANS = {
    "abdomen CT, 40x224x192, 14 classes": _plan((40, 224, 192), 1, 14, "122 222 222 222 122", "133"),
    "ACDC, 20x256x224, 4 classes": _plan((20, 256, 224), 1, 4, "122 222 222 122 122", "133"),
    "endoscopy, 384x640, 3 channels, 8 classes": _plan((384, 640), 3, 8, "22 22 22 22 22 22", "33"),
    "microscopy, 512x512, 3 channels, 3 classes": _plan((512, 512), 3, 3, "22 22 22 22 22 22 22", "33"),
}
# Per plan: parameters of Bot, Enc, Bot v1, Enc v1; 10^9 MACs of v2 convolutions, v1 convolutions, Enc scans.
_COUNTS = {
    "abdomen CT, 40x224x192, 14 classes": ("41,945,158 42,842,798 57,832,166 59,105,766", "788.6 895.7 26.4"),
    "ACDC, 20x256x224, 4 classes": ("41,937,108 43,056,788 57,496,436 58,770,036", "536.7 611.9 17.6"),
    "endoscopy, 384x640, 3 channels, 8 classes": (
        "47,524,592 47,680,592 63,335,696 67,324,944",
        "98.5 108.9 3.0",
    ),
    "microscopy, 512x512, 3 channels, 3 classes": (
        "64,797,301 64,014,261 86,150,037 91,835,029",
        "101.0 117.0 1.6",
    ),
}
_ORDER = (
    "The released decoder enlarges the maps before its 1x1 convolution, ours after it: the same values from "
    "fewer operations."
)


def _umamba(place: int) -> tuple[Printed, ...]:
    found = []
    for setting, arguments in _PLANS.items():
        parameters, gmacs = (text.split() for text in _COUNTS[setting])
        kinds = ({"convolution": gmacs[0]}, {"scan": gmacs[2]}, {"convolution": gmacs[1]}, {})[place]
        differs = {"convolution": _ORDER} if place == 0 else {}
        found.append(Printed(setting, _UMAMBA, arguments, parameters[place], kinds, differs))
    return tuple(found)


_UD = {**_FLAT, "out_channels": 4, "patch_size": (256, 256)}
_INTERPRETED = "interpretation R1, printed nowhere"

PRINTED: dict[str, tuple[Printed, ...]] = {
    "umamba_bot": _umamba(0),
    "umamba_enc": _umamba(1),
    "umamba_bot_v1": _umamba(2),
    "umamba_enc_v1": _umamba(3),
    "ud_mamba": (
        Printed(
            "ACDC, 256x256, 3 channels, 4 classes",
            "UD-Mamba's paper, table 3",
            _UD,
            "19.12 M",
            {"without scan": "5.91"},
            {
                "without scan": "The table does not say what it counts; norms and no scan come close to it "
                "(5.893 on the released code). We count no norms, and name the scan apart."
            },
        ),
        Printed(
            "the same, as released (MAD, alphas after the scan)",
            "piooip/UD-mamba, executed",
            {**_UD, "uncertainty": "mad", "alpha": "after_encoder", "consistency_layer": "all"},
            "19,121,724",
            {"convolution": "0.095", "linear": "5.712", "with scan": "9.1"},
        ),
        Printed("2 classes", "piooip/UD-mamba, executed", {**_UD, "out_channels": 2}, "19,121,532"),
        Printed("9 classes", "piooip/UD-mamba, executed", {**_UD, "out_channels": 9}, "19,122,204"),
    ),
    "mamba_unet": (
        Printed(
            "224x224, 3 channels, 4 classes",
            "ziyangwang007/Mamba-UNet, executed",
            {**_FLAT, "out_channels": 4, "patch_size": (224, 224)},
            "19,121,664",
        ),
    ),
    "vm_unet": (
        Printed(
            "ISIC, 256x256, 3 channels, 1 class",
            "JCruan519/VM-UNet, executed",
            {**_FLAT, "out_channels": 1, "patch_size": (256, 256)},
            "27,427,561",
        ),
        Printed(
            "the same with depths 2/2/9/2 and 2/9/2/2",
            "JCruan519/VM-UNet, executed",
            {
                **_FLAT,
                "out_channels": 1,
                "patch_size": (256, 256),
                "depths": (2, 2, 9, 2),
                "depths_decoder": (2, 9, 2, 2),
            },
            "44,273,833",
        ),
    ),
    "swin_umamba": (
        Printed(
            "320x320, 1 channel, 14 classes",
            "JiarunLiu/Swin-UMamba, executed",
            {"spatial_dims": 2, "in_channels": 1, "out_channels": 14, "patch_size": (320, 320)},
            "59,889,368",
        ),
        Printed(
            "ACDC, 256x256, 1 channel, 4 classes",
            "UD-Mamba's paper, table 3",
            {"spatial_dims": 2, "in_channels": 1, "out_channels": 4, "patch_size": (256, 256)},
            "59.88 M",
            {"without scan": "40.94"},
            {
                "without scan": "The table does not say what it counts; we count no norms, and name the scan "
                "apart."
            },
        ),
    ),
    "swin_umamba_d": (
        Printed(
            "320x320, 1 channel, 14 classes",
            "JiarunLiu/Swin-UMamba, executed",
            {"spatial_dims": 2, "in_channels": 1, "out_channels": 14, "patch_size": (320, 320)},
            "27,497,720",
        ),
    ),
    "mamba_hunet": tuple(
        Printed(
            f"256x256, 1 channel, 2 classes, base_features {width}",
            _INTERPRETED,
            {
                "spatial_dims": 2,
                "in_channels": 1,
                "out_channels": 2,
                "patch_size": (256, 256),
                "base_features": width,
            },
            parameters,
        )
        for width, parameters in ((96, "22,313,402"), (48, "6,031,886"), (32, "2,882,410"))
    ),
    "hunet_light": tuple(
        Printed(
            f"256x256, 1 channel, 2 classes, base_features {width}",
            _INTERPRETED,
            {
                "spatial_dims": 2,
                "in_channels": 1,
                "out_channels": 2,
                "patch_size": (256, 256),
                "base_features": width,
            },
            parameters,
        )
        for width, parameters in ((16, "1,954,722"), (32, "7,810,882"))
    ),
}
