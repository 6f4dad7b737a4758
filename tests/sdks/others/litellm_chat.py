"""Streams an answer through LiteLLM; prints its pieces as JSON."""

import json
import os
import sys

import litellm

chunks = litellm.completion(
    model="openai/smollm2-135m",
    api_base=os.environ["SERVICE"],
    api_key=os.environ["KEY"],
    messages=[{"role": "user", "content": "What is the capital of England?"}],
    temperature=0,
    stream=True,
)
pieces = [chunk.choices[0].delta.content for chunk in chunks]
json.dump([piece for piece in pieces if piece], sys.stdout)
