"""Codes for what labels name, so that other systems know what a segment is.

Source: SNOMED CT codes as printed in DICOM PS3.16 (2024), which licenses their use in DICOM objects.
"""

import re
from dataclasses import dataclass

PRIVATE_SCHEME = "99SCANSEG"
_ANATOMY = ("91723000", "Anatomical Structure")
_CHANGED = ("49755003", "Morphologically Abnormal Structure")
_TISSUE = ("85756007", "Tissue")
_SIDES = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}
# Meaning in lower case -> code; the keys are also the names that labels are looked up by.
_ANATOMICAL = {
    "adrenal gland": "23451007", "amygdala": "4958002", "aorta": "15825003", "artery": "51114001",
    "bladder": "89837001", "blood vessel": "59820001", "bone": "272673000", "brain": "12738006",
    "breast": "76752008", "cell": "4421005", "cerebellum": "113305005", "colon": "71854001",
    "duodenum": "38848004", "esophagus": "32849002", "femur": "71341001", "gallbladder": "28231008",
    "heart": "80891009", "hippocampus": "5366008", "inferior vena cava": "64131007", "kidney": "64033007",
    "left atrium": "82471001", "left ventricle": "87878005", "liver": "10200004", "lung": "39607008",
    "mandible": "91609006", "nucleus": "84640000", "optic nerve": "18234004", "pancreas": "15776009",
    "parotid gland": "45289007", "portal vein": "32764006", "prostate": "41216001", "putamen": "89278009",
    "rectum": "34402009", "retina": "5665001", "right atrium": "73829009", "right ventricle": "53085002",
    "small intestine": "30315005", "spinal cord": "2748008", "spleen": "78961009", "stomach": "69695003",
    "thalamus": "42695009", "trachea": "44567001", "uterus": "35039007", "vein": "29092000",
    "vertebra": "51282000",
}  # fmt: skip
_ABNORMAL = {
    "cyst": "367643001", "edema": "79654002", "hemorrhage": "50960005", "lesion": "52988006",
    "mass": "4147007", "necrosis": "6574001", "neoplasm": "108369006", "nodule": "27925004",
}  # fmt: skip
_TISSUES = {"cerebrospinal fluid": "65216001", "white matter": "389080008"}
_SYNONYMS = {
    "urinary bladder": "bladder", "vessel": "blood vessel", "oesophagus": "esophagus", "oedema": "edema",
    "tumor": "neoplasm", "tumour": "neoplasm", "small bowel": "small intestine", "nuclei": "nucleus",
    "csf": "cerebrospinal fluid", "gall bladder": "gallbladder", "postcava": "inferior vena cava",
    "haemorrhage": "hemorrhage", "lv": "left ventricle", "rv": "right ventricle",
}  # fmt: skip


@dataclass(frozen=True)
class Code:
    """A coded term: value, scheme (`SCT` or our private one) and meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Property:
    """What a segment is.

    Attributes:
        category: Anatomical structure, tissue or abnormal structure.
        kind: The structure.
        side: Left or right, None where the name gives none.
    """

    category: Code
    kind: Code
    side: Code | None = None


def property_of(name: str, value: int) -> Property:
    """Returns the codes for a label; unknown names get a code of our private scheme with the name as meaning.

    Args:
        name: Of the label, in any case; underscores and a plural s do not matter.
        value: Of the label in the dataset, part of a private code.

    Example:
        >>> found = property_of("kidney_left", 2)
        >>> found.kind.value, found.kind.scheme, found.side.meaning
        ('64033007', 'SCT', 'Left')
        >>> property_of("Anterior", 1).kind
        Code(value='LABEL1', scheme='99SCANSEG', meaning='Anterior')
    """
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    whole = _known(words)
    if whole is not None:
        return whole
    sides = [word for word in words if word in _SIDES]
    rest = [word for word in words if word not in _SIDES]
    found = _known(rest) if len(sides) == 1 else None
    if found is not None:
        return Property(found.category, found.kind, _sct(_SIDES[sides[0]]))
    meaning = " ".join(name.split())[:64] or f"label {value}"
    return Property(_sct(_TISSUE), Code(f"LABEL{value}", PRIVATE_SCHEME, meaning))


def _known(words: list[str]) -> Property | None:
    text = " ".join(words)
    for name in (text, text.removesuffix("s")):
        name = _SYNONYMS.get(name, name)
        for table, category in ((_ANATOMICAL, _ANATOMY), (_ABNORMAL, _CHANGED), (_TISSUES, _TISSUE)):
            if name in table:
                return Property(_sct(category), Code(table[name], "SCT", name.capitalize()))
    return None


def _sct(pair: tuple[str, str]) -> Code:
    return Code(pair[0], "SCT", pair[1])
