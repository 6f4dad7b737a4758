"""MiniVault's own kernels in C++: how they are compiled, kept and loaded. Imports no torch."""
