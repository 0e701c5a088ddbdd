"""The ways datasets lie on disk; one file each. Adding one is one file and one line here."""

from scanseg.data.layouts import folders, listing, msd, nnunet
from scanseg.data.layouts.found import Found, Layout, Source
from scanseg.registry import Registry

__all__ = ["LAYOUTS", "Found", "Layout", "Source"]

LAYOUTS = Registry[Layout]("layout")
LAYOUTS.register("msd")(msd.LAYOUT)
LAYOUTS.register("nnunet")(nnunet.LAYOUT)
LAYOUTS.register("folders")(folders.LAYOUT)
LAYOUTS.register("csv")(listing.LAYOUT)
