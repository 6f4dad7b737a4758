"""The processes that hold models: they take jobs from RQ and write what they generate."""
