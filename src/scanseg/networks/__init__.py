"""Every network by name. One file per paper; importing it registers its networks."""

from scanseg.networks import nnunet as nnunet
from scanseg.networks import umamba as umamba
from scanseg.networks.describe import describe_network
from scanseg.networks.memory import MemoryEstimate, conv_feature_map_size, training_memory_bytes
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
    "conv_feature_map_size",
    "count_parameters",
    "create_network",
    "describe_network",
    "list_networks",
    "training_memory_bytes",
]
