"""The trainer: router, experts, model surgery, losses, engine and routing report."""
