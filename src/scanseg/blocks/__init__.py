"""Parts that networks share, 2D and 3D by argument: convolution blocks, the Mamba block, U-Net halves."""
