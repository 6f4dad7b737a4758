"""The real Datasette opens the database with our metadata, and makes sense of it.

Run by `make test-datasette`, which installs it into an environment of its own.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from shared.configuration import load_settings
from shared.history import Filter
from shared.interaction import Interaction
from shared.store import Store
from tests.support.api import free_port
from tests.support.poll import until
from tests.support.rows import row

PROGRAM = Path(sys.prefix) / "datasette" / "bin" / "datasette"
METADATA = Path(__file__).parents[2] / "deploy" / "datasette" / "metadata.yml"
QUERIES = yaml.safe_load(METADATA.read_text())["databases"]["minivault"]["queries"]


@pytest.fixture(scope="module")
def store(clean_environment: None, short_tmp: Path) -> Store:
    settings = load_settings(data_dir=short_tmp / "datasette")
    settings.prepare_data_dir()
    store = Store.open(settings)
    store.save(
        [
            row("a", key="k1", created_at="2026-01-01T00:00:00+00:00", response="Paris it is"),
            row("b", key="k2", created_at="2026-01-02T00:00:00+00:00", response="日本の首都は東京"),
            row("c", created_at="2026-01-03T00:00:00+00:00", status="failed", error="worker_lost"),
        ]
    )
    return store


@pytest.fixture(scope="module")
def url(store: Store, short_tmp: Path) -> Iterator[str]:
    assert PROGRAM.exists(), "Run it by `make test-datasette`."
    port = free_port()
    command = [PROGRAM, short_tmp / "datasette" / "db" / "minivault.db", "--metadata", METADATA]
    with (short_tmp / "datasette.log").open("wb") as log:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, (short_tmp / "datasette.log").read_text()
        try:
            return httpx.get(url).status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(answers, seconds=30, what="Datasette's answer")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=10)


def rows(url: str, path: str, **params: Any) -> list[dict[str, Any]]:
    answer = httpx.get(f"{url}/minivault/{path}.json", params={"_shape": "array"} | params)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


def test_tables_are_shown_with_what_they_mean(url: str) -> None:
    tables = httpx.get(f"{url}/minivault.json").json()["tables"]
    assert {each["name"] for each in tables if not each["hidden"]} == {"interactions", "usage"}
    page = httpx.get(f"{url}/minivault/interactions").text
    assert "What the client received" in page
    assert 'name="_search"' not in page  # it would search for words, which the index does not have
    facets = httpx.get(f"{url}/minivault/interactions.json").json()["facet_results"]
    assert {each["value"] for each in facets["key"]["results"]} == {"", "k1", "k2"}


def test_every_column_described_is_one(url: str) -> None:
    described = yaml.safe_load(METADATA.read_text())["databases"]["minivault"]["tables"]
    for table in ("interactions", "usage"):
        assert set(described[table]["columns"]) <= rows(url, table)[0].keys()
    assert rows(url, "interactions")[0].keys() == {"number", *Interaction.__struct_fields__}


def test_the_newest_come_first_also_those_written_meanwhile(url: str, store: Store) -> None:
    assert [each["id"] for each in rows(url, "interactions")] == ["c", "b", "a"]
    store.save([row("d", created_at="2026-01-04T00:00:00+00:00", response="something new")])
    assert rows(url, "interactions")[0]["id"] == "d"
    assert [each["id"] for each in rows(url, "search", text="thing new")] == ["d"]
    store.delete(Filter(), ids=["d"])
    assert rows(url, "search", text="thing new") == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("PARIS it", ["a"]),
        ("首都は", ["b"]),
        ("は東京", ["b"]),
        ("France", ["c", "b", "a"]),
        ('" OR', []),
    ],
)
def test_the_index_is_searched(url: str, text: str, found: list[str]) -> None:
    assert [each["id"] for each in rows(url, "search", text=text)] == found


def test_a_search_does_not_read_every_row(url: str) -> None:
    plan = f"explain query plan {QUERIES['search']['sql']}"
    answer = httpx.get(
        f"{url}/minivault.json", params={"sql": plan, "text": "x", "_shape": "array"}
    )
    steps = [each["detail"] for each in answer.json()]
    assert "SEARCH interactions USING INTEGER PRIMARY KEY (rowid=?)" in steps
    indexed = [step for step in steps if step.startswith("SCAN interactions_fts")]
    assert [step.split("INDEX ")[1] for step in indexed] == ["0:L0", "0:L1"]


def test_queries_have_answers(url: str) -> None:
    answers = {name: rows(url, name, text="Paris", since="2026-01-01") for name in QUERIES}
    assert all(answers.values())
    assert [each["day"] for each in answers["usage_per_day"]][-1] == "2026-01-01"
    assert {each["key"] for each in answers["usage_per_key"]} == {"", "k1", "k2"}
    assert answers["failures"][0]["error"] == "worker_lost"
    assert answers["speed"][0]["tokens_per_second"] == 3.3
