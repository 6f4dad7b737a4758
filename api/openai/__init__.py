"""OpenAI's protocols over the same jobs as everything else."""
