"""Every network by name. One file per paper; importing it registers its networks."""

from scanseg.networks import nnunet as nnunet
from scanseg.networks import umamba as umamba
from scanseg.networks.registry import (
    NETWORKS,
    NetworkEntry,
    Option,
    count_parameters,
    create_network,
    list_networks,
)

__all__ = ["NETWORKS", "NetworkEntry", "Option", "count_parameters", "create_network", "list_networks"]
