"""Post-training for Llama checkpoints: reward model, rejection sampling, SFT, DPO and averaging, in rounds."""

import os

__version__ = "0.1.0"

# Threads of libgomp, which torch's CPU builds compute with, spin while they wait for each other. As soon as another
# process is busy on the same cores, the thread that is waited for does not run while the other one spins, and a step
# takes many times as long (docs/results/benchmark.md, "Next to other processes"). A small spin count lets them sleep
# instead. libgomp reads the variable once, when it loads, so it is set here, before any module of ours imports torch.
# Processes that we start inherit it. A user's own choice stays.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"
