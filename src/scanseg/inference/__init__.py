"""Trained networks applied to images."""

from scanseg.inference.predict import Model, Prediction, load

__all__ = ["Model", "Prediction", "load"]
