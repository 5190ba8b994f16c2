"""What a model may call: tools, and the sandbox that runs its code."""
