"""DICOM over the network: series come in, segmentations go out. Needs the extra `dicom`."""
