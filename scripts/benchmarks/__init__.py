"""The benchmarks of scripts/bench: real processes, the real renderer, real libp2p; one figure each."""
