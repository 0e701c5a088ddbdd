import itertools
import re

import numpy as np
import pytest
from skimage.color import rgb2lab

from scanseg.reporting.palette import CONFUSED, EXTRA, MISSED, OUTLINE, label_colours, rgb
from scanseg.types import Label


def labels(count):
    return [Label(value, f"label {value}") for value in range(count + 1)]


def test_colours_are_distinct_and_the_background_has_none():
    colours = label_colours(labels(20))
    assert set(colours) == set(range(1, 21))
    assert len(set(colours.values())) == 20
    assert all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in colours.values())
    assert not {MISSED, EXTRA, CONFUSED, OUTLINE} & set(colours.values())


def test_a_label_keeps_its_colour_when_others_follow():
    few, many = label_colours(labels(3)), label_colours(labels(117))
    assert all(few[value] == many[value] for value in few)


# How linear RGB looks without red, green or blue cones: Machado, Oliveira and Fernandes 2009, severity 1.
EYES = {
    "all cones": np.eye(3),
    "no red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "no blue": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}


def least_difference(colours, eyes):
    """Smallest distance of two colours in CIELAB as such eyes see them; 2 can just be told apart."""
    shades = np.array([rgb(colour) for colour in colours])
    linear = np.where(shades <= 0.04045, shades / 12.92, ((shades + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(EYES[eyes]), 0, 1)
    encoded = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = rgb2lab(encoded[None])[0]
    return min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2))


@pytest.mark.parametrize("eyes", EYES)
def test_colours_differ_for_colour_blind_eyes(eyes):
    colours = list(label_colours(labels(10)).values())
    assert least_difference(colours[:5], eyes) > 15
    assert least_difference(colours, eyes) > 7
    assert least_difference([MISSED, EXTRA, CONFUSED], eyes) > 40
