"""The direct diffusers call, in a process of its own: a JSON object a line in, how long it took out.

`{"steps", "side_px", "prompt", "seed"}` -> `{"us"}`.  Ends with its input.
"""

import json
import os
import sys
import time
from pathlib import Path

MODEL = Path(__file__).resolve().parents[2] / "peer" / "reference_model"
GUIDANCE = 3.5


def main() -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    import torch
    from diffusers import StableDiffusionPipeline

    torch.set_num_threads(1)  # as the peer's renderer
    torch.set_num_interop_threads(1)
    pipe = StableDiffusionPipeline.from_pretrained(MODEL, local_files_only=True, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
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
            guidance_scale=GUIDANCE,
            generator=generator,
        )
        print(json.dumps({"us": (time.perf_counter_ns() - start_ns) // 1000}), flush=True)


if __name__ == "__main__":
    main()
