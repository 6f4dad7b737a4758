"""`make bench`: the main comparison, in few rounds.

The others, each a command of its own:

    python -m bench.compare    the same in five rounds, with a plot: the whole path beside others
    python -m bench.price      what HTTP, queue and Redis cost, beside the engine alone
    python -m bench.burst      32 arrivals at once; 16 long prompts into 8 running streams
    python -m bench.load       requests as a published trace has them, at random times
    python -m bench.prefix     what a prompt costs whose beginning is known
    python -m bench.architectures    logits beside the models' own operations, on a GPU above all
    python -m bench.sizing     memory, and workers that share a machine
    python -m bench.queue_depth, bench.slow_reader, bench.history, bench.keys, bench.models, ...
"""

from __future__ import annotations

from bench import compare

if __name__ == "__main__":
    compare.main(rounds=2)
    print(f"\n{__doc__}")
