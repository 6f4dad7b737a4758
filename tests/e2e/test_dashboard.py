"""rq-dashboard tells the truth about queue, worker and running job. No browser needed."""

import json
import urllib.request

from shared.settings import Settings
from tests.support.dashboard import PROMPT, busy_dashboard


def test_queue_worker_and_running_job(settings: Settings) -> None:
    with busy_dashboard(settings) as shown:

        def data(path: str) -> tuple[dict, str]:
            with urllib.request.urlopen(f"{shown.url}/0/data/{path}", timeout=10) as answer:
                text = answer.read().decode()
                return json.loads(text), text

        queues, _ = data("queues.json")
        assert [
            (queue["name"], queue["count"], queue["started_job_registry_count"])
            for queue in queues["queues"]
        ] == [(shown.queue, 0, 1)]
        workers, workers_text = data("workers.json")
        (worker,) = workers["workers"]
        assert (worker["name"], worker["state"]) == (shown.worker, "busy")
        assert worker["current_job"]["job_id"] == shown.job
        started, started_text = data(f"jobs/{shown.queue}/started/8/asc/1.json")
        assert [job["id"] for job in started["jobs"]] == [shown.job]
        detail, detail_text = data(f"job/{shown.job}.json")
        assert detail["status"] == "started"
        assert PROMPT.strip() not in workers_text + started_text + detail_text
