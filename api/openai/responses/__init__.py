"""OpenAI's Responses API: a response is a job, its stream a fold of the job's event log."""
