"""The direct diffusers call, in a process of its own: a JSON object a line in, how long it took out.

`python -m scripts.benchmarks.direct [ADAPTER]`, one of peer/reference_adapters/, merged into the weights.

`{"steps", "side_px", "guidance", "prompt", "seed"}` -> `{"us"}`.  Ends with its input.
"""

import json
import os
import sys
import time
from pathlib import Path

PEER = Path(__file__).resolve().parents[2] / "peer"
MODEL, ADAPTERS = PEER / "reference_model", PEER / "reference_adapters"


def main() -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    import torch
    import transformers
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # as the peer's renderer
    torch.set_num_interop_threads(1)
    pipe = StableDiffusionPipeline.from_pretrained(MODEL, local_files_only=True)  # fp32, as the peer
    pipe.set_progress_bar_config(disable=True)
    for name in sys.argv[1:]:
        pipe.load_lora_weights(ADAPTERS / name)
        pipe.fuse_lora()
        pipe.unload_lora_weights()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        generator = torch.Generator().manual_seed(asked["seed"])
        start_ns = time.perf_counter_ns()
        pipe(
            asked["prompt"],
            width=asked["side_px"],
            height=asked["side_px"],
            num_inference_steps=asked["steps"],
            guidance_scale=asked["guidance"],
            generator=generator,
        )
        print(json.dumps({"us": (time.perf_counter_ns() - start_ns) // 1000}), flush=True)


if __name__ == "__main__":
    main()
