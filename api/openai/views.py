"""What `/v1` answers that is no generation."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class ModelObject(BaseModel):
    id: str = Field(examples=["smollm2-135m"])
    object: Literal["model"] = "model"
    created: int = Field(0, description="Not known here: always 0.")
    owned_by: Literal["minivault"] = "minivault"


class ModelObjects(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject]


class OpenAIError(BaseModel):
    message: str = Field(description="What went wrong this time.")
    type: Literal["insufficient_quota", "invalid_request_error", "requests", "server_error"]
    param: str | None = Field(description="The field that can't be used.")
    code: str = Field(description="Stable name of what went wrong.")


class OpenAIErrors(BaseModel):
    """An error as OpenAI's clients know it."""

    error: OpenAIError
