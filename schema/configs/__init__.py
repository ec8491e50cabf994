"""One configuration module a stage; none of them imports a machine-learning library."""
