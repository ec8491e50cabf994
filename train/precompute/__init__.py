"""VAE latents and text embeddings, computed once and stored beside the shards, or on the fly."""
