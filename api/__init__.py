"""The HTTP API: validates requests, makes jobs of them and relays what happens to the jobs.

It holds no model: importing it loads neither torch nor transformers.
"""
