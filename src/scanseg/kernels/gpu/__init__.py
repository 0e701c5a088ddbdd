"""The selective scan on NVIDIA GPUs, in Triton. Importing a module of this folder imports Triton."""
