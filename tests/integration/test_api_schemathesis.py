"""What the OpenAPI document promises, held against what the API does."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.specs.openapi.checks import positive_data_acceptance

from api.app import create_app
from shared import fleet, names
from shared.fleet import StockEntry
from shared.redis import connect
from shared.settings import Settings
from tests.support.api import running_api
from tests.support.clerk import running_clerk
from tests.support.scripted_worker import ScriptedWorker, scripted_worker, words

CONFIG = {
    # The same cases every time: a failure here is one for everybody.
    "seed": 1,
    # Whether anything fits a grammar no document can say: 400 may be right, too.
    "checks": {
        "positive_data_acceptance": {
            "expected-statuses": ["2xx", "3xx", "400", "401", "403", "404", "409", "429", "5xx"]
        }
    },
    "generation": {"max-examples": 40, "deterministic": True, "database": "none"},
}

# The document alone, so from the defaults: nothing is read, nothing connected.
DOCUMENT = create_app(Settings.model_construct()).openapi()
# An unknown one is a 400, as OpenAI has it, and which are known no schema can tell.
DOCUMENT["components"]["schemas"]["ResponseBody"]["properties"]["previous_response_id"] = {
    "type": "null"
}
schema = schemathesis.openapi.from_dict(DOCUMENT, config=schemathesis.Config.from_dict(CONFIG))


@pytest.fixture(scope="module")
def url(session_settings: Settings) -> Iterator[str]:
    with connect(session_settings, "test") as redis:
        redis.flushall()
        stock = [StockEntry(session_settings.default_model, source="", ready=True)]
        redis.set(names.stock(ScriptedWorker.NAME), fleet.encode(stock))
        with (
            scripted_worker(redis, session_settings.default_model, words("at", " once")),
            running_clerk(redis, session_settings.default_model),
            running_api(session_settings) as url,
        ):
            yield url


@schema.parametrize()
@settings(suppress_health_check=list(HealthCheck), deadline=None)
def test_every_answer_is_documented_and_none_is_a_server_error(case: Case, url: str) -> None:
    body = case.body if isinstance(case.body, dict) else {}
    # Some of its bodies are put together property by property, past `oneOf`.
    ambiguous = {"prompt", "messages"} <= body.keys()
    case.call_and_validate(
        base_url=url, excluded_checks=[positive_data_acceptance] if ambiguous else []
    )
