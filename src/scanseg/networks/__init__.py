"""Every network by name. One file per paper; importing it registers its networks."""

from scanseg.networks import att_unet as att_unet
from scanseg.networks import h2former as h2former
from scanseg.networks import mamba_hunet as mamba_hunet
from scanseg.networks import mamba_unet as mamba_unet
from scanseg.networks import monai_networks as monai_networks
from scanseg.networks import nnformer as nnformer
from scanseg.networks import nnunet as nnunet
from scanseg.networks import swin_umamba as swin_umamba
from scanseg.networks import swin_unet as swin_unet
from scanseg.networks import transunet as transunet
from scanseg.networks import ud_mamba as ud_mamba
from scanseg.networks import umamba as umamba
from scanseg.networks import unet as unet
from scanseg.networks import unetpp as unetpp
from scanseg.networks import vm_unet as vm_unet
from scanseg.networks.describe import beside_printed, count_printed, describe_network
from scanseg.networks.memory import MemoryEstimate, conv_feature_map_size, training_memory_bytes
from scanseg.networks.published import Printed
from scanseg.networks.registry import (
    NETWORKS,
    NetworkEntry,
    Option,
    count_parameters,
    create_network,
    list_networks,
)

__all__ = [
    "NETWORKS",
    "MemoryEstimate",
    "NetworkEntry",
    "Option",
    "Printed",
    "beside_printed",
    "conv_feature_map_size",
    "count_parameters",
    "count_printed",
    "create_network",
    "describe_network",
    "list_networks",
    "training_memory_bytes",
]
