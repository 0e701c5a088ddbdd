"""What is published beside the papers' text, by network: licences, trained weights, counts.

The parameters of the released networks were counted on their code, executed; operations likewise, where the
source says so. The papers of U-Mamba, UU-Mamba and Mamba-HUNet print none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Printed:
    """Counts that were printed for a network, or found by executing its released code.

    Attributes:
        setting: What they hold for, in words.
        source: Who says so, for example `paper, table 3`.
        arguments: Those of `create_network` for this setting, without the name.
        parameters: As printed, for example `19.12 M` or `19,121,724`; empty if not given.
        gmacs: 10^9 multiply-accumulates as printed, by kind: `convolution`, `linear`, `scan`, `without scan`
            or `with scan`.
        differs: Why our count is another, by kind (or `parameters`); kinds not named here agree to the last
            digit printed.
    """

    setting: str
    source: str
    arguments: Mapping[str, Any]
    parameters: str = ""
    gmacs: Mapping[str, str] = field(default_factory=dict)
    differs: Mapping[str, str] = field(default_factory=dict)


_VMAMBA_WEIGHTS = (
    "Its recipe starts from VMamba's weights of ImageNet, release files of MzeroMiko/VMamba (MIT); they are "
    "not part of this package."
)
_SWIN_WEIGHTS = (
    "The repository links to checkpoints of its experiments (Apache-2.0 is the licence of the repository). "
    f"{_VMAMBA_WEIGHTS}"
)
_NONE_RELEASED = "None: the repository offers code and data, no trained weights."
_NO_LICENCE = "none stated: all rights reserved; nothing of it is used here"
_UMAMBAS = ("umamba_bot", "umamba_enc", "umamba_bot_v1", "umamba_enc_v1")
_MONAI = ("segresnet", "unetr", "swin_unetr")

# Licences of the released code that a network follows.
_LICENCES = {
    **dict.fromkeys((*_UMAMBAS, "mamba_unet", "vm_unet", "swin_umamba", "swin_umamba_d"), "Apache-2.0"),
    **dict.fromkeys((*_MONAI, "nnunet_plain", "nnunet_resenc", "transunet"), "Apache-2.0"),
    **dict.fromkeys(("h2former", "nnformer"), "MIT"),
    **dict.fromkeys(("ud_mamba", "swin_unet"), _NO_LICENCE),
    **dict.fromkeys(("mamba_hunet", "hunet_light"), "no code was released"),
}
_WEIGHTS = {
    **dict.fromkeys(_UMAMBAS, _NONE_RELEASED),
    "ud_mamba": f"None of UD-Mamba itself. {_VMAMBA_WEIGHTS}",
    **dict.fromkeys(("mamba_unet", "vm_unet"), _VMAMBA_WEIGHTS),
    **dict.fromkeys(("swin_umamba", "swin_umamba_d"), _SWIN_WEIGHTS),
    **dict.fromkeys(("mamba_hunet", "hunet_light"), "None: neither code nor weights were released."),
    **dict.fromkeys(
        ("nnunet_plain", "nnunet_resenc"),
        "nnU-Net's authors have published trained models of the first nnU-Net; their licence is to be "
        "read with each of them.",
    ),
}
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


_TABLE = "UD-Mamba's paper, table 3"
_UNSAID = "The table does not say what it counts; we count no norms, and name the scan apart."
_UD = {**_FLAT, "out_channels": 4, "patch_size": (256, 256)}


def _flat(size: int, *, channels: int = 1, classes: int = 4, **options: Any) -> dict[str, Any]:
    sizes = {"spatial_dims": 2, "in_channels": channels, "out_channels": classes, "patch_size": (size, size)}
    return {**sizes, **options}


def _volume(*patch: int, classes: int = 14, **options: Any) -> dict[str, Any]:
    return {"spatial_dims": 3, "in_channels": 1, "out_channels": classes, "patch_size": patch, **options}


def _peers() -> dict[str, tuple[Printed, ...]]:
    """Returns the counts of the networks that the papers compare with."""
    acdc, organs = "ACDC, 256x256, 4 classes", "14 classes"
    frozen = {"parameters": "MONAI counts 18,432 values of norms that nothing reads; here they are frozen."}
    return {
        "unet": (Printed(acdc, _UD_CODE, _flat(256), "1,813,764"),),
        "unetpp": (
            Printed(acdc, _TABLE, _flat(256), "9.16 M", {"without scan": "34.75"}, {"without scan": _UNSAID}),
            Printed(acdc, _UD_CODE, _flat(256), "9,162,852"),
        ),
        "att_unet": (Printed(acdc, _UD_CODE, _flat(256), "34,877,616"),),
        "transunet": (
            Printed(
                acdc,
                _TABLE,
                _flat(256, channels=3),
                "105.32 M",
                {"without scan": "38.57"},
                {"without scan": _UNSAID},
            ),
            Printed(acdc, "Beckschen/TransUNet, executed", _flat(256, channels=3), "105,322,436"),
            Printed(
                "224x224, 4 classes", "Beckschen/TransUNet, executed", _flat(224, channels=3), "105,276,356"
            ),
        ),
        "swin_unet": (
            Printed(
                acdc,
                _TABLE,
                _flat(256, window_size=8),
                "40.32 M",
                {"without scan": "25.63"},
                dict.fromkeys(
                    ("parameters", "without scan"),
                    "Neither the depths 2, 2, 2, 2 of its configuration (27.2 M) nor 2, 2, 6, 2 (41.4 M) "
                    "give the numbers of the table.",
                ),
            ),
            Printed("224x224, 4 classes", "HuCaoFighting/Swin-Unet, executed", _flat(224), "27,168,420"),
            Printed(
                "256x256, windows of 8, 4 classes",
                "HuCaoFighting/Swin-Unet, executed",
                _flat(256, window_size=8),
                "27,175,812",
            ),
        ),
        "h2former": (
            Printed("224x224, 4 channels, 4 classes", _TABLE, _flat(224, channels=4), "33.68 M"),
            Printed(
                "224x224, 4 channels, 4 classes",
                "NKUhealong/H2Former, executed",
                _flat(224, channels=4),
                "33,684,928",
            ),
            Printed(
                "256x256, 4 channels, 4 classes",
                "NKUhealong/H2Former, executed",
                _flat(256, channels=4),
                "33,698,848",
            ),
        ),
        "segresnet": (
            Printed(f"256x256, {organs}", _MONAI_CODE, _flat(256, classes=14), "6,298,926"),
            Printed(f"64x64x64, {organs}", _MONAI_CODE, _volume(64, 64, 64), "18,796,398"),
        ),
        "unetr": (
            Printed(f"320x320, {organs}", _MONAI_CODE, _flat(320, classes=14), "87,444,622", {}, frozen),
            Printed(f"48x224x192, {organs}", _MONAI_CODE, _volume(48, 224, 192), "93,023,662", {}, frozen),
        ),
        "swin_unetr": (
            Printed(f"256x256, {organs}", _MONAI_CODE, _flat(256, classes=14), "25,138,568"),
            Printed(f"64x64x64, {organs}", _MONAI_CODE, _volume(64, 64, 64), "62,187,296"),
        ),
        "nnformer": (
            Printed(
                "ACDC, 14x160x160, 4 classes",
                "282857341/nnFormer, executed",
                _volume(14, 160, 160, classes=4),
                "37,197,072",
            ),
            Printed(
                "Synapse, 64x128x128, 14 classes",
                "282857341/nnFormer, executed",
                _volume(64, 128, 128, configuration="synapse"),
                "150,054,210",
            ),
        ),
    }


_UD_CODE = "piooip/UD-mamba, executed"
_MONAI_CODE = "MONAI 1.6.1, executed"
_INTERPRETED = "interpretation R1, printed nowhere"

_PRINTED: dict[str, tuple[Printed, ...]] = {
    "umamba_bot": _umamba(0),
    "umamba_enc": _umamba(1),
    "umamba_bot_v1": _umamba(2),
    "umamba_enc_v1": _umamba(3),
    "ud_mamba": (
        Printed(
            "ACDC, 256x256, 3 channels, 4 classes",
            _TABLE,
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
            _TABLE,
            {"spatial_dims": 2, "in_channels": 1, "out_channels": 4, "patch_size": (256, 256)},
            "59.88 M",
            {"without scan": "40.94"},
            {"without scan": _UNSAID},
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
    **_peers(),
}


def published_facts(name: str) -> dict[str, Any]:
    """Returns `licence`, `weights` and `printed` of a network, for its NetworkEntry; empty if unknown."""
    return {
        "licence": _LICENCES.get(name, ""),
        "weights": _WEIGHTS.get(name, ""),
        "printed": _PRINTED.get(name, ()),
    }
