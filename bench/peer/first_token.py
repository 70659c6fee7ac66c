"""What `bench -- first-token` measures, in PyTorch and transformers: a checkpoint's directory and the dtype to load it in → one JSON object.

    python first_token.py <directory> float32|bfloat16
"""

import gc
import json
import re
import sys
import time

import torch
import transformers

# The model class is imported when it is first asked for: that is not opening a checkpoint.
from transformers import LlamaForCausalLM

transformers.utils.logging.disable_progress_bar()


def anonymous_memory():
    gc.collect()
    with open("/proc/self/status") as status:
        return int(re.search(r"RssAnon:\s+(\d+)", status.read()).group(1)) * 1024


directory, dtype = sys.argv[1:]
before = anonymous_memory()
started = time.perf_counter()
model = LlamaForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()
opened = time.perf_counter()
with torch.inference_mode():
    ids = torch.tensor([[7 * i + 3 for i in range(32)]])
    token = model(ids, use_cache=True, logits_to_keep=1).logits[0, -1].argmax().item()
ended = time.perf_counter()
print(
    json.dumps(
        {
            "openMilliseconds": 1000 * (opened - started),
            "firstTokenMilliseconds": 1000 * (ended - started),
            "anonymousMB": (anonymous_memory() - before) / 1e6,
            "token": token,
        }
    )
)
