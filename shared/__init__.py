"""The contracts between MiniVault's processes: jobs, events, names, settings, errors.

Both `api` and `worker` import this package; it imports neither.
"""
