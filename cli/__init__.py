"""The `minivault` command: the service's front door for people."""
