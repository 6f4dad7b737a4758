"""The engine's own kernels for CPUs."""
