"""nnU-Net as a library: fingerprint, plan, preprocessing, batches, sliding window, export. Nothing else imports nnunetv2."""
