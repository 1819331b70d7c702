"""Simulates so many requests in a process of its own; prints one JSON object, the processor time it took.

REQUESTS SEED PROVIDERS REQUESTERS
"""

import json
import sys
import time

from testnet.rtt_matrix import sphere
from testnet.simulation.command import SPHERE_PLACES
from testnet.simulation.run import PRODUCT, run
from testnet.simulation.world import World, WorldConfig


def main() -> None:
    requests, seed, providers, requesters = map(int, sys.argv[1:])
    config = WorldConfig(peers=providers, requesters=requesters, requests=requests)
    began_s = time.process_time()
    result = run(World(config, sphere(SPHERE_PLACES, seed), seed), PRODUCT)
    print(json.dumps({"cpu_s": time.process_time() - began_s, "unfinished": result.unfinished}))


if __name__ == "__main__":
    main()
