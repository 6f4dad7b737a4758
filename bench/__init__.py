"""What the service does, measured from outside, beside its own engine in process."""
