"""What teams put in front of an API: LangChain, LiteLLM and the `llm` command stream through it."""

import json
import os
import subprocess
from pathlib import Path

from tests.sdks.conftest import Service
from tests.sdks.tools import OTHERS

SCRIPTS = Path(__file__).parent / "others"
ANSWER = "The capital of England is London."


def run(service: Service, *command: str, **environment: str) -> str:
    found = subprocess.run(
        command,
        env=os.environ | {"SERVICE": service.url, "KEY": service.key} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def streamed(service: Service, script: str) -> list[str]:
    """The pieces of the answer, as the script printed them."""
    pieces: list[str] = json.loads(run(service, str(OTHERS / "python"), str(SCRIPTS / script)))
    return pieces


def test_langchain(service: Service) -> None:
    pieces = streamed(service, "langchain_chat.py")
    assert "".join(pieces) == ANSWER
    assert len(pieces) > 3


def test_litellm(service: Service) -> None:
    pieces = streamed(service, "litellm_chat.py")
    assert "".join(pieces) == ANSWER
    assert len(pieces) > 3


def test_llm(service: Service, tmp_path: Path) -> None:
    mine = {
        "model_id": "mine",
        "model_name": "smollm2-135m",
        "api_base": service.url,
        "api_key_name": "mine",
    }
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([mine]))  # JSON is YAML
    (tmp_path / "keys.json").write_text(json.dumps({"mine": service.key}))
    asked = ["-m", "mine", "-o", "temperature", "0", "What is the capital of England?"]
    answer = run(service, str(OTHERS / "llm"), *asked, LLM_USER_PATH=str(tmp_path))
    assert answer.strip() == ANSWER
