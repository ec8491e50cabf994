"""Taxonomy files that ship with the package; see `tagmoe.schema.taxonomy.load_taxonomy`."""
