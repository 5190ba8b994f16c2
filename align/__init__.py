"""Post-training the way Llama 3.1 was made: reward model, rejection sampling, SFT, DPO and averaging, in rounds."""

__version__ = "0.1.0"
