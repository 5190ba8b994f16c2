"""Post-training the way Llama 3.1 was made: preferences, reward model, rejection sampling, SFT, DPO, averaging, in rounds."""

__version__ = "0.1.0"
