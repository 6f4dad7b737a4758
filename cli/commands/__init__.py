"""The subcommands. What is heavy is imported inside them, so that `--help` is quick."""
