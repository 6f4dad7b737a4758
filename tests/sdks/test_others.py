"""What teams put in front of an API: LangChain, LiteLLM and the `llm` command stream through it."""

import json
import os
import subprocess
from pathlib import Path

from tests.sdks.conftest import Service
from tests.sdks.tools import OTHERS

SCRIPTS = Path(__file__).parent / "others"
ANSWER = "The capital of France is Paris."


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
    models = f"- model_id: mine\n  model_name: smollm2-135m\n  api_base: {service.url}\n"
    (tmp_path / "extra-openai-models.yaml").write_text(models)
    asked = ["-m", "mine", "-o", "temperature", "0", "What is the capital of France?"]
    home = {"LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": service.key}
    assert run(service, str(OTHERS / "llm"), *asked, **home).strip() == ANSWER
