"""Scan orders: in which order a network reads the tokens of an image. U-Mamba needs only the raster order."""
