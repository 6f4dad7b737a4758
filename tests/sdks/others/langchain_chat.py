"""Streams an answer through LangChain; prints its pieces as JSON."""

import json
import os
import sys

from langchain_openai import ChatOpenAI

chat = ChatOpenAI(
    model="smollm2-135m",
    base_url=os.environ["SERVICE"],
    api_key=os.environ["KEY"],
    temperature=0,
)
pieces = [chunk.text for chunk in chat.stream("What is the capital of England?")]
json.dump([piece for piece in pieces if piece], sys.stdout)
