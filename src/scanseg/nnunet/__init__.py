"""nnU-Net as a library: fingerprint, plan, preprocessing, batches, sliding window, export.

Nothing outside this package imports nnunetv2. No environment variable has to be set.
"""
