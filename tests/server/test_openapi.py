"""Requests made from the OpenAPI description: no server error, no answer that it does not describe."""

import os

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import checks

FULL = os.environ.get("SCANSEG_FAULTS") == "full"
pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200 if FULL else 120)]
schema = schemathesis.pytest.from_fixture("description")


@pytest.fixture
def description(api, server):
    """The description that the running server gives."""
    found = api.get("/openapi.json").json()
    loaded = schemathesis.openapi.from_dict(found)
    loaded.config.update(base_url=server.url, headers={"Authorization": f"Bearer {server.token}"})
    return loaded


@schema.parametrize()
@settings(
    max_examples=2000 if FULL else 3,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_answers_follow_the_description(case, server) -> None:
    """Figure S10."""
    case.call_and_validate(
        timeout=60,
        checks=[
            checks.not_a_server_error,
            schemathesis.specs.openapi.checks.status_code_conformance,
            schemathesis.specs.openapi.checks.content_type_conformance,
            schemathesis.specs.openapi.checks.response_schema_conformance,
        ],
        headers={"Authorization": f"Bearer {server.token}"},
    )
