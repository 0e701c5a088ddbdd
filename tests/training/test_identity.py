"""What may differ between two calls that train the same run."""

import json

import pytest

from scanseg.errors import UsageError
from scanseg.nnunet.plan import Configuration
from scanseg.training.identity import require_same, run_identity
from scanseg.training.recipe import Recipe


def test_fields_that_an_older_version_did_not_have_count_as_their_defaults(prepared, tmp_path):
    new = run_identity(prepared.task())
    for name in Recipe.model_fields:
        old = json.loads(json.dumps(new))
        value = old["recipe"].pop(name)
        if value == Recipe().model_dump(mode="json")[name]:
            require_same(old, new, run_folder=tmp_path)
        else:
            with pytest.raises(UsageError, match=rf"recipe\.{name}[:.]"):
                require_same(old, new, run_folder=tmp_path)


def test_fields_that_only_an_older_version_had_are_told(prepared, tmp_path):
    new = run_identity(prepared.task())
    old = {**new, "recipe": {**new["recipe"], "gone": 3}}
    with pytest.raises(UsageError, match=r"recipe\.gone: 3 -> null"):
        require_same(old, new, run_folder=tmp_path)


def test_the_plan_is_compared_with_its_defaults_too(prepared, tmp_path):
    new = run_identity(prepared.task())
    optional = [name for name, field in Configuration.model_fields.items() if not field.is_required()]
    old = json.loads(json.dumps(new))
    for name in optional:
        old["plan"]["configuration"].pop(name, None)
    require_same(old, new, run_folder=tmp_path)
    old["plan"]["configuration"].pop("patch_size")
    with pytest.raises(UsageError, match=r"plan.configuration.patch_size: null -> \[16, 16, 16\]"):
        require_same(old, new, run_folder=tmp_path)
