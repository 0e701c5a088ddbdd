"""Scan orders: in which order a network reads the tokens of an image, as tables of indices."""

from scanseg.scans.orders import CrossScan, ScanOrder, cross_scan, inverse, raster
from scanseg.scans.uncertainty import (
    SCANS,
    UNCERTAINTIES,
    UncertaintyScan,
    channel_uncertainty,
    rank_tokens,
    region_size,
    uncertainty_orders,
)

__all__ = [
    "SCANS",
    "UNCERTAINTIES",
    "CrossScan",
    "ScanOrder",
    "UncertaintyScan",
    "channel_uncertainty",
    "cross_scan",
    "inverse",
    "rank_tokens",
    "raster",
    "region_size",
    "uncertainty_orders",
]
